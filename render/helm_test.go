package render_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/helm"
	"github.com/flotilla-fleet/flotilla/render/rendertest"
)

const valuesTemplate = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\ndata:\n{{ range $k, $v := .Values }}{{ if kindIs \"string\" $v }}  {{ $k }}: {{ $v | quote }}\n{{ end }}{{ end }}"

func chart(spec string, extra ...string) rendertest.Files {
	return fleet().With(
		"h/bundle.yaml", bundleYAML("h", spec),
		"h/chart/Chart.yaml", "{apiVersion: v2, name: thing, version: 1.0.0}",
		"h/chart/values.yaml", "a: chart\nb: chart\nc: chart\nd: chart\ne: chart\ngone: chart\n",
		"h/chart/templates/cm.yaml", valuesTemplate,
		"h/chart/templates/NOTES.txt", "Hello",
	).With(extra...)
}

func TestHelm_valuesLayers(t *testing.T) {
	files := chart(`
  helm:
    chart: ./chart
    releaseName: rel
    valuesFiles: [v1.yaml, v2.yaml]
    values: {c: inline, d: inline, e: inline, gone: null}
  targets:
  - clusters: [one]
    overlay: over
    values: {e: target}
  - overlay: over.yaml
`, "h/v1.yaml", "b: file\nc: file\n", "h/v2.yaml", "c: file2\n", "h/over/values.yaml", "d: overlay\ne: overlay\n", "h/over.yaml", "a: other\n")
	for cluster, want := range map[string]map[string]any{
		"one": {"a": "chart", "b": "file", "c": "inline", "d": "overlay", "e": "target"},
		"two": {"a": "other", "b": "file", "c": "inline", "d": "inline", "e": "inline"},
	} {
		out, err := renderFiles(t, files, cluster)
		if err != nil {
			t.Fatal(err)
		}
		h := bundle(t, out, "h")
		if h.Err != nil {
			t.Fatal(h.Err)
		}
		if diff := cmp.Diff([]string{"ConfigMap/default/rel"}, refs(h)); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(want, field(t, h.Objects[0], "data")); diff != "" {
			t.Errorf("on cluster %s: %s", cluster, diff)
		}
	}
}

// Variables are put into the values. What a template writes, such as a shell script, is left alone.
func TestHelm_substitute(t *testing.T) {
	files := chart(`
  substitute: true
  helm:
    chart: ./chart
    valuesFiles: [v.yaml]
    values:
      a: ${color}
      num: "${n:-3}"
      i: ${n:-3}
      off: ${metrics:-off}
      country: "${country:-no}"
`, "h/v.yaml", "b: ${color}-file\n",
		"h/chart/templates/more.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: more}\ndata: {script: 'echo ${HOME}', num: {{ kindOf .Values.num }}, i: {{ kindOf .Values.i }}, metrics: {{ .Values.false | quote }}, country: {{ .Values.country | quote }} }\n")
	out, err := renderFiles(t, files, "one")
	if err != nil {
		t.Fatal(err)
	}
	h := bundle(t, out, "h")
	if h.Err != nil {
		t.Fatal(h.Err)
	}
	data := field(t, h.Objects[0], "data").(map[string]any)
	if data["a"] != "blue" || data["b"] != "blue-file" {
		t.Errorf("got %v", data)
	}
	if diff := cmp.Diff(map[string]any{"script": "echo ${HOME}", "num": "string", "i": "float64", "metrics": "false", "country": "no"}, field(t, h.Objects[1], "data")); diff != "" {
		t.Error(diff)
	}
	out, err = renderFiles(t, files.With("h/v.yaml", "b: x\nc: ${nope}\n"), "one")
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, bundle(t, out, "h").Err, api.Error{Reason: "Substitution", File: "h/v.yaml", Line: 2, Field: "c"}, `"nope" is not set`)
}

func TestHelm_errors(t *testing.T) {
	const spec = "{helm: {chart: ./chart}}"
	for _, tt := range []struct {
		name  string
		spec  string
		extra []string
		want  api.Error
		text  string
	}{
		{"no chart", "\n  helm: {chart: ./nope}\n", nil, api.Error{File: "h/bundle.yaml", Line: 5, Field: "spec.helm.chart"}, `no directory "h/nope"`},
		{"chart without ./", "\n  helm: {chart: nope}\n", nil, api.Error{File: "h/bundle.yaml", Line: 5, Field: "spec.helm.chart"}, "begins with ./"},
		{"chart outside", "\n  helm: {chart: ../../x}\n", nil, api.Error{File: "h/bundle.yaml", Line: 5, Field: "spec.helm.chart"}, "leads out"},
		{"no Chart.yaml", spec, []string{"h/chart/Chart.yaml", ""}, api.Error{File: "h/chart"}, "no Chart.yaml"},
		{"bad Chart.yaml", spec, []string{"h/chart/Chart.yaml", "{apiVersion: v2, name: thing}"}, api.Error{File: "h/chart/Chart.yaml", Line: 1, Field: "version"}, "is required"},
		{"Chart.yaml that does not parse", spec, []string{"h/chart/Chart.yaml", "apiVersion: v2\n name: thing\n"}, api.Error{File: "h/chart/Chart.yaml", Line: 2}, "mapping values"},
		{"values that do not parse", spec, []string{"h/chart/values.yaml", "a: b\n c: d\n"}, api.Error{File: "h/chart/values.yaml", Line: 2}, "mapping values"},
		{"no values file", "\n  helm:\n    chart: ./chart\n    valuesFiles:\n    - nope.yaml\n", nil, api.Error{File: "h/bundle.yaml", Line: 8, Field: "spec.helm.valuesFiles.0"}, `no values file "h/nope.yaml"`},
		{"values that are a list", "{helm: {chart: ./chart, valuesFiles: [v.yaml]}}", []string{"h/v.yaml", "- a\n"}, api.Error{File: "h/v.yaml", Line: 1}, "values are a mapping"},
		{"remote chart", "\n  helm: {chart: oci://example.com/x, version: 1.0.0}\n", nil, api.Error{File: "h/bundle.yaml", Line: 5, Field: "spec.helm.chart"}, "cannot be fetched here"},
		{"template that fails", spec, []string{"h/chart/templates/x.yaml", "a: b\nc: {{ fail \"no way\" }}\n"}, api.Error{File: "h/chart/templates/x.yaml", Line: 2}, "no way"},
		{"template that does not parse", spec, []string{"h/chart/templates/x.yaml", "a: b\nc: {{ if }}\n"}, api.Error{File: "h/chart/templates/x.yaml", Line: 2}, "missing value for if"},
		{"template with a required value", spec, []string{"h/chart/templates/x.yaml", "c: {{ required \"host is needed\" .Values.host }}\n"}, api.Error{File: "h/chart/templates/x.yaml", Line: 1, Field: "values.host"}, "host is needed"},
		{
			"value that is not there, in an include", spec,
			[]string{"h/chart/templates/x.yaml", "a: {{ include \"x\" . }}\n", "h/chart/templates/_h.tpl", "{{ define \"x\" }}\n{{ .Values.foo.bar }}\n{{ end }}\n"},
			api.Error{File: "h/chart/templates/_h.tpl", Line: 2, Field: "values.foo.bar"},
			".Values.foo.bar: nil pointer evaluating interface {}.bar, included from h/chart/templates/x.yaml:1",
		},
		{
			"required value in an include", spec,
			[]string{"h/chart/templates/x.yaml", "a: {{ include \"x\" . }}\n", "h/chart/templates/_h.tpl", "{{ define \"x\" }}\n{{ required \"say foo\" .Values.foo }}\n{{ end }}\n"},
			api.Error{File: "h/chart/templates/_h.tpl", Line: 2, Field: "values.foo"},
			"say foo, included from h/chart/templates/x.yaml:1",
		},
		{
			"subchart", spec,
			[]string{
				"h/chart/Chart.yaml", "{apiVersion: v2, name: thing, version: 1.0.0, dependencies: [{name: sub, version: 1.0.0}]}",
				"h/chart/charts/sub/Chart.yaml", "{apiVersion: v2, name: sub, version: 1.0.0}", "h/chart/charts/sub/templates/x.yaml", "a: b\nc: {{ .Values.foo.bar }}\n",
			},
			api.Error{File: "h/chart/charts/sub/templates/x.yaml", Line: 2, Field: "values.foo.bar"},
			"nil pointer",
		},
		{"output that is no YAML", spec, []string{"h/chart/templates/x.yaml", "a: b\n c: d\n"}, api.Error{File: "h/chart/templates/x.yaml", Line: 2}, "the line is that of the rendered output"},
		{"output without kind", spec, []string{"h/chart/templates/x.yaml", "a: b\n"}, api.Error{File: "h/chart/templates/x.yaml", Line: 1, Field: "apiVersion"}, "has no apiVersion"},
		{
			"schema", "{helm: {chart: ./chart, values: {num: {m: x}}}}",
			[]string{"h/chart/values.schema.json", `{"properties": {"num": {"properties": {"m": {"type": "integer"}}}}}`},
			api.Error{File: "h/bundle.yaml", Line: 4, Field: "values.num.m"},
			"got string, want integer",
		},
		{"dependency that is not there", spec, []string{"h/chart/Chart.yaml", "{apiVersion: v2, name: thing, version: 1.0.0, dependencies: [{name: sub, version: 1.0.0, repository: https://x}]}"}, api.Error{File: "h/chart/Chart.yaml", Line: 1, Field: "dependencies"}, "helm dependency update"},
		{"other Kubernetes", spec, []string{"h/chart/Chart.yaml", "apiVersion: v2\nname: thing\nversion: 1.0.0\nkubeVersion: '<1.20.0'\n"}, api.Error{File: "h/chart/Chart.yaml", Line: 4, Field: "kubeVersion"}, "the chart needs Kubernetes <1.20.0, and the cluster has v1."},
		{"schema with a value that is missing", spec, []string{"h/chart/values.schema.json", `{"required": ["host"]}`}, api.Error{File: "h/chart/values.schema.json", Field: "values.host"}, "missing property 'host'"},
		{"library", spec, []string{"h/chart/Chart.yaml", "{apiVersion: v2, name: thing, version: 1.0.0, type: library}"}, api.Error{File: "h/chart/Chart.yaml"}, "library chart"},
		{"random name", spec, []string{"h/chart/templates/x.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x-{{ randAlphaNum 8 | lower }}}\n"}, api.Error{Reason: "Unstable", File: "h/chart/templates/x.yaml", Line: 3}, "another name each time"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := renderFiles(t, chart(tt.spec, tt.extra...), "one")
			if err != nil {
				t.Fatal(err)
			}
			wantError(t, bundle(t, out, "h").Err, tt.want, tt.text)
		})
	}
}

func TestHelm_hooksAndCRDs(t *testing.T) {
	hook := func(name, words, more string) string {
		return "---\napiVersion: batch/v1\nkind: Job\nmetadata:\n  name: " + name + "\n  annotations:\n    helm.sh/hook: " + words + more + "\n"
	}
	files := chart("{helm: {chart: ./chart}, namespace: team}",
		"h/chart/crds/crd.yaml", "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: ws.x.io}\nspec: {group: x.io, scope: Cluster, names: {kind: W}}\n",
		"h/chart/templates/w.yaml", "apiVersion: x.io/v1\nkind: W\nmetadata: {name: w}\n",
		"h/chart/templates/hooks.yaml", hook("post", "post-install,post-upgrade", "")+
			hook("late", "pre-install", "\n    helm.sh/hook-weight: \"5\"")+
			hook("early", "pre-install, pre-upgrade", "\n    helm.sh/hook-weight: \"-5\"\n    helm.sh/hook-delete-policy: hook-succeeded,before-hook-creation")+
			hook("test", "test", "")+hook("old", "crd-install", ""),
		"h/chart/charts/sub/Chart.yaml", "{apiVersion: v2, name: sub, version: 1.0.0}",
		"h/chart/charts/sub/templates/cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: sub}\ndata: {v: {{ .Capabilities.APIVersions.Has \"x.io/v1\" | quote }}, l: {{ len (lookup \"v1\" \"Secret\" \"a\" \"b\") | quote }} }\n",
	)
	r := newRenderer(t, render.Config{})
	out, err := r.Render(t.Context(), files.Snapshot(), "one", api.ClusterFacts{KubeVersion: "v1.37.1", APIVersions: []string{"v1", "x.io/v1"}})
	if err != nil {
		t.Fatal(err)
	}
	h := bundle(t, out, "h")
	if h.Err != nil {
		t.Fatal(h.Err)
	}
	want := []string{"ConfigMap/team/h", "ConfigMap/team/sub", "CustomResourceDefinition.apiextensions.k8s.io/ws.x.io", "W.x.io/w"}
	if diff := cmp.Diff(want, refs(h)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]any{"v": "true", "l": "0"}, field(t, h.Objects[1], "data")); diff != "" {
		t.Error(diff)
	}
	type short struct {
		Name     string
		Phases   []api.HookPhase
		Weight   int
		Policies []string
	}
	var got []short
	for _, k := range h.Hooks {
		if k.Object.GetNamespace() != "team" {
			t.Errorf("hook %s is in namespace %q", k.Object.GetName(), k.Object.GetNamespace())
		}
		got = append(got, short{k.Object.GetName(), k.Phases, k.Weight, k.DeletePolicies})
	}
	wantHooks := []short{
		{"early", []api.HookPhase{api.HookPreInstall, api.HookPreUpgrade}, -5, []string{"hook-succeeded", "before-hook-creation"}},
		{"post", []api.HookPhase{api.HookPostInstall, api.HookPostUpgrade}, 0, []string{"before-hook-creation"}},
		{"late", []api.HookPhase{api.HookPreInstall}, 5, []string{"before-hook-creation"}},
	}
	if diff := cmp.Diff(wantHooks, got); diff != "" {
		t.Error(diff)
	}
}

// Random values differ in each process, and must not look like a change.
func TestHelm_random(t *testing.T) {
	files := chart("{helm: {chart: ./chart}}",
		"h/chart/templates/x.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {p: {{ randAlphaNum 20 | b64enc }}, fixed: eA==}\n",
		"h/chart/templates/t.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: t}\ndata: {at: {{ now | unixEpoch | quote }} }\n")
	first, err := renderFiles(t, files, "one")
	if err != nil {
		t.Fatal(err)
	}
	second, err := renderFiles(t, files.With("h/chart/templates/t.yaml", ""), "one")
	if err != nil {
		t.Fatal(err)
	}
	third, err := renderFiles(t, files.With("h/chart/templates/t.yaml", ""), "one")
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := bundle(t, first, "h"), bundle(t, second, "h"), bundle(t, third, "h")
	if b.Err != nil {
		t.Fatal(b.Err)
	}
	if b.Digest != c.Digest {
		t.Error("a random value changes the digest")
	}
	want := []api.IgnoreRule{{Target: api.IgnoreTarget{Kind: "Secret", Name: "s"}, Paths: []string{"/data/p"}}}
	if diff := cmp.Diff(want, b.Spec.Drift.Ignore); diff != "" {
		t.Error(diff)
	}
	if got := strings.Join(a.Warnings, "\n"); !strings.Contains(got, "Secret/s: /data/p comes out differently") || !strings.Contains(got, "the time is used in") {
		t.Errorf("got warnings %q", got)
	}
	if changed, err := renderFiles(t, files.With("h/chart/templates/t.yaml", "", "h/chart/templates/x.yaml", strings.Replace(files["h/chart/templates/x.yaml"], "eA==", "eQ==", 1)), "one"); err != nil || bundle(t, changed, "h").Digest == b.Digest {
		t.Errorf("a real change keeps the digest (%v)", err)
	}
}

// What is random in a hook is no change either, and a hook of another name each time would run each time.
func TestHelm_randomHooks(t *testing.T) {
	hook := func(name, value string) string {
		return "---\napiVersion: v1\nkind: Secret\nmetadata: {name: " + name + ", annotations: {helm.sh/hook: pre-install}}\ndata: {p: " + value + ", fixed: eA==}\n"
	}
	random := hook("s", "{{ randAlphaNum 20 | b64enc }}")
	files := func(hooks string) rendertest.Files {
		return chart("{helm: {chart: ./chart}}", "h/chart/templates/x.yaml", hooks)
	}
	rendered := func(hooks string) api.RenderedBundle {
		t.Helper()
		out, err := renderFiles(t, files(hooks), "one")
		if err != nil {
			t.Fatal(err)
		}
		return bundle(t, out, "h")
	}
	// Two of one name are told apart by their order.
	for _, hooks := range []string{random, hook("s", "eQ==") + random, random + hook("s", "eQ==") + random} {
		a, b := rendered(hooks), rendered(hooks)
		if a.Err != nil || a.Digest != b.Digest {
			t.Errorf("a random value in a hook changes the digest (%v)", a.Err)
		}
		if got := strings.Join(a.Warnings, "\n"); !strings.Contains(got, "hook Secret/s: /data/p comes out differently") || len(a.Spec.Drift.Ignore) > 0 {
			t.Errorf("got warnings %q and rules %v", got, a.Spec.Drift.Ignore)
		}
		if rendered(strings.Replace(hooks, "eA==", "eQ==", 1)).Digest == a.Digest {
			t.Error("a real change of a hook keeps the digest")
		}
	}
	if pair := hook("s", "eQ==") + random; rendered(pair).Digest == rendered(strings.Replace(pair, "p: eQ==", "p: eg==", 1)).Digest {
		t.Error("a real change of a hook that has the name of another one keeps the digest")
	}
	wantError(t, rendered(hook("s-{{ randAlphaNum 8 | lower }}", "eA==")).Err,
		api.Error{Reason: "Unstable", File: "h/chart/templates/x.yaml", Line: 4}, "has another name each time")
}

// Nor is what the time decides in a hook, even its name.
func TestHelm_hooksOfTheTime(t *testing.T) {
	hook := func(name, at, more string) string {
		return "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + ", annotations: {helm.sh/hook: pre-install}}\ndata: {at: " + at + ", say: {{ \"now\" | quote }}, more: " + more + "}\n"
	}
	digest := func(hooks ...string) string {
		t.Helper()
		out, err := renderFiles(t, chart("{helm: {chart: ./chart}}", "h/chart/templates/x.yaml", strings.Join(hooks, "")), "one")
		if err != nil {
			t.Fatal(err)
		}
		h := bundle(t, out, "h")
		if h.Err != nil {
			t.Fatal(h.Err)
		}
		return h.Digest
	}
	for _, at := range []string{
		`{{ now.UnixNano | quote }}`, `{{now|date "150405.999999999"|quote}}`, `{{ (now).String | quote }}`, `{{ printf "%s" (now) | quote }}{{/* " */}}`, `{{ randAlpha 9 }}-{{ now.UnixNano }}`,
	} {
		h := hook("s-{{ now.UnixNano }}", at, "x")
		if first, second := digest(h), digest(h); first != second {
			t.Errorf("the time changes the digest: %s", at)
		}
		for _, other := range []string{strings.Replace(h, "x}", "y}", 1), strings.Replace(h, `"now"`, `"then"`, 1), h + hook("t", "x", "x")} {
			if digest(other) == digest(h) {
				t.Errorf("a real change keeps the digest: %s", at)
			}
		}
	}
	out, err := renderFiles(t, chart("{helm: {chart: ./chart}}", "h/chart/templates/x.yaml", hook("s-{{ randAlpha 9 | lower }}", "{{ now }}", "x")), "one")
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, bundle(t, out, "h").Err, api.Error{Reason: "Unstable", File: "h/chart/templates/x.yaml", Line: 4}, "hook ConfigMap/s-")
}

// fetcher serves one chart in the versions that it is told.
type fetcher struct {
	archive []byte
	digest  string
	err     error
	asked   []string
}

func (f *fetcher) Fetch(_ context.Context, repo, name, version string) ([]byte, string, error) {
	f.asked = append(f.asked, repo+" "+name+" "+version)
	return f.archive, f.digest, f.err
}

func archive(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: "thing/" + name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestHelm_remote(t *testing.T) {
	pack := func(value string) []byte {
		return archive(t, map[string]string{"Chart.yaml": "{apiVersion: v2, name: thing, version: 1.0.0}", "values.yaml": "a: " + value, "templates/cm.yaml": valuesTemplate})
	}
	f := &fetcher{archive: pack("first"), digest: "1"}
	r := newRenderer(t, render.Config{Charts: f})
	exact := fleet().With("h/bundle.yaml", bundleYAML("h", "{helm: {chart: thing, repo: 'https://charts.example.com', version: 1.0.0}}"))
	ranged := fleet().With("h/bundle.yaml", bundleYAML("h", "{helm: {chart: 'oci://example.com/charts/thing', version: '1.x'}}"))
	value := func(files rendertest.Files) any {
		t.Helper()
		h := bundle(t, mustRender(t, r, files.Snapshot(), "one"), "h")
		if h.Err != nil {
			t.Fatal(h.Err)
		}
		return field(t, h.Objects[0], "data", "a")
	}
	if got := value(exact); got != "first" {
		t.Errorf("got %v", got)
	}
	f.archive, f.digest = pack("second"), "2"
	if got := value(exact); got != "first" || len(f.asked) != 1 {
		t.Errorf("an exact version was fetched again: %v %v", got, f.asked)
	}
	if got := value(ranged); got != "second" {
		t.Errorf("got %v", got)
	}
	f.archive, f.digest = pack("third"), "3"
	if got := value(ranged); got != "third" {
		t.Errorf("a range stays at %v", got)
	}
	f.err = errors.New("no route to host")
	if got := value(ranged); got != "third" {
		t.Errorf("without a network the last chart should stay, got %v", got)
	}
	wantAsked := []string{"https://charts.example.com thing 1.0.0", "oci://example.com/charts thing 1.x"}
	if f.asked[0] != wantAsked[0] || f.asked[1] != wantAsked[1] {
		t.Errorf("got %q", f.asked)
	}
	out := mustRender(t, newRenderer(t, render.Config{Charts: f}), exact.Snapshot(), "one")
	wantError(t, bundle(t, out, "h").Err, api.Error{Kind: api.Transient, Reason: "ChartNotFetched", File: "h/bundle.yaml", Line: 4, Field: "spec.helm.chart"}, "no route to host")
	f.err = &api.Error{Kind: api.Stalled, Reason: "ChartNotFound", Field: "spec.helm.version", Err: errors.New("no such version")}
	out = mustRender(t, newRenderer(t, render.Config{Charts: f}), exact.Snapshot(), "one")
	wantError(t, bundle(t, out, "h").Err, api.Error{Reason: "ChartNotFound", File: "h/bundle.yaml", Line: 4, Field: "spec.helm.version"}, "no such version")
}

// A chart at an address is pinned by its digest; without one there is a warning that has it.
func TestHelm_address(t *testing.T) {
	const digest = "sha256:0123456789012345678901234567890123456789012345678901234567890123"
	f := &fetcher{digest: digest, archive: archive(t, map[string]string{"Chart.yaml": "{apiVersion: v2, name: thing, version: 1.0.0}", "values.yaml": "a: b", "templates/cm.yaml": valuesTemplate})}
	r := newRenderer(t, render.Config{Charts: f})
	in := func(spec string) rendertest.Files { return fleet().With("h/bundle.yaml", bundleYAML("h", spec)) }
	const loose, pinned = "\n  helm:\n    chart: https://example.com/charts/thing-1.0.0.tgz\n", "\n  sources:\n  - helm: {chart: 'https://example.com/charts/thing-1.0.0.tgz', digest: '" + digest + "'}\n"
	for spec, warnings := range map[string][]string{
		loose:  {"h/bundle.yaml:6: spec.helm.chart: what is at an address may change without a commit: pin it with digest: " + digest},
		pinned: nil,
	} {
		b := bundle(t, mustRender(t, r, in(spec).Snapshot(), "one"), "h")
		if b.Err != nil {
			t.Fatal(b.Err)
		}
		if diff := cmp.Diff(warnings, b.Warnings); diff != "" {
			t.Error(diff)
		}
		if got := b.Origin[api.RefOf(b.Objects[0]).ID()]; got != "thing-1.0.0/templates/cm.yaml" {
			t.Errorf("it is from %q", got)
		}
		// Neither is asked for again while nothing changes.
		asked := len(f.asked)
		mustRender(t, r, in(spec).With("x.yaml", "").Snapshot(), "one")
		if len(f.asked) != asked {
			t.Errorf("it was fetched again: %q", f.asked)
		}
	}
	for _, want := range []string{"https://example.com/charts thing-1.0.0.tgz ", "https://example.com/charts thing-1.0.0.tgz " + digest} {
		if !slices.Contains(f.asked, want) {
			t.Errorf("it asked for %q, and not %q", f.asked, want)
		}
	}
	f.err = &api.Error{Kind: api.Stalled, Reason: "ChartDigestMismatch", Field: "spec.helm.digest", Err: errors.New("it has another")}
	out := mustRender(t, newRenderer(t, render.Config{Charts: f}), in(pinned).Snapshot(), "one")
	wantError(t, bundle(t, out, "h").Err, api.Error{Reason: "ChartDigestMismatch", File: "h/bundle.yaml", Line: 6, Field: "spec.sources.0.helm.digest"}, "another")
	for name, tt := range map[string]struct{ spec, field, text string }{
		"no tgz":    {"{chart: 'https://example.com/x'}", "spec.helm.chart", "no address of a .tgz"},
		"no host":   {"{chart: 'https:///x.tgz'}", "spec.helm.chart", "no address of a .tgz"},
		"a token":   {"{chart: 'https://example.com/x.tgz?token=s3cret'}", "spec.helm.chart", "no user, query or fragment"},
		"a user":    {"{chart: 'https://ann:s3cret@example.com/x.tgz'}", "spec.helm.chart", "no user, query or fragment"},
		"a repo":    {"{chart: 'https://example.com/x.tgz', repo: 'https://example.com'}", "spec.helm.repo", "address of its own"},
		"a version": {"{chart: 'https://example.com/x.tgz', version: 1.0.0}", "spec.helm.version", "write digest"},
		"no digest": {"{chart: 'https://example.com/x.tgz', digest: 'sha256:12'}", "spec.helm.digest", "64 hexadecimal digits"},
		"elsewhere": {"{chart: x, repo: 'https://example.com', version: 1.0.0, digest: '" + digest + "'}", "spec.helm.digest", "belongs to a chart at an https:// address"},
	} {
		err := bundle(t, mustRender(t, r, in("{helm: "+tt.spec+"}").Snapshot(), "one"), "h").Err
		wantError(t, err, api.Error{Reason: "BadFleetFile", File: "h/bundle.yaml", Line: 4, Field: tt.field}, tt.text)
		if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error tells it: %v", name, err)
		}
	}
	const tenant = "kind: Fleet\nspec: {tenants: [{name: t, path: h, serviceAccount: {namespace: t, name: d}, namespaces: ['*'], charts: ['https://example.com/charts/*']}]}\n"
	for address, allowed := range map[string]bool{
		"https://example.com/charts/thing-1.0.0.tgz": true, "https://example.com/other/thing-1.0.0.tgz": false, "https://example.com/charts/../other/thing-1.0.0.tgz": false,
		"http://example.com/charts/thing-1.0.0.tgz": false, "https://example.com/charts/%2e%2e/other/thing-1.0.0.tgz": false,
	} {
		f.err = nil
		err := bundle(t, mustRender(t, r, in("{helm: {chart: '"+address+"'}}").With("fleet.yaml", head+tenant).Snapshot(), "one"), "h").Err
		if allowed && err != nil || !allowed && (api.KindOf(err) != api.Forbidden || !strings.Contains(err.Error(), "may not have the chart")) {
			t.Errorf("%s: got %v", address, err)
		}
	}
}

// Where no cluster is asked, charts are rendered for the Kubernetes that the libraries are of.
func TestHelm_defaultVersion(t *testing.T) {
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	minor := strings.Split(helm.DefaultKubeVersion, ".")[1]
	if !strings.Contains(string(mod), "k8s.io/client-go v0."+minor+".") {
		t.Errorf("the default is %s, and client-go is not v0.%s", helm.DefaultKubeVersion, minor)
	}
}
