package api

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Tenant is a part of the fleet repository whose authors are trusted with that part alone: fleet.yaml, spec.tenants.
// It binds every bundle below its path. What is outside of all tenants' paths is the platform's.
type Tenant struct {
	// Name names the tenant in messages.
	Name string `yaml:"name" json:"name"`
	// Path is a directory of the repository. Bundles below it read the files below it and no others,
	// and no other bundle reads these.
	Path string `yaml:"path" json:"path"`
	// Keys are the names of the age keys that decrypt the tenant's files. They decrypt nobody else's,
	// unless another tenant names them, too.
	Keys []string `yaml:"keys,omitempty" json:"keys,omitempty"`
	// ServiceAccount is impersonated for every bundle of the tenant. A bundle cannot name another.
	ServiceAccount ServiceAccount `yaml:"serviceAccount" json:"serviceAccount"`
	// Namespaces are those where the tenant may have objects. "*" in one stands for any run of characters;
	// a namespace that begins with "kube-" is meant only by its whole name.
	Namespaces []string `yaml:"namespaces" json:"namespaces"`
	// Kinds say what the objects may be.
	Kinds TenantKinds `yaml:"kinds,omitempty" json:"kinds"`
	// ClusterSelector chooses the clusters where the tenant's bundles are. Nil means all.
	ClusterSelector *Selector `yaml:"clusterSelector,omitempty" json:"clusterSelector,omitempty"`
	// Charts are where charts may come from, beside the tenant's path: REPOSITORY/NAME, with "*" for any run of characters.
	// They are fetched with the agent's credentials. Empty means nowhere.
	Charts []string `yaml:"charts,omitempty" json:"charts,omitempty"`
	// Images are what containers may run: REGISTRY/NAME without tag, with "*" for any run of characters. Empty means any.
	Images []string     `yaml:"images,omitempty" json:"images,omitempty"`
	Rights TenantRights `yaml:"rights,omitempty" json:"rights"`
	Quotas TenantQuotas `yaml:"quotas,omitempty" json:"quotas"`
}

// TenantKinds are patterns of kinds, each as KIND.GROUP, or KIND for the core group, with "*" for any run of characters.
type TenantKinds struct {
	// Allow is what the tenant may have. Empty means every namespaced kind.
	// A cluster-scoped kind is allowed by its whole name only.
	Allow []string `yaml:"allow,omitempty" json:"allow,omitempty"`
	// Deny goes before Allow.
	Deny []string `yaml:"deny,omitempty" json:"deny,omitempty"`
}

// TenantRights say which of flotilla's own words a tenant may use.
type TenantRights struct {
	// Drift are the drift modes that bundles and annotations may choose. Where DriftIgnore is not among them,
	// there may be no ignore rules either. Empty means all.
	Drift []DriftMode `yaml:"drift,omitempty" json:"drift,omitempty"`
	// Annotations are those of flotilla that objects may carry. Nil means all.
	Annotations *[]string `yaml:"annotations,omitempty" json:"annotations,omitempty"`
	// Suspend allows Suspensions in Git whose scope is the tenant's own bundles.
	Suspend bool `yaml:"suspend,omitempty" json:"suspend,omitempty"`
}

// TenantQuotas bound what a tenant has on each cluster. Zero means no bound.
type TenantQuotas struct {
	Bundles int `yaml:"bundles,omitempty" json:"bundles,omitempty"`
	// Objects counts those of all its bundles, hooks included.
	Objects int `yaml:"objects,omitempty" json:"objects,omitempty"`
	// RenderingTime is what the charts and kustomizations of all its bundles may take together to be rendered:
	// processor time, as far as the system tells it.
	RenderingTime Duration `yaml:"renderingTime,omitempty" json:"renderingTime,omitempty"`
}

// LeastRenderingTime is the smallest quota of rendering time: a worker that begins takes a part of it.
const LeastRenderingTime = time.Second

// ReasonTenantDenied is the reason of every error about what a tenant may not do.
const ReasonTenantDenied = "TenantDenied"

// Admits says why a tenant may not have an object; nil if it may.
func (t Tenant) Admits(ref ObjectRef, namespaced bool) error {
	kind := ref.Kind
	if ref.Group != "" {
		kind += "." + ref.Group
	}
	matches := func(pattern string) bool { return wild(pattern, kind) }
	switch {
	case ref.Group == Group:
		if ref.Kind != KindSuspension || !t.Rights.Suspend {
			return fmt.Errorf("tenant %q may not have %s: it has no right to suspend, and other kinds of %s are the agent's", t.Name, ref, Group)
		}
		return nil
	case slices.ContainsFunc(t.Kinds.Deny, matches):
		return fmt.Errorf("tenant %q may not have %s: the kind is denied", t.Name, ref)
	case !namespaced && !slices.Contains(t.Kinds.Allow, kind):
		return fmt.Errorf("tenant %q may not have %s: the kind has no namespace, and kinds.allow does not name it", t.Name, ref)
	case !namespaced:
		return nil
	case len(t.Kinds.Allow) > 0 && !slices.ContainsFunc(t.Kinds.Allow, matches):
		return fmt.Errorf("tenant %q may not have %s: the kind is not among those of kinds.allow", t.Name, ref)
	case !t.AdmitsNamespace(ref.Namespace):
		return fmt.Errorf("tenant %q may not have %s: the namespace %q is not one of %s", t.Name, ref, ref.Namespace, strings.Join(t.Namespaces, ", "))
	}
	return nil
}

// AdmitsNamespace reports whether the tenant may have objects in a namespace: never in the agent's own.
func (t Tenant) AdmitsNamespace(name string) bool {
	if name == "" || name == SystemNamespace {
		return false
	}
	if strings.HasPrefix(name, "kube-") {
		return slices.Contains(t.Namespaces, name)
	}
	return slices.ContainsFunc(t.Namespaces, func(pattern string) bool { return wild(pattern, name) })
}

// AdmitsChart reports whether a chart may come from a repository: an https:// address, or oci://… without the name.
// An address with parts that mislead a reader is never allowed.
func (t Tenant) AdmitsChart(repo, name string) bool {
	address := strings.TrimSuffix(repo, "/") + "/" + name
	u, err := url.Parse(address)
	if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" || path.Clean(u.Path) != u.Path || strings.ContainsAny(address, "%\\") {
		return false
	}
	return slices.ContainsFunc(t.Charts, func(pattern string) bool { return wild(pattern, address) })
}

// AdmitsImage reports whether a container may run an image. Names are compared as container runtimes complete them.
func (t Tenant) AdmitsImage(image string) bool {
	if len(t.Images) == 0 {
		return true
	}
	name, _, _ := strings.Cut(image, "@")
	if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, '/') {
		name = name[:colon]
	}
	host, rest, found := strings.Cut(name, "/")
	switch {
	case !found:
		name = "docker.io/library/" + name
	case !strings.ContainsAny(host, ".:") && host != "localhost":
		name = "docker.io/" + name
	case host == "index.docker.io":
		name = "docker.io/" + rest
	}
	return path.Clean(name) == name && slices.ContainsFunc(t.Images, func(pattern string) bool { return wild(pattern, name) })
}

// AdmitsDrift reports whether bundles and objects may choose a drift mode.
func (t Tenant) AdmitsDrift(mode DriftMode) bool {
	return len(t.Rights.Drift) == 0 || mode == "" || slices.Contains(t.Rights.Drift, mode)
}

// OnCluster reports whether the tenant's bundles may be on a cluster with these labels.
func (t Tenant) OnCluster(set map[string]string) bool {
	return t.ClusterSelector == nil || t.ClusterSelector.Matches(set)
}

// TenantAt returns the tenant whose path holds a file or directory of the repository; nil if none does.
func (s FleetSpec) TenantAt(name string) *Tenant {
	for i := range s.Tenants {
		if below(name, s.Tenants[i].Path) {
			return &s.Tenants[i]
		}
	}
	return nil
}

// below reports whether a clean path is dir or inside of it.
func below(name, dir string) bool { return name == dir || strings.HasPrefix(name, dir+"/") }

func validTenants(at locator, tenants []Tenant) error {
	for i, t := range tenants {
		field := fmt.Sprintf("spec.tenants.%d", i)
		if err := t.validate(at, field); err != nil {
			return err
		}
		for _, other := range tenants[:i] {
			switch {
			case other.Name == t.Name:
				return at.errorf(field+".name", "there are two tenants %q", t.Name)
			case below(t.Path, other.Path) || below(other.Path, t.Path):
				return at.errorf(field+".path", "%q overlaps %q of tenant %q: a file has one tenant at most", t.Path, other.Path, other.Name)
			}
		}
	}
	return nil
}

func (t Tenant) validate(at locator, field string) error {
	if err := at.name(field+".name", t.Name); err != nil {
		return err
	}
	if err := t.validPath(at, field+".path"); err != nil {
		return err
	}
	for i, k := range t.Keys {
		if !ValidName(k) {
			return at.errorf(fmt.Sprintf("%s.keys.%d", field, i), "%q is not a key's name: the NAME of --age-key NAME=FILE", k)
		}
	}
	if !ValidName(t.ServiceAccount.Namespace) || t.ServiceAccount.Name == "" {
		return at.errorf(field+".serviceAccount", "a tenant needs the namespace and the name of a service account, with whose rights it is applied")
	}
	if t.ServiceAccount.Namespace == SystemNamespace {
		return at.errorf(field+".serviceAccount.namespace", "%s is the agent's own", SystemNamespace)
	}
	if err := t.validObjects(at, field); err != nil {
		return err
	}
	if err := t.ClusterSelector.validate(at, field+".clusterSelector"); err != nil {
		return err
	}
	if err := t.validSources(at, field); err != nil {
		return err
	}
	for i, m := range t.Rights.Drift {
		if m != DriftCorrect && m != DriftReport && m != DriftIgnore {
			return at.errorf(fmt.Sprintf("%s.rights.drift.%d", field, i), "%q is not one of correct, report, ignore", m)
		}
	}
	if t.Quotas.Bundles < 0 || t.Quotas.Objects < 0 {
		return at.errorf(field+".quotas", "a quota cannot be negative")
	}
	if r := time.Duration(t.Quotas.RenderingTime); r != 0 && r < LeastRenderingTime {
		return at.errorf(field+".quotas.renderingTime", "%v is less than %v, of which a worker takes a part to begin", r, LeastRenderingTime)
	}
	return nil
}

// validNamespace is a namespace's name, in which stars stand for any run of characters.
var validNamespace = regexp.MustCompile(`^[a-z0-9*]([-a-z0-9*]{0,61}[a-z0-9*])?$`)

// validKind is a kind and its group, in which stars stand for any run of characters.
var validKind = regexp.MustCompile(`^[A-Z*][A-Za-z0-9*]*(\.[-a-z0-9.*]+)?$`)

func (t Tenant) validObjects(at locator, field string) error {
	if len(t.Namespaces) == 0 {
		return at.errorf(field+".namespaces", "a tenant needs at least one namespace")
	}
	for i, n := range t.Namespaces {
		if !validNamespace.MatchString(n) || n == SystemNamespace {
			return at.errorf(fmt.Sprintf("%s.namespaces.%d", field, i), "%q is not a namespace that a tenant may have", n)
		}
	}
	for i, k := range t.Kinds.Allow {
		if strings.HasSuffix(k, "."+Group) {
			return at.errorf(fmt.Sprintf("%s.kinds.allow.%d", field, i),
				"%q: kinds of %s are no tenant's; rights.suspend allows Suspensions of its own bundles", k, Group)
		}
	}
	if err := validKinds(at, field+".kinds.allow", t.Kinds.Allow); err != nil {
		return err
	}
	return validKinds(at, field+".kinds.deny", t.Kinds.Deny)
}

func validKinds(at locator, field string, kinds []string) error {
	for i, k := range kinds {
		if !validKind.MatchString(k) {
			return at.errorf(fmt.Sprintf("%s.%d", field, i), "%q is not a kind such as ConfigMap, Deployment.apps or *.apps", k)
		}
	}
	return nil
}

func (t Tenant) validSources(at locator, field string) error {
	for i, c := range t.Charts {
		scheme, rest, _ := strings.Cut(c, "://")
		host, name, _ := strings.Cut(rest, "/")
		if scheme != "https" && scheme != "oci" || host == "" || name == "" || strings.Contains(host, "*") {
			return at.errorf(fmt.Sprintf("%s.charts.%d", field, i),
				"%q is not where charts come from, such as oci://registry.example.com/charts/* or https://charts.example.com/*", c)
		}
	}
	for i, image := range t.Images {
		host, name, _ := strings.Cut(image, "/")
		if host == "" || name == "" || strings.Contains(host, "*") || !strings.ContainsAny(host, ".:") && host != "localhost" {
			return at.errorf(fmt.Sprintf("%s.images.%d", field, i),
				"%q is not where images come from, such as registry.example.com/team/* or docker.io/library/*", image)
		}
	}
	return nil
}

func (t Tenant) validPath(at locator, field string) error {
	const clusters = "clusters"
	switch {
	case t.Path == "" || t.Path == ".":
		return at.errorf(field, "a tenant needs a directory of its own, such as teams/%s", t.Name)
	case path.IsAbs(t.Path) || path.Clean(t.Path) != t.Path || strings.HasPrefix(t.Path, ".."):
		return at.errorf(field, "%q is not a directory from the root of the repository, such as teams/%s", t.Path, t.Name)
	case below(t.Path, clusters):
		return at.errorf(field, "%q: the clusters' own files are the platform's", t.Path)
	}
	for part := range strings.SplitSeq(t.Path, "/") {
		if strings.HasPrefix(part, ".") {
			return at.errorf(field, "%q: bundles below a directory that begins with a dot are not read", t.Path)
		}
	}
	return nil
}
