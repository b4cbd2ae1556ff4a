package api

import (
	"fmt"
	"path"
	"strings"
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
	if !ValidName(t.Name) {
		return at.errorf(field+".name", "%q is not a name of at most 63 lower-case letters, digits and dashes", t.Name)
	}
	if err := t.validPath(at, field+".path"); err != nil {
		return err
	}
	for i, k := range t.Keys {
		if !ValidName(k) {
			return at.errorf(fmt.Sprintf("%s.keys.%d", field, i), "%q is not a key's name: the NAME of --age-key NAME=FILE", k)
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
