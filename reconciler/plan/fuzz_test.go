package plan

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/flotilla-fleet/flotilla/api"
)

// world is a small cluster and what a bundle wants of it, made from a seed.
type world struct {
	r         *rand.Rand
	bundle    string
	desired   map[string]*unstructured.Unstructured
	live      map[string]*unstructured.Unstructured
	inventory map[string]api.InventoryEntry
	drift     api.Drift
	spec      api.BundleSpec
	compare   Compare
	// object ID -> the suspension that covers it, the bundles that declare it, whether a dry run would show a difference,
	// and what the API server says to a write of it
	held     map[string]*api.Suspension
	declared map[string][]string
	drifted  map[string]bool
	refused  map[string]error
	// unresolved are desired objects whose namespace nobody knows.
	unresolved []api.ObjectRef
	guards     api.Guards
}

func newWorld(seed uint64) *world {
	w := &world{
		r: rand.New(rand.NewPCG(seed, 1)), bundle: "b",
		desired: map[string]*unstructured.Unstructured{}, live: map[string]*unstructured.Unstructured{},
		inventory: map[string]api.InventoryEntry{},
		held:      map[string]*api.Suspension{}, declared: map[string][]string{}, drifted: map[string]bool{}, refused: map[string]error{},
	}
	w.compare = pick(w.r, CompareChanged, CompareAll)
	if w.chance(3) {
		w.spec.Prune = new(bool)
	}
	if w.chance(2) {
		percent := w.r.IntN(101)
		w.guards.MaxDeletePercent = &percent
	}
	w.guards.AllowDelete = pick(w.r, nil, nil, []string{"other"}, []string{"b"}, []string{"*"})
	w.drift.Mode = pick(w.r, api.DriftMode(""), api.DriftCorrect, api.DriftReport, api.DriftIgnore)
	for i := range 8 {
		o := tObj()
		o.SetName(fmt.Sprint("o", i))
		o.SetKind(pick(w.r, "ConfigMap", "Secret", "Namespace", "Widget"))
		id := api.RefOf(o).ID()
		if w.chance(2) {
			w.desired[id] = w.annotate(o.DeepCopy())
		}
		if w.chance(2) {
			l := w.annotate(tLive(pick(w.r, "b", "b", "", "other", "foreign")))
			l.SetName(o.GetName())
			l.SetKind(o.GetKind())
			if w.chance(8) {
				terminating(l)
			}
			if w.chance(3) {
				l.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: pick(w.r, "kubectl-edit", "some-controller"), Operation: "Update"}})
			}
			w.live[id] = l
		}
		if w.chance(6) {
			w.held[id] = &api.Suspension{Name: "s", Reason: "r"}
		}
		if w.desired[id] != nil {
			w.declared[id] = pick(w.r, nil, []string{"b"}, []string{"b"}, []string{"b", "other"})
		} else {
			w.declared[id] = pick(w.r, nil, nil, nil, []string{"other"})
		}
		w.drifted[id] = w.chance(2)
		w.refused[id] = pick(w.r, nil, nil, nil, refusals[0], refusals[w.r.IntN(len(refusals))])
		if w.chance(12) {
			ref := api.RefOf(o)
			ref.Namespace = ""
			w.unresolved = append(w.unresolved, ref)
		}
		if w.chance(2) {
			w.inventory[id] = api.InventoryEntry{Object: api.RefOf(o), UID: pick(w.r, "uid-1", "uid-0", ""), Digest: pick(w.r, "d", "old", "")}
		}
	}
	return w
}

// refusals are answers of the API server to a write; only the first is about nothing but immutable fields.
var refusals = []error{
	invalid(field.Invalid(field.NewPath("spec"), "v", "field is immutable")),
	invalid(field.Invalid(field.NewPath("spec"), "v", "field is immutable"), field.Required(field.NewPath("data"), "")),
	invalid(field.Required(field.NewPath("data"), "")),
	apierrors.NewInternalError(errors.New("immutable")),
	invalid(field.Duplicate(field.NewPath("spec", "ports").Index(1).Child("name"), "http")),
	invalid(field.Duplicate(field.NewPath("spec", "ports").Index(1).Child("name"), "http"), field.Required(field.NewPath("data"), "")),
	apierrors.NewForbidden(schema.GroupResource{Resource: "things"}, "x", errors.New("denied request: duplicate")),
	&apierrors.StatusError{ErrStatus: metav1.Status{
		Reason: metav1.StatusReasonInvalid, Message: "ValidatingAdmissionPolicy 'p' denied request: updates to it are forbidden",
		Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Message: "ValidatingAdmissionPolicy 'p' denied request: updates to it are forbidden"}}},
	}},
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func (w *world) chance(n int) bool { return w.r.IntN(n) == 0 }

func (w *world) annotate(o *unstructured.Unstructured) *unstructured.Unstructured {
	a := map[string]string{}
	for _, kv := range [][2]string{
		{api.AnnotationReconcile, "disabled"},
		{api.AnnotationPrune, "disabled"},
		{api.AnnotationHelmPolicy, "keep"},
		{api.AnnotationForce, "enabled"},
		{api.AnnotationSSA, "IfNotPresent"},
		{api.AnnotationSSA, "Merge"},
		{api.AnnotationDrift, "report"},
	} {
		if w.chance(8) {
			a[kv[0]] = kv[1]
		}
	}
	if len(a) > 0 {
		o.SetAnnotations(a)
	}
	return o
}

// sight looks at an object, and sometimes fails.
func (w *world) sight(id string) (Sight, *unstructured.Unstructured, error) {
	if w.chance(10) {
		return Unknown, nil, errors.New("boom")
	}
	if l := w.live[id]; l != nil {
		return Present, l, nil
	}
	return Absent, nil, nil
}

// pass plans and carries out one pass. It returns the steps that wrote or deleted something.
func (w *world) pass(t *testing.T, reliable bool) []Step {
	var done []Step
	touched := map[string]bool{}
	touch := func(s Step) {
		if touched[s.Object.ID()] {
			t.Fatalf("%s is planned twice", s.Object)
		}
		touched[s.Object.ID()] = true
	}
	var refs []api.ObjectRef
	for id, o := range w.desired {
		refs = append(refs, api.RefOf(o))
		in := Input{Bundle: w.bundle, Desired: o, Digest: "d", Drift: w.drift, Compare: w.compare, Held: w.held[id], Declared: w.declared[id]}
		if e, ok := w.inventory[id]; ok {
			in.Entry = &e
			if l := w.live[id]; l != nil && e.UID == string(l.GetUID()) && w.chance(2) {
				e.Plain, in.AsLeft = Plain(l, w.bundle, in.Drift), "7"
			}
		}
		s := Decide(in)
		if s.Next == TryUpdate && w.chance(2) { // somebody was quicker
			in.AsLeft = ""
			s = Decide(in)
		}
		if s.Next == Look || s.Next == TryCreate && w.live[id] != nil {
			in.Sight, in.Live, in.Cause = w.sight(id)
			for reliable && in.Sight == Unknown {
				in.Sight, in.Live, in.Cause = w.sight(id)
			}
			s = Decide(in)
		}
		touch(s)
		w.check(t, in, s)
		if s.Next == Done {
			if s.Forget {
				delete(w.inventory, id)
			}
			continue
		}
		if s.Next == Verify && !w.drifted[id] {
			continue
		}
		if err := w.refused[id]; err != nil {
			if s = w.reject(t, in, err); s.Next != Recreate && s.Next != Write {
				continue
			}
			delete(w.refused, id) // what is created anew changes nothing that cannot change
		}
		done = append(done, s)
		w.write(id, o)
	}
	var entries []api.InventoryEntry
	for _, e := range w.inventory {
		entries = append(entries, e)
	}
	stale := Stale(entries, refs, w.unresolved)
	w.checkStale(t, stale)
	w.checkGuards(t, stale)
	for _, e := range stale {
		id := e.Object.ID()
		in := PruneInput{Bundle: w.bundle, Entry: e, Spec: w.spec, Held: w.held[id], Declared: w.declared[id]}
		s := Prune(in)
		if s.Next == Look {
			in.Sight, in.Live, in.Cause = w.sight(id)
			for reliable && in.Sight == Unknown {
				in.Sight, in.Live, in.Cause = w.sight(id)
			}
			s = Prune(in)
		}
		touch(s)
		if s.Next == Delete {
			if got := label(w.live[id], api.LabelPartOf); got != ApplySetID(w.bundle) {
				t.Fatalf("deletes %s, which carries %q", s.Object, got)
			}
			if api.Keeps(w.live[id].GetAnnotations()) != "" {
				t.Fatalf("deletes %s, which is protected", s.Object)
			}
			switch {
			case in.Held != nil:
				t.Fatalf("deletes %s, which is suspended", s.Object)
			case !w.spec.PruneEnabled():
				t.Fatalf("deletes %s, though prune is off", s.Object)
			case len(in.Declared) > 0:
				t.Fatalf("deletes %s, which %v declares", s.Object, in.Declared)
			case in.Sight != Present:
				t.Fatalf("deletes %s unseen", s.Object)
			case Leaves(w.bundle, e, label(in.Live, api.LabelPartOf), api.OrdersIn(in.Live.GetAnnotations())):
				t.Fatalf("deletes %s, which a guard does not count", s.Object)
			}
			delete(w.live, id)
			done = append(done, s)
		}
		if s.Forget {
			delete(w.inventory, id)
		}
	}
	return done
}

// check holds a decision against the promises.
func (w *world) check(t *testing.T, in Input, s Step) {
	t.Helper()
	if again := Decide(in); !reflect.DeepEqual(again.Next, s.Next) || again.Action != s.Action || again.Reason != s.Reason {
		t.Fatalf("two answers to one question: %+v and %+v", s, again)
	}
	live := w.live[s.Object.ID()]
	switch {
	case s.Next == Look || s.Next == Delete || s.Next == Recreate:
		t.Fatalf("a decision about a desired object that was seen is %q", s.Next)
	case s.Next == Done && s.Action == "":
		t.Fatalf("no answer: %+v", s)
	case s.Next == Done:
		return
	case in.Held != nil:
		t.Fatalf("writes %s, which is suspended", s.Object)
	case len(in.Declared) > 1 && in.Declared[0] != w.bundle:
		t.Fatalf("writes %s, which %v declare", s.Object, in.Declared)
	case s.Next == TryUpdate && (in.Entry == nil || in.Entry.Digest == in.Digest || w.compare == CompareAll):
		t.Fatalf("writes %s unseen, which is not what Git has changed: %+v", s.Object, in.Entry)
	case s.Next == TryUpdate && (label(live, api.LabelPartOf) != ApplySetID(w.bundle) || live.GetDeletionTimestamp() != nil):
		t.Fatalf("writes %s unseen, which is not the bundle's", s.Object)
	case s.Next == TryUpdate && annotation(live, api.AnnotationSSA)+annotation(live, api.AnnotationDrift)+annotation(in.Desired, api.AnnotationSSA) != "":
		t.Fatalf("writes %s unseen, on which there are orders", s.Object)
	case s.Next == Verify && (in.Entry == nil || in.Entry.Digest != in.Digest || in.Entry.UID != string(live.GetUID())):
		t.Fatalf("asks whether %s is as applied, and this was not applied: %+v", s.Object, in.Entry)
	case s.Next == Verify && label(live, api.LabelPartOf) != ApplySetID(w.bundle):
		t.Fatalf("verifies %s, which is not the bundle's", s.Object)
	case w.drift.Mode != "" && w.drift.Mode != api.DriftCorrect && in.Entry != nil && in.Entry.Digest == in.Digest:
		t.Fatalf("corrects %s in mode %s", s.Object, w.drift.Mode)
	case in.Sight == Unknown:
		t.Fatalf("writes %s unseen", s.Object)
	case live != nil && s.Next != TryCreate && annotated(live, api.AnnotationReconcile, api.ValueDisabled):
		t.Fatalf("writes %s against its annotation", s.Object)
	case live != nil && label(live, api.LabelPartOf) == "applyset-foreign-v1":
		t.Fatalf("writes %s, which is another tool's", s.Object)
	case live == nil && s.Action == api.Updated, live != nil && s.Action == api.Created:
		t.Fatalf("%s: %s, but live is %v", s.Object, s.Action, live)
	}
}

// write makes the object live as an apply does.
func (w *world) write(id string, o *unstructured.Unstructured) {
	l := tLive(w.bundle)
	l.SetName(o.GetName())
	l.SetKind(o.GetKind())
	if old := w.live[id]; old != nil {
		l.SetAnnotations(old.GetAnnotations())
	}
	w.live[id] = l
	w.drifted[id] = false
	w.inventory[id] = api.InventoryEntry{Object: api.RefOf(o), UID: "uid-1", Digest: "d"}
}

// reject asks what follows from a refusal, and holds the answer against the promises.
func (w *world) reject(t *testing.T, in Input, err error) Step {
	t.Helper()
	if Crowded(in, err) {
		forced := annotated(in.Desired, api.AnnotationForce, api.ValueEnabled) || annotated(in.Live, api.AnnotationForce, api.ValueEnabled)
		switch {
		case err.Error() != refusals[4].Error():
			t.Fatalf("%v is taken for a lack of room", err)
		case !forced, in.Sight != Present, ssaMode(in) == ssaMerge:
			t.Fatalf("makes room for %s unasked: forced %v, %s", in.Desired.GetName(), forced, in.Sight)
		case ownerOf(in.Live, w.bundle).bundle == "" && (in.Entry == nil || in.Entry.UID != string(in.Live.GetUID())):
			t.Fatalf("makes room on %s, which is not ours", in.Desired.GetName())
		case !slices.ContainsFunc(in.Live.GetManagedFields(), func(e metav1.ManagedFieldsEntry) bool { return Adopted(e, in.Drift) }):
			t.Fatalf("makes room on %s, where nobody is in the way", in.Desired.GetName())
		}
		return Step{Object: api.RefOf(in.Desired), Next: Write, Action: api.Updated}
	}
	s, ok := Rejected(in, err)
	if again, ok2 := Rejected(in, err); ok != ok2 || again.Next != s.Next || again.Action != s.Action {
		t.Fatalf("two answers to one refusal: %+v and %+v", s, again)
	}
	if !ok {
		return Step{Object: api.RefOf(in.Desired), Action: api.Failed, Err: err}
	}
	forced := annotated(in.Desired, api.AnnotationForce, api.ValueEnabled) || annotated(in.Live, api.AnnotationForce, api.ValueEnabled)
	switch {
	case s.Next != Done && s.Next != Recreate:
		t.Fatalf("a refusal leads to %q", s.Next)
	case err.Error() != refusals[0].Error():
		t.Fatalf("%v is taken for an immutable field", err)
	case in.Sight != Present:
		t.Fatalf("recreates or explains %s unseen", s.Object)
	case s.Next == Recreate && (!forced || s.Object.Kind == "Namespace"):
		t.Fatalf("recreates %s, forced: %v", s.Object, forced)
	case s.Next == Recreate && ownerOf(in.Live, w.bundle).bundle == "" && (in.Entry == nil || in.Entry.UID != string(in.Live.GetUID())):
		t.Fatalf("recreates %s, which is not ours", s.Object)
	case s.Next == Done && s.Err == nil:
		t.Fatalf("a refusal without an error: %+v", s)
	}
	return s
}

// checkStale holds what is to be pruned against what is desired under whatever namespace.
func (w *world) checkStale(t *testing.T, stale []api.InventoryEntry) {
	t.Helper()
	for i, e := range stale {
		if w.desired[e.Object.ID()] != nil {
			t.Fatalf("%s is stale and desired", e.Object)
		}
		for _, r := range w.unresolved {
			if r.Kind == e.Object.Kind && r.Name == e.Object.Name {
				t.Fatalf("%s is stale, and may be the desired %s", e.Object, r)
			}
		}
		if i > 0 && stale[i-1].Object.ID() == e.Object.ID() {
			t.Fatalf("%s is stale twice", e.Object)
		}
	}
}

// checkGuards holds the guards' answers about the deletions against their promises.
func (w *world) checkGuards(t *testing.T, stale []api.InventoryEntry) {
	t.Helper()
	var deletions []Deletion
	for _, e := range stale {
		for range 1 + w.r.IntN(2) {
			deletions = append(deletions, Deletion{Bundle: pick(w.r, "b", "other"), Object: e.Object})
		}
	}
	total := len(deletions) + w.r.IntN(20)
	before := slices.Clone(deletions)
	share, precious := GuardShare(total, deletions, w.guards), GuardProtected(deletions, w.guards)
	if !reflect.DeepEqual(before, deletions) {
		t.Fatal("a guard changes what it is asked about")
	}
	counted, protectedOnes := 0, 0
	for _, d := range deletions {
		if slices.Contains(w.guards.AllowDelete, "*") || slices.Contains(w.guards.AllowDelete, d.Bundle) {
			continue
		}
		counted++
		if d.Object.Kind == "Namespace" {
			protectedOnes++
		}
	}
	percent := api.DefaultMaxDeletePercent
	if w.guards.MaxDeletePercent != nil {
		percent = *w.guards.MaxDeletePercent
	}
	if want := counted > api.MinGuardedDeletes && counted*100 > percent*total; (share != nil) != want {
		t.Fatalf("%d of %d deletions at %d %%: %v", counted, total, percent, share)
	}
	if (precious != nil) != (protectedOnes > 0) {
		t.Fatalf("%d deletions of a protected kind: %v", protectedOnes, precious)
	}
	for _, err := range []error{share, precious} {
		if e, ok := errors.AsType[*api.Error](err); err != nil && (!ok || e.Kind != api.Forbidden || e.Hint == "") {
			t.Fatalf("a guard's error is %+v", err)
		}
	}
	everything := api.Guards{MaxDeletePercent: w.guards.MaxDeletePercent, AllowDelete: []string{"*"}}
	if err := guard(total, deletions, everything); err != nil {
		t.Fatalf("refused what is allowed: %v", err)
	}
}

// FuzzPlan runs passes over random worlds: nothing is deleted that is not owned, nothing is planned twice,
// nothing is written unseen or against a suspension, nothing is recreated unasked, the guards count right,
// and a pass after a pass does nothing.
func FuzzPlan(f *testing.F) {
	for seed := range uint64(500) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		w := newWorld(seed)
		w.pass(t, false)
		w.pass(t, true)
		if again := w.pass(t, true); len(again) != 0 {
			t.Fatalf("a pass after a pass is not idle: %+v", again)
		}
	})
}
