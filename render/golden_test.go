package render_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	fleetexample "github.com/flotilla-fleet/flotilla/fleet-example"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/rendertest"
	"github.com/flotilla-fleet/flotilla/render/sops"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// exampleKeys are the keys of the example repository.
func exampleKeys(t testing.TB) *sops.Keyring {
	t.Helper()
	keys, err := sops.Open(sops.Config{Files: []string{"../fleet-example/" + fleetexample.AgeKeyFile}})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func newRenderer(t testing.TB, cfg render.Config) *render.Renderer {
	t.Helper()
	if cfg.Engine == nil {
		cfg.Engine = workers
	}
	r, err := render.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFleetExample_golden(t *testing.T) {
	tree := rendertest.FromFS(fleetexample.FS())
	clusters, err := render.Clusters(tree)
	if err != nil {
		t.Fatal(err)
	}
	if len(clusters) != 3 {
		t.Fatalf("got %d clusters, want 3", len(clusters))
	}
	r := newRenderer(t, render.Config{Keys: exampleKeys(t)})
	for _, c := range clusters {
		t.Run(c.Metadata.Name, func(t *testing.T) {
			snap := api.Snapshot{Revision: "example", Tree: tree}
			out, err := r.Render(t.Context(), snap, c.Metadata.Name, api.ClusterFacts{}) // as flotilla render does
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range out.Bundles {
				if b.Err != nil {
					t.Errorf("bundle %s: %v", b.Name, b.Err)
				}
				for _, w := range b.Warnings {
					t.Errorf("bundle %s warns: %s", b.Name, w)
				}
			}
			got := golden(t, out)
			file := filepath.Join("testdata", "golden", c.Metadata.Name+".yaml")
			if *update {
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("the rendering differs from %s (-want +got), rewrite it with -update:\n%s", file, diff)
			}
		})
	}
}

// golden writes a rendering for people to review.
func golden(t *testing.T, out api.Rendering) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, bundle := range out.Bundles {
		fmt.Fprintf(&b, "# bundle %s (%s), dependsOn %v\n", bundle.Name, bundle.Dir, bundle.Spec.DependsOn)
		for _, o := range bundle.Objects {
			text, err := yaml.Marshal(o.Object)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "---\n# %s\n%s", bundle.Origin[api.RefOf(o).ID()], text)
		}
	}
	return b.Bytes()
}

// A new image for production is one line, and it reaches no other cluster.
func TestFleetExample_imageForProduction(t *testing.T) {
	const file = "apps/podinfo/overlays/prod/kustomization.yaml"
	r := newRenderer(t, render.Config{Keys: exampleKeys(t)})
	before := readAll(t)
	after := before.With(file, string(bytes.Replace([]byte(before[file]), []byte("newTag: 6.9.1"), []byte("newTag: 6.9.9"), 1)))
	if before[file] == after[file] {
		t.Fatal("the overlay has no newTag: 6.9.1")
	}
	for cluster, changed := range map[string]bool{"staging-eu": false, "prod-eu": true, "prod-us": true} {
		old, err := r.Render(t.Context(), before.Snapshot(), cluster, api.ClusterFacts{})
		if err != nil {
			t.Fatal(err)
		}
		now, err := r.Render(t.Context(), after.Snapshot(), cluster, api.ClusterFacts{})
		if err != nil {
			t.Fatal(err)
		}
		for i, b := range now.Bundles {
			differs := b.Digest != old.Bundles[i].Digest
			if want := changed && b.Name == "podinfo"; differs != want {
				t.Errorf("%s: bundle %s changed: %v, want %v", cluster, b.Name, differs, want)
			}
		}
	}
}

func readAll(t testing.TB) rendertest.Files {
	t.Helper()
	files, err := rendertest.ReadAll(fleetexample.FS())
	if err != nil {
		t.Fatal(err)
	}
	return files
}
