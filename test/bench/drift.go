package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/drift/store"
)

// resources are the four of a bundle.
var resources = []schema.GroupVersionResource{
	{Version: "v1", Resource: "serviceaccounts"},
	{Version: "v1", Resource: "services"},
	deployments,
	{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"},
}

// The label that is edited, and what it becomes.
const (
	nameLabel  = "app.kubernetes.io/name"
	editedName = "edited"
)

// marks follows edits of a label on many objects: when each was written, and when it was undone.
type marks struct {
	mu      sync.Mutex
	edited  map[string]time.Time // resource/name -> when the API server had answered
	shown   map[string]bool      // resource/name -> the watch has shown the edit
	undone  map[string]time.Time
	changed chan struct{}
}

// saw takes an event of an object.
func (m *marks) saw(resource string, o *unstructured.Unstructured, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := resource + "/" + o.GetName()
	switch {
	case o.GetLabels()[nameLabel] == editedName:
		m.shown[key] = true
	case m.shown[key] && m.undone[key].IsZero():
		m.undone[key] = at
		select {
		case m.changed <- struct{}{}:
		default:
		}
	}
}

// edits changes a label of many objects at a steady rate, and measures how soon each edit is recorded and undone.
func (b *bench) edits(ctx context.Context) error {
	count := min(b.o.edits, 4*b.n)
	m := &marks{edited: map[string]time.Time{}, shown: map[string]bool{}, undone: map[string]time.Time{}, changed: make(chan struct{}, 1)}
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, gvr := range resources {
		b.plane.observe(watching, gvr, agentNamespace, func(o *unstructured.Unstructured, at time.Time) { m.saw(gvr.Resource, o, at) })
	}
	if err := pause(ctx, settle); err != nil {
		return err
	}
	note := fmt.Sprintf("%d edits over %d objects, %.0f a second", count, 4*b.n, b.o.rate)
	err := b.row(ctx, "edits", note, 1, func(ctx context.Context) (time.Duration, error) {
		begun := time.Now()
		if err := b.mark(ctx, m, count); err != nil {
			return 0, err
		}
		return time.Since(begun), m.wait(ctx, count)
	})
	if err != nil {
		return err
	}
	return b.distribution(ctx, m)
}

// mark makes the edits: the objects are spread evenly over the bundles and kinds.
func (b *bench) mark(ctx context.Context, m *marks, count int) error {
	tick := time.NewTicker(time.Duration(float64(time.Second) / b.o.rate))
	defer tick.Stop()
	var wg sync.WaitGroup
	failed := make(chan error, count)
	for i := range count {
		select {
		case <-tick.C:
		case err := <-failed:
			wg.Wait()
			return err
		case <-ctx.Done():
			wg.Wait()
			return ctx.Err()
		}
		// 4n objects, of which every (4n/count)-th is edited, in an order that changes the kind each time.
		at := i * 4 * b.n / count
		gvr, name := resources[(at+i)%4], bundleName(at/4)
		wg.Go(func() {
			body := fmt.Appendf(nil, `{"metadata":{"labels":{%q:%q}}}`, nameLabel, editedName)
			_, err := b.plane.dynamic.Resource(gvr).Namespace(agentNamespace).Patch(ctx, name, types.MergePatchType, body,
				metav1.PatchOptions{FieldManager: "kubectl-edit"})
			if err != nil {
				failed <- err
				return
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			m.edited[gvr.Resource+"/"+name] = time.Now()
		})
	}
	wg.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// wait waits until every edit is undone.
func (m *marks) wait(ctx context.Context, count int) error {
	timeout := time.After(5 * time.Minute)
	for {
		m.mu.Lock()
		edited, undone := len(m.edited), len(m.undone)
		m.mu.Unlock()
		if undone >= edited {
			return nil
		}
		select {
		case <-m.changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-timeout:
			return fmt.Errorf("%d of %d edits were undone after 5 minutes", undone, count)
		}
	}
}

// distribution reads from the agent's store when each episode was stored, and adds rows of the percentiles.
func (b *bench) distribution(ctx context.Context, m *marks) error {
	if err := b.agent.stop(); err != nil {
		return err
	}
	stored, err := b.stored()
	if err != nil {
		return err
	}
	if err := b.start(ctx); err != nil {
		return err
	}
	if err := pause(ctx, settle); err != nil { // its start is no part of the next row
		return err
	}
	var detect, correct []time.Duration
	var missed []string
	for key, at := range m.edited {
		correct = append(correct, m.undone[key].Sub(at))
		if when, ok := stored[key]; ok {
			detect = append(detect, when.Sub(at))
		} else {
			missed = append(missed, key)
		}
	}
	b.percentiles("API write to episode stored", detect)
	b.percentiles("API write to live value restored", correct)
	b.remark("missed (edits without an episode): %d of %d", len(missed), len(m.edited))
	if len(missed) > 0 {
		slices.Sort(missed)
		return fmt.Errorf("%d of %d edits have no episode, such as %s", len(missed), len(m.edited), missed[0])
	}
	return nil
}

// stored is when the first report about each object's drift went into the store: resource/name -> time.
func (b *bench) stored() (map[string]time.Time, error) {
	s, err := store.Open(store.Config{Path: filepath.Join(b.dir, "agent", "agent.db"), Cluster: clusterName})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	resourceOf := map[string]string{"ServiceAccount": "serviceaccounts", "Service": "services", "Deployment": "deployments", "Ingress": "ingresses"}
	out := map[string]time.Time{}
	for after := uint64(0); ; {
		reports, err := s.Outbox(after, 0)
		if err != nil || len(reports) == 0 {
			return out, err
		}
		for _, r := range reports {
			after = r.Seq
			if r.Episode == nil {
				continue
			}
			key := resourceOf[r.Episode.Object.Kind] + "/" + r.Episode.Object.Name
			// Earlier rows may have edited the same object, but another field.
			if _, ok := out[key]; !ok && len(r.Episode.Fields) > 0 && r.Episode.Fields[0].Path != "/spec/revisionHistoryLimit" {
				out[key] = r.At
			}
		}
	}
}

func (b *bench) percentiles(what string, all []time.Duration) {
	if len(all) == 0 {
		return
	}
	slices.Sort(all)
	at := func(q float64) time.Duration {
		return all[min(len(all)-1, int(q*float64(len(all))))].Round(time.Millisecond)
	}
	b.remark("%s (%d): p50 %v, p90 %v, p99 %v, longest %v", what, len(all), at(0.5), at(0.9), at(0.99), at(1))
	last := &b.results[len(b.results)-1]
	last.Times, last.Wall = len(all), at(0.99)
}

// remark adds a line below the table.
func (b *bench) remark(format string, args ...any) {
	b.results = append(b.results, result{Bundles: b.n, Row: remarkRow, Note: fmt.Sprintf("  "+format, args...)})
}

// remarkRow is the name of rows that are lines below the table.
const remarkRow = "percentiles"

// statusUpdates writes the status of Ingresses, as a controller does, and counts what the agent asks about it.
func (b *bench) statusUpdates(ctx context.Context) error {
	c, err := b.plane.rest()
	if err != nil {
		return err
	}
	note := fmt.Sprintf("%d updates of status only", b.o.updates)
	return b.row(ctx, "status", note, 1, func(ctx context.Context) (time.Duration, error) {
		begun := time.Now()
		err := parallel(ctx, b.o.updates, func(i int) error {
			body := fmt.Appendf(nil, `{"status":{"loadBalancer":{"ingress":[{"ip":"10.1.%d.%d"}]}}}`, i/250%250, i%250)
			path := ingress(agentNamespace, i%b.n).path + "/status"
			return c.Patch(types.MergePatchType).AbsPath(path).Body(body).Do(ctx).Error()
		})
		return time.Since(begun), err
	})
}
