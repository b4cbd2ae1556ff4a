package drift

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub"
	"github.com/flotilla-fleet/flotilla/hub/hubtest"
	"github.com/flotilla-fleet/flotilla/hub/view"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/internal/cli"
)

// buffer is a log that several goroutines write.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.b.Bytes())
}

func debugLog(w io.Writer) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

const secret = `apiVersion: v1
kind: Secret
metadata: {name: %s, namespace: NS}
stringData: {password: "marker-in-git"}
`

// The values of a Secret are in Git and on the Secret, and nowhere else:
// not in stores, logs, reports, Events, answers and pages.
func TestSecretsAreNowhere(t *testing.T) {
	agentLog, hubLog := &buffer{}, &buffer{}
	hubDir := t.TempDir()
	h := hubtest.Start(t, hub.Config{Log: debugLog(hubLog), DataDir: hubDir})
	m, err := h.CreateJoinToken(t.Context(), hub.JoinTokenRequest{Cluster: "one"})
	if err != nil {
		t.Fatal(err)
	}
	join := filepath.Join(t.TempDir(), "join.json")
	b, err := json.Marshal(agent.JoinMaterial{URL: h.AgentURL(), Token: m.Token, CAHash: h.CAHash()})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(join, b, 0o600); err != nil {
		t.Fatal(err)
	}
	r := startWith(t, agenttest.Config{
		Files: marked(files{
			"app/bundle.yaml": bundle(""), "app/a.yaml": fmt.Sprintf(secret, "corrected"), "app/f.yaml": fmt.Sprintf(secret, "refused"),
			"rep/bundle.yaml": named("rep", "drift: {mode: report, extra: report}"), "rep/r.yaml": fmt.Sprintf(secret, "reported"),
			// The API server quotes what it does not understand.
			"bad/bundle.yaml": named("bad", ""), "bad/s.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: bad, namespace: NS}\ndata: {db: {password: marker-in-git-misplaced}}\n",
			"pin/bundle.yaml": named("pin", ""), "pin/s.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: pin, namespace: NS}\ndata: {pin: 481516234210}\n",
			"str/bundle.yaml": named("str", ""), "str/s.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: str, namespace: NS}\nstringData: {password: {nested: marker-in-git-misplaced}}\n",
		}),
		Change: func(c *agent.Config) { c.Log, c.JoinFile = debugLog(agentLog), join },
	})
	r.Ready("NS-rep", "")
	// What is wrong where is told all the same.
	r.Failed("NS-bad", "data.db")
	r.Failed("NS-pin", "data.pin")
	r.Failed("NS-str", "stringData.password")
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, name := range []string{"corrected", "reported"} {
		r.edit("secret/"+name, fmt.Sprintf(`{"data":{"password":%q}}`, b64("marker-by-data")))
		if name == "corrected" {
			r.is("secret/corrected", "data.password", b64("marker-in-git"))
		}
		r.edit("secret/"+name, `{"stringData":{"password":"marker-by-stringdata","more":"marker-added"}}`)
		if name == "corrected" {
			r.is("secret/corrected", "data.password", b64("marker-in-git"))
		}
		r.editAs("kubectl-client-side-apply", "secret/"+name,
			fmt.Sprintf(`{"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":%q}},"data":{"password":%q}}`,
				`{"kind":"Secret","stringData":{"password":"marker-last-applied"}}`, b64("marker-last-applied")))
	}
	// One that cannot be corrected: its values are quoted by nobody either.
	r.remove("secret/refused")
	r.is("secret/refused", "data.password", b64("marker-in-git"))
	r.edit("secret/refused", fmt.Sprintf(`{"immutable":true,"data":{"password":%q}}`, b64("marker-immutable")))
	r.open("secret/refused", outcome(api.OutcomeFailed))
	r.open("secret/reported", func(e api.Episode) error {
		if len(e.Fields) == 0 || e.Evidence != nil {
			return fmt.Errorf("fields are %+v", e.Fields)
		}
		return nil
	})
	r.settle()

	var ids []string
	hubtest.Eventually(t, "the hub knows all", func() bool {
		ids = ids[:0]
		for _, e := range hubtest.Get[view.List[api.Episode]](h, "/api/v1/drift?state=all&size=100").Items {
			ids = append(ids, e.ID)
		}
		return len(ids) >= 4
	})
	places := map[string][]byte{"agent's log": nil, "hub's log": nil}
	for _, path := range []string{"/api/v1/clusters", "/api/v1/clusters/one", "/api/v1/drift?state=all", "/api/v1/audit", "/api/v1/history", "/", "/c/one", "/drift", "/drift?state=all", "/metrics"} {
		code, body := h.Do("GET", path, "")
		if code != 200 {
			t.Errorf("GET %s: %d", path, code)
		}
		places["GET "+path] = body
	}
	res, err := http.Get("http://" + r.listen + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	if places["the agent's metrics"], err = io.ReadAll(res.Body); err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	fields := 0
	for _, id := range ids {
		for _, path := range []string{"/api/v1/drift/", "/drift/"} {
			code, body := h.Do("GET", path+id, "")
			if code != 200 {
				t.Errorf("GET %s%s: %d", path, id, code)
			}
			places["GET "+path+id] = body
			if bytes.Contains(body, []byte("/data/password")) {
				fields++
			}
		}
	}
	if fields < 4 {
		t.Errorf("only %d answers and pages show that the password differs", fields)
	}
	for _, gvr := range []schema.GroupVersionResource{
		{Version: "v1", Resource: "events"},
		{Version: "v1", Resource: "configmaps"},
		{Group: api.Group, Version: api.Version, Resource: "bundledeployments"},
		{Group: api.Group, Version: api.Version, Resource: "suspensions"},
	} {
		list, err := r.Dynamic.Resource(gvr).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if places[gvr.Resource], err = json.Marshal(list); err != nil {
			t.Fatal(err)
		}
	}
	var out, talk bytes.Buffer
	code := cli.Execute(t.Context(), []string{"diff", "-v", "--cluster", "one", "--kubeconfig", r.Plane.Kubeconfig(), "--repo", r.Repo.Dir, "--revision", "main"},
		cli.IO{In: strings.NewReader(""), Out: &out, Err: &talk})
	if code != api.Stalled.ExitCode() || !strings.Contains(out.String(), "data.pin") {
		t.Errorf("flotilla diff ended with %d:\n%s%s", code, &out, &talk)
	}
	places["flotilla diff"] = slices.Concat(out.Bytes(), talk.Bytes())
	r.Stop()
	h.Stop()
	places["agent's log"], places["hub's log"] = agentLog.Bytes(), hubLog.Bytes()
	for what, dir := range map[string]string{"agent": r.Config.Dir, "hub": hubDir} {
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				if d != nil && d.Name() == "mirror" {
					return filepath.SkipDir // what Git holds
				}
				return err
			}
			b, err := os.ReadFile(path)
			places[what+"'s "+d.Name()] = b
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, needed := range []string{"agent's agent.db", "hub's log", "agent's log", "events"} {
		if len(places[needed]) == 0 {
			t.Errorf("nothing was found to search in %s", needed)
		}
	}
	for place, text := range places {
		for _, marker := range []string{
			"marker-in-git", "marker-in-git-misplaced", "marker-by-data", "marker-by-stringdata", "marker-added", "marker-last-applied", "marker-immutable", "481516234210",
		} {
			for _, form := range []string{marker, b64(marker), strings.TrimRight(b64(marker), "="), fmt.Sprintf("%x", marker)} {
				if i := bytes.Index(text, []byte(form)); i >= 0 {
					t.Errorf("%s holds %s: …%q…", place, form, text[max(0, i-120):min(len(text), i+60)])
					break
				}
			}
		}
	}
	t.Logf("searched %d places", len(places))
}
