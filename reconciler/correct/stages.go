package correct

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
	"github.com/flotilla-fleet/flotilla/reconciler/objects"
)

// Inspector looks at objects on the cluster, and changes nothing.
type Inspector interface {
	Inspect(ctx context.Context, bundle api.RenderedBundle, desired *unstructured.Unstructured) apply.Inspection
	InspectExtra(ctx context.Context, bundle api.RenderedBundle, ref api.ObjectRef) apply.Inspection
	// Without asks with a dry run what such a patch would leave of an inspected object; nil if that cannot be known.
	Without(ctx context.Context, bundle api.RenderedBundle, in apply.Inspection, patch []byte) (*unstructured.Unstructured, error)
	// Autoscalers returns what scales objects in a namespace of the cluster, whoever made it.
	Autoscalers(ctx context.Context, namespace string) ([]*unstructured.Unstructured, error)
}

// Writer writes corrections to the cluster.
type Writer interface {
	Correct(ctx context.Context, bundle api.RenderedBundle, desired, live *unstructured.Unstructured) (api.InventoryEntry, error)
	// Strip applies a JSON patch (RFC 6902) that removes what others added to an object.
	Strip(ctx context.Context, bundle api.RenderedBundle, live *unstructured.Unstructured, patch []byte) (api.InventoryEntry, error)
	// RemoveExtra deletes an object that is not in Git, if it is still what live is.
	RemoveExtra(ctx context.Context, bundle api.RenderedBundle, live *unstructured.Unstructured) error
}

// Watch says what the cluster holds of the kinds that we own.
type Watch interface {
	// Get returns what the watch last saw of an object; false if it is not there,
	// or its kind is not (yet) watched.
	Get(ref api.ObjectRef) (objects.Seen, bool)
	// Synced reports whether the watch of the kind, in any version, has seen everything there is.
	Synced(gvk schema.GroupVersionKind) bool
	// Objects calls f for every object that carries an ApplySet label.
	Objects(f func(api.ObjectRef, objects.Seen))
}

// Health is told what to follow after a correction has made an object anew, or deleted one.
type Health interface {
	Set(bundle string, objects []api.InventoryEntry, checks []api.HealthCheck)
}

// Episodes knows the episodes of the past.
type Episodes interface {
	// LatestEpisode returns the last episode of an object; nil if there was none.
	LatestEpisode(object string) (*api.Episode, error)
	NextEpisodeID() string
}

// Publisher tells the cluster. Its methods return at once.
type Publisher interface {
	// Touch has the status of a bundle published.
	Touch(bundle string)
	Event(e cluster.EventRequest)
}

// Metrics measures the loop. A since that is zero is not known.
type Metrics interface {
	Detected(class api.Class, since, now time.Time)
	Corrected(since, now time.Time)
	// Uncompared counts a comparison that failed.
	Uncompared()
}

// Detective compares an object with what it should be and moves its episode on. It is pure.
type Detective interface {
	Judge
	Ledger
	// Leave returns the fields that an apply leaves as they are on the live object, beside those of ignore rules.
	Leave(desired, live *unstructured.Unstructured, neighbours []*unstructured.Unstructured) []string
}

// Judge says what follows from an observation.
type Judge interface {
	// Observe takes the object's last episode (nil if there is none) and what was found now.
	Observe(prev *api.Episode, o Observation) Verdict
	// Additions is a patch that takes away what others added, where it is worth asking what would be left without it.
	Additions(o Observation) []byte
}

// Ledger moves episodes on that end without an observation.
type Ledger interface {
	// Overwritten notes that an apply of a revision wrote over a drift that was only reported.
	Overwritten(e api.Episode, at time.Time, revision string) api.Episode
	// Corrected notes that the drift was corrected, or that the correction failed.
	Corrected(e api.Episode, at time.Time, err error) api.Episode
	// Resolved notes that the drift ended without us and without a look at the object.
	Resolved(e api.Episode, at time.Time, why string) api.Episode
}

// Observation is what was found when an object was looked at.
type Observation struct {
	Bundle   string
	Object   api.ObjectRef
	Revision string
	Spec     api.Drift
	// Desired is nil for an object that is not in Git; Live is nil for one that is missing.
	Desired, Live, DryRun *unstructured.Unstructured
	// Stripped is what would be left of Live without what others added; nil if nobody asked.
	Stripped *unstructured.Unstructured
	// Refused says that the API server would not apply Desired to Live; DryRun is of an object of its own then.
	Refused bool
	// Unapplied says that Desired is not what was last applied to the object.
	Unapplied bool
	// Known is the object as it was last known to match; nil if it never was.
	Known *api.InventoryEntry
	// Neighbours are the autoscalers that Git describes for the cluster, and where replicas differ
	// those of the object's namespace: one of them may own fields of this object.
	Neighbours []*unstructured.Unstructured
	// Suspension names the suspension that covers the object; empty if none does.
	Suspension string
	At         time.Time
}

// Verdict is what follows from an observation.
type Verdict struct {
	// Episode is the episode as it is now; nil if there is none to store.
	Episode *api.Episode
	// Opened is set when the drift was not known before.
	Opened bool
	// Write is the object to apply now; nil for nothing.
	// It is the desired one, without what is left to others.
	Write *unstructured.Unstructured
	// Strip is a patch to apply now, that removes what others added; nil for nothing.
	Strip []byte
	// Remove says that the object is extra and is to be deleted now.
	Remove bool
	// After is when to look again; zero for not by ourselves.
	After time.Duration
}

// drifts reports whether a verdict is that the object has drifted, or still has.
func (v Verdict) drifts() bool { return v.Episode != nil && v.Episode.Open() }
