package intake

import (
	"slices"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// The words that are known.
var (
	classes  = []api.Class{api.ClassChanged, api.ClassRemoved, api.ClassAdded, api.ClassMissing, api.ClassExtra}
	outcomes = []api.Outcome{
		api.OutcomePending, api.OutcomeCorrected, api.OutcomeReported, api.OutcomeSuspended, api.OutcomeContested,
		api.OutcomeResolved, api.OutcomeIgnored, api.OutcomeFailed,
	}
)

func (t *taker) episode(e *api.Episode) bool {
	id, err := api.ParseEpisodeID(e.ID)
	if !t.need(err == nil && validTag.MatchString(id.Store), BadName, "an episode's ID is %s", show(e.ID)) ||
		!t.need(e.Bundle == "" || api.ValidName(e.Bundle), BadName, "an episode's bundle is %s", show(e.Bundle)) ||
		!t.need(validRef(e.Object), BadName, "an episode is of %s", show(e.Object.String())) ||
		!t.need(slices.Contains(classes, e.Class), BadName, "an episode's class is %s", show(string(e.Class))) ||
		!t.need(slices.Contains(outcomes, e.Outcome), BadName, "an episode's outcome is %s", show(string(e.Outcome))) ||
		!t.need(!e.Onset.IsZero(), BadTime, "episode %s has no beginning", e.ID) {
		return false
	}
	t.name(&e.UID, word, "a UID")
	t.name(&e.Revision, word, "a revision")
	t.name(&e.Suspension, validSuspension, "a suspension")
	t.text(&e.Error, maxText, "a correction's error")
	t.text(&e.Hint, maxText, "a hint")
	e.Count = number(e.Count)
	t.span(e)
	t.attribution(&e.By)
	t.fields(e)
	t.evidence(e)
	e.Timeline = slices.Clone(first(t, e.Timeline, api.MaxTimeline, "moments of an episode"))
	for i := range e.Timeline {
		t.past(&e.Timeline[i].At, "a moment at")
		t.text(&e.Timeline[i].What, maxLine, "a moment")
	}
	t.rounds(e)
	e.Track = nil // the agent's own bookkeeping
	return true
}

// span puts an episode's times in order. A correction may lie ahead, but not for years.
func (t *taker) span(e *api.Episode) {
	t.past(&e.Onset, "a drift's beginning")
	t.past(&e.LastSeen, "a drift seen at")
	t.past(&e.End, "a drift's end")
	if !e.End.IsZero() && e.End.Before(e.Onset) {
		t.omit(BadTime, "episode %s ended %s before it began", e.ID, e.Onset.Sub(e.End).Round(time.Second))
		e.End = e.Onset
	}
	if e.NextCorrection.Sub(t.now) > 365*24*time.Hour || !e.NextCorrection.IsZero() && e.NextCorrection.Before(epoch) {
		t.omit(BadTime, "a correction at %s", e.NextCorrection.UTC().Format(time.RFC3339))
		e.NextCorrection = time.Time{}
	}
}

func (t *taker) attribution(a *api.Attribution) {
	// The API server takes no longer field manager than 128 bytes, and only printable ones.
	t.name(&a.Manager, printable(128), "a field manager")
	t.name(&a.Person, printable(256), "a person")
	t.name(&a.Subresource, word, "a subresource")
	t.name(&a.Operation, func(s string) bool { return s == "Apply" || s == "Update" }, "an operation")
	t.past(&a.Time, "a change at")
	switch a.Confidence {
	case "", api.ConfidencePerson, api.ConfidenceTool, api.ConfidenceUnknown:
	default:
		t.omit(BadName, "a confidence %s", show(string(a.Confidence)))
		a.Confidence = api.ConfidenceUnknown
	}
}

func (t *taker) fields(e *api.Episode) {
	kept := t.goodFields(first(t, e.Fields, api.MaxFields, "fields"), 2*api.MaxValueBytes)
	e.FieldsOmitted = number(e.FieldsOmitted) + len(e.Fields) - len(kept)
	e.Fields = kept
}

// goodFields are those that can be, with values of a length.
func (t *taker) goodFields(fields []api.FieldDiff, most int) (kept []api.FieldDiff) {
	for _, f := range fields {
		known := f.Class == api.ClassChanged || f.Class == api.ClassRemoved || f.Class == api.ClassAdded
		if !t.need(known && printable(maxLine)(f.Path), BadName, "a field %s that was %s", show(f.Path), show(string(f.Class))) {
			continue
		}
		t.text(&f.Desired, most, "a field's value in Git")
		t.text(&f.Live, most, "a field's live value")
		t.attribution(&f.By)
		kept = append(kept, f)
	}
	return kept
}

// rounds takes the earlier rounds of an episode. One that cannot be is left out.
func (t *taker) rounds(e *api.Episode) {
	t.past(&e.Reopened, "a drift that began again at")
	var kept []api.Round
	for _, r := range first(t, e.Rounds, api.MaxRounds, "earlier rounds of an episode") {
		if !t.need(slices.Contains(classes, r.Class), BadName, "an earlier round's class is %s", show(string(r.Class))) ||
			!t.need(slices.Contains(outcomes, r.Outcome), BadName, "an earlier round's outcome is %s", show(string(r.Outcome))) ||
			!t.need(!r.Began.IsZero() && !r.Ended.Before(r.Began), BadTime, "an earlier round of episode %s has no beginning, or ends before it", e.ID) {
			continue
		}
		t.past(&r.Began, "an earlier round's beginning")
		t.past(&r.Ended, "an earlier round's end")
		t.name(&r.Revision, word, "a revision")
		t.attribution(&r.By)
		good := t.goodFields(first(t, r.Fields, api.MaxRoundFields, "fields of an earlier round"), api.MaxRoundValueBytes)
		r.FieldsOmitted = number(r.FieldsOmitted) + len(r.Fields) - len(good)
		r.Fields = good
		kept = append(kept, r)
	}
	e.Rounds = api.FewerRounds(kept, api.MaxRounds, api.MaxRoundsBytes)
	t.need(len(e.Rounds) == len(kept), TooLong, "earlier rounds of an episode: they may have %d bytes", api.MaxRoundsBytes)
}

func (t *taker) evidence(e *api.Episode) {
	if e.Evidence == nil {
		return
	}
	v := *e.Evidence
	t.name(&v.ResourceVersion, word, "a resourceVersion")
	for _, s := range []*string{&v.Live, &v.ManagedFields} {
		if !t.need(len(*s) <= api.MaxEvidenceBytes, TooLong, "evidence of %d bytes: it may have %d", len(*s), api.MaxEvidenceBytes) {
			*s = ""
		}
	}
	e.Evidence = &v
}
