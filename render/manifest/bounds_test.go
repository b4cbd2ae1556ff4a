package manifest_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/flotilla-fleet/flotilla/render/manifest"
)

// Few lines cannot expand to much, by aliases, by variables, or by what reading them takes.
func TestBounds(t *testing.T) {
	long := strings.Repeat("a", 1<<20)
	aliases := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\nx: &x " + long + "\nlist: [" + strings.Repeat("*x, ", 100) + "]\n"
	const head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
	nested := head + "x0: &x0 a\n"
	for i := range 12 {
		nested += fmt.Sprintf("x%d: &x%d [%s]\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*x%d, ", i), 10))
	}
	object := func(text string) error {
		docs, err := manifest.Parse("f.yaml", []byte(text))
		if err != nil {
			return err
		}
		_, err = manifest.Objects(docs, manifest.Variables{"v": long})
		return err
	}
	for name, tt := range map[string]struct{ text, words string }{
		"aliases of aliases":          {nested, "expand to more than"},
		"aliases of a long text":      {aliases, "MB of text"},
		"a variable many times":       {head + "data: {a: '" + strings.Repeat("${v}", 100) + "'}\n", "its variables expand to more than 4 MB"},
		"a variable in many strings":  {head + "data:\n" + lines(100, "  k%d: ${v}\n"), "variables of the document expand to more than 64 MB"},
		"many documents":              {strings.Repeat(head+"data: {a: '${v}${v}${v}'}\n---\n", 40), "MB of text"},
		"values that take much space": {head + "data: [" + strings.Repeat("a,", 1<<22) + "]\n", "the text may hold"},
		"nothing but nesting":         {strings.Repeat("[", 1<<22), "the text may hold"},
	} {
		err := object(tt.text)
		if err == nil || !strings.Contains(err.Error(), tt.words) {
			t.Errorf("%s: got %.300v, want %q", name, err, tt.words)
		}
		if err != nil && strings.Contains(err.Error(), "aaaaaaaa") {
			t.Errorf("%s: the error shows values", name)
		}
	}
	if err := object(head + "data: {a: '${v}', b: '${v}'}\n"); err != nil {
		t.Error(err)
	}
}

func lines(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// JSON that is indented with tabs stays as long as it is, and its errors have their lines.
func TestParse_tabs(t *testing.T) {
	deep := strings.Repeat("[", 200) + "\t" + strings.Repeat("1,", 1000) + "1" + strings.Repeat("]", 200)
	if _, err := manifest.Parse("f.json", []byte(deep)); err != nil {
		t.Error(err)
	}
	docs, err := manifest.Parse("f.json", []byte("{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": 1\n}"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := manifest.Objects(docs, nil); err == nil || !strings.Contains(err.Error(), "f.json:3") {
		t.Errorf("got %v", err)
	}
}
