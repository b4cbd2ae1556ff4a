package drift

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// sameEpisode is how long after its end a drift of the same fields continues an episode.
const sameEpisode = time.Hour

// Observation is what was found when an object was looked at.
type Observation struct {
	Object  api.ObjectRef
	Bundle  string
	Cluster string
	// Revision is the commit that says what is desired.
	Revision string
	Result   Result
	// Suspension names the suspension that covers the object; empty if none does.
	Suspension string
	// UID and Meta (see api.MetaDigest) are the live object's; empty if there is none.
	UID, Meta string
	At        time.Time
	// Limits may be zero.
	Limits Limits
}

// Decision is what follows from an observation.
type Decision struct {
	// Action is None, Correct, Strip, Remove or Hold.
	Action Action
	// After is when to look again although nothing happens; zero means not by ourselves.
	After time.Duration
	// Reason says in a few words why.
	Reason string
	// Opened is set when the episode is new, or begins again.
	Opened bool
}

// Observe moves on the episode of one object.
// prev is its open episode, or the most recent one; nil if there is none.
// The episode that comes back is nil where there is nothing to store; a new one has no ID yet.
// prev itself is never changed.
func Observe(prev *api.Episode, o Observation) (*api.Episode, Decision) {
	if o.Result.Unknown {
		return nil, Decision{Reason: "it is not known whether the object differs"}
	}
	if o.Result.Class == "" {
		if prev == nil || !prev.Open() {
			return nil, Decision{Reason: "matches"}
		}
		if why := o.Result.passedOver(*prev); why != "" {
			e := passedOver(*prev, o.At, why)
			return &e, Decision{Reason: why}
		}
		if o.Result.rewritten && slices.Contains([]api.Outcome{api.OutcomePending, api.OutcomeContested, api.OutcomeFailed}, prev.Outcome) {
			// We had corrected it, and could not note it: we were stopped, or the answer was lost.
			e := Corrected(*prev, o.At, nil)
			return &e, Decision{Reason: "matches"}
		}
		e := Matched(*prev, o.At)
		return &e, Decision{Reason: "matches"}
	}
	e, at, opened := begin(prev, o)
	if e.Outcome == api.OutcomeFailed && (o.Revision != e.Revision || o.Meta != e.Track.Meta) {
		// Git says something else now, or the object, such as that it is to be forced: that may well be accepted.
		e.Track.Failures, e.NextCorrection = 0, time.Time{}
	}
	look(&e, o, at, opened)
	d := decide(&e, o, at, opened)
	d.Opened = opened
	return &e, d
}

// Matched notes that an object is as it should be. It ends an open episode.
func Matched(prev api.Episode, at time.Time) api.Episode {
	e := clone(prev)
	at = settle(&e, at)
	record(&e, 'm')
	if !e.Open() {
		return e
	}
	end(&e, at)
	e.Outcome = api.OutcomeResolved
	say(&e, at, "resolved: the object matches again")
	return e
}

// passedOver notes that an object is no longer looked at, or not at what had drifted, which ends its episode:
// nothing was put right by that.
func passedOver(prev api.Episode, at time.Time, why string) api.Episode {
	e := ended(prev, at, api.OutcomeIgnored, "no longer looked at: "+why)
	e.Hint = ""
	return e
}

// Corrected notes that a correction was written, which ends the episode, or that it failed.
func Corrected(prev api.Episode, at time.Time, err error) api.Episode {
	e := clone(prev)
	at = settle(&e, at)
	e.LastSeen = at
	if err != nil {
		e.Track.Failures++
		e.Outcome = api.OutcomeFailed
		e.Error = refusal(err)
		e.NextCorrection = at.Add(retryAfter(api.KindOf(err), e.Track.Failures))
		say(&e, at, "correction failed: "+e.Error)
		return e
	}
	e.Track.Failures = 0
	e.Track.Corrections = append(e.Track.Corrections, api.Correction{At: at, Manager: e.By.Manager})
	if n := len(e.Track.Corrections); n > maxCorrections {
		e.Track.Corrections = slices.Delete(e.Track.Corrections, 0, n-maxCorrections)
	}
	record(&e, 'm')
	end(&e, at)
	e.Outcome = api.OutcomeCorrected
	say(&e, at, "corrected")
	return e
}

// Overwritten notes that an apply of a commit wrote over a drift that was only reported, which ends the episode.
// It is no correction that somebody may undo in a fight.
func Overwritten(prev api.Episode, at time.Time, revision string) api.Episode {
	e := clone(prev)
	at = settle(&e, at)
	record(&e, 'm')
	end(&e, at)
	e.Outcome = api.OutcomeCorrected
	say(&e, at, "written over by commit "+revision)
	return e
}

// Resolved notes that the drift ended without us and without a look at the object, such as by leaving Git. It ends the episode.
func Resolved(prev api.Episode, at time.Time, why string) api.Episode {
	return ended(prev, at, api.OutcomeResolved, why)
}

func ended(prev api.Episode, at time.Time, outcome api.Outcome, why string) api.Episode {
	e := clone(prev)
	at = settle(&e, at)
	end(&e, at)
	e.Outcome = outcome
	say(&e, at, why)
	return e
}

// refusal is why a correction failed. Who wrote it has withheld what the API server quotes of a Secret.
func refusal(err error) string {
	s := err.Error()
	if len(s) > api.MaxValueBytes {
		s = strings.ToValidUTF8(s[:api.MaxValueBytes], "") + "…"
	}
	return s
}

// end closes an episode that was seen until then.
func end(e *api.Episode, at time.Time) {
	e.LastSeen = at
	e.Close(at)
}

// begin is the episode that an observation belongs to: the open one, the last one if it is
// the same drift again within an hour and by the same hand, or a new one.
func begin(prev *api.Episode, o Observation) (e api.Episode, at time.Time, opened bool) {
	if prev == nil {
		return fresh(o), o.At, true
	}
	e = clone(*prev)
	at = settle(&e, o.At)
	if e.Open() {
		return e, at, false
	}
	quiet := at.Sub(e.End)
	if quiet > sameEpisode || !same(e, o.Result) || e.By.Manager != o.Result.By.Manager || e.By.Person != o.Result.By.Person {
		next := fresh(o)
		next.Onset = at
		carry(&next, e, o.Result, at, o.Limits.withDefaults())
		return next, at, true
	}
	// Nobody was asked while it was quiet, and it matched.
	for range min(int(quiet/quietState), maxStates) {
		record(&e, 'm')
	}
	e.Rounds = api.FewerRounds(append(e.Rounds, roundOf(e)), api.MaxRounds, api.MaxRoundsBytes)
	e.End, e.Reopened = time.Time{}, at
	e.Count++
	return e, at, true
}

// roundOf is what stays known of an episode that has ended when it goes on.
func roundOf(e api.Episode) api.Round {
	r := api.Round{Began: e.Began(), Ended: e.End, Class: e.Class, By: e.By, Outcome: e.Outcome, Revision: e.Revision}
	r.Fields = slices.Clone(e.Fields[:min(len(e.Fields), api.MaxRoundFields)])
	r.FieldsOmitted = e.FieldsOmitted + len(e.Fields) - len(r.Fields)
	for i := range r.Fields {
		r.Fields[i].Desired = shortened(r.Fields[i].Desired)
		r.Fields[i].Live = shortened(r.Fields[i].Live)
	}
	return r
}

func shortened(value string) string {
	const mark = "…"
	if len(value) <= api.MaxRoundValueBytes {
		return value
	}
	return strings.ToValidUTF8(value[:api.MaxRoundValueBytes-len(mark)], "") + mark
}

// carry takes over what is known of a fight: it is about the object, whichever of its fields it is fought with.
func carry(next *api.Episode, last api.Episode, r Result, at time.Time, l Limits) {
	done := last.Track.Corrections
	if rest(last, r) && len(done) > 0 {
		done = done[:len(done)-1] // nobody has undone it
	}
	for _, c := range done {
		if at.Sub(c.At) <= l.ContestWindow {
			next.Track.Corrections = append(next.Track.Corrections, c)
		}
	}
	if len(next.Track.Corrections) > 0 {
		next.Track.Backoff = last.Track.Backoff
	}
}

// rest reports whether a result is only what a correction had left for the next one:
// what is ours is put right first, and then what others added is removed.
func rest(last api.Episode, r Result) bool {
	return last.Outcome == api.OutcomeCorrected && r.Class == api.ClassAdded && !slices.ContainsFunc(r.Fields, func(f api.FieldDiff) bool {
		return !slices.ContainsFunc(last.Fields, func(was api.FieldDiff) bool {
			return was.Class == f.Class && was.Path == f.Path && was.Live == f.Live
		})
	})
}

func fresh(o Observation) api.Episode {
	return api.Episode{
		Cluster: o.Cluster, Bundle: o.Bundle, Object: o.Object, Class: o.Result.Class,
		Onset: o.At, Count: 1, Track: &api.Track{},
	}
}

// same reports whether a result is the drift of the same fields as the episode's.
func same(e api.Episode, r Result) bool {
	return e.Class == r.Class && len(e.Fields)+e.FieldsOmitted == len(r.Fields) &&
		slices.EqualFunc(e.Fields, r.Fields[:len(e.Fields)], func(a, b api.FieldDiff) bool { return a.Path == b.Path })
}

// look writes what was seen into the episode.
func look(e *api.Episode, o Observation, at time.Time, opened bool) {
	r := o.Result
	switch {
	case opened && e.Count == 1:
		say(e, at, "began: "+headline(r))
	case opened:
		say(e, at, fmt.Sprintf("began again (%d): %s", e.Count, headline(r)))
	case !same(*e, r):
		say(e, at, "now: "+headline(r))
	}
	known := map[string]api.FieldDiff{}
	for _, f := range e.Fields {
		known[f.Path] = f
	}
	e.Class, e.By = r.Class, r.By
	e.Fields = slices.Clone(r.Fields[:min(len(r.Fields), api.MaxFields)])
	e.FieldsOmitted = len(r.Fields) - len(e.Fields)
	for i, f := range e.Fields {
		// What was proven when a value was seen first stays proven while nothing changes,
		// and what was not does not become so: a later stamp is about another change.
		was, ok := known[f.Path]
		if !ok || was.Live != f.Live || (opened && e.Outcome != api.OutcomeIgnored) {
			continue
		}
		if was.By.Confidence == api.ConfidencePerson && was.By.Manager == f.By.Manager && was.By.Time.Equal(f.By.Time) {
			e.Fields[i].By = was.By
		} else {
			e.Fields[i].By = impersonal(f.By)
		}
	}
	if len(e.Fields) > 0 {
		e.By = e.Fields[0].By
	}
	e.Revision, e.UID, e.Bundle, e.LastSeen = or(o.Revision, e.Revision), or(o.UID, e.UID), or(o.Bundle, e.Bundle), at
	if r.Evidence != nil {
		e.Evidence = r.Evidence
	}
	e.Track.Meta = o.Meta
	record(e, 'd')
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// headline is one line about a result, without any value.
func headline(r Result) string {
	s := string(r.Class)
	for i, f := range r.Fields {
		if i == 3 {
			s += fmt.Sprintf(" and %d more", len(r.Fields)-i)
			break
		}
		s += fmt.Sprintf(" %s (%s -> %s)", f.Path, brief(f.Desired), brief(f.Live))
	}
	if r.By.Manager != "" {
		s += " by " + r.By.Manager
	}
	return s
}

// brief is a value as the timeline keeps it: what it was stays known when the episode has another one.
func brief(value string) string {
	const most = 40
	switch r := []rune(value); {
	case value == "":
		return "absent"
	case len(r) > most:
		return string(r[:most]) + "…"
	}
	return value
}

// say adds a moment to the timeline. Of a long one the beginning and the latest moments stay.
func say(e *api.Episode, at time.Time, what string) {
	if n := len(e.Timeline); n > 0 && e.Timeline[n-1].What == what && e.Timeline[n-1].At.Equal(at) {
		return
	}
	e.Timeline = append(e.Timeline, api.Moment{At: at, What: what})
	if n := len(e.Timeline); n > api.MaxTimeline {
		e.Timeline = slices.Delete(e.Timeline, 1, 1+n-api.MaxTimeline)
	}
}

// clone copies an episode so that the copy can be changed.
func clone(e api.Episode) api.Episode {
	e.Fields, e.Timeline, e.Rounds = slices.Clone(e.Fields), slices.Clone(e.Timeline), slices.Clone(e.Rounds)
	t := api.Track{}
	if e.Track != nil {
		t = *e.Track
		t.Corrections = slices.Clone(t.Corrections)
	}
	e.Track = &t
	if e.Count == 0 {
		e.Count = 1
	}
	return e
}

// step back of less than this is the clock being adjusted.
const smallStep = time.Minute

// settle makes an episode and a time fit together, and returns the time to go on with.
// Time only goes on within an episode: when the clock was adjusted a little, the later time stands;
// when it jumped back, everything that was written down moves back with it, so that durations stay true
// and nothing waits for a time that the clock had reached by mistake.
func settle(e *api.Episode, at time.Time) time.Time {
	latest := e.Onset
	later := func(t time.Time) {
		if t.After(latest) {
			latest = t
		}
	}
	later(e.Reopened)
	later(e.LastSeen)
	later(e.End)
	for _, m := range e.Timeline {
		later(m.At)
	}
	for _, c := range e.Track.Corrections {
		later(c.At)
	}
	by := latest.Sub(at)
	if by <= 0 {
		return at
	}
	if by < smallStep {
		return latest
	}
	shift := func(t *time.Time) {
		if !t.IsZero() {
			*t = t.Add(-by)
		}
	}
	shift(&e.Onset)
	shift(&e.Reopened)
	shift(&e.LastSeen)
	shift(&e.End)
	shift(&e.NextCorrection)
	for i := range e.Timeline {
		shift(&e.Timeline[i].At)
	}
	for i := range e.Rounds {
		shift(&e.Rounds[i].Began)
		shift(&e.Rounds[i].Ended)
	}
	for i := range e.Track.Corrections {
		shift(&e.Track.Corrections[i].At)
	}
	say(e, at, fmt.Sprintf("the clock went back by %s, and the times above with it", by.Round(time.Second)))
	return at
}
