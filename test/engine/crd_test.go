package engine

import (
	"context"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
)

// A CRD takes all its instances with it, so that it leaves Git is not enough.
func TestCRD_leavesGitWhileInstancesAreDeclared(t *testing.T) {
	r := start(t, files{
		"crd/bundle.yaml": bundle("crd", ""), "crd/crd.yaml": crd, "crd/k.yaml": configMap("k", "one"),
		"a/bundle.yaml": bundle("a", ""), "a/thing.yaml": thing("one", "one"),
		"b/bundle.yaml": bundle("b", ""), "b/y.yaml": configMap("y", "one"),
	})
	for _, b := range []string{"NS-crd", "NS-a", "NS-b"} {
		r.Ready(b, "")
	}
	get := func() (*unstructured.Unstructured, error) {
		return r.Dynamic.Resource(r.things()).Namespace(r.NS).Get(t.Context(), "one", metav1.GetOptions{})
	}
	before, err := get()
	if err != nil {
		t.Fatal(err)
	}
	r.Delete("crd/crd.yaml")
	r.Failed("NS-crd", "CustomResourceDefinition", "things.NS.example.com", "allowDelete: [NS-crd]")
	r.Ready("NS-b", r.Commit(files{"b/y.yaml": configMap("y", "two")}))
	r.Ready("NS-a", "")
	if now, err := get(); err != nil || now.GetUID() != before.GetUID() || now.GetResourceVersion() != before.GetResourceVersion() {
		t.Errorf("the instance was touched: %v", err)
	}
	t.Log("it goes when that is said to be meant")
	r.Commit(files{"fleet.yaml": fleet("guards: {allowDelete: [NS-crd]}")})
	r.Eventually("the CRD is gone", func(ctx context.Context) error {
		_, err := r.Dynamic.Resource(crds).Get(ctx, "things."+r.NS+".example.com", metav1.GetOptions{})
		return isGone(err)
	})
	r.Ready("NS-crd", "")
	revision := r.Commit(files{"a/thing.yaml": thing("one", "two"), "b/y.yaml": configMap("y", "three")})
	r.Failed("NS-a", "Thing")
	r.Ready("NS-b", revision)
	revision = r.Commit(files{"crd/crd.yaml": crd})
	r.thingIs("one", "two")
	r.Ready("NS-a", "")
	r.Applied(revision)
}

// A controller makes the CRD of one object when it sees another, as for templates of policies and their constraints:
// both come in one commit and one bundle, and nobody waits but the object that has to.
func TestCRD_madeByAControllerForAnotherObject(t *testing.T) {
	asTemplate := strings.NewReplacer("things", "templates", "thing", "template", "Thing", "Template").Replace
	r := newRig(t, agenttest.Config{Files: files{
		"a/bundle.yaml": bundle("a", ""), "a/crd.yaml": asTemplate(crd), "a/template.yaml": asTemplate(thing("one", "one")),
		"a/thing.yaml": thing("one", "one"), "a/x.yaml": configMap("x", "one"),
		"b/bundle.yaml": bundle("b", ""), "b/y.yaml": configMap("y", "one"),
	}})
	definition := &unstructured.Unstructured{}
	decode(t, r.Text(crd), definition)
	templates := r.things()
	templates.Resource = "templates"
	seen, goOn := make(chan struct{}), make(chan struct{})
	controller := make(chan error, 1)
	go func() {
		for {
			_, err := r.Dynamic.Resource(templates).Namespace(r.NS).Get(t.Context(), "one", metav1.GetOptions{})
			if err == nil {
				break
			}
			select {
			case <-t.Context().Done():
				controller <- err
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
		close(seen)
		select {
		case <-goOn:
		case <-t.Context().Done():
		}
		_, err := r.Dynamic.Resource(crds).Create(t.Context(), definition, metav1.CreateOptions{})
		controller <- err
	}()
	t.Cleanup(func() {
		_ = r.Dynamic.Resource(crds).Delete(context.WithoutCancel(t.Context()), definition.GetName(), metav1.DeleteOptions{})
	})
	r.Start()
	select {
	case <-seen:
	case <-time.After(agenttest.Patience):
		t.Fatal("the template was not applied")
	}
	r.value("x", "one")
	r.Ready("NS-b", "")
	r.Failed("NS-a", "Thing", "a/thing.yaml")
	close(goOn)
	if err := <-controller; err != nil {
		t.Fatal(err)
	}
	r.thingIs("one", "one")
	r.Ready("NS-a", "")
}
