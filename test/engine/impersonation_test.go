package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// rights are the service account "deployer", and what it may do with some resources of the core group.
func rights(resources string) string {
	return `apiVersion: v1
kind: ServiceAccount
metadata: {name: deployer, namespace: NS}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: deployer, namespace: NS}
rules: [{apiGroups: [""], resources: [` + resources + `], verbs: ["*"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: deployer, namespace: NS}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: deployer}
subjects: [{kind: ServiceAccount, name: deployer, namespace: NS}]
`
}

const (
	impersonating = "dependsOn: [NS-rights], serviceAccount: {namespace: NS, name: deployer}"
	secret        = "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: NS}\nstringData: {a: b}\n"
)

// The rights come in the same commit, in a bundle that the other one depends on.
func TestImpersonation_withRightsOfTheSameCommit(t *testing.T) {
	r := start(t, files{
		"rights/bundle.yaml": bundle("rights", ""), "rights/rbac.yaml": rights("configmaps, secrets"),
		"a/bundle.yaml": bundle("a", impersonating), "a/x.yaml": configMap("x", "one"), "a/s.yaml": secret, "a/y.yaml": configMap("y", "one"),
	})
	r.Ready("NS-a", "")
	r.value("x", "one")
	// Changes and deletions are the account's as well.
	revision := r.Commit(files{"a/x.yaml": configMap("x", "two")})
	r.Ready("NS-a", revision)
	r.value("x", "two")
	r.Delete("a/y.yaml")
	r.gone("y")
	// What others change is put back.
	r.patch("x", `{"data":{"key":"mine"}}`)
	r.value("x", "two")
}

func TestImpersonation_withoutRights(t *testing.T) {
	r := start(t, files{
		"rights/bundle.yaml": bundle("rights", ""), "rights/rbac.yaml": rights("configmaps"),
		"a/bundle.yaml": bundle("a", impersonating), "a/x.yaml": configMap("x", "one"), "a/s.yaml": secret,
		"b/bundle.yaml": bundle("b", "serviceAccount: {namespace: NS, name: nobody}"), "b/y.yaml": configMap("y", "one"),
		"c/bundle.yaml": bundle("c", ""), "c/z.yaml": configMap("z", "one"),
	})
	// The error says who may not do what to which object, and where that stands.
	r.Failed("NS-a", "a/s.yaml", "Secret/NS/s", "system:serviceaccount:NS:deployer", "cannot", "secrets")
	r.Failed("NS-b", "b/y.yaml", "system:serviceaccount:NS:nobody")
	b, err := r.Bundle(t.Context(), "NS-a")
	if err != nil || b.Error == nil || b.Error.Kind != "denied" || b.Error.Reason != "AccessDenied" {
		t.Errorf("the error is %+v (%v)", b.Error, err)
	}
	// The other objects of the bundle are applied, and other bundles too.
	r.value("x", "one")
	r.Ready("NS-c", "")
	none := func(what string, err error) {
		t.Helper()
		if !apierrors.IsNotFound(err) {
			t.Errorf("%s was written without the right to (%v)", what, err)
		}
	}
	_, err = r.Kube.CoreV1().Secrets(r.NS).Get(t.Context(), "s", metav1.GetOptions{})
	none("the Secret", err)
	_, err = r.Kube.CoreV1().ConfigMaps(r.NS).Get(t.Context(), "y", metav1.GetOptions{})
	none("the ConfigMap of an account that may do nothing", err)
	// A pass does not fall back to the agent's own rights, however often it is tried.
	r.Sync()
	r.Failed("NS-b", "nobody")
	_, err = r.Kube.CoreV1().ConfigMaps(r.NS).Get(t.Context(), "y", metav1.GetOptions{})
	none("the ConfigMap of an account that may do nothing", err)

	// With the right it works, at the next order at the latest.
	revision := r.Commit(files{"rights/rbac.yaml": rights("configmaps, secrets")})
	r.Ready("NS-rights", revision)
	r.Sync()
	r.Eventually("the Secret is applied", func(ctx context.Context) error {
		s, err := r.Kube.CoreV1().Secrets(r.NS).Get(ctx, "s", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got := string(s.Data["a"]); got != "b" {
			return fmt.Errorf("it holds %q", got)
		}
		return nil
	})
	r.Ready("NS-a", "")

	// A right that is taken away stops the writing, and nothing is taken for deleted.
	r.Commit(files{"rights/rbac.yaml": strings.Replace(rights("configmaps"), `verbs: ["*"]`, "verbs: [get]", 1)})
	r.Eventually("the API server knows that the right is gone", func(ctx context.Context) error {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               "system:serviceaccount:" + r.NS + ":deployer",
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "patch", Resource: "configmaps", Namespace: r.NS, Name: "x"},
		}}
		review, err := r.Kube.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		if err == nil && review.Status.Allowed {
			err = errors.New("it still allows it")
		}
		return err
	})
	r.Commit(files{"a/x.yaml": configMap("x", "two")})
	r.Failed("NS-a", "ConfigMap/NS/x", "cannot patch")
	if err := r.hasValue(t.Context(), "x", "one"); err != nil {
		t.Error(err)
	}
}
