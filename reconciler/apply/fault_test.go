package apply_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
)

// TestFaults runs passes through an API server that answers at random with every kind of trouble,
// also after it did what was asked. In the end the cluster equals Git, and nothing else has changed.
func TestFaults(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const passes = 50
	var mu sync.Mutex
	rnd := rand.New(rand.NewPCG(7, 7))
	r.create("kubectl-create", configMap("bystander", "untouched"))
	r.create("kubectl-create", `{apiVersion: v1, kind: ConfigMap, metadata: {name: o3, namespace: NS, annotations: {flotilla.dev/reconcile: disabled}}, data: {key: operator}}`)
	fault := func(req *http.Request) *http.Response {
		mu.Lock()
		defer mu.Unlock()
		if !strings.Contains(req.URL.Path, r.ns) || rnd.IntN(4) > 0 {
			return nil
		}
		switch rnd.IntN(5) {
		case 0:
			resp := answer(429, "TooManyRequests", "slow down")
			return resp
		case 1:
			return answer(500, "InternalError", "etcd is unwell")
		case 2:
			return answer(409, "Conflict", "the object has been modified")
		case 3:
			return answer(504, "Timeout", "took too long")
		default:
			return answer(403, "Forbidden", "not now")
		}
	}
	want := func(pass int) (docs []string, values map[string]string) {
		values = map[string]string{"bystander": "untouched", "o3": "operator"}
		for i := range 8 {
			// Objects come and go, and change.
			if i == 3 || (pass+i)%4 != 0 {
				name, value := fmt.Sprint("o", i), fmt.Sprint("v", (pass+i)/3)
				docs = append(docs, configMap(name, value))
				if i != 3 {
					values[name] = value
				}
			}
		}
		return docs, values
	}
	var inv []api.InventoryEntry
	pass := func(n int) error {
		docs, _ := want(n)
		res := r.Apply(t.Context(), apply.Request{Bundle: r.rendered(docs...), Inventory: inv})
		inv = res.Inventory
		if res.Err != nil {
			return res.Err
		}
		var stale []api.InventoryEntry
		keep := inv[:0:0]
		for _, e := range inv {
			if strings.Contains(strings.Join(docs, ""), "name: "+e.Object.Name+",") {
				keep = append(keep, e)
			} else {
				stale = append(stale, e)
			}
		}
		pruned := r.Prune(t.Context(), apply.PruneRequest{Bundle: r.bundle, Entries: stale})
		inv = append(keep, pruned.Inventory...)
		return pruned.Err
	}
	r.calls.setFault(fault)
	failures := 0
	for n := range passes {
		if err := pass(n); err != nil {
			failures++
		}
	}
	if failures == 0 || failures == passes {
		t.Errorf("%d of %d passes failed: the faults do not do what they should", failures, passes)
	}
	r.calls.setFault(nil)
	if err := pass(passes); err != nil {
		t.Fatal(err)
	}
	_, values := want(passes)
	got := map[string]string{}
	for _, name := range append(sortedKeys(values), "o0", "o1", "o2", "o4", "o5", "o6", "o7") {
		if o := r.get("ConfigMap", name); o != nil {
			got[name] = data(o)["key"]
		}
	}
	if diff := cmp.Diff(values, got); diff != "" {
		t.Errorf("cluster (-want +got):\n%s", diff)
	}
}
