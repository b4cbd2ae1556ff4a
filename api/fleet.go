package api

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Meta is the metadata that flotilla's own files accept.
type Meta struct {
	Name   string            `yaml:"name" json:"name"`
	Labels map[string]string `yaml:"labels,omitempty" json:"labels,omitempty"`
}

// Fleet holds what is true for the whole fleet; fleet.yaml at the root of the repository.
// The file is optional and so is every field.
type Fleet struct {
	APIVersion string    `yaml:"apiVersion" json:"apiVersion"`
	Kind       string    `yaml:"kind" json:"kind"`
	Metadata   Meta      `yaml:"metadata,omitempty" json:"metadata"`
	Spec       FleetSpec `yaml:"spec,omitempty" json:"spec"`
}

// FleetSpec is the body of fleet.yaml.
type FleetSpec struct {
	// Variables are defaults for every cluster's variables.
	Variables map[string]string `yaml:"variables,omitempty" json:"variables,omitempty"`
	// Defaults apply to every bundle that does not say otherwise.
	Defaults BundleDefaults `yaml:"defaults,omitempty" json:"defaults"`
	Guards   Guards         `yaml:"guards,omitempty" json:"guards"`
	// SuspendMax is the longest suspension that is accepted. Zero means DefaultSuspendMax.
	SuspendMax Duration `yaml:"suspendMax,omitempty" json:"suspendMax,omitempty"`
	// Persons says what episodes call the person who changed something. Empty means PersonsOff.
	Persons Persons `yaml:"persons,omitempty" json:"persons,omitempty"`
	// Tenants bind parts of the repository. Their paths do not overlap.
	Tenants []Tenant `yaml:"tenants,omitempty" json:"tenants,omitempty"`
}

// Persons says what becomes of the names of people who change objects on a cluster.
type Persons string

// The modes. In all but PersonsOff the API server writes the name of whoever changes an owned object onto it.
const (
	PersonsOff  Persons = "off"
	PersonsName Persons = "name"
	PersonsHash Persons = "hash" // a pseudonym: a hash with a key that only the cluster's agent has
)

// DefaultSuspendMax is the longest suspension where the fleet sets none.
const DefaultSuspendMax = 72 * time.Hour

// LongestSuspension bounds what a fleet may allow.
const LongestSuspension = 90 * 24 * time.Hour

// BundleDefaults are the bundle fields that a fleet can set once.
type BundleDefaults struct {
	Prune   *bool    `yaml:"prune,omitempty" json:"prune,omitempty"`
	Wait    *bool    `yaml:"wait,omitempty" json:"wait,omitempty"`
	Timeout Duration `yaml:"timeout,omitempty" json:"timeout,omitempty"`
	Drift   Drift    `yaml:"drift,omitempty" json:"drift"`
	// TakeOver is added to each bundle's.
	TakeOver []string `yaml:"takeOver,omitempty" json:"takeOver,omitempty"`
}

// Guards keep a mistake in Git from emptying a cluster.
type Guards struct {
	// MaxDeletePercent is the largest share of a cluster's inventory that one pass may delete.
	// Nil means DefaultMaxDeletePercent. Passes that delete at most MinGuardedDeletes objects
	// are not measured by share.
	MaxDeletePercent *int `yaml:"maxDeletePercent,omitempty" json:"maxDeletePercent,omitempty"`
	// AllowDelete names bundles from which anything may be deleted,
	// protected kinds and any share included. "*" means every bundle.
	AllowDelete []string `yaml:"allowDelete,omitempty" json:"allowDelete,omitempty"`
}

// Limits of the mass-deletion guard.
const (
	DefaultMaxDeletePercent = 30
	MinGuardedDeletes       = 5
)

// Cluster describes one cluster; clusters/<name>/cluster.yaml.
type Cluster struct {
	APIVersion string      `yaml:"apiVersion" json:"apiVersion"`
	Kind       string      `yaml:"kind" json:"kind"`
	Metadata   Meta        `yaml:"metadata" json:"metadata"`
	Spec       ClusterSpec `yaml:"spec,omitempty" json:"spec"`
}

// ClusterSpec is the body of cluster.yaml.
type ClusterSpec struct {
	// Variables are what ${name} stands for in bundles with substitute: true.
	Variables map[string]string `yaml:"variables,omitempty" json:"variables,omitempty"`
	// Suspend stops correction on the whole cluster from Git.
	Suspend *SuspendOrder `yaml:"suspend,omitempty" json:"suspend,omitempty"`
	// Guards are added to the fleet's: the percentage replaces the fleet's,
	// the bundles of AllowDelete are joined.
	Guards Guards `yaml:"guards,omitempty" json:"guards"`
}

// SuspendOrder is a suspension written in Git.
type SuspendOrder struct {
	Reason string    `yaml:"reason" json:"reason"`
	Until  time.Time `yaml:"until" json:"until"`
}

// Bundle is a directory that is rendered and applied as one unit; bundle.yaml in that directory.
type Bundle struct {
	APIVersion string     `yaml:"apiVersion" json:"apiVersion"`
	Kind       string     `yaml:"kind" json:"kind"`
	Metadata   Meta       `yaml:"metadata" json:"metadata"`
	Spec       BundleSpec `yaml:"spec,omitempty" json:"spec"`
}

// BundleSpec is the body of bundle.yaml.
type BundleSpec struct {
	// Targets choose the clusters; the first match wins. Nil means every cluster, without overlay.
	// An empty list matches no cluster.
	Targets []Target `yaml:"targets,omitempty" json:"targets,omitempty"`
	// Kustomize and Helm are the source; at most one is set. Neither means this directory:
	// its kustomization.yaml if there is one, else every YAML file below it.
	Kustomize *KustomizeSource `yaml:"kustomize,omitempty" json:"kustomize,omitempty"`
	Helm      *HelmSource      `yaml:"helm,omitempty" json:"helm,omitempty"`
	// Sources are rendered as one, in place of Kustomize and Helm.
	Sources []Source `yaml:"sources,omitempty" json:"sources,omitempty"`
	// Components, and then Patches, change the rendered objects of every source. They do not change hooks.
	// Components are directories of Kustomize components, relative to the bundle.
	Components []string `yaml:"components,omitempty" json:"components,omitempty"`
	Patches    []Patch  `yaml:"patches,omitempty" json:"patches,omitempty"`
	// Namespace is set on namespaced objects that have none (kustomize overlays set their own), or on all of them,
	// and is the release namespace of a chart.
	Namespace Namespace `yaml:"namespace,omitempty" json:"namespace,omitzero"`
	// CreateNamespace makes Namespace one of the bundle's objects. Nil: it is there, or another object of Git.
	CreateNamespace *NewNamespace `yaml:"createNamespace,omitempty" json:"createNamespace,omitempty"`
	// Empty is EmptyAllowed, or empty: a bundle that renders nothing is refused, for it is more likely broken than meant to be emptied.
	Empty     EmptyRule `yaml:"empty,omitempty" json:"empty,omitempty"`
	DependsOn []string  `yaml:"dependsOn,omitempty" json:"dependsOn,omitempty"`
	// Substitute replaces ${var} by the cluster's variables: in the rendered objects;
	// for a chart, in the values that the repository gives it, never in what its templates write.
	Substitute bool `yaml:"substitute,omitempty" json:"substitute,omitempty"`
	// Variables go over the cluster's.
	Variables map[string]string `yaml:"variables,omitempty" json:"variables,omitempty"`
	// Prune deletes what left Git. Nil means the fleet's default, else true.
	Prune *bool `yaml:"prune,omitempty" json:"prune,omitempty"`
	// Wait holds back dependents, and Ready, until the objects are healthy. Nil means the fleet's default, else true.
	Wait *bool `yaml:"wait,omitempty" json:"wait,omitempty"`
	// Timeout bounds the wait for health. Zero means the fleet's default, else DefaultTimeout.
	Timeout        Duration        `yaml:"timeout,omitempty" json:"timeout,omitempty"`
	ServiceAccount *ServiceAccount `yaml:"serviceAccount,omitempty" json:"serviceAccount,omitempty"`
	Drift          Drift           `yaml:"drift,omitempty" json:"drift"`
	// TakeOver names field managers whose claims end when Git takes an object over, beside those of kubectl, Helm,
	// Flux and Argo CD: what they set and Git does not is removed. A bundle's are added to the fleet's.
	TakeOver []string `yaml:"takeOver,omitempty" json:"takeOver,omitempty"`
	// Health says what "healthy" means for kinds that do not say it in the standard way.
	Health []HealthCheck `yaml:"health,omitempty" json:"health,omitempty"`
}

// EmptyRule says what becomes of a bundle that renders nothing.
type EmptyRule string

// EmptyAllowed lets a bundle render nothing: what it had is pruned, within the guards.
const EmptyAllowed EmptyRule = "allowed"

// HasChart reports whether a chart is among the bundle's sources.
func (s BundleSpec) HasChart() bool {
	return s.Helm != nil || slices.ContainsFunc(s.Sources, func(x Source) bool { return x.Helm != nil })
}

// DefaultTimeout bounds the wait for health where nobody says otherwise.
const DefaultTimeout = 5 * time.Minute

// PruneEnabled reports whether what left Git is deleted.
func (s BundleSpec) PruneEnabled() bool { return s.Prune == nil || *s.Prune }

// WaitEnabled reports whether dependents wait for this bundle's health.
func (s BundleSpec) WaitEnabled() bool { return s.Wait == nil || *s.Wait }

// WaitTimeout bounds the wait for health.
func (s BundleSpec) WaitTimeout() time.Duration {
	if s.Timeout > 0 {
		return time.Duration(s.Timeout)
	}
	return DefaultTimeout
}

// Target chooses clusters and says what the bundle adds for them.
// A target with neither selector nor names matches every cluster.
type Target struct {
	ClusterSelector *Selector `yaml:"clusterSelector,omitempty" json:"clusterSelector,omitempty"`
	Clusters        []string  `yaml:"clusters,omitempty" json:"clusters,omitempty"`
	// Overlay is a kustomize directory, relative to the bundle, that replaces the source's;
	// for a chart, a values file (or a directory whose values.yaml is used) layered over the chart's.
	Overlay string `yaml:"overlay,omitempty" json:"overlay,omitempty"`
	// Values are layered last over a chart's values.
	Values map[string]any `yaml:"values,omitempty" json:"values,omitempty"`
}

// Selector is a Kubernetes label selector.
type Selector struct {
	MatchLabels      map[string]string     `yaml:"matchLabels,omitempty" json:"matchLabels,omitempty"`
	MatchExpressions []SelectorRequirement `yaml:"matchExpressions,omitempty" json:"matchExpressions,omitempty"`
}

// SelectorRequirement is one expression of a Selector.
type SelectorRequirement struct {
	Key      string   `yaml:"key" json:"key"`
	Operator string   `yaml:"operator" json:"operator"` // In, NotIn, Exists, DoesNotExist
	Values   []string `yaml:"values,omitempty" json:"values,omitempty"`
}

// LabelSelector returns the selector in Kubernetes' own type.
func (s *Selector) LabelSelector() *metav1.LabelSelector {
	if s == nil {
		return nil
	}
	out := &metav1.LabelSelector{MatchLabels: s.MatchLabels}
	for _, e := range s.MatchExpressions {
		out.MatchExpressions = append(out.MatchExpressions, metav1.LabelSelectorRequirement{
			Key: e.Key, Operator: metav1.LabelSelectorOperator(e.Operator), Values: e.Values,
		})
	}
	return out
}

// Source is one of several of a bundle. Exactly one field is set.
type Source struct {
	Helm *HelmSource `yaml:"helm,omitempty" json:"helm,omitempty"`
	// Path is a directory, relative to the bundle: its kustomization.yaml if there is one, else every YAML file below it.
	Path string `yaml:"path,omitempty" json:"path,omitempty"`
}

// Patch is a patch as in a kustomization. Exactly one of Path and Patch is set.
type Patch struct {
	// Path is a file, relative to the bundle.
	Path string `yaml:"path,omitempty" json:"path,omitempty"`
	// Patch is a strategic merge patch, or a JSON patch.
	Patch string `yaml:"patch,omitempty" json:"patch,omitempty"`
	// Target chooses the objects. A strategic merge patch without one is for the object that it names.
	Target  *PatchTarget  `yaml:"target,omitempty" json:"target,omitempty"`
	Options *PatchOptions `yaml:"options,omitempty" json:"options,omitempty"`
}

// PatchTarget chooses objects as in a kustomization: names are anchored regular expressions.
type PatchTarget struct {
	Group              string `yaml:"group,omitempty" json:"group,omitempty"`
	Version            string `yaml:"version,omitempty" json:"version,omitempty"`
	Kind               string `yaml:"kind,omitempty" json:"kind,omitempty"`
	Name               string `yaml:"name,omitempty" json:"name,omitempty"`
	Namespace          string `yaml:"namespace,omitempty" json:"namespace,omitempty"`
	LabelSelector      string `yaml:"labelSelector,omitempty" json:"labelSelector,omitempty"`
	AnnotationSelector string `yaml:"annotationSelector,omitempty" json:"annotationSelector,omitempty"`
}

// NewNamespace is what a namespace has that a bundle brings.
type NewNamespace struct {
	Labels map[string]string `yaml:"labels,omitempty" json:"labels,omitempty"`
}

// PatchOptions allow what a patch may not do by itself.
type PatchOptions struct {
	AllowNameChange bool `yaml:"allowNameChange,omitempty" json:"allowNameChange,omitempty"`
	AllowKindChange bool `yaml:"allowKindChange,omitempty" json:"allowKindChange,omitempty"`
}

// KustomizeSource renders a kustomization.
type KustomizeSource struct {
	// Path is the directory, relative to the bundle. Empty means the bundle's own.
	Path string `yaml:"path,omitempty" json:"path,omitempty"`
}

// HelmSource renders a chart.
type HelmSource struct {
	// Chart is a directory of the repository (relative to the bundle, beginning with "./" or "../"),
	// an oci:// reference, the https:// address of a .tgz, or a chart's name in Repo.
	Chart string `yaml:"chart" json:"chart"`
	// Digest is "sha256:" and what the archive at an address must have. Empty: what was fetched first stays, with a warning.
	Digest  string `yaml:"digest,omitempty" json:"digest,omitempty"`
	Repo    string `yaml:"repo,omitempty" json:"repo,omitempty"`
	Version string `yaml:"version,omitempty" json:"version,omitempty"`
	// ReleaseName is .Release.Name. Empty means the bundle's name.
	ReleaseName string         `yaml:"releaseName,omitempty" json:"releaseName,omitempty"`
	ValuesFiles []string       `yaml:"valuesFiles,omitempty" json:"valuesFiles,omitempty"`
	Values      map[string]any `yaml:"values,omitempty" json:"values,omitempty"`
	// Schema is SchemaSkip, or empty: the values are checked against the chart's values.schema.json.
	Schema string `yaml:"schema,omitempty" json:"schema,omitempty"`
}

// IsAddress reports whether the chart is a file at an address.
func (h HelmSource) IsAddress() bool {
	return strings.HasPrefix(h.Chart, "https://") || strings.HasPrefix(h.Chart, "http://")
}

// SchemaSkip leaves the values of a chart unchecked.
const SchemaSkip = "skip"

// ServiceAccount is impersonated while a bundle is applied.
type ServiceAccount struct {
	Namespace string `yaml:"namespace" json:"namespace"`
	Name      string `yaml:"name" json:"name"`
}

// Drift says what is done about drift.
type Drift struct {
	// Mode is what happens to drift in fields that we own. Empty means the fleet's, else correct.
	Mode DriftMode `yaml:"mode,omitempty" json:"mode,omitempty"`
	// Extra is what happens to fields that others added below objects that we own,
	// and to objects that carry our ApplySet label but are not in Git. Empty means the fleet's, else ignore.
	Extra  ExtraMode    `yaml:"extra,omitempty" json:"extra,omitempty"`
	Ignore []IgnoreRule `yaml:"ignore,omitempty" json:"ignore,omitempty"`
	// TakeOver is the bundle's and the fleet's, put together when the bundle is resolved; no file says it here.
	TakeOver []string `yaml:"-" json:"takeOver,omitempty"`
}

// AsksForExtra reports whether what others added is looked for.
func (d Drift) AsksForExtra() bool { return d.Extra != "" && d.Extra != ExtraIgnore }

// Heeds reports whether an annotation on the live object has a say where Git has the object.
// Where extra is to be removed, what takes an object out of drift correction counts in Git alone:
// on the cluster it is something extra itself. AnnotationReconcile, which stops writing and hides nothing, counts always.
func (d Drift) Heeds(annotation string) bool {
	return d.Extra != ExtraRemove || annotation != AnnotationDrift && annotation != AnnotationSSA
}

// DriftMode is what happens to drift.
type DriftMode string

// The drift modes.
const (
	DriftCorrect DriftMode = "correct"
	DriftReport  DriftMode = "report"
	DriftIgnore  DriftMode = "ignore"
)

// ExtraMode is what happens to what nobody declared.
type ExtraMode string

// The modes for extra fields and objects.
const (
	ExtraIgnore ExtraMode = "ignore"
	ExtraReport ExtraMode = "report"
	ExtraRemove ExtraMode = "remove"
)

// IgnoreRule leaves fields to somebody else. An object must match Target;
// then a field is ignored that matches a path or is owned by one of the managers.
type IgnoreRule struct {
	Target IgnoreTarget `yaml:"target,omitempty" json:"target"`
	// Paths are JSON pointers (RFC 6901); "*" stands for any one key or index,
	// and "[name=app]" for the list items whose field has that value.
	Paths []string `yaml:"paths,omitempty" json:"paths,omitempty"`
	// Managers are field managers, by exact name.
	Managers []string `yaml:"managers,omitempty" json:"managers,omitempty"`
}

// IgnoreTarget chooses objects; an empty field matches anything, and "*" in a field any run of characters.
type IgnoreTarget struct {
	Group     string `yaml:"group,omitempty" json:"group,omitempty"`
	Kind      string `yaml:"kind,omitempty" json:"kind,omitempty"`
	Namespace string `yaml:"namespace,omitempty" json:"namespace,omitempty"`
	Name      string `yaml:"name,omitempty" json:"name,omitempty"`
}

// HealthCheck judges the objects of one kind by CEL expressions over "self" (the live object).
// Failed is asked first, then InProgress, then Current; without a Current expression
// what the object says of itself in the standard way decides about one that is neither failed nor in progress.
type HealthCheck struct {
	APIVersion string `yaml:"apiVersion" json:"apiVersion"`
	Kind       string `yaml:"kind" json:"kind"`
	InProgress string `yaml:"inProgress,omitempty" json:"inProgress,omitempty"`
	Failed     string `yaml:"failed,omitempty" json:"failed,omitempty"`
	Current    string `yaml:"current,omitempty" json:"current,omitempty"`
}
