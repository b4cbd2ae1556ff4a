package objects

import (
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
)

// Inventory returns what a bundle owns, in a stable order.
func (h *Home) Inventory(name string) []api.InventoryEntry {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b := h.bundles[name]; b != nil {
		return b.inventory()
	}
	return nil
}

// Count returns how many objects a bundle owns.
func (h *Home) Count(name string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b := h.bundles[name]; b != nil {
		return b.owned
	}
	return 0
}

// Entry returns the entry of an object in a bundle's inventory; false if the bundle does not own it.
func (h *Home) Entry(name, id string) (api.InventoryEntry, bool) {
	if e := h.Get(name, id).Entry; e != nil {
		return *e, true
	}
	return api.InventoryEntry{}, false
}

// Awaited returns what a bundle owns that is to be healthy: what Git declares, and not what has left it and is kept.
func (h *Home) Awaited(name string) []api.InventoryEntry {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.bundles[name]
	if b == nil || b.Gone {
		return nil
	}
	return slices.DeleteFunc(b.inventory(), func(e api.InventoryEntry) bool {
		return b.objects[e.Object.ID()].Baseline == nil
	})
}

// Owned returns the IDs of what a bundle owns.
func (h *Home) Owned(name string) []string {
	return h.mark(name, func(o *Object) bool { return o.Entry != nil })
}

// IDs returns the IDs of what a bundle owns or was last applied with.
func (h *Home) IDs(name string) (ids []string) {
	return h.mark(name, func(o *Object) bool { return o.Entry != nil || o.Baseline != nil })
}

// OwnsUndeclared reports whether a bundle owns anything that it was not last applied with.
func (h *Home) OwnsUndeclared(name string) bool {
	return len(h.mark(name, func(o *Object) bool { return o.Entry != nil && o.Baseline == nil })) > 0
}

// SetBaseline makes objects what a bundle was last applied with. Of an object in held, which a suspension kept from being written,
// the baseline stays what was applied before, from where drift is measured until the object is written. A restart finds the same.
func (h *Home) SetBaseline(name string, objects []*unstructured.Unstructured, held map[string]string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.bundleLocked(name)
	now := make(map[string]*unstructured.Unstructured, len(objects))
	for _, o := range objects {
		now[api.RefOf(o).ID()] = o
	}
	for id := range held {
		o := b.objects[id]
		if o == nil || o.Baseline == nil || o.Entry == nil || now[id] == nil {
			continue
		}
		if d := o.Entry.Digest; d != apply.Digest(now[id]) && d == apply.Digest(o.Baseline) {
			now[id] = o.Baseline
		}
	}
	for id := range b.objects {
		if now[id] == nil {
			b.change(id, func(o *Object) { o.Baseline = nil })
		}
	}
	for id, want := range now {
		b.change(id, func(o *Object) { o.Baseline = want })
	}
}

// Remember makes an inventory that was rebuilt from the cluster what it would be if nothing had been lost:
// it knows what was applied of each object, and objects that are gone. All of them are to be compared.
// What another bundle owns has moved there since, and is not this one's.
func (h *Home) Remember(name string, origin map[string]string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.bundleLocked(name)
	for id, o := range b.objects {
		if o.Baseline == nil {
			continue
		}
		a := o.Baseline.GetAnnotations()
		if o.Entry == nil && (a[api.AnnotationReconcile] != "" || a[api.AnnotationSSA] != "") {
			continue // it may well never have been ours
		}
		e := api.InventoryEntry{Object: api.RefOf(o.Baseline), Digest: apply.Digest(o.Baseline), Origin: origin[id]}
		if o.Entry != nil {
			e.UID, e.HandsOff = o.Entry.UID, o.Entry.HandsOff
		}
		b.change(id, func(o *Object) { o.Entry, o.Look = &e, true })
	}
	for id, o := range b.objects {
		if o.Entry == nil {
			continue
		}
		switch owner := h.bundles[h.owners[id]]; {
		case owner == nil:
			h.owners[id] = name // what is gone is looked at, too
		case owner != b && owner.owns(id):
			b.change(id, func(o *Object) { o.Entry = nil })
		}
	}
}

func (b *bundle) owns(id string) bool {
	o := b.objects[id]
	return o != nil && o.Entry != nil
}

// Taken is what became of an inventory that was taken over.
type Taken struct {
	// From are the bundles whose objects the bundle has taken over.
	From []string
	// Overwritten are the bundles, maybe the bundle itself, whose objects were written or labelled by another bundle since.
	Overwritten []string
}

// SetInventory replaces what a bundle owns.
func (h *Home) SetInventory(name string, inventory []api.InventoryEntry) (out Taken) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.bundleLocked(name)
	dropped := h.dropLocked(b)
	for _, e := range inventory {
		h.takeLocked(b, e, &out)
	}
	h.inheritLocked(dropped)
	return out
}

// dropLocked empties the inventory of a bundle, and returns the IDs of the objects that have no owner for that.
func (h *Home) dropLocked(b *bundle) (ids []string) {
	for id, o := range b.objects {
		if o.Entry == nil {
			continue
		}
		if h.owners[id] == b.Name {
			delete(h.owners, id)
			ids = append(ids, id)
		}
		b.change(id, func(o *Object) { o.Entry = nil })
	}
	return ids
}

// inheritLocked gives objects that have no owner to a bundle whose inventory holds them, too.
func (h *Home) inheritLocked(ids []string) {
	for _, id := range ids {
		if h.owners[id] != "" {
			continue
		}
		for name, b := range h.bundles {
			if was := h.owners[id]; b.owns(id) && (was == "" || name < was) {
				h.owners[id] = name
			}
		}
	}
}

// takeLocked takes an entry into a bundle's inventory, and out of the others' if the bundle is to have it.
func (h *Home) takeLocked(b *bundle, e api.InventoryEntry, out *Taken) {
	id := e.Object.ID()
	want := h.claims.Of(id)
	if other := h.bundles[want]; want != b.Name && other != nil && other.owns(id) {
		if !Newer(e, *other.objects[id].Entry) {
			h.owners[id] = want
			return // it has moved there while this bundle ran
		}
		out.Overwritten = append(out.Overwritten, want) // it was there before, and is labelled as this one's now
	}
	b.change(id, func(o *Object) { o.Entry = &e })
	// The bundle that Git names wins while an object moves from one to another.
	if want == "" || want == b.Name || h.owners[id] == "" {
		h.owners[id] = b.Name
	}
	if want != b.Name {
		return
	}
	for _, other := range h.bundles {
		switch {
		case other == b || !other.owns(id):
		case Newer(*other.objects[id].Entry, e):
			out.Overwritten = append(out.Overwritten, b.Name) // it was here before, and is labelled as the other's now
		default:
			orders := other.objects[id].Orders
			other.change(id, func(o *Object) { o.Entry = nil })
			b.change(id, func(o *Object) { o.Orders = orders })
			if !slices.Contains(out.From, other.Name) {
				out.From = append(out.From, other.Name)
			}
		}
	}
}

// Add takes what a bundle is found to own into its inventory.
func (h *Home) Add(name string, e api.InventoryEntry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.bundles[name]
	if b == nil {
		return
	}
	b.change(e.Object.ID(), func(o *Object) { o.Entry = &e })
	h.owners[e.Object.ID()] = name
}

// Newer reports whether an object was written for one bundle after it was for another one,
// which has not written it since the inventory was rebuilt if no version is known.
func Newer(e, other api.InventoryEntry) bool {
	return other.ResourceVersion == "" && e.ResourceVersion != "" || Older(other.ResourceVersion, e.ResourceVersion)
}

// Older compares resource versions, which are ordered since Kubernetes 1.35 (KEP-5504).
// Where they are no numbers nothing is claimed.
func Older(a, b string) bool {
	x, errX := strconv.ParseUint(a, 10, 64)
	y, errY := strconv.ParseUint(b, 10, 64)
	return errX == nil && errY == nil && x < y
}
