package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

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
