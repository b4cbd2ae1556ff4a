package api_test

import (
	"strings"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

func moment(t *testing.T, s string) time.Time {
	t.Helper()
	if s == "" {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// A window that allows changes is open at one moment after another, each with the time until which the answer holds.
// Clocks change on 2026-03-29 and 2026-10-25 in Berlin, on 2026-03-08 and 2026-11-01 in New York,
// and by half an hour on 2026-04-05 (back) and 2026-10-04 (forward) on Lord Howe Island.
func TestOpen_changesOfTheClock(t *testing.T) {
	for _, tt := range []struct {
		name, zone, schedule, duration string
		now                            string
		open                           bool
		until                          string
	}{
		{"Berlin, winter", "Europe/Berlin", "0 22 * * *", "2h", "2026-01-10T20:59:59Z", false, "2026-01-10T21:00:00Z"},
		{"Berlin, winter", "Europe/Berlin", "0 22 * * *", "2h", "2026-01-10T21:00:00Z", true, "2026-01-10T23:00:00Z"},
		{"Berlin, winter", "Europe/Berlin", "0 22 * * *", "2h", "2026-01-10T23:00:00Z", false, "2026-01-11T21:00:00Z"},
		{"Berlin, summer", "Europe/Berlin", "0 22 * * *", "2h", "2026-07-10T20:00:00Z", true, "2026-07-10T22:00:00Z"},
		{"Berlin, the night before the change has its hours", "Europe/Berlin", "0 22 * * *", "8h", "2026-03-28T21:00:00Z", true, "2026-03-29T05:00:00Z"},
		{"Berlin, the next begins an hour earlier", "Europe/Berlin", "0 22 * * *", "8h", "2026-03-29T05:00:00Z", false, "2026-03-29T20:00:00Z"},
		{"Berlin, back: a night of as many hours", "Europe/Berlin", "0 22 * * *", "8h", "2026-10-24T20:00:00Z", true, "2026-10-25T04:00:00Z"},
		{"Berlin, back: the next begins an hour later", "Europe/Berlin", "0 22 * * *", "8h", "2026-10-25T04:00:00Z", false, "2026-10-25T21:00:00Z"},
		{"Berlin, half past two is skipped", "Europe/Berlin", "30 2 * * *", "1h", "2026-03-29T00:59:59Z", false, "2026-03-29T01:00:00Z"},
		{"Berlin, half past two is skipped", "Europe/Berlin", "30 2 * * *", "1h", "2026-03-29T01:00:00Z", true, "2026-03-29T02:00:00Z"},
		{"Berlin, two is skipped", "Europe/Berlin", "0 2 * * *", "1h", "2026-03-29T00:30:00Z", false, "2026-03-29T01:00:00Z"},
		{"Berlin, three follows what was skipped", "Europe/Berlin", "0 3 * * *", "1h", "2026-03-29T00:30:00Z", false, "2026-03-29T01:00:00Z"},
		{"Berlin, half past two, twice", "Europe/Berlin", "30 2 * * *", "15m", "2026-10-25T00:29:00Z", false, "2026-10-25T00:30:00Z"},
		{"Berlin, half past two, twice", "Europe/Berlin", "30 2 * * *", "15m", "2026-10-25T00:45:00Z", false, "2026-10-25T01:30:00Z"},
		{"Berlin, half past two, twice", "Europe/Berlin", "30 2 * * *", "15m", "2026-10-25T01:30:00Z", true, "2026-10-25T01:45:00Z"},
		{"Berlin, two, twice", "Europe/Berlin", "0 2 * * *", "30m", "2026-10-25T00:30:00Z", false, "2026-10-25T01:00:00Z"},
		{"Berlin, three comes once", "Europe/Berlin", "0 3 * * *", "30m", "2026-10-25T01:00:00Z", false, "2026-10-25T02:00:00Z"},
		{"New York, half past two is skipped", "America/New_York", "30 2 * * *", "1h", "2026-03-08T06:30:00Z", false, "2026-03-08T07:00:00Z"},
		{"New York, half past one, twice", "America/New_York", "30 1 * * *", "15m", "2026-11-01T05:45:00Z", false, "2026-11-01T06:30:00Z"},
		{"New York, back: a day of 25 hours", "America/New_York", "0 12 * * *", "1h", "2026-10-31T17:00:00Z", false, "2026-11-01T17:00:00Z"},
		{"New York, forward: a day of 23 hours", "America/New_York", "0 12 * * *", "1h", "2026-03-07T18:00:00Z", false, "2026-03-08T16:00:00Z"},
		{"Lord Howe, a quarter past two is skipped", "Australia/Lord_Howe", "15 2 * * *", "1h", "2026-10-03T15:29:00Z", false, "2026-10-03T15:30:00Z"},
		{"Lord Howe, a quarter to two, twice", "Australia/Lord_Howe", "45 1 * * *", "10m", "2026-04-04T14:55:00Z", false, "2026-04-04T15:15:00Z"},
		{"no zone is UTC", "", "0 2 * * *", "1h", "2026-03-29T01:30:00Z", false, "2026-03-29T02:00:00Z"},
		{"a rule, over the change", "Europe/Berlin", "FREQ=WEEKLY;BYDAY=SU;BYHOUR=2;BYMINUTE=30", "1h", "2026-03-22T02:30:00Z", false, "2026-03-29T01:00:00Z"},
		{"a rule, twice", "Europe/Berlin", "FREQ=DAILY;BYHOUR=2;BYMINUTE=30;BYSECOND=0", "15m", "2026-10-25T00:45:00Z", false, "2026-10-25T01:30:00Z"},
		{"the first Saturday", "America/New_York", "RRULE:FREQ=MONTHLY;BYDAY=1SA;BYHOUR=22", "4h", "2026-11-01T00:00:00Z", false, "2026-11-08T03:00:00Z"},
		{"every other week", "UTC", "DTSTART:20260105T220000\nRRULE:FREQ=WEEKLY;INTERVAL=2", "1h", "2026-01-06T00:00:00Z", false, "2026-01-19T22:00:00Z"},
		{"a rule that began years ago", "UTC", "FREQ=YEARLY", "1h", "2031-06-01T00:00:00Z", false, "2032-01-01T00:00:00Z"},
		{"a rule that began years ago", "UTC", "DTSTART:20240229T120000\nFREQ=YEARLY", "1h", "2031-06-01T00:00:00Z", false, "2032-02-29T12:00:00Z"},
		{"the last day but one", "UTC", "FREQ=MONTHLY;BYMONTHDAY=-2;BYHOUR=6", "1h", "2031-02-01T00:00:00Z", false, "2031-02-27T06:00:00Z"},
		{"a rule that counts", "UTC", "DTSTART:20260105T220000\nFREQ=WEEKLY;COUNT=2", "1h", "2026-01-12T23:00:00Z", false, ""},
		{"always, by windows that overlap", "UTC", "*/30 * * * *", "1h", "2026-01-06T00:10:00Z", true, ""},
		{"once a leap year", "UTC", "0 0 29 2 *", "24h", "2027-06-01T00:00:00Z", false, "2028-02-29T00:00:00Z"},
	} {
		d, err := time.ParseDuration(tt.duration)
		if err != nil {
			t.Fatal(err)
		}
		allow := api.Window{Kind: api.WindowAllow, Schedule: tt.schedule, Duration: api.Duration(d), TimeZone: tt.zone}
		deny := allow
		deny.Kind = api.WindowDeny
		now := moment(t, tt.now)
		got := api.Open(now, nil, api.Hours{Windows: []api.Window{allow}})
		if got.Open != tt.open || !got.Until.Equal(moment(t, tt.until)) || got.Reason == "" {
			t.Errorf("%s, %s at %s: %+v", tt.name, tt.schedule, tt.now, got)
		}
		if other := api.Open(now, nil, api.Hours{Windows: []api.Window{deny}}); other.Open == tt.open || !other.Until.Equal(got.Until) {
			t.Errorf("%s, %s at %s: denied %+v, and allowed %+v", tt.name, tt.schedule, tt.now, other, got)
		}
	}
}

func TestOpen_precedence(t *testing.T) {
	const now = "2026-05-01T12:00:00Z"
	noon := func(kind api.WindowKind, reason string) api.Window {
		return api.Window{Kind: kind, Schedule: "0 12 * * *", Duration: api.Duration(time.Hour), Reason: reason}
	}
	night := noon(api.WindowAllow, "night")
	night.Schedule = "0 0 * * *"
	prod := noon(api.WindowDeny, "prod")
	prod.ClusterSelector = &api.Selector{MatchLabels: map[string]string{"env": "prod"}}
	broken := noon(api.WindowAllow, "x")
	broken.Schedule = "never"
	frozen := &api.Freeze{Reason: "end of the year", Until: moment(t, "2026-05-02T00:00:00Z")}
	for _, tt := range []struct {
		name   string
		files  []api.Hours
		labels map[string]string
		open   bool
		reason string
		until  string
	}{
		{"no file", nil, nil, true, "nothing holds", ""},
		{"nothing in a file", []api.Hours{{}}, nil, true, "nothing holds", ""},
		{"allowed", []api.Hours{{Windows: []api.Window{noon(api.WindowAllow, "noon")}}}, nil, true, "noon", "2026-05-01T13:00:00Z"},
		{"not now", []api.Hours{{Windows: []api.Window{night}}}, nil, false, "no window", "2026-05-02T00:00:00Z"},
		{"denied and allowed", []api.Hours{{Windows: []api.Window{noon(api.WindowAllow, "noon"), noon(api.WindowDeny, "lunch")}}}, nil, false, "lunch", ""},
		{"denied only", []api.Hours{{Windows: []api.Window{noon(api.WindowDeny, "lunch")}}}, nil, false, "lunch", "2026-05-01T13:00:00Z"},
		{"two that allow", []api.Hours{{Windows: []api.Window{night, noon(api.WindowAllow, "noon")}}}, nil, true, "noon", "2026-05-01T13:00:00Z"},
		{"two files that allow", []api.Hours{{Windows: []api.Window{noon(api.WindowAllow, "a")}}, {Windows: []api.Window{noon(api.WindowAllow, "b")}}}, nil, true, "b", "2026-05-01T13:00:00Z"},
		{"one file of two allows", []api.Hours{{Windows: []api.Window{noon(api.WindowAllow, "a")}}, {Windows: []api.Window{night}}}, nil, false, "no window", ""},
		{"for other clusters", []api.Hours{{Windows: []api.Window{prod}}}, map[string]string{"env": "dev"}, true, "nothing holds", ""},
		{"for this cluster", []api.Hours{{Windows: []api.Window{prod}}}, map[string]string{"env": "prod"}, false, "prod", "2026-05-01T13:00:00Z"},
		{"frozen", []api.Hours{{Freeze: frozen}}, nil, false, "end of the year", "2026-05-02T00:00:00Z"},
		{"frozen before a window", []api.Hours{{Freeze: frozen, Windows: []api.Window{noon(api.WindowAllow, "noon")}}}, nil, false, "end of the year", "2026-05-02T12:00:00Z"},
		{"frozen until then", []api.Hours{{Freeze: &api.Freeze{Reason: "x", Until: moment(t, now)}}}, nil, true, "nothing holds", ""},
		{"a window that cannot be read", []api.Hours{{Windows: []api.Window{broken}}}, nil, false, "cannot be read", ""},
	} {
		got := api.Open(moment(t, now), tt.labels, tt.files...)
		if got.Open != tt.open || !strings.Contains(got.Reason, tt.reason) || !got.Until.Equal(moment(t, tt.until)) {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
}

// FuzzOpen checks Until. At every moment before Until, Open gives the same answer. At Until it gives the other one.
func FuzzOpen(f *testing.F) {
	f.Add("30 2 * * *", "Europe/Berlin", int64(1774745000), uint16(90), true)
	f.Add("*/20 1-3 * 3,10 SUN", "America/New_York", int64(1793500000), uint16(7), false)
	f.Add("FREQ=WEEKLY;BYDAY=SA,SU;BYHOUR=1", "Australia/Lord_Howe", int64(1775300000), uint16(600), true)
	f.Fuzz(func(t *testing.T, schedule, zone string, unix int64, minutes uint16, allow bool) {
		kind := api.WindowDeny
		if allow {
			kind = api.WindowAllow
		}
		if unix < 1577836800 || unix > 2500000000 || minutes == 0 {
			return
		}
		files := api.Hours{Windows: []api.Window{{Kind: kind, Schedule: schedule, TimeZone: zone, Duration: api.Duration(minutes) * api.Duration(time.Minute)}}}
		now := time.Unix(unix, 0)
		got := api.Open(now, nil, files)
		end := got.Until
		if end.IsZero() {
			return
		}
		if !end.After(now) || api.Open(end, nil, files).Open == got.Open {
			t.Fatalf("%+v at %s", got, now.UTC())
		}
		for i := range time.Duration(8) {
			if at := now.Add(end.Sub(now) * i / 8); api.Open(at, nil, files).Open != got.Open {
				t.Errorf("%+v at %s, and not at %s", got, now.UTC(), at.UTC())
			}
		}
		if at := end.Add(-time.Second); at.After(now) && api.Open(at, nil, files).Open != got.Open {
			t.Errorf("%+v at %s, and not at %s", got, now.UTC(), at.UTC())
		}
	})
}
