package render_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/rendertest"
	"github.com/flotilla-fleet/flotilla/sources/directory"
	"github.com/flotilla-fleet/flotilla/sources/git"
)

// inGit is a snapshot of files as a clone has it.
func inGit(t *testing.T, files rendertest.Files, links ...string) api.Snapshot {
	t.Helper()
	server := gitservertest.NewServer(t, gitserver.Config{})
	repo := server.Repository("fleet")
	commit := gitserver.Commit{Write: files, Link: map[string]string{}}
	for i := 0; i+1 < len(links); i += 2 {
		commit.Link[links[i]] = links[i+1]
	}
	repo.Do(commit)
	source, err := git.New(git.Config{URL: repo.URL, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := source.Close(); err != nil {
			t.Error(err)
		}
	})
	snap, err := source.Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// onDisk is a snapshot of files as a working directory has it.
func onDisk(t *testing.T, files rendertest.Files) api.Snapshot {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	snap, err := directory.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// A file whose name is no UTF-8 concerns only the bundles that read it.
func TestRender_fileNamesInOtherEncodings(t *testing.T) {
	const cafe = "caf\xe9"
	base := fleet().With(
		"p/bundle.yaml", bundleYAML("p", ""), "p/cm.yaml", configMap("p", "k: v"),
		"h/bundle.yaml", bundleYAML("h", "{helm: {chart: ./chart}}"),
		"h/chart/Chart.yaml", "{apiVersion: v2, name: thing, version: 1.0.0}", "h/chart/templates/cm.yaml", configMap("h", "k: v"),
	)
	for _, tt := range []struct {
		name, file, text string
		broken, says     string
	}{
		{"somewhere", "docs/" + cafe + ".txt", "x", "", ""},
		{"in a directory of such a name", cafe + "/x.txt", "x", "", ""},
		{"beside manifests", "p/" + cafe + ".txt", "x", "", ""},
		{"a manifest", "p/" + cafe + ".yaml", configMap("x", "k: v"), "p", `p/caf\xe9.yaml`},
		{"a manifest in a directory of such a name", "p/" + cafe + "/x.yaml", configMap("x", "k: v"), "p", `p/caf\xe9/x.yaml`},
		{"in a chart", "h/chart/files/" + cafe + ".txt", "x", "h", `h/chart/files/caf\xe9.txt`},
		{"a bundle", cafe + "/bundle.yaml", bundleYAML("cafe", ""), "cafe", `caf\xe9/bundle.yaml`},
	} {
		check := func(t *testing.T, snap api.Snapshot) {
			t.Helper()
			out := mustRender(t, newRenderer(t, render.Config{}), snap, "one")
			for _, b := range out.Bundles {
				if (b.Err != nil) != (b.Name == tt.broken) {
					t.Errorf("bundle %s: %v", b.Name, b.Err)
				}
			}
			if tt.broken == "" {
				if diff := cmp.Diff("a h p", names(out)); diff != "" {
					t.Error(diff)
				}
				return
			}
			b := bundle(t, out, tt.broken)
			wantError(t, b.Err, api.Error{Reason: "BadFileName", File: tt.says}, "not UTF-8")
			if strings.Contains(b.Dir+b.Err.Error(), "\xe9") {
				t.Error("the name is passed on as it is")
			}
		}
		t.Run(tt.name, func(t *testing.T) { check(t, inGit(t, base.With(tt.file, tt.text))) })
		t.Run(tt.name+" on disk", func(t *testing.T) { check(t, onDisk(t, base.With(tt.file, tt.text))) })
	}
}
