package intake

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/flotilla-fleet/flotilla/api"
)

// Bounds of texts, in bytes.
const (
	maxWord    = 128     // revisions, versions, digests
	maxLine    = 1 << 10 // a reason, a file, a commit's subject
	maxText    = 4 << 10
	maxMessage = 16 << 10
	// maxChangeBytes bounds the changes of one bundle together.
	maxChangeBytes = 64 << 10
)

// Bounds of lists that api does not name.
const (
	maxLabels      = 64
	maxSuspensions = 100
	maxScope       = 100
	maxWarnings    = 50
	maxDependsOn   = 200
)

var (
	validReason = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]{0,63}$`)
	validTag    = regexp.MustCompile(`^[A-Za-z0-9]{1,32}$`)
)

// longestName is that of the longest name of an object. What is longer is not even looked at.
const longestName = 253

// validRef reports whether there can be such an object. api knows what names there are.
func validRef(r api.ObjectRef) bool {
	return max(len(r.Group), len(r.Version), len(r.Kind), len(r.Namespace), len(r.Name)) <= longestName && r.Check() == nil
}

// validSuspension reports whether a suspension can have the name.
func validSuspension(s string) bool {
	return len(s) <= longestName && api.CheckSuspensionName(s) == nil
}

// printable reports a text of at most so many bytes that stands in one line and shows what it is.
func printable(most int) func(string) bool {
	return func(s string) bool {
		return len(s) <= most && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
	}
}

// word is printable without spaces.
func word(s string) bool { return printable(maxWord)(s) && !strings.Contains(s, " ") }

func (t *taker) status(st *api.ClusterStatus) {
	t.labels(st)
	t.name(&st.Source, printable(2*maxLine), "a source")
	t.name(&st.Branch, printable(256), "a branch")
	t.name(&st.DesiredRevision, word, "a revision")
	t.name(&st.AppliedRevision, word, "a revision")
	t.text(&st.Subject, maxLine, "a commit's subject")
	t.text(&st.SignedBy, maxLine, "a commit's signer")
	t.past(&st.Fetched, "the fetch at")
	t.past(&st.Started, "the agent's start at")
	t.name(&st.KubeVersion, word, "a version of Kubernetes")
	t.name(&st.AgentVersion, word, "an agent's version")
	st.Error = t.statusError(st.Error)
	var kept []api.Suspension
	for _, s := range first(t, st.Suspensions, maxSuspensions, "suspensions") {
		if t.suspension(&s) {
			kept = append(kept, s)
		}
	}
	st.Suspensions = kept
}

func (t *taker) labels(st *api.ClusterStatus) {
	var kept map[string]string
	for _, k := range first(t, slices.Sorted(maps.Keys(st.Labels)), maxLabels, "labels") {
		if v := st.Labels[k]; t.need(k != "" && printable(317)(k) && printable(253)(v), BadName, "a label %s: %s", show(k), show(v)) {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[k] = v
		}
	}
	st.Labels = kept
}

func (t *taker) statusError(in *api.StatusError) *api.StatusError {
	if in == nil {
		return nil
	}
	e := *in
	if !slices.Contains([]api.ErrorKind{api.Internal, api.Stalled, api.Waiting, api.Transient, api.Forbidden}, e.Kind) {
		t.omit(BadName, "an error of the kind %s", show(string(e.Kind)))
		e.Kind = api.Internal
	}
	t.name(&e.Reason, validReason.MatchString, "a reason")
	t.text(&e.Message, maxMessage, "an error's message")
	t.name(&e.File, printable(maxLine), "a file")
	t.name(&e.Field, printable(maxLine), "a field")
	e.Line = number(e.Line)
	return &e
}

func (t *taker) suspension(s *api.Suspension) bool {
	if !t.need(validSuspension(s.Name), BadName, "a suspension is called %s", show(s.Name)) {
		return false
	}
	t.text(&s.Reason, maxLine, "a suspension's reason")
	t.name(&s.Actor, printable(256), "a suspension's actor")
	t.past(&s.Created, "a suspension's beginning")
	if s.Until.Before(epoch) || s.Until.Sub(t.now) > 100*365*24*time.Hour {
		t.omit(BadTime, "a suspension until %s", s.Until.UTC().Format(time.RFC3339))
		s.Until = t.now
	}
	bundles := slices.Clone(first(t, s.Scope.Bundles, maxScope, "bundles in a suspension"))
	s.Scope.Bundles = slices.DeleteFunc(bundles, func(b string) bool {
		return !t.need(api.ValidName(b), BadName, "a suspension's bundle %s", show(b))
	})
	objects := slices.Clone(first(t, s.Scope.Objects, maxScope, "objects in a suspension"))
	s.Scope.Objects = slices.DeleteFunc(objects, func(o api.ObjectRef) bool {
		return !t.need(validRef(o), BadName, "a suspension's object %s", show(o.String()))
	})
	// A scope that cannot be understood is everything, on the cluster as here.
	s.Scope.All = s.Scope.All || len(s.Scope.Bundles)+len(s.Scope.Objects) == 0
	return true
}

func (t *taker) bundle(b *api.BundleStatus) bool {
	phases := []api.BundlePhase{
		api.PhasePending, api.PhaseBlocked, api.PhaseApplying, api.PhaseProgressing, api.PhaseReady, api.PhaseFailed, api.PhaseSuspended,
	}
	if !t.need(api.ValidName(b.Name), BadName, "a bundle is called %s", show(b.Name)) ||
		!t.need(slices.Contains(phases, b.Phase), BadName, "bundle %s has the phase %s", b.Name, show(string(b.Phase))) {
		return false
	}
	for _, revision := range []*string{&b.DesiredRevision, &b.AppliedRevision, &b.ChangedRevision, &b.Digest} {
		t.name(revision, word, "a revision")
	}
	for _, n := range []*int{&b.Objects, &b.ReadyObjects, &b.Drifted, &b.Unknown, &b.ExemptOmitted, &b.ChangesOmitted} {
		*n = number(*n)
	}
	b.Contested = t.texts(b.Contested, api.MaxContested, maxText, "contested objects")
	b.Uncorrected = t.texts(b.Uncorrected, api.MaxContested, maxText, "uncorrected objects")
	b.Exempt = t.texts(b.Exempt, api.MaxExempt, maxLine, "exempt objects")
	b.Warnings = t.texts(b.Warnings, maxWarnings, maxText, "warnings")
	t.text(&b.Message, maxMessage, "a bundle's message")
	t.name(&b.Suspended, validSuspension, "a suspension")
	if a := b.ServiceAccount; a != nil && !t.need(api.ValidName(a.Namespace) && api.CheckSuspensionName(a.Name) == nil, BadName,
		"a service account %s", show(a.Namespace+"/"+a.Name)) {
		b.ServiceAccount = nil
	}
	b.DependsOn = slices.DeleteFunc(slices.Clone(first(t, b.DependsOn, maxDependsOn, "dependencies")), func(d string) bool {
		return !t.need(api.ValidName(d), BadName, "a dependency %s", show(d))
	})
	b.Error = t.statusError(b.Error)
	t.changes(b)
	t.past(&b.Changed, "a change at")
	t.past(&b.Updated, "an update at")
	return true
}

// texts bounds a list of texts. The list that was sent stays as it is.
func (t *taker) texts(in []string, most, size int, what string) []string {
	out := slices.Clone(first(t, in, most, what))
	for i := range out {
		t.text(&out[i], size, what)
	}
	return out
}

func (t *taker) changes(b *api.BundleStatus) {
	actions := []api.Action{
		api.Created, api.Updated, api.Recreated, api.Unchanged, api.Pruned, api.Skipped, api.Denied, api.Failed,
	}
	var kept []api.Change
	size := 0
	for _, c := range first(t, b.Changes, api.MaxChanges, "changes") {
		if !t.need(validRef(c.Object) && slices.Contains(actions, c.Action), BadName, "a change %s of %s", show(string(c.Action)), show(c.Object.String())) {
			continue
		}
		t.text(&c.Reason, maxLine, "a change's reason")
		t.text(&c.Error, maxText, "a change's error")
		if size += len(c.Object.ID()) + len(c.Reason) + len(c.Error); size > maxChangeBytes {
			t.omit(TooLong, "the changes of bundle %s have more than %d bytes", b.Name, maxChangeBytes)
			break
		}
		kept = append(kept, c)
	}
	b.ChangesOmitted += len(b.Changes) - len(kept)
	b.Changes = kept
}
