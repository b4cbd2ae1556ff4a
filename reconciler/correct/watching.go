package correct

import (
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/objects"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// Saw takes an event of the watch. It returns at once.
// What the event says is not used: a worker asks the watch, and then the cluster, for the newest state.
func (l *Loop) Saw(ref api.ObjectRef) { l.Look(ref.ID()) }

// Look has an object looked at. One of which nothing has changed since costs a look into the watch's memory and no request.
func (l *Loop) Look(id string) { l.queue.add(id, l.Now()) }

// lookAnew has an object compared whatever the watch says.
func (l *Loop) lookAnew(bundle, id string) {
	l.Home.Change(bundle, id, func(o *objects.Object) { o.Look = true })
	l.Look(id)
}

// Relisted says that the watch of a kind has seen everything anew, at first or after it was lost:
// events may be missing, so everything we own of that kind is looked at.
// What was unknown meanwhile is compared whatever the watch says,
// and so is what is older now than we left it: somebody has restored the cluster's store.
func (l *Loop) Relisted(group, kind string) {
	l.mu.Lock()
	delete(l.lost, kindOf{group, kind})
	l.mu.Unlock()
	for _, x := range l.ofKind(group, kind) {
		if seen, there := l.Watch.Get(x.Entry.Object); there && objects.Older(seen.ResourceVersion, x.Entry.ResourceVersion) {
			l.lookAnew(x.Bundle, x.Entry.Object.ID())
		}
		l.Saw(x.Entry.Object)
	}
}

// lostGrace is how long a watch may be down before nothing is claimed of its objects any more.
// Most come back within a second, and tell what happened meanwhile.
const lostGrace = 10 * time.Second

// kindOf is a group and a kind.
type kindOf struct{ group, kind string }

// Lost says that the watch of a kind is down. If it stays down, its objects are unknown until it is back.
func (l *Loop) Lost(group, kind string, err error) {
	k := kindOf{group, kind}
	since := l.Now()
	l.mu.Lock()
	l.lost[k] = since
	l.mu.Unlock()
	time.AfterFunc(lostGrace, func() { l.stillLost(k, since, err) })
}

// stillLost notes that the objects of a kind are unknown if its watch has been down since then.
func (l *Loop) stillLost(k kindOf, since time.Time, err error) {
	// The lock is held until all is noted: a watch that comes back meanwhile has its objects looked at afterwards.
	l.mu.Lock()
	defer l.mu.Unlock()
	if at, still := l.lost[k]; !still || !at.Equal(since) {
		return
	}
	bundles := map[string]bool{}
	for _, x := range l.ofKind(k.group, k.kind) {
		l.Home.Change(x.Bundle, x.Entry.Object.ID(), func(o *objects.Object) { o.Unknown = "its watch is down: " + err.Error() })
		bundles[x.Bundle] = true
	}
	for name := range bundles {
		l.Recount(name)
	}
}

// ofKind returns everything we own of a kind.
func (l *Loop) ofKind(group, kind string) []objects.Owned {
	return l.Home.Select(func(e api.InventoryEntry) bool { return e.Object.Group == group && e.Object.Kind == kind })
}

// LookAtEverything looks at all that we own and at all that carries one of our labels.
// What is as it was left costs a look into the watch's memory and no request.
func (l *Loop) LookAtEverything() {
	ids := l.Home.All()
	l.Watch.Objects(func(ref api.ObjectRef, _ objects.Seen) { ids[ref.ID()] = true })
	for id := range ids {
		l.Look(id)
	}
}

// LookAgain has all objects of a bundle compared, and those that carry its label:
// its policy has changed, so nothing is known of what was in sync by the old one.
func (l *Loop) LookAgain(bundle string) {
	for _, id := range l.Home.Look(bundle) {
		l.Look(id)
	}
	l.LookForStrays(bundle)
}

// LookForStrays has everything looked at that carries the bundle's label, whether we know it or not.
func (l *Loop) LookForStrays(bundle string) {
	l.Watch.Objects(func(ref api.ObjectRef, s objects.Seen) {
		if s.PartOf == plan.ApplySetID(bundle) {
			l.Saw(ref)
		}
	})
}

// LookAtDrift has the objects of a bundle looked at that have drifted: what is to become of them may have changed.
func (l *Loop) LookAtDrift(bundle string) {
	for _, e := range l.Home.Open(bundle) {
		l.Saw(e.Object)
	}
}

// LookAtSkipped has an object looked at that an apply has skipped and was to leave alone: it may not be as Git says.
func (l *Loop) LookAtSkipped(bundle, id string) {
	o := l.Home.Get(bundle, id)
	if o.Entry != nil && o.Baseline != nil && o.HandsOff() {
		l.lookAnew(bundle, id)
	}
}

// EndUndeclared ends the episodes of objects that are no longer the bundle's, and returns them.
// The objects of the others are looked at.
func (l *Loop) EndUndeclared(bundle string) []api.Episode {
	ended, kept := l.Home.EndUndeclared(bundle)
	for _, e := range kept {
		l.Saw(e.Object)
	}
	return l.Resolved(ended, "the object left Git")
}

// Resolved are episodes that ended without us and without a look at the object, with why they did.
func (l *Loop) Resolved(episodes []api.Episode, why string) []api.Episode {
	now := l.Now()
	for i, e := range episodes {
		episodes[i] = l.Detective.Resolved(e, now, why)
	}
	return episodes
}

// AsLeft is apply.Request.AsLeft. What the watch does not know yet the API server does: the version is a condition.
func (l *Loop) AsLeft(e api.InventoryEntry) string {
	seen, there := l.Watch.Get(e.Object)
	if !there || seen.UID != e.UID || changed(e, seen) || objects.Older(seen.ResourceVersion, e.ResourceVersion) {
		return ""
	}
	return seen.ResourceVersion
}
