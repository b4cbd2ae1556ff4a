package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
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
	r.Eventually("deleted fields are back", func(context.Context) error {
		if m := r.get("x"); m.Data["key"] != "one" || m.Annotations["team"] != "red" {
			return fmt.Errorf("%v %v", m.Data, m.Annotations)
		}
		return nil
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
		api.LabelManagedBy: api.ManagedBy, api.LabelPartOf: apply.ApplySetID(bundle), api.LabelBundle: bundle,
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
	without := func(key, value string) map[string]string {
		out := map[string]string{}
		maps.Copy(out, full)
		if delete(out, key); value != "" {
			out[key] = value
		}
		return out
	}
	neighbours := map[string]map[string]string{
		"no-manager":     without(api.LabelManagedBy, ""),
		"other-manager":  without(api.LabelManagedBy, "helm"),
		"no-applyset":    without(api.LabelPartOf, ""),
		"other-applyset": without(api.LabelPartOf, "applyset-somebody-elses-v1"),
		"other-bundle":   markers(r.NS + "-none"),
		"no-marker":      nil,
	}
	roles := r.Kube.RbacV1().ClusterRoles()
	role := func(name string, labels map[string]string) *rbacv1.ClusterRole {
		c, err := roles.Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: r.NS + "-" + name, Labels: labels}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for name, labels := range neighbours {
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

func TestLabel_strippedByHandIsPutBack(t *testing.T) {
	r := start(t, files{"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"), "a/y.yaml": configMap("y", "one")})
	r.Ready("NS-a", "")
	uid := r.get("x").UID
	labelled := func(what string) {
		t.Helper()
		r.Eventually(what, func(context.Context) error {
			m := r.get("x")
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
