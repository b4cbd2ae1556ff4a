package cli

import (
	"bytes"
	"errors"
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
