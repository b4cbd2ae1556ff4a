package cli

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/view"
	"github.com/flotilla-fleet/flotilla/internal/suggest"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
	"github.com/flotilla-fleet/flotilla/reconciler/preview"
)

// hostile clears lines, sets the title, begins rows of its own and turns the direction of text.
const hostile = "x\x1b[2K\rFAKE\x1b]0;FAKE\x07\nFAKE\tready\u009b31m\u202eFAKE\u2066\u0085FAKE\u2028FAKE\x7f\b\b\nflotilla: FAKE"

// fill makes every text in a value hostile, and every list one long.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(hostile)
	case reflect.Pointer:
		if v.Type().Elem() != reflect.TypeFor[time.Location]() {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem())
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.Uint8 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			fill(v.Index(0))
		}
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key)
		fill(value)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct:
		for _, field := range v.Fields() {
			if field.CanSet() && v.Type() != reflect.TypeFor[time.Time]() {
				fill(field)
			}
		}
	case reflect.Int, reflect.Int64:
		v.SetInt(2)
	case reflect.Bool:
		v.SetBool(true)
	default:
	}
}

func filled[T any]() T {
	var v T
	fill(reflect.ValueOf(&v).Elem())
	return v
}

// harmless fails the test if a terminal would obey something, or if data began a line.
func harmless(t *testing.T, what, out string) {
	t.Helper()
	if !utf8.ValidString(out) {
		t.Errorf("%s: no UTF-8: %q", what, out)
	}
	for _, r := range out {
		if r != '\n' && (r < 0x20 || r >= 0x7f && r < 0xa0 || strings.ContainsRune("\u2028\u2029\u202e\u2066", r)) {
			t.Errorf("%s: %U is in %q", what, r, out)
			return
		}
	}
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "FAKE") || strings.HasPrefix(line, "flotilla: FAKE") {
			t.Errorf("%s: data began a line: %q", what, out)
			return
		}
	}
}

// A hub that was taken over, or that believes whatever agents send, reaches nobody's terminal.
func TestHostileHub(t *testing.T) {
	answers := map[string]any{
		"GET /api/v1/clusters":           view.List[view.Cluster]{Items: []view.Cluster{filled[view.Cluster]()}, Total: 1},
		"GET /api/v1/clusters/one":       filled[view.ClusterDetail](),
		"GET /api/v1/drift":              view.List[api.Episode]{Items: []api.Episode{filled[api.Episode]()}, Total: 1},
		"GET /api/v1/drift/one-1":        filled[api.Episode](),
		"GET /api/v1/history":            map[string]any{"items": []api.Applied{filled[api.Applied]()}},
		"POST /api/v1/clusters/one/sync": map[string]any{"error": api.StatusError{Message: hostile, Reason: hostile}},
	}
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.Method+" "+r.URL.Path]
		if !ok || r.Method == http.MethodPost {
			w.WriteHeader(http.StatusUnprocessableEntity)
		}
		if answer == nil {
			answer = hostile // not even the form of an error
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	defer hub.Close()
	t.Setenv("FLOTILLA_TOKEN", "token")
	t.Setenv("FLOTILLA_HUB", hub.URL)
	for _, args := range []string{
		"status", "status one", "status nobody", "drift", "drift -o wide", "drift show one-1", "drift show nobody", "history", "history -o wide",
		"history ConfigMap/a/b --limit 1", "sync --cluster one", "sync --cluster nobody", "drift ignore one-1", "drift ignore one-1 --by-manager",
		"join --cluster one --out " + filepath.Join(t.TempDir(), "join.json"),
	} {
		code, out, talk := run(t, strings.Fields(args)...)
		harmless(t, args, out)
		harmless(t, args+" on standard error", talk)
		if out+talk == "" {
			t.Errorf("%s says nothing, with exit code %d", args, code)
		}
		if strings.Contains(args, "-o") || code != 0 {
			continue
		}
		for _, format := range []string{"json", "yaml"} {
			code, out, talk := run(t, append(strings.Fields(args), "-o", format)...)
			harmless(t, args+" as "+format, out)
			if code != 0 || format == "json" && !strings.Contains(args, "history ConfigMap") && !strings.Contains(out, `\u001b`) {
				t.Errorf("%s as %s: exit code %d: %s%s", args, format, code, out, talk)
			}
		}
	}
}

// What commands print of a cluster is as harmless, whatever its objects and its agent say.
func TestHostileCluster(t *testing.T) {
	for what, show := range map[string]func(w *terminal.Printer){
		"status": func(w *terminal.Printer) {
			if err := (output{format: "table"}).print(w, nil, func(w *terminal.Printer) { clusterTable(w, filled[clusterState]()) }); err != nil {
				t.Error(err)
			}
		},
		"drift":           func(w *terminal.Printer) { driftTable(w, []api.Episode{filled[api.Episode]()}, room{width: 80}) },
		"drift show":      func(w *terminal.Printer) { showEpisode(w, filled[api.Episode](), 80) },
		"drift explain":   func(w *terminal.Printer) { showExplanation(w, filled[explanation](), room{}) },
		"history":         func(w *terminal.Printer) { historyTable(w, []happened{filled[happened]()}, room{wide: true}) },
		"resume":          func(w *terminal.Printer) { resumeFields(w, filled[api.Episode]()) },
		"resume, adopt":   func(w *terminal.Printer) { howToAdopt(w, []api.Episode{filled[api.Episode]()}) },
		"a list of names": func(w *terminal.Printer) { w.Printf("warning: %s\n", suggest.Listed([]string{hostile, hostile})) },
		"the demo": func(w *terminal.Printer) {
			w.Printf("%s", withoutKubectl(hostile))
		},
	} {
		var b strings.Builder
		show(terminal.To(&b))
		harmless(t, what, b.String())
	}
	for _, o := range []preview.Outcome{preview.OutcomeChange, preview.OutcomeUnclear, preview.OutcomeRefused, preview.OutcomeHeld, preview.OutcomeReported, preview.OutcomeSkipped, preview.OutcomeFailed} {
		row := filled[preview.Change]()
		row.Outcome = o
		var b strings.Builder
		printPlanned(terminal.To(&b), []preview.Change{row})
		harmless(t, "diff "+string(o), b.String())
	}
}

// A name of a file ends no comment, and what manifests hold reaches no terminal.
func TestHostileRepository(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"clusters/one/cluster.yaml":       "apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {name: one}\n",
		"app/bundle.yaml":                 "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: app}\nspec: {namespace: app}\n",
		"app/a.yaml":                      "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: \"x\\e[2K\\r\\x9b31m\\u202e\\nFAKE\"}\n",
		"app/\u202eb.yaml":                "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\n",
		"bad/bundle.yaml":                 "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: bad}\nspec: {namespace: app}\n",
		"bad/c.yaml":                      "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: \"c\\e[2K\\nflotilla: FAKE\"}\n",
		"worse/bundle.yaml":               "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: worse}\n",
		"worse/c.yaml":                    "apiVersion: v1\nkind: ConfigMap\n\"\\e[2K\\nFAKE\": [\n",
		"clusters/\u202etwo/cluster.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {name: two}\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{"render", "--repo", dir, "--cluster", "one"},
		{"render", "--repo", dir, "--cluster", "one", "--bundle", "app"},
		{"render", "--repo", dir, "--cluster", "one", "--bundle", "bad"},
		{"render", "--repo", dir, "--cluster", "one", "--bundle", hostile},
		{"render", "--repo", dir, "--cluster", hostile},
		{"render", "--repo", hostile, "--cluster", "one"},
		{"render", "--" + hostile},
		{"render", hostile},
		{hostile},
		{"status", "--kubeconfig", hostile},
		{"drift", "--state", hostile},
		{"suspend", "--object", hostile, "--for", "1h", "--reason", "x"},
	} {
		_, out, talk := run(t, args...)
		what := strings.Join(args, " ")
		harmless(t, what, out)
		harmless(t, what+" on standard error", talk)
		if out+talk == "" {
			t.Errorf("%q says nothing", what)
		}
	}
}

// An answer that could not be written whole is a failure, not a short answer.
func TestExecute_fullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	var talk strings.Builder
	if code := Execute(t.Context(), []string{"version"}, IO{In: strings.NewReader(""), Out: full, Err: &talk}); code == 0 || !strings.Contains(talk.String(), "no space left") {
		t.Errorf("exit code %d: %s", code, talk.String())
	}
}
