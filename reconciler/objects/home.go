package objects

import (
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// Bundle is what Git says of a bundle, and how far that is applied.
type Bundle struct {
	Name string
	// Desired is what the adopted revision says. It is nil until that is known, and once the bundle has left Git.
	Desired *api.RenderedBundle
	// Revision is the revision that last changed Desired.
	Revision string
	// Applied is what was last applied: the baseline that drift is measured against.
	// It is nil until that is known, and stays when Git breaks.
	Applied *api.RenderedBundle
	// AppliedRevision is the revision that Applied is of.
	AppliedRevision string
	// Gone is set when the bundle has left Git.
	Gone bool
	// Synced is set when the bundle was applied, pruned and recorded without error from what Git says.
	Synced bool
}

// Object is what is known of one object of a bundle. The zero value knows nothing.
type Object struct {
	// Entry is its entry in the bundle's inventory; nil if the bundle does not own it. It is replaced and never changed.
	Entry *api.InventoryEntry
	// Baseline is what was last applied of it; nil if it was not in Git then.
	Baseline *unstructured.Unstructured
	// Episode is the open episode; nil if there is none. It is replaced and never changed.
	Episode *api.Episode
	// Unknown is why the object could not be compared; empty if it could.
	Unknown string
	// Orders are what the annotations of the live object say.
	Orders api.Orders
	// Unlabelled is set when the object was seen without a label by which it is watched, and was left so.
	Unlabelled bool
	// Look has the object compared whatever the watch says: what counts as drift has changed.
	Look bool
	// Tried is what the watch had seen of the object when the bundle was last tried because of it; nil if it was not.
	Tried *Seen
}

// Seen is what a metadata watch knows of an object.
type Seen struct {
	UID             string
	ResourceVersion string
	Generation      int64
	MetaDigest      string
	// PartOf is the ApplySet that the object's label names.
	PartOf string
	// Orders are what its annotations say.
	Orders api.Orders
	// Applied says that our field manager applied it: nobody made it by copying the labels.
	Applied bool
}

// HandsOff reports whether the object is not to be written, by Git's word or an annotation on the cluster.
// That it is not as Git says is known all the same.
func (o Object) HandsOff() bool {
	return o.Orders.Reconcile == api.ValueDisabled ||
		o.Baseline != nil && api.OrdersIn(o.Baseline.GetAnnotations()).Reconcile == api.ValueDisabled
}

// SetEpisode keeps an episode while it is open.
func (o *Object) SetEpisode(e api.Episode) {
	o.Episode = nil
	if e.Open() {
		o.Episode = &e
	}
}

// Home holds what is known of objects. Make it with New.
type Home struct {
	mu      sync.Mutex
	bundles map[string]*bundle
	// owners: object ID -> name of the bundle whose inventory holds it
	owners map[string]string
	claims Claims
	// applySets: value of the part-of label -> name of the bundle
	applySets map[string]string
}

// bundle is what Home holds of one bundle.
type bundle struct {
	Bundle
	// objects: object ID -> what is known of it. An object of which nothing is known is not in it.
	objects map[string]*Object
	// owned counts the objects that have an entry.
	owned int
	// passed are the objects that were there before and are not ours for what an annotation on them says, each with that.
	passed []string
	// tally is the tally as it was last counted, and counted is when it last changed.
	tally   Tally
	counted time.Time
}

// New makes a home in which nothing is known.
func New() *Home {
	return &Home{bundles: map[string]*bundle{}, owners: map[string]string{}, claims: Claims{}, applySets: map[string]string{}}
}

// Publish makes known what Git says of a bundle, and how far that is applied.
func (h *Home) Publish(b Bundle) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bundleLocked(b.Name).Bundle = b
}

func (h *Home) bundleLocked(name string) *bundle {
	b := h.bundles[name]
	if b == nil {
		b = &bundle{Bundle: Bundle{Name: name}, objects: map[string]*Object{}}
		h.bundles[name] = b
		h.applySets[plan.ApplySetID(name)] = name
	}
	return b
}

// Remove forgets a bundle, and returns the episodes of its objects that were open.
func (h *Home) Remove(name string) []api.Episode {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.bundles[name]
	if b == nil {
		return nil
	}
	delete(h.bundles, name)
	delete(h.applySets, plan.ApplySetID(name))
	h.inheritLocked(h.dropLocked(b))
	return b.open()
}

// View is all that is known about an object of a bundle at one moment.
type View struct {
	Bundle Bundle
	Object Object
	// Claimed names the bundle that is to have the object by the adopted revision; empty if none declares it.
	Claimed string
	// DesiredBy is as Home.DesiredBy.
	DesiredBy string
}

// View returns what is known about an object of a bundle; false if there is no such bundle.
func (h *Home) View(name, id string) (View, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.bundles[name]
	if b == nil {
		return View{}, false
	}
	v := View{Bundle: b.Bundle, Claimed: h.claims.Of(id), DesiredBy: h.desiredByLocked(id)}
	if o := b.objects[id]; o != nil {
		v.Object = *o
	}
	return v, true
}

// Get returns what is known of an object of a bundle.
func (h *Home) Get(name, id string) Object {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b := h.bundles[name]; b != nil && b.objects[id] != nil {
		return *b.objects[id]
	}
	return Object{}
}

// Bundle is what was published of a bundle; zero if nothing was.
func (h *Home) Bundle(name string) Bundle {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b := h.bundles[name]; b != nil {
		return b.Bundle
	}
	return Bundle{}
}

// Change changes what is known of an object of a bundle. It is nothing to a bundle that is not there.
// The function runs under Home's lock: it may call nothing of Home.
func (h *Home) Change(name, id string, f func(*Object)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b := h.bundles[name]; b != nil {
		b.change(id, f)
	}
}

// Keep keeps an episode of an object while it is open, and counts anew. noted is called under Home's lock.
func (h *Home) Keep(name, id string, e api.Episode, now time.Time, noted func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b := h.bundles[name]; b != nil {
		b.change(id, func(o *Object) { o.SetEpisode(e) })
		b.recount(now)
	}
	noted()
}

// change changes what is known of an object, and forgets one of which nothing is.
func (b *bundle) change(id string, f func(*Object)) {
	o := b.objects[id]
	if o == nil {
		o = &Object{}
	}
	before := o.Entry != nil
	f(o)
	if after := o.Entry != nil; after != before {
		b.owned--
		if after {
			b.owned += 2
		}
	}
	if *o == (Object{}) {
		delete(b.objects, id)
	} else {
		b.objects[id] = o
	}
}

// Look has all objects of a bundle compared that Git describes, and returns their IDs.
func (h *Home) Look(name string) []string {
	return h.mark(name, func(o *Object) bool {
		if o.Baseline != nil {
			o.Look = true
		}
		return o.Baseline != nil
	})
}

// Untried forgets that a bundle was tried because of one of its objects.
func (h *Home) Untried(name string) {
	h.mark(name, func(o *Object) bool {
		o.Tried = nil
		return false
	})
}

// mark changes what is known of every object of a bundle, and returns the IDs of those for which f reports true.
func (h *Home) mark(name string, f func(*Object) bool) (ids []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.bundles[name]
	if b == nil {
		return nil
	}
	for id := range b.objects {
		b.change(id, func(o *Object) {
			if f(o) {
				ids = append(ids, id)
			}
		})
	}
	return ids
}

// Open returns the open episodes of a bundle's objects.
func (h *Home) Open(name string) []api.Episode {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b := h.bundles[name]; b != nil {
		return b.open()
	}
	return nil
}

func (b *bundle) open() (out []api.Episode) {
	for _, o := range b.objects {
		if o.Episode != nil {
			out = append(out, *o.Episode)
		}
	}
	return out
}

// AllOpen returns the open episodes of all objects.
func (h *Home) AllOpen() (out []api.Episode) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, b := range h.bundles {
		out = append(out, b.open()...)
	}
	return out
}

// EndUndeclared forgets the open episodes of objects that are no longer the bundle's, and returns them.
// The others are kept, and returned too.
func (h *Home) EndUndeclared(name string) (ended, kept []api.Episode) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.bundles[name]
	if b == nil {
		return nil, nil
	}
	for id, o := range b.objects {
		switch {
		case o.Episode == nil:
		case o.Baseline == nil && o.Episode.Class != api.ClassExtra:
			ended = append(ended, *o.Episode)
			b.change(id, func(o *Object) { o.Episode = nil })
		default:
			kept = append(kept, *o.Episode)
		}
	}
	return ended, kept
}

// BundleOf names the bundle whose object it is: the one whose inventory holds it, the one whose ApplySet its label names,
// or the one that is to have it: it may be applied right now, and the object gone again. It is empty for an object of nobody.
func (h *Home) BundleOf(id string, seen Seen, there bool) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	name := h.bundleOfLocked(id, seen, there)
	if h.bundles[name] == nil {
		return ""
	}
	return name
}

func (h *Home) bundleOfLocked(id string, seen Seen, there bool) string {
	if name, ok := h.owners[id]; ok {
		return name
	}
	if there {
		return h.applySets[seen.PartOf]
	}
	for name, b := range h.bundles {
		if o := b.objects[id]; o != nil && o.Episode != nil {
			return name
		}
	}
	return h.claims.Of(id)
}

// All returns the IDs of all objects that are owned or have an open episode.
func (h *Home) All() map[string]bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	ids := make(map[string]bool, len(h.owners))
	for id := range h.owners {
		ids[id] = true
	}
	for _, b := range h.bundles {
		for id, o := range b.objects {
			if o.Episode != nil {
				ids[id] = true
			}
		}
	}
	return ids
}

// Owned is an entry of an inventory, with the bundle whose it is.
type Owned struct {
	Bundle string
	Entry  api.InventoryEntry
}

// Select returns the entries of all bundles' inventories that f is true for, each at the bundle that owns the object.
func (h *Home) Select(f func(api.InventoryEntry) bool) (out []Owned) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, name := range h.owners {
		b := h.bundles[name]
		if b == nil {
			continue
		}
		if o := b.objects[id]; o != nil && o.Entry != nil && f(*o.Entry) {
			out = append(out, Owned{name, *o.Entry})
		}
	}
	return out
}

// Version is the version in which an object's kind is owned: its own if nothing of the kind is.
func (h *Home) Version(ref api.ObjectRef) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, b := range h.bundles {
		for _, o := range b.objects {
			if e := o.Entry; e != nil && e.Object.Group == ref.Group && e.Object.Kind == ref.Kind && e.Object.Version != "" {
				return e.Object.Version
			}
		}
	}
	return ref.Version
}

// Contents is what the store keeps of a bundle's objects.
type Contents struct {
	Tally     Tally
	Counted   time.Time
	Inventory []api.InventoryEntry
}

// In returns a status with the tally in it.
func (c Contents) In(s api.BundleStatus) api.BundleStatus {
	if c.Counted.After(s.Updated) {
		s.Updated = c.Counted
	}
	return c.Tally.In(s)
}

// Contents returns the contents of the bundles that choose names. choose is called under Home's lock:
// what is noted under the lock when something changes is noted either before choose, or after Contents.
func (h *Home) Contents(choose func() []string) map[string]Contents {
	h.mu.Lock()
	defer h.mu.Unlock()
	names := choose()
	out := make(map[string]Contents, len(names))
	for _, name := range names {
		if b := h.bundles[name]; b != nil {
			out[name] = Contents{b.tally, b.counted, b.inventory()}
		}
	}
	return out
}

// inventory returns the entries in a stable order.
func (b *bundle) inventory() []api.InventoryEntry {
	out := make([]api.InventoryEntry, 0, b.owned)
	for _, o := range b.objects {
		if o.Entry != nil {
			out = append(out, *o.Entry)
		}
	}
	slices.SortFunc(out, func(x, y api.InventoryEntry) int { return api.CompareRefs(x.Object, y.Object) })
	return out
}
