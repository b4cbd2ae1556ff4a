package reconciler

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
	"github.com/flotilla-fleet/flotilla/reconciler/health"
)

// Source is where snapshots come from.
type Source interface {
	// Fetch returns the newest snapshot. When the repository cannot be reached it returns
	// the last good snapshot (its Tree is nil if there is none) and an error.
	Fetch(ctx context.Context) (api.Snapshot, error)
	// Changed reports whether Fetch would return another revision than last time.
	Changed(ctx context.Context) (bool, error)
	// At returns the snapshot of an older revision.
	At(ctx context.Context, revision string) (api.Snapshot, error)
}

// Renderer turns a snapshot into one cluster's desired state.
type Renderer interface {
	Render(ctx context.Context, snap api.Snapshot, cluster string, facts api.ClusterFacts) (api.Rendering, error)
	// Changed reports whether something else than the snapshot has changed since a rendering: its keys.
	Changed(keys string) bool
}

// Applier writes to the cluster and looks at it.
type Applier interface {
	Facts(ctx context.Context) (api.ClusterFacts, error)
	// Resolve gives objects the namespaces that they will have on the cluster, as far as their kinds are known.
	Resolve(ctx context.Context, r api.Rendering) api.Rendering
	Inventory(ctx context.Context) (map[string][]api.InventoryEntry, error)
	// BundleStatuses returns what the cluster tells of the bundles.
	BundleStatuses(ctx context.Context) ([]api.BundleStatus, error)
	// Suspensions returns what holds on the cluster, ends in our own time.
	// With an error whose reason is BadSuspension they are all there, those that cannot be understood read carefully.
	Suspensions(ctx context.Context) (api.Suspensions, error)
	// ClockSkew is what to add to our time to get the API server's.
	ClockSkew() time.Duration
	// Autoscalers returns what scales objects in a namespace of the cluster, whoever made it.
	Autoscalers(ctx context.Context, namespace string) ([]*unstructured.Unstructured, error)
	Apply(ctx context.Context, req apply.Request) apply.Result
	Prune(ctx context.Context, req apply.PruneRequest) apply.Result
	RunPreDelete(ctx context.Context, req apply.Request) ([]api.Change, bool, error)
	RunPostDelete(ctx context.Context, req apply.Request) ([]api.Change, bool, error)
	Inspect(ctx context.Context, bundle api.RenderedBundle, desired *unstructured.Unstructured) apply.Inspection
	InspectExtra(ctx context.Context, bundle api.RenderedBundle, ref api.ObjectRef) apply.Inspection
	Correct(ctx context.Context, bundle api.RenderedBundle, desired, live *unstructured.Unstructured) (api.InventoryEntry, error)
	// Strip applies a JSON patch (RFC 6902) that removes what others added to an object.
	Strip(ctx context.Context, bundle api.RenderedBundle, live *unstructured.Unstructured, patch []byte) (api.InventoryEntry, error)
	// Without asks with a dry run what such a patch would leave of an inspected object; nil if that cannot be known.
	Without(ctx context.Context, bundle api.RenderedBundle, in apply.Inspection, patch []byte) (*unstructured.Unstructured, error)
	// RemoveExtra deletes an object that is not in Git, if it is still what live is.
	RemoveExtra(ctx context.Context, bundle api.RenderedBundle, live *unstructured.Unstructured) error
	PublishStatus(ctx context.Context, status api.BundleStatus, entries []api.InventoryEntry) error
	DeleteStatus(ctx context.Context, bundle string) error
	PublishReport(ctx context.Context, r cluster.Report) error
	Event(ctx context.Context, e cluster.EventRequest)
}

// Health says how the objects of a bundle fare.
type Health interface {
	Set(bundle string, objects []api.InventoryEntry, checks []api.HealthCheck)
	Remove(bundle string)
	Get(bundle string) health.Summary
	// Explain says why an object is not healthy, from its Pods and Events; empty if nothing is known.
	Explain(ctx context.Context, ref api.ObjectRef) string
}

// Watch says what the cluster holds of the kinds that we own.
type Watch interface {
	SetKinds(kinds []schema.GroupVersionKind)
	// Get returns what the watch last saw of an object; false if it is not there,
	// or its kind is not (yet) watched.
	Get(ref api.ObjectRef) (Seen, bool)
	// Synced reports whether the watch of the kind has seen everything there is.
	Synced(gvk schema.GroupVersionKind) bool
	// Objects calls f for every object that carries an ApplySet label.
	Objects(f func(api.ObjectRef, Seen))
	// Relist has everything seen anew, and then calls Relisted; see watch.Watcher.
	Relist()
}

// Seen is what a metadata watch knows of an object.
type Seen struct {
	UID             string
	ResourceVersion string
	Generation      int64
	MetaDigest      string
	// PartOf is the ApplySet that the object's label names.
	PartOf string
	// Orders are what its annotations say.
	Orders api.Orders
	// Applied says that our field manager applied it: nobody made it by copying the labels.
	Applied bool
}

// Detective compares an object with what it should be and moves its episode on. It is pure.
type Detective interface {
	// Observe takes the object's last episode (nil if there is none) and what was found now.
	Observe(prev *api.Episode, o Observation) Verdict
	// Additions is a patch that takes away what others added, where it is worth asking what would be left without it.
	Additions(o Observation) []byte
	// Overwritten notes that an apply of a revision wrote over a drift that was only reported.
	Overwritten(e api.Episode, at time.Time, revision string) api.Episode
	// Corrected notes that the drift was corrected, or that the correction failed.
	Corrected(e api.Episode, at time.Time, err error) api.Episode
	// Resolved notes that the drift ended without us and without a look at the object.
	Resolved(e api.Episode, at time.Time, why string) api.Episode
	// Leave returns the fields that an apply leaves as they are on the live object, beside those of ignore rules.
	Leave(desired, live *unstructured.Unstructured, neighbours []*unstructured.Unstructured) []string
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

// Store keeps what must survive the agent. Every call is one transaction.
type Store interface {
	// Status is zero until one was committed.
	Status() (api.ClusterStatus, error)
	Bundles() ([]api.BundleRecord, error)
	OpenEpisodes() ([]api.Episode, error)
	// LatestEpisode returns the last episode of an object; nil if there was none.
	LatestEpisode(object string) (*api.Episode, error)
	NextEpisodeID() string
	Commit(r Record) error
}

// Record is what one transaction of the store keeps.
type Record struct {
	Status         *api.ClusterStatus
	Bundles        []api.BundleRecord
	RemovedBundles []string
	Episodes       []api.Episode
}
