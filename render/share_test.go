package render_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/engine"
	"github.com/flotilla-fleet/flotilla/render/rendertest"
)

// tally counts what engines are asked for, by any number of goroutines.
type tally struct {
	render.Engine
	runs atomic.Int64
}

func (c *tally) Run(ctx context.Context, req engine.Request, files engine.Files) (engine.Result, error) {
	c.runs.Add(1)
	return c.Engine.Run(ctx, req, files)
}

// manyClusters is a fleet of n clusters, of which every third is one of environment a, b and c.
// The bundle k has an overlay for each environment, v is the same everywhere but for a variable, p is plain, and h is a chart.
func manyClusters(n int) rendertest.Files {
	files := rendertest.Files{
		"k/base/kustomization.yaml": "resources: [cm.yaml]\n", "k/base/cm.yaml": configMap("k", "env: none"),
		"k/bundle.yaml": bundleYAML("k", "{targets: [{clusterSelector: {matchLabels: {env: a}}, overlay: a}, {clusterSelector: {matchLabels: {env: b}}, overlay: b}, {overlay: c}]}"),
		"v/bundle.yaml": bundleYAML("v", "{substitute: true}"), "v/kustomization.yaml": "resources: [cm.yaml]\n",
		"v/cm.yaml":     configMap("v", "region: '${region}', size: '${size:-small}'"),
		"p/bundle.yaml": bundleYAML("p", "{substitute: true}"), "p/cm.yaml": configMap("p", "name: '${CLUSTER_NAME}'"),
		"h/bundle.yaml":       bundleYAML("h", "{helm: {chart: ./, values: {region: '${region}'}}, substitute: true}"),
		"h/Chart.yaml":        "{apiVersion: v2, name: c, version: 1.0.0}",
		"h/templates/cm.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: h, namespace: default}\ndata: {r: {{ .Values.region }} }\n",
	}
	for _, env := range []string{"a", "b", "c"} {
		files["k/"+env+"/kustomization.yaml"] = "resources: [../base]\nnamePrefix: " + env + "-\n"
	}
	for i := range n {
		name := fmt.Sprintf("c%03d", i)
		files["clusters/"+name+"/cluster.yaml"] = clusterYAML(name, string(rune('a'+i%3)), fmt.Sprintf("region: r%d, unused: 'u%d'", i%2, i))
	}
	return files
}

func clustersOf(t testing.TB, files rendertest.Files) []string {
	t.Helper()
	all, err := render.Clusters(files.Snapshot().Tree)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range all {
		names = append(names, c.Metadata.Name)
	}
	return names
}

// everywhere renders all clusters at once.
func everywhere(t testing.TB, r *render.Renderer, files rendertest.Files) map[string]api.Rendering {
	t.Helper()
	snap := files.Snapshot()
	out := map[string]api.Rendering{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, name := range clustersOf(t, files) {
		wg.Go(func() {
			got, err := r.Render(t.Context(), snap, name, api.ClusterFacts{})
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			out[name] = got
		})
	}
	wg.Wait()
	return out
}

// Clusters for which the same is read share one rendering, whoever asks first and however many ask at once.
// What each gets is what it would get alone.
func TestShare_rendersOnceWhatIsTheSame(t *testing.T) {
	counted := &tally{Engine: workers}
	r := newRenderer(t, render.Config{Engine: counted, Concurrency: 4})
	files := manyClusters(24)
	got := everywhere(t, r, files)
	// Three overlays of k, two regions of v, two of h; p needs no engine.
	if runs := counted.runs.Load(); runs != 7 {
		t.Errorf("%d runs of engines for 24 clusters, want 7", runs)
	}
	for _, name := range []string{"c000", "c001", "c002", "c005", "c023"} {
		alone := mustRender(t, newRenderer(t, render.Config{}), files.Snapshot(), name)
		if diff := cmp.Diff(texts(t, alone), texts(t, got[name])); diff != "" {
			t.Errorf("%s gets something else than alone:\n%s", name, diff)
		}
	}
	for _, tt := range []struct {
		bundle, a, b string
		same         bool
	}{
		{"k", "c000", "c003", true},
		{"k", "c000", "c001", false},
		{"v", "c000", "c002", true},
		{"v", "c000", "c001", false},
		{"h", "c000", "c004", true},
		{"h", "c000", "c001", false},
		{"p", "c000", "c006", false},
	} {
		a, b := bundle(t, got[tt.a], tt.bundle), bundle(t, got[tt.b], tt.bundle)
		if same(a, b) != tt.same || (a.Inputs == b.Inputs) != tt.same {
			t.Errorf("%s on %s and %s: one rendering: %v, one input: %v, want %v", tt.bundle, tt.a, tt.b, same(a, b), a.Inputs == b.Inputs, tt.same)
		}
	}
	in := bundle(t, got["c000"], "v").Inputs
	if diff := cmp.Diff(map[string]string{"region": "r0"}, in.Variables); diff != "" || !slices.Equal(in.Unset, []string{"size"}) {
		t.Errorf("the variables that were read: %s, unset %v", diff, in.Unset)
	}
	if in := bundle(t, got["c001"], "k").Inputs; in.Target != 1 || in.Overlay != "b" || !slices.Contains(in.Paths, "k/base/cm.yaml") {
		t.Errorf("got %+v", in)
	}
}

// A cluster that differs in something that is read gets a rendering of its own; in anything else, it shares.
func TestShare_neighbours(t *testing.T) {
	base := manyClusters(3)
	for _, tt := range []struct {
		name   string
		change []string
		alone  string // bundles that c001 does not share with c003 any more
	}{
		{"nothing", nil, ""},
		{"a variable that is read", []string{"clusters/c003/cluster.yaml", clusterYAML("c003", "a", "region: r9")}, "hv"},
		{"a variable that was not set", []string{"clusters/c003/cluster.yaml", clusterYAML("c003", "a", "region: r0, size: big")}, "v"},
		{"a variable that is not read", []string{"clusters/c003/cluster.yaml", clusterYAML("c003", "a", "region: r0, other: x")}, ""},
		{"another target", []string{"clusters/c003/cluster.yaml", clusterYAML("c003", "b", "region: r0")}, "k"},
		{"an expression that is not understood at once", []string{"v/cm.yaml", configMap("v", "region: '$${x} $${', size: '${size:-small}'")}, "v"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := base.With("clusters/c003/cluster.yaml", clusterYAML("c003", "a", "region: r0")).With(tt.change...)
			r := newRenderer(t, render.Config{})
			one, other := mustRender(t, r, files.Snapshot(), "c000"), mustRender(t, r, files.Snapshot(), "c003")
			alone := ""
			for _, name := range []string{"h", "k", "v"} {
				if !same(bundle(t, one, name), bundle(t, other, name)) {
					alone += name
				}
			}
			if alone != tt.alone {
				t.Errorf("rendered alone: %q, want %q", alone, tt.alone)
			}
			fresh := mustRender(t, newRenderer(t, render.Config{}), files.Snapshot(), "c003")
			if diff := cmp.Diff(texts(t, fresh), texts(t, other)); diff != "" {
				t.Errorf("what is shared is something else than a fresh rendering:\n%s", diff)
			}
		})
	}
}

// Two commits that are rendered one after the other share what neither changed,
// and KeepAll remembers the first when it is asked for again.
func TestShare_acrossCommits(t *testing.T) {
	counted := &tally{Engine: workers}
	r := newRenderer(t, render.Config{Engine: counted, KeepAll: true})
	before := manyClusters(12)
	after := before.With("k/a/kustomization.yaml", "resources: [../base]\nnamePrefix: other-\n")
	everywhere(t, r, before)
	first := counted.runs.Load()
	everywhere(t, r, after)
	if more := counted.runs.Load() - first; more != 1 {
		t.Errorf("the second commit, which changes one overlay, took %d runs, want 1", more)
	}
	everywhere(t, r, before)
	everywhere(t, r, after)
	if more := counted.runs.Load() - first; more != 1 {
		t.Errorf("both commits again took %d runs, want none", more-1)
	}
}

// What nobody uses is forgotten without KeepAll, and what is kept stays within its bound.
func TestShare_isBounded(t *testing.T) {
	counted := &tally{Engine: workers}
	r := newRenderer(t, render.Config{Engine: counted, CacheBundles: 4, KeepAll: true})
	files := manyClusters(6)
	for range 2 {
		for _, name := range clustersOf(t, files) {
			got := mustRender(t, r, files.Snapshot(), name)
			alone := mustRender(t, newRenderer(t, render.Config{}), files.Snapshot(), name)
			if diff := cmp.Diff(texts(t, alone), texts(t, got)); diff != "" {
				t.Errorf("%s:\n%s", name, diff)
			}
		}
	}
	if runs := counted.runs.Load(); runs <= 7 {
		t.Errorf("%d runs: nothing was forgotten, and the bound is no bound", runs)
	}
}

// An error is told to every cluster, and what fails is not kept for others that it may not concern.
func TestShare_errorsStayWhereTheyBelong(t *testing.T) {
	files := manyClusters(6).With("clusters/c001/cluster.yaml", clusterYAML("c001", "b", "other: x"))
	got := everywhere(t, newRenderer(t, render.Config{}), files)
	for name, out := range got {
		for _, b := range []string{"h", "v"} {
			if err := bundle(t, out, b).Err; (err != nil) != (name == "c001") {
				t.Errorf("%s on %s: %v", b, name, err)
			}
		}
	}
}
