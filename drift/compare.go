package drift

import (
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"github.com/flotilla-fleet/flotilla/api"
)

// Input is what Compare looks at.
type Input struct {
	// Desired is what Git says; nil for an object that carries our ApplySet label and is not in Git.
	Desired *unstructured.Unstructured
	// Live is the object on the cluster; nil if it is not there.
	Live *unstructured.Unstructured
	// DryRun is what the API server answered to a dry run of applying Desired.
	// Without one the result is unknown, unless Live or Desired is nil.
	DryRun *unstructured.Unstructured
	// Stripped is what the API server answered to a dry run of taking away what others added; see Additions.
	// Nil means that nobody asked, or got no answer.
	Stripped *unstructured.Unstructured
	// Refused says that the API server would not apply Desired to Live, and DryRun is of an object of its own.
	Refused bool
	// Unapplied says that Desired is not what was last applied: admission had no part in what differs then.
	Unapplied bool
	// Spec is the bundle's policy. The objects' own annotations are read as well; see Mode.
	Spec api.Drift
	// Manager is our field manager. Empty means api.FieldManager.
	Manager string
	// Autoscalers that work on the cluster; see AutoscalersIn.
	Autoscalers []Autoscaler
	// Matched is what the object was when it was last known to be as we left it; nil if unknown.
	// With it a person can be named, and a value that admission put in place of ours
	// is told from one that somebody wrote in our name.
	Matched *api.InventoryEntry
	// Stamps is the mark of the admission policy that stamps the last editor; see persons.StampPolicy.
	// Empty means that none is in force: nobody is named then, whatever stands on the object.
	Stamps string
	// Person is what an episode calls a user: a keyed hash, or nothing. Nil leaves the name as it is.
	Person func(user string) string
}

// Result is what Compare found. The zero Result is an object that is as it should be.
type Result struct {
	// Class is empty if there is no drift; then there are no Fields.
	// A result with several classes of fields has the first of changed, removed and added.
	Class api.Class
	// Fields are sorted by class (changed, removed, added) and path. They are empty for missing and extra.
	Fields []api.FieldDiff
	// By is the owner of the first field.
	By api.Attribution
	// Mode is what the policy and the annotations say together.
	Mode api.DriftMode
	// Action is what the policy asks for; Observe may still hold it back.
	Action Action
	// Unknown is set when it cannot be told whether there is drift.
	Unknown bool
	// Ignored are differences that are no drift, with the reason; bounded to api.MaxFields.
	Ignored []Ignored
	// Evidence is the live state to store before it is corrected; nil without drift.
	Evidence *api.Evidence

	// off is why the object is not looked at; addedOff, why not at what others added.
	off, addedOff string
	// live is the object that was compared.
	live  *unstructured.Unstructured
	added []difference
	// kept are differences that are no drift; passed are those among what others added.
	kept, passed []difference
	// rewritten says that we wrote the object since it was last known to match.
	rewritten bool
	// takesAll is set when a correction ends the claims of others on the object.
	takesAll bool
}

// Ignored is a difference that is no drift.
type Ignored struct {
	Path   string
	Reason string
}

// Action is what is to be done about a drift.
type Action string

// The actions.
const (
	// None: nothing to do, or nothing that may be done.
	None Action = ""
	// Correct: write the desired state.
	Correct Action = "correct"
	// Strip: remove the fields that others added; see Result.StripPatch.
	Strip Action = "strip"
	// Remove: delete the object, which is not in Git.
	Remove Action = "remove"
	// Hold: there is something to do, and now is not the time.
	Hold Action = "hold"
)

// Compare finds the drift of one object.
func Compare(in Input) Result {
	if in.Manager == "" {
		in.Manager = api.FieldManager
	}
	r := Result{rewritten: rewritten(in), live: in.Live}
	r.Mode, r.off = mode(in.Spec, annotations(in.Desired), annotations(in.Live))
	ssa, git := ssaMode(in)
	removes := in.Spec.Extra == api.ExtraRemove && ssa != ssaMerge
	switch {
	case in.Desired == nil && in.Live == nil:
		r.off = "" // what was extra is gone
		return r
	case r.Mode == api.DriftIgnore:
		return r
	case in.Desired == nil:
		return extra(in, r)
	case in.Live == nil:
		return missing(in, r)
	case ssa == ssaIfNotPresent:
		r.off = annotated(api.AnnotationSSA, ssa, git)
		return r
	case in.DryRun == nil:
		r.Unknown = true
		return r
	}
	w := newWalker(in)
	w.object()
	r.kept, r.takesAll = w.kept, removes
	for _, d := range w.kept {
		if len(r.Ignored) < api.MaxFields {
			r.Ignored = append(r.Ignored, Ignored{Path: d.path.String(), Reason: d.reason})
		}
	}
	r.added = w.added()
	if r.passed = w.passed; !in.Spec.AsksForExtra() {
		r.addedOff = extraIgnored
	}
	diffs := append(w.found, r.added...)
	if len(diffs) == 0 {
		return r
	}
	for _, d := range diffs {
		r.Fields = append(r.Fields, d.diff(w.mask))
	}
	slices.SortStableFunc(r.Fields, func(a, b api.FieldDiff) int {
		if c := classOrder(a.Class) - classOrder(b.Class); c != 0 {
			return c
		}
		return strings.Compare(a.Path, b.Path)
	})
	r.Class, r.By = r.Fields[0].Class, r.Fields[0].By
	r.Evidence = in.evidence(diffs)
	switch {
	case r.Class != api.ClassAdded && r.Mode == api.DriftCorrect:
		r.Action = Correct
	case removes && r.Mode == api.DriftCorrect:
		r.Action = Strip
	}
	return r
}

func classOrder(c api.Class) int {
	return slices.Index([]api.Class{api.ClassChanged, api.ClassRemoved, api.ClassAdded}, c)
}

// missing is the drift of an object that is not there. Nothing is left that could say who deleted it.
func missing(in Input, r Result) Result {
	if r.off = rulesFor(in).everything(); r.off == "" && api.Expires(in.Desired) {
		r.off = "its ttlSecondsAfterFinished in Git"
	}
	if r.off != "" {
		return r
	}
	r.Class, r.By = api.ClassMissing, api.Attribution{Confidence: api.ConfidenceUnknown}
	if r.Mode == api.DriftCorrect {
		r.Action = Correct
	}
	return r
}

// extra is the drift of an object that carries our label and is not in Git.
func extra(in Input, r Result) Result {
	if !in.Spec.AsksForExtra() {
		r.off = extraIgnored
		return r
	}
	if r.off = rulesFor(in).everything(); r.off != "" {
		return r
	}
	// Whoever set the label claims that the object is ours. Controllers do not mean it:
	// what they make from an object of ours (an EndpointSlice from a Service) inherits its labels.
	label := fieldpath.MakePathOrDie("metadata", "labels", api.LabelPartOf)
	by := owner(entriesOf(in.Live, in.Manager), label)
	if metav1.GetControllerOf(in.Live) != nil || (by != nil && controller(by.manager)) {
		return r
	}
	if in.Live.GetDeletionTimestamp() != nil {
		return r // it is going, however long its finalizers take
	}
	r.Class, r.By = api.ClassExtra, attribution(by)
	r.Evidence = in.evidence(nil)
	if in.Spec.Extra == api.ExtraRemove && r.Mode == api.DriftCorrect &&
		api.Keeps(annotations(in.Live)) == "" {
		r.Action = Remove
	}
	return r
}

// rewritten reports whether our claim on the object is later than when it was last known to match.
func rewritten(in Input) bool {
	return in.Matched != nil && in.Matched.Claimed != 0 && in.Live != nil && api.ClaimedAt(in.Live) > in.Matched.Claimed
}

const extraIgnored = "the policy says extra: ignore"

// Mode is what is done about an object's drift: the most careful of what the policy says
// and what the annotations in Git and on the live object say, as far as those count; see api.Drift.Heeds.
func Mode(spec api.Drift, desired, live map[string]string) api.DriftMode {
	m, _ := mode(spec, desired, live)
	return m
}

// Where an annotation stands, in the words of an episode.
const (
	inGit  = " in Git"
	onLive = " on the live object"
)

// mode is Mode, with where it says ignore.
func mode(spec api.Drift, desired, live map[string]string) (m api.DriftMode, off string) {
	m = spec.Mode
	if m == "" {
		m = api.DriftCorrect
	}
	if m == api.DriftIgnore {
		off = "the policy says mode: ignore"
	}
	for i, a := range []map[string]string{desired, live} {
		said := api.DriftMode(a[api.AnnotationDrift])
		if i > 0 && !spec.Heeds(api.AnnotationDrift) {
			said = ""
		}
		switch {
		case said == api.DriftIgnore:
			if m = said; off == "" {
				off = annotated(api.AnnotationDrift, string(said), i == 0)
			}
		case m == api.DriftCorrect && (said == api.DriftReport || a[api.AnnotationReconcile] == api.ValueDisabled):
			m = api.DriftReport
		}
	}
	return m, off
}

func annotated(key, value string, git bool) string {
	where := onLive
	if git {
		where = inGit
	}
	return "the annotation " + key + ": " + value + where
}

// The words of api.AnnotationSSA.
const (
	ssaIfNotPresent = "IfNotPresent" // ours to create, and nobody's to keep
	ssaMerge        = "Merge"        // what others added is left to them
)

// ssaMode is what api.AnnotationSSA says, and whether Git says it: else it is the live object.
func ssaMode(in Input) (mode string, git bool) {
	if m := annotations(in.Desired)[api.AnnotationSSA]; m != "" {
		return m, true
	}
	if !in.Spec.Heeds(api.AnnotationSSA) {
		return "", false
	}
	return annotations(in.Live)[api.AnnotationSSA], false
}

// passedOver says why a result without drift is no proof that the object is as it should be:
// it is not looked at, or not at a field that had drifted. It is empty if the object matches.
func (r Result) passedOver(e api.Episode) string {
	if r.off != "" {
		return r.off
	}
	var out []string
	for _, f := range e.Fields {
		if f.Class == api.ClassAdded && r.addedOff != "" {
			return r.addedOff
		}
		for _, d := range slices.Concat(r.kept, r.passed) {
			p := d.path.String()
			if d.rule && (p == f.Path || strings.HasPrefix(p, f.Path+"/") || strings.HasPrefix(f.Path, p+"/")) {
				out = append(out, f.Path+" ("+d.reason+")")
				break
			}
		}
	}
	if n := len(out) - maxNamed; n > 0 {
		out = append(out[:maxNamed], "and "+strconv.Itoa(n)+" more")
	}
	return strings.Join(out, ", ")
}

// maxNamed is how many fields one line names.
const maxNamed = 3

func annotations(o *unstructured.Unstructured) map[string]string {
	if o == nil {
		return nil
	}
	return o.GetAnnotations()
}

// declared is the set of fields of the desired object as far as it can be told without a schema.
// It serves only where the dry run carries no managedFields.
func declared(o *unstructured.Unstructured) *fieldpath.Set {
	return fieldpath.SetFromValue(value.NewValueInterface(o.Object))
}
