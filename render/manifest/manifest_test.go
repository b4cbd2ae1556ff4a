package manifest_test

import (
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/fluxcd/pkg/envsubst"
	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/manifest"
)

var vars = manifest.Variables{
	"a": "x", "empty": "", "n": "3", "long": "1.10", "f": "0.5", "b": "true", "bash": "${a}", "evil": "x\"\n- y: z # ",
	"path": "path/to/b.gz", "suffix": ".gz", "word": "world", "Word": "WORLD", "umlaut": "föö", "megabyte": strings.Repeat("y", 1<<20),
}

func TestVariables_Expand(t *testing.T) {
	for _, tt := range []struct{ in, want, err string }{
		{"", "", ""},
		{"no variable, $a, $(a), ${", "", "is not closed"},
		{"$a $(a) $$ {a}", "$a $(a) $$ {a}", ""},
		{"<${a}${n}>", "<x3>", ""},
		{"$${a} $$${a} $$$${a}", "${a} $x $${a}", ""},
		{"${nope}", "", `variable "nope" is not set`},
		{"${nope:-def}", "def", ""},
		{"${nope:=def}", "def", ""},
		{"${nope:-}", "", ""},
		{"${empty}", "", ""},
		{"${empty:-def}", "def", ""},
		{"${a:-def}", "x", ""},
		{"${nope:-a:b-c $d}", "a:b-c $d", ""},
		{"${bash}", "${a}", ""},
		{"${}", "", "neither ${name} nor"},
		{"${a b}", "", "neither ${name} nor"},
		{"${a-x}", "", "neither ${name} nor"},
		{"${a:-x\x00}y", "", "neither ${name} nor"},
		{"${nope:-${a}}", "x", ""},
		{"${nope:-<${nope:-${n}}>}.", "<3>.", ""},
		{"${a:-${nope}}", "x", ""}, // not looked at
		{"${nope:-${nope2}}", "", `variable "nope2" is not set`},
		{"${nope:?set it in cluster.yaml}", "", `variable "nope" is required: set it in cluster.yaml`},
		{"${empty:?}", "", `variable "empty" is required`},
		{"${a:?why}", "x", ""},
		{"${a:+y}", "", "is not supported"},
		{"${nope=def} ${empty=def} ${a=def}", "def def x", ""},
		{"${#path} ${#empty} ${#umlaut}", "12 0 3", ""},
		{"${#nope}", "", `variable "nope" is not set`},
		{"${word^} ${word^^} ${Word,} ${Word,,} ${empty^}", "World WORLD wORLD world ", ""},
		{"${path:5} ${path:5:2} ${path:99} ${path:1:-9}", "to/b.gz to  at", ""},
		{"${path::3}", "", "neither"},
		{"${path:x}", "", "needs numbers"},
		{"${path:99999999999999999999}", "", "needs numbers"},
		{"${umlaut:1:1}", "ö", ""},
		{"${path/t/T} ${path//t/T} ${path/#path/p} ${path/%gz/xz} ${path//\\//-} ${path/t/}", "paTh/to/b.gz paTh/To/b.gz p/to/b.gz path/to/b.xz path-to-b.gz pah/to/b.gz", ""},
		{"${path#*/} ${path##*/} ${path%/*} ${path%%/*} ${path%.gz} ${path#x}", "to/b.gz b.gz path/to path path/to/b path/to/b.gz", ""},
		{"${path%?[a-g]z} ${path%.[!g]z} ${path%.\\gz}", "path/to/b path/to/b.gz path/to/b", ""},
		{"${path%[}", "", "cannot be read"},
		{"${path%${suffix}}", "path/to/b", ""},
		{"${megabyte#*x}", "", "is for values of"},
		{"${megabyte//y/${megabyte}}", "", "expand to more than"},
		{"${nope:-" + strings.Repeat("${megabyte}", 300) + "}", "", "expand to more than"},
		{"${nope:-" + strings.Repeat("x", 5000) + "}", "", "is longer than"},
	} {
		got, err := vars.Expand(tt.in)
		if tt.err == "" && (err != nil || got != tt.want) {
			t.Errorf("%q: got %q, %v, want %q", tt.in, got, err, tt.want)
		}
		if tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%q: got %q, %v, want an error with %q", tt.in, got, err, tt.err)
		}
	}
}

func TestObjects_substitutedTypes(t *testing.T) {
	docs, err := manifest.Parse("f.yaml", []byte(`
apiVersion: apps/v1
kind: Deployment
metadata:
  name: ${a}
  labels: {n: "${n}", m: "${b}"}
  annotations:
    n: ${n}
spec:
  plain: ${n}
  quoted: "${n}"
  single: '${n}'
  part: ${n}0
  float: ${f}
  long: ${long}
  bool: ${b}
  default: ${nope:-7}
  text: ${evil}
  block: |
    ${evil}
  list: ["${n}", "${a}"]
  selector:
    matchLabels:
      n: ${n}
`))
	if err != nil {
		t.Fatal(err)
	}
	objects, err := manifest.Objects(docs, vars)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": map[string]any{"name": "x", "labels": map[string]any{"n": "3", "m": "true"}, "annotations": map[string]any{"n": "3"}},
		"spec": map[string]any{
			"plain": int64(3), "quoted": "3", "single": "3", "part": "30", "float": 0.5, "long": "1.10", "bool": true,
			"default": int64(7), "text": vars["evil"], "block": vars["evil"] + "\n", "list": []any{"3", "x"},
			"selector": map[string]any{"matchLabels": map[string]any{"n": "3"}},
		},
	}
	if diff := cmp.Diff(want, objects[0].Object); diff != "" {
		t.Error(diff)
	}
}

func TestDocument_Value(t *testing.T) {
	docs, err := manifest.Parse("f.yaml", []byte(`
str: text
no: no
on: on
y: y
null: null
tilde: ~
empty:
int: 12
octal: 0644
hex: 0x10
big: 18446744073709551615
neg: -1
float: 1.5
exp: 1e3
bool: true
time: 2020-01-01
tagged: !!str 12
quoted: "12"
base: &base {a: 1, b: 2}
merged: {<<: *base, b: 3}
alias: *base
multi: |
  x
`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := docs[0].Value()
	if err != nil {
		t.Fatal(err)
	}
	base := map[string]any{"a": int64(1), "b": int64(2)}
	want := map[string]any{
		"str": "text", "no": "no", "on": "on", "y": "y", "null": nil, "tilde": nil, "empty": nil, "int": int64(12), "octal": int64(420), "hex": int64(16),
		"big": float64(18446744073709551615), "neg": int64(-1), "float": 1.5, "exp": 1000.0, "bool": true, "time": "2020-01-01", "tagged": "12", "quoted": "12",
		"base": base, "merged": map[string]any{"a": int64(1), "b": int64(3)}, "alias": base, "multi": "x\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestParse_documents(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want int
	}{
		{"", 0},
		{"---\n", 0},
		{"# only a comment\n---\n---\n", 0},
		{"null\n", 0},
		{"a: b", 1},
		{"---\na: b\n---\n# no\n---\nc: d\n...\n", 2},
		{"a: |\n  ---\n  b\n", 1},
		{"\ufeffa: b\r\n---\r\nc: d\r\n", 2},
		{"{\"a\": \"b\"}", 1},
		{"{\n\t\"a\": \"b\"\n}", 1},
	} {
		docs, err := manifest.Parse("f.yaml", []byte(tt.in))
		if err != nil || len(docs) != tt.want {
			t.Errorf("%q: got %d documents, %v, want %d", tt.in, len(docs), err, tt.want)
		}
	}
}

// Whatever the input, parsing ends without a crash, says where its errors are,
// and loses no document that has a kind.
func FuzzObjects(f *testing.F) {
	for _, s := range []string{
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: '${a}'}\n---\n", "a: &a [*a]", "kind: List\nitems: [{}]", "a: {<<: [*b]}", "!!binary x", "? [a]\n: b",
		"apiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData: {a: 1}\n", "{\n\t\"a\": 1}", "a: ${nope:-", "- - - -", "kind: ConfigMapList\napiVersion: v1\nitems:\n- &x {apiVersion: v1, kind: A, metadata: {name: b}}\n- *x",
		"kind: List\nitems:\n- &x {kind: List, items: [&y {kind: List, items: [&o {apiVersion: v1, kind: A, metadata: {name: a}}, *o, *o]}, *y, *y]}\n- *x\n- *x\n",
		"apiVersion: v1\nkind: A\nmetadata: {name: a, labels: null, namespace: 1}", "\xff\xfe", "a: !!int x", "a: .inf",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<12 {
			return
		}
		docs, err := manifest.Parse("f.yaml", data)
		if err == nil {
			var objects []manifest.Object
			objects, err = manifest.Objects(docs, vars)
			for _, o := range objects {
				if o.GetKind() == "" || o.GetAPIVersion() == "" || o.GetName() == "" {
					t.Errorf("an object without identity: %v", o.Object)
				}
				if _, jsonErr := json.Marshal(o.Object); jsonErr != nil {
					t.Errorf("an object that is no JSON: %v", jsonErr)
				}
				o.DeepCopy() // panics on types that JSON does not have
			}
		}
		var e *api.Error
		if err != nil && (!errors.As(err, &e) || e.File != "f.yaml" || e.Kind != api.Stalled) {
			t.Errorf("an error that does not say where: %v", err)
		}
	})
}

// Where the library takes a text as a whole, it becomes the same here.
func FuzzExpand_asFlux(f *testing.F) {
	for _, s := range []string{
		"${a}", "$${a}", "$$${a}", "${nope:-${a}}", "${path#*/}", "${path##*/}", "${path%%.*}", "${path%.*}", "${path/t/T}", "${path//t/T}", "${path/#p/q}",
		"${path/%gz/xz}", "${path:2:3}", "${#path}", "${word^^}", "${nope:=x}", "${nope=x}", "${path/t/}", "${Word,}", "${path:-${word}/${a}}",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := vars.Expand(s)
		if err != nil || !ascii(s) || !strings.Contains(s, "${") || leftAlone.MatchString(s) {
			return
		}
		want, err := envsubst.Eval(s, func(name string) (string, bool) { v, ok := vars[name]; return v, ok })
		if err != nil {
			return // it asks for variables in defaults that it does not use
		}
		if got != want {
			t.Errorf("%q becomes %q, and with envsubst %q", s, got, want)
		}
	})
}

// leftAlone are forms that the library does not do as a shell does, and ours does.
var leftAlone = regexp.MustCompile(`\?|/[#%]|[#%]\**\}|\$\$[^{$]|\$\$$`)

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r == 0 || r > 126 })
}

// What Expand returns without error contains each variable's value, and no variable is looked up twice.
func FuzzExpand(f *testing.F) {
	for _, s := range []string{"${a}", "$${a}", "${a:-b}", "$${", "${", "${a}}", "$$${a}", "${bash}", "é${a}\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := vars.Expand(s)
		if err != nil {
			return
		}
		if !strings.Contains(s, "${") && got != s {
			t.Errorf("%q has no variable and becomes %q", s, got)
		}
		if strings.Contains(s, "$$") {
			return // a dollar before an escape makes something else of it
		}
		if escaped, err := vars.Expand(strings.ReplaceAll(s, "${", "$${")); err != nil || escaped != s {
			t.Errorf("escaping %q gives %q, %v", s, escaped, err)
		}
	})
}
