package boltfile_test

import (
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/internal/boltfile"
)

func TestAging(t *testing.T) {
	const day = 24 * time.Hour
	const age = 100 * day
	t0 := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	var a boltfile.Aging
	for _, tt := range []struct {
		name     string
		now      time.Time
		believed bool
	}{
		{"the first time", t0, false},
		{"an hour later", t0.Add(time.Hour), false},
		{"a day later", t0.Add(day), true},
		{"a week later", t0.Add(8 * day), true},
		{"a year ahead", t0.Add(365 * day), false},
		{"a moment later", t0.Add(365*day + time.Minute), false},
		{"put right", t0.Add(8 * day), false},
		{"and going on", t0.Add(9 * day), true},
		{"a year ahead, and it stays so", t0.Add(365 * day), false},
		{"for a day", t0.Add(366 * day), true},
		{"a year back", t0, false},
	} {
		before, _ := a.Old(tt.now, age)
		if believed := !before.IsZero(); believed != tt.believed {
			t.Errorf("%s: believed %t, want %t", tt.name, believed, tt.believed)
		} else if believed && !before.Equal(tt.now.Add(-age)) {
			t.Errorf("%s: too old before %s", tt.name, before)
		}
	}
	if _, changed := a.Old(t0.Add(time.Minute), age); changed {
		t.Error("every tick is stored")
	}
}
