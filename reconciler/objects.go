package reconciler

import (
	"iter"

	"github.com/flotilla-fleet/flotilla/api"
)

// object is what drift knows of one object of a bundle. The zero value knows nothing.
type object struct {
	// episode is the open episode; nil if there is none.
	episode *api.Episode
	// unknown is why the object could not be compared; empty if it could.
	unknown string
	// orders are what the annotations of the live object say.
	orders api.Orders
	// unlabelled is set when the object was seen without a label by which it is watched, and was left so.
	unlabelled bool
	// look has the object compared whatever the watch says: what counts as drift has changed.
	look bool
	// deferred is set when a drift event came while the bundle was applied.
	deferred bool
	// tried is what the watch had seen of the object when the bundle was last tried because of it; nil if it was not.
	tried *Seen
}

// objects holds by object ID what drift knows. An object of which nothing is known is not in it.
type objects map[string]object

// change changes what is known of an object.
func (o objects) change(id string, f func(*object)) {
	x := o[id]
	f(&x)
	if x == (object{}) {
		delete(o, id)
		return
	}
	o[id] = x
}

// each changes what is known of every object.
func (o objects) each(f func(*object)) {
	for id := range o {
		o.change(id, f)
	}
}

// look has an object compared whatever the watch says.
func (o objects) look(id string) { o.change(id, func(x *object) { x.look = true }) }

// setEpisode keeps an episode while it is open.
func (o objects) setEpisode(id string, e api.Episode) {
	o.change(id, func(x *object) {
		x.episode = nil
		if e.Open() {
			x.episode = &e
		}
	})
}

// endEpisode forgets an episode. Whoever ends it records that.
func (o objects) endEpisode(id string) { o.change(id, func(x *object) { x.episode = nil }) }

// episode returns the open episode of an object.
func (o objects) episode(id string) (api.Episode, bool) {
	if e := o[id].episode; e != nil {
		return *e, true
	}
	return api.Episode{}, false
}

// open goes through the open episodes. They may end meanwhile.
func (o objects) open() iter.Seq2[string, api.Episode] {
	return func(yield func(string, api.Episode) bool) {
		for id, x := range o {
			if x.episode != nil && !yield(id, *x.episode) {
				return
			}
		}
	}
}

// count returns how many objects have drifted, and how many could not be compared.
func (o objects) count() (drifted, unknown int) {
	for _, x := range o {
		if x.episode != nil {
			drifted++
		}
		if x.unknown != "" {
			unknown++
		}
	}
	return drifted, unknown
}
