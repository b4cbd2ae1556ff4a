package drift

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	smd "sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/api/fieldpath"
	"github.com/flotilla-fleet/flotilla/drift"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
)

// look compares an object as the agent does.
func (s *player) look(p *pair, spec api.Drift) (drift.Result, apply.Inspection) {
	b := s.bundle
	b.Spec.Drift = spec
	for {
		ins := s.Applier.Inspect(s.t.Context(), b, p.desired)
		if ins.Err != nil {
			s.t.Fatalf("%s: %v", s.log, ins.Err)
		}
		in := drift.Input{Desired: ins.Desired, Live: ins.Live, DryRun: ins.DryRun, Refused: ins.Refused != nil, Spec: spec}
		if patch := drift.Additions(in); patch != nil && ins.Refused == nil {
			var err error
			if in.Stripped, err = s.Applier.Without(s.t.Context(), b, ins, patch); err != nil {
				if kube.IsConflict(err) {
					continue
				}
				s.t.Fatalf("%s: %v", s.log, err)
			}
		}
		return drift.Compare(in), ins
	}
}

// judge holds the verdict on an object against the twin. It returns what is live; nil if it is gone.
func (s *player) judge(p *pair) *unstructured.Unstructured {
	r, ins := s.look(p, api.Drift{Mode: api.DriftReport, Extra: api.ExtraReport})
	if r.Class != "" {
		s.drifted.Add(1)
	}
	if ins.Live == nil {
		if r.Class != api.ClassMissing {
			s.fail(p, "it is gone, and the verdict is %q", r.Class)
		}
		return nil
	}
	s.alarms(p, r, ins.Live)
	s.misses(p, r, ins.Live)
	return ins.Live
}

// mend has an object corrected, and then has what was added taken away.
func (s *player) mend(p *pair, before *unstructured.Unstructured) {
	defer func() { s.log = "" }()
	if !s.settles(p, api.Drift{Mode: api.DriftCorrect}) {
		return
	}
	live := s.live(p)
	for q := range p.fields.All() {
		s.same(p, q.Copy(), live, "after the correction")
	}
	s.stays(p, before, live)
	if !s.settles(p, api.Drift{Mode: api.DriftCorrect, Extra: api.ExtraRemove}) {
		return
	}
	live = s.live(p)
	for q := range p.fields.All() {
		s.same(p, q.Copy(), live, "after what was added is gone")
	}
	if have := s.content(s.known(p, live)); !within(have, p.content) {
		s.fail(p, "with extra: remove it is not its twin (-twin +object):\n%s", cmp.Diff(p.content, have))
		s.anew(p)
	}
}

// known is an object without what the API server has under before-first-apply: as nobody owned anything of the object any more,
// it ceased to note who writes, and what was written then is nobody's that could be told.
func (s *player) known(p *pair, live *unstructured.Unstructured) *unstructured.Unstructured {
	out := live.DeepCopy()
	for q := range claimed(live, untold).Difference(p.fields).All() {
		q := q.Copy()
		if at, _, ok := fieldpath.Locate(out.Object, q); ok && at.Field(0) != "" {
			s.untold.Add(1)
			unstructured.RemoveNestedField(out.Object, names(at)...)
		}
	}
	return out
}

// untold is an entry of managedFields for whatever was there when the API server began to note who writes.
func untold(e metav1.ManagedFieldsEntry) bool { return e.Manager == "before-first-apply" }

// names are the fields of a trail that goes through no list; none if it does.
func names(at fieldpath.Trail) []string {
	var out []string
	for i := range at {
		name := at.Field(len(at) - 1 - i)
		if name == "" {
			return nil
		}
		out = append(out, name)
	}
	return out
}

// within reports whether all of a value is in another one. A default that somebody took away, and that the API server
// does not set again, is nobody's: neither Git nor an addition.
func within(a, b any) bool {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		for k := range x {
			ok = ok && within(x[k], y[k])
		}
		return ok
	case []any:
		y, ok := b.([]any)
		return ok && slices.EqualFunc(x, y, within)
	}
	return fieldpath.Equal(a, b)
}

// alarms finds fields that are told and are as the twin's.
func (s *player) alarms(p *pair, r drift.Result, live *unstructured.Unstructured) {
	for _, f := range r.Fields {
		if strings.HasPrefix(f.Path, "/metadata/labels/") && (strings.Contains(f.Path, "managed-by") || strings.Contains(f.Path, "part-of") || strings.Contains(f.Path, "flotilla.dev")) {
			continue // the twin is another bundle's
		}
		if have, want := valueAt(live.Object, f.Path), valueAt(p.words, f.Path); fieldpath.Equal(have, want) {
			s.fail(p, "false alarm: %s %s is %v, as the twin's", f.Class, f.Path, have)
		}
	}
}

// misses finds fields that Git or somebody else claims, that are not as the twin's, and that are not told.
func (s *player) misses(p *pair, r drift.Result, live *unstructured.Unstructured) {
	twin := p.words
	theirs := claimed(live, func(e metav1.ManagedFieldsEntry) bool {
		return e.Manager != api.FieldManager && !untold(e) && e.Subresource == "" && e.APIVersion == live.GetAPIVersion() && !strings.HasPrefix(e.Manager, "kube-")
	})
	for q := range p.fields.Union(theirs).All() {
		q := q.Copy()
		at, have, ok := fieldpath.Locate(live.Object, q)
		if !ok {
			at, _, ok = fieldpath.Locate(twin, q)
		}
		if !ok || at.Under("status") || at.Under("metadata", "labels") && strings.Contains(at.String(), "flotilla") || at.Under("metadata") && !at.Under("metadata", "labels") && !at.Under("metadata", "annotations") ||
			strings.Contains(at.String(), "deployment.kubernetes.io") || strings.Contains(at.String(), "deprecated.daemonset") || strings.Contains(at.String(), "managed-by") || strings.Contains(at.String(), "part-of") {
			continue
		}
		_, want, _ := fieldpath.Locate(twin, q)
		if s := at.String(); s == "/metadata/labels" || s == "/metadata/annotations" {
			continue // a claim to the map alone, whose parts come by themselves
		}
		if m, isMap := have.(map[string]any); fieldpath.Equal(have, want) || isMap && len(m) > 0 && (want == nil || within(have, want)) || allocated(at.String()) {
			continue // the parts of a map come by themselves, and a default in it that is gone is nobody's
		}
		if slices.ContainsFunc(r.Ignored, func(g drift.Ignored) bool { return related(g.Path, at.String()) }) {
			continue // of what is no drift by its nature a judge knows nothing
		}
		if !slices.ContainsFunc(r.Fields, func(f api.FieldDiff) bool { return related(f.Path, at.String()) }) {
			s.fail(p, "missed: %s is %v, and the twin's %v; told are %v", at, have, want, r.Fields)
		}
	}
}

func related(a, b string) bool {
	return a == b || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}

// allocated are fields that the API server gives to each object.
func allocated(path string) bool {
	return strings.HasPrefix(path, "/spec/clusterIP") || strings.HasSuffix(path, "/nodePort") || path == "/spec/healthCheckNodePort"
}

// same holds one field of Git against the twin's.
func (s *player) same(p *pair, q smd.Path, live *unstructured.Unstructured, when string) {
	at, want, ok := fieldpath.Locate(p.words, q)
	if !ok {
		return
	}
	if m, isMap := want.(map[string]any); isMap && len(m) == 0 {
		return // Git leaves it empty, and others may fill it
	}
	if _, have, _ := fieldpath.Locate(live.Object, q); !fieldpath.Equal(have, want) {
		s.fail(p, "%s %s is %v, and the twin's %v", when, at, have, want)
	}
}

// stays holds what others added before a correction against what is there after it.
func (s *player) stays(p *pair, before, after *unstructured.Unstructured) {
	if before == nil || before.GetUID() != after.GetUID() {
		return
	}
	twin := p.words
	for q := range claimed(before, func(e metav1.ManagedFieldsEntry) bool { return e.Manager == "Lens" || e.Manager == "HashiCorp" }).All() {
		q := q.Copy()
		at, was, ok := fieldpath.Locate(before.Object, q)
		if _, _, inTwin := fieldpath.Locate(twin, q); !ok || inTwin || p.fields.Has(q) || at.Under("metadata", "managedFields") {
			continue
		}
		if _, is, there := fieldpath.Locate(after.Object, q); !there && !fieldpath.Equal(was, is) {
			s.fail(p, "a correction took %s away, which is somebody else's", at)
		}
	}
}

// settles corrects an object until nothing is left to do. It reports false, and makes the object anew, if that is refused.
func (s *player) settles(p *pair, spec api.Drift) bool {
	b := s.bundle
	b.Spec.Drift = spec
	var err error
	for range 40 {
		r, ins := s.look(p, spec)
		switch r.Action {
		case drift.None:
			return true
		case drift.Strip:
			_, err = s.Applier.Strip(s.t.Context(), b, ins.Live, r.StripPatch())
		default:
			_, err = s.Applier.Correct(s.t.Context(), b, r.Keep(ins.Desired), ins.Live)
		}
		if err != nil && !kube.IsConflict(err) {
			if api.KindOf(err) != api.Stalled {
				s.fail(p, "not corrected: %v", err)
			}
			s.refused.Add(1)
			s.anew(p)
			return false
		}
	}
	s.fail(p, "it does not settle: %v", err)
	s.anew(p)
	return false
}

// anew makes an object as Git says, by deleting it first.
func (s *player) anew(p *pair) {
	name := p.desired.GetName()
	if err := p.at.Delete(s.t.Context(), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		s.t.Fatal(err)
	}
	s.gone(p)
	if _, err := s.Applier.Correct(s.t.Context(), s.bundle, p.desired, nil); err != nil {
		s.t.Fatalf("%s: %v", s.log, err)
	}
}

// gone waits until an object is not there any more.
func (s *player) gone(p *pair) {
	err := wait.PollUntilContextTimeout(s.t.Context(), 20*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		_, err := p.at.Get(ctx, p.desired.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
	if err != nil {
		s.t.Fatalf("%s: it does not go: %v", s.log, err)
	}
}

func (s *player) live(p *pair) *unstructured.Unstructured {
	o, err := p.at.Get(s.t.Context(), p.desired.GetName(), metav1.GetOptions{})
	if err != nil {
		s.t.Fatalf("%s: %v", s.log, err)
	}
	return o
}

func (s *player) fail(p *pair, format string, args ...any) {
	s.t.Errorf("%s: %s: %s", api.RefOf(p.desired), s.log, fmt.Sprintf(format, args...))
}

// translated is the twin with the words of the object.
func (s *stage) translated(twin *unstructured.Unstructured) map[string]any {
	b, err := json.Marshal(twin.Object)
	if err != nil {
		s.t.Fatal(err)
	}
	o := &unstructured.Unstructured{}
	if err := json.Unmarshal([]byte(strings.ReplaceAll(string(b), s.other, s.NS)), o); err != nil {
		s.t.Fatal(err)
	}
	return o.Object
}

// content is all that can be declared of an object.
func (s *stage) content(o *unstructured.Unstructured) map[string]any {
	c := &unstructured.Unstructured{Object: s.translated(o)}
	out := map[string]any{}
	for k, v := range c.Object {
		if k != "metadata" && k != "status" {
			out[k] = v
		}
	}
	for name, m := range map[string]map[string]string{"labels": c.GetLabels(), "annotations": c.GetAnnotations()} {
		kept := map[string]any{}
		for k, v := range m {
			if k != api.LabelPartOf && k != api.LabelBundle && k != "deployment.kubernetes.io/revision" && k != "deprecated.daemonset.template.generation" {
				kept[k] = v
			}
		}
		out["metadata."+name] = kept
	}
	if o.GetKind() == "Service" {
		for _, field := range []string{"clusterIP", "clusterIPs"} {
			unstructured.RemoveNestedField(out, "spec", field)
		}
	}
	return out
}

// valueAt is the value at a path as episodes write it; nil if there is none.
func valueAt(v any, path string) any {
	v, _ = fieldpath.Get(v, fieldpath.Parts(path))
	return v
}
