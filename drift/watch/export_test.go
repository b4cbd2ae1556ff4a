package watch

import "github.com/flotilla-fleet/flotilla/api"

// Miss makes the Watcher not know of an object, as if its event had been lost.
func (w *Watcher) Miss(ref api.ObjectRef) {
	k := w.kind(ref.GVK().GroupKind())
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.objects, name{ref.Namespace, ref.Name})
}

// Invent makes the Watcher know of an object that is not there, as if its deletion had been lost.
func (w *Watcher) Invent(ref api.ObjectRef) {
	k := w.kind(ref.GVK().GroupKind())
	k.mu.Lock()
	defer k.mu.Unlock()
	k.objects[name{ref.Namespace, ref.Name}] = Meta{UID: "gone"}
}
