package adopt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/api/fieldpath"
	"github.com/flotilla-fleet/flotilla/internal/yamledit"
)

// errOthers is why a change is refused that other clusters share.
var errOthers = errors.New("other clusters would change too")

// renderings are what the repository says: cluster -> its rendering.
type renderings map[string]api.Rendering

func renderAll(ctx context.Context, req Request, tree api.Tree) (renderings, error) {
	clusters, err := req.List(tree)
	if err != nil {
		return nil, err
	}
	out := renderings{}
	snap := req.Snapshot
	snap.Tree = tree
	for _, c := range clusters {
		name := c.Metadata.Name
		r, err := req.Renderer.Render(ctx, snap, name, api.ClusterFacts{})
		if err != nil {
			return nil, fmt.Errorf("render cluster %q: %w", name, err)
		}
		out[name] = r
	}
	return out, nil
}

// object finds what the episode is about.
func (rs renderings) object(e api.Episode) (api.RenderedBundle, *unstructured.Unstructured, error) {
	r, ok := rs[e.Cluster]
	if !ok {
		return api.RenderedBundle{}, nil, refusal(e, fmt.Sprintf("the repository has no cluster %q", e.Cluster), "is this the right fleet repository?")
	}
	for _, b := range r.Bundles {
		if b.Name != e.Bundle {
			continue
		}
		if b.Err != nil {
			return b, nil, fmt.Errorf("render bundle %q: %w", b.Name, b.Err)
		}
		if o := find1(b, e.Object); o != nil {
			return b, o, nil
		}
	}
	return api.RenderedBundle{}, nil, refusal(e, fmt.Sprintf("the bundle %q does not hold it in this checkout", e.Bundle),
		"git pull; the drift may be about another commit")
}

func find1(b api.RenderedBundle, ref api.ObjectRef) *unstructured.Unstructured {
	i := slices.IndexFunc(b.Objects, func(o *unstructured.Unstructured) bool { return api.RefOf(o).ID() == ref.ID() })
	if i < 0 {
		return nil
	}
	return b.Objects[i]
}

// current refuses an episode that is about something else than what the repository says now:
// adopting it would undo somebody's later decision.
func current(e api.Episode, object map[string]any) error {
	const decide = "Git has moved on since: decide anew"
	for _, f := range e.Fields {
		have, there := fieldpath.Get(object, fieldpath.Parts(f.Path))
		want, err := yamledit.ParseJSON(f.Desired)
		switch {
		case f.Desired == "" && there:
			return refusal(e, fmt.Sprintf("this checkout says %s at %s, and the drift was from nothing", brief(have), f.Path), decide)
		case f.Desired == "":
		case err == nil && !there:
			return refusal(e, fmt.Sprintf("this checkout says nothing at %s, and the drift was from %s", f.Path, f.Desired), decide)
		case err == nil && !covers(want, have):
			return refusal(e, fmt.Sprintf("this checkout says %s at %s, and the drift was from %s", brief(have), f.Path, f.Desired), decide)
		}
	}
	return nil
}

// covers reports whether what the API server made of a value can come from what Git says:
// it has all that Git has, and perhaps defaults besides.
func covers(want, have any) bool {
	switch h := have.(type) {
	case map[string]any:
		w, ok := want.(map[string]any)
		if !ok {
			return len(h) == 0 && want == nil
		}
		for k, v := range h {
			if v != nil && !covers(w[k], v) {
				return false
			}
		}
		return true
	case []any:
		w, ok := want.([]any)
		if !ok {
			return len(h) == 0 && want == nil
		}
		return slices.EqualFunc(w, h, covers)
	}
	return !isCollection(want) && same(want, have)
}

// brief is a value as a message shows it.
func brief(v any) string {
	const most = 100
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	if len(b) > most {
		return strings.ToValidUTF8(string(b[:most]), "") + "…"
	}
	return string(b)
}

func isCollection(v any) bool {
	switch v.(type) {
	case map[string]any, []any:
		return true
	}
	return false
}

// same compares two scalars as the API server does: as numbers and quantities, too.
func same(a, b any) bool {
	x, y := fieldpath.Scalar(a), fieldpath.Scalar(b)
	if x == y {
		return true
	}
	q, err1 := resource.ParseQuantity(x)
	r, err2 := resource.ParseQuantity(y)
	return err1 == nil && err2 == nil && q.Cmp(r) == 0
}

// verify proves a change: the object has the live values where it drifted, and nothing else is different
// except, if that is allowed, the same fields of the same object on other clusters.
func verify(req Request, before, after renderings, changes []yamledit.Change) ([]string, error) {
	var others, all []string
	for name, old := range before {
		different, err := compare(req.Episode, old, after[name], changes)
		if err != nil {
			return nil, fmt.Errorf("on cluster %s %w", name, err)
		}
		switch {
		case name == req.Episode.Cluster && !different:
			return nil, errors.New("the rendering does not change")
		case different && name != req.Episode.Cluster:
			others = append(others, name)
		}
		if different {
			all = append(all, name)
		}
	}
	slices.Sort(others)
	slices.Sort(all)
	if len(others) > 0 && req.Clusters == OnlyDrifted {
		return nil, &api.Error{
			Kind: api.Forbidden, Reason: "OtherClusters",
			Err:  fmt.Errorf("%w: %s", errOthers, strings.Join(others, ", ")),
			Hint: fmt.Sprintf("give --all-clusters if that is meant, or give %s an overlay of its own", req.Episode.Cluster),
		}
	}
	return all, nil
}

// compare reports whether a cluster's rendering differs, and an error if it does so in anything but the changes.
func compare(e api.Episode, before, after api.Rendering, changes []yamledit.Change) (different bool, err error) {
	if len(before.Bundles) != len(after.Bundles) {
		return false, errors.New("there would be other bundles")
	}
	for i, old := range before.Bundles {
		now := after.Bundles[i]
		if old.Name == now.Name && old.Digest != "" && old.Digest == now.Digest {
			continue
		}
		switch {
		case old.Name != now.Name:
			return false, errors.New("there would be other bundles")
		case now.Err != nil && old.Err == nil:
			return false, fmt.Errorf("the bundle %q would fail: %w", now.Name, now.Err)
		case now.Err != nil && old.Err != nil && now.Err.Error() == old.Err.Error():
			continue // unknown before, and as unknown now
		case old.Name != e.Bundle:
			return false, fmt.Errorf("the bundle %q would change", old.Name)
		}
		if err := compareBundle(e, old, now, changes); err != nil {
			return false, err
		}
		different = true
	}
	return different, nil
}

func compareBundle(e api.Episode, before, after api.RenderedBundle, changes []yamledit.Change) error {
	if before.Err != nil || !reflect.DeepEqual(before.Spec, after.Spec) || !reflect.DeepEqual(before.Hooks, after.Hooks) {
		return fmt.Errorf("more than the object would change in the bundle %q", before.Name)
	}
	if len(before.Objects) != len(after.Objects) {
		return fmt.Errorf("the bundle %q would have %d objects instead of %d", before.Name, len(after.Objects), len(before.Objects))
	}
	for i, o := range before.Objects {
		want := runtime.DeepCopyJSONValue(o.Object)
		if api.RefOf(o).ID() == e.Object.ID() {
			for _, c := range changes {
				var err error
				if want, err = yamledit.Set(want, c.Path, c); err != nil {
					return err
				}
			}
		}
		if path := differs(want, any(after.Objects[i].Object), ""); path != "" {
			return fmt.Errorf("%s would not be as wanted at %s", api.RefOf(o), path)
		}
	}
	return nil
}

// differs names the first place where two values differ; empty if none does.
// What is empty and what is absent are the same: a patch cannot tell them apart.
func differs(a, b any, at string) string {
	x, xm := a.(map[string]any)
	y, ym := b.(map[string]any)
	if xm && ym || (xm && b == nil) || (ym && a == nil) {
		for _, k := range keysOf(x, y) {
			if d := differs(x[k], y[k], at+"/"+k); d != "" {
				return d
			}
		}
		return ""
	}
	l, ll := a.([]any)
	m, ml := b.([]any)
	if (ll || a == nil) && (ml || b == nil) && len(l) == len(m) && (ll || ml) {
		for i := range l {
			if d := differs(l[i], m[i], fmt.Sprintf("%s/%d", at, i)); d != "" {
				return d
			}
		}
		return ""
	}
	if !xm && !ym && !ll && !ml && ((a == nil) == (b == nil)) && fieldpath.Scalar(a) == fieldpath.Scalar(b) && isText(a) == isText(b) {
		return ""
	}
	return at + "/"
}

func isText(v any) bool { _, ok := v.(string); return ok }

func keysOf(a, b map[string]any) []string {
	var out []string
	for k := range a {
		out = append(out, k)
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}
