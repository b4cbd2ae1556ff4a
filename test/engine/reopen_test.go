package engine

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A bundle that only a human can help is tried again as soon as somebody has: on the cluster, or elsewhere in Git.

func fixed(name, value string) string {
	return strings.Replace(configMap(name, value), "\ndata:", "\nimmutable: true\ndata:", 1)
}

func TestReopen_aRefusedObjectIsDeletedByHand(t *testing.T) {
	r := proxied(t, files{
		"a/bundle.yaml": bundle("a", ""), "a/x.yaml": fixed("x", "one"), "a/y.yaml": fixed("y", "one"),
		"b/bundle.yaml": bundle("b", ""), "b/z.yaml": configMap("z", "one"),
	})
	r.Ready("NS-a", "")
	revision := r.Commit(files{"a/x.yaml": fixed("x", "two"), "a/y.yaml": fixed("y", "two")})
	r.Failed("NS-a", "ConfigMap/NS/x", "ConfigMap/NS/y", "flotilla.dev/force")
	r.remove("x")
	r.value("x", "two")
	r.Failed("NS-a", "ConfigMap/NS/y")
	r.Proxy.Requests()
	r.remove("y")
	r.value("y", "two")
	r.Ready("NS-a", revision)
	for _, q := range r.Proxy.Requests() {
		if q.Method == http.MethodPatch && strings.HasSuffix(q.Path, "/configmaps/x") {
			t.Errorf("x was sent again for y")
		}
	}
}

func TestReopen_aRefusedObjectIsEditedByHand(t *testing.T) {
	r := start(t, files{"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one")})
	r.Ready("NS-a", "")
	// What the bundle's next revision is refused for is only on the cluster.
	r.patch("x", `{"metadata":{"annotations":{"flotilla.dev/drift":"ignore"}},"immutable":true}`)
	revision := r.Commit(files{"a/x.yaml": configMap("x", "two")})
	r.Failed("NS-a", "ConfigMap/NS/x")
	r.patch("x", `{"metadata":{"annotations":{"flotilla.dev/force":"enabled"}}}`)
	r.value("x", "two")
	r.Ready("NS-a", revision)
}

// typed is the CRD of things whose spec has these fields.
func typed(fields string) string {
	return strings.Replace(crd, "x-kubernetes-preserve-unknown-fields: true", "properties: {"+fields+"}", 1)
}

func TestReopen_theSchemaComesLater(t *testing.T) {
	sized := strings.Replace(thing("two", "one"), "spec: {", "spec: {size: 3, ", 1)
	r := start(t, files{
		"a/bundle.yaml": bundle("a", ""), "a/crd.yaml": typed("key: {type: string}"), "a/thing.yaml": thing("one", "one"),
		"b/bundle.yaml": bundle("b", "dependsOn: [NS-a]"), "b/thing.yaml": sized,
		"c/bundle.yaml": bundle("c", ""), "c/thing.yaml": strings.ReplaceAll(sized, "two", "three"),
	})
	r.Ready("NS-a", "")
	r.Failed("NS-b", "spec.size")
	r.Failed("NS-c", "spec.size")
	revision := r.Commit(files{"a/crd.yaml": typed("key: {type: string}, size: {type: integer}"), "a/thing.yaml": strings.Replace(thing("one", "one"), "spec: {", "spec: {size: 1, ", 1)})
	for _, b := range []string{"NS-a", "NS-b", "NS-c"} {
		r.Ready(b, "")
	}
	r.Applied(revision)
}

// A commit ends every wait: here that of five minutes for a right that nobody tells of.
func TestReopen_aCommitEndsTheWait(t *testing.T) {
	r := proxied(t, files{
		"a/bundle.yaml": bundle("a", "serviceAccount: {namespace: NS, name: default}"), "a/x.yaml": configMap("x", "one"),
		"b/bundle.yaml": bundle("b", ""), "b/y.yaml": configMap("y", "one"),
	})
	tries := 0
	r.Eventually("it was denied twice", func(context.Context) error {
		for _, q := range r.Proxy.Requests() {
			if q.Method == http.MethodPatch && strings.HasSuffix(q.Path, "/configmaps/x") {
				tries++
			}
		}
		if tries < 2 {
			return fmt.Errorf("%d times", tries)
		}
		return nil
	})
	r.Failed("NS-a", "forbidden")
	_, err := r.Kube.RbacV1().RoleBindings(r.NS).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "deployer"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: r.NS, Name: "default"}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.Ready("NS-b", r.Commit(files{"b/y.yaml": configMap("y", "two")}))
	r.Ready("NS-a", "")
}

// What a failing hook leaves behind at every try is no reason to try again at once.
func TestReopen_noHotLoopByHooks(t *testing.T) {
	hook := ", annotations: {helm.sh/hook: pre-install, helm.sh/hook-delete-policy: before-hook-creation, helm.sh/hook-weight: %q}}\n"
	r := proxied(t, files{
		"a/bundle.yaml": bundle("a", "helm: {chart: ./}, namespace: NS"), "a/Chart.yaml": "{apiVersion: v2, name: a, version: 1.0.0}\n",
		"a/templates/role.yaml": "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: hook, namespace: NS" + fmt.Sprintf(hook, "1") + "rules: []\n",
		"a/templates/bad.yaml":  "apiVersion: v1\nkind: Service\nmetadata: {name: bad, namespace: NS" + fmt.Sprintf(hook, "2") + "spec: {ports: [{port: 99999}]}\n",
	})
	r.Failed("NS-a", "Service/NS/bad")
	r.Proxy.Requests()
	time.Sleep(5 * time.Second)
	tries := 0
	for _, q := range r.Proxy.Requests() {
		if q.Method == http.MethodPatch && strings.HasSuffix(q.Path, "/roles/hook") {
			tries++
		}
	}
	if tries > 1 {
		t.Errorf("the hooks were tried %d times in 5 s", tries)
	}
}
