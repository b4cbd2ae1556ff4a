package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub"
	"github.com/flotilla-fleet/flotilla/hub/client"
	"github.com/flotilla-fleet/flotilla/hub/hubtest"
	"github.com/flotilla-fleet/flotilla/hub/view"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/internal/controlplane"
	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
)

// logbook is a log that a test reads while the agent writes it.
type logbook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// errors returns the errors that hold all of the words.
func (l *logbook) errors(words ...string) (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
lines:
	for line := range strings.Lines(l.b.String()) {
		for _, w := range append(words, "level=ERROR") {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		out = append(out, line)
	}
	return out
}

// joinRig is an agent that is given a join file.
type joinRig struct {
	*agenttest.Rig
	t    *testing.T
	file string
	log  logbook
}

// newJoinRig makes a rig that is not started. Without a plane it shares one; an agent that loses its store there
// finds what earlier tests left.
func newJoinRig(t *testing.T, plane *controlplane.ControlPlane) *joinRig {
	t.Helper()
	r := &joinRig{t: t, file: filepath.Join(t.TempDir(), "join.json")}
	r.Rig = agenttest.New(t, agenttest.Config{
		Plane: plane,
		Files: map[string]string{
			"app/bundle.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: NS-app}\nspec: {namespace: NS}\n",
			"app/ns.yaml":     "apiVersion: v1\nkind: Namespace\nmetadata: {name: NS}\n",
			"app/a.yaml":      setting("one"),
		},
		Change: func(c *agent.Config) {
			c.JoinFile, c.Log = r.file, slog.New(slog.NewTextHandler(io.MultiWriter(&r.log, t.Output()), nil))
		},
	})
	return r
}

func setting(value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {key: %q}\n", value)
}

// material makes join material for the agent.
func (r *joinRig) material(h *hubtest.Hub) agent.JoinMaterial {
	r.t.Helper()
	m, err := h.CreateJoinToken(r.t.Context(), hub.JoinTokenRequest{Cluster: "one"})
	if err != nil {
		r.t.Fatal(err)
	}
	return agent.JoinMaterial{URL: m.URL, Token: m.Token, CAHash: m.CAHash}
}

// give puts join material where the agent looks for it, in one piece.
func (r *joinRig) give(m agent.JoinMaterial) {
	r.t.Helper()
	b, err := json.Marshal(m)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(r.file+".new", b, 0o600), os.Rename(r.file+".new", r.file)); err != nil {
		r.t.Fatal(err)
	}
}

// follows proves that the agent still does what Git says, and returns the revision.
func (r *joinRig) follows(value string) string {
	r.t.Helper()
	revision := r.Commit(map[string]string{"app/a.yaml": setting(value)})
	r.Ready("NS-app", revision)
	return revision
}

// shown waits until a hub hears from the cluster; at a revision unless that is empty.
func (r *joinRig) shown(h *hubtest.Hub, revision string) {
	r.t.Helper()
	r.Eventually("the hub shows the cluster", func(context.Context) error {
		cs := hubtest.Get[view.List[view.Cluster]](h, "/api/v1/clusters").Items
		if len(cs) != 1 || cs[0].Name != "one" || !cs[0].Connected || (revision != "" && cs[0].AppliedRevision != revision) {
			return fmt.Errorf("clusters are %+v, want one at %q", cs, revision)
		}
		return nil
	})
}

// says waits until the log holds an error with all of the words.
func (r *joinRig) says(words ...string) {
	r.t.Helper()
	r.Eventually("the log says why", func(context.Context) error {
		if len(r.log.errors(words...)) == 0 {
			return fmt.Errorf("no error with %q", words)
		}
		return nil
	})
}

// An agent begins its work without its hub, and joins when the hub comes up.
func TestAgent_joinsAHubThatComesLater(t *testing.T) {
	r := newJoinRig(t, nil)
	h := hubtest.Start(t, hub.Config{})
	r.give(r.material(h))
	h.Stop()
	r.Start()
	r.Ready("NS-app", "")
	revision := r.follows("two")
	if _, err := client.LoadIdentity(agent.IdentityDir(r.Config.Dir)); !errors.Is(err, client.ErrNoIdentity) {
		t.Fatalf("the agent has an identity before there is a hub: %v", err)
	}
	h.Restart()
	r.shown(h, revision)
	files, err := os.ReadDir(agent.IdentityDir(r.Config.Dir))
	if err != nil || len(files) == 0 {
		t.Fatalf("identity: %v, %v", files, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s is %v (%v)", f.Name(), info.Mode(), err)
		}
	}
	if errs := r.log.errors(); len(errs) > 0 {
		t.Errorf("a hub that is late is no error: %q", errs)
	}
}

// An agent that polls its repository and finds nothing new goes on telling the hub when it was reached.
func TestAgent_tellsTheHubWhenItReachedTheRepository(t *testing.T) {
	r := newJoinRig(t, nil)
	h := hubtest.Start(t, hub.Config{})
	r.give(r.material(h))
	r.Start()
	r.Ready("NS-app", "")
	r.shown(h, "")
	reached := func() time.Time { return hubtest.Get[view.List[view.Cluster]](h, "/api/v1/clusters").Items[0].Fetched }
	first := reached()
	r.Eventually("the repository was reached again, twice", func(context.Context) error {
		if now := reached(); now.Sub(first) < 7*time.Second { // more than one heartbeat
			return fmt.Errorf("first at %s, last at %s", first, now)
		}
		return nil
	})
}

// An agent that was thrown out comes back with a new join file, while it runs.
func TestAgent_joinsAgainAfterARevocation(t *testing.T) {
	r := newJoinRig(t, nil)
	h := hubtest.Start(t, hub.Config{})
	r.give(r.material(h))
	r.Start()
	r.shown(h, "")
	if _, err := h.Revoke(t.Context(), "one", "lost laptop"); err != nil {
		t.Fatal(err)
	}
	r.says("lost laptop", "join again with a new token")
	r.follows("two")
	r.give(r.material(h))
	r.shown(h, r.follows("three"))
	if errs := r.log.errors("lost laptop"); len(errs) != 1 {
		t.Errorf("the refusal is told %d times: %q", len(errs), errs)
	}

	// The join file is not needed any more, and a token that is used up is not tried again.
	r.Stop()
	before := len(r.log.errors())
	r.Start()
	r.shown(h, r.follows("four"))
	r.Stop()
	if err := os.Remove(r.file); err != nil {
		t.Fatal(err)
	}
	r.Start()
	r.shown(h, r.follows("five"))
	if errs := r.log.errors(); len(errs) != before {
		t.Errorf("a start with an identity is no error: %q", errs[before:])
	}
}

// A hub whose disk was lost has another authority: the agent does not trust it before it is told to.
func TestAgent_joinsAHubThatWasBegunAnew(t *testing.T) {
	r := newJoinRig(t, nil)
	old := hubtest.Start(t, hub.Config{})
	r.give(r.material(old))
	r.Start()
	r.shown(old, "")
	old.Stop()
	h := hubtest.Start(t, hub.Config{AgentAddr: old.AgentAddr()})
	r.says("unknown authority", "join again with a new token")
	if cs := hubtest.Get[view.List[view.Cluster]](h, "/api/v1/clusters").Items; len(cs) != 0 {
		t.Fatalf("the agent spoke to a hub that it does not know: %+v", cs)
	}
	m := r.material(h)
	wrong := m
	wrong.CAHash = "sha256:" + strings.Repeat("0", 64)
	r.give(wrong)
	r.says("does not have the CA with the hash")
	r.give(m)
	r.shown(h, r.follows("two"))
}

// The agent's disk is lost and its token is used up: it keeps the cluster, and says why it does not join.
func TestAgent_worksThoughTheHubRefusesIt(t *testing.T) {
	r := newJoinRig(t, controlplanetest.New(t, controlplane.Config{}))
	h := hubtest.Start(t, hub.Config{})
	used := r.material(h)
	r.give(used)
	r.Start()
	r.shown(h, "")
	r.Stop()
	r.Config.Dir = t.TempDir()
	r.Start()
	r.says("the token was used as often as it may be", "join again with a new token", r.file)
	r.follows("two")
	// The old agent still has the cluster at the hub.
	r.give(r.material(h))
	r.says("already has an agent", "/api/v1/clusters/one/revoke")
	r.follows("three")
	if err := os.WriteFile(r.file, []byte(`{"token": "`+used.Token), 0o600); err != nil {
		t.Fatal(err)
	}
	r.says("this is no join material", r.file)
	if _, err := h.Revoke(t.Context(), "one", "its disk is lost"); err != nil {
		t.Fatal(err)
	}
	r.give(r.material(h))
	r.shown(h, r.follows("four"))
	if errs := r.log.errors(); len(errs) != 3 {
		t.Errorf("%d errors are told, want every one of the three once: %q", len(errs), errs)
	}
	if errs := r.log.errors(used.Token); len(errs) > 0 {
		t.Errorf("the log holds the token: %q", errs)
	}
}

// An agent whose disk is lost is the same one at the hub, with the identity that the cluster kept: no token is needed.
func TestAgent_isTheSameAtTheHubWithoutItsDisk(t *testing.T) {
	r := newJoinRig(t, controlplanetest.New(t, controlplane.Config{}))
	ctx := t.Context()
	if _, err := r.Kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: api.SystemNamespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	secrets := r.Kube.CoreV1().Secrets(api.SystemNamespace)
	if _, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "flotilla-agent-identity"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	h := hubtest.Start(t, hub.Config{})
	r.give(r.material(h)) // of one use
	r.Start()
	r.shown(h, r.follows("two"))
	s, err := secrets.Get(ctx, "flotilla-agent-identity", metav1.GetOptions{})
	if err != nil || len(s.Data["identity.pem"]) == 0 {
		t.Fatalf("the Secret has %d keys, %v", len(s.Data), err)
	}
	for _, joinFile := range []string{r.file, ""} {
		r.Stop()
		r.Config.Dir, r.Config.JoinFile = t.TempDir(), joinFile
		r.Start()
		r.shown(h, r.follows("with the join file "+joinFile))
		if again, err := secrets.Get(ctx, s.Name, metav1.GetOptions{}); err != nil || again.ResourceVersion != s.ResourceVersion {
			t.Errorf("what is kept was written again (%v)", err)
		}
	}
	r.Stop()
	if errs := r.log.errors(); len(errs) > 0 {
		t.Errorf("errors are told: %q", errs)
	}
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	for line := range strings.Lines(string(s.Data["identity.pem"])) {
		if line = strings.TrimSpace(line); len(line) > 20 && strings.Contains(r.log.b.String(), line) {
			t.Error("the log holds a part of the identity")
		}
	}
}

// With a new store beside the old identity, the agent is another one, and joins as such.
func TestAgent_joinsAnewWithANewStore(t *testing.T) {
	r := newJoinRig(t, controlplanetest.New(t, controlplane.Config{}))
	h := hubtest.Start(t, hub.Config{})
	r.give(r.material(h))
	r.Start()
	r.shown(h, "")
	r.Stop()
	if err := os.WriteFile(filepath.Join(r.Config.Dir, "agent.db"), bytes.Repeat([]byte("damaged "), 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Revoke(t.Context(), "one", "its store is damaged"); err != nil {
		t.Fatal(err)
	}
	many, err := h.CreateJoinToken(t.Context(), hub.JoinTokenRequest{Cluster: "one", MaxUses: 2})
	if err != nil {
		t.Fatal(err)
	}
	r.give(agent.JoinMaterial{URL: many.URL, Token: many.Token, CAHash: many.CAHash})
	r.Start()
	r.shown(h, r.follows("two"))
	r.Stop()

	// The same join file serves another store, too, as long as its token does.
	if _, err := h.Revoke(t.Context(), "one", "once more"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(r.Config.Dir, "agent.db")); err != nil {
		t.Fatal(err)
	}
	r.Start()
	r.shown(h, r.follows("three"))
}

// A join file that makes no sense is a mistake in the configuration, and told at once.
func TestAgent_refusesABadJoinFile(t *testing.T) {
	good := agent.JoinMaterial{URL: "https://127.0.0.1:1", Token: "flj-secret", CAHash: "sha256:0"}
	text := func(change func(*agent.JoinMaterial)) string {
		m := good
		change(&m)
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for name, file := range map[string]string{
		"no JSON":    `token: flj-secret`,
		"no URL":     text(func(m *agent.JoinMaterial) { m.URL = "" }),
		"no token":   text(func(m *agent.JoinMaterial) { m.Token = "" }),
		"no pin":     text(func(m *agent.JoinMaterial) { m.CAHash = "" }),
		"a bad URL":  text(func(m *agent.JoinMaterial) { m.URL = "http://127.0.0.1:1" }),
		"a bad pin":  text(func(m *agent.JoinMaterial) { m.CAHash = "md5:0" }),
		"no file":    "",
		"no content": " ",
	} {
		t.Run(name, func(t *testing.T) {
			r := newJoinRig(t, nil)
			if file != "" {
				if err := os.WriteFile(r.file, []byte(file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			a, err := agent.New(r.Config)
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			err = a.Run(t.Context())
			if api.KindOf(err) != api.Stalled || !strings.Contains(err.Error(), r.file) || strings.Contains(err.Error(), good.Token) {
				t.Errorf("with %s, the agent ends with: %v", name, err)
			}
		})
	}
}
