package render_test

import (
	"fmt"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/releaseutil"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/rendertest"
)

// helmSays renders the chart in h/chart with Helm's own packages, and values as "helm -f" reads them.
// Objects are told apart by kind and name.
func helmSays(t *testing.T, files rendertest.Files, values string) map[string]any {
	t.Helper()
	var in []*loader.BufferedFile
	for name, text := range files {
		if rel, ok := strings.CutPrefix(name, "h/chart/"); ok {
			in = append(in, &loader.BufferedFile{Name: rel, Data: []byte(text)})
		}
	}
	ch, err := loader.LoadFiles(in)
	if err != nil {
		t.Fatal(err)
	}
	vals := map[string]any{}
	if err := yaml.Unmarshal([]byte(values), &vals); err != nil {
		t.Fatal(err)
	}
	if err := chartutil.ProcessDependenciesWithMerge(ch, vals); err != nil {
		t.Fatal(err)
	}
	all, err := chartutil.ToRenderValues(ch, vals, chartutil.ReleaseOptions{Name: "h", Namespace: "team", Revision: 1, IsInstall: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	rendered, err := engine.Render(ch, all)
	if err != nil {
		t.Fatal(err)
	}
	delete(rendered, path.Join(ch.Name(), "templates/NOTES.txt"))
	_, manifests, err := releaseutil.SortManifests(rendered, nil, releaseutil.InstallOrder)
	if err != nil {
		t.Fatal(err)
	}
	var stream strings.Builder // as "helm template" prints it
	for _, m := range manifests {
		fmt.Fprintf(&stream, "---\n# Source: %s\n%s\n", m.Name, m.Content)
	}
	out := map[string]any{}
	for text := range strings.SplitSeq(strings.TrimSuffix(stream.String(), "\n"), "\n---\n") {
		asJSON, err := yaml.YAMLToJSON([]byte(text + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		var o map[string]any
		if err := json.Unmarshal(asJSON, &o); err != nil {
			t.Fatal(err)
		}
		if len(o) == 0 {
			continue
		}
		metadata := o["metadata"].(map[string]any)
		out[fmt.Sprint(o["kind"], "/", metadata["name"])] = o
	}
	return out
}

// weSay renders a bundle, and leaves out the namespaces that flotilla puts in.
func weSay(t *testing.T, files rendertest.Files) (map[string]any, []string) {
	t.Helper()
	out, err := renderFiles(t, files, "one")
	if err != nil {
		t.Fatal(err)
	}
	h := bundle(t, out, "h")
	if h.Err != nil {
		t.Fatal(h.Err)
	}
	objects := map[string]any{}
	for _, o := range h.Objects {
		c := o.DeepCopy()
		c.SetNamespace("")
		objects[c.GetKind()+"/"+c.GetName()] = c.Object
	}
	return objects, h.Warnings
}

const everyValue = `apiVersion: v1
kind: ConfigMap
metadata: {name: every}
data:
{{- range $k, $v := omit .Values "global" }}
  {{ $k | quote }}: {{ printf "%s %v %v" (kindOf $v) $v (ternary "yes" "no" (not (empty $v))) | quote }}
{{- end }}
`

// Values are read as Helm reads them, whichever layer they come from.
func TestReading_valuesAreHelmsInEveryLayer(t *testing.T) {
	const values = `
off: {a: off, b: no, c: n, d: N, e: Off, f: "off", g: 'no'}
"on": [on, yes, y, Y, "yes"]
plain: off
yes: taken
port: 9200
large: 123456789
huge: 18446744073709551615
beyond: 9007199254740993
octal: 0755
octal2: 0o755
hex: 0xff
binary: 0b11
under: 1_000
float: 1.50
exp: 1e3
negative: -5
date: 2001-02-03
time: 12:30
tilde: ~
"null": null
version: 1.10
text: |
  a
  b
folded: >-
  a
  b
`
	chart := fleet().With(
		"h/chart/Chart.yaml", "{apiVersion: v2, name: thing, version: 1.0.0}",
		"h/chart/templates/every.yaml", everyValue,
	)
	want := helmSays(t, chart, values)
	indented := strings.ReplaceAll(values, "\n", "\n      ")
	for _, tt := range []struct {
		layer, spec string
		extra       []string
	}{
		{"chart", "{helm: {chart: ./chart}}", []string{"h/chart/values.yaml", values}},
		{"values file", "{helm: {chart: ./chart, valuesFiles: [v.yaml]}}", []string{"h/v.yaml", values}},
		{"values file with variables", "{substitute: true, helm: {chart: ./chart, valuesFiles: [v.yaml]}}", []string{"h/v.yaml", values + "# ${}\n"}},
		{"inline", "\n  helm:\n    chart: ./chart\n    values:" + indented, nil},
		{"inline with variables", "\n  substitute: true # ${x}\n  helm:\n    chart: ./chart\n    values:" + indented, nil},
		{"target", "\n  helm: {chart: ./chart}\n  targets:\n  - clusters: [one]\n    values:" + indented, nil},
		{"overlay", "\n  helm: {chart: ./chart}\n  targets:\n  - clusters: [one]\n    overlay: v.yaml\n", []string{"h/v.yaml", values}},
	} {
		t.Run(tt.layer, func(t *testing.T) {
			got, _ := weSay(t, chart.With("h/bundle.yaml", bundleYAML("h", tt.spec)).With(tt.extra...))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-helm +flotilla):\n%s", diff)
			}
		})
	}
}

// What a chart does with numbers and booleans comes out as with Helm.
func TestReading_templatesSeeHelmsTypes(t *testing.T) {
	chart := fleet().With(
		"a/bundle.yaml", "", "a/cm.yaml", "",
		"h/bundle.yaml", bundleYAML("h", "{helm: {chart: ./chart, valuesFiles: [v.yaml]}}"),
		"h/v.yaml", "port: 9200\naccount: 123456789\nmin: 1\nmax: 5\ningress: {enabled: off}\nmetrics: {enabled: no}\n",
		"h/chart/values.yaml", "max: 3\ningress: {enabled: on}\nmetrics: {enabled: yes}\n",
		"h/chart/Chart.yaml", "{apiVersion: v2, name: thing, version: 1.0.0}",
		"h/chart/templates/a.yaml", `apiVersion: v1
kind: ConfigMap
metadata: {name: a}
data:
  url: {{ printf "http://db:%.0f" .Values.port }}
  account: {{ .Values.account | quote }}
  {{ if kindIs "float64" .Values.port }}number{{ else }}name{{ end }}: x
  {{- if gt .Values.min .Values.max }}{{ fail "min is above max" }}{{ end }}
  above: {{ gt .Values.port 1024.0 | quote }}
  ingress: {{ if .Values.ingress.enabled }}"exposed"{{ else }}"closed"{{ end }}
  metrics: {{ if .Values.metrics.enabled }}"exposed"{{ else }}"closed"{{ end }}
`)
	got, _ := weSay(t, chart)
	if diff := cmp.Diff(helmSays(t, chart, chart["h/v.yaml"]), got); diff != "" {
		t.Errorf("(-helm +flotilla):\n%s", diff)
	}
	want := map[string]any{
		"url": "http://db:9200", "account": "1.23456789e+08", "number": "x", "above": "true", "ingress": "closed", "metrics": "closed",
	}
	if diff := cmp.Diff(want, got["ConfigMap/a"].(map[string]any)["data"]); diff != "" {
		t.Error(diff)
	}
}

// Values that Helm would read, and we do not.
func TestReading_valuesThatAreRefused(t *testing.T) {
	for _, tt := range []struct {
		name, values string
		want         api.Error
		text         string
	}{
		{"a key twice", "a: b\na: c\n", api.Error{File: "h/v.yaml", Line: 2}, "occurs twice"},
		{"two documents", "a: b\n---\nc: d\n", api.Error{File: "h/bundle.yaml", Line: 4, Field: "spec.helm.valuesFiles.0"}, "more than one document"},
		{"a list", "- a\n", api.Error{File: "h/v.yaml", Line: 1}, "values are a mapping"},
		{"no YAML", "a: b\n c: d\n", api.Error{File: "h/v.yaml", Line: 2}, "mapping values"},
		{"a number that is none", "a: 1\nb: .inf\n", api.Error{File: "h/v.yaml", Line: 2}, "not finite"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := renderFiles(t, chart("{helm: {chart: ./chart, valuesFiles: [v.yaml]}}", "h/v.yaml", tt.values), "one")
			if err != nil {
				t.Fatal(err)
			}
			wantError(t, bundle(t, out, "h").Err, tt.want, tt.text)
		})
	}
}

// JSON is YAML, and may be indented with tabs.
func TestReading_valuesInJSON(t *testing.T) {
	got, _ := weSay(t, chart("{helm: {chart: ./chart, valuesFiles: [v.json]}}", "h/v.json", "{\n\t\"a\": \"json\"\n}\n"))
	if data := got["ConfigMap/h"].(map[string]any)["data"].(map[string]any); data["a"] != "json" {
		t.Errorf("got %v", data)
	}
}

// What a chart writes is split and read as Helm does.
func TestReading_chartOutputIsHelms(t *testing.T) {
	const cm = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\n"
	one, two := fmt.Sprintf(cm, "one"), fmt.Sprintf(cm, "two")
	for name, template := range map[string]string{
		"separator glued by trimming":    "---\n{{- if true -}}\n" + one + "{{- end }}\n",
		"separator and comment":          one + "---\n\n{{- if true -}}\n\n# a remark\n" + two + "{{- end }}\n",
		"separator with a remark":        one + "--- # a remark\n" + two,
		"separators only":                "---\n---\n" + one + "---\n# nothing\n---\n",
		"no line break at the end":       one + "data:\n  text: |\n    a line",
		"blanks at the end":              one + "data:\n  text: |\n    a line\n      ",
		"lines kept at the end":          one + "data:\n  text: |+\n    a line\n\n\n\n",
		"lines kept before a separator":  one + "data:\n  text: |+\n    a line\n\n\n\n---\n" + two,
		"blanks before a separator":      one + "data:\n  text: |\n    a line\n      \n---\n" + two,
		"carriage returns":               strings.ReplaceAll(one+"---\n"+two, "\n", "\r\n"),
		"a key twice":                    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one, labels: {x: \"1\", x: \"2\"}}\ndata: {a: b}\ndata: {c: d}\n",
		"a name twice":                   "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: none}\nmetadata: {name: one}\n",
		"booleans of YAML 1.1":           "apiVersion: x.io/v1\nkind: W\nmetadata: {name: w}\nspec: {a: yes, b: off, c: \"no\", d: y, on: true}\n",
		"numbers":                        "apiVersion: x.io/v1\nkind: W\nmetadata: {name: w}\nspec: {a: 0755, b: 1_000, c: 1e3, d: 9007199254740993, e: 1.0, f: 2001-01-01}\n",
		"anchors and merges":             "apiVersion: x.io/v1\nkind: W\nmetadata: {name: w}\nspec: {a: &a {x: 1}, b: {<<: *a, y: 2}, c: *a}\n",
		"three dashes in a text":         one + "data:\n  text: |\n    a\n    ---\n    b\n",
		"three dashes after a key":       one + "data: {a: b}\n---\nkind: ConfigMap\napiVersion: v1\nmetadata:\n  name: two\n",
		"nothing but a comment and text": "# only this\n---\n" + one,
	} {
		t.Run(name, func(t *testing.T) {
			files := fleet().With(
				"h/bundle.yaml", bundleYAML("h", "{helm: {chart: ./chart}}"),
				"h/chart/Chart.yaml", "{apiVersion: v2, name: thing, version: 1.0.0}",
				"h/chart/templates/a.yaml", template,
			)
			want := helmSays(t, files, "")
			if len(want) == 0 {
				t.Fatal("Helm renders nothing of this")
			}
			got, _ := weSay(t, files)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-helm +flotilla):\n%s", diff)
			}
		})
	}
}

// A key that is there twice is told, for its author did not mean it; in our own files it is an error.
func TestReading_keyTwice(t *testing.T) {
	const text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  labels: {x: \"1\", x: \"2\"}\n"
	files := fleet().With(
		"a/bundle.yaml", "", "a/cm.yaml", "",
		"h/bundle.yaml", bundleYAML("h", "{helm: {chart: ./chart}}"),
		"h/chart/Chart.yaml", "{apiVersion: v2, name: thing, version: 1.0.0}",
		"h/chart/templates/a.yaml", "# first\n---\n"+text,
	)
	got, warnings := weSay(t, files)
	labels := got["ConfigMap/a"].(map[string]any)["metadata"].(map[string]any)["labels"].(map[string]any)
	if labels["x"] != "2" {
		t.Errorf("got labels %v", labels)
	}
	want := []string{`h/chart/templates/a.yaml:7: key "x" occurs twice in one mapping, and the last one counts (the line is that of the rendered output)`}
	if diff := cmp.Diff(want, warnings); diff != "" {
		t.Error(diff)
	}
	out, err := renderFiles(t, fleet().With("a/cm.yaml", text), "one")
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, bundle(t, out, "a").Err, api.Error{File: "a/cm.yaml", Line: 5}, `key "x" occurs twice`)
}

// Errors about what a chart wrote name the line of the rendered output, in whichever document it is.
func TestReading_linesOfChartOutput(t *testing.T) {
	const good = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\n"
	for name, tt := range map[string]struct {
		text string
		want api.Error
	}{
		"no YAML":      {good + "---\n\na: b\n c: d\n", api.Error{File: "h/chart/templates/x.yaml", Line: 7}},
		"no kind":      {good + "---\n\napiVersion: v1\nmetadata: {name: two}\n", api.Error{File: "h/chart/templates/x.yaml", Line: 6, Field: "kind"}},
		"not a string": {good + "---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: two\n  labels: {a: 1}\n", api.Error{File: "h/chart/templates/x.yaml", Line: 9, Field: "metadata.labels.a"}},
		"no object":    {good + "---\njust words\n", api.Error{File: "h/chart/templates/x.yaml", Line: 5}},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := renderFiles(t, chart("{helm: {chart: ./chart}}", "h/chart/templates/x.yaml", tt.text), "one")
			if err != nil {
				t.Fatal(err)
			}
			wantError(t, bundle(t, out, "h").Err, tt.want, "")
		})
	}
}

// A document may begin with a byte order mark, as editors of Windows leave it where files are put one behind another.
func TestReading_byteOrderMarks(t *testing.T) {
	const bom = "\xef\xbb\xbf"
	one, two := configMap("one", "k: v"), configMap("two", "k: v")
	files := fleet().With("a/bundle.yaml", "", "a/cm.yaml", "", "h/bundle.yaml", bundleYAML("h", "{helm: {chart: ./chart}}"),
		"h/chart/Chart.yaml", "{apiVersion: v2, name: thing, version: 1.0.0}", "h/chart/templates/a.yaml", one+"---\n"+bom+two)
	if got, _ := weSay(t, files); len(got) != 2 {
		t.Errorf("a chart's output becomes %v", got)
	}
	for name, text := range map[string]string{
		"first":                bom + one + "---\n" + two,
		"behind the separator": one + "---\n" + bom + two,
		"before the separator": bom + one + bom + "---\n" + two,
		"both":                 bom + "---\n" + one + bom + "---\n" + bom + two,
		"carriage returns":     strings.ReplaceAll(one+"---\n"+bom+two, "\n", "\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			out, err := renderFiles(t, fleet().With("a/cm.yaml", text), "one")
			if err != nil {
				t.Fatal(err)
			}
			a := bundle(t, out, "a")
			if diff := cmp.Diff([]string{"ConfigMap/default/one", "ConfigMap/default/two"}, refs(a)); diff != "" || a.Err != nil {
				t.Errorf("%v %s", a.Err, diff)
			}
		})
	}
	out, err := renderFiles(t, fleet().With("a/cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  t: |\n    "+bom+"---\n    x\n"), "one")
	if err != nil {
		t.Fatal(err)
	}
	if data := field(t, bundle(t, out, "a").Objects[0], "data", "t"); data != bom+"---\nx\n" {
		t.Errorf("a mark in a value is taken away: %q", data)
	}
}

// Where Kubernetes knows only strings, null is the empty one, as the API server has it.
func TestReading_nullIsTheEmptyString(t *testing.T) {
	files := chart("{helm: {chart: ./chart}}",
		"h/chart/templates/cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: h\n  labels:\n    owner: {{ .Values.owner }}\n  annotations: {a: ~, b: null}\ndata: {x: }\n",
		"a/cm.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: b, namespace: default, labels: {l: null}}\nstringData: {a: null, b: c}\ndata: {n: null}\n",
	)
	out, err := renderFiles(t, files, "one")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range out.Bundles {
		if b.Err != nil {
			t.Fatal(b.Err)
		}
	}
	h, a := bundle(t, out, "h").Objects[0], bundle(t, out, "a").Objects[0]
	if diff := cmp.Diff(map[string]string{"owner": ""}, h.GetLabels()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"a": "", "b": ""}, h.GetAnnotations()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]any{"x": ""}, field(t, h, "data")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]any{"a": "", "b": "Yw==", "n": ""}, field(t, a, "data")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"l": ""}, a.GetLabels()); diff != "" {
		t.Error(diff)
	}
}
