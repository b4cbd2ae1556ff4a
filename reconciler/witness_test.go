package reconciler

import (
	"context"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
)

// changing is an object that becomes what the newer revision says while it is looked at.
type changing struct {
	Applier
	Detective
	live  *unstructured.Unstructured
	looks int
}

func (c *changing) ClockSkew() time.Duration { return 0 }

func (c *changing) Inspect(_ context.Context, _ api.RenderedBundle, desired *unstructured.Unstructured) apply.Inspection {
	return apply.Inspection{Desired: desired, Live: c.live}
}

// Observe finds drift at the first two looks, and none at the third.
func (c *changing) Observe(*api.Episode, Observation) Verdict {
	if c.looks++; c.looks > 2 {
		return Verdict{}
	}
	return Verdict{Opened: true, Episode: &api.Episode{Class: api.ClassChanged}}
}

// noEpisodes is a store without any.
type noEpisodes struct{ *failing }

func (noEpisodes) LatestEpisode(string) (*api.Episode, error) { return nil, nil } //nolint:nilnil // none is an answer

func settings(colour string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"namespace": "app", "name": "settings"},
		"data": map[string]any{"colour": colour},
	}}
}

// An object that differs from what was applied, and is as the newer revision says a moment later, has no episode to keep.
func TestWitness_anObjectThatBecomesAsGitSays(t *testing.T) {
	red, blue := settings("red"), settings("blue")
	c := &changing{live: red}
	r := recorderOf(noEpisodes{&failing{}})
	r.Applier, r.Detective, r.rendering = c, c, &api.Rendering{}
	b := newBundle("app")
	ref := api.RefOf(red)
	b.entries[ref.ID()] = api.InventoryEntry{Object: ref, Digest: apply.Digest(red)}
	b.desired = &api.RenderedBundle{Name: "app", Objects: []*unstructured.Unstructured{blue}}
	b.life = lifeAfter(lifecycle.Rendered{Digest: "blue"})
	r.bundles["app"] = b
	w := &witness{
		r: r, b: b, applied: &api.RenderedBundle{Name: "app", Objects: []*unstructured.Unstructured{red}},
		objects: map[string]*unstructured.Unstructured{ref.ID(): red}, met: map[string]bool{}, over: map[string]bool{},
	}
	if err := w.Found(t.Context(), ref, apply.Inspection{Desired: red, Live: red}); err != nil {
		t.Fatal(err)
	}
	if c.looks != 3 || len(b.objects) != 0 || len(w.met) != 0 {
		t.Errorf("%d looks, known %v, met %v", c.looks, b.objects, w.met)
	}
}
