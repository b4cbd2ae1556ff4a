package yamledit

import (
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/flotilla-fleet/flotilla/api/fieldpath"
)

func to(path, json string) Change {
	v, err := ParseJSON(json)
	if err != nil {
		panic(err)
	}
	return Change{Path: fieldpath.Parts(path), Text: path, Value: v}
}

func gone(path string) Change {
	return Change{Path: fieldpath.Parts(path), Text: path, Remove: true}
}

const deployment = `# The shop's front door.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web   # the one and only

spec:
  replicas: 2 # two are enough

  template:
    spec:
      containers:
      - name: app
        image: "example.com/web:1.0"   # by the release job
        args: [--listen, ':8080']
        env:
        - name: LEVEL
          value: info
        # the last one
        - {name: REGION, value: 'eu'}
        resources:
          limits: {cpu: 100m, memory: 64Mi}
      - name: sidecar
        image: example.com/proxy:3
`

func TestEdit(t *testing.T) {
	const containers = "/spec/template/spec/containers/"
	for _, tt := range []struct {
		name   string
		change Change
		// the lines that go, and those that come
		minus, plus string
	}{
		{"a number keeps its comment", to("/spec/replicas", "5"), "  replicas: 2 # two are enough\n", "  replicas: 5 # two are enough\n"},
		{
			"a string keeps its quotes and its comment", to(containers+"[name=app]/image", `"example.com/web:2.0"`),
			"        image: \"example.com/web:1.0\"   # by the release job\n", "        image: \"example.com/web:2.0\"   # by the release job\n",
		},
		{
			"a plain string", to(containers+"[name=sidecar]/image", `"example.com/proxy:4"`),
			"        image: example.com/proxy:3\n", "        image: example.com/proxy:4\n",
		},
		{"a string that looks like a number is quoted", to(containers+"[name=app]/env/[name=LEVEL]/value", `"7"`), "          value: info\n", "          value: \"7\"\n"},
		{
			"inside braces", to(containers+"[name=app]/resources/limits/cpu", `"250m"`),
			"          limits: {cpu: 100m, memory: 64Mi}\n", "          limits: {cpu: 250m, memory: 64Mi}\n",
		},
		{
			"an item inside braces", to(containers+"[name=app]/env/[name=REGION]/value", `"us"`),
			"        - {name: REGION, value: 'eu'}\n", "        - {name: REGION, value: 'us'}\n",
		},
		{"a new field", to("/spec/paused", "true"), "", "  paused: true\n"},
		{"a new field below new ones", to("/metadata/labels/team", `"a"`), "", "  labels:\n    team: a\n"},
		{"a new item of a list", to(containers+"[name=app]/env/[name=MODE]", `{"name":"MODE","value":"x"}`), "", "        - name: MODE\n          value: x\n"},
		{"a new item for a new field", to(containers+"[name=extra]/image", `"e"`), "", "      - image: e\n        name: extra\n"},
		{"a field goes", gone("/spec/replicas"), "  replicas: 2 # two are enough\n", ""},
		{"an item goes", gone(containers + "[name=sidecar]"), "      - name: sidecar\n        image: example.com/proxy:3\n", ""},
		{
			"a map in the place of another", to(containers+"[name=app]/resources", `{"requests":{"cpu":"1"}}`),
			"          limits: {cpu: 100m, memory: 64Mi}\n", "          requests:\n            cpu: \"1\"\n",
		},
		{
			"a text of several lines", to(containers+"[name=app]/env/[name=LEVEL]/value", `"a\nb\n"`),
			"          value: info\n", "          value: |\n            a\n            b\n",
		},
		{"what is there already", to("/spec/replicas", "2"), "", ""},
		{"what is not there cannot go", gone("/spec/paused"), "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Edit([]byte(deployment), First, []Change{tt.change})
			if err != nil {
				t.Fatal(err)
			}
			minus, plus := moved(deployment, string(got))
			if diff := cmp.Diff([]string{tt.minus, tt.plus}, []string{minus, plus}); diff != "" {
				t.Errorf("lines that went and came (-want +got):\n%s\n%s", diff, got)
			}
		})
	}
}

// moved cuts off what is equal at both ends.
func moved(a, b string) (minus, plus string) {
	x, y := strings.SplitAfter(a, "\n"), strings.SplitAfter(b, "\n")
	for len(x) > 0 && len(y) > 0 && x[0] == y[0] {
		x, y = x[1:], y[1:]
	}
	for len(x) > 0 && len(y) > 0 && x[len(x)-1] == y[len(y)-1] {
		x, y = x[:len(x)-1], y[:len(y)-1]
	}
	return strings.Join(x, ""), strings.Join(y, "")
}

func TestEditOfSeveralDocuments(t *testing.T) {
	const file = "---\nkind: A\nx: 1\n---\n# second\nkind: B\nx: 1\n"
	got, err := Edit([]byte(file), func(v any) bool { return v.(map[string]any)["kind"] == "B" }, []Change{to("/x", "2"), to("/z", "3")})
	if err != nil {
		t.Fatal(err)
	}
	if want := "---\nkind: A\nx: 1\n---\n# second\nkind: B\nx: 2\nz: 3\n"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEditWritesAnewWhatItCannotSplice(t *testing.T) {
	const file = "# head\nmetadata: {name: a} # tail\nspec: {a: 1}\n"
	got, err := Edit([]byte(file), First, []Change{to("/spec/b", "2")})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# head", "# tail", "{name: a}", "b: 2"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
}

// What the text around a value would turn into something else is noticed, because the result is read back.
func TestEditReadsBack(t *testing.T) {
	got, err := Edit([]byte("a: {b: c, d: e}\n"), First, []Change{to("/a/b", `"x, y"`)})
	if err != nil {
		t.Fatal(err)
	}
	var v struct{ A map[string]string }
	if err := yaml.Unmarshal(got, &v); err != nil || v.A["b"] != "x, y" || v.A["d"] != "e" || len(v.A) != 2 {
		t.Errorf("got %s: %v, %v", got, v, err)
	}
}

func TestEditKeepsForeignLineEnds(t *testing.T) {
	got, err := Edit([]byte("a:\r\n  b: 1\r\nc: 2\r\n"), First, []Change{to("/a/b", "3"), to("/a/d", "4")})
	if err != nil {
		t.Fatal(err)
	}
	if want := "a:\r\n  b: 3\r\n  d: 4\r\nc: 2\r\n"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEditRefuses(t *testing.T) {
	for _, tt := range []struct{ name, file, want string }{
		{"an anchor that others use", "a: &x {b: 1}\nc: *x\n", "anchor"},
		{"an alias on the way", "c: &x {b: 1}\na: *x\n", "anchor"},
		{"a document too many", "a: {b: 1}\n---\na: {b: 1}\n", "several documents"},
		{"a scalar on the way", "a: text\n", "no mapping"},
		{"what is no YAML", "a: [\n", "yaml"},
		{"nothing at all", "", "no document"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Edit([]byte(tt.file), First, []Change{to("/a/b", "2")})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %q and the error %v, want one that says %q", got, err, tt.want)
			}
		})
	}
}

// FuzzEdit: whatever the file and the change are, either it is refused, or the file reads back
// as what it said before with the change made, and in every other document nothing is different.
func FuzzEdit(f *testing.F) {
	f.Add(deployment, "/spec/replicas", "7", false)
	f.Add(deployment, "/spec/template/spec/containers/[name=app]/image", `"x # y"`, false)
	f.Add(deployment, "/spec/template/spec/containers/[name=app]/env/[name=LEVEL]", "", true)
	f.Add("a: |+\n  x\n\nb: 'it''s'\n---\nc: [1, {d: \"]\"}]\n", "/b", `"a, b: {c}"`, false)
	f.Add("- a\n- b: 1\n  c: 2\n", "/1/c", `{"x":[1,null]}`, false)
	f.Add("a:\n  - b\n  -  c: ü # ö\n     d: e\n", "/a/1/d", `"\n"`, false)
	f.Fuzz(func(t *testing.T, file, path, json string, remove bool) {
		c := Change{Path: fieldpath.Parts(path), Text: path, Remove: remove}
		if len(c.Path) == 0 {
			return
		}
		if !remove {
			var err error
			if c.Value, err = ParseJSON(json); err != nil {
				return
			}
		}
		docs, err := Parse([]byte(file))
		if err != nil {
			return
		}
		at := len(docs) - 1
		last := -1
		got, err := Edit([]byte(file), func(any) bool { last++; return last%len(docs) == at }, []Change{c})
		if err != nil {
			return
		}
		after, err := Parse(got)
		if err != nil || len(after) != len(docs) {
			t.Fatalf("%d documents became %d (%v)\n%s", len(docs), len(after), err, got)
		}
		for i := range docs {
			want, err := docs[i].Value()
			if err != nil {
				t.Fatal(err)
			}
			if i == at {
				if want, err = Set(want, c.Path, c); err != nil {
					t.Fatal(err)
				}
				if want, err = normal(want); err != nil {
					t.Fatal(err)
				}
			}
			var have any
			if err := after[i].node.Decode(&have); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(want, have) {
				a, _ := yaml.Marshal(want)
				t.Fatalf("want\n%s\ngot\n%s", a, got)
			}
		}
	})
}
