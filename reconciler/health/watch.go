package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/kubejson"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
)

const selector = api.LabelManagedBy + "=" + api.ManagedBy + "," + api.LabelPartOf

// Pauses between attempts of a watch that does not work.
const (
	firstPause = 200 * time.Millisecond
	maxPause   = 15 * time.Second
)

// Run opens and closes watches as they are needed, until ctx ends. It returns when all are closed.
func (t *Tracker) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { t.announce(ctx) })
	timer := time.NewTimer(t.linger)
	defer timer.Stop()
	for {
		next := t.arrange(ctx, &wg)
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return nil
		case <-t.wake:
		case <-timer.C:
		}
	}
}

// arrange opens watches that are needed and closes those that were not for a while.
// It returns when to look again.
func (t *Tracker) arrange(ctx context.Context, wg *sync.WaitGroup) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := time.Hour
	for gk, k := range t.kinds {
		if k.users == 0 {
			left := t.linger - time.Since(k.idle)
			if left <= 0 {
				k.close()
				delete(t.kinds, gk)
				continue
			}
			next = min(next, left)
			continue
		}
		if k.stop == nil {
			var kctx context.Context
			kctx, k.stop = context.WithCancel(ctx)
			wg.Go(func() { t.follow(kctx, k) })
		}
	}
	return next
}

// announce gives out the names of changed bundles.
func (t *Tracker) announce(ctx context.Context) {
	for {
		t.mu.Lock()
		name, found := "", false
		for name = range t.dirty {
			found = true
			delete(t.dirty, name)
			break
		}
		t.mu.Unlock()
		if !found {
			select {
			case <-ctx.Done():
				return
			case <-t.notify:
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case t.changed <- name:
		}
	}
}

// follow lists and watches one kind until ctx ends.
func (t *Tracker) follow(ctx context.Context, k *kind) {
	pause := firstPause
	for ctx.Err() == nil {
		worked, err := t.listAndWatch(ctx, k)
		if ctx.Err() != nil {
			return
		}
		if worked {
			pause = firstPause
		}
		t.mu.Lock()
		k.err = err
		t.mu.Unlock()
		if err != nil {
			t.log.Debug("health watch", "kind", k.gvk.Kind, "error", err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		if !worked {
			pause = min(2*pause, maxPause)
		}
	}
}

// listAndWatch takes in all objects of a kind and then what changes, until the watch breaks off.
// It reports whether it got as far as watching.
func (t *Tracker) listAndWatch(ctx context.Context, k *kind) (worked bool, err error) {
	m, err := t.mapping(k.gvk)
	if err != nil {
		return false, err
	}
	defer func() {
		if apierrors.IsNotFound(err) {
			t.mapper.Reset() // its CRD has dropped the version, or is gone
		}
	}()
	res := t.dynamic.Resource(m.Resource)
	version, err := t.list(ctx, k, func(opts metav1.ListOptions) (*unstructured.UnstructuredList, error) { return res.List(ctx, opts) })
	if err != nil {
		return false, err
	}
	for {
		soonest := time.After(firstPause) // where a proxy ends every watch at once
		if version, err = t.watch(ctx, k, m.Resource, version); err != nil || ctx.Err() != nil {
			return true, err
		}
		select {
		case <-ctx.Done():
		case <-soonest:
		}
	}
}

// watch takes in what changes from a version on, until the watch ends. It returns the version to go on from.
func (t *Tracker) watch(ctx context.Context, k *kind, resource schema.GroupVersionResource, version string) (string, error) {
	at, err := kube.Address{Group: resource.Group, Version: resource.Version, Resource: resource.Resource}.Collection()
	if err != nil {
		return version, err
	}
	body, err := at.On(t.rest.Get()).Param("watch", "true").Param("labelSelector", selector).Param("resourceVersion", version).
		Param("allowWatchBookmarks", "true").Param("timeoutSeconds", "300").Stream(ctx)
	if err != nil {
		return version, err
	}
	defer func() { _ = body.Close() }()
	return t.consume(k, kubejson.NewEvents(body), version)
}

// mapping finds where a kind is served: in the version in which we know it, or else in the one that the server prefers.
func (t *Tracker) mapping(gvk schema.GroupVersionKind) (*meta.RESTMapping, error) {
	m, err := t.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err == nil {
		return m, nil
	}
	t.mapper.Reset()
	if m, err = t.mapper.RESTMapping(gvk.GroupKind(), gvk.Version); meta.IsNoMatchError(err) {
		m, err = t.mapper.RESTMapping(gvk.GroupKind())
	}
	return m, err
}

// list takes in all objects of a kind, and forgets those that are not there any more.
func (t *Tracker) list(ctx context.Context, k *kind, page func(metav1.ListOptions) (*unstructured.UnstructuredList, error)) (string, error) {
	opts := metav1.ListOptions{LabelSelector: selector, Limit: 500}
	seen, waiting := map[string]bool{}, t.waiting(k)
	for {
		l, err := page(opts)
		if err != nil {
			return "", err
		}
		for i := range l.Items {
			t.take(k, &l.Items[i])
			seen[api.RefOf(&l.Items[i]).ID()] = true
		}
		if opts.Continue = l.GetContinue(); opts.Continue != "" {
			continue
		}
		t.listed(k, seen, waiting, l.GetResourceVersion())
		return l.GetResourceVersion(), ctx.Err()
	}
}

// waiting are the bundles that wait for objects of a kind now.
func (t *Tracker) waiting(k *kind) []*bundle {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*bundle
	for _, b := range t.bundles {
		if _, ok := b.watched()[k.gvk.GroupKind()]; ok {
			out = append(out, b)
		}
	}
	return out
}

// listed notes that everything up to a version was seen, by a list that began when these bundles were waiting.
func (t *Tracker) listed(k *kind, seen map[string]bool, waiting []*bundle, version string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rv, _ := strconv.ParseUint(version, 10, 64)
	k.listed, k.err = max(rv, 1), nil
	for _, b := range waiting {
		if rv > 0 {
			b.restored(k.gvk.GroupKind(), rv)
		}
	}
	for id, v := range k.verdicts {
		if !seen[id] && !v.gone {
			if k.gvk.GroupKind() == jobs {
				delete(k.verdicts, id) // it may have ended before it was gone
				continue
			}
			v.gone = true
			k.verdicts[id] = v
		}
	}
	for name, b := range t.bundles {
		if _, ok := b.watched()[k.gvk.GroupKind()]; ok {
			t.dirtyLocked(name)
		}
	}
}

// restored forgets which state was applied of objects of a kind where that is later than anything there is:
// a list shows all that was written before it, so the API server's store was restored from a backup, and counts on from there.
// What there is of the objects then counts.
func (b *bundle) restored(gk schema.GroupKind, latest uint64) {
	for i, e := range b.entries {
		if rv, err := strconv.ParseUint(e.ResourceVersion, 10, 64); err == nil && rv > latest && e.Object.GVK().GroupKind() == gk {
			b.entries[i].ResourceVersion = ""
		}
	}
}

// consume takes in events until the watch ends. It returns the version to go on from.
func (t *Tracker) consume(k *kind, events *kubejson.Events, version string) (string, error) {
	for {
		ev, err := events.Next()
		if errors.Is(err, io.ErrUnexpectedEOF) || utilnet.IsProbableEOF(err) || utilnet.IsTimeout(err) {
			return version, nil // it ended, or the connection broke: nothing was missed
		}
		if err != nil {
			return version, fmt.Errorf("watch: %w", err)
		}
		version = ev.Object.GetResourceVersion()
		switch ev.Type {
		case watch.Bookmark:
		case watch.Deleted:
			rv, _ := strconv.ParseUint(version, 10, 64)
			t.see(k, refOf(k.gvk, ev.Object), verdict{version: rv, gone: true})
		default:
			t.take(k, ev.Object)
		}
		t.reached(k, version)
	}
}

// reached notes that everything up to a version was seen.
func (t *Tracker) reached(k *kind, version string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rv, _ := strconv.ParseUint(version, 10, 64)
	k.listed = max(k.listed, rv)
}

// take judges an object that was seen.
func (t *Tracker) take(k *kind, o *unstructured.Unstructured) {
	ref := refOf(k.gvk, o)
	rv, _ := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	for {
		c := t.checkFor(ref)
		st, msg := judge(o, c)
		if t.see(k, ref, verdict{version: rv, status: st, message: msg, check: c}) {
			return
		}
	}
}

func refOf(gvk schema.GroupVersionKind, o *unstructured.Unstructured) api.ObjectRef {
	return api.ObjectRef{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind, Namespace: o.GetNamespace(), Name: o.GetName()}
}
