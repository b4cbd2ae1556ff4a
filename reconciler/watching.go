package reconciler

import (
	"strconv"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// Saw takes an event of the watch. It returns at once.
// What the event says is not used: a worker asks the watch, and then the cluster, for the newest state.
func (r *Reconciler) Saw(ref api.ObjectRef) { r.queue.add(ref.ID(), r.Now()) }

// Relisted says that the watch of a kind has seen everything anew, at first or after it was lost:
// events may be missing, so everything we own of that kind is looked at.
// What was unknown meanwhile is compared whatever the watch says,
// and so is what is older now than we left it: somebody has restored the cluster's store.
func (r *Reconciler) Relisted(group, kind string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.Now()
	delete(r.lost, kindOf{group, kind})
	r.ofKindLocked(group, kind, func(b *bundle, e api.InventoryEntry) {
		id := e.Object.ID()
		if seen, there := r.Watch.Get(e.Object); there && older(seen.ResourceVersion, e.ResourceVersion) {
			b.objects.look(id)
		}
		r.queue.add(id, now)
	})
}

// lostGrace is how long a watch may be down before nothing is claimed of its objects any more.
// Most come back within a second, and tell what happened meanwhile.
const lostGrace = 10 * time.Second

// kindOf is a group and a kind.
type kindOf struct{ group, kind string }

// Lost says that the watch of a kind is down. If it stays down, its objects are unknown until it is back.
func (r *Reconciler) Lost(group, kind string, err error) {
	k := kindOf{group, kind}
	since := r.Now()
	r.mu.Lock()
	r.lost[k] = since
	r.mu.Unlock()
	time.AfterFunc(lostGrace, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if at, still := r.lost[k]; !still || !at.Equal(since) {
			return
		}
		changed := map[*bundle]bool{}
		r.ofKindLocked(group, kind, func(b *bundle, e api.InventoryEntry) {
			b.objects.change(e.Object.ID(), func(x *object) { x.unknown = "its watch is down: " + err.Error() })
			changed[b] = true
		})
		for b := range changed {
			r.driftCountLocked(b)
		}
	})
}

// ofKindLocked calls f for everything we own of a kind.
func (r *Reconciler) ofKindLocked(group, kind string, f func(*bundle, api.InventoryEntry)) {
	for id, name := range r.owners {
		if b := r.bundles[name]; b != nil {
			if e, ok := b.entries[id]; ok && e.Object.Group == group && e.Object.Kind == kind {
				f(b, e)
			}
		}
	}
}

// compareEverything looks at all that we own and at all that carries one of our labels.
// What is as it was left costs a look into the watch's memory and no request.
func (r *Reconciler) compareEverything() {
	now := r.Now()
	r.mu.Lock()
	ids := make(map[string]bool, len(r.owners))
	for id := range r.owners {
		ids[id] = true
	}
	for _, b := range r.bundles {
		for id := range b.objects.open() {
			ids[id] = true
		}
	}
	r.mu.Unlock()
	r.Watch.Objects(func(ref api.ObjectRef, _ Seen) { ids[ref.ID()] = true })
	for id := range ids {
		r.queue.add(id, now)
	}
}

// lookAgain has all objects of a bundle compared, and those that carry its label:
// its policy has changed, so nothing is known of what was in sync by the old one.
func (r *Reconciler) lookAgain(b *bundle) {
	now := r.Now()
	r.mu.Lock()
	for id := range b.appliedObjects {
		b.objects.look(id)
		r.queue.add(id, now)
	}
	r.mu.Unlock()
	r.lookForStrays(b)
}

// lookForStrays has everything looked at that carries the bundle's label, whether we know it or not.
func (r *Reconciler) lookForStrays(b *bundle) {
	now := r.Now()
	r.Watch.Objects(func(ref api.ObjectRef, s Seen) {
		if s.PartOf == plan.ApplySetID(b.name) {
			r.queue.add(ref.ID(), now)
		}
	})
}

// changed reports whether what the watch saw can matter.
func changed(e api.InventoryEntry, s Seen) bool {
	switch {
	case e.ResourceVersion == s.ResourceVersion:
		return false
	case e.UID != s.UID:
		return true
	case older(s.ResourceVersion, e.ResourceVersion):
		return false // the watch has not yet seen our own write
	case s.Generation == e.Generation && api.SameMeta(e.MetaDigest, s.MetaDigest):
		return false // status only
	default:
		return true
	}
}

// asLeft is apply.Request.AsLeft. What the watch does not know yet the API server does: the version is a condition.
func (r *Reconciler) asLeft(e api.InventoryEntry) string {
	seen, there := r.Watch.Get(e.Object)
	if !there || seen.UID != e.UID || changed(e, seen) || older(seen.ResourceVersion, e.ResourceVersion) {
		return ""
	}
	return seen.ResourceVersion
}

// older compares resource versions, which are ordered since Kubernetes 1.35 (KEP-5504).
// Where they are no numbers nothing is claimed.
func older(a, b string) bool {
	x, errX := strconv.ParseUint(a, 10, 64)
	y, errY := strconv.ParseUint(b, 10, 64)
	return errX == nil && errY == nil && x < y
}
