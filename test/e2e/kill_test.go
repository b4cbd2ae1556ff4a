package e2e

import (
	"context"
	"regexp"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/flotilla-fleet/flotilla/api"
)

// uids returns the identities of everything that flotilla owns in podinfo's namespace:
// an object that was deleted and made anew has another.
func uids(t *testing.T, cluster string) map[string]string {
	t.Helper()
	out := map[string]string{}
	k := kube(t, cluster)
	opts := metav1.ListOptions{LabelSelector: api.LabelManagedBy + "=" + api.ManagedBy}
	deployments, err := k.AppsV1().Deployments("").List(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range deployments.Items {
		out["Deployment/"+o.Namespace+"/"+o.Name] = string(o.UID)
	}
	maps, err := k.CoreV1().ConfigMaps("").List(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range maps.Items {
		out["ConfigMap/"+o.Namespace+"/"+o.Name] = string(o.UID)
	}
	return out
}

func sameObjects(t *testing.T, cluster string, before map[string]string) {
	t.Helper()
	after := uids(t, cluster)
	for id, uid := range before {
		if after[id] != uid {
			t.Errorf("%s on %s was %s and is %q: it was deleted", id, cluster, uid, after[id])
		}
	}
}

func TestKill_agentReportsWhatItMissed(t *testing.T) {
	before := uids(t, "staging-eu")
	want, err := replicas(t.Context(), t, "staging-eu")
	if err != nil {
		t.Fatal(err)
	}
	since := time.Now()
	kill(t, cluster(t, "staging-eu").AgentPID)
	scale(t, "staging-eu", want+2, "kubectl-edit") // the demo starts the agent again after a second
	var e api.Episode
	eventually(t, "the missed edit is reported", episode("all", "staging-eu", since, ofObject("Deployment", "podinfo"), &e))
	eventually(t, "the missed edit is corrected", replicasAre(t, "staging-eu", want))
	if e.By.Manager != "kubectl-edit" {
		t.Errorf("attributed to %+v", e.By)
	}
	sameObjects(t, "staging-eu", before)
	refresh(t)
}

func TestKill_hubLosesNoReport(t *testing.T) {
	want, err := replicas(t.Context(), t, "prod-us")
	if err != nil {
		t.Fatal(err)
	}
	since := time.Now()
	kill(t, world.file.Hub.PID)
	scale(t, "prod-us", want+2, "dashboard")
	eventually(t, "correction needs no hub", replicasAre(t, "prod-us", want))
	var e api.Episode
	eventually(t, "the hub has it when it is back", episode("closed", "prod-us", since, ofObject("Deployment", "podinfo"), &e))
	refresh(t)
}

func TestKill_gitServerKeepsTheLastGoodState(t *testing.T) {
	before := uids(t, "prod-eu")
	want, err := replicas(t.Context(), t, "prod-eu")
	if err != nil {
		t.Fatal(err)
	}
	kill(t, world.file.Repo.PID)
	scale(t, "prod-eu", want+2, "lens")
	eventually(t, "correction needs no Git server", replicasAre(t, "prod-eu", want))
	var text string
	eventually(t, "the Git server is back", func(ctx context.Context) (err error) {
		text, err = tryReadRepo(ctx, t, prodOverlay)
		return err
	})
	revision := push(t, "Roll out podinfo 6.99.1 to production", map[string]string{
		prodOverlay: regexp.MustCompile(`newTag: .*`).ReplaceAllString(text, "newTag: 6.99.1"),
	})
	eventually(t, "prod-eu follows", onRevision("prod-eu", revision))
	sameObjects(t, "prod-eu", before)
	refresh(t)
}
