package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift/store"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/internal/controlplane"
	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
)

// fleet is a cluster with an agent that manages itself.
type fleet struct {
	t      *testing.T
	kube   kubernetes.Interface
	config string
	repo   *gitservertest.Repository
	node   *kubelet
	values string
	// edited is how many of the objects were edited by hand.
	edited int

	mu sync.Mutex
	// told are the versions that reported on the cluster, in the order of their reports, without repetitions.
	told []string
}

func build(t *testing.T, version string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "flotilla")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-tags", "disable_grpc_modules", "-o", out,
		"-ldflags", "-s -w -X github.com/flotilla-fleet/flotilla/internal/cli.version="+version, "./cmd/flotilla")
	cmd.Dir = "../.."
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, b)
	}
	return out
}

func newFleet(t *testing.T, programs map[string]string, onVolume bool) *fleet {
	t.Helper()
	plane := controlplanetest.New(t, controlplane.Config{})
	admin := controlplanetest.RESTConfigOf(t, plane)
	kube, err := kubernetes.NewForConfig(admin)
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t, kube: kube, config: plane.Kubeconfig(), repo: gitservertest.New(t), node: newKubelet(t, kube, admin, programs)}
	f.values = filepath.Join(t.TempDir(), "values.yaml")
	// Nobody keeps the test's node alive: that it is not ready may evict nothing.
	values := fmt.Sprintf("agent:\n  persistence: {enabled: %t}\n  nodeSelector: {kubernetes.io/hostname: %s}\n  tolerations: [{operator: Exists}]\n", onVolume, nodeName)
	if err := os.WriteFile(f.values, []byte(values), 0o600); err != nil {
		t.Fatal(err)
	}
	if onVolume {
		f.volume()
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(f.node.logs())
		}
	})
	return f
}

// volume makes a volume for the agent's claim.
func (f *fleet) volume() {
	f.t.Helper()
	_, err := f.kube.CoreV1().PersistentVolumes().Create(f.t.Context(), &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "agent"},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")},
			AccessModes:            []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/agent"}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) run(ctx context.Context, args ...string) (int, string) {
	cmd := exec.CommandContext(ctx, f.node.programs["v1"], append(args, "--kubeconfig", f.config)...)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		return -1, err.Error()
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func (f *fleet) eventually(what string, ask func(ctx context.Context) error) {
	f.t.Helper()
	agenttest.Eventually(f.t, 2*time.Minute, what, ask)
}

// follow notes which version reports, until the test ends.
func (f *fleet) follow() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			w, err := f.kube.CoreV1().ConfigMaps(api.SystemNamespace).Watch(ctx, metav1.SingleObject(metav1.ObjectMeta{Name: "flotilla-agent"}))
			if err != nil {
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond):
				}
				continue
			}
			for e := range w.ResultChan() {
				m, ok := e.Object.(*corev1.ConfigMap)
				if !ok {
					continue
				}
				var status api.ClusterStatus
				if json.Unmarshal([]byte(m.Data["status.json"]), &status) != nil || status.AgentVersion == "" {
					continue
				}
				f.mu.Lock()
				if n := len(f.told); n == 0 || f.told[n-1] != status.AgentVersion {
					f.told = append(f.told, status.AgentVersion)
				}
				f.mu.Unlock()
			}
		}
	}()
	f.t.Cleanup(func() { cancel(); <-done })
}

func (f *fleet) versions() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.told)
}

// image commits a tag.
func (f *fleet) image(tag string) {
	f.t.Helper()
	f.repo.Commit(map[string]string{"flotilla/image.yaml": "image: {repository: example.com/flotilla, tag: " + tag + "}\n"})
}

// runs waits until one agent is left, of a version, and the Deployment is as it should be.
func (f *fleet) runs(version string) {
	f.t.Helper()
	f.eventually("only "+version+" runs", func(ctx context.Context) error {
		d, err := f.kube.AppsV1().Deployments(api.SystemNamespace).Get(ctx, "flotilla-agent", metav1.GetOptions{})
		if err != nil {
			return err
		}
		told := f.versions()
		s := d.Status
		if len(told) == 0 || told[len(told)-1] != version || s.ObservedGeneration < d.Generation || s.Replicas != 1 || s.UpdatedReplicas != 1 || s.AvailableReplicas != 1 {
			return fmt.Errorf("reported by %v; status %+v", told, s)
		}
		if n := len(f.node.running(version)); n != 1 {
			return fmt.Errorf("%d processes", n)
		}
		return nil
	})
}

// objects is how many ConfigMaps the bundle with corrected drift has. most is how many of them one hand-over may edit.
const objects, most = 60, 25

// edit edits a ConfigMap by hand.
func (f *fleet) edit(ctx context.Context, namespace, name string) error {
	_, err := f.kube.CoreV1().ConfigMaps(namespace).Patch(ctx, name, types.MergePatchType, []byte(`{"data":{"color":"blue"}}`), metav1.PatchOptions{})
	return err
}

// editsOne edits a ConfigMap that nobody has edited before: one that is edited again and again is contested.
func (f *fleet) editsOne() {
	f.t.Helper()
	if err := f.edit(f.t.Context(), "app", object(f.edited)); err != nil {
		f.t.Fatal(err)
	}
	f.edited++
}

func object(n int) string { return fmt.Sprintf("settings-%d", n) }

// corrected waits until every edit was written over.
func (f *fleet) corrected(when string) {
	f.t.Helper()
	if f.edited > objects {
		f.t.Fatalf("%d edits of %d objects", f.edited, objects)
	}
	f.eventually("the drift is corrected "+when, func(ctx context.Context) error {
		maps, err := f.kube.CoreV1().ConfigMaps("app").List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=flotilla"})
		if err != nil {
			return err
		}
		for _, m := range maps.Items {
			if m.Data["color"] != "red" {
				return fmt.Errorf("%s holds %v", m.Name, m.Data)
			}
		}
		return nil
	})
}

// correctedOnce wants every object that was edited to be corrected by one agent, once, as the agents themselves say.
func (f *fleet) correctedOnce() {
	f.t.Helper()
	f.eventually("every edit is corrected once", func(context.Context) error {
		said := f.node.said()
		for n := range f.edited {
			if times := strings.Count(said, `msg="drift corrected" cluster=one component=reconciler bundle=app object=/ConfigMap/app/`+object(n)+" "); times != 1 {
				return fmt.Errorf("%s was corrected %d times", object(n), times)
			}
		}
		return nil
	})
}

// open waits until the drift that is only reported is known.
func (f *fleet) open(when string) {
	f.t.Helper()
	f.eventually("the open drift is known "+when, func(ctx context.Context) error {
		b, err := f.bundle(ctx, "watched")
		if err == nil && b.Drifted != 1 {
			err = fmt.Errorf("%d objects have drifted", b.Drifted)
		}
		return err
	})
}

func (f *fleet) bundle(ctx context.Context, name string) (api.BundleStatus, error) {
	_, out := f.run(ctx, "status", "-o", "json")
	var got struct{ Bundles []api.BundleStatus }
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&got); err != nil {
		return api.BundleStatus{}, fmt.Errorf("%w: %s", err, out)
	}
	for _, b := range got.Bundles {
		if b.Name == name {
			return b, nil
		}
	}
	return api.BundleStatus{}, fmt.Errorf("there is no bundle %s", name)
}

func (f *fleet) namespace(name string) {
	f.t.Helper()
	ctx := f.t.Context()
	if _, err := f.kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.kube.CoreV1().ServiceAccounts(name).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "deployer"}}, metav1.CreateOptions{}); err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.kube.RbacV1().RoleBindings(name).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "deployer"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: "deployer", Namespace: name}},
	}, metav1.CreateOptions{}); err != nil {
		f.t.Fatal(err)
	}
}

// begin bootstraps an agent of v1 that manages itself, beside a bundle whose drift is corrected and one whose drift is reported.
func (f *fleet) begin() {
	f.t.Helper()
	files := map[string]string{}
	for bundle, mode := range map[string]string{"app": "correct", "watched": "report"} {
		f.namespace(bundle)
		files[bundle+"/bundle.yaml"] = "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: " + bundle + "}\nspec: {namespace: " + bundle +
			", serviceAccount: {namespace: " + bundle + ", name: deployer}, drift: {mode: " + mode + "}}\n"
	}
	for n := range objects {
		files["app/"+object(n)+".yaml"] = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + object(n) + "}\ndata: {color: red}\n"
	}
	files["watched/"+object(0)+".yaml"] = files["app/"+object(0)+".yaml"]
	f.repo.Commit(files)
	code, said := f.run(f.t.Context(), "bootstrap", "--cluster", "one", "--repo", f.repo.Dir, "--rbac", "impersonate-only",
		"--image", "example.com/flotilla:v1", "--values", f.values, "--wait", "2m")
	if code != 0 {
		f.t.Fatalf("bootstrap: exit code %d\n%s", code, said)
	}
	f.follow()
	f.runs("v1")
	if err := f.edit(f.t.Context(), "watched", object(0)); err != nil {
		f.t.Fatal(err)
	}
	f.open("at first")
}

// handsOver commits another version, edits objects until that one is alone, and wants every edit to be corrected and recorded once.
func (f *fleet) handsOver(version string) {
	f.t.Helper()
	ctx, edits := f.t.Context(), make(chan int, 1)
	stop := make(chan struct{})
	go func() {
		n := f.edited
		for {
			select {
			case <-ctx.Done():
				return
			case <-stop:
				edits <- n
				return
			case <-time.After(400 * time.Millisecond):
				if n < f.edited+most && f.edit(ctx, "app", object(n)) == nil {
					n++
				}
			}
		}
	}()
	before := f.versions()
	f.image(version)
	f.runs(version)
	close(stop)
	n := <-edits
	if n == f.edited {
		f.t.Error("nothing was edited meanwhile")
	}
	f.edited = n
	f.corrected("after the hand-over")
	f.correctedOnce()
	f.open("after the hand-over")
	if told := f.versions(); !slices.Equal(told, append(before, version)) {
		f.t.Errorf("the agents reported in turns: %v", told)
	}
}

// A commit replaces the agent by another version of itself, there and back, whoever is killed in between.
// A version that does not start leaves the one that runs at work, and the status says why.
func TestSelfUpgrade(t *testing.T) {
	programs := map[string]string{"v1": build(t, "v1"), "v2": build(t, "v2"), "bad": "/bin/false"}
	t.Run("without a volume", func(t *testing.T) {
		f := newFleet(t, programs, false)
		f.begin()
		f.handsOver("v2")
	})
	t.Run("on a volume", func(t *testing.T) {
		f := newFleet(t, programs, true)
		f.begin()
		f.handsOver("v2")
		for _, step := range []struct {
			name string
			do   func(*fleet)
		}{
			{"a version that does not start", (*fleet).staysAtTheOld},
			{"back to the version before", func(f *fleet) { f.handsOver("v1") }},
			{"kill -9 of the old one while the new one starts", (*fleet).oldIsKilled},
			{"kill -9 of the old one when the new one is ready", (*fleet).oldIsKilledAtItsEnd},
			{"kill -9 of the new one while it starts, and when it is alone", (*fleet).newIsKilled},
		} {
			if !t.Run(step.name, func(t *testing.T) { step.do(f.on(t)) }) {
				return // what follows begins where this ends
			}
		}
		f.recorded()
	})
}

// recorded ends the agent, and wants its store to hold an episode of every edit: the one that is only reported is still open.
func (f *fleet) recorded() {
	f.t.Helper()
	f.node.stop()
	st, err := store.Open(store.Config{Path: filepath.Join(f.node.dir, "claim-flotilla-agent", "agent.db"), Cluster: "one"})
	if err != nil {
		f.t.Fatal(err)
	}
	defer st.Close()
	open, err := st.OpenEpisodes()
	if err != nil {
		f.t.Fatal(err)
	}
	if len(open) != 1 || open[0].Object.Namespace != "watched" {
		f.t.Errorf("open episodes: %+v", open)
	}
	all, err := st.Episodes(store.Filter{})
	if err != nil {
		f.t.Fatal(err)
	}
	times := map[string]int{}
	for _, e := range all {
		if e.Object.Namespace == "app" {
			times[e.Object.Name]++
		}
	}
	for n := range f.edited {
		if times[object(n)] != 1 {
			f.t.Errorf("of %s there are %d episodes", object(n), times[object(n)])
		}
	}
}

// on has what fails until the end of a subtest fail that one.
func (f *fleet) on(t *testing.T) *fleet {
	outer := f.t
	f.t = t
	t.Cleanup(func() { f.t = outer })
	return f
}

func (f *fleet) staysAtTheOld() {
	f.t.Helper()
	own := f.repo.Git("show", "HEAD:flotilla/bundle.yaml")
	if !strings.Contains(own, "timeout: 3m") {
		f.t.Fatalf("the bundle's timeout is another:\n%s", own)
	}
	f.repo.Commit(map[string]string{"flotilla/bundle.yaml": strings.Replace(own, "timeout: 3m", "timeout: 10s", 1)})
	f.image("bad")
	f.eventually("the status says why", func(ctx context.Context) error {
		b, err := f.bundle(ctx, "flotilla")
		if err != nil {
			return err
		}
		if b.Phase != api.PhaseFailed || b.Error == nil || !strings.Contains(b.Error.Message, "CrashLoopBackOff") || !strings.Contains(b.Error.Message, "exit code 1") {
			return fmt.Errorf("it is %s: %s, %+v", b.Phase, b.Message, b.Error)
		}
		return nil
	})
	f.editsOne()
	f.corrected("by the version that runs")
	if n := len(f.node.running("v2")); n != 1 {
		f.t.Errorf("%d processes of the old version run", n)
	}
	f.image("v2")
	f.runs("v2")
}

func (f *fleet) oldIsKilled() {
	f.t.Helper()
	f.image("v2")
	f.eventually("the new one starts", func(context.Context) error {
		if len(f.node.running("v2")) == 0 {
			return errors.New("no process")
		}
		return nil
	})
	f.node.kill("v1")
	f.runs("v2")
	f.editsOne()
	f.corrected("by the new one")
	f.open("by the new one")
}

func (f *fleet) oldIsKilledAtItsEnd() {
	f.t.Helper()
	f.node.brutally(true)
	f.image("v1")
	f.runs("v1")
	f.node.brutally(false)
	f.editsOne()
	f.corrected("by the new one")
}

func (f *fleet) newIsKilled() {
	f.t.Helper()
	f.image("v2")
	f.eventually("the new one is killed while it starts", func(context.Context) error {
		if f.node.kill("v2") == 0 {
			return errors.New("no process")
		}
		return nil
	})
	f.runs("v2")
	f.node.kill("v2")
	f.editsOne()
	f.corrected("by the agent that was started again")
	f.open("at the end")
}
