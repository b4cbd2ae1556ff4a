package api

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // for machines without zone files, such as the agent's image

	"github.com/robfig/cron/v3"
	"github.com/teambition/rrule-go"
)

// Window says when changes from Git may be applied, or may not.
type Window struct {
	// Kind is WindowAllow or WindowDeny.
	Kind WindowKind `yaml:"kind" json:"kind"`
	// Schedule says when the window begins, by the clock of TimeZone: five fields as of a CronJob, or an RRULE of RFC 5545
	// that begins with "FREQ=", with "RRULE:", or with a line "DTSTART:20260131T220000".
	Schedule string `yaml:"schedule" json:"schedule"`
	// Duration is how long it lasts, in time that passes.
	Duration Duration `yaml:"duration" json:"duration"`
	// TimeZone is a name of the IANA time zone database. Empty means UTC.
	TimeZone string `yaml:"timeZone,omitempty" json:"timeZone,omitempty"`
	// ClusterSelector chooses the clusters that the window is for. Nil means all.
	ClusterSelector *Selector `yaml:"clusterSelector,omitempty" json:"clusterSelector,omitempty"`
	// Reason is for people.
	Reason string `yaml:"reason,omitempty" json:"reason,omitempty"`
}

// WindowKind says whether a window allows changes or forbids them.
type WindowKind string

// The kinds. If a file has windows that allow, changes are applied only while one of them is open.
// While a window that denies is open, none are applied.
const (
	WindowAllow WindowKind = "allow"
	WindowDeny  WindowKind = "deny"
)

// Freeze stops all changes from Git.
type Freeze struct {
	Reason string `yaml:"reason" json:"reason"`
	// Until is when it ends.
	Until time.Time `yaml:"until" json:"until"`
}

// Bounds of windows.
const (
	ShortestWindow = time.Minute
	LongestWindow  = 366 * 24 * time.Hour
	// MaxWindows bounds how many windows a file has.
	MaxWindows = 100
	// maxStartsADay bounds how often a day an RRULE has its window begin.
	maxStartsADay = 4
)

func validWindows(at locator, field string, windows []Window) error {
	if len(windows) > MaxWindows {
		return at.errorf(field, "has %d windows, and may have %d", len(windows), MaxWindows)
	}
	for i, w := range windows {
		if err := w.validate(at, fmt.Sprintf("%s.%d", field, i)); err != nil {
			return err
		}
	}
	return nil
}

func (w Window) validate(at locator, field string) error {
	d := time.Duration(w.Duration)
	switch {
	case w.Kind != WindowAllow && w.Kind != WindowDeny:
		return at.errorf(field+".kind", "%q is not one of allow, deny", w.Kind)
	case d < ShortestWindow || d > LongestWindow:
		return at.errorf(field+".duration", "%s is not between %s and %s", d, ShortestWindow, LongestWindow)
	}
	if _, err := zone(w.TimeZone); err != nil {
		return at.errorf(field+".timeZone", "%v", err)
	}
	if _, err := parseSchedule(w.Schedule); err != nil {
		return at.errorf(field+".schedule", "%v", err)
	}
	return w.ClusterSelector.validate(at, field+".clusterSelector")
}

func (f *Freeze) validate(at locator, field string) error {
	switch {
	case f == nil:
	case f.Reason == "":
		return at.errorf(field+".reason", "a freeze needs a reason")
	case f.Until.IsZero():
		return at.errorf(field+".until", "a freeze needs an end, such as 2030-01-31T10:00:00Z")
	}
	return nil
}

// zone finds a time zone. "Local" is none: it would be another on every machine.
func zone(name string) (*time.Location, error) {
	loc, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		return nil, fmt.Errorf("%q is no time zone such as Europe/Berlin or UTC", name)
	}
	return loc, nil
}

// schedule tells the next moment, after one that is given, at which a window begins.
// Both are what a clock on the wall shows, written as a time in UTC. Zero means that there is none.
type schedule interface {
	Next(wall time.Time) time.Time
}

// parseSchedule reads five fields as of a CronJob, or an RRULE.
func parseSchedule(text string) (schedule, error) {
	if strings.Contains(text, "FREQ=") {
		return parseRule(text)
	}
	// Fields alone: cron's parser also takes a time zone, and intervals whose beginning depends on who asks.
	if len(strings.Fields(text)) != 5 || strings.ContainsAny(text, "=@") {
		return nil, fmt.Errorf("%q is neither five fields such as \"0 22 * * MON-FRI\" (minute, hour, day, month, weekday) nor an RRULE such as \"FREQ=MONTHLY;BYDAY=1SA\"", text)
	}
	s, err := cron.ParseStandard(text)
	if err != nil {
		return nil, fmt.Errorf("%q is no schedule: %w", text, err)
	}
	if s.Next(ruleBegin).IsZero() {
		return nil, fmt.Errorf("%q never comes", text)
	}
	return s, nil
}

// ruleBegin is where a rule begins that does not say it. ruleEnd is where all rules end, so that nothing is looked for for ever.
var (
	ruleBegin = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	ruleEnd   = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
)

// rule is an RRULE.
type rule struct{ r *rrule.RRule }

// Next implements schedule. The library counts from the beginning of the rule, which is years ago:
// a rule that neither counts nor leaves anything out is the same from every first of January on.
func (r rule) Next(wall time.Time) time.Time {
	o := r.r.Options
	begin := time.Date(wall.Year()-1, 1, 1, o.Dtstart.Hour(), o.Dtstart.Minute(), o.Dtstart.Second(), 0, time.UTC)
	if o.Interval > 1 || o.Count > 0 || !begin.After(o.Dtstart) {
		return r.r.After(wall, false)
	}
	o.Dtstart = begin
	moved, err := rrule.NewRRule(o)
	if err != nil {
		return time.Time{} // the options come from a rule that was made of them
	}
	return moved.After(wall, false)
}

func parseRule(text string) (schedule, error) {
	lines := strings.FieldsFunc(strings.TrimSpace(text), func(r rune) bool { return r == '\n' })
	begin, given := ruleBegin, false
	if first, ok := strings.CutPrefix(strings.TrimSpace(lines[0]), "DTSTART:"); ok && len(lines) == 2 {
		at, err := time.Parse("20060102T150405", first)
		if err != nil || at.Before(ruleBegin) {
			return nil, fmt.Errorf("DTSTART %q is not a time since 2020 by the clock of timeZone, such as 20260131T220000", first)
		}
		begin, given, lines = at, true, lines[1:]
	}
	if len(lines) != 1 {
		return nil, fmt.Errorf("%q is not one RRULE, with at most one line DTSTART above it", text)
	}
	o, err := rrule.StrToROption(strings.TrimPrefix(strings.TrimSpace(lines[0]), "RRULE:"))
	if err != nil {
		return nil, fmt.Errorf("%q is no RRULE: %w", text, err)
	}
	if err := checkRule(o, given); err != nil {
		return nil, fmt.Errorf("%q: %w", text, err)
	}
	o.Dtstart = begin
	if o.Until.IsZero() || o.Until.After(ruleEnd) {
		o.Until = ruleEnd
	}
	r, err := rrule.NewRRule(*o)
	if err != nil {
		return nil, fmt.Errorf("%q is no RRULE: %w", text, err)
	}
	if r.After(begin, true).IsZero() {
		return nil, fmt.Errorf("%q never comes", text)
	}
	return rule{r}, nil
}

// checkRule refuses a rule that would be costly to look up. It also refuses INTERVAL and COUNT without a DTSTART, because they count from it.
func checkRule(o *rrule.ROption, begins bool) error {
	switch {
	case !slices.Contains([]rrule.Frequency{rrule.YEARLY, rrule.MONTHLY, rrule.WEEKLY, rrule.DAILY}, o.Freq):
		return errors.New("a window begins once a day, a week, a month or a year: use fields as of a CronJob for what is more often")
	case !o.Dtstart.IsZero():
		return errors.New("the beginning is no part of the rule: write a line DTSTART:20260131T220000 above it")
	case o.Interval < 0 || o.Count < 0:
		return errors.New("INTERVAL and COUNT are not negative")
	case (o.Interval > 1 || o.Count > 0) && !begins:
		return errors.New("INTERVAL and COUNT need a beginning: write a line DTSTART:20260131T220000 above the rule")
	case startsADay(o) > maxStartsADay:
		return fmt.Errorf("a window begins at most %d times a day", maxStartsADay)
	case (o.Interval > 1 || o.Count > 0) && startsADay(o) > 1:
		return errors.New("with INTERVAL or COUNT a window begins once a day at most")
	}
	return nil
}

func startsADay(o *rrule.ROption) int {
	return max(len(o.Byhour), 1) * max(len(o.Byminute), 1) * max(len(o.Bysecond), 1)
}
