package reconciler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/correct"
	"github.com/flotilla-fleet/flotilla/reconciler/health"
	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
	"github.com/flotilla-fleet/flotilla/reconciler/objects"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
	"github.com/flotilla-fleet/flotilla/reconciler/record"
)

// model is a repository, a cluster and a store as simple as can be, made from a seed, around a real Reconciler.
// Nothing runs beside it: the model says which bundle runs next, and a commit may come in the middle of that.
// It is every stage of the Reconciler itself.
type model struct {
	t    *testing.T
	rand *rand.Rand
	r    *Reconciler
	now  time.Time
	wish wish
	// git are the renderings, and the last of them is the newest.
	git []api.Rendering
	// live: object ID -> what is on the cluster
	live map[string]livingObject
	// what the cluster tells of bundles, and what the store keeps
	told    map[string]api.BundleStatus
	stored  map[string]api.BundleRecord
	cluster api.ClusterStatus
	// calm says that nothing fails any more, and nothing comes in between.
	calm bool
	// busy says that commits come while bundles run.
	busy        bool
	uid, writes int
}

type livingObject struct {
	ref    api.ObjectRef
	uid    string
	bundle string
	held   bool // by a finalizer
}

// stage joins what the interfaces of stages ask for twice.
type (
	modelSource   struct{ *model }
	modelRenderer struct{ *model }
	modelApplier  struct {
		Applier
		*model
	}
	modelWatch struct {
		Watch
		*model
	}
	modelHealth    struct{ Health }
	modelDetective struct{ correct.Detective }
	modelStore     struct {
		Store
		*model
	}
	modelTree struct{ api.Tree }
)

func (m *model) chance(n int) bool { return !m.calm && m.rand.IntN(n) == 0 }

var modelNames = []string{"a", "b", "c", "d"}

// modelObject is one of few. Two are of a kind that is not deleted without a word, one is pruned before all others.
func modelObject(i int) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetAPIVersion("v1")
	o.SetName(fmt.Sprint("o", i))
	switch {
	case i < 2:
		o.SetKind("Namespace")
	case i == 2:
		o.SetAPIVersion("example.com/v1")
		o.SetKind("Widget")
		o.SetNamespace("ns")
	default:
		o.SetKind("ConfigMap")
		o.SetNamespace("ns")
	}
	return o
}

const modelObjects = 8

// wish is what a repository says.
type wish struct {
	// place and version are of objects: the index of the bundle that has it, or none, and what it says.
	place, version [modelObjects]int
	// away and broken are of bundles; a depends bit is set where the one of that index comes before.
	away, broken [4]bool
	depends      [4]int
	// turned says that all dependencies are the other way round, strict that what is protected stays.
	turned, strict bool
}

// change changes a few of the things that a repository says.
func (w *wish) change(r *rand.Rand, n int) {
	for range n {
		i, o := r.IntN(len(modelNames)), r.IntN(modelObjects)
		switch r.IntN(12) {
		case 0:
			w.away[i] = !w.away[i]
		case 1:
			w.broken[i] = !w.broken[i]
		case 2:
			w.depends[i] ^= 1 << r.IntN(len(modelNames))
		case 3:
			w.turned = !w.turned
		case 4:
			w.strict = !w.strict
		case 5:
			w.version[o]++
		default:
			w.place[o] = r.IntN(len(modelNames) + 1)
		}
	}
}

// render is what a renderer makes of it. Bundles depend on those before them, or after them, so there is no cycle;
// one that depends on a bundle that is away cannot be rendered.
func (w *wish) render(revision string) api.Rendering {
	out := api.Rendering{Revision: revision}
	all := 100
	out.Fleet.Spec.Guards.MaxDeletePercent = &all
	if !w.strict {
		out.Fleet.Spec.Guards.AllowDelete = []string{"*"}
	}
	for i, name := range modelNames {
		if w.away[i] {
			continue
		}
		rb := api.RenderedBundle{Name: name}
		if w.broken[i] {
			rb.Err = &api.Error{Kind: api.Stalled, Reason: "Broken", Err: errors.New("broken")}
		}
		for j, other := range modelNames {
			if w.depends[i]>>j&1 == 1 && (j < i) != w.turned && j != i {
				rb.Spec.DependsOn = append(rb.Spec.DependsOn, other)
				if w.away[j] {
					rb.Err = &api.Error{Kind: api.Stalled, Reason: "UnknownDependency", Err: errors.New("it is away")}
				}
			}
		}
		for o := range modelObjects {
			if w.place[o] == i && rb.Err == nil {
				obj := modelObject(o)
				obj.SetLabels(map[string]string{"version": fmt.Sprint(w.version[o])})
				rb.Objects = append(rb.Objects, obj)
			}
		}
		if rb.Err == nil {
			rb.Digest = fmt.Sprint(rb.Spec.DependsOn)
			for _, o := range rb.Objects {
				rb.Digest += " " + api.RefOf(o).ID() + apply.Digest(o)
			}
		}
		out.Bundles = append(out.Bundles, rb)
	}
	return out
}

// change makes a revision that differs a little, or a lot.
func (m *model) change() {
	n := 1 + m.rand.IntN(3)
	if m.chance(2) {
		n = 20
	}
	m.wish.change(m.rand, n)
	m.commit()
}

// commit makes a revision, and has the agent see it.
func (m *model) commit() {
	m.git = append(m.git, m.wish.render(fmt.Sprint("revision-", len(m.git))))
	_ = m.r.pass(m.t.Context())
	m.check()
	m.wakes()
}

// wakes holds what waits for a time against the promise that a new commit ends every such wait.
func (m *model) wakes() {
	m.t.Helper()
	m.r.mu.Lock()
	defer m.r.mu.Unlock()
	if m.r.rendering == nil || m.r.rendering.Revision != m.git[len(m.git)-1].Revision {
		return // it was refused as a whole
	}
	for name, b := range m.r.bundles {
		if wait := b.life.Wait(m.now); wait > 0 && wait != lifecycle.Never {
			m.t.Fatalf("%s (gone: %t) waits %s although there is a new commit", name, b.gone(), wait)
		}
	}
}

// start makes a new agent from what the store and the cluster keep.
func (m *model) start() {
	r, err := New(Config{
		Cluster: "one", Source: modelSource{m}, Renderer: modelRenderer{m}, Applier: modelApplier{model: m}, Health: modelHealth{},
		Watch: modelWatch{model: m}, Detective: modelDetective{}, Store: modelStore{model: m},
		Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return m.now },
	})
	if err == nil {
		m.r = r
		err = r.load(m.t.Context())
	}
	if err != nil {
		m.t.Fatal(err)
	}
	if len(m.git) > 0 {
		_ = r.pass(m.t.Context())
	}
	for _, name := range modelNames {
		if b := r.bundles[name]; b != nil && r.objects.Count(name) > 0 {
			r.HealthChanged(name) // the tracker looks at them anew
		}
	}
	m.check()
}

// restart ends an agent, and what it remembers with it if it loses its store.
func (m *model) restart(lost bool) {
	m.publish()
	_ = m.r.recorder.Flush()
	if lost {
		clear(m.stored)
		m.cluster = api.ClusterStatus{}
	}
	m.start()
}

// publish has the cluster tell what is known of the bundles.
func (m *model) publish() {
	_, all := m.r.read(func() []string { return modelNames })
	for _, rec := range all {
		m.told[rec.Status.Name] = rec.Status
	}
}

// run runs one of the bundles that may run. It reports false if there is none.
func (m *model) run() bool {
	m.r.mu.Lock()
	dependents := m.r.dependentsLocked()
	var ready []*bundle
	for _, name := range m.r.namesLocked() {
		if _, ok := m.r.runnableLocked(m.r.bundles[name], dependents[name], m.now); ok && m.r.started {
			ready = append(ready, m.r.bundles[name])
		}
	}
	if len(ready) == 0 {
		m.r.mu.Unlock()
		return false
	}
	b := ready[m.rand.IntN(len(ready))]
	x := m.r.placeLocked(b)
	m.r.mu.Unlock()
	x.do(m.t.Context())
	m.check()
	return true
}

// between is where something may happen while a bundle runs.
func (m *model) between() {
	if m.busy && m.chance(8) {
		m.change()
	}
}

// check holds what is known against the promises.
func (m *model) check() {
	m.t.Helper()
	m.r.mu.Lock()
	defer m.r.mu.Unlock()
	owner := map[string]string{}
	for name := range m.r.bundles {
		for _, e := range m.r.objects.Inventory(name) {
			id := e.Object.ID()
			if other := owner[id]; other != "" && !m.busy {
				m.t.Fatalf("%s is in the inventories of %s and %s", id, other, name)
			}
			owner[id] = name
		}
	}
}

// deletes holds a deletion against the promises.
func (m *model) deletes(bundle string, ref api.ObjectRef) {
	m.t.Helper()
	id := ref.ID()
	for _, rb := range m.r.rendering.Bundles {
		if rb.Err != nil {
			m.t.Fatalf("%s deletes %s while %s cannot be rendered", bundle, id, rb.Name)
		}
		for _, o := range rb.Objects {
			if api.RefOf(o).ID() == id {
				m.t.Fatalf("%s deletes %s, which %s declares", bundle, id, rb.Name)
			}
		}
	}
	if plan.Protected(ref) && !slices.Contains(m.r.rendering.Guards().AllowDelete, "*") {
		m.t.Fatalf("%s deletes %s, which is protected", bundle, id)
	}
	if l := m.live[id]; l.bundle != bundle {
		m.t.Fatalf("%s deletes %s, which is %s's", bundle, id, l.bundle)
	}
}

// rest lets everything come to its end, and holds that against the newest revision.
func (m *model) rest() {
	m.calm = true
	for id, l := range m.live {
		l.held = false
		m.live[id] = l
	}
	for range 200 {
		m.now = m.now.Add(10 * time.Minute)
		if !m.run() {
			break
		}
	}
	want, got := map[string]string{}, map[string]string{}
	newest := m.git[len(m.git)-1]
	for _, rb := range newest.Bundles {
		for _, o := range rb.Objects {
			want[api.RefOf(o).ID()] = rb.Name
		}
	}
	for name, b := range m.r.bundles {
		if !b.synced() || b.gone() {
			m.t.Errorf("bundle %s is not at rest: %+v", name, b.status)
		}
		for _, e := range m.r.objects.Inventory(name) {
			id := e.Object.ID()
			got[id] = name
		}
	}
	if !maps.Equal(got, want) {
		m.t.Errorf("the inventories hold %v, and Git %v", got, want)
	}
	there := map[string]string{}
	for id, l := range m.live {
		there[id] = l.bundle
	}
	if !maps.Equal(there, want) {
		m.t.Errorf("the cluster holds %v, and Git %v", there, want)
	}
	if m.r.status.AppliedRevision != newest.Revision {
		m.t.Errorf("the cluster is said to be at %s, and is at %s", m.r.status.AppliedRevision, newest.Revision)
	}
}

// FuzzReconciler runs some sixty steps of what a repository, a cluster and an agent may do to each other.
func FuzzReconciler(f *testing.F) {
	for seed := range uint64(1000) {
		f.Add(seed)
	}
	for _, seed := range []uint64{4141, 6141, 9405} { // what is rare: bundles that write over each other, and that leave in a circle
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		m := &model{
			t: t, rand: rand.New(rand.NewPCG(seed, 1)), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
			busy: seed%2 == 1,
			live: map[string]livingObject{}, told: map[string]api.BundleStatus{}, stored: map[string]api.BundleRecord{},
		}
		m.start()
		m.wish.change(m.rand, 40)
		m.commit()
		for range 60 {
			switch n := m.rand.IntN(20); {
			case n < 4:
				m.change()
			case n == 4:
				m.restart(m.chance(2))
			case n == 5:
				m.publish()
			case n == 6:
				m.now = m.now.Add(10 * time.Minute)
			default:
				m.now = m.now.Add(time.Second)
				m.run()
			}
		}
		// The last revision is whole and allowed, and everything that depends on another bundle has it.
		m.wish.broken, m.wish.strict = [4]bool{}, false
		if m.chance(2) {
			m.wish.away = [4]bool{}
		} else {
			m.wish.depends = [4]int{}
		}
		m.wish.away[0], m.wish.place[0] = false, 0 // a revision without any object is refused
		m.commit()
		m.rest()
	})
}

func (s modelSource) Fetch(context.Context) (api.Snapshot, error) {
	return api.Snapshot{Revision: s.git[len(s.git)-1].Revision, Tree: modelTree{}}, nil
}

func (s modelSource) Changed(context.Context) (bool, error) { return false, nil }

func (s modelSource) At(_ context.Context, revision string) (api.Snapshot, error) {
	return api.Snapshot{Revision: revision, Tree: modelTree{}}, nil
}

func (s modelRenderer) Render(_ context.Context, snap api.Snapshot, _ string, _ api.ClusterFacts) (api.Rendering, error) {
	for _, r := range s.git {
		if r.Revision == snap.Revision {
			r.Bundles = slices.Clone(r.Bundles)
			return r, nil
		}
	}
	return api.Rendering{}, errors.New("no such revision")
}

func (s modelRenderer) Changed(string) bool { return false }

func (modelApplier) Facts(context.Context) (api.ClusterFacts, error) { return api.ClusterFacts{}, nil }

func (modelApplier) Resolve(_ context.Context, r api.Rendering) api.Rendering { return r }

func (s modelApplier) Inventory(context.Context) (map[string][]api.InventoryEntry, error) {
	out := map[string][]api.InventoryEntry{}
	for _, l := range s.live {
		out[l.bundle] = append(out[l.bundle], api.InventoryEntry{Object: l.ref, UID: l.uid, Claimed: 1})
	}
	for name := range s.told {
		if _, ok := out[name]; !ok {
			out[name] = nil
		}
	}
	return out, nil
}

func (s modelApplier) BundleStatuses(context.Context) ([]api.BundleStatus, error) {
	return slices.Collect(maps.Values(s.told)), nil
}

func (modelApplier) Suspensions(context.Context) (api.Suspensions, error) { return nil, nil }

func (modelApplier) ClockSkew() time.Duration { return 0 }

// Apply writes what a bundle wants, and takes over what belongs to another one.
func (s modelApplier) Apply(_ context.Context, req apply.Request) apply.Result {
	entries := map[string]api.InventoryEntry{}
	for _, e := range req.Inventory {
		entries[e.Object.ID()] = e
	}
	res := apply.Result{Changes: api.ChangeSet{Bundle: req.Bundle.Name, Changes: []api.Change{}}}
	for _, o := range req.Bundle.Objects {
		s.between()
		ref := api.RefOf(o)
		id := ref.ID()
		if s.chance(10) {
			res.Err = &api.Error{Kind: api.Transient, Reason: "Failed", Err: errors.New("the API server does not answer")}
			continue
		}
		l, there := s.live[id]
		if l.held {
			res.Err = &api.Error{Kind: api.Waiting, Reason: "Terminating", Err: errors.New("it is being deleted")}
			continue
		}
		if !there {
			s.uid++
			l = livingObject{ref: ref, uid: fmt.Sprint(s.uid)}
		}
		l.bundle = req.Bundle.Name
		s.live[id] = l
		s.writes++
		entries[id] = api.InventoryEntry{Object: ref, UID: l.uid, Digest: apply.Digest(o), ResourceVersion: fmt.Sprint(s.writes)}
	}
	res.Inventory = slices.Collect(maps.Values(entries))
	return res
}

// Prune deletes what the decision says, stage by stage, with a long time between them.
func (s modelApplier) Prune(_ context.Context, req apply.PruneRequest) apply.Result {
	res := apply.Result{Changes: api.ChangeSet{Bundle: req.Bundle}}
	for _, e := range plan.Stale(req.Entries, nil, nil) {
		s.between()
		id := e.Object.ID()
		in := plan.PruneInput{Bundle: req.Bundle, Entry: e, Spec: req.Spec, Sight: plan.Absent}
		if l, there := s.live[id]; there {
			in.Sight, in.Live = plan.Present, &unstructured.Unstructured{}
			in.Live.SetLabels(map[string]string{api.LabelPartOf: plan.ApplySetID(l.bundle)})
		}
		in.Stays, in.Refused = req.Stays(e.Object)
		step := plan.Prune(in)
		if step.Err != nil {
			res.Err = step.Err
		}
		if step.Next == plan.Delete {
			s.deletes(req.Bundle, e.Object)
			if s.chance(5) {
				l := s.live[id]
				l.held = true
				s.live[id] = l
			}
			if s.live[id].held {
				step.Forget = false
				res.Err = &api.Error{Kind: api.Waiting, Reason: "Terminating", Err: errors.New("it is being deleted")}
			} else {
				delete(s.live, id)
			}
		}
		if !step.Forget {
			res.Inventory = append(res.Inventory, e)
		}
	}
	return res
}

func (s modelApplier) RunPreDelete(context.Context, apply.Request) ([]api.Change, bool, error) {
	s.between()
	return nil, true, nil
}

func (s modelApplier) RunPostDelete(context.Context, apply.Request) ([]api.Change, bool, error) {
	s.between()
	return nil, true, nil
}

func (s modelApplier) DeleteStatus(_ context.Context, bundle string) error {
	s.between()
	delete(s.told, bundle)
	return nil
}

func (modelWatch) SetKinds([]schema.GroupVersionKind) {}

func (s modelWatch) Get(ref api.ObjectRef) (objects.Seen, bool) {
	l, there := s.live[ref.ID()]
	return objects.Seen{UID: l.uid, PartOf: plan.ApplySetID(l.bundle)}, there
}

func (modelWatch) Synced(schema.GroupVersionKind) bool { return true }

func (modelWatch) Objects(func(api.ObjectRef, objects.Seen)) {}

func (modelHealth) Set(string, []api.InventoryEntry, []api.HealthCheck) {}

func (modelHealth) Remove(string) {}

func (modelHealth) Get(string) health.Summary { return health.Summary{} }

func (s modelStore) Status() (api.ClusterStatus, error) { return s.cluster, nil }

func (s modelStore) Bundles() ([]api.BundleRecord, error) {
	return slices.Collect(maps.Values(s.stored)), nil
}

func (modelStore) OpenEpisodes() ([]api.Episode, error) { return nil, nil }

func (s modelStore) Commit(r record.Transaction) error {
	if r.Status != nil {
		s.cluster = *r.Status
	}
	for _, b := range r.Bundles {
		s.stored[b.Status.Name] = b
	}
	for _, name := range r.RemovedBundles {
		delete(s.stored, name)
	}
	return nil
}
