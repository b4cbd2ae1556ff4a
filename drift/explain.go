package drift

import (
	"slices"
	"strings"

	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/flotilla-fleet/flotilla/api"
	paths "github.com/flotilla-fleet/flotilla/api/fieldpath"
)

// Explained is one field of an object with all that is known of it: the desired and the live value,
// and who owns the live one. Secret values are masked as in every FieldDiff.
type Explained struct {
	api.FieldDiff
	// Reason is why a difference is no drift; empty if it is drift, or if there is no difference.
	Reason string `json:"reason,omitempty"`
}

// What Explain says of differences that Compare never sees, because a dry run has them on both sides, or nobody owns them.
const (
	otherThanGit = "changed by admission as it is applied, or written otherwise by the API server"
	nextWrite    = "not in Git: admission or the API server sets it with the next write"
	nextChange   = "as in Git: admission changes it with the next write"
	nobodys      = "not in Git and nobody's: added by admission or the API server"
)

// Explain lists every field that we own or that differs, sorted by path, what others added included.
// A field without a difference has no Class. Nil means that nothing can be said: a side is missing.
//
// Unlike in Compare, Desired is what Git says, and not what admission makes of it. What admission changes is told,
// and what it adds among labels, annotations and the items of lists that are merged by key:
// elsewhere nothing tells its work from a default.
func Explain(in Input) []Explained {
	if in.Desired == nil || in.Live == nil || in.DryRun == nil {
		return nil
	}
	if in.Manager == "" {
		in.Manager = api.FieldManager
	}
	if !in.Spec.AsksForExtra() {
		in.Spec.Extra = api.ExtraReport
	}
	w := newWalker(in)
	w.all = !in.Refused
	w.object()
	var out []Explained
	added := w.added()
	for _, d := range slices.Concat(w.found, w.kept, added, w.passed, w.unclaimed()) {
		if e := w.explained(d); !covered(out, e.Path) {
			out = append(out, e)
		}
	}
	differ := len(out)
	for p := range w.own.Leaves().All() {
		if e, ok := w.settled(p.Copy()); ok && !covered(out[:differ], e.Path) {
			out = append(out, e)
		}
	}
	slices.SortStableFunc(out, func(a, b Explained) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// explained is a difference with what Git says, which is not always what a dry run makes of it.
func (w *walker) explained(d difference) Explained {
	git, ok := w.inGit(d.path.Path())
	switch {
	case d.order:
	case d.reason == nextWrite && !ok:
		if !w.mask.hides(d.path) {
			d.reason += ", to " + brief(text(d.want))
		}
		d.want = nil
	case d.reason == asApplied && ok && w.holds(d.path, d.have, git):
		d.reason, d.want = nextChange, d.have
	case ok && d.want != nil && !w.holds(d.path, d.want, git):
		d.want = git
	}
	e := Explained{FieldDiff: d.diff(w.mask), Reason: d.reason}
	if w.mask.hides(d.path) && d.want != nil && paths.Equal(d.want, d.have) {
		e.Desired, e.Live = maskedValue, maskedValue
	}
	return e
}

// settled explains a field that we own and that is as the dry run says.
// The fields that only tell a list's item from the others are left out: its path says them.
func (w *walker) settled(p fieldpath.Path) (Explained, bool) {
	at, have, ok := paths.Locate(w.in.Live.Object, p)
	if !ok || isKey(p) {
		return Explained{}, false
	}
	by := attribution(owner(w.live, p))
	if git, ok := w.inGit(p); ok && !w.holds(at, have, git) {
		d := difference{path: at, class: api.ClassChanged, want: git, have: have, by: by}
		return Explained{FieldDiff: d.diff(w.mask), Reason: otherThanGit}, true
	}
	value := text(have)
	if w.mask.hides(at) {
		value = maskedValue
	}
	value, _ = bounded(value, value)
	return Explained{FieldDiff: api.FieldDiff{Path: at.String(), Desired: value, Live: value, By: by}}, true
}

// inGit is what Git says at a path of managedFields.
func (w *walker) inGit(p fieldpath.Path) (any, bool) {
	_, v, ok := paths.Locate(w.in.Desired.Object, p)
	return v, ok
}

// holds reports whether a value says all that Git says; defaults may have been added to it.
func (w *walker) holds(at trail, value, git any) bool {
	switch g := git.(type) {
	case nil:
		return true
	case map[string]any:
		v, ok := value.(map[string]any)
		for k := range g {
			ok = ok && w.holds(at.Then(paths.Field(k)), v[k], g[k])
		}
		return ok
	case []any:
		v, ok := value.([]any)
		ok = ok && len(v) == len(g)
		for i := range g {
			ok = ok && w.holds(at.Then(paths.Item(fieldpath.IndexElement(i), i, g[i])), v[i], g[i])
		}
		return ok || unordered(at, w.in.Live) && sameItems(value, git)
	}
	return paths.Equal(value, git) || sameQuantity(difference{path: at, want: git, have: value})
}

// unclaimed are labels, annotations and items of keyed lists that Git does not have and nobody owns.
func (w *walker) unclaimed() []difference {
	var out []difference
	add := func(at trail, have any) {
		if _, git := w.inGit(at.Path()); !git && w.desirable(at) {
			out = append(out, difference{
				path: at, class: api.ClassAdded, have: have, reason: nobodys, by: api.Attribution{Confidence: api.ConfidenceUnknown},
			})
		}
	}
	var visit func(at trail, claims *fieldpath.Set, v any)
	visit = func(at trail, claims *fieldpath.Set, v any) {
		claimed := func(pe fieldpath.PathElement) bool { return claims.Members.Has(pe) || !claims.WithPrefix(pe).Empty() }
		switch v := v.(type) {
		case map[string]any:
			for _, key := range keys(v, nil) {
				s := paths.Field(key)
				switch {
				case claimed(s.Elem), at.Field(0) == "metadata" && (key == "labels" || key == "annotations"):
					visit(at.Then(s), claims.WithPrefix(s.Elem), v[key])
				case at.Field(1) == "metadata" && (at.Field(0) == "labels" || at.Field(0) == "annotations"):
					add(at.Then(s), v[key])
				}
			}
		case []any:
			ident := paths.Identify(claims)
			list, ok := paths.ItemsOf(v, ident)
			if ident == nil || !ok {
				return
			}
			for _, it := range list.Order {
				if claimed(it.Elem) {
					visit(at.Then(it), claims.WithPrefix(it.Elem), it.Item)
				} else {
					add(at.Then(it), it.Item)
				}
			}
		}
	}
	visit(trail{}, w.shape, w.in.Live.Object)
	return out
}

func isKey(p fieldpath.Path) bool {
	if len(p) < 2 || p[len(p)-1].FieldName == nil || p[len(p)-2].Key == nil {
		return false
	}
	name := *p[len(p)-1].FieldName
	for _, k := range *p[len(p)-2].Key {
		if k.Name == name {
			return true
		}
	}
	return false
}

// covered reports whether a path is, or is below, one that is explained already.
func covered(list []Explained, path string) bool {
	return slices.ContainsFunc(list, func(e Explained) bool { return path == e.Path || strings.HasPrefix(path, e.Path+"/") })
}
