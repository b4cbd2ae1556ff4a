package agent

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift"
	"github.com/flotilla-fleet/flotilla/drift/persons"
	"github.com/flotilla-fleet/flotilla/drift/store"
	"github.com/flotilla-fleet/flotilla/drift/watch"
	"github.com/flotilla-fleet/flotilla/reconciler"
	"github.com/flotilla-fleet/flotilla/reconciler/correct"
	"github.com/flotilla-fleet/flotilla/reconciler/health"
	"github.com/flotilla-fleet/flotilla/reconciler/objects"
	"github.com/flotilla-fleet/flotilla/reconciler/preview"
	"github.com/flotilla-fleet/flotilla/reconciler/record"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/sources"
)

// The stages, as the reconciler sees them. The others are what they are by themselves.
var (
	_ reconciler.Source   = sources.Source(nil)
	_ reconciler.Renderer = (*render.Renderer)(nil)
	_ reconciler.Applier  = (*Target)(nil)
	_ reconciler.Health   = (*health.Tracker)(nil)
	_ reconciler.Watch    = watcher{}
	_ correct.Detective   = detective{}
	_ reconciler.Store    = keeper{}
	_ persons.Cluster     = stamper{}
	_ preview.Judge       = Judge{}
	_ preview.Cluster     = (*Target)(nil)
	_ preview.Differ      = (*Target)(nil)
)

// watcher is drift/watch in the reconciler's words.
type watcher struct{ *watch.Watcher }

func seen(m watch.Meta) objects.Seen {
	return objects.Seen{
		UID: m.UID, ResourceVersion: m.ResourceVersion, Generation: m.Generation,
		MetaDigest: m.MetaDigest, PartOf: m.PartOf, Orders: m.Orders, Applied: m.Applied,
	}
}

func (w watcher) Get(ref api.ObjectRef) (objects.Seen, bool) {
	m, ok := w.Watcher.Get(ref)
	return seen(m), ok
}

func (w watcher) Objects(f func(api.ObjectRef, objects.Seen)) {
	w.Watcher.Objects(func(ref api.ObjectRef, m watch.Meta) { f(ref, seen(m)) })
}

func (w watcher) SetKinds(kinds []schema.GroupVersionKind) { w.Watcher.SetKinds(kinds) }

// detective is the pure package drift in the reconciler's words.
type detective struct {
	cluster string
	limits  drift.Limits
	// person is persons.Persons.Name.
	person func() (stamps string, call func(user string) string)
}

// input is an observation in the words of drift.
func (d detective) input(o correct.Observation) drift.Input {
	stamps, call := d.person()
	return drift.Input{
		Desired: o.Desired, Live: o.Live, DryRun: o.DryRun, Stripped: o.Stripped, Refused: o.Refused, Unapplied: o.Unapplied, Spec: o.Spec,
		Autoscalers: drift.AutoscalersIn(o.Neighbours), Matched: o.Known, Stamps: stamps, Person: call,
	}
}

func (d detective) Additions(o correct.Observation) []byte { return drift.Additions(d.input(o)) }

func (d detective) Observe(prev *api.Episode, o correct.Observation) correct.Verdict {
	res := drift.Compare(d.input(o))
	uid, meta := "", ""
	if o.Live != nil {
		uid, meta = string(o.Live.GetUID()), api.MetaDigest(o.Live)
	}
	e, dec := drift.Observe(prev, drift.Observation{
		Object: o.Object, Bundle: o.Bundle, Cluster: d.cluster, Revision: o.Revision,
		Result: res, Suspension: o.Suspension, UID: uid, Meta: meta, At: o.At, Limits: d.limits,
	})
	v := correct.Verdict{Episode: e, Opened: dec.Opened, After: dec.After}
	switch dec.Action {
	case drift.Correct:
		v.Write = res.Keep(o.Desired)
	case drift.Strip:
		v.Strip = res.StripPatch()
	case drift.Remove:
		v.Remove = true
	case drift.None, drift.Hold:
	}
	return v
}

func (d detective) Corrected(e api.Episode, at time.Time, err error) api.Episode {
	return drift.Corrected(e, at, err)
}

func (d detective) Overwritten(e api.Episode, at time.Time, revision string) api.Episode {
	return drift.Overwritten(e, at, revision)
}

func (d detective) Resolved(e api.Episode, at time.Time, why string) api.Episode {
	return drift.Resolved(e, at, why)
}

func (d detective) Leave(desired, live *unstructured.Unstructured, neighbours []*unstructured.Unstructured) []string {
	return drift.Leave(desired, live, drift.AutoscalersIn(neighbours))
}

// Judge is the pure package drift in the words of a preview.
type Judge struct{}

func (Judge) input(c preview.Comparison) drift.Input {
	return drift.Input{
		Desired: c.Desired, Live: c.Live, DryRun: c.DryRun, Stripped: c.Stripped, Spec: c.Spec,
		Autoscalers: drift.AutoscalersIn(c.Neighbours), Matched: c.Matched,
	}
}

// Leave implements preview.Judge.
func (Judge) Leave(desired, live *unstructured.Unstructured, neighbours []*unstructured.Unstructured) []string {
	return drift.Leave(desired, live, drift.AutoscalersIn(neighbours))
}

// Mode implements preview.Judge.
func (Judge) Mode(spec api.Drift, annotations map[string]string) api.DriftMode {
	return drift.Mode(spec, annotations, nil)
}

// Compare implements preview.Judge.
func (j Judge) Compare(c preview.Comparison) preview.Finding {
	res := drift.Compare(j.input(c))
	return preview.Finding{Class: res.Class, Fields: res.Fields, Mode: res.Mode, Reported: res.Action == drift.None}
}

// Additions implements preview.Judge.
func (j Judge) Additions(c preview.Comparison) []byte { return drift.Additions(j.input(c)) }

// stamper is where drift/persons keeps its admission policy.
type stamper struct{ *Target }

// Stands implements persons.Cluster.
func (s stamper) Stands(ctx context.Context, objs []*unstructured.Unstructured) (bool, error) {
	for _, o := range objs {
		in := s.Inspect(ctx, api.RenderedBundle{}, o)
		if in.Err != nil {
			return false, in.Err
		}
		if in.Live == nil || !equality.Semantic.DeepEqual(in.Live.Object["spec"], in.DryRun.Object["spec"]) {
			return false, nil
		}
	}
	return true, nil
}

// keeper is drift/store in the reconciler's words.
type keeper struct{ *store.Store }

func (k keeper) Status() (api.ClusterStatus, error) {
	s, _, err := k.Store.Status()
	return s, err
}

func (k keeper) LatestEpisode(object string) (*api.Episode, error) {
	e, ok, err := k.Store.LatestEpisode(object)
	if err != nil || !ok {
		return nil, err
	}
	return &e, nil
}

func (k keeper) Commit(r record.Transaction) error { return k.Store.Commit(store.Batch(r)) }
