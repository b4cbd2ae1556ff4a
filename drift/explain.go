package drift

import (
	"slices"
	"strings"

	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/flotilla-fleet/flotilla/api"
)

// Explained is one field of an object with all that is known of it: the desired and the live value,
// and who owns the live one. Secret values are masked as in every FieldDiff.
type Explained struct {
	api.FieldDiff
	// Reason is why a difference is no drift; empty if it is drift, or if there is no difference.
	Reason string `json:"reason,omitempty"`
}

// Explain lists every field that we own or that differs, sorted by path, what others added included.
// A field without a difference has no Class. Nil means that nothing can be said: a side is missing.
func Explain(in Input) []Explained {
	if in.Desired == nil || in.Live == nil || in.DryRun == nil {
		return nil
	}
	if in.Manager == "" {
		in.Manager = api.FieldManager
	}
	if !asksForExtra(in.Spec) {
		in.Spec.Extra = api.ExtraReport
	}
	w := newWalker(in)
	w.object()
	var out []Explained
	for _, d := range slices.Concat(w.found, w.kept, w.added()) {
		if e := (Explained{FieldDiff: d.diff(w.mask), Reason: d.reason}); !covered(out, e.Path) {
			out = append(out, e)
		}
	}
	differ := len(out)
	for p := range w.own.Leaves().All() {
		if e, ok := w.unchanged(p.Copy()); ok && !covered(out[:differ], e.Path) {
			out = append(out, e)
		}
	}
	slices.SortStableFunc(out, func(a, b Explained) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// unchanged explains a field that we own and that has the desired value.
// The fields that only tell a list's item from the others are left out: its path says them.
func (w *walker) unchanged(p fieldpath.Path) (Explained, bool) {
	at, have, ok := w.locate(p)
	if !ok || isKey(p) {
		return Explained{}, false
	}
	value := text(have)
	if w.mask.hides(at) {
		value = maskedValue
	}
	value, _ = bounded(value, value)
	by := attribution(owner(w.live, p))
	return Explained{FieldDiff: api.FieldDiff{Path: at.String(), Desired: value, Live: value, By: by}}, true
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
