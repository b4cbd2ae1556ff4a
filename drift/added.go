package drift

import (
	"slices"

	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/flotilla-fleet/flotilla/api"
	paths "github.com/flotilla-fleet/flotilla/api/fieldpath"
)

// added are the fields of the live object that only others own, and no controller:
// a dry run does not show them, because server-side apply leaves them alone. An entry of another version of the API
// counts as far as its fields are there in this one too.
//
// A claim to a map or an item whose parts are claimed by themselves adds nothing: it outlives the claims to the parts,
// and Git's own fields may be all that the map holds.
func (w *walker) added() []difference {
	if !w.in.Spec.AsksForExtra() {
		return nil
	}
	var out []difference
	foreign, known := w.claims()
	taken := &fieldpath.Set{} // list items that were added as a whole
	for p := range foreign.Difference(known).All() {
		p = p.Copy()
		if above(taken, p) {
			continue
		}
		at, have, ok := paths.Locate(w.in.Live.Object, p)
		if !ok || !w.desirable(at) || w.within(known, p) {
			continue
		}
		item := p[len(p)-1].FieldName == nil
		if !below(w.own, p).Empty() || !item && !below(w.shape, p).Empty() {
			continue // its parts come by themselves
		}
		if item {
			taken.Insert(p)
		}
		by := owner(w.live, p)
		d := difference{path: at, class: api.ClassAdded, have: have, by: attribution(by)}
		d.reason = w.rules.ignores(at, w.claimants(d))
		d.rule = d.reason != ""
		if !d.rule {
			d.reason = w.setAnyway(p, have)
		}
		if d.reason != "" {
			w.passed = append(w.passed, d)
			continue
		}
		w.name(&d, by)
		out = append(out, d)
	}
	for i := range out {
		out[i].top = w.top(out[i].path, foreign)
	}
	return out
}

// top is the outermost map or list around an addition in which nobody else claims anything, and no rule leaves anything:
// taking the field out of it would leave half of what was added, such as a probe without a handler.
func (w *walker) top(at trail, foreign *fieldpath.Set) trail {
	if at.Under("metadata") {
		return at
	}
	others := &fieldpath.Set{}
	for _, e := range w.live {
		if !e.foreign() && !e.ours {
			others = others.Union(e.fields)
		}
	}
	for n := 1; n < len(at); n++ {
		q := at[:n].Path()
		git, _ := w.inGit(q) // what Git says is null is not to be there
		left := slices.ContainsFunc(w.passed, func(d difference) bool { return d.rule && startsWith(d.path.Path(), q) })
		if foreign.Has(q) && !holds(others, q) && (!holds(w.own, q) || git == nil && below(w.own, q).Empty()) && !left {
			return at[:n]
		}
	}
	return at
}

// holds reports whether a set has a path or something below it.
func holds(set *fieldpath.Set, p fieldpath.Path) bool { return set.Has(p) || !below(set, p).Empty() }

// claims are the fields that others claim for themselves, and those that are known: Git's and the controllers'.
func (w *walker) claims() (foreign, known *fieldpath.Set) {
	foreign, known = &fieldpath.Set{}, w.own
	for _, e := range w.live {
		switch {
		case e.ours || controller(e.manager):
			known = known.Union(e.fields)
		case e.foreign():
			foreign = foreign.Union(e.fields)
		}
	}
	return foreign, known
}

// foreign reports an entry of somebody who may have added fields.
func (e entry) foreign() bool {
	return !e.ours && !controller(e.manager) && e.subresource == "" && !nobody(e.manager)
}

// The reasons for which a field that somebody else claims is no addition.
const (
	setAnyway  = "the API server sets this value anyway"
	holdsOfGit = "fields of Git would go with it"
)

// setAnyway says why a field is no addition, by what was left when it was taken away in a dry run: the same value,
// such as a default that somebody wrote with the whole object, or less than Git says.
// Where the API server would not apply Git's object to the live one, what it makes of Git's object alone tells the same.
func (w *walker) setAnyway(p fieldpath.Path, have any) string {
	if w.in.Stripped == nil {
		if _, fresh, ok := paths.Locate(w.in.DryRun.Object, p); w.in.Refused && ok && paths.Equal(fresh, have) {
			return setAnyway
		}
		return ""
	}
	if _, left, ok := paths.Locate(w.in.Stripped.Object, p); ok && paths.Equal(left, have) {
		return setAnyway
	}
	for q := range w.own.Leaves().All() {
		if !startsWith(q, p) {
			continue
		}
		_, _, was := paths.Locate(w.in.Live.Object, q)
		_, _, is := paths.Locate(w.in.Stripped.Object, q)
		if was && !is {
			return holdsOfGit
		}
	}
	return ""
}

func startsWith(q, p fieldpath.Path) bool {
	return len(q) >= len(p) && q[:len(p)].Equals(p)
}

// within reports whether a path lies in something that Git or a controller holds as a whole.
// A claim below it in the version of Git shows that it has parts there, and that it is held empty;
// a claim in another version of the API shows nothing, unless Git says that it is empty.
func (w *walker) within(known *fieldpath.Set, p fieldpath.Path) bool {
	for _, e := range w.live {
		if e.foreign() && e.version == w.in.Live.GetAPIVersion() && e.fields.Has(p) {
			return false
		}
	}
	whole := wholeAbove(known, p)
	if whole == nil {
		return false
	}
	if wholeAbove(w.own, p) != nil {
		git, _ := w.inGit(whole)
		return !paths.Hollow(git)
	}
	return true
}

// desirable reports paths that hold desired state: not the status, not what the API server writes,
// and not the annotations that are orders to us or notes of tools.
func (w *walker) desirable(at trail) bool {
	switch {
	case at.Under("status"), at.Under("apiVersion"), at.Under("kind"):
		return false
	case at.Under("metadata", "labels"):
		return true
	case at.Under("metadata", "annotations"):
		switch key := at.Field(0); {
		case len(at) < 3, key == lastApplied, stamp(key), notes[key], orders[key] && w.in.Spec.Heeds(key):
			return false
		}
		return true
	}
	return !at.Under("metadata")
}

// orders are annotations by which people tell us what to do with an object.
var orders = map[string]bool{
	api.AnnotationReconcile: true, api.AnnotationPrune: true, api.AnnotationForce: true,
	api.AnnotationSSA: true, api.AnnotationDrift: true,
}

// wholeAbove is what lies above the path and is held as a whole; nil if nothing is.
func wholeAbove(known *fieldpath.Set, p fieldpath.Path) fieldpath.Path {
	set := known
	for i, pe := range p[:len(p)-1] {
		below := set.WithPrefix(pe)
		if below.Empty() {
			if set.Members.Has(pe) {
				return p[:i+1]
			}
			return nil
		}
		set = below
	}
	return nil
}

// notes are annotations that controllers of the control plane keep on objects: whoever writes a whole object back claims them.
var notes = map[string]bool{
	"deployment.kubernetes.io/revision": true, "deprecated.daemonset.template.generation": true,
	"endpoints.kubernetes.io/last-change-trigger-time": true, "control-plane.alpha.kubernetes.io/leader": true,
	"pv.kubernetes.io/bind-completed": true, "pv.kubernetes.io/bound-by-controller": true, "pv.kubernetes.io/provisioned-by": true,
	"volume.kubernetes.io/storage-provisioner": true, "volume.beta.kubernetes.io/storage-provisioner": true,
	"volume.kubernetes.io/selected-node": true, "batch.kubernetes.io/job-tracking": true,
	"autoscaling.alpha.kubernetes.io/conditions": true, "autoscaling.alpha.kubernetes.io/current-metrics": true,
}

// below is the part of a set below a path.
func below(set *fieldpath.Set, p fieldpath.Path) *fieldpath.Set {
	for _, pe := range p {
		set = set.WithPrefix(pe)
	}
	return set
}

// above reports whether the set holds something above a path.
func above(set *fieldpath.Set, p fieldpath.Path) bool {
	for _, pe := range p[:len(p)-1] {
		if set.Members.Has(pe) {
			return true
		}
		set = set.WithPrefix(pe)
	}
	return false
}
