package agent

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/sources"

	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/client"
	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
)

// A hub that was taken over may send any name: the agent asks its API server for none that nothing can have.
func TestCommand_namesNothingCanHave(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		t.Errorf("the API server was asked %s %s", req.Method, req.URL)
	}))
	t.Cleanup(server.Close)
	a, err := New(Config{
		Cluster: "one", REST: &rest.Config{Host: server.URL}, Dir: t.TempDir(), Source: sources.Branch(gitservertest.New(t).Dir, "main"),
		Poll: time.Second, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	until := time.Now().Add(time.Hour)
	for _, name := range []string{"../../../../api/v1/namespaces/victim/configmaps/a", "..", "a/b", "a%2fb", "a\nb", "A_b"} {
		for _, c := range []client.Command{
			{Kind: client.CommandResume, Name: name},
			{Kind: client.CommandSync, Name: name},
			{Kind: client.CommandSuspend, Suspension: &api.Suspension{Name: name, Scope: api.Scope{All: true}, Reason: "r", Until: until}},
			{Kind: client.CommandSuspend, Suspension: &api.Suspension{Scope: api.Scope{Bundles: []string{name}}, Reason: "r", Until: until}},
		} {
			_, err := a.command(t.Context(), c)
			var e *api.Error
			if !errors.As(err, &e) || e.Kind != api.Stalled || e.Reason != api.ReasonImpossibleName && e.Reason != "BadSuspension" {
				t.Errorf("%s %q %+v: %v", c.Kind, name, c.Suspension, err)
			}
		}
	}
}

// A suspension of what the cluster does not have is refused, and says what may be meant.
func TestMissing(t *testing.T) {
	ref := func(kind, name string) api.ObjectRef {
		return api.ObjectRef{Group: "apps", Version: "v1", Kind: kind, Namespace: "podinfo", Name: name}
	}
	inventory := map[string][]api.InventoryEntry{"podinfo": {{Object: ref("Deployment", "podinfo")}}}
	statuses := []api.BundleStatus{{Name: "podinfo"}, {Name: "empty"}}
	open := []api.Episode{{Object: ref("StatefulSet", "gone")}}
	deployment := func(o api.ObjectRef) api.Scope { return api.Scope{Objects: []api.ObjectRef{o}} }
	for name, tt := range map[string]struct {
		scope api.Scope
		want  []string
	}{
		"a bundle":                     {scope: api.Scope{Bundles: []string{"podinfo"}}},
		"a bundle without an object":   {scope: api.Scope{Bundles: []string{"empty", "podinfo"}}},
		"no bundle":                    {api.Scope{Bundles: []string{"podinfo", "podnfo"}}, []string{`there is no bundle "podnfo"`, "do you mean podinfo?", "force"}},
		"nothing like a bundle":        {api.Scope{Bundles: []string{"zzz"}}, []string{"its bundles are: empty, podinfo"}},
		"an object":                    {scope: deployment(ref("Deployment", "podinfo"))},
		"an object of any group":       {scope: deployment(api.ObjectRef{Kind: "Deployment", Namespace: "podinfo", Name: "podinfo"})},
		"an object that is missing":    {scope: deployment(ref("StatefulSet", "gone"))},
		"no object":                    {deployment(ref("Deployment", "podnfo")), []string{"has no object Deployment.apps/podinfo/podnfo", "do you mean Deployment.apps/podinfo/podinfo?"}},
		"an object of another group":   {deployment(api.ObjectRef{Group: "x", Kind: "Deployment", Namespace: "podinfo", Name: "podinfo"}), []string{"Deployment.apps/podinfo/podinfo"}},
		"a kind in lower case":         {deployment(api.ObjectRef{Kind: "deployment", Namespace: "podinfo", Name: "podinfo"}), []string{"do you mean Deployment.apps/podinfo/podinfo?"}},
		"a kind that flotilla has not": {deployment(ref("Widget", "w")), []string{"Deployment.apps/podinfo/podinfo, StatefulSet.apps/podinfo/gone"}},
	} {
		err := missing(tt.scope, inventory, statuses, open)
		if (err != nil) != (len(tt.want) > 0) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q is not in %v", name, want, err)
			}
		}
	}
}
