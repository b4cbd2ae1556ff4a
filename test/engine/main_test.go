package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
)

func TestMain(m *testing.M) { os.Exit(agenttest.Main(m)) }

// files are a repository's files by name.
type files = map[string]string

// rig is an agent on the shared control plane, with words for what these tests look at.
type rig struct {
	*agenttest.Rig
	t *testing.T
}

// newRig makes a rig whose namespace exists already. Its agent is not started.
func newRig(t *testing.T, cfg agenttest.Config) *rig {
	t.Helper()
	r := &rig{agenttest.New(t, cfg), t}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.NS}}
	if _, err := r.Kube.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return r
}

// start makes a rig whose namespace exists already, and starts its agent.
func start(t *testing.T, fs files) *rig {
	t.Helper()
	r := newRig(t, agenttest.Config{Files: fs})
	r.Start()
	return r
}

// proxied is start with a proxy in between.
func proxied(t *testing.T, fs files) *rig {
	t.Helper()
	r := newRig(t, agenttest.Config{Files: fs, Mode: agenttest.Proxied})
	r.Start()
	return r
}

// bundle is a bundle.yaml; the bundle's name begins with the test's own word.
func bundle(name, spec string) string {
	return fmt.Sprintf("apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: NS-%s}\nspec: {%s}\n", name, spec)
}

// configMap is a ConfigMap in the test's namespace.
func configMap(name, value string) string { return annotated(name, value, "") }

// annotated is a ConfigMap with annotations, as YAML between braces.
func annotated(name, value, annotations string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: NS, annotations: {%s}}\ndata: {key: %q}\n", name, annotations, value)
}

// deployment is a Deployment in the test's namespace; more is YAML inside its Pod's spec.
func deployment(name string, replicas int, more string) string {
	if more != "" {
		more += ", "
	}
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: NS}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec: {%[3]scontainers: [{name: main, image: "main:1"}]}
`, name, replicas, more)
}

// fleet is a fleet.yaml.
func fleet(spec string) string {
	return fmt.Sprintf("apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec: {%s}\n", spec)
}

// value waits until a ConfigMap has a value.
func (r *rig) value(name, want string) {
	r.t.Helper()
	r.Eventually(fmt.Sprintf("%s is %q", name, want), func(ctx context.Context) error { return r.hasValue(ctx, name, want) })
}

func (r *rig) hasValue(ctx context.Context, name, want string) error {
	m, err := r.Kube.CoreV1().ConfigMaps(r.NS).Get(ctx, name, metav1.GetOptions{})
	if err == nil && m.Data["key"] != want {
		err = fmt.Errorf("%s is %q, want %q", name, m.Data["key"], want)
	}
	return err
}

// gone waits until a ConfigMap is not there.
func (r *rig) gone(name string) {
	r.t.Helper()
	r.Eventually(name+" is gone", func(ctx context.Context) error {
		_, err := r.Kube.CoreV1().ConfigMaps(r.NS).Get(ctx, name, metav1.GetOptions{})
		return isGone(err)
	})
}

// isGone turns the answer to a read into nil if there is no such object.
func isGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return errors.Join(errors.New("still there"), err)
}

// get reads a ConfigMap.
func (r *rig) get(name string) *corev1.ConfigMap {
	r.t.Helper()
	m, err := r.tryGet(r.t.Context(), name)
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

// tryGet is get for what is asked again until it is so.
func (r *rig) tryGet(ctx context.Context, name string) (*corev1.ConfigMap, error) {
	return r.Kube.CoreV1().ConfigMaps(r.NS).Get(ctx, name, metav1.GetOptions{})
}

// same fails the test unless a ConfigMap is untouched.
func (r *rig) same(before *corev1.ConfigMap) {
	r.t.Helper()
	if now := r.get(before.Name); now.UID != before.UID || now.ResourceVersion != before.ResourceVersion {
		r.t.Errorf("%s was touched: it was %s at %s, and is %s at %s", before.Name, before.UID, before.ResourceVersion, now.UID, now.ResourceVersion)
	}
}

// create creates a ConfigMap by hand.
func (r *rig) create(name, value string, labels, annotations map[string]string) *corev1.ConfigMap {
	r.t.Helper()
	m := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels, Annotations: annotations}, Data: map[string]string{"key": value},
	}
	m, err := r.Kube.CoreV1().ConfigMaps(r.NS).Create(r.t.Context(), m, metav1.CreateOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

// patch merges a patch into a ConfigMap by hand.
func (r *rig) patch(name, patch string) {
	r.t.Helper()
	_, err := r.Kube.CoreV1().ConfigMaps(r.NS).Patch(r.t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
}

// remove deletes a ConfigMap by hand.
func (r *rig) remove(name string) {
	r.t.Helper()
	if err := r.Kube.CoreV1().ConfigMaps(r.NS).Delete(r.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		r.t.Fatal(err)
	}
}

// decode reads YAML.
func decode(t *testing.T, text string, into *unstructured.Unstructured) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(text), &into.Object); err != nil {
		t.Fatal(err)
	}
}
