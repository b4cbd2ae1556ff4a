package reconciler

import (
	"testing"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
)

// emptyWatch has seen nothing.
type emptyWatch struct{ Watch }

func (emptyWatch) Get(api.ObjectRef) (Seen, bool) { return Seen{}, false }

// An object that was created and deleted while its bundle is applied is in no inventory and in no watch:
// whoever is to have it is asked once that is done.
func TestBundleOf_anObjectThatIsGoneAgain(t *testing.T) {
	ref := api.ObjectRef{Version: "v1", Kind: "ConfigMap", Namespace: "ns", Name: "x"}
	r := recorderOf(&failing{})
	r.Watch, r.queue = emptyWatch{}, newQueue()
	b := newBundle("app")
	b.life = runningLife(lifecycle.Rendered{Digest: "d"})
	r.bundles["app"], r.claims, r.started = b, map[string]string{ref.ID(): "app"}, true
	b.busy.Lock()
	r.compare(t.Context(), ref.ID(), r.Now())
	if !b.objects[ref.ID()].deferred {
		t.Error("its deletion is forgotten")
	}
}
