package plan

import (
	"errors"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

// tObj is a ConfigMap a/x with the given annotations ("key=value").
func tObj(annotations ...string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap"}}
	u.SetNamespace("a")
	u.SetName("x")
	if len(annotations) > 0 {
		m := map[string]string{}
		for _, a := range annotations {
			k, v, _ := strings.Cut(a, "=")
			m[k] = v
		}
		u.SetAnnotations(m)
	}
	return u
}

// tLive is tObj as it is on the cluster, in the ApplySet of a bundle; "" is none, "foreign" another tool's.
func tLive(bundle string, annotations ...string) *unstructured.Unstructured {
	u := tObj(annotations...)
	u.SetUID("uid-1")
	switch bundle {
	case "":
	case "foreign":
		u.SetLabels(map[string]string{api.LabelPartOf: "applyset-foreign-v1"})
	default:
		u.SetLabels(map[string]string{api.LabelPartOf: ApplySetID(bundle), api.LabelBundle: bundle, api.LabelManagedBy: api.ManagedBy})
	}
	return u
}

func terminating(u *unstructured.Unstructured) *unstructured.Unstructured {
	now := metav1.Now()
	u.SetDeletionTimestamp(&now)
	u.SetFinalizers([]string{"example.com/hold"})
	return u
}

func tEntry(digest string) *api.InventoryEntry {
	return &api.InventoryEntry{Object: api.RefOf(tObj()), UID: "uid-1", Digest: digest}
}

func TestDecide(t *testing.T) {
	const (
		disabled = api.AnnotationReconcile + "=disabled"
		ifAbsent = api.AnnotationSSA + "=IfNotPresent"
		merge    = api.AnnotationSSA + "=Merge"
	)
	held := &api.Suspension{Name: "s", Reason: "INC-1"}
	never := func(string) bool { return false }
	report, gitAlone := api.Drift{Mode: api.DriftReport}, api.Drift{Extra: api.ExtraRemove}
	tests := []struct {
		name   string
		in     Input
		next   Next
		action api.Action
		reason string // a part of it
		take   TakeOver
		forget bool
		kind   api.ErrorKind
	}{
		{"new", Input{}, TryCreate, api.Created, "new in Git", "", false, ""},
		{"unchanged", Input{Entry: tEntry("d")}, Done, api.Unchanged, "as last applied", "", false, ""},
		{"changed", Input{Entry: tEntry("old")}, Look, "", "", "", false, ""},
		{"applied digest unknown", Input{Entry: tEntry("")}, Look, "", "", "", false, ""},
		{"unchanged, compared", Input{Entry: tEntry("d"), Compare: CompareAll}, Look, "", "", "", false, ""},

		{"held before anybody looks", Input{Held: held}, Done, api.Skipped, `suspended by "s"`, "", false, ""},
		{"disabled in Git", Input{Desired: tObj(disabled)}, Done, api.Skipped, "disabled in Git", "", false, ""},
		{"disabled means that word", Input{Desired: tObj(api.AnnotationReconcile + "=false")}, TryCreate, api.Created, "", "", false, ""},
		{"declared by another, too, which has it", Input{Declared: []string{"a", "b"}}, Done, api.Denied, `by bundle "a"`, "", false, api.Forbidden},
		{"declared by another, too", Input{Declared: []string{"b", "a"}}, TryCreate, api.Created, "", "", false, ""},
		{"another's that may not be taken", Input{Live: tLive("other"), MayTake: never}, Done, api.Denied, `belongs to bundle "other"`, "", true, api.Forbidden},
		{"what was taken from us, and may not be taken back", Input{Live: tLive("other"), Entry: tEntry("d"), Compare: CompareAll, MayTake: never}, Done, api.Denied, `belongs to bundle "other"`, "", false, api.Forbidden},
		{"ours, and nobody's, where nothing may be taken", Input{Live: tLive(""), MayTake: never}, Write, api.Updated, "taken over", TakeAll, false, ""},

		{"unknown", Input{Sight: Unknown, Cause: errors.New("boom")}, Done, api.Failed, "could not be read", "", false, api.Internal},
		{"unknown without cause", Input{Sight: Unknown}, Done, api.Failed, "could not be read", "", false, api.Internal},
		{"present without object", Input{Sight: Present}, Done, api.Failed, "could not be read", "", false, api.Internal},

		{"absent", Input{Sight: Absent}, Write, api.Created, "new in Git", "", false, ""},
		{"absent and known", Input{Sight: Absent, Entry: tEntry("d")}, Write, api.Created, "missing", "", false, ""},
		{"absent, drift reported", Input{Sight: Absent, Entry: tEntry("d"), Drift: report}, Done, api.Skipped, "reported", "", false, ""},
		{"absent, drift reported, changed in Git", Input{Sight: Absent, Entry: tEntry("old"), Drift: report}, Write, api.Created, "", "", false, ""},

		{"disabled live", Input{Live: tLive("b", disabled), Entry: tEntry("old")}, Done, api.Skipped, "live object", "", false, ""},
		{"foreign", Input{Live: tLive("foreign")}, Done, api.Denied, "another tool", "", true, api.Forbidden},
		{"foreign, disabled live", Input{Live: tLive("foreign", disabled)}, Done, api.Skipped, "", "", true, ""},
		{"nobody's, disabled live", Input{Live: tLive("", disabled)}, Done, api.Skipped, "", "", true, ""},
		{"another bundle's, disabled live", Input{Live: tLive("other", disabled)}, Done, api.Skipped, "", "", false, ""},
		{"its label stripped, disabled live", Input{Live: tLive("", disabled), Entry: tEntry("old")}, Done, api.Skipped, "", "", false, ""},
		{"terminating", Input{Live: terminating(tLive("b"))}, Done, api.Failed, "being deleted", "", false, api.Waiting},
		{"not there yet, IfNotPresent", Input{Desired: tObj(ifAbsent), Sight: Absent}, Write, api.Created, "", "", false, ""},
		{"theirs, IfNotPresent", Input{Desired: tObj(ifAbsent), Live: tLive("")}, Done, api.Skipped, "IfNotPresent", "", true, ""},
		{"ours, IfNotPresent", Input{Desired: tObj(ifAbsent), Live: tLive("b")}, Done, api.Skipped, "IfNotPresent", "", false, ""},
		{"IfNotPresent live", Input{Live: tLive("b", ifAbsent)}, Done, api.Skipped, "IfNotPresent", "", false, ""},

		{"changed in Git", Input{Live: tLive("b"), Entry: tEntry("old")}, Write, api.Updated, "changed in Git", TakeShared, false, ""},
		{"found again", Input{Live: tLive("b")}, Write, api.Updated, "found again", TakeShared, false, ""},
		{"taken over", Input{Live: tLive("")}, Write, api.Updated, "taken over", TakeAll, false, ""},
		{"merged", Input{Desired: tObj(merge), Live: tLive("")}, Write, api.Updated, "taken over", TakeNothing, false, ""},
		{"moved", Input{Live: tLive("other")}, Write, api.Updated, `from bundle "other"`, TakeShared, false, ""},
		{"label stripped", Input{Live: tLive(""), Entry: tEntry("d"), Compare: CompareAll}, Write, api.Updated, "removed", TakeShared, false, ""},
		{"label stripped, reported", Input{Live: tLive(""), Entry: tEntry("d"), Compare: CompareAll, Drift: report}, Done, api.Unchanged, "reported", "", false, ""},
		{"namesake, reported", Input{Live: tLive("b"), Entry: &api.InventoryEntry{UID: "uid-0", Digest: "d"}, Compare: CompareAll, Drift: report}, Done, api.Unchanged, "reported", "", false, ""},
		{"namesake", Input{Live: tLive("b"), Entry: &api.InventoryEntry{UID: "uid-0", Digest: "d"}, Compare: CompareAll}, Write, api.Updated, "recreated by somebody else", TakeAll, false, ""},

		{"compared", Input{Live: tLive("b"), Entry: tEntry("d"), Compare: CompareAll}, Verify, api.Updated, "differs", TakeShared, false, ""},
		{"compared, reported", Input{Live: tLive("b"), Entry: tEntry("d"), Compare: CompareAll, Drift: report}, Done, api.Unchanged, "reported", "", false, ""},
		{"IfNotPresent live, Git alone decides", Input{Live: tLive("b", ifAbsent), Entry: tEntry("old"), Drift: gitAlone}, Write, api.Updated, "changed in Git", TakeShared, false, ""},
		{"IfNotPresent live, Git alone decides, another bundle's", Input{Live: tLive("other", ifAbsent), Drift: gitAlone}, Write, api.Updated, "moved here", TakeShared, false, ""},
		{"IfNotPresent live, its label stripped", Input{Live: tLive("", ifAbsent), Entry: tEntry("old")}, Done, api.Skipped, "IfNotPresent", "", false, ""},
		{"IfNotPresent live, Git alone decides, not ours yet", Input{Live: tLive("", ifAbsent), Drift: gitAlone}, Done, api.Skipped, "IfNotPresent", "", true, ""},
		{"disabled live, Git alone decides", Input{Live: tLive("b", disabled), Entry: tEntry("old"), Drift: gitAlone}, Done, api.Skipped, "live object", "", false, ""},
		{"compared, reported for the object, Git alone decides", Input{Live: tLive("b", api.AnnotationDrift+"=ignore"), Entry: tEntry("d"), Compare: CompareAll, Drift: gitAlone}, Verify, api.Updated, "differs", TakeShared, false, ""},
		{"compared, reported for the object", Input{Live: tLive("b", api.AnnotationDrift+"=ignore"), Entry: tEntry("d"), Compare: CompareAll}, Done, api.Unchanged, "", "", false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := tt.in
			in.Bundle, in.Digest = "b", "d"
			if in.Desired == nil {
				in.Desired = tObj()
			}
			if in.Live != nil {
				in.Sight = Present
			}
			s := Decide(in)
			if s.Next != tt.next || s.Action != tt.action || s.TakeOver != tt.take || s.Forget != tt.forget {
				t.Errorf("got %+v", s)
			}
			if !strings.Contains(s.Reason, tt.reason) {
				t.Errorf("reason %q does not say %q", s.Reason, tt.reason)
			}
			if in.Cause != nil && !errors.Is(s.Err, in.Cause) {
				t.Errorf("error %v lost its cause", s.Err)
			}
			if got := api.KindOf(s.Err); got != tt.kind {
				t.Errorf("error kind %q, want %q: %v", got, tt.kind, s.Err)
			}
		})
	}
}

func TestPrune(t *testing.T) {
	off := false
	tests := []struct {
		name   string
		in     PruneInput
		next   Next
		action api.Action
		forget bool
	}{
		{"look first", PruneInput{}, Look, "", false},
		{"delete", PruneInput{Live: tLive("b")}, Delete, api.Pruned, true},
		{"gone", PruneInput{Sight: Absent}, Done, api.Pruned, true},
		{"unknown", PruneInput{Sight: Unknown, Cause: errors.New("boom")}, Done, api.Failed, false},
		{"label of nobody", PruneInput{Live: tLive("")}, Done, api.Skipped, true},
		{"label of another tool", PruneInput{Live: tLive("foreign")}, Done, api.Skipped, true},
		{"label of another bundle", PruneInput{Live: tLive("other")}, Done, api.Skipped, true},
		{"declared elsewhere", PruneInput{Declared: []string{"other"}, Live: tLive("b")}, Done, api.Skipped, true},
		{"declared here", PruneInput{Declared: []string{"b"}, Live: tLive("b")}, Done, api.Skipped, false},
		{"prune disabled live", PruneInput{Live: tLive("b", api.AnnotationPrune+"=disabled")}, Done, api.Skipped, false},
		{"kept by Helm", PruneInput{Live: tLive("b", api.AnnotationHelmPolicy+"=keep")}, Done, api.Skipped, false},
		{"kept by Argo CD", PruneInput{Live: tLive("b", api.AnnotationArgoSync+"=Replace=true, Delete=false")}, Done, api.Skipped, false},
		{"kept by Flux", PruneInput{Live: tLive("b", api.AnnotationFluxPrune+"=disabled")}, Done, api.Skipped, false},
		{"kept by Helm, and to be pruned", PruneInput{Live: tLive("b", api.AnnotationHelmPolicy+"=keep", api.AnnotationPrune+"=enabled")}, Delete, api.Pruned, true},
		{"reconcile disabled live", PruneInput{Live: tLive("b", api.AnnotationReconcile+"=disabled")}, Done, api.Skipped, false},
		{"prune off", PruneInput{Spec: api.BundleSpec{Prune: &off}, Live: tLive("b")}, Done, api.Skipped, false},
		{"held", PruneInput{Held: &api.Suspension{}, Live: tLive("b")}, Done, api.Skipped, false},
		{"terminating", PruneInput{Live: terminating(tLive("b"))}, Await, api.Skipped, false},
		{"for now", PruneInput{Stays: "Git has it again", Live: tLive("b")}, Done, api.Skipped, false},
		{"refused", PruneInput{Refused: errors.New("boom"), Live: tLive("b")}, Done, api.Denied, false},
		{"refused, and stays anyway", PruneInput{Refused: errors.New("boom"), Live: tLive("b", api.AnnotationPrune+"=disabled")}, Done, api.Skipped, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := tt.in
			in.Bundle, in.Entry = "b", *tEntry("d")
			if in.Live != nil {
				in.Sight = Present
			}
			if s := Prune(in); s.Next != tt.next || s.Action != tt.action || s.Forget != tt.forget {
				t.Errorf("got %+v", s)
			}
		})
	}
}

func TestStaleIsOrderedAndCautious(t *testing.T) {
	ref := func(kind, name string) api.ObjectRef { return api.ObjectRef{Kind: kind, Namespace: "a", Name: name} }
	entry := func(kind, name string) api.InventoryEntry { return api.InventoryEntry{Object: ref(kind, name)} }
	entries := []api.InventoryEntry{
		entry("Namespace", "n"), entry("ConfigMap", "keep"), entry("ConfigMap", "c"), entry("Widget", "w"),
		entry("ValidatingWebhookConfiguration", "v"), entry("Widget", "unresolved"), entry("Widget", "w"),
	}
	got := Stale(entries, []api.ObjectRef{ref("ConfigMap", "keep")}, []api.ObjectRef{{Kind: "Widget", Name: "unresolved"}})
	var kinds []string
	for _, e := range got {
		kinds = append(kinds, e.Object.Kind)
	}
	if want := "ValidatingWebhookConfiguration Widget ConfigMap Namespace"; strings.Join(kinds, " ") != want {
		t.Errorf("order %v, want %s", kinds, want)
	}
}

func TestStages(t *testing.T) {
	var objs []*unstructured.Unstructured
	for _, k := range []string{"ValidatingWebhookConfiguration", "Widget", "Deployment", "Secret", "RoleBinding", "Role", "StorageClass", "Namespace", "CustomResourceDefinition"} {
		o := tObj()
		o.SetKind(k)
		objs = append(objs, o)
	}
	var got []string
	for _, stage := range Stages(objs) {
		var kinds []string
		for _, o := range stage {
			kinds = append(kinds, o.GetKind())
		}
		got = append(got, strings.Join(kinds, " "))
	}
	want := "CustomResourceDefinition Namespace | StorageClass Role | RoleBinding Secret | Deployment Widget | ValidatingWebhookConfiguration | "
	if strings.Join(got, " | ") != want {
		t.Errorf("stages %s\nwant   %s", strings.Join(got, " | "), want)
	}
}

// What a webhook of the bundle admits comes after it, but never what may serve it.
func TestStages_admitted(t *testing.T) {
	object := func(group, kind string) *unstructured.Unstructured {
		o := tObj()
		o.SetAPIVersion(group + "/v1")
		o.SetKind(kind)
		return o
	}
	hook := object("admissionregistration.k8s.io", "MutatingWebhookConfiguration")
	hook.Object["webhooks"] = []any{
		map[string]any{"name": "a", "rules": []any{map[string]any{"apiGroups": []any{"apps", "*", "w.example.com"}}}},
		map[string]any{"name": "b", "clientConfig": map[string]any{"service": map[string]any{"namespace": "n", "name": "s"}}},
	}
	objs := []*unstructured.Unstructured{object("w.example.com", "Widget"), hook, object("apps", "Deployment"), object("other.example.com", "Widget")}
	stages := Stages(objs)
	if got := stages[StageAdmitted]; len(got) != 1 || api.RefOf(got[0]).Group != "w.example.com" {
		t.Errorf("admitted are %v", got)
	}
	if got := stages[StageRest]; len(got) != 2 {
		t.Errorf("in the rest are %v", got)
	}
	if got := WebhookServices(objs); !slices.Equal(got, [][2]string{{"n", "s"}}) {
		t.Errorf("served by %v", got)
	}
}

// What Git has changed is written unseen only where nothing on the live object has a say in it.
func TestDecide_unseen(t *testing.T) {
	workload := func(replicas int64, more string) *unstructured.Unstructured {
		o := tObj()
		o.SetKind("Deployment")
		_ = unstructured.SetNestedField(o.Object, replicas, "spec", "replicas")
		if more != "" {
			_ = unstructured.SetNestedField(o.Object, "x", "spec", more)
		}
		return o
	}
	entry := func(change func(*api.InventoryEntry)) *api.InventoryEntry {
		e := tEntry("old")
		e.UID, e.Plain = "uid-1", true
		change(e)
		return e
	}
	same := func(*api.InventoryEntry) {}
	rule := api.Drift{Ignore: []api.IgnoreRule{{Paths: []string{"/data/x"}}}}
	tests := []struct {
		name string
		in   Input
		want Next
	}{
		{"as it was left", Input{Desired: tObj(), Entry: entry(same), AsLeft: "7"}, TryUpdate},
		{"it may have changed", Input{Desired: tObj(), Entry: entry(same)}, Look},
		{"something stood on it", Input{Desired: tObj(), Entry: entry(func(e *api.InventoryEntry) { e.Plain = false }), AsLeft: "7"}, Look},
		{"which one it was is not known", Input{Desired: tObj(), Entry: entry(func(e *api.InventoryEntry) { e.UID = "" }), AsLeft: "7"}, Look},
		{"what was applied is not known", Input{Desired: tObj(), Entry: entry(func(e *api.InventoryEntry) { e.Digest = "" }), AsLeft: "7"}, Look},
		{"Git did not change it", Input{Desired: tObj(), Entry: entry(func(e *api.InventoryEntry) { e.Digest = "d" }), AsLeft: "7"}, Done},
		{"all are looked at", Input{Desired: tObj(), Entry: entry(same), AsLeft: "7", Compare: CompareAll}, Look},
		{"Merge", Input{Desired: tObj(api.AnnotationSSA + "=Merge"), Entry: entry(same), AsLeft: "7"}, Look},
		{"a rule leaves a field to others", Input{Desired: tObj(), Entry: entry(same), AsLeft: "7", Drift: rule}, Look},
		{"new in Git", Input{Desired: tObj(), AsLeft: "7"}, TryCreate},
		{"the same replicas", Input{Desired: workload(1, ""), Applied: workload(1, "other"), Entry: entry(same), AsLeft: "7"}, TryUpdate},
		{"other replicas", Input{Desired: workload(2, ""), Applied: workload(1, ""), Entry: entry(same), AsLeft: "7"}, Look},
		{"who knows what replicas", Input{Desired: workload(1, ""), Entry: entry(same), AsLeft: "7"}, Look},
		{"an autoscaler's replicas", Input{Desired: workload(1, ""), Applied: workload(1, ""), Entry: entry(func(e *api.InventoryEntry) { e.Scaled = true }), AsLeft: "7"}, Look},
		{"a CA bundle", Input{Desired: workload(1, "caBundle"), Applied: workload(1, ""), Entry: entry(same), AsLeft: "7"}, Look},
		{"a CA bundle until now", Input{Desired: workload(1, ""), Applied: workload(1, "caBundle"), Entry: entry(same), AsLeft: "7"}, Look},
		{"gone, and left to others as a whole", Input{Desired: tObj(), Entry: entry(same), Sight: Absent, Drift: api.Drift{Ignore: []api.IgnoreRule{{Paths: []string{"/"}}}}}, Done},
		{"new, and left to others afterwards", Input{Desired: tObj(), Sight: Absent, Drift: api.Drift{Ignore: []api.IgnoreRule{{Paths: []string{"/"}}}}}, Write},
		{"disabled in Git", Input{Desired: tObj(api.AnnotationReconcile + "=disabled"), Entry: entry(same), AsLeft: "7"}, Done},
		{"suspended", Input{Desired: tObj(), Entry: entry(same), AsLeft: "7", Held: &api.Suspension{Name: "s"}}, Done},
	}
	for _, tt := range tests {
		tt.in.Bundle, tt.in.Digest = "b", "d"
		if s := Decide(tt.in); s.Next != tt.want {
			t.Errorf("%s: %q (%s), want %q", tt.name, s.Next, s.Reason, tt.want)
		}
	}
}

func TestExempt(t *testing.T) {
	ignore, report := api.Orders{Drift: "ignore"}, api.Orders{Drift: "report"}
	disabled, ifAbsent, merge := api.Orders{Reconcile: "disabled"}, api.Orders{SSA: "IfNotPresent"}, api.Orders{SSA: "Merge"}
	remove := api.Drift{Extra: api.ExtraRemove}
	for name, tt := range map[string]struct {
		git, live api.Orders
		policy    api.Drift
		want      string
	}{
		"nothing":                   {},
		"ignored":                   {live: ignore, want: "flotilla.dev/drift: ignore"},
		"more than Git says":        {git: report, live: ignore, want: "flotilla.dev/drift: ignore"},
		"as Git says":               {git: ignore, live: ignore},
		"less than Git says":        {git: ignore, live: report},
		"hidden by Git otherwise":   {git: ifAbsent, live: ignore},
		"as the policy says":        {live: report, policy: api.Drift{Mode: api.DriftReport}},
		"less than the policy says": {live: report, policy: api.Drift{Mode: api.DriftIgnore}},
		"more than the policy says": {live: ignore, policy: api.Drift{Mode: api.DriftReport}, want: "flotilla.dev/drift: ignore"},
		"a word of its own":         {live: api.Orders{Drift: "never", SSA: "Never", Reconcile: "false"}},
		"no exception":              {live: api.Orders{Drift: "correct"}},
		"not written":               {live: disabled, want: "flotilla.dev/reconcile: disabled"},
		"not written, as in Git":    {git: disabled, live: disabled},
		"not written nor looked at": {live: api.Orders{Drift: "ignore", Reconcile: "disabled"}, want: "flotilla.dev/drift: ignore, flotilla.dev/reconcile: disabled"},
		"not written, where the policy ignores what differs": {live: disabled, policy: api.Drift{Mode: api.DriftIgnore}, want: "flotilla.dev/reconcile: disabled"},
		"left":                                    {live: ifAbsent, want: "flotilla.dev/ssa: IfNotPresent"},
		"left, and Git has its own word":          {git: merge, live: ifAbsent},
		"shared, and corrected":                   {live: merge},
		"ignored, where Git alone decides":        {live: ignore, policy: remove},
		"left, where Git alone decides":           {live: ifAbsent, policy: remove},
		"not written, although Git alone decides": {live: disabled, policy: remove, want: "flotilla.dev/reconcile: disabled"},
	} {
		if got := Exempt(tt.git, tt.live, tt.policy); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestPlain(t *testing.T) {
	claimed := func(manager string) *unstructured.Unstructured {
		o := tLive("b")
		o.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: manager, Operation: "Update"}})
		return o
	}
	for name, tt := range map[string]struct {
		live *unstructured.Unstructured
		want bool
	}{
		"ours":                                 {tLive("b"), true},
		"another bundle's":                     {tLive("other"), false},
		"nobody's":                             {tLive(""), false},
		"reconcile":                            {tLive("b", api.AnnotationReconcile+"=disabled"), false},
		"drift":                                {tLive("b", api.AnnotationDrift+"=report"), false},
		"ssa":                                  {tLive("b", api.AnnotationSSA+"=Merge"), false},
		"prune is no obstacle":                 {tLive("b", api.AnnotationPrune+"=disabled"), true},
		"going":                                {terminating(tLive("b")), false},
		"claimed by kubectl":                   {claimed("kubectl-edit"), false},
		"claimed by controller":                {claimed("some-controller"), true},
		"claimed by one that the policy names": {claimed("terraform"), false},
	} {
		if got := Plain(tt.live, "b", api.Drift{TakeOver: []string{"terraform"}}); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
