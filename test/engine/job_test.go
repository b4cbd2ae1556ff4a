package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
)

// job is a Job that ends by itself; more is YAML inside its spec.
func job(name, image, more string) string {
	return fmt.Sprintf("apiVersion: batch/v1\nkind: Job\nmetadata: {name: %s, namespace: NS}\n"+
		"spec: {%s template: {spec: {restartPolicy: Never, containers: [{name: main, image: %q}]}}}\n", name, more, image)
}

// jobsMade collects which Jobs there ever were, by name. The function that it returns says how many of a name.
func (r *rig) jobsMade() func(name string) int {
	r.t.Helper()
	w, err := r.Kube.BatchV1().Jobs(r.NS).Watch(r.t.Context(), metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	var mu sync.Mutex
	made := map[string]map[types.UID]bool{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ev := range w.ResultChan() {
			if j, ok := ev.Object.(*batchv1.Job); ok {
				mu.Lock()
				if made[j.Name] == nil {
					made[j.Name] = map[types.UID]bool{}
				}
				made[j.Name][j.UID] = true
				mu.Unlock()
			}
		}
	}()
	r.t.Cleanup(func() { w.Stop(); <-done })
	return func(name string) int {
		mu.Lock()
		defer mu.Unlock()
		return len(made[name])
	}
}

// A Job that the cluster deletes after its end runs once, and again only when Git changes it. One that somebody deletes comes back.
func TestJob_thatIsCleanedUpRunsOnce(t *testing.T) {
	r := newRig(t, agenttest.Config{Files: files{
		"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"),
		"a/once.yaml": job("once", "one", "ttlSecondsAfterFinished: 0,"), "a/kept.yaml": job("kept", "one", ""),
	}})
	made := r.jobsMade()
	jobs := r.Kube.BatchV1().Jobs(r.NS)
	cleanedUp := func(n int) {
		t.Helper()
		r.Eventually("the Job has run and is gone", func(ctx context.Context) error {
			if _, err := jobs.Get(ctx, "once", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return errors.Join(errors.New("it is there"), err)
			}
			if made("once") < n {
				return errors.New("it has not run yet")
			}
			return nil
		})
	}
	r.Start()
	cleanedUp(1)
	r.Ready("NS-a", "")

	// A deletion that comes later is noticed, and put right.
	if err := jobs.Delete(t.Context(), "kept", metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)}); err != nil {
		t.Fatal(err)
	}
	r.Eventually("the other Job is back", func(context.Context) error {
		if made("kept") != 2 {
			return errors.New("not yet")
		}
		return nil
	})
	// Neither does a pass that looks at everything bring it back, nor a restart.
	r.Sync()
	r.Ready("NS-a", r.Commit(files{"a/x.yaml": configMap("x", "two")}))
	r.Stop()
	r.Start()
	r.remove("x")
	r.value("x", "two")
	r.Ready("NS-a", "")
	if n := made("once"); n != 1 {
		t.Errorf("the Job was made %d times", n)
	}

	r.Ready("NS-a", r.Commit(files{"a/once.yaml": job("once", "two", "ttlSecondsAfterFinished: 0,")}))
	cleanedUp(2)
	r.Ready("NS-a", "")
	if n := made("once"); n != 2 {
		t.Errorf("after a commit that changes it the Job was made %d times", n)
	}
	r.Stop()
	for _, e := range r.Episodes() {
		if e.Object.Name == "once" {
			t.Errorf("its end is drift: %+v", e)
		}
	}
}

// mirrored is an admission policy that writes another image into a new Job, and into no old one.
const mirrored = `apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: NS-mirror}
spec:
  failurePolicy: Fail
  reinvocationPolicy: Never
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NS}}
    resourceRules: [{apiGroups: [batch], apiVersions: [v1], operations: [CREATE], resources: [jobs]}]
  mutations:
  - patchType: JSONPatch
    jsonPatch: {expression: '[JSONPatch{op: "replace", path: "/spec/template/spec/containers/0/image", value: "mirror/one"}]'}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: NS-mirror}
spec: {policyName: NS-mirror}
`

// A field that cannot be changed, and that admission made something else of when the object was created, is no difference:
// neither is the object made anew for it where that is allowed, nor refused where it is not.
func TestJob_thatAdmissionChangedAsItWasCreated(t *testing.T) {
	r := newRig(t, agenttest.Config{Files: files{
		"p/bundle.yaml": bundle("p", ""), "p/policy.yaml": mirrored, "a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"),
		"k/bundle.yaml": bundle("k", ""), "k/y.yaml": configMap("y", "one"),
	}})
	made := r.jobsMade()
	image := func(name string) string {
		t.Helper()
		j, err := r.Kube.BatchV1().Jobs(r.NS).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return j.Spec.Template.Spec.Containers[0].Image
	}
	r.Start()
	r.Ready("NS-p", "")
	r.Eventually("the policy works", func(ctx context.Context) error {
		probe := &batchv1.Job{}
		if err := yaml.Unmarshal([]byte(r.Text(job("probe", "one", ""))), probe); err != nil {
			return err
		}
		j, err := r.Kube.BatchV1().Jobs(r.NS).Create(ctx, probe, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil && j.Spec.Template.Spec.Containers[0].Image != "mirror/one" {
			err = errors.New("not yet")
		}
		return err
	})
	revision := r.Commit(files{
		"k/kept.yaml":   job("kept", "one", ""),
		"a/forced.yaml": strings.Replace(job("forced", "one", ""), "namespace: NS", "namespace: NS, annotations: {flotilla.dev/force: enabled}", 1),
	})
	r.Ready("NS-a", revision)
	r.Ready("NS-k", revision)
	for _, name := range []string{"kept", "forced"} {
		if image(name) != "mirror/one" {
			t.Fatalf("the test is worthless: the image of %s is %s", name, image(name))
		}
	}
	r.Sync()
	r.Ready("NS-a", r.Commit(files{"a/x.yaml": configMap("x", "two")}))
	r.Stop()
	r.Start()
	r.remove("x")
	r.value("x", "two")
	r.Ready("NS-a", "")
	r.Ready("NS-k", "")
	for _, name := range []string{"kept", "forced"} {
		if n := made(name); n != 1 {
			t.Errorf("%s was made %d times", name, n)
		}
	}
}
