package check

import (
	"cmp"
	"slices"
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
)

// Severity says how sure it is that something goes wrong.
type Severity string

// The severities, the worst first.
const (
	// Error is what the agent or the API server refuses, or what breaks.
	Error Severity = "error"
	// Warning is probably not meant.
	Warning Severity = "warning"
	// Info is worth knowing.
	Info Severity = "info"
)

// Severities are all of them, the worst first.
func Severities() []Severity { return []Severity{Error, Warning, Info} }

// AtLeast reports whether a severity is as bad as another one.
func (s Severity) AtLeast(other Severity) bool {
	return slices.Index(Severities(), s) <= slices.Index(Severities(), other)
}

// Reason is the stable code of a kind of finding.
type Reason string

// The reasons.
const (
	BadFleetFile      Reason = "BadFleetFile"
	TenantDenied      Reason = "TenantDenied"
	CannotRender      Reason = "CannotRender"
	RenderWarning     Reason = "RenderWarning"
	DeclaredTwice     Reason = "DeclaredTwice"
	UnknownField      Reason = "UnknownField"
	BadValue          Reason = "BadValue"
	BadDefinition     Reason = "BadDefinition"
	UnknownKind       Reason = "UnknownKind"
	NoSchema          Reason = "NoSchema"
	NotServed         Reason = "NotServed"
	RemovedAPI        Reason = "RemovedAPI"
	DeprecatedAPI     Reason = "DeprecatedAPI"
	SelectorMismatch  Reason = "SelectorMismatch"
	PodSecurity       Reason = "PodSecurity"
	PodSecurityAdvice Reason = "PodSecurityAdvice"
	MissingObject     Reason = "MissingObject"
	MissingKey        Reason = "MissingKey"
	MissingPort       Reason = "MissingPort"
	SelectsNothing    Reason = "SelectsNothing"
	PlainTextSecret   Reason = "PlainTextSecret"
	UnpinnedImage     Reason = "UnpinnedImage"
	UnknownCluster    Reason = "UnknownCluster"
	UnusedBundle      Reason = "UnusedBundle"
	UnusedOverlay     Reason = "UnusedOverlay"
	UnreachedCluster  Reason = "UnreachedCluster"
	BadIgnore         Reason = "BadIgnore"
)

// About is what there is to say of every finding with one reason.
type About struct {
	Reason   Reason   `json:"reason"`
	Severity Severity `json:"severity"`
	// Title is what it is, in half a sentence.
	Title string `json:"title"`
	// Do is how to mend it.
	Do string `json:"do"`
}

// Reasons lists all reasons, in the order of docs/check.md.
func Reasons() []About {
	return []About{
		{BadFleetFile, Error, "a file of flotilla's own that cannot be read", "correct the field that the message names; flotilla schema tells editors what is allowed"},
		{TenantDenied, Error, "something that a tenant may not have", "remove it, or have the platform's team allow it in fleet.yaml, spec.tenants"},
		{CannotRender, Error, "a bundle or cluster that cannot be rendered", "flotilla render --cluster NAME --bundle NAME shows the same error while you mend it"},
		{RenderWarning, Warning, "a warning of the rendering", "see the message"},
		{DeclaredTwice, Error, "one object in two bundles of a cluster", "leave it in one of them"},
		{UnknownField, Error, "a field that the schema of the kind does not have", "correct its name or its indentation, or remove it"},
		{BadValue, Error, "a value that the schema of the kind does not take", "correct the value"},
		{BadDefinition, Error, "a CustomResourceDefinition whose schema is none", "correct its openAPIV3Schema"},
		{UnknownKind, Error, "a kind that Kubernetes does not have", "correct apiVersion or kind"},
		{NoSchema, Info, "a kind of which nothing is known", "put its CustomResourceDefinition into the fleet repository to have its objects checked"},
		{NotServed, Error, "a version that the CustomResourceDefinition does not serve", "use a version that it serves"},
		{RemovedAPI, Error, "a version of a kind that Kubernetes has no more", "use the version that took its place"},
		{DeprecatedAPI, Warning, "a version of a kind that a later Kubernetes will not have", "use the version that takes its place"},
		{SelectorMismatch, Error, "a workload whose selector does not choose its own pods", "give the pod template the labels of spec.selector"},
		{PodSecurity, Error, "pods that the namespace's Pod Security Standard forbids", "change the securityContext as the message says, or the namespace's label"},
		{PodSecurityAdvice, Warning, "pods of which the namespace's Pod Security Standard warns", "change the securityContext as the message says"},
		{MissingObject, Warning, "a reference to an object that is not in Git", "correct the name, or add the object; if something else makes it, say so with an ignore"},
		{MissingKey, Warning, "a reference to a key that a ConfigMap or Secret does not have", "correct the key, or add it"},
		{MissingPort, Warning, "a reference to a port that a Service does not have", "correct the port's name or number"},
		{SelectsNothing, Warning, "a selector that chooses no pods", "correct the labels of the selector or of the pods"},
		{PlainTextSecret, Warning, "a Secret whose value stands in Git for everybody to read", "encrypt the file with SOPS, and replace the value, which is known now"},
		{UnpinnedImage, Warning, "an image without a tag, or with latest", "name a version, best with its digest"},
		{UnknownCluster, Warning, "a target that names a cluster that does not exist", "correct the name, or remove it"},
		{UnusedBundle, Warning, "a bundle whose targets choose no cluster", "correct spec.targets, or remove the bundle"},
		{UnusedOverlay, Warning, "an overlay that no cluster uses", "correct spec.targets, or remove the overlay"},
		{UnreachedCluster, Warning, "a cluster that no bundle reaches", "check the labels of the cluster against the targets of the bundles"},
		{BadIgnore, Warning, "an order to ignore findings that cannot be followed", "name a reason of docs/check.md, then a colon, then why"},
	}
}

// about is the row of a reason.
func about(r Reason) About {
	all := Reasons()
	return all[slices.IndexFunc(all, func(a About) bool { return a.Reason == r })]
}

// Finding is one thing that is wrong.
type Finding struct {
	Reason   Reason   `json:"reason"`
	Severity Severity `json:"severity"`
	// Clusters are those where it is so. Empty: it is about the repository.
	Clusters []string `json:"clusters,omitempty"`
	Bundle   string   `json:"bundle,omitempty"`
	// File and Line (from 1; 0 is unknown) say where it comes from.
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	// Object is what it is about; nil for files.
	Object  *api.ObjectRef `json:"object,omitempty"`
	Field   string         `json:"field,omitempty"`
	Message string         `json:"message"`
	// Do is what to do about it.
	Do string `json:"do"`
	// Ignored is why it does not count; empty if it does.
	Ignored string `json:"ignored,omitempty"`
}

// ID says which finding it is, whatever line and clusters it has.
func (f Finding) ID() string {
	object := ""
	if f.Object != nil {
		object = f.Object.ID()
	}
	return strings.Join([]string{string(f.Reason), f.Bundle, f.File, object, f.Field, f.Message}, "\x00")
}

// compareFindings orders by severity, and then by where they are.
func compareFindings(a, b Finding) int {
	return cmp.Or(
		cmp.Compare(slices.Index(Severities(), a.Severity), slices.Index(Severities(), b.Severity)),
		cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.ID(), b.ID()),
	)
}

// collector puts findings together: what is so on several clusters is one.
type collector struct {
	order []string
	byID  map[string]*Finding
}

func newCollector() *collector { return &collector{byID: map[string]*Finding{}} }

// add notes a finding. A cluster may be empty.
func (c *collector) add(f Finding, cluster string) {
	id := f.ID()
	if c.byID[id] == nil {
		row := about(f.Reason)
		f.Severity, f.Do = row.Severity, cmp.Or(f.Do, row.Do)
		c.byID[id] = &f
		c.order = append(c.order, id)
	}
	have := c.byID[id]
	if cluster != "" && !slices.Contains(have.Clusters, cluster) {
		have.Clusters = append(have.Clusters, cluster)
	}
}

func (c *collector) all() []Finding {
	out := make([]Finding, 0, len(c.order))
	for _, id := range c.order {
		out = append(out, *c.byID[id])
	}
	return out
}
