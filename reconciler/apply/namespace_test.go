package apply_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
)

// A namespace that cannot be applied holds back what is in it, and nothing else.
func TestRefusedNamespaceHoldsBackWhatIsInIt(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bad := `{apiVersion: v1, kind: Namespace, metadata: {name: NS-bad, labels: {bad: "not/a/value"}}}`
	inside := `{apiVersion: v1, kind: ConfigMap, metadata: {name: inside, namespace: NS-bad}}`
	res := r.Apply(t.Context(), apply.Request{Bundle: r.rendered(inside, bad, configMap("free", "1"))})
	want := map[string]api.Action{"Namespace/" + r.ns + "-bad": api.Failed, "ConfigMap/inside": api.Failed, "ConfigMap/free": api.Created}
	if diff := cmp.Diff(want, actions(res.Changes)); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"ConfigMap/free"}, names(res.Inventory)); diff != "" {
		t.Errorf("inventory (-want +got):\n%s", diff)
	}
	for _, part := range []string{"waits for Namespace/" + r.ns + "-bad", "apps/namespace.yaml", "metadata.labels"} {
		if !strings.Contains(res.Err.Error(), part) {
			t.Errorf("the error does not name %q: %v", part, res.Err)
		}
	}
	for _, call := range r.calls.made {
		if strings.Contains(call, "/namespaces/"+r.ns+"-bad/configmaps") {
			t.Errorf("%s: the namespace is not there", call)
		}
	}
	// Once it can be, all of it is applied.
	r.apply(res.Inventory, inside, `{apiVersion: v1, kind: Namespace, metadata: {name: NS-bad}}`, configMap("free", "1"))
}
