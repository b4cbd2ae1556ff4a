package archtest

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	// namedTest finds the tests that a page names as its proof.
	namedTest = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9_]*)")
	// testFunc finds the tests that there are.
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9_]*)\(`)
	// link finds what a page leads to, without an anchor.
	link = regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)]*)?\)`)
)

// textsOf returns the files of a tree whose names end in one way, by path. Build output and hidden directories are left out.
func textsOf(tree fs.FS, ending string) (map[string]string, error) {
	out := map[string]string{}
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || slices.Contains([]string{"bin", "demo-data", "testdata", "node_modules"}, d.Name())) {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ending) {
			return nil
		}
		text, err := fs.ReadFile(tree, name)
		out[name] = string(text)
		return err
	})
	return out, err
}

// unproved lists the tests that pages name and that do not exist.
func unproved(pages, tests map[string]string) []string {
	have := map[string]bool{}
	for _, text := range tests {
		for _, m := range testFunc.FindAllStringSubmatch(text, -1) {
			have[m[1]] = true
		}
	}
	var out []string
	for name, text := range pages {
		for _, m := range namedTest.FindAllStringSubmatch(text, -1) {
			if !have[m[1]] {
				out = append(out, fmt.Sprintf("%s names %s, which is no test", name, m[1]))
			}
		}
	}
	slices.Sort(out)
	return out
}

// brokenLinks lists the links of pages to files that do not exist.
func brokenLinks(tree fs.FS, pages map[string]string) []string {
	var out []string
	for name, text := range pages {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], ":") {
				continue // an address, not a file
			}
			if _, err := fs.Stat(tree, path.Join(path.Dir(name), m[1])); err != nil {
				out = append(out, fmt.Sprintf("%s leads to %s: %v", name, m[1], err))
			}
		}
	}
	slices.Sort(out)
	return out
}

// sameNumber lists the decisions that have the number of another one.
func sameNumber(pages map[string]string) []string {
	first := map[string]string{}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(pages)) {
		dir, file := path.Split(name)
		number, _, ok := strings.Cut(file, "-")
		if dir != "docs/decisions/" || !ok {
			continue
		}
		if other := first[number]; other != "" {
			out = append(out, fmt.Sprintf("%s has the number of %s", name, other))
		}
		first[number] = name
	}
	return out
}

// What a page gives as a proof is there, and so is what it leads to.
func TestDocs(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	tree := os.DirFS(root)
	pages, err := textsOf(tree, ".md")
	if err != nil {
		t.Fatal(err)
	}
	tests, err := textsOf(tree, "_test.go")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := pages["docs/security.md"]; !ok || len(tests) < 100 {
		t.Fatalf("found %d pages and %d files of tests: not the whole tree", len(pages), len(tests))
	}
	for _, problem := range slices.Concat(unproved(pages, tests), brokenLinks(tree, pages), sameNumber(pages)) {
		t.Error(problem)
	}
}

func TestDocs_findsWhatIsWrong(t *testing.T) {
	pages := map[string]string{"docs/a.md": "see [b](b.md#x), [c](../c.md) and [d](https://example.com/d); proved by `TestA` and `FuzzB`"}
	tests := map[string]string{"a_test.go": "func TestA(t *testing.T) {\n"}
	if got, want := unproved(pages, tests), []string{"docs/a.md names FuzzB, which is no test"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	got := brokenLinks(os.DirFS(t.TempDir()), pages)
	if len(got) != 2 || !strings.HasPrefix(got[0], "docs/a.md leads to ../c.md") || !strings.HasPrefix(got[1], "docs/a.md leads to b.md") {
		t.Errorf("got %q", got)
	}
	decisions := map[string]string{"docs/decisions/0001-a.md": "", "docs/decisions/0001-b.md": "", "docs/decisions/0002-a.md": "", "docs/0002-a.md": ""}
	if got, want := sameNumber(decisions), []string{"docs/decisions/0001-b.md has the number of docs/decisions/0001-a.md"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
