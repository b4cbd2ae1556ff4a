package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/view"
)

// scale sets podinfo's replicas as a person with a tool would.
// Each test has a tool of its own: who takes a field back again and again would be contested.
func scale(t *testing.T, cluster string, replicas int, tool string) {
	t.Helper()
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)
	_, err := kube(t, cluster).AppsV1().Deployments("podinfo").Patch(t.Context(), "podinfo", types.MergePatchType, patch,
		metav1.PatchOptions{FieldManager: tool})
	if err != nil {
		t.Fatal(err)
	}
}

// kubectlScale sets podinfo's replicas as "kubectl scale" does: through the subresource.
func kubectlScale(t *testing.T, cluster string, replicas int) {
	t.Helper()
	err := kube(t, cluster).AppsV1().RESTClient().Patch(types.MergePatchType).
		Namespace("podinfo").Resource("deployments").Name("podinfo").SubResource("scale").
		Param("fieldManager", "kubectl").Body(fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)).
		Do(t.Context()).Error()
	if err != nil {
		t.Fatal(err)
	}
}

func replicas(ctx context.Context, cluster kubernetes.Interface) (int, error) {
	d, err := cluster.AppsV1().Deployments("podinfo").Get(ctx, "podinfo", metav1.GetOptions{})
	if err != nil {
		return 0, err
	}
	return int(*d.Spec.Replicas), nil
}

// replicasAre asks that podinfo has so many replicas.
func replicasAre(t *testing.T, cluster string, want int) func(context.Context) error {
	t.Helper()
	k := kube(t, cluster)
	return func(ctx context.Context) error {
		got, err := replicas(ctx, k)
		if err == nil && got != want {
			err = fmt.Errorf("podinfo on %s has %d replicas, want %d", cluster, got, want)
		}
		return err
	}
}

// episode asks the hub for an episode that fits.
func episode(state, cluster string, since time.Time, fits func(api.Episode) bool, into *api.Episode) func(context.Context) error {
	return func(ctx context.Context) error {
		var list view.List[api.Episode]
		if err := hubGet(ctx, "/api/v1/drift?state="+state+"&cluster="+cluster, &list); err != nil {
			return err
		}
		for _, e := range list.Items {
			if !e.LastSeen.Before(since) && fits(e) {
				*into = e
				return nil
			}
		}
		b, _ := json.Marshal(list.Items)
		return fmt.Errorf("no such episode on the hub among %.2000s", b)
	}
}

func ofObject(kind, name string) func(api.Episode) bool {
	return func(e api.Episode) bool { return e.Object.Kind == kind && e.Object.Name == name }
}

func TestDrift_editIsSeenExplainedAndCorrected(t *testing.T) {
	want, err := replicas(t.Context(), kube(t, "prod-us"))
	if err != nil {
		t.Fatal(err)
	}
	since := time.Now()
	kubectlScale(t, "prod-us", want+3)
	explained := func(e api.Episode) bool {
		if !ofObject("Deployment", "podinfo")(e) || len(e.Fields) != 1 {
			return false
		}
		f := e.Fields[0]
		return f.Path == "/spec/replicas" && f.Desired == fmt.Sprint(want) && f.Live == fmt.Sprint(want+3) &&
			f.By.Manager == "kubectl" && f.By.Operation == "Update" && f.By.Subresource == "scale"
	}
	var e api.Episode
	eventually(t, "the hub shows the edit", episode("all", "prod-us", since, explained, &e))
	promised(t, "the hub shows field, both values and manager", since, shownWithin)
	eventually(t, "the edit is corrected", replicasAre(t, "prod-us", want))
	promised(t, "the edit is corrected", since, correctedWithin)
	eventually(t, "the hub shows the correction", episode("closed", "prod-us", since, explained, &e))
	if e.Outcome != api.OutcomeCorrected {
		t.Fatalf("episode is %+v", e)
	}
	told(t, "prod-us", "Drifted", "Deployment", "podinfo")
	told(t, "prod-us", "Corrected", "Deployment", "podinfo")
}

func TestDrift_deletedConfigMapComesBack(t *testing.T) {
	maps := kube(t, "prod-eu").CoreV1().ConfigMaps("podinfo")
	list, err := maps.List(t.Context(), metav1.ListOptions{LabelSelector: api.LabelManagedBy + "=" + api.ManagedBy})
	if err != nil || len(list.Items) == 0 {
		t.Fatalf("podinfo has no ConfigMap to delete: %v", err)
	}
	victim := list.Items[0]
	since := time.Now()
	if err := maps.Delete(t.Context(), victim.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the ConfigMap is back", func(ctx context.Context) error {
		got, err := maps.Get(ctx, victim.Name, metav1.GetOptions{})
		if err == nil && got.UID == victim.UID {
			err = fmt.Errorf("%s is still the old one", victim.Name)
		}
		return err
	})
	var e api.Episode
	eventually(t, "the hub shows that it was missing", episode("all", "prod-eu", since, ofObject("ConfigMap", victim.Name), &e))
	if e.Class != api.ClassMissing {
		t.Fatalf("class is %s, want missing", e.Class)
	}
}

// An annotation that nobody declared is no drift. That nothing happens is told from an edit
// of a declared field made after it: when that one is corrected, the first was looked at too.
func TestDrift_undeclaredAnnotationIsLeftAlone(t *testing.T) {
	deployments := kube(t, "prod-us").AppsV1().Deployments("podinfo")
	_, err := deployments.Patch(t.Context(), "podinfo", types.MergePatchType,
		[]byte(`{"metadata":{"annotations":{"example.com/note":"mine"}}}`), metav1.PatchOptions{FieldManager: "kubectl-annotate"})
	if err != nil {
		t.Fatal(err)
	}
	want, err := replicas(t.Context(), kube(t, "prod-us"))
	if err != nil {
		t.Fatal(err)
	}
	since := time.Now()
	scale(t, "prod-us", want+1, "kubectl-patch")
	// The look at the annotation may touch the episode of an earlier test.
	this := func(e api.Episode) bool {
		return ofObject("Deployment", "podinfo")(e) &&
			slices.ContainsFunc(e.Fields, func(f api.FieldDiff) bool { return f.Live == fmt.Sprint(want+1) })
	}
	var e api.Episode
	eventually(t, "the edit is corrected", replicasAre(t, "prod-us", want))
	eventually(t, "the hub shows the correction", episode("closed", "prod-us", since, this, &e))
	for _, f := range e.Fields {
		if f.Path != "/spec/replicas" {
			t.Errorf("field %s is called drift", f.Path)
		}
	}
	d, err := deployments.Get(t.Context(), "podinfo", metav1.GetOptions{})
	if err != nil || d.Annotations["example.com/note"] != "mine" {
		t.Fatalf("the annotation is gone (%v): %v", err, d.Annotations)
	}
}

// suspend breaks glass on a cluster. Whatever becomes of the test, the next one finds podinfo as it was before.
func suspend(t *testing.T, name string, args ...string) {
	t.Helper()
	k := kube(t, name)
	want, err := replicas(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	config := cluster(t, name).Kubeconfig
	flotilla(t, append([]string{"suspend", "--kubeconfig", config}, args...)...)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience) // it has ended here
		defer cancel()
		if out, err := exec.CommandContext(ctx, world.binary, "resume", "--kubeconfig", config, "--all", "--yes").CombinedOutput(); err != nil {
			t.Errorf("resume: %v\n%s", err, out)
		}
		for {
			got, err := replicas(ctx, k)
			if err == nil && got == want {
				return
			}
			select {
			case <-ctx.Done():
				t.Errorf("podinfo on %s has %d replicas (%v), want %d", name, got, err, want)
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
}

func TestSuspend_onlyThere(t *testing.T) {
	c := cluster(t, "prod-eu")
	there, err := replicas(t.Context(), kube(t, "prod-eu"))
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := replicas(t.Context(), kube(t, "prod-us"))
	if err != nil {
		t.Fatal(err)
	}
	suspend(t, "prod-eu", "--bundle", "podinfo", "--for", "10m", "--reason", "INC-1")
	ordered := time.Now()
	eventually(t, "the hub shows the suspension", func(ctx context.Context) error {
		var v view.Cluster
		if err := hubGet(ctx, "/api/v1/clusters/prod-eu", &v); err != nil {
			return err
		}
		if !v.Suspended {
			return fmt.Errorf("prod-eu is not suspended")
		}
		return nil
	})
	promised(t, "the suspension holds", ordered, suspendedWithin)
	since := time.Now()
	scale(t, "prod-eu", there+2, "kubectl-replace")
	scale(t, "prod-us", elsewhere+2, "kubectl-replace")
	var e api.Episode
	eventually(t, "drift shows while suspended", episode("open", "prod-eu", since, ofObject("Deployment", "podinfo"), &e))
	if e.Outcome != api.OutcomeSuspended || e.Suspension == "" {
		t.Fatalf("episode is %+v", e)
	}
	eventually(t, "the other cluster goes on", replicasAre(t, "prod-us", elsewhere))
	if got, err := replicas(t.Context(), kube(t, "prod-eu")); err != nil || got != there+2 {
		t.Fatalf("prod-eu has %d replicas (%v), and is suspended with %d", got, err, there+2)
	}
	flotilla(t, "resume", "--kubeconfig", c.Kubeconfig, "--bundle", "podinfo", "--yes")
	eventually(t, "resume corrects", replicasAre(t, "prod-eu", there))
}

func TestSuspend_expires(t *testing.T) {
	want, err := replicas(t.Context(), kube(t, "prod-eu"))
	if err != nil {
		t.Fatal(err)
	}
	suspend(t, "prod-eu", "--object", "Deployment/podinfo/podinfo", "--for", "15s", "--reason", "INC-2")
	since := time.Now()
	scale(t, "prod-eu", want+4, "k9s")
	var e api.Episode
	eventually(t, "drift shows while suspended", episode("open", "prod-eu", since, ofObject("Deployment", "podinfo"), &e))
	eventually(t, "expiry corrects", replicasAre(t, "prod-eu", want))
}

func TestStatus_namesDriftWithoutTheHub(t *testing.T) {
	c := cluster(t, "staging-eu")
	out := flotilla(t, "status", "--kubeconfig", c.Kubeconfig, "-o", "json")
	var got struct {
		Bundles []struct {
			Name  string `json:"name"`
			Phase string `json:"phase"`
		} `json:"bundles"`
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || len(got.Bundles) < 5 {
		t.Fatalf("status: %v\n%s", err, out)
	}
	for _, b := range got.Bundles {
		if b.Phase != string(api.PhaseReady) {
			t.Errorf("bundle %s is %s", b.Name, b.Phase)
		}
	}
}
