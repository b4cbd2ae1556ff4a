package render_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/sandbox"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/engine"
	"github.com/flotilla-fleet/flotilla/render/rendertest"
)

// timed is an engine whose time is what the test says: directory of a kustomization -> how long that takes.
type timed struct {
	mu    sync.Mutex
	takes map[string]time.Duration
	ran   []string
}

func (e *timed) Run(ctx context.Context, req engine.Request, files engine.Files) (engine.Result, error) {
	name := filepath.Base(req.Kustomization.Dir)
	e.mu.Lock()
	takes := e.takes[name]
	e.ran = append(e.ran, name)
	e.mu.Unlock()
	out, err := engine.Local{}.Run(ctx, req, files)
	out.Took = takes
	if req.Time > 0 && takes > req.Time {
		return engine.Result{Took: req.Time}, &api.Error{Kind: api.Stalled, Reason: engine.ReasonTime, Err: errors.New("too long")}
	}
	return out, err
}

// since returns what ran since it was asked last.
func (e *timed) since() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	slices.Sort(e.ran)
	out := strings.Join(e.ran, " ")
	e.ran = nil
	return out
}

// busy is a fleet whose tenant t may take a minute to have its bundles rendered. The tenant u has no quota.
type busy struct {
	t      *testing.T
	engine *timed
	config render.Config
	files  rendertest.Files
	r      *render.Renderer
	held   map[string]string
}

func newBusy(t *testing.T, takes map[string]time.Duration) *busy {
	b := &busy{t: t, engine: &timed{takes: takes}, files: rendertest.Files{
		"clusters/one/cluster.yaml": clusterYAML("one", "prod", "color: blue"),
		"clusters/two/cluster.yaml": clusterYAML("two", "prod", "color: red"),
	}}
	b.config = render.Config{Engine: b.engine, RefusedDir: filepath.Join(t.TempDir(), "refused"), Bounds: "some"}
	b.quota("1m")
	for name := range takes {
		dir := "teams/t/"
		if name[0] == 'u' || name[0] == 'p' {
			dir = map[byte]string{'u': "teams/u/", 'p': "platform/"}[name[0]]
		}
		b.files[dir+name+"/bundle.yaml"] = bundleYAML(name, "")
		b.files[dir+name+"/kustomization.yaml"] = "resources: [cm.yaml]\n"
		b.files[dir+name+"/cm.yaml"] = configMapIn("t", name)
	}
	b.r = newRenderer(t, b.config)
	return b
}

func (b *busy) quota(text string) {
	b.files["fleet.yaml"] = head + `kind: Fleet
spec:
  tenants:
  - {name: t, path: teams/t, serviceAccount: {namespace: t, name: d}, namespaces: [t], quotas: {renderingTime: ` + text + `}}
  - {name: u, path: teams/u, serviceAccount: {namespace: t, name: d}, namespaces: [t]}
`
}

func (b *busy) restart() { b.r = newRenderer(b.t, b.config) }

// change has a bundle of the tenant rendered once more, which then takes that long.
func (b *busy) change(name string, takes time.Duration) {
	b.files["teams/t/"+name+"/cm.yaml"] += "# changed\n"
	b.engine.takes[name] = takes
}

// is renders a cluster and compares what ran and what failed, with the errors.
func (b *busy) is(what, ran string, fails map[string]string) {
	b.t.Helper()
	out, err := b.r.Render(b.t.Context(), b.files.Snapshot(), "one", api.ClusterFacts{Holders: b.held})
	if err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
	if got := b.engine.since(); got != ran {
		b.t.Errorf("%s: %q ran, want %q", what, got, ran)
	}
	for _, rb := range out.Bundles {
		switch want, fail := fails[rb.Name]; {
		case !fail && rb.Err != nil:
			b.t.Errorf("%s: %s: %v", what, rb.Name, rb.Err)
		case fail && (rb.Err == nil || rb.Err.Error() != want):
			b.t.Errorf("%s: %s: got %v, want %s", what, rb.Name, rb.Err, want)
		case fail && strings.Contains(want, "waits") != (api.KindOf(rb.Err) == api.Waiting),
			fail && strings.Contains(want, "takes more") != (api.KindOf(rb.Err) == api.Forbidden):
			b.t.Errorf("%s: %s: the kind is %s", what, rb.Name, api.KindOf(rb.Err))
		}
	}
}

func over(bundle, text string) map[string]string {
	return map[string]string{bundle: "teams/t/" + bundle + `/bundle.yaml: bundle "` + bundle + `" takes more than ` + text +
		" (make it do less, or raise quotas.renderingTime in fleet.yaml; it is tried again when it changes, when the others take less, or after an hour)"}
}

func TestQuota_renderingTime(t *testing.T) {
	b := newBusy(t, map[string]time.Duration{"a": 25 * time.Second, "b": 15 * time.Second, "c": 21 * time.Second, "p": time.Hour, "u": time.Hour})
	tooMuch := over("c", `20s to render: tenant "t" may take 1m0s, and a takes 25s, b takes 15s`)
	b.is("at first", "a b c p u", tooMuch)
	b.is("what is too much is not tried again", "", tooMuch)
	b.files["teams/u/u/cm.yaml"] += "# changed\n"
	b.is("nor by another's change", "u", tooMuch)

	// After a restart everything takes another time. Nothing is decided otherwise for that.
	for name := range b.engine.takes {
		b.engine.takes[name] += 10 * time.Second
	}
	b.engine.takes["c"] = time.Second
	for range 2 {
		b.restart()
		b.is("a restart", "a b p u", tooMuch)
	}

	b.change("c", 19*time.Second)
	b.is("it changes", "c", nil)
	b.is("and stays", "", nil)
	b.change("a", 30*time.Second)
	b.is("who grows fails, and not who was there", "a", over("a", `26s to render: tenant "t" may take 1m0s, and c takes 19s, b takes 15s`))
	b.change("c", time.Second)
	b.is("the others take less, and what was refused is tried again", "a c", nil)

	b.change("c", time.Hour)
	b.is("it grows once more", "c", over("c", `15s to render: tenant "t" may take 1m0s, and a takes 30s, b takes 15s`))
	b.quota("3h")
	b.is("the quota is raised", "a b c p", nil) // whatever a tenant may have, the platform may not
	b.quota("40s")
	b.is("the quota is lowered: what takes how much is known", "a p", map[string]string{
		"b": over("b", `10s to render: tenant "t" may take 40s, and a takes 30s`)["b"],
		"c": over("c", `10s to render: tenant "t" may take 40s, and a takes 30s`)["c"],
	})
	b.quota("2h")
	for name := range b.engine.takes {
		b.engine.takes[name] *= 10 // that is no news
	}
	b.files["teams/t/d/bundle.yaml"], b.files["teams/t/d/kustomization.yaml"] = bundleYAML("d", ""), "resources: [cm.yaml]\n"
	b.files["teams/t/d/cm.yaml"] = configMapIn("t", "d")
	b.is("a bundle comes, and the others are not measured again", "a b c d p", nil)
}

// What a bundle takes that fails is gone for this pass. Those behind it have their turn in the next one.
func TestQuota_renderingTimeOfAPass(t *testing.T) {
	b := newBusy(t, map[string]time.Duration{"a": time.Hour, "b": time.Hour, "c": 50 * time.Second, "d": 0, "p": time.Second})
	const waits = `waits for the next pass to be rendered: in this one, tenant "t" used up its rendering time of 1m0s on what failed, which is `
	first := over("a", `1m0s to render: tenant "t" may take 1m0s, and no other bundle takes any`)
	maps.Copy(first, map[string]string{
		"b": `teams/t/b/bundle.yaml: bundle "b" ` + waits + "a takes 1m0s",
		"c": `teams/t/c/bundle.yaml: bundle "c" ` + waits + "a takes 1m0s",
	})
	delete(b.files, "teams/t/d/kustomization.yaml") // plain YAML takes none of it
	b.is("the first pass", "a p", first)
	second := over("a", `1m0s to render: tenant "t" may take 1m0s, and no other bundle takes any`)
	maps.Copy(second, over("b", `1m0s to render: tenant "t" may take 1m0s, and no other bundle takes any`))
	second["c"] = `teams/t/c/bundle.yaml: bundle "c" ` + waits + "b takes 1m0s"
	b.is("the second pass", "b", second)
	delete(second, "c")
	b.is("the third pass", "c", second)
	b.is("the fourth pass", "", over2(second, "c takes 50s"))

	// An error of another kind is no reason to wait: it costs what it costs, and that counts.
	b.files["teams/t/a/kustomization.yaml"] = "resources: [missing.yaml]\n"
	b.engine.takes["a"] = time.Second
	b.files["teams/t/b/cm.yaml"] += "# changed\n"
	b.engine.takes["b"] = 0
	for _, ran := range []string{"a b", "a"} {
		b.is("a mistake", ran, map[string]string{"a": `teams/t/a/kustomization.yaml:1: resources: "missing.yaml" does not exist`})
	}
}

// over2 is what is said once another bundle has its part.
func over2(errs map[string]string, takes string) map[string]string {
	out := maps.Clone(errs)
	for name, text := range out {
		out[name] = strings.NewReplacer("no other bundle takes any", takes, "takes more than 1m0s", "takes more than 10s").Replace(text)
	}
	return out
}

// What the cluster has goes before what is new, and a bundle that left is forgotten.
func TestQuota_renderingTimeOfWhoIsThere(t *testing.T) {
	b := newBusy(t, map[string]time.Duration{"a": 40 * time.Second, "b": 40 * time.Second})
	b.held = map[string]string{"b": "t", "a": ""}
	b.is("b was there first", "a b", over("a", `20s to render: tenant "t" may take 1m0s, and b takes 40s`))
	for _, file := range []string{"bundle.yaml", "kustomization.yaml", "cm.yaml"} {
		delete(b.files, "teams/t/b/"+file)
	}
	b.is("b is gone", "a", nil)
	if kept, err := os.ReadDir(b.config.RefusedDir); err != nil || len(kept) != 1 {
		t.Errorf("kept: %v, %v", kept, err)
	}
}

// unhurried are workers that have as long as a loaded machine needs to give them their processor time.
func unhurried(t *testing.T) *engine.Remote {
	t.Helper()
	command, err := sandbox.Self(engine.Word)
	if err != nil {
		t.Fatal(err)
	}
	r, err := engine.NewRemote(engine.RemoteConfig{Command: command, Limits: sandbox.Limits{Time: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// A tenant's chart that has no end costs what the tenant has, and the bundles of others nothing.
func TestQuota_renderingTimeOfWorkers(t *testing.T) {
	r := newRenderer(t, render.Config{Engine: unhurried(t)})
	files := rendertest.Files{
		"clusters/one/cluster.yaml": clusterYAML("one", "prod", "color: blue"),
		"fleet.yaml": head + "kind: Fleet\nspec:\n  tenants:\n" +
			"  - {name: t, path: t, serviceAccount: {namespace: t, name: d}, namespaces: [t], quotas: {renderingTime: 2s}}\n",
		"t/a/bundle.yaml": bundleYAML("a", "{helm: {chart: ./}}"), "t/a/Chart.yaml": "{apiVersion: v2, name: c, version: 1.0.0}",
		"t/a/templates/x.yaml": configMapIn("t", "a"),
		"t/b/bundle.yaml":      bundleYAML("b", "{helm: {chart: ./}}"), "t/b/Chart.yaml": "{apiVersion: v2, name: c, version: 1.0.0}",
		"t/b/templates/x.yaml": `{{ range until 100000 }}{{ range until 100000 }}{{ end }}{{ end }}`,
		"p/bundle.yaml":        bundleYAML("p", ""), "p/kustomization.yaml": "resources: [cm.yaml]\n", "p/cm.yaml": configMapIn("p", "p"),
	}
	out := mustRender(t, r, files.Snapshot(), "one")
	for _, name := range []string{"a", "p"} {
		if err := bundle(t, out, name).Err; err != nil {
			t.Error(err)
		}
	}
	err := bundle(t, out, "b").Err
	wantError(t, err, denied("t/b/bundle.yaml", 0, ""), `to render: tenant "t" may take 2s, and a takes `)
	if again := bundle(t, mustRender(t, r, files.Snapshot(), "one"), "b").Err; again.Error() != err.Error() {
		t.Errorf("first %v, then %v", err, again)
	}
}
