package drift

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift/store"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
)

func (r *rig) suspend(s api.Suspension) api.Suspension {
	r.t.Helper()
	s, err := r.Applier.Suspend(r.t.Context(), s)
	if err != nil {
		r.t.Fatal(err)
	}
	r.Eventually(s.Name+" is in force", func(ctx context.Context) error {
		if !slices.Contains(r.inForce(ctx), s.Name) {
			return fmt.Errorf("in force are %v", r.inForce(ctx))
		}
		return nil
	})
	return s
}

// inForce names the suspensions that the status tells.
func (r *rig) inForce(ctx context.Context) []string {
	report, err := r.Applier.Report(ctx)
	if err != nil {
		return nil
	}
	var out []string
	for _, s := range report.Status.Suspensions {
		out = append(out, s.Name)
	}
	return out
}

// object is the scope of one ConfigMap.
func (r *rig) object(name string) api.Scope {
	return api.Scope{Objects: []api.ObjectRef{{Kind: "ConfigMap", Namespace: r.NS, Name: name}}}
}

// said waits until an Event of the agent has all of the words.
func (r *rig) said(reason string, words ...string) {
	r.t.Helper()
	r.Eventually(reason+" is told in an Event", func(ctx context.Context) error {
		list, err := r.Kube.CoreV1().Events("").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Reason == reason && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(e.Message, w) }) {
				return nil
			}
		}
		return fmt.Errorf("not with %q in %d Events", words, len(list.Items))
	})
}

func suspended(by string) func(api.Episode) error {
	return func(e api.Episode) error {
		if e.Outcome != api.OutcomeSuspended || e.Suspension != by {
			return fmt.Errorf("%s by %q, want suspended by %q", e.Outcome, e.Suspension, by)
		}
		return nil
	}
}

// Overlapping suspensions: what one covers is held until the last one ends. Who, when, why and until are told everywhere.
func TestSuspensions(t *testing.T) {
	r := start(t, files{"app/bundle.yaml": bundle(""), "app/a.yaml": configMap("a", "one"), "app/b.yaml": configMap("b", "one")})
	soon, late := time.Now().Add(time.Hour).Truncate(time.Second), time.Now().Add(2*time.Hour).Truncate(time.Second)
	one := r.suspend(api.Suspension{Scope: api.Scope{Bundles: []string{r.Text("NS-app")}}, Reason: "INC-1", Until: soon, Actor: "alice"})
	two := r.suspend(api.Suspension{Scope: r.object("a"), Reason: "INC-2", Until: late, Actor: "bob"})
	r.said("Suspended", "INC-2", `"bob"`, late.UTC().Format(time.RFC3339))
	r.edit("cm/a", `{"data":{"key":"two"}}`)
	r.edit("cm/b", `{"data":{"key":"two"}}`)
	r.open("cm/a", suspended(two.Name))
	r.open("cm/b", suspended(one.Name))
	if err := r.Applier.Resume(t.Context(), one.Name); err != nil {
		t.Fatal(err)
	}
	r.is("cm/b", "data.key", "one")
	r.said("Resumed", one.Name)
	r.stays("cm/a", "data.key", "two")
	r.open("cm/a", suspended(two.Name))
	r.Stop()
	s, err := store.Open(store.Config{Path: r.Config.Dir + "/agent.db", Cluster: "one"})
	if err != nil {
		t.Fatal(err)
	}
	st, _, err := s.Status()
	_ = s.Close()
	if err != nil || len(st.Suspensions) != 1 {
		t.Fatalf("the store says %+v (%v)", st.Suspensions, err)
	}
	if got := st.Suspensions[0]; got.Name != two.Name || got.Actor != "bob" || got.Reason != "INC-2" || !got.Until.Equal(late) || got.Created.IsZero() {
		t.Errorf("the store says %+v", got)
	}
	// It still holds after a restart.
	r.Start()
	r.edit("cm/b", `{"data":{"key":"three"}}`)
	r.is("cm/b", "data.key", "one")
	r.stays("cm/a", "data.key", "two")
	if err := r.Applier.Resume(t.Context(), two.Name); err != nil {
		t.Fatal(err)
	}
	r.is("cm/a", "data.key", "one")
	r.drifted(0)
	for _, e := range r.closed() {
		if e.Object.Name == "a" && e.Suspension != two.Name {
			t.Errorf("the closed episode forgot its suspension: %+v", e)
		}
	}
}

// A suspension that ends while the agent is down has ended when it starts.
func TestSuspensionEndsWhileTheAgentIsDown(t *testing.T) {
	r := start(t, files{"app/bundle.yaml": bundle(""), "app/a.yaml": configMap("a", "one")})
	s := r.suspend(api.Suspension{Scope: r.object("a"), Reason: "INC-3", Until: time.Now().Add(10 * time.Second)})
	r.edit("cm/a", `{"data":{"key":"two"}}`)
	r.open("cm/a", suspended(s.Name))
	r.Stop()
	time.Sleep(time.Until(s.Until) + 100*time.Millisecond)
	r.stays("cm/a", "data.key", "two")
	r.Start()
	r.is("cm/a", "data.key", "one")
	r.said("Resumed", s.Name)
	r.drifted(0)
}

// The agent's clock jumps by days, in both directions: suspensions neither end nor last longer, and episodes make sense.
func TestClockJumps(t *testing.T) {
	var jump atomic.Int64
	r := startWith(t, agenttest.Config{
		Files: files{"app/bundle.yaml": bundle(""), "app/a.yaml": configMap("a", "one"), "app/b.yaml": configMap("b", "one")},
		Change: func(c *agent.Config) {
			c.Now = func() time.Time { return time.Now().Add(time.Duration(jump.Load())) }
		},
	})
	s := r.suspend(api.Suspension{Scope: r.object("a"), Reason: "INC-4", Until: time.Now().Add(time.Hour)})
	r.edit("cm/a", `{"data":{"key":"two"}}`)
	r.open("cm/a", suspended(s.Name))
	for i, by := range []time.Duration{48 * time.Hour, -48 * time.Hour, 0} {
		jump.Store(int64(by))
		r.edit("cm/b", fmt.Sprintf(`{"data":{"key":"jump %d"}}`, i))
		r.is("cm/b", "data.key", "one")
		r.edit("cm/a", fmt.Sprintf(`{"data":{"key":"jump %d"}}`, i))
		r.open("cm/a", func(e api.Episode) error {
			if len(e.Fields) != 1 || e.Fields[0].Live != fmt.Sprintf(`"jump %d"`, i) {
				return fmt.Errorf("fields are %+v", e.Fields)
			}
			return suspended(s.Name)(e)
		})
		r.stays("cm/a", "data.key", fmt.Sprintf("jump %d", i))
		if got := r.inForce(t.Context()); !slices.Contains(got, s.Name) {
			t.Errorf("after a jump by %s in force are %v", by, got)
		}
	}
	if err := r.Applier.Resume(t.Context(), s.Name); err != nil {
		t.Fatal(err)
	}
	r.is("cm/a", "data.key", "one")
	r.drifted(0)
	for _, e := range r.closed() {
		if e.End.Before(e.Onset) || e.LastSeen.Before(e.Onset) {
			t.Errorf("%s ends at %s and began at %s", e.Object, e.End, e.Onset)
		}
		for i := 1; i < len(e.Timeline); i++ {
			if e.Timeline[i].At.Before(e.Timeline[i-1].At) {
				t.Errorf("%s: the timeline goes back: %+v", e.Object, e.Timeline)
			}
		}
	}
}

// A suspension whose end is no date holds what it covers, is told with what is wrong, and does not keep the agent from starting.
func TestUnreadableSuspension(t *testing.T) {
	r := start(t, marked(files{"app/bundle.yaml": bundle(""), "app/a.yaml": configMap("a", "one")}))
	bad := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": api.APIVersion, "kind": api.KindSuspension, "metadata": map[string]any{"name": r.Text("NS-bad")},
		"spec": map[string]any{
			"scope": map[string]any{"all": true}, "reason": "INC-5", "until": "2030-01-31t10:00:00z", // the API server takes it, Go does not
		},
	}}
	suspensions := r.Dynamic.Resource(schema.GroupVersionResource{Group: api.Group, Version: api.Version, Resource: "suspensions"})
	if _, err := suspensions.Create(t.Context(), bad, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	check := func(value string) {
		t.Helper()
		r.Eventually("it is told", func(ctx context.Context) error {
			report, err := r.Applier.Report(ctx)
			if err != nil || len(report.Status.Suspensions) != 1 || !strings.Contains(report.Status.Suspensions[0].Reason, "cannot be read") {
				return fmt.Errorf("status tells %+v (%v)", report.Status.Suspensions, err)
			}
			return nil
		})
		r.edit("cm/a", fmt.Sprintf(`{"data":{"key":%q}}`, value))
		r.open("cm/a", func(e api.Episode) error {
			if len(e.Fields) != 1 || e.Fields[0].Live != fmt.Sprintf("%q", value) {
				return fmt.Errorf("fields are %+v", e.Fields)
			}
			return suspended(bad.GetName())(e)
		})
		r.stays("cm/a", "data.key", value)
	}
	check("two")
	r.said("Suspended", "cannot be read")
	r.Stop()
	r.Start()
	check("three")
	if err := suspensions.Delete(t.Context(), bad.GetName(), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.is("cm/a", "data.key", "one")
	r.drifted(0)
}

// What a person asks for beyond the fleet's limit is cut off.
func TestSuspensionLongerThanTheFleetAllows(t *testing.T) {
	r := start(t, files{
		"fleet.yaml":      "apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec: {suspendMax: 10s}\n",
		"app/bundle.yaml": bundle(""), "app/a.yaml": configMap("a", "one"),
	})
	s := r.suspend(api.Suspension{Scope: r.object("a"), Reason: "INC-7", Until: time.Now().Add(time.Hour)})
	r.edit("cm/a", `{"data":{"key":"two"}}`)
	r.open("cm/a", suspended(s.Name))
	r.is("cm/a", "data.key", "one")
	r.said("Resumed", s.Name)
	r.drifted(0)
}

// What is drift is judged by what Git says now, also while a suspension keeps commits back: what was adopted into Git
// has not drifted any more, and what will be set is the newest value.
func TestSuspension_driftIsJudgedByWhatGitSaysNow(t *testing.T) {
	for name, scope := range map[string]func(r *rig) api.Scope{
		"of the bundle": func(r *rig) api.Scope { return api.Scope{Bundles: []string{r.NS + "-app"}} },
		"of objects": func(r *rig) api.Scope {
			return api.Scope{Objects: slices.Concat(r.object("a").Objects, r.object("b").Objects, r.object("c").Objects, r.object("d").Objects)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, files{
				"app/bundle.yaml": bundle(""), "app/a.yaml": configMap("a", "one"), "app/b.yaml": configMap("b", "one"),
				"app/c.yaml": configMap("c", "one"), "app/d.yaml": configMap("d", "one"),
			})
			s := r.suspend(api.Suspension{Scope: scope(r), Reason: "INC-9", Until: time.Now().Add(time.Hour)})
			for _, name := range []string{"a", "b", "d"} {
				r.edit("cm/"+name, `{"data":{"key":"two"}}`)
				r.open("cm/"+name, suspended(s.Name))
			}
			revision := r.Do(gitserver.Commit{
				Write:  files{"app/a.yaml": configMap("a", "two"), "app/b.yaml": configMap("b", "three"), "app/c.yaml": configMap("c", "four")},
				Delete: []string{"app/d.yaml"},
			})
			saysNow := func(e api.Episode) error {
				if len(e.Fields) != 1 || e.Fields[0].Desired != `"three"` || e.Fields[0].Live != `"two"` || e.Revision != revision {
					return fmt.Errorf("%+v at %s", e.Fields, e.Revision)
				}
				return suspended(s.Name)(e)
			}
			r.open("cm/b", saysNow)
			r.drifted(1)
			// A restart finds the same, and what is edited now is compared with Git as well.
			r.Stop()
			r.Start()
			r.open("cm/b", saysNow)
			r.edit("cm/b", `{"data":{"key":"three"}}`)
			r.drifted(0)
			r.edit("cm/b", `{"data":{"key":"five"}}`)
			r.open("cm/b", suspended(s.Name))
			if err := r.Applier.Resume(t.Context(), s.Name); err != nil {
				t.Fatal(err)
			}
			r.is("cm/b", "data.key", "three")
			r.is("cm/c", "data.key", "four")
			r.gone("cm/d")
			r.is("cm/a", "data.key", "two")
			r.drifted(0)
			r.Ready("NS-app", revision)
			r.Stop()
			outcomes := map[string][]api.Outcome{}
			for _, e := range r.closed() {
				outcomes[e.Object.Name] = append(outcomes[e.Object.Name], e.Outcome)
			}
			for name, want := range map[string]api.Outcome{"a": api.OutcomeResolved, "b": api.OutcomeCorrected, "d": api.OutcomeResolved} {
				if got := outcomes[name]; len(got) != 1 || got[0] != want {
					t.Errorf("the drift of %s ended as %q, want %q", name, got, want)
				}
			}
			if outcomes["c"] != nil {
				t.Errorf("a commit that was kept back counts as drift: %q", outcomes["c"])
			}
		})
	}
}

// Git suspends the whole cluster, until it says otherwise.
func TestSuspensionInGit(t *testing.T) {
	cluster := func(spec string) files {
		return files{"clusters/one/cluster.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {name: one}\nspec: {" + spec + "}\n"}
	}
	r := start(t, files{"app/bundle.yaml": bundle(""), "app/a.yaml": configMap("a", "one")})
	r.Commit(cluster("suspend: {reason: INC-8, until: " + time.Now().Add(time.Hour).UTC().Format(time.RFC3339) + "}"))
	r.Eventually("it is in force", func(ctx context.Context) error {
		if got := r.inForce(ctx); !slices.Contains(got, api.GitSuspension) {
			return fmt.Errorf("in force are %v", got)
		}
		return nil
	})
	r.edit("cm/a", `{"data":{"key":"two"}}`)
	r.open("cm/a", suspended(api.GitSuspension))
	// Commits wait, too, and a restart changes nothing.
	r.Commit(files{"app/a.yaml": configMap("a", "three")})
	r.Stop()
	r.Start()
	r.open("cm/a", suspended(api.GitSuspension))
	r.stays("cm/a", "data.key", "two")
	r.Commit(cluster(""))
	r.is("cm/a", "data.key", "three")
	r.said("Resumed", api.GitSuspension)
	r.drifted(0)
}

// Somebody deletes an object of a suspended bundle: the bundle is suspended, however long, and neither progresses nor fails.
func TestSuspension_aDeletedObjectIsNotWaitedFor(t *testing.T) {
	for name, scope := range map[string]func(r *rig) api.Scope{
		"of the bundle": func(r *rig) api.Scope { return api.Scope{Bundles: []string{r.NS + "-app"}} },
		"of the object": func(r *rig) api.Scope {
			return api.Scope{Objects: []api.ObjectRef{{Kind: "Deployment", Namespace: r.NS, Name: "web"}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, files{"app/bundle.yaml": bundle("timeout: 1s"), "app/web.yaml": deployment, "app/b.yaml": configMap("b", "one")})
			s := r.suspend(api.Suspension{Scope: scope(r), Reason: "INC-10", Until: time.Now().Add(time.Hour)})
			r.remove("deploy/web")
			is := func(ctx context.Context) error {
				b, err := r.Bundle(ctx, "NS-app")
				if err == nil && (b.Phase != api.PhaseSuspended || b.Error != nil || !strings.Contains(b.Message, s.Name) || !strings.Contains(b.Message, "Deployment.apps/"+r.NS+"/web")) {
					err = fmt.Errorf("it is %s: %q, %v", b.Phase, b.Message, b.Error)
				}
				return err
			}
			r.Eventually("the bundle is suspended", is)
			time.Sleep(3 * time.Second) // longer than the bundle's timeout
			if err := is(t.Context()); err != nil {
				t.Error(err)
			}
			if err := r.Applier.Resume(t.Context(), s.Name); err != nil {
				t.Fatal(err)
			}
			r.Ready("NS-app", "")
		})
	}
}
