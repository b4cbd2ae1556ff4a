package correct

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
	"github.com/flotilla-fleet/flotilla/reconciler/objects"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
	"github.com/flotilla-fleet/flotilla/reconciler/record"
)

// bench is a loop without workers, with all that it stands on in memory.
type bench struct {
	*Loop
	// steps are what the loop did beside looking, in order: "store OUTCOME", "write", "strip", "remove", "wished", "touch", "event REASON".
	steps []string
	// seen is what the watch knows, by object ID.
	seen map[string]objects.Seen
	// live is what an inspection finds; nil for an object that is missing.
	live *unstructured.Unstructured
	// inspected counts the inspections, and extra those of objects that are not in Git.
	inspected, extra int
	inspectErr       error
	// verdict is what the detective says of an observation.
	verdict func(Observation) Verdict
	// observed are the observations that it was asked about.
	observed []Observation
	writeErr error
	storeErr error
	now      time.Time
}

func newBench() *bench {
	b := &bench{seen: map[string]objects.Seen{}, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), verdict: func(Observation) Verdict { return Verdict{} }}
	home, log := objects.New(), slog.New(slog.DiscardHandler)
	b.Loop = New(Config{
		Cluster: "one", Home: home, Inspector: b, Writer: b, Watch: benchWatch{b}, Detective: b, Episodes: benchEpisodes{}, Health: b,
		Publisher: b, Metrics: benchMetrics{}, Log: log, Now: func() time.Time { return b.now },
		ServerTime: func(t time.Time) time.Time { return t }, Wished: func() { b.steps = append(b.steps, "wished") },
	})
	b.Recorder = record.New(record.Config{Store: benchStore{b}, Log: log, Stored: func() {}, Read: func(choose func() []string) (api.ClusterStatus, []api.BundleRecord) {
		home.Contents(choose)
		return api.ClusterStatus{}, nil
	}})
	b.Start()
	return b
}

// step returns what was done since the last call.
func (b *bench) step() []string {
	out := b.steps
	b.steps = nil
	return out
}

// applied has a bundle that was applied with objects, and is synced.
func (b *bench) applied(name string, all ...*unstructured.Unstructured) objects.Bundle {
	rb := &api.RenderedBundle{Name: name, Digest: "applied", Objects: all}
	out := objects.Bundle{Name: name, Desired: rb, Revision: "1", Applied: rb, AppliedRevision: "1", Synced: true}
	b.Home.Publish(out)
	b.Home.SetBaseline(name, all, nil)
	var inventory []api.InventoryEntry
	for _, o := range all {
		inventory = append(inventory, api.InventoryEntry{Object: api.RefOf(o), UID: "u", ResourceVersion: "1", Generation: 1, Digest: apply.Digest(o)})
	}
	b.Home.SetInventory(name, inventory)
	b.Home.Adopt([]api.RenderedBundle{*rb}, func(string) string { return "" })
	return out
}

func (b *bench) Inspect(_ context.Context, _ api.RenderedBundle, desired *unstructured.Unstructured) apply.Inspection {
	b.inspected++
	return apply.Inspection{Desired: desired, Live: b.live, DryRun: desired, Err: b.inspectErr}
}

func (b *bench) InspectExtra(context.Context, api.RenderedBundle, api.ObjectRef) apply.Inspection {
	b.extra++
	return apply.Inspection{Live: b.live, Err: b.inspectErr}
}

func (b *bench) Without(context.Context, api.RenderedBundle, apply.Inspection, []byte) (*unstructured.Unstructured, error) {
	return b.live, nil
}

func (b *bench) Autoscalers(context.Context, string) ([]*unstructured.Unstructured, error) {
	return nil, nil
}

func (b *bench) Correct(_ context.Context, _ api.RenderedBundle, desired, _ *unstructured.Unstructured) (api.InventoryEntry, error) {
	b.steps = append(b.steps, "write")
	return api.InventoryEntry{Object: api.RefOf(desired), UID: "u", ResourceVersion: "9"}, b.writeErr
}

func (b *bench) Strip(_ context.Context, _ api.RenderedBundle, live *unstructured.Unstructured, _ []byte) (api.InventoryEntry, error) {
	b.steps = append(b.steps, "strip")
	return api.InventoryEntry{Object: api.RefOf(live), UID: "u", ResourceVersion: "9"}, b.writeErr
}

func (b *bench) RemoveExtra(context.Context, api.RenderedBundle, *unstructured.Unstructured) error {
	b.steps = append(b.steps, "remove")
	return b.writeErr
}

func (b *bench) Observe(prev *api.Episode, o Observation) Verdict {
	b.observed = append(b.observed, o)
	v := b.verdict(o)
	if v.Episode != nil && prev != nil {
		v.Episode.ID, v.Opened = prev.ID, false
	}
	return v
}

func (b *bench) Additions(Observation) []byte { return nil }

func (b *bench) Overwritten(e api.Episode, at time.Time, _ string) api.Episode {
	e.End, e.Outcome = at, api.OutcomeResolved
	return e
}

func (b *bench) Corrected(e api.Episode, at time.Time, err error) api.Episode {
	if err != nil {
		e.Outcome = api.OutcomeFailed
		return e
	}
	e.End, e.Outcome = at, api.OutcomeCorrected
	return e
}

func (b *bench) Resolved(e api.Episode, at time.Time, _ string) api.Episode {
	e.End, e.Outcome = at, api.OutcomeResolved
	return e
}

func (b *bench) Leave(_, _ *unstructured.Unstructured, _ []*unstructured.Unstructured) []string {
	return nil
}

func (b *bench) Set(string, []api.InventoryEntry, []api.HealthCheck) {
	b.steps = append(b.steps, "follow")
}
func (b *bench) Touch(string) { b.steps = append(b.steps, "touch") }
func (b *bench) Event(e cluster.EventRequest) {
	b.steps = append(b.steps, "event "+e.Reason)
}

type (
	benchWatch    struct{ *bench }
	benchStore    struct{ *bench }
	benchEpisodes struct{}
	benchMetrics  struct{}
)

func (w benchWatch) Get(ref api.ObjectRef) (objects.Seen, bool) {
	s, ok := w.seen[ref.ID()]
	return s, ok
}
func (benchWatch) Synced(schema.GroupVersionKind) bool { return true }
func (w benchWatch) Objects(f func(api.ObjectRef, objects.Seen)) {
	for id, s := range w.seen {
		ref, _ := api.ParseID(id)
		f(ref, s)
	}
}

func (s benchStore) Commit(t record.Transaction) error {
	for _, e := range t.Episodes {
		s.steps = append(s.steps, "store "+string(e.Outcome))
	}
	return s.storeErr
}

func (benchEpisodes) LatestEpisode(string) (*api.Episode, error) { return nil, nil } //nolint:nilnil // none is an answer
func (benchEpisodes) NextEpisodeID() string                      { return "e1" }

func (benchMetrics) Detected(api.Class, time.Time, time.Time) {}
func (benchMetrics) Corrected(time.Time, time.Time)           {}
func (benchMetrics) Uncompared()                              {}

// steps of a drift that is corrected: the evidence is stored before anything is written.
var errRefused = &api.Error{Kind: api.Forbidden, Reason: "Refused", Err: errors.New("refused")}

func settings(says string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"namespace": "app", "name": "settings"},
		"data": map[string]any{"says": says},
	}}
	o.SetLabels(map[string]string{api.LabelPartOf: "x", api.LabelManagedBy: api.ManagedBy})
	return o
}

func (b *bench) ctx() context.Context { return context.Background() }

func partOf(bundle string) string { return plan.ApplySetID(bundle) }
