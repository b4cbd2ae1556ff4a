package plan

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

// Compare says how closely a pass looks.
type Compare string

// The two ways to compare.
const (
	// CompareChanged trusts the inventory: an object whose digest is the applied one is not looked at.
	CompareChanged Compare = ""
	// CompareAll looks at every object.
	CompareAll Compare = "all"
)

// Sight is what is known of a live object.
type Sight string

// The sights.
const (
	// NotSeen: nobody has looked yet.
	NotSeen Sight = ""
	// Absent: the API server said that there is no such object.
	Absent Sight = "absent"
	// Present: Input.Live is the object.
	Present Sight = "present"
	// Unknown: the look failed, and Input.Cause is why. It is never taken for Absent.
	Unknown Sight = "unknown"
)

// Next is what has to be done now.
type Next string

// The next steps.
const (
	// Done: nothing more; Step.Action is the result.
	Done Next = ""
	// Look: read the live object and ask again.
	Look Next = "look"
	// TryCreate: write it on the condition that there is none; if there is one, look and ask again.
	TryCreate Next = "tryCreate"
	// TryUpdate: write it on the condition of the resource version Input.AsLeft; if it has another one, look and ask again.
	TryUpdate Next = "tryUpdate"
	// Write: apply it. Step.Action holds unless the API server finds nothing to change.
	Write Next = "write"
	// Verify: dry-run first, and write only if that differs from the live object.
	Verify Next = "verify"
	// Recreate: delete it, wait until it is gone, and create it.
	Recreate Next = "recreate"
	// Delete: delete the live object.
	Delete Next = "delete"
)

// Input is all that the decision about one object depends on.
type Input struct {
	// Bundle is the bundle's name.
	Bundle string
	// Desired is the object as rendered, with its namespace resolved.
	Desired *unstructured.Unstructured
	// Digest is of Desired.
	Digest string
	// Entry is the bundle's own inventory entry; nil if it never applied the object.
	Entry   *api.InventoryEntry
	Compare Compare
	Sight   Sight
	// Live is the object on the cluster; its metadata is enough.
	Live *unstructured.Unstructured
	// AsLeft is the resource version under which the live object is known, from its watch, to be as Entry has it,
	// but for its status. Empty means that it is not known.
	AsLeft string
	// Applied is the object as it was last applied; nil if that is unknown.
	Applied *unstructured.Unstructured
	// Cause is why the sight is Unknown.
	Cause error
	// Held is the suspension that covers the object; nil if there is none.
	Held *api.Suspension
	// Declared are the bundles that declare this object, this one included; the first has it.
	// Nil means that nobody checked.
	Declared []string
	// MayTake reports whether the object may be taken over from another bundle. Nil means that it may from any.
	MayTake func(bundle string) bool
	// Drift is the bundle's drift policy.
	Drift api.Drift
}

// Step is what is to be done to one object.
type Step struct {
	Object api.ObjectRef
	Next   Next
	// Action is what the change set will say once Next is done.
	Action api.Action
	// Reason says in a few words why.
	Reason string
	// Err is set for Denied and Failed.
	Err error
	// Orders are what the annotations of a live object say that is passed over for them and was never ours; see Forget.
	Orders api.Orders
	// TakeOver says which other managers' fields become ours.
	TakeOver TakeOver
	// Forget says that the object does not belong in the bundle's inventory (any more).
	Forget bool
}

// TakeOver says which fields of other managers a write makes ours first.
type TakeOver string

// The ways to take over.
const (
	// TakeNothing leaves every manager its fields, beyond what the write itself sets.
	TakeNothing TakeOver = ""
	// TakeAll adopts the object: all fields of the Adopted managers become ours,
	// so what they set and Git does not is removed.
	TakeAll TakeOver = "all"
	// TakeShared makes us the only owner of the fields that we own together with an Adopted manager,
	// so removing one from Git removes it from the cluster. What only they own stays theirs.
	TakeShared TakeOver = "shared"
)
