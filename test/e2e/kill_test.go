package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/demo"
)

// version is an object's identity, and what moves when somebody writes to it.
type version struct{ uid, at string }

// versions returns the Deployments, ConfigMaps and Services of the demo's bundles. An object that was deleted
// and made anew has another identity, and one that was changed, another version.
func versions(t *testing.T, cluster string) map[string]version {
	t.Helper()
	out := map[string]version{}
	k := kube(t, cluster)
	opts := metav1.ListOptions{LabelSelector: api.LabelManagedBy + "=" + api.ManagedBy}
	add := func(kind string, o metav1.Object, at string) {
		if o.GetNamespace() != api.SystemNamespace { // the agent's own, which it writes all the time
			out[kind+"/"+o.GetNamespace()+"/"+o.GetName()] = version{string(o.GetUID()), at}
		}
	}
	deployments, err := k.AppsV1().Deployments("").List(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range deployments.Items {
		// The controller writes its status: only the generation tells of the rest.
		add("Deployment", &o, fmt.Sprint("generation ", o.Generation))
	}
	configs, err := k.CoreV1().ConfigMaps("").List(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range configs.Items {
		add("ConfigMap", &o, "resourceVersion "+o.ResourceVersion)
	}
	services, err := k.CoreV1().Services("").List(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range services.Items {
		add("Service", &o, "resourceVersion "+o.ResourceVersion)
	}
	for _, kind := range []string{"Deployment", "ConfigMap", "Service"} {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(out)), func(id string) bool { return strings.HasPrefix(id, kind) }) {
			t.Fatalf("%s has no %s of a bundle, so nothing can be told from them", cluster, kind)
		}
	}
	return out
}

// untouched checks that nothing was deleted, and nothing written to but what the test itself changed.
func untouched(t *testing.T, cluster string, before map[string]version, changed ...string) {
	t.Helper()
	after := versions(t, cluster)
	for id, was := range before {
		is := after[id]
		switch {
		case is.uid != was.uid:
			t.Errorf("%s on %s was %s and is %q: it was deleted", id, cluster, was.uid, is.uid)
		case is.at != was.at && !slices.Contains(changed, id):
			t.Errorf("%s on %s was at %s and is at %s: it was written to", id, cluster, was.at, is.at)
		}
	}
}

// podinfo is what the tests change.
const podinfo = "Deployment/podinfo/podinfo"

func TestKill_agentReportsWhatItMissed(t *testing.T) {
	before := versions(t, "staging-eu")
	want, err := replicas(t.Context(), kube(t, "staging-eu"))
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
	untouched(t, "staging-eu", before, podinfo)
	refresh(t)
}

func TestKill_hubLosesNoReport(t *testing.T) {
	before := versions(t, "prod-us")
	want, err := replicas(t.Context(), kube(t, "prod-us"))
	if err != nil {
		t.Fatal(err)
	}
	since := time.Now()
	kill(t, world.file.Hub.PID)
	scale(t, "prod-us", want+2, "dashboard")
	eventually(t, "correction needs no hub", replicasAre(t, "prod-us", want))
	var e api.Episode
	eventually(t, "the hub has it when it is back", episode("closed", "prod-us", since, ofObject("Deployment", "podinfo"), &e))
	untouched(t, "prod-us", before, podinfo)
	refresh(t)
}

// A second demo in the directory of one that is up leaves that alone, and says so.
func TestDemo_inTheSameDirectory(t *testing.T) {
	_, talk, err := flotillaErr(t, "demo", "--dir", world.dir)
	if err == nil || !strings.Contains(talk, "a demo is up in "+world.dir) {
		t.Errorf("%v: %s", err, talk)
	}
	if _, err := os.Stat(filepath.Join(world.dir, demo.FileName)); err != nil {
		t.Error(err)
	}
}

func TestKill_gitServerKeepsTheLastGoodState(t *testing.T) {
	before := versions(t, "prod-eu")
	want, err := replicas(t.Context(), kube(t, "prod-eu"))
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
	untouched(t, "prod-eu", before, podinfo)
	refresh(t)
}
