package api

import (
	"io/fs"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Tree is a directory tree that cannot change while it is read.
// Names are slash-separated and relative to its root, as in fs.FS;
// nothing outside the tree can be reached, symbolic links included.
type Tree interface {
	fs.FS
	fs.ReadDirFS
	fs.ReadFileFS
	fs.StatFS
	// Digest changes when, and only when, anything below name changes (or name's own bytes do).
	// The root is ".".
	Digest(name string) (string, error)
}

// ValidPath is fs.ValidPath for names of any bytes: neither Git nor a disk knows an encoding, and one such file must not hide the others.
func ValidPath(name string) bool { return fs.ValidPath(strings.ToValidUTF8(name, "_")) }

// Snapshot is the fleet repository at one commit.
type Snapshot struct {
	// Revision is the full commit hash, a digest such as sha256:…, or "worktree" for a directory without one.
	Revision string
	// SignedBy says whose signature was verified, for people; empty where none was asked for.
	SignedBy string
	// Subject is the first line of the commit's message, Author its author's name.
	Subject string
	Author  string
	// Time is when the commit was made.
	Time time.Time
	Tree Tree
}

// ClusterFacts are what rendering may know of the live cluster.
type ClusterFacts struct {
	// KubeVersion is the server's version, such as "v1.37.1". Empty means unknown.
	KubeVersion string
	// APIVersions are what a chart sees as .Capabilities.APIVersions:
	// "apps/v1" and "apps/v1/Deployment". Sorted.
	APIVersions []string
	// Holders: name of a bundle that the cluster has -> its tenant's; empty for the platform's.
	// Where two bundles want one name, it stays with who had it first.
	Holders map[string]string `json:"-"`
}

// Rendering is what one snapshot says about one cluster.
type Rendering struct {
	Revision string
	Fleet    Fleet
	Cluster  Cluster
	// Stopped: tenant -> why nothing of it is applied or deleted: not all of its bundles are known.
	// All its bundles that are known have this as their Err.
	Stopped map[string]error
	// Bundles belong on the cluster; sorted by name.
	// A bundle that cannot be rendered is there, with its Err.
	Bundles []RenderedBundle
	// Keys is the fingerprint of the keys that it was rendered with.
	Keys string
	// Warnings are about bundles that are not on the cluster, and may have been meant to be.
	Warnings []string
}

// Guards joins what the fleet and the cluster say: the cluster's share replaces the fleet's, what they allow adds up.
func (r Rendering) Guards() Guards {
	g, c := r.Fleet.Spec.Guards, r.Cluster.Spec.Guards
	if c.MaxDeletePercent != nil {
		g.MaxDeletePercent = c.MaxDeletePercent
	}
	g.AllowDelete = slices.Concat(g.AllowDelete, c.AllowDelete)
	return g
}

// RenderedBundle is one bundle's desired state on one cluster.
type RenderedBundle struct {
	Name string
	// Dir is the bundle's directory in the repository.
	Dir string
	// Kustomization is the file of the kustomization that was built: the overlay's, where there is one.
	// Empty for charts, for plain YAML, and when Err is set.
	Kustomization string
	// Spec has the fleet's defaults filled in, and Targets left out.
	Spec BundleSpec
	// Tenant is whose bundle it is; nil is the platform's. Its service account is in Spec.
	Tenant *Tenant
	// Objects is what is applied, in a stable order, all namespaces resolved as far as
	// the files tell. Nil when Err is set.
	Objects []*unstructured.Unstructured
	// Hooks are run around the objects (Helm); sorted by weight, kind and name.
	Hooks []Hook
	// Inputs are what it was rendered from. Clusters for which the same was read have the same pointer. Nil when Err is set.
	Inputs *Inputs
	// Origin is the file that each object comes from, by ObjectRef.ID.
	Origin map[string]string
	// Digest changes when the objects, the hooks or the spec change. Empty when Err is set.
	Digest string
	// Err is why there are no objects. Its kind is Stalled unless a network was involved.
	Err error
	// Warnings are worth a human's look and change nothing.
	Warnings []string
}

// TenantName names the bundle's tenant; empty for the platform's.
func (b RenderedBundle) TenantName() string {
	if b.Tenant == nil {
		return ""
	}
	return b.Tenant.Name
}

// Inputs are what the rendering of a bundle read. They are shared between renderings: treat them as read-only.
type Inputs struct {
	// Target is the index of the bundle's target that matched, -1 for none; Overlay is that target's.
	Target  int
	Overlay string
	// Variables are the cluster's that may have been put in, with their values.
	Variables map[string]string
	// Unset are variables that may have been asked for, and are not set.
	Unset []string
	// Facts is a digest of what a chart was told of the cluster; empty if it is no chart.
	Facts string
	// Chart is the digest of a chart from outside the repository; those of several stand one behind another.
	Chart string
	// Paths are what was read of the repository: files, and directories as a whole.
	Paths []string
	// Secrets are texts that were decrypted for it: whoever shows a value must show none of these.
	Secrets []string `json:"-"`
}

// HookPhase is when a hook runs.
type HookPhase string

// The hook phases.
const (
	HookPreInstall  HookPhase = "pre-install"
	HookPreUpgrade  HookPhase = "pre-upgrade"
	HookPostInstall HookPhase = "post-install"
	HookPostUpgrade HookPhase = "post-upgrade"
	HookPreDelete   HookPhase = "pre-delete"
	HookPostDelete  HookPhase = "post-delete"
)

// Hook is an object that is created, awaited and (by its policies) deleted around an apply.
type Hook struct {
	Phases []HookPhase
	Weight int
	// DeletePolicies are Helm's words: before-hook-creation, hook-succeeded, hook-failed.
	DeletePolicies []string
	Object         *unstructured.Unstructured
	// File is where it was written, and Line is that of what the template says. No digest depends on them.
	File string `json:"-"`
	Line int    `json:"-"`
}
