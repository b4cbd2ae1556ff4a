package cluster

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/flotilla-fleet/flotilla/api"
)

// The condition has room for a few objects only. How many more there are is told, however long the messages of the few are.
func TestConditions_tellHowManyMore(t *testing.T) {
	c := &Client{now: time.Now}
	long := strings.Repeat("no ", 1000)
	for name, tt := range map[string]struct {
		status api.BundleStatus
		more   string
	}{
		"corrections that failed": {api.BundleStatus{Uncorrected: []string{"ConfigMap/a/b: " + long}, UncorrectedOmitted: 2}, "and 2 more: "},
		"and fights":              {api.BundleStatus{Uncorrected: []string{"x: y"}, Contested: []string{"z: y"}, ContestedOmitted: 3}, "and 4 more: "},
		"fights":                  {api.BundleStatus{Contested: []string{"z: " + long}, ContestedOmitted: 3}, "and 3 more: "},
		"all there is":            {api.BundleStatus{Contested: []string{"z: y"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			tt.status.Drifted, tt.status.Objects = 9, 9
			var d bundleDeployment
			d.Status.Conditions = c.conditions(tt.status, nil)
			read := d.bundleStatus()
			told := strings.Join(append(read.Uncorrected, read.Contested...), "\n")
			if !strings.Contains(told, tt.more) || (tt.more == "") != !strings.Contains(told, "more") {
				t.Errorf("it tells %q", told)
			}
			for _, told := range d.Status.Conditions {
				if len(told.Message) > maxMessage+len(" …") {
					t.Errorf("a message of %d bytes", len(told.Message))
				}
			}
		})
	}
}

func TestBoundedWarnings(t *testing.T) {
	if got := boundedWarnings(nil); len(got) != 0 {
		t.Errorf("got %q", got)
	}
	long := strings.Repeat("ä", maxWarning)
	many := make([]string, maxWarnings+3)
	many[0] = long
	got := boundedWarnings(many)
	if len(got) != maxWarnings+1 || got[maxWarnings] != "and 3 more: flotilla render tells them" {
		t.Errorf("got %d: %q", len(got), got[len(got)-1])
	}
	if !utf8.ValidString(got[0]) || len(got[0]) > maxWarning+len("…") || !strings.HasSuffix(got[0], "ä…") {
		t.Errorf("a long one is %q", got[0])
	}
}
