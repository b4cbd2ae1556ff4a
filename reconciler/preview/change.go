package preview

import "github.com/flotilla-fleet/flotilla/api"

// Outcome is what becomes of a difference in a pass.
type Outcome string

const (
	// OutcomeChange is a difference that the pass takes away.
	OutcomeChange Outcome = "change"
	// OutcomeUnclear is a difference that the pass takes away or only reports: what was applied last is not known.
	OutcomeUnclear Outcome = "unclear"
	// OutcomeRefused is a change that a guard refuses.
	OutcomeRefused Outcome = "refused"
	// OutcomeHeld is a change that a suspension holds back.
	OutcomeHeld Outcome = "held"
	// OutcomeReported is drift that the policy only reports.
	OutcomeReported Outcome = "reported"
	// OutcomeSkipped is an object that the pass leaves as it is.
	OutcomeSkipped Outcome = "skipped"
	// OutcomeFailed is a change that the pass tries, and that fails.
	OutcomeFailed Outcome = "failed"
)

// Counts reports whether there is something to do for a pass, or for whoever committed.
func (o Outcome) Counts() bool {
	return o == OutcomeChange || o == OutcomeUnclear || o == OutcomeRefused
}

// Change is what a pass would do to one object; without an object, what concerns a whole bundle,
// and without a bundle, the whole cluster.
type Change struct {
	Bundle  string        `json:"bundle,omitempty"`
	Object  api.ObjectRef `json:"object,omitzero"`
	Action  api.Action    `json:"action"`
	Outcome Outcome       `json:"outcome"`
	// Hook is when the object is run, if it is one of a chart's hooks.
	Hook   api.HookPhase   `json:"hook,omitempty"`
	Reason string          `json:"reason,omitempty"`
	HeldBy string          `json:"heldBy,omitempty"`
	Error  string          `json:"error,omitempty"`
	Fields []api.FieldDiff `json:"fields,omitempty"`
}
