package reconciler

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
	"github.com/flotilla-fleet/flotilla/reconciler/correct"
	"github.com/flotilla-fleet/flotilla/reconciler/health"
	"github.com/flotilla-fleet/flotilla/reconciler/record"
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

// Applier is the cluster, for all that is done there. Who does one thing there asks for the interface of that alone.
type Applier interface {
	Discovery
	State
	Deployer
	Board
	correct.Inspector
	correct.Writer
}

// Discovery knows what the cluster offers.
type Discovery interface {
	Facts(ctx context.Context) (api.ClusterFacts, error)
	// Resolve gives objects the namespaces that they will have on the cluster, as far as their kinds are known.
	Resolve(ctx context.Context, r api.Rendering) api.Rendering
}

// State is what the cluster keeps of us and for us.
type State interface {
	Inventory(ctx context.Context) (map[string][]api.InventoryEntry, error)
	// BundleStatuses returns what the cluster tells of the bundles.
	BundleStatuses(ctx context.Context) ([]api.BundleStatus, error)
	// Suspensions returns what holds on the cluster, ends in our own time.
	// With an error whose reason is BadSuspension they are all there, those that cannot be understood read carefully.
	Suspensions(ctx context.Context) (api.Suspensions, error)
	// ClockSkew is what to add to our time to get the API server's.
	ClockSkew() time.Duration
}

// Deployer has the cluster be as Git says, a bundle at a time.
type Deployer interface {
	Apply(ctx context.Context, req apply.Request) apply.Result
	Prune(ctx context.Context, req apply.PruneRequest) apply.Result
	RunPreDelete(ctx context.Context, req apply.Request) ([]api.Change, bool, error)
	RunPostDelete(ctx context.Context, req apply.Request) ([]api.Change, bool, error)
}

// Board is where the agent tells on the cluster what it does there.
type Board interface {
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
	correct.Watch
	// Relist has everything seen anew, and then calls Relisted; see watch.Watcher.
	Relist()
}

// Store keeps what must survive the agent. Every call is one transaction.
type Store interface {
	// Status is zero until one was committed.
	Status() (api.ClusterStatus, error)
	Bundles() ([]api.BundleRecord, error)
	OpenEpisodes() ([]api.Episode, error)
	correct.Episodes
	record.Store
}
