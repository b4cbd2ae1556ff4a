package apply_test

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
)

// sent counts the writes of an object.
func (r *rig) sent(path string) int {
	r.calls.mu.Lock()
	defer r.calls.mu.Unlock()
	n := 0
	for _, m := range r.calls.made {
		if strings.HasPrefix(m, "PATCH ") && strings.HasSuffix(m, path) {
			n++
		}
	}
	return n
}

func TestNamespaceThatIsNotKnownEverywhere(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var refused atomic.Int32
	r.calls.setFault(func(req *http.Request) *http.Response {
		if req.Method == http.MethodPatch && strings.HasSuffix(req.URL.Path, "/configmaps/a") && refused.Add(1) <= 2 {
			return answer(404, "NotFound", `namespaces "`+r.ns+`" not found`)
		}
		return nil
	})
	r.apply(nil, configMap("a", "1"))
	if r.get("ConfigMap", "a") == nil {
		t.Error("not applied")
	}
	// One that is not there costs one try, and another one soon.
	r.calls.setFault(nil)
	r.calls.reset()
	res := r.Apply(t.Context(), apply.Request{Bundle: r.rendered(`{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: NS-none}}`)})
	if e := apiError(t, res.Err); e.Kind != api.Waiting || e.Reason != "NamespaceMissing" || e.After != time.Second {
		t.Errorf("error %+v", e)
	}
	if n := r.sent("/configmaps/a"); n != 1 {
		t.Errorf("sent %d times into a namespace that is not there", n)
	}
}

// What was refused for good is sent once for each commit, however often the bundle is tried again for something else.
func TestRefusedObjectsAreNotSentAgainForTheirNeighbours(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	job := func(image string) string {
		return `{apiVersion: batch/v1, kind: Job, metadata: {name: j, namespace: NS}, spec: {suspend: true, template: {spec: {restartPolicy: Never, containers: [{name: c, image: "` + image + `"}]}}}}`
	}
	const (
		bad  = `{apiVersion: v1, kind: Service, metadata: {name: bad, namespace: NS}, spec: {ports: [{port: 99999}]}}`
		late = `{apiVersion: v1, kind: ConfigMap, metadata: {name: late, namespace: NS-none}}`
	)
	inv := r.apply(nil, job("one")).Inventory
	// A refusal holds for the live object as it is, so the Job's controller must be done with it.
	eventually(t, "the Job is suspended", func() bool {
		j, err := r.look("Job", "j")
		if err != nil {
			return false
		}
		conditions, _, _ := unstructured.NestedSlice(j.Object, "status", "conditions")
		return slices.ContainsFunc(conditions, func(c any) bool {
			m := c.(map[string]any)
			return m["type"] == "Suspended" && m["status"] == "True"
		})
	})
	b := r.rendered(job("two"), bad, late)
	try := func(compare apply.Compare, services, jobs int, what string) {
		t.Helper()
		r.calls.reset()
		res := r.Apply(t.Context(), apply.Request{Bundle: b, Inventory: inv, Compare: compare})
		if n := r.sent("/services/bad"); n != services {
			t.Errorf("%s: the Service was sent %d times, want %d", what, n, services)
		}
		if n := r.sent("/jobs/j"); n != jobs {
			t.Errorf("%s: the Job was sent %d times, want %d", what, n, jobs)
		}
		if n := r.sent("/configmaps/late"); n != 1 {
			t.Errorf("%s: what is worth another try was sent %d times", what, n)
		}
		if e := apiError(t, res.Err); e.Kind != api.Waiting {
			t.Errorf("%s: kind %q, want waiting: %v", what, e.Kind, res.Err)
		}
		for _, part := range []string{"spec.ports[0].port", "apps/service.yaml", "spec.template", "NS-none"} {
			if !strings.Contains(res.Err.Error(), strings.ReplaceAll(part, "NS", r.ns)) {
				t.Errorf("%s: the error does not name %q: %v", what, part, res.Err)
			}
		}
		if got := actions(res.Changes); got["Service/bad"] != api.Failed || got["Job/j"] != api.Failed {
			t.Errorf("%s: %v", what, got)
		}
	}
	try(apply.CompareChanged, 1, 1, "the first time")
	try(apply.CompareChanged, 0, 0, "again for the neighbour")
	try(apply.CompareAll, 1, 1, "by order")
	r.patch("kubectl-edit", "Job", "j", `{"metadata":{"labels":{"by":"hand"}}}`)
	try(apply.CompareChanged, 0, 1, "the live object changed")
	b.Digest += ", and something else"
	try(apply.CompareChanged, 1, 1, "a new commit")
	try(apply.CompareChanged, 0, 0, "again for the neighbour")
}
