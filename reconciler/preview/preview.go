// Package preview says what a pass would do on a cluster, without doing it: what flotilla diff prints.
//
// It promises that it decides nothing about an object: package plan does, for a preview as for a pass, and
// package apply asks the API server with dry runs where a pass would write. It adds what becomes of each decision:
// what a guard refuses, a suspension holds back, and the policy only reports. It never writes, prints or renders.
//
//	preview.go   what is asked, and the answer's parts
//	owned.go     what bundles own and declare, and what holds them back: what a pass knows before it decides
//	applied.go   what bundles were applied from
//	bundle.go    one bundle
//	object.go    one object
//	change.go    the answer
package preview

import (
	"context"
	"errors"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
)

// Cluster is what a preview asks of the cluster beside its objects.
type Cluster interface {
	// Inventory returns what the bundles own; see cluster.Client.
	Inventory(ctx context.Context) (map[string][]api.InventoryEntry, error)
	// Suspensions returns what is suspended, ends in our own time.
	// With an error whose reason is api.ReasonBadSuspension they are all there.
	Suspensions(ctx context.Context) (api.Suspensions, error)
	// ClockSkew is what to add to our time to get the API server's.
	ClockSkew() time.Duration
	// Autoscalers returns what scales objects in a namespace, whoever made it.
	Autoscalers(ctx context.Context, namespace string) ([]*unstructured.Unstructured, error)
}

// Differ looks at objects with dry runs.
type Differ interface {
	Diff(ctx context.Context, req apply.DiffRequest) ([]apply.Difference, error)
	// Without asks what a JSON patch would leave of an inspected object; nil if that cannot be known.
	// The error's reason is kube.ReasonConflict if the object changed since.
	Without(ctx context.Context, bundle api.RenderedBundle, in apply.Inspection, patch []byte) (*unstructured.Unstructured, error)
}

// Judge compares objects. It is pure.
type Judge interface {
	// Leave returns the fields that an apply leaves as they are on the live object, beside those of ignore rules.
	Leave(desired, live *unstructured.Unstructured, neighbours []*unstructured.Unstructured) []string
	// Mode is what a bundle's policy and an object's annotations in Git say together.
	Mode(spec api.Drift, annotations map[string]string) api.DriftMode
	Compare(c Comparison) Finding
	// Additions is a JSON patch that takes away what others added, where it is worth asking what would be left
	// without it: what the API server would set anyway is nobody's addition. Nil if it is not.
	Additions(c Comparison) []byte
}

// Comparison is what is compared.
type Comparison struct {
	Desired, Live, DryRun *unstructured.Unstructured
	// Stripped is what would be left of Live without what others added; nil if nobody asked.
	Stripped *unstructured.Unstructured
	Spec     api.Drift
	// Neighbours are the autoscalers that may own fields of the object.
	Neighbours []*unstructured.Unstructured
	// Matched is the object as it was last known to match; nil if it never was.
	Matched *api.InventoryEntry
}

// Finding is in what an object differs.
type Finding struct {
	// Class is empty if it does not differ.
	Class  api.Class
	Fields []api.FieldDiff
	Mode   api.DriftMode
	// Reported says that the policy does nothing about it.
	Reported bool
}

// Config is what a Preview needs. All fields but Now are required.
type Config struct {
	Cluster Cluster
	Differ  Differ
	Judge   Judge
	// Rendering is what Git says, with namespaces as the cluster will have them.
	Rendering api.Rendering
	// Told is what the cluster tells of the bundles; empty if no agent ever was there.
	Told []api.BundleStatus
	// History renders the repository at another commit, as Rendering was.
	History func(ctx context.Context, revision string) (api.Rendering, error)
	// Note is told what people should know beside the answer, in one line.
	Note func(line string)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Preview knows what a pass knows before it decides.
type Preview struct {
	cfg Config
	r   api.Rendering
	// claims: object ID -> bundles that declare it
	claims map[string][]string
	// owned: bundle -> what it owns; told: bundle -> what the cluster tells of it.
	owned map[string][]api.InventoryEntry
	told  map[string]api.BundleStatus
	// applied: bundle -> what it was last applied from, where that is known
	applied map[string]*api.RenderedBundle
	// extra: ID of an object that carries a bundle's label, and was never in Git
	extra   map[string]bool
	held    api.Suspensions
	scalers []*unstructured.Unstructured // those in Git
	coming  []*unstructured.Unstructured // CRDs and namespaces
	// immutable: bundle -> whether one of its objects cannot be changed into what Git says
	immutable map[string]bool
	// broken: tenant -> its first bundle that cannot be rendered; the platform is the empty one
	broken map[string]string
	// Failures are what would fail in the pass, as far as All has looked.
	Failures []error
}

// New reads from the cluster all that does not depend on a bundle.
func New(ctx context.Context, cfg Config) (*Preview, error) {
	if cfg.Cluster == nil || cfg.Differ == nil || cfg.Judge == nil || cfg.History == nil || cfg.Note == nil {
		return nil, errors.New("preview: Cluster, Differ, Judge, History and Note are required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	p := &Preview{
		cfg: cfg, r: cfg.Rendering,
		claims: map[string][]string{}, owned: map[string][]api.InventoryEntry{}, told: map[string]api.BundleStatus{},
		applied: map[string]*api.RenderedBundle{}, extra: map[string]bool{}, immutable: map[string]bool{}, broken: map[string]string{},
	}
	for _, s := range cfg.Told {
		p.told[s.Name] = s
	}
	p.index()
	if err := p.suspensions(ctx); err != nil {
		return nil, err
	}
	return p, p.inventory(ctx)
}
