package reconciler

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
	"github.com/flotilla-fleet/flotilla/reconciler/correct"
	"github.com/flotilla-fleet/flotilla/reconciler/objects"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
	"github.com/flotilla-fleet/flotilla/reconciler/record"
)

// yard is a repository and a cluster in memory, around a whole Reconciler that runs by the clock of a bubble of testing/synctest:
// days go by in no time, and nothing depends on the machine. Each bundle has one ConfigMap of its own name.
type yard struct {
	t *testing.T
	r *Reconciler

	mu  sync.Mutex
	git map[string]api.RenderedBundle
	// revision counts the commits, and fetched is the last that was.
	revision, fetched int
	// live: object ID -> bundle
	live map[string]string
	// applied: bundle -> digest of what was applied last
	applied map[string]string
	// trial says how an apply of a bundle goes. It may take its time.
	trial func(bundle, digest string) error
	tries []try
}

// try is one apply, or one removal, of a bundle.
type try struct {
	bundle, digest string
	at             time.Time
}

type (
	yardSource   struct{ *yard }
	yardRenderer struct{ *yard }
	yardApplier  struct {
		Applier
		*yard
	}
	yardWatch struct {
		Watch
		*yard
	}
	yardDetective struct{ correct.Detective }
	yardStore     struct{ Store }
)

// inYard runs a story in a bubble, with an agent that has as many workers.
func inYard(t *testing.T, workers int, story func(*yard)) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{t: t, git: map[string]api.RenderedBundle{}, live: map[string]string{}, applied: map[string]string{}, trial: func(string, string) error { return nil }}
		r, err := New(Config{
			Cluster: "one", Source: yardSource{y}, Renderer: yardRenderer{y}, Applier: yardApplier{yard: y}, Health: modelHealth{},
			Watch: yardWatch{yard: y}, Detective: yardDetective{}, Store: yardStore{},
			Log: slog.New(slog.DiscardHandler), Now: time.Now, Workers: workers,
		})
		if err != nil {
			t.Fatal(err)
		}
		y.r = r
		story(y)
	})
}

// start runs the agent until the test ends.
func (y *yard) start() {
	ctx, cancel := context.WithCancel(y.t.Context())
	ended := make(chan error)
	go func() { ended <- y.r.Run(ctx) }()
	y.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			y.t.Error(err)
		}
	})
	y.pass(time.Second)
}

// pass lets time go by, and everything that is due then happen.
func (y *yard) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// says changes what the repository says of a bundle; an empty digest takes it out.
func (y *yard) says(bundle, digest string, dependsOn ...string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	delete(y.git, bundle)
	if digest != "" {
		rb := api.RenderedBundle{Name: bundle, Digest: digest, Objects: []*unstructured.Unstructured{yardObject(bundle)}}
		rb.Spec.DependsOn = dependsOn
		y.git[bundle] = rb
	}
}

// commit makes a revision of what the repository says now.
func (y *yard) commit() {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.revision++
}

// goes says how an apply goes from now on.
func (y *yard) goes(trial func(bundle, digest string) error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.trial = trial
}

// taken returns the tries of a bundle.
func (y *yard) taken(bundle string) (all []try) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, a := range y.tries {
		if a.bundle == bundle {
			all = append(all, a)
		}
	}
	return all
}

// try counts one, and goes as the story says.
func (y *yard) try(bundle, digest string) error {
	y.mu.Lock()
	trial := y.trial
	y.tries = append(y.tries, try{bundle, digest, time.Now()})
	y.mu.Unlock()
	return trial(bundle, digest)
}

func yardObject(bundle string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"namespace": "ns", "name": bundle},
	}}
}

func (s yardSource) Fetch(context.Context) (api.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetched = s.revision
	return api.Snapshot{Revision: fmt.Sprint("revision-", s.revision), Tree: modelTree{}}, nil
}

func (s yardSource) At(_ context.Context, revision string) (api.Snapshot, error) {
	return api.Snapshot{Revision: revision, Tree: modelTree{}}, nil
}

func (s yardSource) Changed(context.Context) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetched != s.revision, nil
}

func (s yardRenderer) Render(_ context.Context, snap api.Snapshot, _ string, _ api.ClusterFacts) (api.Rendering, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := api.Rendering{Revision: snap.Revision}
	all := 100
	out.Fleet.Spec.Guards.MaxDeletePercent = &all
	for _, name := range slices.Sorted(maps.Keys(s.git)) {
		out.Bundles = append(out.Bundles, s.git[name])
	}
	return out, nil
}

func (yardRenderer) Changed(string) bool { return false }

func (yardApplier) Facts(context.Context) (api.ClusterFacts, error)            { return api.ClusterFacts{}, nil }
func (yardApplier) Resolve(_ context.Context, r api.Rendering) api.Rendering   { return r }
func (yardApplier) Suspensions(context.Context) (api.Suspensions, error)       { return nil, nil }
func (yardApplier) ClockSkew() time.Duration                                   { return 0 }
func (yardApplier) DeleteStatus(context.Context, string) error                 { return nil }
func (yardApplier) PublishReport(context.Context, cluster.Report) error        { return nil }
func (yardApplier) Event(context.Context, cluster.EventRequest)                {}
func (yardApplier) BundleStatuses(context.Context) ([]api.BundleStatus, error) { return nil, nil }
func (yardApplier) Inventory(context.Context) (map[string][]api.InventoryEntry, error) {
	return nil, nil
}

func (yardApplier) PublishStatus(context.Context, api.BundleStatus, []api.InventoryEntry) error {
	return nil
}

func (s yardApplier) Apply(_ context.Context, req apply.Request) apply.Result {
	res := apply.Result{Inventory: req.Inventory, Changes: api.ChangeSet{Bundle: req.Bundle.Name, Changes: []api.Change{}}}
	if res.Err = s.try(req.Bundle.Name, req.Bundle.Digest); res.Err != nil {
		return res
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	res.Inventory = nil
	action := api.Updated
	if s.applied[req.Bundle.Name] == req.Bundle.Digest {
		action = api.Unchanged
	}
	s.applied[req.Bundle.Name] = req.Bundle.Digest
	for _, o := range req.Bundle.Objects {
		ref := api.RefOf(o)
		s.live[ref.ID()] = req.Bundle.Name
		res.Inventory = append(res.Inventory, api.InventoryEntry{Object: ref, Digest: apply.Digest(o), ResourceVersion: "1"})
		res.Changes.Changes = append(res.Changes.Changes, api.Change{Object: ref, Action: action})
	}
	return res
}

func (s yardApplier) Prune(_ context.Context, req apply.PruneRequest) apply.Result {
	res := apply.Result{Inventory: req.Entries, Changes: api.ChangeSet{Bundle: req.Bundle}}
	if res.Err = s.try(req.Bundle, ""); res.Err != nil {
		return res
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range req.Entries {
		delete(s.live, e.Object.ID())
	}
	res.Inventory = nil
	return res
}

func (yardApplier) RunPreDelete(context.Context, apply.Request) ([]api.Change, bool, error) {
	return nil, true, nil
}

func (yardApplier) RunPostDelete(context.Context, apply.Request) ([]api.Change, bool, error) {
	return nil, true, nil
}

func (yardWatch) SetKinds([]schema.GroupVersionKind)        {}
func (yardWatch) Synced(schema.GroupVersionKind) bool       { return true }
func (yardWatch) Objects(func(api.ObjectRef, objects.Seen)) {}
func (yardWatch) Relist()                                   {}

func (s yardWatch) Get(ref api.ObjectRef) (objects.Seen, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	bundle, there := s.live[ref.ID()]
	return objects.Seen{ResourceVersion: "1", PartOf: plan.ApplySetID(bundle)}, there
}

func (yardStore) Status() (api.ClusterStatus, error)   { return api.ClusterStatus{}, nil }
func (yardStore) Bundles() ([]api.BundleRecord, error) { return nil, nil }
func (yardStore) OpenEpisodes() ([]api.Episode, error) { return nil, nil }
func (yardStore) Commit(record.Transaction) error      { return nil }
