package drift

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/flotilla-fleet/flotilla/drift"
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
	return &rig{&inner, r.t, r.listen}
}

// The API server stamps the user's name where the fleet file asks for it; the episode names the person,
// a pseudonym, or nobody; the stamp is never drift; and the policy goes when it is switched off.
func TestPersons(t *testing.T) {
	const alice = "alice@example.com"
	r := startWith(t, agenttest.Config{Files: marked(files{
		"fleet.yaml": fleet("persons: name"), "app/bundle.yaml": bundle(""), "app/cm.yaml": configMap("settings", "one"),
	})})
	hands := r.as(alice)
	r.Eventually("the API server stamps names", func(ctx context.Context) error {
		if err := hands.tryEdit(ctx, "kubectl-annotate", "cm/mark", fmt.Sprintf(`{"metadata":{"annotations":{"x":"%d"}}}`, time.Now().UnixNano())); err != nil {
			return err
		}
		if r.get("cm/mark").GetAnnotations()[api.AnnotationLastEditor] != alice {
			return errors.New("not yet")
		}
		return nil
	})
	r.settle()
	r.drifted(0)
	hands.edit("cm/settings", `{"data":{"key":"by name"}}`)
	r.is("cm/settings", "data.key", "one")
	// The stamp outlives the correction, and is no drift.
	r.stays("cm/settings", "metadata.annotations.flotilla|dev/last-editor", alice)
	r.settle()
	r.drifted(0)

	r.Ready("NS-app", r.Commit(files{"fleet.yaml": fleet("persons: hash"), "app/more.yaml": configMap("more", "1")}))
	hands.edit("cm/settings", `{"data":{"key":"by hash"}}`)
	r.is("cm/settings", "data.key", "one")

	r.Commit(files{"fleet.yaml": fleet("persons: off"), "app/more.yaml": configMap("more", "2")})
	r.Eventually("the policy is gone", func(ctx context.Context) error {
		_, err := r.Dynamic.Resource(policies).Get(ctx, drift.StampName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("it is there"), err)
	})
	hands.edit("cm/settings", `{"data":{"key":"by nobody"}}`)
	r.is("cm/settings", "data.key", "one")
	r.drifted(0)

	seen := map[string]api.Episode{}
	for _, e := range r.closed() {
		if e.Object.Name == "settings" {
			seen[e.Evidence.Live] = e
		}
	}
	got := map[string]string{}
	for live, e := range seen {
		for _, word := range []string{"by name", "by hash", "by nobody"} {
			if strings.Contains(live, word) {
				got[word] = e.By.Person
			}
		}
	}
	// The same fields within an hour are one episode, whose last look counts.
	if len(seen) != 1 || got["by nobody"] != "" {
		t.Errorf("persons are %q in %d episodes", got, len(seen))
	}
	for _, e := range seen {
		if strings.Contains(e.Evidence.Live, alice) {
			t.Error("the evidence names the person although that is off")
		}
	}
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
			r.Eventually("the API server stamps names", func(ctx context.Context) error {
				if err := hands.tryEdit(ctx, "kubectl-annotate", "cm/mark", fmt.Sprintf(`{"metadata":{"annotations":{"x":"%d"}}}`, time.Now().UnixNano())); err != nil {
					return err
				}
				if r.get("cm/mark").GetAnnotations()[api.AnnotationLastEditor] != alice {
					return errors.New("not yet")
				}
				return nil
			})
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
