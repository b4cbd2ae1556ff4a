package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/sources"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub"
	"github.com/flotilla-fleet/flotilla/hub/hubtest"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/internal/cli"
	"github.com/flotilla-fleet/flotilla/internal/controlplane"
	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
)

func TestMain(m *testing.M) { os.Exit(agenttest.Main(m)) }

// marker is in the values of a Secret, and must be nowhere else.
const marker = "s3cr3t-M4RK3R"

// The forms that the marker might get out in.
var markers = regexp.MustCompile(`(?i)s3cr3t-M4RK3R|czNjcjN0LU00UkszU|N6Y3IzdC1NNFJLM1|zM2NyM3QtTTRSSzNS`)

var fleet = map[string]string{
	"clusters/one/cluster.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {name: one, labels: {env: test}}\n",
	"app/bundle.yaml":           "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: app}\nspec: {namespace: app, wait: false, drift: {mode: report}}\n",
	"app/namespace.yaml":        "apiVersion: v1\nkind: Namespace\nmetadata: {name: app}\n",
	"app/config.yaml":           "# settings\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata:\n  colour: red # ours\n  size: small\n",
	"app/secret.yaml":           "apiVersion: v1\nkind: Secret\nmetadata: {name: creds}\nstringData: {password: " + marker + "-git}\n",
	"app/gone.yaml":             "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: gone}\ndata: {a: b}\n",
}

// rig is an agent on a real control plane, joined to a real hub, with commands to run beside them.
type rig struct {
	t        *testing.T
	repo     *gitservertest.Repository
	checkout string
	hub      *hubtest.Hub
	config   string // kubeconfig
	kube     kubernetes.Interface
	dynamic  dynamic.Interface
	out      bytes.Buffer // everything that any command said
}

func newRig(t *testing.T) *rig {
	t.Helper()
	plane := controlplanetest.New(t, controlplane.Config{})
	r := &rig{t: t, hub: hubtest.Start(t, hub.Config{}), checkout: t.TempDir(), config: plane.Kubeconfig()}
	t.Setenv("FLOTILLA_TOKEN", hubtest.Token)
	t.Setenv("FLOTILLA_HUB", r.hub.URL())
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	r.repo = gitservertest.New(t)
	r.repo.Commit(fleet)
	for name, text := range fleet {
		r.write(name, text)
	}
	rc := rest.CopyConfig(controlplanetest.RESTConfigOf(t, plane))
	join := filepath.Join(t.TempDir(), "join.json")
	r.must("join", "--cluster", "one", "--out", join)
	a, err := agent.New(agent.Config{
		Cluster: "one", REST: rc, Dir: t.TempDir(), Source: sources.Branch(r.repo.Dir, "main"), JoinFile: join,
		Poll: 100 * time.Millisecond, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agent: %v", err)
		}
		if err := a.Close(); err != nil {
			t.Errorf("close the agent: %v", err)
		}
	})
	hand := rest.CopyConfig(rc)
	hand.UserAgent, hand.QPS = "kubectl-edit/test", -1
	if r.kube, err = kubernetes.NewForConfig(hand); err != nil {
		t.Fatal(err)
	}
	if r.dynamic, err = dynamic.NewForConfig(rc); err != nil {
		t.Fatal(err)
	}
	r.eventually("the bundle is applied", func() error {
		_, err := r.kube.CoreV1().ConfigMaps("app").Get(t.Context(), "settings", metav1.GetOptions{})
		if err != nil {
			return err
		}
		_, err = r.kube.CoreV1().Secrets("app").Get(t.Context(), "creds", metav1.GetOptions{})
		return err
	})
	r.eventually("the agent has told the cluster that it is done", func() error {
		code, out, talk := r.flotilla("", r.on("status", "-o", "json")...)
		if code != 0 {
			return fmt.Errorf("exit code %d\n%s%s", code, out, talk)
		}
		var got struct{ Bundles []api.BundleStatus }
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			return err
		}
		if !slices.ContainsFunc(got.Bundles, func(b api.BundleStatus) bool { return b.Name == "app" && b.Phase == api.PhaseReady }) {
			return fmt.Errorf("not ready: %+v", got.Bundles)
		}
		return nil
	})
	return r
}

func (r *rig) write(name, text string) {
	r.t.Helper()
	file := filepath.Join(r.checkout, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) read(name string) string {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.checkout, name))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

func (r *rig) eventually(what string, ask func() error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 60*time.Second)
	defer cancel()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			r.t.Fatalf("%s: %v", what, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// flotilla runs a command, as the binary does.
func (r *rig) flotilla(stdin string, args ...string) (code int, stdout, stderr string) {
	r.t.Helper()
	var out, talk bytes.Buffer
	code = cli.Execute(r.t.Context(), args, cli.IO{In: strings.NewReader(stdin), Out: &out, Err: &talk})
	fmt.Fprintf(&r.out, "$ flotilla %s\n%s%s", strings.Join(args, " "), out.String(), talk.String())
	return code, out.String(), talk.String()
}

func (r *rig) must(args ...string) string {
	r.t.Helper()
	out, err := r.try(args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// try is must for what is asked again until it is so.
func (r *rig) try(args ...string) (string, error) {
	r.t.Helper()
	code, out, talk := r.flotilla("", args...)
	if code != 0 {
		return out, fmt.Errorf("flotilla %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, talk)
	}
	return out, nil
}

// tryJSON reads the answer of a command that prints JSON.
func (r *rig) tryJSON(into any, args ...string) error {
	r.t.Helper()
	out, err := r.try(append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), into)
}

// refuses runs a command that must end with a code and say something on standard error, and nothing on standard output.
func (r *rig) refuses(code int, says string, args ...string) {
	r.t.Helper()
	got, out, talk := r.flotilla("", args...)
	if got != code || !strings.Contains(talk, says) || out != "" {
		r.t.Errorf("flotilla %s: exit code %d, want %d and %q\nstdout: %s\nstderr: %s", strings.Join(args, " "), got, code, says, out, talk)
	}
}

// on is the flag that asks the cluster and not the hub.
func (r *rig) on(args ...string) []string { return append(args, "--kubeconfig", r.config) }

func (r *rig) list(args ...string) []api.Episode {
	r.t.Helper()
	out, err := r.tryList(args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *rig) tryList(args ...string) (out []api.Episode, err error) {
	code, stdout, talk := r.flotilla("", append([]string{"drift", "-o", "json"}, args...)...)
	if code != 0 {
		return nil, fmt.Errorf("flotilla drift %v: exit code %d: %s", args, code, talk)
	}
	return out, json.Unmarshal([]byte(stdout), &out)
}

// drifted waits for the open drift of an object, on the cluster and at the hub.
func (r *rig) drifted(object string) api.Episode {
	r.t.Helper()
	var e api.Episode
	r.eventually("drift of "+object, func() error {
		for _, args := range [][]string{{"--state", "open", "--object", object}, r.on("--object", object)} {
			// The agent's report reaches the cluster a moment after the first drift.
			list, err := r.tryList(args...)
			if err != nil {
				return err
			}
			if len(list) != 1 {
				return fmt.Errorf("%d episodes with %v", len(list), args)
			}
			e = list[0]
		}
		return nil
	})
	return e
}

func (r *rig) patch(kind, name, patch string) {
	r.t.Helper()
	var err error
	switch kind {
	case "ConfigMap":
		_, err = r.kube.CoreV1().ConfigMaps("app").Patch(r.t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	case "Secret":
		_, err = r.kube.CoreV1().Secrets("app").Patch(r.t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func TestDriftCommands(t *testing.T) {
	r := newRig(t)
	r.patch("ConfigMap", "settings", `{"data":{"colour":"blue","size":null}}`)
	r.patch("Secret", "creds", `{"stringData":{"password":"`+marker+`-live"}}`)
	if err := r.kube.CoreV1().ConfigMaps("app").Delete(t.Context(), "gone", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	settings := r.drifted("ConfigMap/app/settings")
	secret := r.drifted("Secret/app/creds")
	gone := r.drifted("ConfigMap/app/gone")
	both := map[string][]string{"hub": nil, "cluster": {"--kubeconfig", r.config}}

	for where, flags := range both {
		with := func(args ...string) []string { return append(args, flags...) }
		t.Run("list on the "+where, func(t *testing.T) {
			for _, tt := range []struct {
				args []string
				want int
			}{
				{[]string{"--state", "open"}, 3},
				{[]string{"--bundle", "app"}, 3},
				{[]string{"--cluster", "one"}, 3},
				{[]string{"--class", "missing"}, 1},
				{[]string{"--manager", "kubectl-edit", "--class", "changed"}, 2},
				{[]string{"--manager", "nobody"}, 0},
				{[]string{"--object", "ConfigMap/app/settings"}, 1},
				{[]string{"--since", "1h"}, 3},
				{[]string{"--limit", "2"}, 2},
			} {
				if got := r.list(with(tt.args...)...); len(got) != tt.want {
					t.Errorf("%v: %d episodes, want %d", tt.args, len(got), tt.want)
				}
			}
			if code, out, talk := r.flotilla("", with("drift", "--object", "ConfigMap.other/app/settings")...); where == "hub" && (code != 0 || out != "") ||
				where == "cluster" && (code != 3 || !strings.Contains(talk, `the cluster has no kind "ConfigMap.other"`)) {
				t.Errorf("a kind of another group: code %d\n%s%s", code, out, talk)
			}
			table := r.must(with("drift")...)
			for _, want := range []string{settings.ID, "changed", "missing", "kubectl-edit", "unknown", "reported", "/data/colour +1"} {
				if !strings.Contains(table, want) {
					t.Errorf("%q is not in\n%s", want, table)
				}
			}
			for line := range strings.Lines(table) {
				if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 100 {
					t.Errorf("a line is %d wide: %s", n, line)
				}
			}
			code, out, talk := r.flotilla("", with("drift", "--manager", "nobody")...)
			if code != 0 || out != "" || !strings.Contains(talk, "No drift") {
				t.Errorf("no drift: code %d, %q, %q", code, out, talk)
			}
			if out := r.must(with("drift", "-o", "yaml", "--class", "missing")...); !strings.Contains(out, "- bundle: app\n") {
				t.Errorf("YAML:\n%s", out)
			}
		})
		t.Run("show on the "+where, func(t *testing.T) {
			out := r.must(with("drift", "show", settings.ID)...)
			for _, want := range []string{
				"ConfigMap/app/settings on one, bundle app: changed, reported", "the tool's own claim",
				"/data/colour  changed", "/data/size    removed", "-  colour: red", "+  colour: blue", "-  size: small", "nothing on the object says who",
			} {
				if !strings.Contains(out, want) {
					t.Errorf("%q is not in\n%s", want, out)
				}
			}
			if has := strings.Contains(out, "began: changed"); has != (where == "hub") {
				t.Errorf("timeline: %v\n%s", has, out)
			}
			var e api.Episode
			if err := json.Unmarshal([]byte(r.must(with("drift", "show", settings.ID, "-o", "json")...)), &e); err != nil || e.ID != settings.ID {
				t.Errorf("JSON: %+v, %v", e, err)
			}
			if out := r.must(with("drift", "show", secret.ID)...); !strings.Contains(out, "(value A)") || !strings.Contains(out, "/data/password") {
				t.Errorf("the Secret:\n%s", out)
			}
			r.refuses(3, "flotilla drift lists", with("drift", "show", "one-nope-1")...)
		})
		t.Run("ignore on the "+where, func(t *testing.T) {
			out := r.must(with("drift", "ignore", settings.ID, "--repo", r.checkout)...)
			for _, want := range []string{"# app/bundle.yaml, below spec:", "kind: ConfigMap", "name: settings", "- /data/colour", "- /data/size"} {
				if !strings.Contains(out, want) {
					t.Errorf("%q is not in\n%s", want, out)
				}
			}
			var ig struct {
				File string
				Rule api.IgnoreRule
			}
			if err := json.Unmarshal([]byte(r.must(with("drift", "ignore", settings.ID, "--repo", r.checkout, "-o", "json")...)), &ig); err != nil ||
				ig.File != "app/bundle.yaml" || len(ig.Rule.Paths) != 2 {
				t.Errorf("JSON: %+v, %v", ig, err)
			}
			r.refuses(3, "is no fleet repository", with("drift", "ignore", settings.ID, "--repo", t.TempDir())...)
		})
		t.Run("adopt refused on the "+where, func(t *testing.T) {
			r.refuses(3, "a Secret is never written", with("drift", "adopt", secret.ID, "--out", r.checkout)...)
			r.refuses(3, "remove it from the bundle app", with("drift", "adopt", gone.ID, "--out", r.checkout)...)
			r.refuses(64, "--out is needed", with("drift", "adopt", settings.ID)...)
			for name, text := range fleet {
				if r.read(name) != text {
					t.Errorf("%s was changed", name)
				}
			}
		})
		t.Run("history on the "+where, func(t *testing.T) {
			out := r.must(with("history", "ConfigMap/app/settings")...)
			if !strings.Contains(out, "drifted") || !strings.Contains(out, "kubectl-edit") || strings.Contains(out, "gone") {
				t.Errorf("history:\n%s", out)
			}
			if all := r.must(with("history", "-o", "wide")...); !strings.Contains(all, "applied") || !strings.Contains(all, "4 created") {
				t.Errorf("history of all:\n%s", all)
			}
			var list []struct{ What, ID string }
			if err := json.Unmarshal([]byte(r.must(with("history", "-o", "json", "--since", "1h")...)), &list); err != nil || len(list) < 4 {
				t.Errorf("JSON: %v, %v", list, err)
			}
		})
	}

	t.Run("explain", func(t *testing.T) {
		out := r.must(r.on("drift", "explain", "configmap/app/settings")...)
		for _, want := range []string{"app/config.yaml", "mode report", "kubectl-edit", `"red"`, `"blue"`, "~  /data/colour", "-  /data/size", "same"} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is not in\n%s", want, out)
			}
		}
		out = r.must(r.on("drift", "explain", "ConfigMap/app/settings", "--repo", r.checkout, "--differences", "-o", "json")...)
		var ex struct {
			File   string
			Fields []api.FieldDiff
		}
		if err := json.Unmarshal([]byte(out), &ex); err != nil || len(ex.Fields) != 2 || ex.File != "app/config.yaml" {
			t.Errorf("JSON: %+v, %v", ex, err)
		}
		if out := r.must(r.on("drift", "explain", "Secret/app/creds")...); !strings.Contains(out, "/data/password") {
			t.Errorf("the Secret:\n%s", out)
		}
		claim := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "creds"}, "type": "Opaque",
		}}
		secrets := r.dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: "secrets"}).Namespace("app")
		if _, err := secrets.Apply(t.Context(), "creds", claim, metav1.ApplyOptions{FieldManager: "k9s"}); err != nil {
			t.Fatal(err)
		}
		if out := r.must(r.on("drift", "explain", "Secret/app/creds")...); !regexp.MustCompile(`(?m)^= +/type .*k9s`).MatchString(out) ||
			!strings.Contains(out, "the API server sets this value anyway") {
			t.Errorf("a default that somebody claims:\n%s", out)
		}
		if out := r.must(r.on("drift", "explain", "ConfigMap/app/gone")...); !strings.Contains(out, "missing on the cluster") {
			t.Errorf("a missing object:\n%s", out)
		}
		r.refuses(3, "do you mean ConfigMap/app/settings?", r.on("drift", "explain", "ConfigMap/default/settings")...)
		r.refuses(64, "is not an object", r.on("drift", "explain", "settings")...)
	})

	t.Run("words that cannot be understood", func(t *testing.T) {
		for says, args := range map[string][]string{
			`--class "odd" is not one of`:            {"drift", "--class", "odd"},
			`--state "ajar" is not`:                  {"drift", "--state", "ajar"},
			`--since "soon" is neither`:              {"drift", "--since", "soon"},
			`--limit 0`:                              {"drift", "--limit", "0"},
			`there is no command "flotilla drift x"`: {"drift", "x"},
			`--output "xml"`:                         {"drift", "-o", "xml"},
			"ID is needed: flotilla drift lists":     {"drift", "show"},
			"one ID at a time":                       {"drift", "ignore", "a", "b"},
			`has no flag --odd`:                      {"drift", "adopt", "a", "--odd"},
			"this is cluster one, not two":           r.on("drift", "--cluster", "two"),
			"--state closed needs --hub":             r.on("drift", "--state", "closed"),
			"is not an address":                      {"drift", "--hub", "nonsense"},
		} {
			r.refuses(64, says, args...)
		}
		// What was only mistyped is no drift that is not there.
		r.refuses(3, `the hub knows no cluster "two"`, "drift", "--cluster", "two")
		r.refuses(3, `no bundle "other" on cluster one now`, "drift", "--cluster", "one", "--bundle", "other")
		r.refuses(3, `no bundle "other" on cluster one`, r.on("drift", "--bundle", "other")...)
		t.Setenv("FLOTILLA_HUB", "")
		r.refuses(3, "--hub URL", "drift")
		r.refuses(5, "work without the hub", "drift", "--hub", "http://127.0.0.1:1")
	})

	t.Run("adopt", func(t *testing.T) {
		out := r.must("drift", "adopt", settings.ID, "--out", r.checkout, "--dry-run")
		if r.read("app/config.yaml") != fleet["app/config.yaml"] || !strings.Contains(out, "+  colour: blue # ours") {
			t.Errorf("a dry run wrote, or said nothing:\n%s", out)
		}
		r.must(r.on("drift", "adopt", settings.ID, "--out", r.checkout)...)
		want := "# settings\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata:\n  colour: blue # ours\n"
		if got := r.read("app/config.yaml"); got != want {
			t.Fatalf("got\n%s", got)
		}
		r.repo.Commit(map[string]string{"app/config.yaml": want})
		r.eventually("the drift ends", func() error {
			for _, args := range [][]string{{"--state", "open", "--object", "ConfigMap/app/settings"}, r.on("--object", "ConfigMap/app/settings")} {
				list, err := r.tryList(args...)
				if err != nil {
					return err
				}
				if len(list) != 0 {
					return fmt.Errorf("%d open with %v", len(list), args)
				}
			}
			return nil
		})
		m, err := r.kube.CoreV1().ConfigMaps("app").Get(t.Context(), "settings", metav1.GetOptions{})
		if err != nil || m.Data["colour"] != "blue" {
			t.Errorf("the live value became %v (%v)", m.Data, err)
		}
		r.refuses(3, "what has ended is known to the hub", r.on("drift", "show", settings.ID)...)
		r.must("drift", "show", settings.ID)
		if n := len(r.list("--state", "closed")); n != 1 {
			t.Errorf("%d closed", n)
		}
	})

	t.Run("resume", func(t *testing.T) {
		name := strings.TrimSpace(r.must(r.on("suspend", "--bundle", "app", "--for", "10m", "--reason", "INC-1", "--name", "cli-first")...))
		t.Cleanup(func() { r.flotilla("", r.on("resume", "--all", "--yes")...) })
		for answer, says := range map[string]string{"n\n": "nothing was resumed", "": "nobody answered", "a\n": "remove it from the bundle app"} {
			code, out, talk := r.flotilla(answer, r.on("resume", name)...)
			if code != 3 || out != "" || !strings.Contains(talk, says) || !strings.Contains(talk, "ConfigMap/app/gone: missing") {
				t.Errorf("answer %q: code %d\n%s%s", answer, code, out, talk)
			}
		}
		r.must(r.on("suspend", "--all", "--for", "5m", "--reason", "INC-2", "--name", "cli-second")...)
		code, _, talk := r.flotilla("y\n", r.on("resume", name)...)
		if !strings.Contains(talk, "ConfigMap/app/gone: missing by unknown stays as it is: cli-second holds it") || strings.Contains(talk, "will be set back") {
			t.Errorf("what another suspension holds:\n%s", talk)
		}
		if code != 0 || !strings.Contains(talk, "still suspended: everything") || !strings.Contains(talk, "INC-2") {
			t.Errorf("code %d\n%s", code, talk)
		}
		r.refuses(3, "there is no suspension", r.on("resume", name, "--yes")...)
	})

	// A mistyped name holds nothing, and is refused; what ended by itself is not resumed, and that is said.
	t.Run("suspend by every name, and what is not there", func(t *testing.T) {
		t.Cleanup(func() { r.flotilla("", r.on("resume", "--all", "--yes")...) })
		suspend := func(scope ...string) (code int, out, talk string) {
			return r.flotilla("", r.on(append([]string{"suspend", "--for", "1d", "--reason", "INC-5"}, scope...)...)...)
		}
		for _, scope := range [][]string{
			{"--bundle", "app"},
			{"--object", "ConfigMap/app/settings"},
			{"--object", "cm/app/settings"},
			{"--object", "configmaps/app/settings"},
			{"--object", "CONFIGMAP/app/settings"},
			{"--object", "configmap.v1./app/settings"},
			{"--object", "ns/app"},
			{"--object", "ConfigMap/app/gone"}, // missing on the cluster, and ours all the same
			{"--bundle", "ap", "--force"},
			{"--object", "cm/app/setings", "--force"},
			{"--object", "Widget/app/x", "--force"},
		} {
			code, out, talk := suspend(scope...)
			if code != 0 || strings.TrimSpace(out) == "" || strings.Contains(talk, "warning") || !strings.Contains(talk, "the agent holds it") {
				t.Errorf("%v: code %d\n%s%s", scope, code, out, talk)
			}
		}
		var held []string
		suspensions := schema.GroupVersionResource{Group: api.Group, Version: api.Version, Resource: "suspensions"}
		list, err := r.dynamic.Resource(suspensions).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range list.Items {
			objects, _, _ := unstructured.NestedSlice(s.Object, "spec", "scope", "objects")
			for _, o := range objects {
				m := o.(map[string]any)
				held = append(held, fmt.Sprint(m["kind"], "/", m["name"]))
			}
		}
		slices.Sort(held)
		if want := []string{"ConfigMap/gone", "ConfigMap/setings", "ConfigMap/settings", "Namespace/app", "Widget/x"}; !slices.Equal(slices.Compact(held), want) {
			t.Errorf("suspended are %q, want %q", held, want)
		}
		for _, tt := range []struct {
			scope []string
			code  int
			says  string
		}{
			{[]string{"--bundle", "ap"}, 3, `there is no bundle "ap" on this cluster now (do you mean app?; --force`},
			{[]string{"--bundle", "nothing-like-it"}, 3, "its bundles are: app"},
			{[]string{"--bundle", "app", "--bundle", "nope"}, 3, `there is no bundle "nope"`},
			{[]string{"--object", "cm/app/setings"}, 3, "flotilla has no object ConfigMap/app/setings on this cluster (do you mean ConfigMap/app/settings"},
			{[]string{"--object", "deploy/app/settings"}, 3, "flotilla has no object Deployment.apps/app/settings"},
			{[]string{"--object", "cm/settings"}, 64, "ConfigMap is in a namespace: write cm/NAMESPACE/settings"},
			{[]string{"--object", "ns/app/app"}, 64, "Namespace is in no namespace: write ns/app"},
			{[]string{"--object", "Deploymnet/app/x"}, 3, `the cluster has no kind "Deploymnet" (do you mean Deployment`},
		} {
			code, out, talk := suspend(tt.scope...)
			if code != tt.code || out != "" || !strings.Contains(talk, tt.says) {
				t.Errorf("%v: code %d, want %d and %q\n%s%s", tt.scope, code, tt.code, tt.says, out, talk)
			}
		}
		if after, err := r.dynamic.Resource(suspensions).List(t.Context(), metav1.ListOptions{}); err != nil || len(after.Items) != len(list.Items) {
			t.Errorf("what was refused was made: %d, and there were %d (%v)", len(after.Items), len(list.Items), err)
		}
		r.refuses(3, "no suspension has the scope objects [Namespace/apps]", r.on("resume", "--object", "namespaces/apps", "--yes")...)
		if _, _, talk := r.flotilla("", r.on("resume", "--object", "namespaces/app", "--yes")...); strings.Count(talk, "resumed ") != 1 || !strings.Contains(talk, "resumed objects [Namespace/app]") {
			t.Errorf("resume by another name of the kind:\n%s", talk)
		}
		for _, args := range [][]string{{"--object", "cm/app/settings"}, {"--object", "configmaps/app/settings"}, r.on("--object", "cm/app/gone")} {
			if list := r.list(args...); len(list) == 0 {
				t.Errorf("drift %v: nothing", args)
			}
		}
		r.refuses(3, "do you mean ConfigMap/app/settings", r.on("drift", "--object", "cm/app/setings")...)
		if out := r.must(r.on("history", "cm/app/gone")...); !strings.Contains(out, "ConfigMap/app/gone") {
			t.Errorf("history:\n%s", out)
		}
		if out := r.must("history", "CM/app/gone"); !strings.Contains(out, "ConfigMap/app/gone") {
			t.Errorf("history of the hub:\n%s", out)
		}
		if out := r.must(r.on("drift", "explain", "cm/app/settings")...); !strings.Contains(out, "ConfigMap/app/settings on one") {
			t.Errorf("explain:\n%s", out)
		}
		if _, _, talk := r.flotilla("", r.on("suspend", "--bundle", "app", "--for", "100h", "--reason", "INC-7")...); !strings.Contains(talk, "warning: the fleet allows no longer suspension") {
			t.Errorf("longer than the fleet allows:\n%s", talk)
		}
		r.must(r.on("suspend", "--bundle", "app", "--for", "5s", "--reason", "INC-6", "--name", "cli-short")...)
		time.Sleep(6 * time.Second)
		code, _, talk := r.flotilla("", r.on("resume", "--all", "--yes")...)
		if code != 0 || !regexp.MustCompile(`had ended already: bundles \[app\], at .*\(cli-short\)`).MatchString(talk) || !strings.Contains(talk, "resumed bundles [ap]") {
			t.Errorf("resume: code %d\n%s", code, talk)
		}
	})

	// What nobody can read holds everything: then, of all times, resume must work.
	t.Run("resume beside a suspension that cannot be read", func(t *testing.T) {
		resource := r.dynamic.Resource(schema.GroupVersionResource{Group: api.Group, Version: api.Version, Resource: "suspensions"})
		broken := func(name string) {
			t.Helper()
			_, err := resource.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": api.APIVersion, "kind": "Suspension", "metadata": map[string]any{"name": name},
				// The API server takes such a time, Go does not.
				"spec": map[string]any{"scope": map[string]any{"all": true}, "reason": "INC-3", "until": "2030-01-31t10:00:00z"},
			}}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
		}
		gone := func(name string) {
			t.Helper()
			if _, err := resource.Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("%s is still there (%v)", name, err)
			}
		}
		t.Cleanup(func() { r.flotilla("", r.on("resume", "--all", "--yes")...) })
		r.must(r.on("suspend", "--bundle", "app", "--for", "10m", "--reason", "INC-4", "--name", "cli-other")...)
		broken("cli-broken")
		code, _, talk := r.flotilla("", r.on("resume", "cli-other", "--yes")...)
		if code != 0 || !strings.Contains(talk, `warning: Suspension "cli-broken" cannot be read`) || !strings.Contains(talk, "still suspended: everything") {
			t.Errorf("another one: code %d\n%s", code, talk)
		}
		gone("cli-other")
		r.must(r.on("resume", "cli-broken", "--yes")...)
		gone("cli-broken")
		broken("cli-broken")
		r.must(r.on("resume", "--all", "--yes")...)
		gone("cli-broken")
	})

	t.Run("status says where an error is", func(t *testing.T) {
		r.repo.Commit(map[string]string{"app/more.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {nam: more}\n"})
		t.Cleanup(func() { r.repo.Do(gitserver.Commit{Delete: []string{"app/more.yaml"}}) })
		r.eventually("the error is told", func() error {
			var got struct{ Bundles []api.BundleStatus }
			if err := r.tryJSON(&got, r.on("status")...); err != nil {
				return err
			}
			for _, b := range got.Bundles {
				if e := b.Error; e != nil && e.Kind == api.Stalled && e.Reason == "BadManifest" && e.File == "app/more.yaml" &&
					e.Line == 1 && e.Field == "metadata.name" && strings.Contains(e.Message, "app/more.yaml:1:") {
					return nil
				}
			}
			return fmt.Errorf("bundles are %+v", got.Bundles)
		})
	})

	t.Run("status says whether the agent is at work", func(t *testing.T) {
		leases := r.kube.CoordinationV1().Leases("flotilla-system")
		// The agent lives, and renews its Lease in between.
		says := func(want int, state, line, patch string) {
			t.Helper()
			r.eventually("status says "+line, func() error {
				if _, err := leases.Patch(t.Context(), "flotilla-agent", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
					return err
				}
				code, out, _ := r.flotilla("", r.on("status")...)
				first, _, _ := strings.Cut(out, "\n")
				if code != want || !strings.HasPrefix(first, line) || !strings.Contains(first, "repository reached ") {
					return fmt.Errorf("exit code %d, want %d, and first %q", code, want, first)
				}
				code, out, _ = r.flotilla("", r.on("status", "-o", "json")...)
				var got struct{ Agent struct{ State string } }
				if err := json.Unmarshal([]byte(out), &got); err != nil || code != want || got.Agent.State != state {
					return fmt.Errorf("exit code %d, want %d, and %+v (%w)", code, want, got, err)
				}
				return nil
			})
		}
		now := time.Now().UTC()
		renewed := func(at time.Time) string { return `{"spec":{"renewTime":"` + at.Format(metav1.RFC3339Micro) + `"}}` }
		stamp := now.Format(time.RFC3339)
		says(0, "alive", "agent: last sign of life ", renewed(now))
		says(3, "silent", "THE AGENT DOES NOT ANSWER: last sign of life 17m ago", renewed(now.Add(-17*time.Minute)))
		says(3, "restarting", "THE AGENT ENDS AGAIN AND AGAIN: started 3 times within an hour",
			`{"metadata":{"annotations":{"flotilla.dev/unclean-starts":"`+stamp+","+stamp+","+stamp+`"}}}`)
		says(0, "alive", "agent: last sign of life ", `{"spec":{"renewTime":"`+now.Format(metav1.RFC3339Micro)+`"},"metadata":{"annotations":{"flotilla.dev/unclean-starts":null}}}`)
	})

	t.Run("status says what is exempt", func(t *testing.T) {
		maps := r.kube.CoreV1().ConfigMaps("app")
		annotate := func(value string) {
			t.Helper()
			patch := `{"metadata":{"annotations":{"flotilla.dev/drift":` + value + `}}}`
			if _, err := maps.Patch(t.Context(), "settings", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		const line = "EXEMPT ConfigMap/app/settings: flotilla.dev/drift: ignore, on the cluster and not in Git\n"
		says := func(want bool, args ...string) {
			t.Helper()
			r.eventually(fmt.Sprintf("%v says it: %v", args, want), func() error {
				out, err := r.try(args...)
				if err == nil && strings.Contains(out, line) != want {
					err = fmt.Errorf("it says\n%s", out)
				}
				return err
			})
		}
		annotate(`"ignore"`)
		says(true, r.on("status")...)
		says(true, "status", "one", "--hub", r.hub.URL())
		if out := r.must(r.on("drift", "explain", "ConfigMap/app/settings")...); !strings.Contains(out, "mode ignore") ||
			!strings.Contains(out, "It is exempt: flotilla.dev/drift: ignore, on the cluster and not in Git.") {
			t.Errorf("it is explained as\n%s", out)
		}
		annotate("null")
		says(false, r.on("status")...)
	})

	t.Run("explain while another bundle fails", func(*testing.T) {
		named := func(name string) string {
			return "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: " + name + "}\n"
		}
		r.repo.Commit(map[string]string{
			"stuck/bundle.yaml": named("stuck"), "stuck/x.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: stuck, namespace: app}\nspec: {ports: [{port: 99999}]}\n",
			"fresh/bundle.yaml": named("fresh"), "fresh/x.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: fresh, namespace: app}\ndata: {k: one}\n",
		})
		for _, value := range []string{"one", "two"} {
			r.repo.Commit(map[string]string{"fresh/x.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: fresh, namespace: app}\ndata: {k: " + value + "}\n"})
			r.eventually("it is explained by what it was applied from: "+value, func() error {
				code, out, talk := r.flotilla("", r.on("drift", "explain", "ConfigMap/app/fresh")...)
				if code != 0 || !strings.Contains(out, `"`+value+`"`) || strings.Contains(out, "\n=  /") || strings.Contains(out, "\n~  /") {
					return fmt.Errorf("exit code %d\n%s%s", code, out, talk)
				}
				return nil
			})
		}
		r.repo.Do(gitserver.Commit{Delete: []string{"stuck", "fresh"}})
	})

	t.Run("history remembers a bundle that left", func(t *testing.T) {
		text := func(v string) string {
			return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: brief, namespace: app}\ndata: {k: " + v + "}\n"
		}
		is := func(want ...string) {
			t.Helper()
			r.eventually(fmt.Sprintf("history tells %q", want), func() error {
				var list []struct{ What, Message string }
				if err := r.tryJSON(&list, "history", "--cluster", "one", "--bundle", "brief"); err != nil {
					return err
				}
				var got []string
				for _, h := range list {
					got = append(got, h.What+" "+h.Message)
				}
				if !slices.Equal(got, want) {
					return fmt.Errorf("it tells %q", got)
				}
				return nil
			})
		}
		r.repo.Commit(map[string]string{"brief/bundle.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: brief}\n", "brief/x.yaml": text("one")})
		is("applied 1 created")
		r.repo.Commit(map[string]string{"brief/x.yaml": text("two")})
		is("applied 1 updated", "applied 1 created")
		left := r.repo.Do(gitserver.Commit{Delete: []string{"brief"}})
		is("removed the bundle left Git", "applied 1 pruned", "applied 1 updated", "applied 1 created")
		var second struct{ Items []api.Applied }
		if _, page := r.hub.Do(http.MethodGet, "/api/v1/history?bundle=brief&size=2&page=2", ""); json.Unmarshal(page, &second) != nil ||
			len(second.Items) != 2 || second.Items[1].Changes[0].Action != api.Created {
			t.Errorf("the second page: %s", page)
		}
		if out := r.must("history", "ConfigMap/app/brief"); strings.Count(out, "Git ") != 3 || !strings.Contains(out, left[:7]) {
			t.Errorf("history of its object:\n%s", out)
		}
	})

	t.Run("the shell is helped", func(t *testing.T) {
		for want, args := range map[string][]string{
			"missing": {"drift", "--class", ""}, "closed": {"drift", "--state", ""}, "wide": {"drift", "-o", ""}, "explain": {"drift", ""}, "history": {""},
		} {
			if out := r.must(append([]string{"__complete"}, args...)...); !strings.Contains(out, want) {
				t.Errorf("%v offers\n%s", args, out)
			}
		}
		if out := r.must("completion", "bash"); !strings.Contains(out, "flotilla") {
			t.Error("no completion for bash")
		}
	})

	t.Run("the values of Secrets are nowhere", func(t *testing.T) {
		r.flotilla("", r.on("diff", "--repo", r.checkout, "--cluster", "one")...)
		r.flotilla("", r.on("status", "-o", "json")...)
		r.must("render", "--repo", r.checkout, "--cluster", "one")
		for _, flags := range both {
			for _, args := range [][]string{{"drift", "-o", "json"}, {"drift", "-o", "wide"}, {"drift", "show", secret.ID, "-o", "yaml"}, {"drift", "ignore", secret.ID}, {"history", "-o", "json"}} {
				r.must(append(args, flags...)...)
			}
		}
		r.must(r.on("drift", "explain", "Secret/app/creds", "-o", "json")...)
		said := r.out.String()
		if !strings.Contains(said, "/data/password") {
			t.Fatal("the Secret never drifted, so this proves nothing")
		}
		if at := markers.FindStringIndex(said); at != nil {
			t.Errorf("a value got out: %s", said[max(0, at[0]-300):min(len(said), at[1]+50)])
		}
		_, page := r.hub.Do(http.MethodGet, "/api/v1/drift/"+secret.ID, "")
		if markers.Match(page) {
			t.Error("a value is at the hub")
		}
	})
}
