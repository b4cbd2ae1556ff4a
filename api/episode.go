package api

import (
	"encoding/json"
	"slices"
	"time"
)

// Class is the kind of a drift.
type Class string

// The classes.
const (
	// ClassChanged: a field that we own has another value.
	ClassChanged Class = "changed"
	// ClassRemoved: a field that we declared is gone.
	ClassRemoved Class = "removed"
	// ClassAdded: somebody added a field below an object that we own.
	ClassAdded Class = "added"
	// ClassMissing: the object is gone.
	ClassMissing Class = "missing"
	// ClassExtra: an object carries our ApplySet label but is not in Git.
	ClassExtra Class = "extra"
)

// Outcome is what was done about a drift.
type Outcome string

// The outcomes.
const (
	// OutcomePending: seen, and about to be corrected.
	OutcomePending Outcome = "pending"
	// OutcomeCorrected: we wrote the desired value back.
	OutcomeCorrected Outcome = "corrected"
	// OutcomeReported: the mode says report.
	OutcomeReported Outcome = "reported"
	// OutcomeSuspended: a suspension covers it.
	OutcomeSuspended Outcome = "suspended"
	// OutcomeContested: somebody keeps taking the field back; we wait longer each time.
	OutcomeContested Outcome = "contested"
	// OutcomeResolved: it ended without us: changed back by hand, or Git now says the same.
	OutcomeResolved Outcome = "resolved"
	// OutcomeIgnored: it may stand as before, but nobody looks any more: an ignore rule or an annotation says so.
	OutcomeIgnored Outcome = "ignored"
	// OutcomeFailed: the correction was refused; Episode.Error says why.
	OutcomeFailed Outcome = "failed"
)

// Confidence is how sure the attribution is, in a word. It is never a guess:
// without evidence it is ConfidenceUnknown.
type Confidence string

// The confidences.
const (
	// ConfidencePerson: the API server stamped the user's name.
	ConfidencePerson Confidence = "person"
	// ConfidenceTool: managedFields names the tool that owns the field now. The name is the client's own claim.
	ConfidenceTool Confidence = "tool"
	// ConfidenceUnknown: nothing on the object says who (a removal leaves no owner).
	ConfidenceUnknown Confidence = "unknown"
)

// Attribution is who changed something.
type Attribution struct {
	// Manager is the field manager; empty where unknown.
	Manager string `json:"manager,omitempty"`
	// Operation is Apply or Update.
	Operation string `json:"operation,omitempty"`
	// Subresource is "scale" or "status" where the write went there.
	Subresource string `json:"subresource,omitempty"`
	// Time is when the manager last changed any of its fields: an upper bound, in whole seconds.
	Time time.Time `json:"time,omitzero"`
	// Person is the user's name (or its hash) where the cluster stamps it.
	Person     string     `json:"person,omitempty"`
	Confidence Confidence `json:"confidence"`
}

// FieldDiff is one field that differs.
type FieldDiff struct {
	// Path is a JSON pointer; list items with keys are written as in managedFields:
	// /spec/template/spec/containers/[name=app]/image.
	Path string `json:"path"`
	// Class is changed, removed or added.
	Class Class `json:"class"`
	// Desired and Live are JSON; empty means absent. Secret values are replaced by a marker.
	Desired string `json:"desired,omitempty"`
	Live    string `json:"live,omitempty"`
	// By is who owns the live value.
	By Attribution `json:"by"`
}

// Episode is one drift of one object from onset to end.
type Episode struct {
	// ID is unique in the fleet; see EpisodeID.
	ID      string    `json:"id"`
	Cluster string    `json:"cluster"`
	Bundle  string    `json:"bundle"`
	Object  ObjectRef `json:"object"`
	// UID is the live object's.
	UID   string `json:"uid,omitempty"`
	Class Class  `json:"class"`
	// Fields is bounded to MaxFields; FieldsOmitted counts the rest.
	Fields        []FieldDiff `json:"fields,omitempty"`
	FieldsOmitted int         `json:"fieldsOmitted,omitempty"`
	// By is who is named for the whole episode: the owner of the first field.
	By Attribution `json:"by"`
	// Revision is the commit that says what is desired.
	Revision string `json:"revision,omitempty"`
	// Onset is when it was first seen; LastSeen, when last; End is zero while open.
	Onset    time.Time `json:"onset"`
	LastSeen time.Time `json:"lastSeen"`
	End      time.Time `json:"end,omitzero"`
	// Count is the number of rounds so far; 1 at first.
	Count int `json:"count"`
	// Reopened is the beginning of the latest round. It is zero in the first round, and in records that are older than Rounds.
	Reopened time.Time `json:"reopened,omitzero"`
	// Rounds are the earlier rounds, oldest first, bounded to MaxRounds and MaxRoundsBytes.
	// The first one and the latest are kept. Earlier counts all of them.
	Rounds  []Round `json:"rounds,omitempty"`
	Outcome Outcome `json:"outcome"`
	// Suspension is the name of the suspension that held correction back.
	Suspension string `json:"suspension,omitempty"`
	// NextCorrection is when a contested object is corrected again.
	NextCorrection time.Time `json:"nextCorrection,omitzero"`
	// Flapping is set while the object changes between drifted and matching too often.
	Flapping bool `json:"flapping,omitempty"`
	// Error is why a correction failed.
	Error string `json:"error,omitempty"`
	// Hint is what would end it, such as the ignore rule for a contested field.
	Hint string `json:"hint,omitempty"`
	// Evidence is what was stored before the correction.
	Evidence *Evidence `json:"evidence,omitempty"`
	// Timeline is what happened, oldest first, bounded to MaxTimeline.
	Timeline []Moment `json:"timeline,omitempty"`
	// Track is what package drift remembers to tell fights and flapping; bookkeeping, not shown.
	Track *Track `json:"track,omitempty"`
}

// Round is an earlier round of an episode: the drift stood, ended, and began again.
// Its class, fields and attribution are those of its end.
type Round struct {
	Began time.Time   `json:"began"`
	Ended time.Time   `json:"ended"`
	Class Class       `json:"class"`
	By    Attribution `json:"by"`
	// Outcome is how it ended.
	Outcome Outcome `json:"outcome"`
	// Revision is the commit that said what was desired.
	Revision string `json:"revision,omitempty"`
	// Fields is bounded to MaxRoundFields, and each value to MaxRoundValueBytes; FieldsOmitted counts the rest.
	Fields        []FieldDiff `json:"fields,omitempty"`
	FieldsOmitted int         `json:"fieldsOmitted,omitempty"`
}

// Track is the memory of an episode.
type Track struct {
	// Corrections are the latest that succeeded, oldest first.
	Corrections []Correction `json:"corrections,omitempty"`
	// States are the latest outcomes of looking, oldest first: "d" for drift, "m" for match.
	States string `json:"states,omitempty"`
	// Backoff is how long a contested object is left alone between corrections; zero if it is not contested.
	Backoff Duration `json:"backoff,omitempty"`
	// Failures counts corrections that failed one after the other.
	Failures int `json:"failures,omitempty"`
	// Meta is the MetaDigest of the object as it was last looked at.
	Meta string `json:"meta,omitempty"`
}

// Correction is one correction and who had made it necessary.
type Correction struct {
	At      time.Time `json:"at"`
	Manager string    `json:"manager,omitempty"`
}

// Bounds of an episode, so that stores, reports and pages stay small.
const (
	MaxFields     = 50
	MaxTimeline   = 50
	MaxValueBytes = 2048
	// MaxRoundsBytes bounds Episode.Rounds as JSON.
	MaxRounds          = 10
	MaxRoundsBytes     = 16 << 10
	MaxRoundFields     = 5
	MaxRoundValueBytes = 256
	// MaxEvidenceBytes bounds Evidence.Live and Evidence.ManagedFields, each.
	MaxEvidenceBytes = 64 << 10
)

// Open reports whether the drift still stands.
func (e Episode) Open() bool { return e.End.IsZero() }

// Close ends an episode at a time: nothing of it is tried again. Who ends it says with what outcome.
func (e *Episode) Close(at time.Time) {
	e.End = at
	e.NextCorrection, e.Error = time.Time{}, ""
}

// Began is when the round that is the latest began.
func (e Episode) Began() time.Time {
	if e.Reopened.IsZero() {
		return e.Onset
	}
	return e.Reopened
}

// MoveBegin says that the latest round began before it was first looked at, but not before the one before it had ended.
func (e *Episode) MoveBegin(at time.Time) {
	if e.Reopened.IsZero() {
		e.Onset = at
		return
	}
	if n := len(e.Rounds); n > 0 && at.Before(e.Rounds[n-1].Ended) {
		at = e.Rounds[n-1].Ended
	}
	e.Reopened = at
}

// Earlier is how many rounds there were before the latest, whether Rounds has them or not.
func (e Episode) Earlier() int { return max(e.Count-1, len(e.Rounds), 0) }

// RoundsLost is how many earlier rounds are not kept in detail.
func (e Episode) RoundsLost() int { return e.Earlier() - len(e.Rounds) }

// FewerRounds keeps of rounds the first and the latest, at most count of them and at most size bytes of JSON.
func FewerRounds(rounds []Round, count, size int) []Round {
	out := slices.Clone(rounds)
	if n := len(out) - max(count, 0); n > 0 {
		out = slices.Delete(out, min(1, len(out)-n), min(1, len(out)-n)+n)
	}
	for len(out) > 0 && !fit(out, size) {
		at := min(1, len(out)-1)
		out = slices.Delete(out, at, at+1)
	}
	return out
}

func fit(rounds []Round, size int) bool {
	b, err := json.Marshal(rounds)
	return err == nil && len(b) <= size
}

// Evidence is the state before a correction destroyed it. Secret values are masked.
// Where the state is larger than MaxEvidenceBytes, a note stands in place of each part that was left out:
// "(omitted: 70213 bytes, sha256:…)", in a map below the key "…". The fields that differ are left out last.
type Evidence struct {
	ResourceVersion string `json:"resourceVersion"`
	Generation      int64  `json:"generation,omitempty"`
	// Live is the object as it was, in JSON without managedFields; empty if it was missing.
	Live string `json:"live,omitempty"`
	// ManagedFields is metadata.managedFields, in JSON.
	ManagedFields string `json:"managedFields,omitempty"`
}

// Moment is one thing that happened in an episode.
type Moment struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
}
