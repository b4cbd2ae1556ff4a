package engine

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
)

// A Namespace document of a namespace that the cluster needs may leave Git, whatever may be deleted:
// the namespace stays, and everything in it.
func TestPrune_builtInNamespacesStay(t *testing.T) {
	names := []string{"default", "kube-system", "kube-public", "kube-node-lease", "flotilla-system"}
	fs := files{
		"fleet.yaml":    fleet(`guards: {allowDelete: ["*"], maxDeletePercent: 100}`),
		"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"), "a/y.yaml": configMap("y", "one"),
	}
	var docs []string
	for _, name := range names {
		fs["a/"+name+".yaml"] = "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + name + "}\n"
		docs = append(docs, "a/"+name+".yaml")
	}
	r := newRig(t, agenttest.Config{Files: fs})
	before := map[string]types.UID{}
	var inside []*corev1.ConfigMap
	for _, name := range names {
		ns, err := r.Kube.CoreV1().Namespaces().Get(t.Context(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue // made by the agent
		}
		if err != nil {
			t.Fatal(err)
		}
		before[name] = ns.UID
		m, err := r.Kube.CoreV1().ConfigMaps(name).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: r.NS}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		inside = append(inside, m)
		t.Cleanup(func() {
			_ = r.Kube.CoreV1().ConfigMaps(name).Delete(context.WithoutCancel(t.Context()), r.NS, metav1.DeleteOptions{})
		})
	}
	defer func() {
		// What cleans up after the test takes whatever has these labels.
		r.Stop()
		for _, name := range names {
			labels := fmt.Sprintf(`{"metadata":{"labels":{%q:null,%q:null,%q:null}}}`, api.LabelManagedBy, api.LabelPartOf, api.LabelBundle)
			if _, err := r.Kube.CoreV1().Namespaces().Patch(t.Context(), name, types.MergePatchType, []byte(labels), metav1.PatchOptions{}); err != nil {
				t.Error(err)
			}
		}
	}()
	r.Start()
	r.Ready("NS-a", "")
	r.Delete(append(docs, "a/y.yaml")...)
	r.gone("y")
	r.Ready("NS-a", r.Commit(files{"a/x.yaml": configMap("x", "two")}))
	// The whole bundle goes, and with it what it still has.
	r.Commit(files{"a/kube-public.yaml": fs["a/kube-public.yaml"], "b/bundle.yaml": bundle("b", ""), "b/z.yaml": configMap("z", "one")})
	r.Ready("NS-b", "")
	r.Ready("NS-a", "")
	r.Delete("a")
	r.gone("x")
	for _, name := range names {
		ns, err := r.Kube.CoreV1().Namespaces().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || ns.Status.Phase != corev1.NamespaceActive || before[name] != "" && ns.UID != before[name] {
			t.Errorf("%s is not what it was: %v", name, err)
		}
	}
	for _, m := range inside {
		now, err := r.Kube.CoreV1().ConfigMaps(m.Namespace).Get(t.Context(), m.Name, metav1.GetOptions{})
		if err != nil || now.ResourceVersion != m.ResourceVersion {
			t.Errorf("%s/%s was touched: %v", m.Namespace, m.Name, err)
		}
	}
}

// Two bundles go at once: the one that is depended on stays until the other's finalizers are done.
func TestPrune_waitsForFinalizersAcrossBundles(t *testing.T) {
	group := func(r *rig) string { return r.NS + ".example.com" }
	r := start(t, files{
		"fleet.yaml":       fleet(`guards: {allowDelete: ["*"], maxDeletePercent: 100}`),
		"crd/bundle.yaml":  bundle("crd", ""),
		"crd/crd.yaml":     "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: widgets.NS.example.com}\nspec: {group: NS.example.com, scope: Namespaced, names: {kind: Widget, plural: widgets}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]}\n",
		"crd/op.yaml":      configMap("operator", "one"),
		"app/bundle.yaml":  bundle("app", "dependsOn: [NS-crd]"),
		"app/w.yaml":       "apiVersion: NS.example.com/v1\nkind: Widget\nmetadata: {name: w, namespace: NS, finalizers: [example.com/tidy]}\n",
		"app/x.yaml":       configMap("x", "one"),
		"keep/bundle.yaml": bundle("keep", ""), "keep/y.yaml": configMap("y", "one"),
	})
	r.Ready("NS-app", "")
	widgets := r.Dynamic.Resource(schema.GroupVersionResource{Group: group(r), Version: "v1", Resource: "widgets"}).Namespace(r.NS)
	r.Delete("crd", "app")
	r.Eventually("the instance is being deleted", func(ctx context.Context) error {
		w, err := widgets.Get(ctx, "w", metav1.GetOptions{})
		if err == nil && w.GetDeletionTimestamp() == nil {
			err = errors.New("it is not")
		}
		return err
	})
	time.Sleep(time.Second)
	r.get("operator")
	r.get("x")
	if _, err := widgets.Patch(t.Context(), "w", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	r.gone("x")
	r.gone("operator")
	r.Eventually("the kind is gone", func(ctx context.Context) error {
		_, err := widgets.List(ctx, metav1.ListOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("still there"), err)
	})
	if m := r.get("y"); m.Data["key"] != "one" {
		t.Error("a bundle that stays was touched")
	}
}

// A finalizer that nobody removes is told of, with the object, and holds up nothing else for ever.
func TestPrune_namesTheFinalizerThatHoldsItUp(t *testing.T) {
	r := start(t, files{
		"a/bundle.yaml": bundle("a", "timeout: 1s"), "a/y.yaml": configMap("y", "one"),
		"a/x.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: NS, finalizers: [example.com/never]}\n",
	})
	r.Ready("NS-a", "")
	r.Delete("a/x.yaml")
	r.Failed("NS-a", "ConfigMap/NS/x")
	b, err := r.Bundle(t.Context(), "NS-a")
	if err != nil || b.Error == nil || !strings.Contains(b.Error.Message, "example.com/never") {
		t.Errorf("%v %+v", err, b.Error)
	}
	// What else the next commit wants is done all the same.
	r.Commit(files{"a/y.yaml": configMap("y", "two")})
	r.value("y", "two")
	r.patch("x", `{"metadata":{"finalizers":null}}`)
	r.gone("x")
	r.Ready("NS-a", "")
}

// An agent that lost its store does not take what controllers made from its objects for its own.
func TestPrune_leavesWhatControllersMade(t *testing.T) {
	r := start(t, files{
		"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"), "a/gone.yaml": configMap("gone", "one"),
		"a/web.yaml":   "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: NS}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n",
		"a/slice.yaml": "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: declared, namespace: NS}\naddressType: IPv4\nendpoints: [{addresses: [10.1.2.3]}]\nports: []\n",
	})
	r.Ready("NS-a", "")
	made := func(ctx context.Context) (types.UID, error) {
		list, err := r.Kube.DiscoveryV1().EndpointSlices(r.NS).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=web"})
		if err == nil && len(list.Items) != 1 {
			err = fmt.Errorf("%d slices", len(list.Items))
		}
		if err != nil {
			return "", err
		}
		return list.Items[0].UID, nil
	}
	var before types.UID
	r.Eventually("the Service has a slice", func(ctx context.Context) (err error) {
		before, err = made(ctx)
		return err
	})
	r.Stop()
	r.Config.Dir = t.TempDir()
	r.DropLease()
	r.Delete("a/gone.yaml")
	r.Start()
	r.gone("gone")
	r.Ready("NS-a", "")
	if after, err := made(t.Context()); err != nil || after != before {
		t.Errorf("the slice was %s, and is %s: %v", before, after, err)
	}
}

// A bundle that comes back while something of it was kept is whole again, also if the agent was restarted in between.
func TestPrune_calledOff(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %t", restart), func(t *testing.T) {
			app := files{"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"), "a/kept.yaml": annotated("kept", "one", "flotilla.dev/prune: disabled")}
			r := start(t, with(app, files{"b/bundle.yaml": bundle("b", ""), "b/y.yaml": configMap("y", "one")}))
			r.Ready("NS-a", "")
			r.Ready("NS-b", "")
			kept := r.get("kept")
			r.Delete("a")
			r.gone("x")
			r.same(kept)
			r.Eventually("its removal is known", func(ctx context.Context) error {
				b, err := r.Bundle(ctx, "NS-a")
				if err == nil && b.Objects != 1 {
					err = fmt.Errorf("it has %d objects", b.Objects)
				}
				return err
			})
			if restart {
				r.Stop()
			}
			revision := r.Commit(app)
			if restart {
				r.Start()
			}
			r.value("x", "one")
			r.same(kept)
			r.Ready("NS-a", revision)
		})
	}
}

// What was left on the cluster on purpose stays there when the agent's store is lost:
// what a bundle with prune: false left behind, what Git had with reconcile: disabled, and what somebody copied with its labels.
func TestPrune_aLostStoreKeepsWhatWasLeft(t *testing.T) {
	r := start(t, files{
		"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"), "a/off.yaml": configMap("off", "one"), "a/stuck.yaml": annotated("stuck", "one", "flotilla.dev/prune: disabled"),
		"c/bundle.yaml": bundle("c", "prune: false"), "c/z.yaml": configMap("z", "one"),
	})
	r.Ready("NS-c", "")
	r.Ready("NS-a", r.Commit(files{"a/off.yaml": annotated("off", "one", "flotilla.dev/reconcile: disabled")}))
	copied := r.create("copied", "by hand", markers(r.NS+"-a"), nil)
	r.Delete("a/off.yaml", "a/stuck.yaml", "c")
	r.Ready("NS-a", r.Commit(files{"a/x.yaml": configMap("x", "two")}))
	r.Eventually("the bundle that left Git is forgotten", func(ctx context.Context) error {
		if b, err := r.Bundle(ctx, "NS-c"); err == nil {
			return fmt.Errorf("it is %s", b.Phase)
		}
		return nil
	})
	kept := []*corev1.ConfigMap{copied, r.get("off"), r.get("stuck"), r.get("z")}
	r.Stop()
	r.Config.Dir = t.TempDir()
	r.DropLease()
	r.Start()
	revision := r.Commit(files{"a/x.yaml": configMap("x", "three")})
	r.Ready("NS-a", revision)
	r.Applied(revision)
	for _, m := range kept {
		r.same(m)
	}
	// What only an annotation keeps is still known to be the bundle's, and goes with the annotation.
	r.patch("stuck", `{"metadata":{"annotations":{"flotilla.dev/prune":null}}}`)
	r.gone("stuck")
	r.Delete("a")
	r.Commit(files{"b/bundle.yaml": bundle("b", ""), "b/y.yaml": configMap("y", "one")})
	r.gone("x")
	for _, m := range kept {
		if m.Name != "stuck" {
			r.same(m)
		}
	}
}

// What was created without an answer, and has left Git before the next try, does not stay.
func TestPrune_whatNobodyAnsweredFor(t *testing.T) {
	r := proxied(t, files{"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one")})
	r.Ready("NS-a", "")
	lose := func(name string) {
		t.Helper()
		r.Proxy.Spoil(func(req *http.Request) *agenttest.Fault {
			if agenttest.IsWrite(req) && strings.HasSuffix(req.URL.Path, "/configmaps/"+name) {
				return &agenttest.Fault{Late: true, Status: http.StatusGatewayTimeout}
			}
			return nil
		})
		r.Commit(files{"a/" + name + ".yaml": configMap(name, "one")})
		r.value(name, "one")
		r.Failed("NS-a", "ConfigMap/NS/"+name)
	}
	copied := r.create("copied", "by hand", markers(r.NS+"-a"), nil)
	lose("running")
	r.Delete("a/running.yaml")
	r.gone("running")
	r.Ready("NS-a", "")

	lose("restarted")
	r.Stop()
	r.Proxy.Spoil(nil)
	r.Delete("a/restarted.yaml")
	r.Start()
	r.gone("restarted")
	r.Ready("NS-a", "")
	r.same(copied)
}

// What Helm, Argo CD or Flux would keep is kept, in a chart as elsewhere: its status says so, nothing of it is drift,
// and an annotation of ours lets it go.
func TestPrune_keepsWhatOtherToolsKeep(t *testing.T) {
	const (
		secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: root, annotations: {helm.sh/resource-policy: keep}}\nstringData: {p: x}\n"
		stays  = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: stays}\n"
	)
	r := start(t, files{
		"a/bundle.yaml": bundle("a", "namespace: NS, helm: {chart: ./chart}"), "a/chart/Chart.yaml": "{apiVersion: v2, name: demo, version: 1.0.0}",
		"a/chart/templates/a.yaml": secret + stays,
		"b/bundle.yaml":            bundle("b", ""), "b/x.yaml": configMap("x", "one"), "b/other.yaml": configMap("other", "one"),
		"b/argo.yaml": annotated("argo", "one", "argocd.argoproj.io/sync-options: 'Replace=true,Delete=false'"),
		"b/flux.yaml": annotated("flux", "one", "kustomize.toolkit.fluxcd.io/prune: disabled"),
	})
	r.Ready("NS-a", "")
	r.Ready("NS-b", "")
	argo, flux := r.get("argo"), r.get("flux")
	r.Delete("b/argo.yaml", "b/flux.yaml", "b/other.yaml")
	revision := r.Commit(files{"a/chart/templates/a.yaml": stays})
	r.gone("other")
	r.Ready("NS-a", revision)
	r.Ready("NS-b", "")
	r.same(argo)
	r.same(flux)
	says := func(bundle string, want ...string) {
		t.Helper()
		r.Eventually("the status of "+bundle+" tells what stays", func(ctx context.Context) error {
			b, err := r.Bundle(ctx, r.NS+bundle)
			if err == nil && (!slices.Equal(b.Exempt, want) || b.Drifted > 0) {
				err = fmt.Errorf("it tells of %q, and %d drifted", b.Exempt, b.Drifted)
			}
			return err
		})
	}
	in := r.NS + "/"
	says("-a", "Secret/"+in+"root: left Git, and stays: helm.sh/resource-policy: keep")
	says("-b", "ConfigMap/"+in+"argo: left Git, and stays: argocd.argoproj.io/sync-options: Delete=false",
		"ConfigMap/"+in+"flux: left Git, and stays: kustomize.toolkit.fluxcd.io/prune: disabled")
	r.patch("argo", `{"metadata":{"annotations":{"flotilla.dev/prune":"enabled"}}}`)
	r.gone("argo")
	r.same(flux)
	if _, err := r.Kube.CoreV1().Secrets(r.NS).Get(t.Context(), "root", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

// A namespace that a bundle brings is one of its objects: labelled, owned and corrected; and it goes with all that others
// have in it only where the guards let it go.
func TestPrune_createNamespace(t *testing.T) {
	const settings = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {key: one}\n"
	spec := func(create string) string { return bundle("a", "namespace: NS-own"+create) }
	r := start(t, files{"a/bundle.yaml": spec(", createNamespace: {labels: {team: web}}"), "a/x.yaml": settings})
	r.Ready("NS-a", "")
	ns := r.namespace("NS-own")
	for key, want := range map[string]string{"team": "web", api.LabelManagedBy: api.ManagedBy, "kubernetes.io/metadata.name": ns.Name} {
		if ns.Labels[key] != want {
			t.Errorf("the label %s is %q, want %q", key, ns.Labels[key], want)
		}
	}
	maps := r.Kube.CoreV1().ConfigMaps(ns.Name)
	if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	label := func(want string) {
		t.Helper()
		r.Eventually("the label is "+want, func(ctx context.Context) error {
			now, err := r.Kube.CoreV1().Namespaces().Get(ctx, ns.Name, metav1.GetOptions{})
			if err == nil && now.Labels["team"] != want {
				err = fmt.Errorf("it is %q", now.Labels["team"])
			}
			return err
		})
	}
	patch := []byte(`{"metadata": {"labels": {"team": "edited"}}}`)
	if _, err := r.Kube.CoreV1().Namespaces().Patch(t.Context(), ns.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	label("web")
	r.Commit(files{"a/bundle.yaml": spec(", createNamespace: {labels: {team: ops}}")})
	label("ops")

	r.Commit(files{"a/bundle.yaml": spec("")})
	r.Failed("NS-a", "Namespace/NS-own", "allowDelete: [NS-a]")
	if now := r.namespace("NS-own"); now.UID != ns.UID || now.DeletionTimestamp != nil {
		t.Error("the namespace was deleted")
	}
	for _, name := range []string{"x", "theirs"} {
		if m, err := maps.Get(t.Context(), name, metav1.GetOptions{}); err != nil || m.DeletionTimestamp != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Where the repository gives it up, it goes.
	r.Do(gitserver.Commit{Delete: []string{"a/bundle.yaml", "a/x.yaml"}, Write: files{"fleet.yaml": fleet("guards: {allowDelete: [NS-a]}")}})
	r.Eventually("the namespace is deleted", func(ctx context.Context) error {
		now, err := r.Kube.CoreV1().Namespaces().Get(ctx, ns.Name, metav1.GetOptions{})
		if err == nil && now.DeletionTimestamp != nil {
			return nil
		}
		return isGone(err)
	})
}
