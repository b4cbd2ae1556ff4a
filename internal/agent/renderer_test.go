package agent_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/render/rendertest"
)

// A health expression that can never be evaluated fails its bundle, with the place where it stands, and no other.
func TestChecked_badHealthExpressions(t *testing.T) {
	renderer, err := agent.NewRenderer(agent.RendererConfig{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	bundle := func(name, health string) string {
		return "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: " + name + "}\nspec:\n  health:\n" + health
	}
	const object = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"
	tree := rendertest.Files{
		"clusters/one/cluster.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {name: one}\n",
		"good/bundle.yaml":          bundle("good", "  - {apiVersion: v1, kind: X, current: self.a == 'b'}\n"), "good/c.yaml": object,
		"bad/bundle.yaml": bundle("bad", "  - {apiVersion: v1, kind: X, current: self.a == 'b'}\n  - apiVersion: v1\n    kind: Y\n    inProgress: self.a ==\n"), "bad/c.yaml": strings.ReplaceAll(object, "name: c", "name: d"),
	}
	r, err := renderer.Render(t.Context(), tree.Snapshot(), "one", api.ClusterFacts{})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range r.Bundles {
		switch b.Name {
		case "good":
			if b.Err != nil || len(b.Objects) != 1 {
				t.Errorf("the good bundle: %v, %d objects", b.Err, len(b.Objects))
			}
		case "bad":
			e, ok := errors.AsType[*api.Error](b.Err)
			if !ok || e.Kind != api.Stalled || e.File != "bad/bundle.yaml" || e.Line != 9 || e.Field != "spec.health.1.inProgress" || len(b.Objects) != 0 || b.Digest != "" {
				t.Errorf("the bad bundle: %+v, %d objects", b.Err, len(b.Objects))
			}
		}
	}
	if len(r.Bundles) != 2 {
		t.Errorf("%d bundles", len(r.Bundles))
	}
}
