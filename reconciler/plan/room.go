package plan

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	smd "sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/api/fieldpath"
)

// Room are the claims on an object in which what keeps Git's object from fitting is ours, so that it goes
// in the same write that brings what Git says.
type Room struct {
	Entries []metav1.ManagedFieldsEntry
	// Of are the managers whose fields go. None means that nobody claims what goes: a default of the API server.
	Of []string
	// Gone are the fields that go. What Git says of them is null, if anything, and must not be sent: that would keep them.
	Gone []smd.Path
}

// MakeRoom tells what of a live object is in the way of the desired one, by the fields that the API server refused:
// what Git does not say beside what it says, such as the other one of two fields that exclude each other.
// It reports false where nothing is, for another refusal, and where nothing may be taken from anybody.
// Live must be the whole object.
func MakeRoom(in Input, err error) (Room, bool) {
	if in.Sight != Present || in.Live == nil || !owned(in) || ssaMode(in) == ssaMerge {
		return Room{}, false
	}
	c := crowder{
		in: in, rules: RulesFor(api.RefOf(in.Desired), in.Drift), shape: smd.NewSet(), own: ownFields(in.Live), gone: smd.NewSet(),
	}
	for _, e := range in.Live.GetManagedFields() {
		if s, ok := fieldSet(e); ok {
			c.shape = c.shape.Union(s)
		}
	}
	for _, r := range refusedFields(err) {
		c.look(r)
	}
	if c.gone.Empty() {
		return Room{}, false
	}
	var r Room
	entries, taken := without(in.Live, func(e metav1.ManagedFieldsEntry, s *smd.Set) *smd.Set {
		out := smd.NewSet()
		if isOwn(e) || e.Subresource != "" || Spared(e.Manager, c.rules) {
			return out
		}
		for p := range s.All() {
			if c.goes(p) {
				out.Insert(p.Copy())
			}
		}
		if !out.Empty() {
			r.Of = append(r.Of, e.Manager)
		}
		return out
	})
	slices.Sort(r.Of)
	r.Of = slices.Compact(r.Of)
	for p := range c.gone.All() {
		r.Gone = append(r.Gone, p.Copy())
	}
	var ok bool
	r.Entries, ok = withOwn(entries, taken.Union(c.gone), in.Live.GetAPIVersion())
	return r, ok
}

// MayMakeRoom reports whether what others added may go for Git's object to fit: where that is asked for,
// where all that others add goes anyway, and where it is nobody's.
func MayMakeRoom(in Input, r Room) bool {
	return len(r.Of) == 0 || forced(in) || in.Drift.Extra == api.ExtraRemove
}

// invalidField is a field that the API server refused. A forbidden one must not be there.
type invalidField struct {
	field     string
	forbidden bool
}

// refusedFields are the fields that a refusal by the validation of a kind is about.
func refusedFields(err error) []invalidField {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || !apierrors.IsInvalid(err) || Denied(err) || Immutable(err) != nil || status.Status().Details == nil {
		return nil
	}
	var out []invalidField
	for _, c := range status.Status().Details.Causes {
		if c.Field != "" && c.Field != "<nil>" {
			out = append(out, invalidField{c.Field, string(c.Type) == string(field.ErrorTypeForbidden)})
		}
	}
	return out
}

// crowder collects what is in the way.
type crowder struct {
	in         Input
	rules      []api.IgnoreRule
	shape, own *smd.Set
	// gone are the outermost fields that are to go.
	gone *smd.Set
}

func (c *crowder) goes(p smd.Path) bool {
	for i := range p {
		if c.gone.Has(p[:i+1]) {
			return true
		}
	}
	return false
}

// spot is a place in both objects. at is nil where the lists on the way have no items that could be told apart.
type spot struct {
	at         fieldpath.Trail
	shape      *smd.Set
	live, want any
}

// look goes to a field as the API server names it, and takes what is live there and not in Git;
// of what both have, or Git alone, what stands beside it. So it does of a forbidden field that neither has:
// for some fields the API server has another name than its own schema (cephFS for cephfs, downwarAPI for downwardAPI).
func (c *crowder) look(r invalidField) {
	at := []spot{{shape: c.shape, live: c.in.Live.Object, want: c.in.Desired.Object}}
	var above []spot
	for _, name := range fieldSteps(r.field) {
		above = at
		at = nil
		for _, s := range above {
			at = append(at, s.step(name)...)
		}
	}
	for i, s := range at {
		switch {
		case s.want == nil && s.live != nil:
			c.take(s)
		case s.live == nil && (s.want != nil || r.forbidden) && i < len(above):
			c.beside(above[i])
		case s.want != nil:
			c.beside(s)
		}
	}
}

// beside takes the fields of a map that are live and not in Git.
func (c *crowder) beside(s spot) {
	want, ok := s.want.(map[string]any)
	live, ok2 := s.live.(map[string]any)
	if !ok || !ok2 {
		return
	}
	for key := range live {
		if _, inGit := want[key]; !inGit {
			c.take(s.field(key))
		}
	}
}

// take has a field go, unless it is ours already, identifies the object, or a rule leaves it to others.
func (c *crowder) take(s spot) {
	switch p := s.at.Path(); {
	case len(s.at) < 2, s.at.Under("metadata"), s.at.Under("status"), isKeyOf(p):
	case covers(patternsOf(c.rules), s.at), c.own.Has(p):
	default:
		c.gone.Insert(p)
	}
}

// isKeyOf reports whether a path is of a field that tells its list's item from the others.
func isKeyOf(p smd.Path) bool {
	if len(p) < 2 || p[len(p)-1].FieldName == nil || p[len(p)-2].Key == nil {
		return false
	}
	for _, f := range *p[len(p)-2].Key {
		if f.Name == *p[len(p)-1].FieldName {
			return true
		}
	}
	return false
}

func (s spot) field(name string) spot {
	f := fieldpath.Field(name)
	live, _ := s.live.(map[string]any)
	want, _ := s.want.(map[string]any)
	return spot{s.at.Then(f), s.shape.WithPrefix(f.Elem), live[name], want[name]}
}

// step goes on by one step of a field's name: into a map by a name, and into a list by a place, which is that of an item
// in the merged list: the one that stands there on the cluster, or in Git.
func (s spot) step(name string) []spot {
	i, err := strconv.Atoi(name)
	live, ok := s.live.([]any)
	want, ok2 := s.want.([]any)
	if err != nil || !ok || !ok2 {
		return []spot{s.field(name)}
	}
	items, ok := fieldpath.ItemsOf(live, fieldpath.Identify(s.shape))
	if !ok {
		return nil
	}
	var out []spot
	add := func(item fieldpath.Step) {
		j := slices.IndexFunc(want, func(w any) bool { return fieldpath.IsItem(item.Elem, w) })
		if j >= 0 && !slices.ContainsFunc(out, func(o spot) bool { return o.at.String() == s.at.Then(item).String() }) {
			out = append(out, spot{s.at.Then(item), s.shape.WithPrefix(item.Elem), item.Item, want[j]})
		}
	}
	if i >= 0 && i < len(live) {
		add(items.Order[i])
	}
	if i >= 0 && i < len(want) {
		for _, item := range items.Order {
			if fieldpath.IsItem(item.Elem, want[i]) {
				add(item)
			}
		}
	}
	return out
}

// fieldSteps splits a field's name as the API server writes it: spec.containers[0].env[2].value.
func fieldSteps(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' })
}
