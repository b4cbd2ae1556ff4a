package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

func TestRestore_editsAndDeletedFields(t *testing.T) {
	r := start(t, files{
		"a/bundle.yaml": bundle("a", ""),
		"a/x.yaml":      annotated("x", "one", "team: red"), "a/web.yaml": deployment("web", 1, ""),
	})
	r.Ready("NS-a", "")
	r.patch("x", `{"data":{"key":"two"}}`)
	r.value("x", "one")
	r.patch("x", `{"data":null,"metadata":{"annotations":{"team":null}}}`)
	r.Eventually("deleted fields are back", func(ctx context.Context) error {
		m, err := r.tryGet(ctx, "x")
		if err == nil && (m.Data["key"] != "one" || m.Annotations["team"] != "red") {
			err = fmt.Errorf("%v %v", m.Data, m.Annotations)
		}
		return err
	})
	if _, err := r.Kube.AppsV1().Deployments(r.NS).Patch(t.Context(), "web", types.JSONPatchType,
		[]byte(`[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"main:2"}]`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	r.Eventually("the image is back", func(ctx context.Context) error {
		d, err := r.Kube.AppsV1().Deployments(r.NS).Get(ctx, "web", metav1.GetOptions{})
		if err == nil && d.Spec.Template.Spec.Containers[0].Image != "main:1" {
			err = errors.New(d.Spec.Template.Spec.Containers[0].Image)
		}
		return err
	})

	// What nobody declared is left alone, and is no drift.
	r.patch("x", `{"data":{"other":"mine"},"metadata":{"labels":{"hand":"made"},"annotations":{"hand":"made"}}}`)
	r.Ready("NS-a", r.Commit(files{"a/x.yaml": annotated("x", "three", "team: red")}))
	if m := r.get("x"); m.Data["other"] != "mine" || m.Labels["hand"] != "made" || m.Annotations["hand"] != "made" || m.Data["key"] != "three" {
		t.Errorf("what nobody declared was touched: %v %v %v", m.Data, m.Labels, m.Annotations)
	}
	r.Stop()
	for _, e := range r.Episodes() {
		for _, f := range e.Fields {
			if f.Path == "/data/other" {
				t.Errorf("an undeclared field is drift: %+v", f)
			}
		}
	}
}

func TestRestore_objectAndItsNamespace(t *testing.T) {
	r := start(t, files{
		"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"),
		"a/ns.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: NS}\n", "a/web.yaml": deployment("web", 1, ""),
	})
	r.Ready("NS-a", "")
	r.remove("x")
	r.value("x", "one")
	ns, err := r.Kube.CoreV1().Namespaces().Get(t.Context(), r.NS, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Kube.CoreV1().Namespaces().Delete(t.Context(), r.NS, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.Eventually("the namespace and all in it is back", func(ctx context.Context) error {
		now, err := r.Kube.CoreV1().Namespaces().Get(ctx, r.NS, metav1.GetOptions{})
		if err == nil && now.UID == ns.UID {
			err = fmt.Errorf("it is the old one, %s", now.Status.Phase)
		}
		_, derr := r.Kube.AppsV1().Deployments(r.NS).Get(ctx, "web", metav1.GetOptions{})
		return errors.Join(err, derr, r.hasValue(ctx, "x", "one"))
	})
	r.Ready("NS-a", "")
}

// markers are the labels of an object that belongs to a bundle.
func markers(bundle string) map[string]string {
	return map[string]string{
		api.LabelManagedBy: api.ManagedBy, api.LabelPartOf: plan.ApplySetID(bundle), api.LabelBundle: bundle,
	}
}

// almost are labels that lack a marker of a bundle, or have a wrong one.
func (r *rig) almost(bundle string) map[string]map[string]string {
	without := func(key, value string) map[string]string {
		out := markers(r.NS + "-" + bundle)
		if delete(out, key); value != "" {
			out[key] = value
		}
		return out
	}
	return map[string]map[string]string{
		"no-manager":     without(api.LabelManagedBy, ""),
		"other-manager":  without(api.LabelManagedBy, "helm"),
		"no-applyset":    without(api.LabelPartOf, ""),
		"other-applyset": without(api.LabelPartOf, "applyset-somebody-elses-v1"),
		"other-bundle":   markers(r.NS + "-none"),
		"no-marker":      nil,
	}
}

func TestExtra_onlyWhatCarriesAllMarkersIsDeleted(t *testing.T) {
	r := start(t, files{
		"a/bundle.yaml": bundle("a", "drift: {extra: remove}"), "a/x.yaml": configMap("x", "one"),
		"a/role.yaml":   "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: NS-role}\nrules: []\n",
		"b/bundle.yaml": bundle("b", ""), "b/y.yaml": configMap("y", "one"),
	})
	r.Ready("NS-a", "")
	r.Ready("NS-b", "")
	full := markers(r.NS + "-a")
	roles := r.Kube.RbacV1().ClusterRoles()
	role := func(name string, labels map[string]string) *rbacv1.ClusterRole {
		c, err := roles.Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: r.NS + "-" + name, Labels: labels}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for name, labels := range r.almost("a") {
		before, beforeRole := r.create(name, "hand", labels, nil), role(name, labels)
		defer func() {
			r.same(before)
			now, err := roles.Get(t.Context(), beforeRole.Name, metav1.GetOptions{})
			if err != nil || now.ResourceVersion != beforeRole.ResourceVersion {
				t.Errorf("ClusterRole %s was touched: %v", beforeRole.Name, err)
			}
			_ = roles.Delete(t.Context(), beforeRole.Name, metav1.DeleteOptions{})
		}()
	}
	// The bundle next door leaves what is extra alone: nobody asked it not to.
	next := r.create("next-door", "hand", markers(r.NS+"-b"), nil)
	r.create("extra", "hand", full, nil)
	role("extra", full)
	r.gone("extra")
	r.Eventually("the extra ClusterRole is gone", func(ctx context.Context) error {
		_, err := roles.Get(ctx, r.NS+"-extra", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("still there"), err)
	})
	// A full comparison, and a commit, must not find the neighbours either.
	r.Sync()
	revision := r.Commit(files{"a/x.yaml": configMap("x", "two"), "b/y.yaml": configMap("y", "two")})
	r.Ready("NS-a", revision)
	r.Ready("NS-b", revision)
	r.same(next)
}

// A Namespace takes with it what Git cannot bring back: as something extra it is told of, and never deleted.
func TestExtra_namespacesAreNeverDeleted(t *testing.T) {
	r := start(t, files{
		"a/bundle.yaml": bundle("a", "drift: {extra: remove}"), "a/x.yaml": configMap("x", "one"),
		"a/ns.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: NS-git}\n",
	})
	r.Ready("NS-a", "")
	namespaces := r.Kube.CoreV1().Namespaces()
	full := markers(r.NS + "-a")
	labels := r.almost("a")
	labels["extra"] = full
	var before []*corev1.Namespace
	for name, l := range labels {
		ns, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.NS + "-" + name, Labels: l}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = namespaces.Delete(context.WithoutCancel(t.Context()), ns.Name, metav1.DeleteOptions{}) })
		before = append(before, ns)
	}
	r.create("extra", "hand", full, nil)
	r.gone("extra")
	r.Eventually("the episode says what is left to do", func(ctx context.Context) error {
		report, err := r.Applier.Report(ctx)
		if err != nil {
			return err
		}
		for _, e := range report.Drift {
			if e.Object.Kind != "Namespace" {
				continue
			}
			if e.Object.Name != r.NS+"-extra" || e.Class != api.ClassExtra {
				return fmt.Errorf("an episode of a Namespace: %+v", e)
			}
			if e.Outcome != api.OutcomeFailed || !strings.Contains(e.Error, "delete it by hand") {
				return fmt.Errorf("it is %s: %s", e.Outcome, e.Error)
			}
			return nil
		}
		return errors.New("there is none")
	})
	// A full comparison, a commit and a restart do not delete them either.
	r.Sync()
	r.Applied(r.Commit(files{"a/x.yaml": configMap("x", "two")}))
	r.Stop()
	r.Start()
	r.Applied(r.Commit(files{"a/x.yaml": configMap("x", "three")}))
	for _, ns := range before {
		now, err := namespaces.Get(t.Context(), ns.Name, metav1.GetOptions{})
		if err != nil || now.UID != ns.UID || now.ResourceVersion != ns.ResourceVersion || now.Status.Phase != corev1.NamespaceActive {
			t.Errorf("Namespace %s was touched: %v", ns.Name, err)
		}
	}
}

func TestLabel_strippedByHandIsPutBack(t *testing.T) {
	r := start(t, files{"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"), "a/y.yaml": configMap("y", "one")})
	r.Ready("NS-a", "")
	uid := r.get("x").UID
	labelled := func(what string) {
		t.Helper()
		r.Eventually(what, func(ctx context.Context) error {
			m, err := r.tryGet(ctx, "x")
			if err != nil {
				return err
			}
			for k, v := range markers(r.NS + "-a") {
				if m.Labels[k] != v {
					return fmt.Errorf("label %s is %q", k, m.Labels[k])
				}
			}
			return nil
		})
		r.Ready("NS-a", "")
	}
	r.patch("x", `{"metadata":{"labels":{"applyset.kubernetes.io/part-of":null}}}`)
	labelled("the ApplySet label is back")
	r.patch("x", `{"metadata":{"labels":null}}`)
	labelled("all labels are back")

	// While nobody looks, and with an edit at the same time.
	r.Stop()
	r.patch("x", `{"metadata":{"labels":null},"data":{"key":"two"}}`)
	r.Start()
	labelled("the labels are back after a restart")
	r.value("x", "one")
	if now := r.get("x").UID; now != uid {
		t.Errorf("the object was made anew: %s, and was %s", now, uid)
	}
	// It still is the bundle's: it goes when it leaves Git.
	r.patch("x", `{"metadata":{"labels":{"applyset.kubernetes.io/part-of":null}}}`)
	labelled("the label is back again")
	r.Delete("a/x.yaml")
	r.gone("x")
	r.Stop()
	for _, e := range r.Episodes() {
		if e.Class == api.ClassMissing {
			t.Errorf("a lost label was taken for a deletion: %+v", e)
		}
	}
}
