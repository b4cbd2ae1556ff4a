package cli

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
)

// Every character of a value is printed so that it can be read again, those that YAML knows only as escapes too.
func TestPrintRendering_controlCharacters(t *testing.T) {
	var every strings.Builder
	for r := rune(1); r < 0x100; r++ {
		every.WriteRune(r)
	}
	every.WriteString("\u2028\u2029\ufeff\ufffd\ufffe\uffff😀")
	for _, text := range []string{"x\u0093y", "\u0080", "\u0085", "\u009f", "\u007f", "\ufeffx", every.String()} {
		object := func(name, value string) *unstructured.Unstructured {
			return &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name}, "data": map[string]any{"a": value},
			}}
		}
		r := api.Rendering{Bundles: []api.RenderedBundle{
			{Name: "a", Objects: []*unstructured.Unstructured{object("a", text)}},
			{Name: "broken", Err: errors.New("boom")},
			{Name: "b", Objects: []*unstructured.Unstructured{object("b", "plain")}},
		}}
		var out, talk bytes.Buffer
		if err := printRendering(terminal.To(&out), terminal.To(&talk), r, "", showSecrets); err == nil {
			t.Error("the broken bundle is no error")
		}
		docs := strings.Split(out.String(), "---\n")
		if len(docs) != 3 {
			t.Fatalf("%q: %d documents, %s", text, len(docs)-1, talk.String())
		}
		var got struct{ Data map[string]string }
		if err := yaml.Unmarshal([]byte(docs[1]), &got); err != nil || got.Data["a"] != text {
			t.Errorf("%q is read back as %q (%v)", text, got.Data["a"], err)
		}
	}
}

// Charts see the kinds whose CustomResourceDefinitions are in Git, also those that another chart brings, as on a cluster.
func TestRender_knowsTheKindsInGit(t *testing.T) {
	crd := func(kind, group string) string {
		return "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: " + strings.ToLower(kind) + "s." + group + "}\nspec:\n" +
			"  group: " + group + "\n  names: {kind: " + kind + ", plural: " + strings.ToLower(kind) + "s}\n  scope: Namespaced\n  versions:\n" +
			"  - {name: v1, served: true, storage: true}\n  - {name: v1alpha1, served: false, storage: false}\n"
	}
	files := map[string]string{
		"clusters/c/cluster.yaml":    "apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {name: c}\n",
		"crds/bundle.yaml":           "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: crds}\n",
		"crds/crd.yaml":              crd("Thing", "one.example.com"),
		"app/bundle.yaml":            "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: app}\nspec: {dependsOn: [crds], namespace: x, helm: {chart: ./chart}}\n",
		"app/chart/Chart.yaml":       "{apiVersion: v2, name: probe, version: 0.1.0}",
		"app/chart/templates/a.yaml": "{{- if not (.Capabilities.APIVersions.Has \"one.example.com/v1/Thing\") }}\n{{- fail \"install the CRD first\" }}\n{{- end }}\n" + crd("Other", "two.example.com"),
		"app/chart/templates/b.yaml": "{{- if .Capabilities.APIVersions.Has \"two.example.com/v1\" }}\napiVersion: two.example.com/v1\nkind: Other\nmetadata: {name: later}\n{{- end }}\n" +
			"{{- if .Capabilities.APIVersions.Has \"one.example.com/v1alpha1\" }}\n{{- fail \"not served\" }}\n{{- end }}\n",
		"app/chart/templates/c.yaml": "{{- if .Capabilities.APIVersions.Has \"three.example.com/v1\" }}\napiVersion: three.example.com/v1\nkind: Given\nmetadata: {name: given}\n{{- end }}\n",
		"app/chart/templates/d.yaml": "{{- if not (.Capabilities.APIVersions.Has \"apps/v1\") }}\n{{- fail \"no Kubernetes\" }}\n{{- end }}\n",
	}
	dir := t.TempDir()
	for name, text := range files {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) string {
		t.Helper()
		cmd := newRender()
		var out, talk bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&talk)
		cmd.SetArgs(append([]string{"--repo", dir, "--cluster", "c"}, args...))
		if err := cmd.ExecuteContext(t.Context()); err != nil {
			t.Fatalf("%v: %s", err, talk.String())
		}
		return out.String()
	}
	if got := run(); !strings.Contains(got, "name: later") || strings.Contains(got, "name: given") {
		t.Errorf("got %s", got)
	}
	if got := run("--api-versions", "three.example.com/v1"); !strings.Contains(got, "name: later") || !strings.Contains(got, "name: given") {
		t.Errorf("with --api-versions: got %s", got)
	}
}
