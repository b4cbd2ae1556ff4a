package archtest

import (
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestModule(t *testing.T) {
	packages, err := Load(t.Context(), "../..")
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, p := range packages {
		paths = append(paths, p.Path)
		for _, violation := range check(p) {
			t.Error(violation)
		}
	}
	// A graph that was not read breaks no rule.
	for _, want := range []string{"api", "cmd/flotilla", "internal/archtest"} {
		if !slices.Contains(paths, want) {
			t.Errorf("package %s was not found among %q", want, paths)
		}
	}
}

func TestControlPlaneModule(t *testing.T) {
	packages, err := Load(t.Context(), "../../test/controlplane")
	if err != nil {
		t.Fatal(err)
	}
	if len(packages) < 4 {
		t.Errorf("found %d packages", len(packages))
	}
	for _, p := range packages {
		for _, violation := range checkComment(p) {
			t.Errorf("%s %s", p.Path, violation)
		}
	}
}

// writes are the calls by which client-go writes.
var writes = regexp.MustCompile(`\.(Create|Update|UpdateStatus|Patch|Apply|ApplyStatus|Delete|DeleteCollection)\(ctx`)

// The packages that may ask the cluster for anything hold no call that writes: reconciler/apply and reconciler/cluster do, through reconciler/kube.
func TestReadersOnlyRead(t *testing.T) {
	for _, dir := range readers {
		files, err := filepath.Glob("../../" + dir + "/*.go")
		if err != nil || len(files) == 0 {
			t.Fatal(dir, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if at := writes.Find(text); at != nil {
				t.Errorf("%s calls %s…)", file, at)
			}
		}
	}
	if !writes.MatchString("r.Patch(ctx, name") {
		t.Error("nothing would be found")
	}
}

// urls are the calls by which client-go takes a whole path, or a part of one that may hold slashes.
var urls = regexp.MustCompile(`\.(AbsPath|RequestURI|Suffix|Prefix)\(`)

// The address of anything on an API server is made in reconciler/kube alone, which checks each of its parts.
func TestAddressesAreMadeInOnePlace(t *testing.T) {
	const owner = "../../reconciler/kube/"
	found := 0
	for _, top := range []string{"api", "cmd", "drift", "hub", "internal", "reconciler", "render", "sources"} {
		err := filepath.WalkDir("../../"+top, func(file string, _ os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
				return err
			}
			text, err := os.ReadFile(file)
			if err != nil || !strings.Contains(string(text), `"k8s.io/client-go`) {
				return err
			}
			for _, call := range urls.FindAllString(string(text), -1) {
				found++
				if !strings.HasPrefix(file, owner) {
					t.Errorf("%s calls %s…): addresses are made by reconciler/kube", file, call)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found == 0 {
		t.Error("nothing was found, not even in reconciler/kube")
	}
}

// escapes are how the parts of a field's path are written and read by hand.
var escapes = regexp.MustCompile("[\"`]~[01][\"`]")

// A field's path is read and written in api/fieldpath alone: what a comparison ignores is what an apply leaves.
func TestPathsAreReadInOnePlace(t *testing.T) {
	found := 0
	for _, top := range []string{"api", "cmd", "drift", "hub", "internal", "reconciler", "render", "sources"} {
		err := filepath.WalkDir("../../"+top, func(file string, _ os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
				return err
			}
			text, err := os.ReadFile(file)
			if err != nil || !escapes.Match(text) {
				return err
			}
			found++
			if !strings.HasPrefix(file, "../../api/fieldpath/") {
				t.Errorf("%s escapes a path: fieldpath.Escape and fieldpath.Parts do", file)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found == 0 {
		t.Error("nothing was found, not even in api/fieldpath")
	}
}

// raw are the ways to write that know nothing of terminals.
var raw = regexp.MustCompile(`\b(fmt\.(Fp|P)rint\w*|io\.WriteString|io\.Copy|os\.Std(out|err))`)

// The packages that talk to people write through internal/terminal, so that no data reaches a terminal as it is.
func TestPeopleReadThroughTheTerminalPackage(t *testing.T) {
	for _, dir := range []string{"internal/cli", "internal/demo"} {
		files, err := filepath.Glob("../../" + dir + "/*.go")
		if err != nil || len(files) == 0 {
			t.Fatal(dir, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for n, line := range strings.Split(string(text), "\n") {
				if at := raw.FindString(line); at != "" {
					t.Errorf("%s:%d uses %s: write with terminal.Printer", file, n+1, at)
				}
			}
		}
	}
	for line, want := range map[string]bool{
		`fmt.Fprintf(w, "x")`: true, `fmt.Println("x")`: true, `out := os.Stdout`: true, `io.WriteString(w, s)`: true,
		`w.Printf("x")`: false, `func (o output) print(w io.Writer)`: false, `fmt.Sprintf("x")`: false,
	} {
		if got := raw.FindString(line) != ""; got != want {
			t.Errorf("%s is found: %v", line, got)
		}
	}
}

func TestClockUses(t *testing.T) {
	const src = `package p

import clock "time"

type span struct{ from, to clock.Time }

func now() clock.Time { return clock.Now() }

var tick = clock.NewTicker
`
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "p.go", src, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"7: time.Now", "9: time.NewTicker"}
	if got := clockUses(fset, file); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What is released is built with the tags that the Makefile names, and they still keep Envoy's API out.
func TestTags(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^TAGS\s*:=\s*(\S+)$`).FindSubmatch(makefile)
	if m == nil {
		t.Fatal("the Makefile names no TAGS")
	}
	tags := string(m[1])
	for file, want := range map[string]string{"Dockerfile": "-tags " + tags + " ", "test/e2e/main_test.go": `"-tags", "` + tags + `"`} {
		text, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), want) {
			t.Errorf("%s builds without %s", file, want)
		}
	}
	list := exec.CommandContext(t.Context(), "go", "list", "-tags", tags, "-deps", "./cmd/flotilla")
	list.Dir, list.Stderr = "../..", os.Stderr
	linked, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"cloud.google.com/go/storage\n", "flotilla/render/sops\n"} { // or else nothing was read
		if !strings.Contains(string(linked), want) {
			t.Errorf("not linked: %s", want)
		}
	}
	if strings.Contains(string(linked), "github.com/envoyproxy/") {
		t.Errorf("built with -tags %s the program links Envoy's API, which is 17 MB of it: does cloud.google.com/go/storage still know the tag?", tags)
	}
}
