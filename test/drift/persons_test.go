package drift

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift/persons"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
)

var policies = schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "mutatingadmissionpolicies"}

// as is the rig with the hands of another user.
func (r *rig) as(user string) *rig {
	r.t.Helper()
	rc := rest.CopyConfig(controlplanetest.RESTConfigOf(r.t, r.Plane))
	rc.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{"system:masters"}}
	dyn, err := dynamic.NewForConfig(rc)
	if err != nil {
		r.t.Fatal(err)
	}
	inner := *r.Rig
	inner.Dynamic = dyn
	return &rig{Rig: &inner, t: r.t, listen: r.listen}
}

// stamped waits until the policy that the agent put in force is seen to work with somebody's hands.
func (r *rig) stamped(hands *rig, user string) (mark string) {
	r.t.Helper()
	r.Eventually("the API server stamps names", func(ctx context.Context) error {
		b, err := os.ReadFile(r.Config.Dir + "/persons.mark")
		if err != nil {
			return err
		}
		if err := hands.tryEdit(ctx, "kubectl-annotate", "cm/mark", fmt.Sprintf(`{"metadata":{"annotations":{"x":"%d"}}}`, time.Now().UnixNano())); err != nil {
			return err
		}
		m, err := r.tryGet(ctx, "cm/mark")
		if err != nil {
			return err
		}
		a := m.GetAnnotations()
		if mark = string(b); a[api.AnnotationLastEditor] != user || !strings.HasSuffix(a[api.AnnotationLastEditorFrom], "/"+mark) {
			return errors.New("not yet")
		}
		return nil
	})
	return mark
}

// policyGone waits until nothing stamps names any more.
func (r *rig) policyGone() {
	r.t.Helper()
	r.Eventually("the policy is gone", func(ctx context.Context) error {
		_, err := r.Dynamic.Resource(policies).Get(ctx, persons.StampName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("it is there"), err)
	})
}

// reported has the drift of an object reported and not corrected, so that its episode can be looked at.
func reported(text string) string {
	return strings.Replace(text, "namespace: NS", `namespace: NS, annotations: {flotilla.dev/drift: report}`, 1)
}

// The API server stamps the user's name where the fleet file asks for it; the episode names the person,
// a pseudonym, or nobody; the stamp is never drift; and the policy goes when it is switched off.
func TestPersons(t *testing.T) {
	const alice = "alice@example.com"
	r := startWith(t, agenttest.Config{Files: marked(files{
		"fleet.yaml": fleet("persons: name"), "app/bundle.yaml": bundle(""),
		"app/cm.yaml": reported(configMap("settings", "one")), "app/kept.yaml": configMap("kept", "one"),
	})})
	hands := r.as(alice)
	first := r.stamped(hands, alice)
	r.settle()
	r.drifted(0)
	hands.edit("cm/kept", `{"data":{"key":"by name"}}`)
	r.is("cm/kept", "data.key", "one")
	// The stamp outlives the correction, and is no drift.
	r.stays("cm/kept", "metadata.annotations.flotilla|dev/last-editor", alice)
	r.settle()
	r.drifted(0)

	// by waits for the episode of an edit, and ends the drift again.
	by := func(value string) api.Attribution {
		t.Helper()
		hands.edit("cm/settings", fmt.Sprintf(`{"data":{"key":%q}}`, value))
		e := r.open("cm/settings", func(e api.Episode) error {
			if len(e.Fields) != 1 || !strings.Contains(e.Fields[0].Live, value) {
				return fmt.Errorf("fields are %+v", e.Fields)
			}
			return nil
		})
		hands.edit("cm/settings", `{"data":{"key":"one"}}`)
		r.Eventually("the episode has ended", func(ctx context.Context) error {
			report, err := r.Applier.Report(ctx)
			if err == nil && len(report.Drift) > 0 {
				err = errors.New("it is open")
			}
			return err
		})
		r.drifted(0)
		return e.By
	}
	if got := by("by name"); got.Person != alice || got.Confidence != api.ConfidencePerson {
		t.Errorf("by name: %+v", got)
	}
	r.Ready("NS-app", r.Commit(files{"fleet.yaml": fleet("persons: hash"), "app/more.yaml": configMap("more", "1")}))
	hash := by("by hash")
	if !strings.HasPrefix(hash.Person, "person-") || hash.Confidence != api.ConfidencePerson {
		t.Errorf("by hash: %+v", hash)
	}
	if again := by("by the same hash"); again.Person != hash.Person {
		t.Errorf("the pseudonyms of one person are %q and %q", hash.Person, again.Person)
	}
	r.Commit(files{"fleet.yaml": fleet("persons: off"), "app/more.yaml": configMap("more", "2")})
	r.policyGone()
	if got := by("by nobody"); got.Person != "" || got.Confidence == api.ConfidencePerson {
		t.Errorf("by nobody: %+v", got)
	}
	// What was stamped before proves nothing when it is switched on again.
	r.Commit(files{"fleet.yaml": fleet("persons: name"), "app/more.yaml": configMap("more", "3")})
	if again := r.stamped(hands, alice); again == first {
		t.Errorf("the mark is %q as before", again)
	}
	r.Commit(files{"fleet.yaml": fleet("persons: off"), "app/more.yaml": configMap("more", "4")})
	r.policyGone()
	by("by nobody")

	// What was told while it might be told stays; what came after it names nobody.
	told := map[string]int{}
	for _, e := range r.closed() {
		if e.Object.Name != "settings" {
			continue
		}
		told[e.By.Person] += e.Count
		if e.By.Person != alice && strings.Contains(e.Evidence.Live, alice) {
			t.Errorf("the episode names the person although that is off: %+v, %s", e.By, e.Evidence.Live)
		}
	}
	if want := (map[string]int{alice: 1, hash.Person: 2, "": 2}); !maps.Equal(told, want) {
		t.Errorf("drift by person: %v, want %v", told, want)
	}
}

// Alice edits, Bob scales: a write to /scale carries no stamp, and hers stays on the object. What Bob did is not hers.
func TestPersonIsNotTheOther(t *testing.T) {
	const alice = "alice@example.com"
	r := startWith(t, agenttest.Config{Files: marked(files{
		"fleet.yaml": fleet("persons: name"), "app/bundle.yaml": bundle(""),
		"app/web.yaml": strings.Replace(deployment, "annotations: {", "annotations: {flotilla.dev/drift: report, ", 1),
	})})
	hands := r.as(alice)
	r.stamped(hands, alice)
	r.settle()
	hands.editAs("kubectl-set", "deploy/web", `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"web:2"}]`)
	image := func(e api.Episode) error {
		for _, f := range e.Fields {
			if strings.HasSuffix(f.Path, "/image") && f.By.Person == alice {
				return nil
			}
		}
		return fmt.Errorf("fields are %+v", e.Fields)
	}
	r.open("deploy/web", image)
	r.as("bob@example.com").editAs("kubectl", "deploy/web", `{"spec":{"replicas":3}}`, "scale")
	r.open("deploy/web", func(e api.Episode) error {
		for _, f := range e.Fields {
			if f.Path != "/spec/replicas" {
				continue
			}
			if f.By.Person != "" || f.By.Confidence != api.ConfidenceTool || f.By.Subresource != "scale" {
				t.Errorf("replicas are by %+v", f.By)
			}
			return image(e)
		}
		return fmt.Errorf("fields are %+v", e.Fields)
	})
}

// With a pseudonym the name is nowhere but on the object.
func TestPersonsHash(t *testing.T) {
	const alice = "alice.cooper@example.com"
	for mode, want := range map[api.Persons]string{api.PersonsName: alice, api.PersonsHash: "person-"} {
		t.Run(string(mode), func(t *testing.T) {
			r := startWith(t, agenttest.Config{Files: marked(files{
				"fleet.yaml": fleet("persons: " + string(mode)), "app/bundle.yaml": bundle("drift: {mode: report}"), "app/cm.yaml": configMap("settings", "one"),
			})})
			hands := r.as(alice)
			r.stamped(hands, alice)
			hands.edit("cm/settings", `{"data":{"key":"two"}}`)
			e := r.open("cm/settings", outcome(api.OutcomeReported))
			if !strings.HasPrefix(e.By.Person, want) || e.By.Confidence != api.ConfidencePerson {
				t.Errorf("by %+v", e.By)
			}
			r.drifted(1)
			r.Stop()
			b, err := os.ReadFile(r.Config.Dir + "/agent.db")
			if err != nil {
				t.Fatal(err)
			}
			if named := strings.Contains(string(b), alice); named != (mode == api.PersonsName) {
				t.Errorf("the store holds the name: %v", named)
			}
		})
	}
}
