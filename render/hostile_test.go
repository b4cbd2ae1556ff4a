package render_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/sandbox"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/engine"
	"github.com/flotilla-fleet/flotilla/render/rendertest"
)

// limited are workers with limits that a hostile bundle reaches soon.
func limited(t testing.TB) *engine.Remote {
	t.Helper()
	command, err := sandbox.Self(engine.Word)
	if err != nil {
		t.Fatal(err)
	}
	r, err := engine.NewRemote(engine.RemoteConfig{
		Command: command, Limits: sandbox.Limits{Time: 10 * time.Second, Memory: 256 << 20, Output: 4 << 20},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// chartOf is a chart with one template.
func chartOf(template string) []string {
	return []string{
		"h/bundle.yaml", bundleYAML("h", "{helm: {chart: ./}}"), "h/Chart.yaml", "{apiVersion: v2, name: c, version: 1.0.0}", "h/templates/x.yaml", template,
	}
}

// doubled is a chain of steps, each of which takes the last one twice.
func doubled(steps int, first, step string) string {
	var b strings.Builder
	b.WriteString(first)
	for i := range steps {
		fmt.Fprintf(&b, step, i, i+1)
	}
	return b.String()
}

// kustomizations make one whose bases are the last one twice.
func kustomizations(steps int) []string {
	out := []string{
		"h/bundle.yaml", bundleYAML("h", "{kustomize: {path: k"+fmt.Sprint(steps)+"}}"),
		"h/k0/kustomization.yaml", "resources: [cm.yaml]\n", "h/k0/cm.yaml", configMap("c", "a: b"),
	}
	for i := 1; i <= steps; i++ {
		k := fmt.Sprintf("h/k%d", i)
		out = append(out, k+"/kustomization.yaml", "resources: [a, b]\n")
		for _, side := range []string{"a", "b"} {
			out = append(out, k+"/"+side+"/kustomization.yaml", fmt.Sprintf("namePrefix: %s-\nresources: [../../k%d]\n", side, i-1))
		}
	}
	return out
}

// What a bundle takes to be rendered ends its own rendering, with its name and the limit, and none of its neighbours'.
func TestHostile(t *testing.T) {
	kustomization := func(more string) []string {
		return []string{
			"h/bundle.yaml", bundleYAML("h", ""), "h/kustomization.yaml", "resources: [cm.yaml]\n" + more,
			"h/cm.yaml", configMap("a", "x: "+strings.Repeat("a", 1000)),
		}
	}
	const object = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: '%s'}\n"
	for name, tt := range map[string]struct {
		files []string
		words string
	}{
		"repeat":                {chartOf(`{{ repeat 2000000000 "a" }}`), "memory"},
		"until":                 {chartOf(`{{ until 2000000000 }}`), "memory"},
		"doubling":              {chartOf(doubled(40, `{{ $a := "aa" }}`, "{{ $a = print $a $a }}{{/* %d %d */}}") + "{{ $a }}"), "memory"},
		"replace":               {chartOf(doubled(9, `{{ $a := "aa" }}`, `{{ $a = replace "a" "aaaaaaaaaaaaaaaa" $a }}{{/* %d %d */}}`)), "memory"},
		"an endless range":      {chartOf(`{{ range until 100000 }}{{ range until 100000 }}{{ end }}{{ end }}`), "longer than 10s"},
		"keys":                  {chartOf(`{{ range until 100000 }}{{ $x := genPrivateKey "rsa" }}{{ end }}`), "longer than 10s"},
		"a template in itself":  {chartOf(`{{ define "x" }}{{ template "x" }}{{ end }}{{ template "x" }}`), "exceeded maximum template depth"},
		"tpl in itself":         {append(chartOf(`{{ tpl .Values.x . }}`), "h/values.yaml", "x: '{{ tpl .Values.x . }}'\n"), ""},
		"much output":           {chartOf(fmt.Sprintf(object, `{{ repeat 4300000 "a" }}`)), "output"},
		"a schema":              {append(chartOf("{}"), "h/values.schema.json", schema(40)), "to render"},
		"bases twice":           {kustomizations(30), "to render"},
		"a patch copies itself": {kustomization("patches:\n- target: {kind: ConfigMap}\n  patch: |-\n" + doubled(40, "", "    - {op: copy, from: /data, path: /data/x%d-%d}\n")), "to render"},
		"replacements": {kustomization(doubled(40, "replacements:\n",
			"# %d %d\n- source: {kind: ConfigMap, fieldPath: data.x}\n  targets: [{select: {kind: ConfigMap}, fieldPaths: [data.x], options: {delimiter: '|', index: 1}}]\n")), "to render"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begun := time.Now()
			r := newRenderer(t, render.Config{Engine: limited(t)})
			out := mustRender(t, r, shared().With(tt.files...).Snapshot(), "one")
			err := bundle(t, out, "h").Err
			if err == nil || !strings.Contains(err.Error(), tt.words) || api.KindOf(err) != api.Stalled {
				t.Errorf("got %v, want an error about %q", err, tt.words)
			}
			t.Logf("%v: %.200v", time.Since(begun).Round(time.Millisecond), err)
			for _, other := range []string{"a", "k"} {
				if err := bundle(t, out, other).Err; err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// Whatever a template says, its rendering ends, with objects or with an error that names the bundle's files,
// and what is rendered beside it comes out.
func FuzzTemplate(f *testing.F) {
	for _, template := range []string{
		`{{ repeat 2000000000 "a" }}`, `{{ range until 100000 }}{{ range until 100000 }}{{ end }}{{ end }}`, `{{ define "x" }}{{ template "x" }}{{ end }}{{ template "x" }}`,
		`{{ tpl "{{ .Values | toYaml }}" . }}`, `{{ fail "no" }}`, `{{ .Files.Get "../../fleet.yaml" }}`, `{{ (lookup "v1" "Secret" "" "").items | len }}`, `{{ env "HOME" }}`,
		"{{ genPrivateKey \"rsa\" }}", configMap("c", "a: b"), "{{ printf \"%2000000000d\" 1 }}", "a: &a [*a]", "\x00", "{{",
	} {
		f.Add(template)
	}
	r := limited(f)
	f.Fuzz(func(t *testing.T, template string) {
		begun := time.Now()
		out := mustRender(t, newRenderer(t, render.Config{Engine: r}), shared().With(chartOf(template)...).Snapshot(), "one")
		if took := time.Since(begun); took > 2*time.Minute {
			t.Errorf("it took %v", took)
		}
		b := bundle(t, out, "h")
		e, ok := errors.AsType[*api.Error](b.Err)
		if b.Err != nil && (!ok || !strings.HasPrefix(e.File, "h")) || b.Err == nil && len(b.Objects)+len(b.Hooks) == 0 {
			t.Errorf("got %d objects and %v", len(b.Objects), b.Err)
		}
		for _, other := range []string{"a", "k"} {
			if err := bundle(t, out, other).Err; err != nil {
				t.Error(err)
			}
		}
	})
}

// schema is one that refers to itself twice at each level.
func schema(levels int) string {
	return doubled(levels, `{"$defs": {"d0": {"type": "number"}`, `, "d%[2]d": {"anyOf": [{"$ref": "#/$defs/d%[1]d"}, {"$ref": "#/$defs/d%[1]d"}]}`) +
		fmt.Sprintf(`}, "$ref": "#/$defs/d%d"}`, levels)
}

// only is the one file of a directory.
func only(t *testing.T, dir string) string {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil || len(all) != 1 {
		t.Fatalf("there are %v, %v", all, err)
	}
	return filepath.Join(dir, all[0].Name())
}

// What ended its own rendering is not tried again by a restart, but by a commit that changes it, and by other limits.
func TestRefused_isRemembered(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "refused")
	counted := &counting{Engine: limited(t)}
	files := shared().With(chartOf(`{{ repeat 2000000000 "a" }}`)...)
	config := render.Config{Engine: counted, RefusedDir: dir, Bounds: "some"}
	render1 := func(r *render.Renderer, files rendertest.Files, runs int, fails bool) string {
		t.Helper()
		counted.charts = 0
		err := bundle(t, mustRender(t, r, files.Snapshot(), "one"), "h").Err
		if (err != nil) != fails || counted.charts != runs {
			t.Errorf("got %v after %d renderings, want %d", err, counted.charts, runs)
		}
		if err == nil {
			return ""
		}
		e, ok := errors.AsType[*api.Error](err)
		if !ok || e.Reason != engine.ReasonLimit || e.File != "h" || e.Hint == "" {
			t.Errorf("got %#v", err)
		}
		return err.Error()
	}
	r := newRenderer(t, config)
	first := render1(r, files, 1, true)
	render1(r, files, 0, true)
	render1(r, files.With("a/cm.yaml", configMap("a", "other: x")), 0, true)
	r = newRenderer(t, config) // a restart
	if again := render1(r, files, 0, true); again != first {
		t.Errorf("first %q, then %q", first, again)
	}
	config.Bounds = "others"
	render1(newRenderer(t, config), files, 1, true)
	config.Bounds = "some"
	r = newRenderer(t, config)
	render1(r, files, 1, true)
	mended := files.With(chartOf("{{ if false }}{{ end }}" + configMap("h", ""))...)
	render1(r, mended, 1, false)
	// It is still remembered: what Git says and what was applied are rendered by turns, and a commit may be reverted.
	render1(r, files, 0, true)
	render1(r, mended, 0, false)
	r = newRenderer(t, config)
	render1(r, mended, 1, false)
	render1(r, files, 0, true)
	for i := range 10 { // but not everything for ever
		render1(r, files.With(chartOf(fmt.Sprintf(`{{ repeat %d "a" }}`, 2000000001+i))...), 1, true)
	}
	if text, err := os.ReadFile(only(t, dir)); err != nil || bytes.Count(text, []byte(`"Cause"`)) != 4 {
		t.Errorf("kept: %s, %v", text, err)
	}
	render1(r, files, 1, true)
	mustRender(t, newRenderer(t, config), shared().Snapshot(), "one") // the bundle is gone
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v is left, %v", left, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	render1(newRenderer(t, config), files, 1, true)
}
