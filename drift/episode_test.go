package drift_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift"
)

var t0 = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

var web = api.ObjectRef{Group: "apps", Version: "v1", Kind: "Deployment", Namespace: "shop", Name: "web"}

// found is a result with the given fields, changed by a manager.
func found(manager string, paths ...string) drift.Result {
	r := drift.Result{Class: api.ClassChanged, Mode: api.DriftCorrect, Action: drift.Correct}
	r.By = api.Attribution{Manager: manager, Confidence: api.ConfidenceTool}
	for _, p := range paths {
		r.Fields = append(r.Fields, api.FieldDiff{Path: p, Class: api.ClassChanged, Desired: "1", Live: "2", By: r.By})
	}
	return r
}

// story drives one object's episodes as the agent does.
type story struct {
	t    *testing.T
	ep   *api.Episode
	at   time.Time
	seen drift.Decision
}

func (s *story) observe(r drift.Result, suspension ...string) drift.Decision {
	s.t.Helper()
	o := drift.Observation{Object: web, Bundle: "shop", Cluster: "c", Revision: "r1", Result: r, UID: "u", At: s.at}
	if len(suspension) > 0 {
		o.Suspension = suspension[0]
	}
	e, d := drift.Observe(s.ep, o)
	if e != nil {
		s.ep = e
	}
	s.seen = d
	return d
}

func (s *story) corrected(err error) {
	e := drift.Corrected(*s.ep, s.at, err)
	s.ep = &e
}

func (s *story) later(d time.Duration) { s.at = s.at.Add(d) }

func (s *story) is(outcome api.Outcome, open bool, action drift.Action) {
	s.t.Helper()
	if s.ep.Outcome != outcome || s.ep.Open() != open || s.seen.Action != action {
		s.t.Fatalf("outcome %q, open %v, action %q (%s); want %q %v %q",
			s.ep.Outcome, s.ep.Open(), s.seen.Action, s.seen.Reason, outcome, open, action)
	}
}

func whats(e *api.Episode) []string {
	var out []string
	for _, m := range e.Timeline {
		out = append(out, m.What)
	}
	return out
}

func TestEpisodeCorrected(t *testing.T) {
	s := &story{t: t, at: t0}
	d := s.observe(found("kubectl-edit", "/spec/replicas"))
	s.is(api.OutcomePending, true, drift.Correct)
	if !d.Opened || s.ep.Count != 1 || !s.ep.Onset.Equal(t0) || s.ep.By.Manager != "kubectl-edit" {
		t.Fatalf("%+v %+v", d, s.ep)
	}
	s.later(time.Second)
	s.corrected(nil)
	s.is(api.OutcomeCorrected, false, drift.Correct)
	if !s.ep.End.Equal(s.at) {
		t.Errorf("end %v", s.ep.End)
	}
	// The same fields within the hour: the same episode.
	s.later(59 * time.Minute)
	if d := s.observe(found("kubectl-edit", "/spec/replicas")); !d.Opened || s.ep.Count != 2 || !s.ep.Onset.Equal(t0) {
		t.Errorf("%+v %+v", d, s.ep)
	}
	s.corrected(nil)
	// Other fields: another episode.
	first := s.ep.Onset
	s.later(time.Minute)
	s.observe(found("kubectl-edit", "/spec/paused"))
	if s.ep.Count != 1 || s.ep.Onset.Equal(first) {
		t.Errorf("%+v", s.ep)
	}
	s.corrected(nil)
	// More than an hour later: another episode.
	s.later(61 * time.Minute)
	s.observe(found("kubectl-edit", "/spec/paused"))
	if s.ep.Count != 1 {
		t.Errorf("%+v", s.ep)
	}
}

// What an earlier round looked like, and how it ended, stays known when the episode goes on.
func TestEpisodeKeepsEarlierRounds(t *testing.T) {
	s := &story{t: t, at: t0}
	first := found("kubectl-edit", "/spec/replicas")
	first.Fields[0].Live = "7"
	s.observe(first)
	s.later(time.Second)
	s.corrected(nil)
	s.later(time.Minute)
	r := found("kubectl-edit", "/spec/replicas")
	r.Fields[0].Live = "9"
	s.observe(r)
	if s.ep.Count != 2 || len(s.ep.Rounds) != 1 {
		t.Fatalf("count %d, rounds %+v", s.ep.Count, s.ep.Rounds)
	}
	was := s.ep.Rounds[0]
	if !was.Began.Equal(t0) || !was.Ended.Equal(t0.Add(time.Second)) || was.Outcome != api.OutcomeCorrected || was.Class != api.ClassChanged ||
		was.By.Manager != "kubectl-edit" || was.Revision != "r1" || len(was.Fields) != 1 || was.Fields[0].Live != "7" {
		t.Errorf("the first round: %+v", was)
	}
	if !s.ep.Began().Equal(s.at) || s.ep.Fields[0].Live != "9" || !s.ep.Onset.Equal(t0) {
		t.Errorf("the second round: %+v", s.ep)
	}
	s.later(time.Second)
	s.observe(drift.Result{})
	s.later(time.Minute)
	s.observe(first)
	if len(s.ep.Rounds) != 2 || s.ep.Rounds[1].Outcome != api.OutcomeResolved || s.ep.Rounds[1].Fields[0].Live != "9" ||
		!s.ep.Rounds[1].Began.Equal(t0.Add(61*time.Second)) {
		t.Errorf("%+v", s.ep.Rounds)
	}
	s.later(time.Hour + time.Minute)
	s.observe(drift.Result{})
	s.later(2 * time.Hour)
	if s.observe(first); s.ep.Count != 1 || len(s.ep.Rounds) > 0 || !s.ep.Reopened.IsZero() {
		t.Errorf("a new episode has rounds of another: %+v", s.ep)
	}
}

// The first round and the latest are kept, within a number and a size, whatever is in the fields.
func TestEarlierRoundsAreBounded(t *testing.T) {
	for name, long := range map[string]string{"small": "v", "large": strings.Repeat("\u0001é<", 1000)} {
		s := &story{t: t, at: t0}
		var paths []string
		for i := range 40 {
			paths = append(paths, fmt.Sprintf("/data/%d%s", i, strings.Repeat("x", 200)))
		}
		for i := range 60 {
			r := found("kubectl-edit", paths...)
			for j := range r.Fields {
				r.Fields[j].Live = fmt.Sprintf("%q", fmt.Sprint(i, long))
			}
			s.observe(r)
			s.later(time.Second)
			s.observe(drift.Result{})
			s.later(time.Second)
		}
		raw, err := json.Marshal(s.ep.Rounds)
		if n := len(s.ep.Rounds); err != nil || n < 2 || n > api.MaxRounds || len(raw) > api.MaxRoundsBytes {
			t.Fatalf("%s: %d rounds, %d bytes, %v", name, n, len(raw), err)
		}
		if first, last := s.ep.Rounds[0], s.ep.Rounds[len(s.ep.Rounds)-1]; !first.Began.Equal(t0) || !strings.HasPrefix(last.Fields[0].Live, `"58`) {
			t.Errorf("%s: from %v to %.100v", name, first.Began, last.Fields[0].Live)
		}
		if s.ep.Earlier() != 59 || s.ep.Rounds[0].FieldsOmitted != 35 {
			t.Errorf("%s: %d rounds before, %d fields omitted", name, s.ep.Earlier(), s.ep.Rounds[0].FieldsOmitted)
		}
	}
}

func TestEpisodeTimeline(t *testing.T) {
	s := &story{t: t, at: t0}
	s.observe(found("kubectl-edit", "/a"), "inc-1")
	s.later(time.Second)
	s.observe(found("kubectl-edit", "/a"), "inc-1")
	s.is(api.OutcomeSuspended, true, drift.Hold)
	if s.ep.Suspension != "inc-1" {
		t.Error(s.ep.Suspension)
	}
	s.later(time.Second)
	s.observe(found("kubectl-edit", "/a", "/b"), "inc-1")
	s.later(time.Second)
	s.observe(found("kubectl-edit", "/a", "/b"))
	s.is(api.OutcomePending, true, drift.Correct)
	s.later(time.Second)
	s.corrected(nil)
	want := []string{
		"began: changed /a (1 -> 2) by kubectl-edit", "not corrected: suspended by inc-1",
		"now: changed /a (1 -> 2) /b (1 -> 2) by kubectl-edit", "corrected",
	}
	if d := cmp.Diff(want, whats(s.ep)); d != "" {
		t.Error(d)
	}
}

func TestEpisodeReportedAndResolved(t *testing.T) {
	s := &story{t: t, at: t0}
	r := found("kubectl-edit", "/a")
	r.Action, r.Mode = drift.None, api.DriftReport
	s.observe(r)
	s.is(api.OutcomeReported, true, drift.None)
	// Correction is switched on after the drift was seen.
	s.observe(found("kubectl-edit", "/a"))
	s.is(api.OutcomePending, true, drift.Correct)
	s.observe(r)
	s.later(time.Minute)
	s.observe(drift.Result{})
	s.is(api.OutcomeResolved, false, drift.None)
	// A match without an open episode stores nothing.
	if e, d := drift.Observe(s.ep, drift.Observation{Object: web, At: s.at}); e != nil || d.Action != drift.None {
		t.Errorf("%+v %+v", e, d)
	}
	if e, d := drift.Observe(s.ep, drift.Observation{Object: web, At: s.at, Result: drift.Result{Unknown: true}}); e != nil || d.Action != drift.None {
		t.Errorf("unknown: %+v %+v", e, d)
	}
}

func TestContested(t *testing.T) {
	s := &story{t: t, at: t0}
	fight := func() { s.observe(found("hpa", "/spec/replicas")) }
	for range 3 {
		fight()
		s.is(api.OutcomePending, true, drift.Correct)
		s.corrected(nil)
		s.later(time.Second)
	}
	// Each round is left alone for twice as long, up to half an hour.
	for _, wait := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		wait *= time.Minute
		fight()
		s.is(api.OutcomeContested, true, drift.Hold)
		if s.seen.After != wait || !s.ep.NextCorrection.Equal(s.at.Add(wait)) {
			t.Fatalf("after %v, next %v; want %v", s.seen.After, s.ep.NextCorrection.Sub(s.at), wait)
		}
		s.later(wait / 2)
		fight()
		s.is(api.OutcomeContested, true, drift.Hold)
		if s.seen.After != wait-wait/2 {
			t.Fatalf("half way: after %v", s.seen.After)
		}
		s.later(wait - wait/2)
		fight()
		s.is(api.OutcomeContested, true, drift.Correct)
		s.corrected(nil)
		s.is(api.OutcomeCorrected, false, drift.Correct)
		s.later(time.Second)
	}
	for _, part := range []string{"hpa", "/spec/replicas", "kind: Deployment", `"shop"`} {
		if !strings.Contains(s.ep.Hint, part) {
			t.Errorf("hint %q lacks %q", s.ep.Hint, part)
		}
	}
	// They stop; after a quarter of an hour the fight is over.
	s.later(16 * time.Minute)
	fight()
	s.is(api.OutcomePending, true, drift.Correct)
	if s.ep.Hint != "" || s.ep.Track.Backoff != 0 {
		t.Errorf("%+v", s.ep)
	}
}

// It is the object that is contested, whichever of its fields the other takes next.
func TestContestedWithOtherFields(t *testing.T) {
	s := &story{t: t, at: t0}
	round := 0
	fight := func() {
		round++
		s.observe(found("rival", fmt.Sprintf("/data/%d", round)))
	}
	for range 3 {
		fight()
		s.is(api.OutcomePending, true, drift.Correct)
		if s.ep.Count != 1 {
			t.Fatalf("other fields continue the episode: %+v", s.ep)
		}
		s.corrected(nil)
		s.later(time.Second)
	}
	for _, wait := range []time.Duration{1, 2, 4} {
		wait *= time.Minute
		fight()
		s.is(api.OutcomeContested, true, drift.Hold)
		if s.seen.After != wait || !strings.Contains(s.ep.Hint, "rival") || s.ep.Count != 1 {
			t.Fatalf("after %v, want %v; %+v", s.seen.After, wait, s.ep)
		}
		s.later(wait)
		s.observe(found("rival", s.ep.Fields[0].Path))
		s.is(api.OutcomeContested, true, drift.Correct)
		s.corrected(nil)
		s.later(time.Second)
	}
	// Who has nothing to do with the fight is not taken for a rival.
	s.observe(found("kubectl-edit", "/metadata/labels/a"))
	s.is(api.OutcomePending, true, drift.Correct)
	s.corrected(nil)
	// And the fight goes on.
	fight()
	s.is(api.OutcomeContested, true, drift.Hold)
	// They stop; after a quarter of an hour the fight is over.
	s.later(s.seen.After)
	s.observe(found("rival", s.ep.Fields[0].Path))
	s.corrected(nil)
	s.later(16 * time.Minute)
	fight()
	s.is(api.OutcomePending, true, drift.Correct)
	if s.ep.Hint != "" || s.ep.Track.Backoff != 0 || len(s.ep.Track.Corrections) != 0 {
		t.Errorf("%+v", s.ep)
	}
}

func TestNotContested(t *testing.T) {
	t.Run("one edit, put right in two steps", func(t *testing.T) {
		both := found("tool", "/a", "/b")
		both.Fields[1].Class = api.ClassAdded
		left := found("tool", "/b")
		left.Class, left.Fields[0].Class, left.Action = api.ClassAdded, api.ClassAdded, drift.Strip
		s := &story{t: t, at: t0}
		for range 3 {
			s.observe(both)
			s.is(api.OutcomePending, true, drift.Correct)
			s.corrected(nil)
			s.observe(left)
			s.is(api.OutcomePending, true, drift.Strip)
			s.corrected(nil)
			s.later(time.Second)
		}
		s.observe(both)
		s.is(api.OutcomeContested, true, drift.Hold)
	})
	t.Run("different managers", func(t *testing.T) {
		s := &story{t: t, at: t0}
		for i := range 6 {
			s.observe(found(fmt.Sprintf("tool-%d", i%3), "/a"))
			s.is(api.OutcomePending, true, drift.Correct)
			if s.ep.Count != 1 || s.ep.By.Manager != fmt.Sprintf("tool-%d", i%3) || len(s.ep.Timeline) != 1 {
				t.Errorf("another hand is another episode: %+v", s.ep)
			}
			s.corrected(nil)
			s.later(time.Second)
		}
	})
	t.Run("seldom", func(t *testing.T) {
		s := &story{t: t, at: t0}
		for range 6 {
			s.observe(found("tool", "/a"))
			s.is(api.OutcomePending, true, drift.Correct)
			s.corrected(nil)
			s.later(8 * time.Minute)
		}
	})
}

func TestFailedCorrection(t *testing.T) {
	s := &story{t: t, at: t0}
	refused := &api.Error{Kind: api.Stalled, Err: errors.New("field is immutable")}
	s.observe(found("kubectl-edit", "/a"))
	s.corrected(refused)
	s.is(api.OutcomeFailed, true, drift.Correct)
	s.later(time.Second)
	s.observe(found("kubectl-edit", "/a"))
	s.is(api.OutcomeFailed, true, drift.Hold)
	if s.ep.Error != "field is immutable" || s.seen.After != 5*time.Minute-time.Second {
		t.Errorf("%q %v", s.ep.Error, s.seen.After)
	}
	// A new revision does not wait.
	e, d := drift.Observe(s.ep, drift.Observation{Object: web, Revision: "r2", Result: found("kubectl-edit", "/a"), At: s.at})
	if d.Action != drift.Correct || e.Revision != "r2" {
		t.Errorf("%+v", d)
	}
	// Nor does an order on the object.
	if _, d := drift.Observe(s.ep, drift.Observation{Object: web, Meta: "other", Result: found("kubectl-edit", "/a"), At: s.at}); d.Action != drift.Correct {
		t.Errorf("%+v", d)
	}
	// A network error is tried again soon, and ever less often.
	s = &story{t: t, at: t0}
	for i := range 20 {
		s.observe(found("kubectl-edit", "/a"))
		s.is(s.ep.Outcome, true, drift.Correct)
		s.corrected(errors.New("connection refused"))
		wait := s.ep.NextCorrection.Sub(s.at)
		if want := min(time.Second<<i, 30*time.Minute); wait != want {
			t.Fatalf("after failure %d: %v, want %v", i+1, wait, want)
		}
		s.later(wait)
	}
	s.observe(found("kubectl-edit", "/a"))
	s.corrected(nil)
	if s.ep.Error != "" || s.ep.Open() || s.ep.Track.Failures != 0 {
		t.Errorf("%+v", s.ep)
	}
}

func TestFlapping(t *testing.T) {
	s := &story{t: t, at: t0}
	r := found("tool", "/a")
	r.Action = drift.None
	rounds := 0
	for !s.flapping() {
		if rounds++; rounds > 21 {
			t.Fatal("never flapped")
		}
		s.observe(r)
		s.later(time.Second)
		s.observe(drift.Result{})
		s.later(time.Second)
	}
	if rounds < 3 {
		t.Errorf("flapping after %d rounds", rounds)
	}
	// It takes a while of quiet until it does not flap any more: longer than one quiet look.
	s.observe(r)
	// Twenty steps hold six changes at thirty percent and three at fifteen: the older half must have gone by.
	looks := 0
	for s.flapping() {
		if looks++; looks > 21 {
			t.Fatal("flaps for ever")
		}
		s.later(time.Minute)
		s.observe(r)
	}
	if looks < 16 {
		t.Errorf("no longer flapping after %d looks", looks)
	}
}

func (s *story) flapping() bool { return s.ep != nil && s.ep.Flapping }

func TestClockJumpsBack(t *testing.T) {
	s := &story{t: t, at: t0}
	for range 3 {
		s.observe(found("tool", "/a"))
		s.corrected(nil)
		s.later(time.Second)
	}
	s.observe(found("tool", "/a"))
	s.is(api.OutcomeContested, true, drift.Hold)
	// The clock had been wrong by ten years.
	s.later(-10 * 365 * 24 * time.Hour)
	s.observe(found("tool", "/a"))
	s.is(api.OutcomeContested, true, drift.Hold)
	if s.seen.After > time.Minute || s.ep.Onset.After(s.at) {
		t.Fatalf("after %v, onset %v at %v", s.seen.After, s.ep.Onset, s.at)
	}
	s.later(time.Minute)
	s.observe(found("tool", "/a"))
	s.is(api.OutcomeContested, true, drift.Correct)
	// A failure that was written down in the wrong year does not hold the correction back for years.
	s.corrected(&api.Error{Kind: api.Stalled, Err: errors.New("no")})
	s.later(-24 * time.Hour)
	if d := s.observe(found("tool", "/a")); d.After > 30*time.Minute {
		t.Fatalf("after %v", d.After)
	}
	s.later(30 * time.Minute)
	s.observe(found("tool", "/a"))
	s.is(api.OutcomeContested, true, drift.Correct)
	// A small step back changes no order.
	s.later(-time.Second)
	s.corrected(nil)
	if s.ep.End.Before(s.ep.Onset) || s.ep.End.Before(s.ep.Timeline[len(s.ep.Timeline)-2].At) {
		t.Fatalf("%+v", s.ep)
	}
}

func TestEpisodeIsBounded(t *testing.T) {
	var paths []string
	for i := range api.MaxFields + 7 {
		paths = append(paths, fmt.Sprintf("/data/%03d", i))
	}
	s := &story{t: t, at: t0}
	for range 100 {
		s.observe(found("tool", paths...))
		s.later(time.Second)
		s.observe(drift.Result{})
		s.later(time.Second)
	}
	e := s.ep
	if len(e.Fields) != api.MaxFields || e.FieldsOmitted != 7 || len(e.Timeline) != api.MaxTimeline || len(e.Track.States) > 21 {
		t.Errorf("%d fields, %d omitted, %d moments, %q", len(e.Fields), e.FieldsOmitted, len(e.Timeline), e.Track.States)
	}
	if e.Count != 100 {
		t.Errorf("count %d", e.Count)
	}
	if !strings.HasPrefix(e.Timeline[0].What, "began: ") {
		t.Errorf("the beginning is gone: %q", e.Timeline[0].What)
	}
}

// A person who was proven once stays named while nothing changes.
func TestPersonStays(t *testing.T) {
	s := &story{t: t, at: t0}
	r := found("kubectl-edit", "/a")
	r.Fields[0].By.Person, r.Fields[0].By.Confidence = "alice", api.ConfidencePerson
	s.observe(r)
	s.observe(found("kubectl-edit", "/a"))
	if s.ep.By.Person != "alice" {
		t.Errorf("%+v", s.ep.By)
	}
	changed := found("kubectl-edit", "/a")
	changed.Fields[0].Live = "3"
	s.observe(changed)
	if s.ep.By.Person != "" {
		t.Errorf("another value, and still %+v", s.ep.By)
	}
	// A stamp that comes after a value was seen is about something else.
	stamped := found("kubectl-edit", "/a")
	stamped.Fields[0].Live = "3"
	stamped.Fields[0].By.Person, stamped.Fields[0].By.Confidence = "bob", api.ConfidencePerson
	s.observe(stamped)
	if by := s.ep.By; by.Person != "" || by.Confidence != api.ConfidenceTool {
		t.Errorf("seen before bob came, and now %+v", by)
	}
	s.corrected(nil)
	s.observe(stamped)
	if s.ep.By.Person != "bob" {
		t.Errorf("begun anew: %+v", s.ep.By)
	}
}

// Whatever happens in whatever order: the episode stays well-formed and its past is not changed.
func FuzzEpisode(f *testing.F) {
	f.Add([]byte{0, 1, 0, 1, 0, 1, 0, 7, 2, 3, 4, 5, 6})
	f.Add([]byte{0, 16, 1, 0, 240, 1, 0, 255, 1, 6, 0})
	f.Fuzz(func(t *testing.T, steps []byte) {
		if len(steps) > 500 {
			return
		}
		s := &story{t: t, at: t0}
		for _, b := range steps {
			before := clone(s.ep)
			prev := s.ep
			switch b % 8 {
			case 0:
				s.observe(found("tool", "/a"))
			case 1:
				if s.ep != nil && s.ep.Open() {
					s.corrected(nil)
				}
			case 2:
				s.observe(found("other", "/a", "/b"))
			case 3:
				s.observe(found("tool", "/a"), "inc")
			case 4:
				s.observe(drift.Result{})
			case 5:
				if s.ep != nil && s.ep.Open() {
					s.corrected(errors.New("no"))
				}
			case 6:
				s.later(time.Duration(b) * time.Minute)
			case 7:
				s.later(-time.Duration(b) * time.Minute)
			}
			if d := cmp.Diff(before, prev); d != "" {
				t.Fatalf("the previous episode was changed: %s", d)
			}
			if s.ep != nil {
				wellFormed(t, s)
			}
		}
	})
}

func clone(e *api.Episode) *api.Episode {
	if e == nil {
		return nil
	}
	c := *e
	c.Fields = append([]api.FieldDiff(nil), e.Fields...)
	c.Timeline = append([]api.Moment(nil), e.Timeline...)
	c.Rounds = append([]api.Round(nil), e.Rounds...)
	tr := *e.Track
	tr.Corrections = append([]api.Correction(nil), tr.Corrections...)
	c.Track = &tr
	return &c
}

func wellFormed(t *testing.T, s *story) {
	t.Helper()
	e := s.ep
	switch {
	case e.Onset.After(e.LastSeen):
		t.Fatalf("onset %v after last seen %v", e.Onset, e.LastSeen)
	case !e.Open() && e.End.Before(e.Onset):
		t.Fatalf("end %v before onset %v", e.End, e.Onset)
	case e.Count < 1 || e.Class == "" || len(e.Fields) == 0:
		t.Fatalf("count %d, class %q, %d fields", e.Count, e.Class, len(e.Fields))
	case !e.Open() && e.Outcome != api.OutcomeCorrected && e.Outcome != api.OutcomeResolved && e.Outcome != api.OutcomeIgnored:
		t.Fatalf("closed as %q", e.Outcome)
	case s.seen.After < 0 || s.seen.After > 30*time.Minute:
		t.Fatalf("look again after %v", s.seen.After)
	case e.NextCorrection.Sub(e.LastSeen) > 30*time.Minute:
		t.Fatalf("next correction %v after the last look", e.NextCorrection.Sub(e.LastSeen))
	case len(e.Timeline) > api.MaxTimeline || len(e.Fields) > api.MaxFields:
		t.Fatal("not bounded")
	case len(e.Rounds) != min(e.Count-1, api.MaxRounds):
		t.Fatalf("count %d, and %d earlier rounds", e.Count, len(e.Rounds))
	case e.Began().After(e.LastSeen):
		t.Fatalf("began again %v after last seen %v", e.Began(), e.LastSeen)
	}
	end := e.Onset
	for _, r := range e.Rounds {
		if r.Began.Before(end) || r.Ended.Before(r.Began) || e.Began().Before(r.Ended) {
			t.Fatalf("rounds out of order, then %v: %+v", e.Began(), e.Rounds)
		}
		end = r.Ended
	}
	for i := 1; i < len(e.Timeline); i++ {
		if e.Timeline[i].At.Before(e.Timeline[i-1].At) {
			t.Fatalf("the timeline goes back: %+v", e.Timeline)
		}
	}
}

// That our claim moved tells a correction that was not noted from what somebody else put right.
func TestCorrectionThatWasNotNoted(t *testing.T) {
	object := func(claimed time.Time) *unstructured.Unstructured {
		o := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "a", "namespace": "n"}, "data": map[string]any{"k": "1"},
		}}
		at := metav1.NewTime(claimed)
		o.SetManagedFields([]metav1.ManagedFieldsEntry{{
			Manager: api.FieldManager, Operation: metav1.ManagedFieldsOperationApply, APIVersion: "v1", Time: &at, FieldsType: "FieldsV1",
			FieldsV1: metav1.NewFieldsV1(`{"f:data":{"f:k":{}}}`),
		}})
		return o
	}
	for _, tt := range []struct {
		name    string
		was     api.Outcome
		claimed time.Duration // after it was last known to match
		want    api.Outcome
	}{
		{"about to be corrected", api.OutcomePending, time.Second, api.OutcomeCorrected},
		{"contested, and its turn had come", api.OutcomeContested, time.Second, api.OutcomeCorrected},
		{"failed, and its answer was lost", api.OutcomeFailed, time.Second, api.OutcomeCorrected},
		{"nobody wrote in our name", api.OutcomePending, 0, api.OutcomeResolved},
		{"restored as it was before", api.OutcomePending, -time.Hour, api.OutcomeResolved},
		{"nothing was to be corrected", api.OutcomeReported, time.Second, api.OutcomeResolved},
		{"held back", api.OutcomeSuspended, time.Second, api.OutcomeResolved},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &story{t: t, at: t0}
			s.observe(found("kubectl-edit", "/data/k"))
			s.ep.Outcome = tt.was
			live := object(t0.Add(tt.claimed))
			s.later(time.Minute)
			s.observe(drift.Compare(drift.Input{
				Desired: live, Live: live, DryRun: live, Matched: &api.InventoryEntry{Claimed: t0.Unix()},
			}))
			s.is(tt.want, false, drift.None)
			if n := len(s.ep.Track.Corrections); (n == 1) != (tt.want == api.OutcomeCorrected) {
				t.Errorf("%d corrections count for a fight", n)
			}
		})
	}
}

// An episode that ends because its object left Git is over like any other: nothing of it is due, its last line tells why,
// and it ends after it began, whatever the clock and the length of its story.
func TestResolved(t *testing.T) {
	s := &story{t: t, at: t0}
	s.observe(found("kubectl-edit", "/a"))
	s.corrected(&api.Error{Kind: api.Stalled, Err: errors.New("field is immutable")})
	for len(s.ep.Timeline) < api.MaxTimeline {
		s.ep.Timeline = append(s.ep.Timeline, api.Moment{At: s.at, What: "something"})
	}
	before := s.ep.Onset
	e := drift.Resolved(*s.ep, t0.Add(-time.Hour), "the object left Git")
	if e.Open() || e.Outcome != api.OutcomeResolved || e.Error != "" || !e.NextCorrection.IsZero() {
		t.Errorf("it is not over: %+v", e)
	}
	if e.End.Before(e.Onset) {
		t.Errorf("it ends at %s and began at %s", e.End, e.Onset)
	}
	if last := e.Timeline[len(e.Timeline)-1]; last.What != "the object left Git" || len(e.Timeline) > api.MaxTimeline {
		t.Errorf("the end of %d lines is %q", len(e.Timeline), last.What)
	}
	if s.ep.Onset != before || !s.ep.Open() {
		t.Error("the episode that was given is changed")
	}
}
