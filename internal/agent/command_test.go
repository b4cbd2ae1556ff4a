package agent

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
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
