package reconciler

import (
	"testing"
	"time"
)

// A clock that is put back does not put off what was due soon.
func TestPublisher_reportsThoughTheClockGoesBack(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	r := assembled(&failing{}, func(c *Config) { c.Now = func() time.Time { return now } })
	r.publish.report()
	now = now.Add(-48 * time.Hour)
	r.publish.report()
	now = now.Add(reportSettle)
	if _, _, due, next := r.publish.take(); !due {
		t.Errorf("the report is due in %v", next)
	}
}
