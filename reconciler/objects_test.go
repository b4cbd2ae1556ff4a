package reconciler

import (
	"maps"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// What is known of an object goes with the last of it, and an episode counts while it is open.
func TestObjects(t *testing.T) {
	o := objects{}
	o.look("a")
	o.setEpisode("a", api.Episode{ID: "1"})
	o.change("b", func(x *object) { x.unknown = "no answer" })
	if drifted, unknown := o.count(); drifted != 1 || unknown != 1 || len(o) != 2 {
		t.Errorf("%d drifted, %d unknown, of %d", drifted, unknown, len(o))
	}
	if e, open := o.episode("a"); !open || e.ID != "1" {
		t.Errorf("%+v %t", e, open)
	}
	o.setEpisode("a", api.Episode{ID: "1", End: time.Unix(1, 0)})
	if _, open := o.episode("a"); open || !o["a"].look {
		t.Errorf("its end takes away too much, or too little: %+v", o["a"])
	}
	o.each(func(x *object) { x.look, x.unknown = false, "" })
	if len(o) != 0 {
		t.Errorf("nothing is known, and kept: %+v", o)
	}
}

// Episodes may end while somebody goes through them.
func TestObjects_openWhileTheyEnd(t *testing.T) {
	o := objects{}
	for _, id := range []string{"a", "b", "c"} {
		o.setEpisode(id, api.Episode{ID: id})
	}
	o.look("c")
	seen := map[string]string{}
	for id, e := range o.open() {
		seen[id] = e.ID
		o.endEpisode(id)
	}
	if want := map[string]string{"a": "a", "b": "b", "c": "c"}; !maps.Equal(seen, want) {
		t.Errorf("went through %v", seen)
	}
	if len(o) != 1 || !o["c"].look {
		t.Errorf("left are %+v", o)
	}
}
