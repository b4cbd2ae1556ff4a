package api

import (
	"fmt"
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// validName is a DNS label (RFC 1123): names become parts of object names and labels.
var validName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// ValidName reports whether a cluster or bundle may have the name.
func ValidName(name string) bool { return validName.MatchString(name) }

var validVariable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (f Fleet) validate(at locator) error {
	if err := validVariables(at, "spec.variables", f.Spec.Variables); err != nil {
		return err
	}
	if err := f.Spec.Guards.validate(at); err != nil {
		return err
	}
	switch f.Spec.Persons {
	case "", PersonsOff, PersonsName, PersonsHash:
	default:
		return at.errorf("spec.persons", "%q is not one of off, name, hash", f.Spec.Persons)
	}
	if err := validTenants(at, f.Spec.Tenants); err != nil {
		return err
	}
	if err := validTakeOver(at, "spec.defaults.takeOver", f.Spec.Defaults.TakeOver); err != nil {
		return err
	}
	return f.Spec.Defaults.Drift.validate(at, "spec.defaults.drift")
}

func (c Cluster) validate(at locator) error {
	if err := at.name("metadata.name", c.Metadata.Name); err != nil {
		return err
	}
	if err := validVariables(at, "spec.variables", c.Spec.Variables); err != nil {
		return err
	}
	if s := c.Spec.Suspend; s != nil {
		if s.Reason == "" {
			return at.errorf("spec.suspend.reason", "a suspension needs a reason")
		}
		if s.Until.IsZero() {
			return at.errorf("spec.suspend.until", "a suspension needs an end, such as 2030-01-31T10:00:00Z")
		}
	}
	return c.Spec.Guards.validate(at)
}

func (g Guards) validate(at locator) error {
	if p := g.MaxDeletePercent; p != nil && (*p < 0 || *p > 100) {
		return at.errorf("spec.guards.maxDeletePercent", "%d is not between 0 and 100", *p)
	}
	for i, b := range g.AllowDelete {
		if b != "*" && !ValidName(b) {
			return at.errorf(fmt.Sprintf("spec.guards.allowDelete.%d", i), "%q is not a bundle's name or \"*\"", b)
		}
	}
	return nil
}

func (b Bundle) validate(at locator) error {
	if err := at.name("metadata.name", b.Metadata.Name); err != nil {
		return err
	}
	s := b.Spec
	if err := s.validSources(at); err != nil {
		return err
	}
	if err := s.validPatches(at); err != nil {
		return err
	}
	for i, t := range s.Targets {
		if err := t.validate(at, fmt.Sprintf("spec.targets.%d", i), s); err != nil {
			return err
		}
	}
	for i, d := range s.DependsOn {
		if d == b.Metadata.Name {
			return at.errorf(fmt.Sprintf("spec.dependsOn.%d", i), "a bundle cannot depend on itself")
		}
	}
	if !s.Namespace.IsZero() {
		if err := CheckNamespace(s.Namespace.Name()); err != nil {
			field := "spec.namespace"
			if s.Namespace.Override != "" {
				field += ".override"
			}
			return at.impossible(field, err)
		}
	}
	if err := s.validNamespace(at); err != nil {
		return err
	}
	if s.Empty != "" && s.Empty != EmptyAllowed {
		return at.errorf("spec.empty", "%q is not %q, which is the only word for it", s.Empty, EmptyAllowed)
	}
	if a := s.ServiceAccount; a != nil {
		if err := a.validate(at); err != nil {
			return err
		}
	}
	if err := validVariables(at, "spec.variables", s.Variables); err != nil {
		return err
	}
	if len(s.Variables) > 0 && !s.Substitute {
		return at.errorf("spec.variables", "variables are put in only with spec.substitute: true")
	}
	for i, h := range s.Health {
		if h.Kind == "" || h.APIVersion == "" {
			return at.errorf(fmt.Sprintf("spec.health.%d", i), "needs an apiVersion and a kind")
		}
	}
	if err := validTakeOver(at, "spec.takeOver", s.TakeOver); err != nil {
		return err
	}
	return s.Drift.validate(at, "spec.drift")
}

func (s BundleSpec) charts() int {
	n := 0
	for _, x := range s.Sources {
		if x.Helm != nil {
			n++
		}
	}
	return n
}

func (s BundleSpec) validSources(at locator) error {
	switch {
	case s.Kustomize != nil && s.Helm != nil:
		return at.errorf("spec.helm", "kustomize and helm cannot both be set: list them in spec.sources")
	case s.Sources != nil && (s.Kustomize != nil || s.Helm != nil):
		return at.errorf("spec.sources", "takes the place of kustomize and helm: list them all here")
	case s.Sources != nil && len(s.Sources) == 0:
		return at.errorf("spec.sources", "is an empty list: name a source, or leave the field out to render this directory")
	}
	if s.Helm != nil {
		if err := s.Helm.validate(at, "spec.helm"); err != nil {
			return err
		}
	}
	for i, x := range s.Sources {
		field := fmt.Sprintf("spec.sources.%d", i)
		switch {
		case (x.Helm == nil) == (x.Path == ""):
			return at.errorf(field, "a source is either helm or a path")
		case x.Helm != nil:
			if err := x.Helm.validate(at, field+".helm"); err != nil {
				return err
			}
		case path.IsAbs(x.Path):
			return at.errorf(field+".path", "%q must be relative to the bundle's directory", x.Path)
		}
	}
	return nil
}

func (h HelmSource) validate(at locator, field string) error {
	switch {
	case h.Schema != "" && h.Schema != SchemaSkip:
		return at.errorf(field+".schema", "%q is not %q, which is the only word for it", h.Schema, SchemaSkip)
	case h.Chart == "":
		return at.errorf(field+".chart", "a chart is needed: ./directory, oci://…, https://….tgz or a name with repo and version")
	case h.IsAddress():
		return h.validAddress(at, field)
	case h.Digest != "":
		return at.errorf(field+".digest", "belongs to a chart at an https:// address; oci:// takes it as version")
	case h.Repo != "" && h.Version == "":
		return at.errorf(field+".version", "a chart from a repository needs a version")
	}
	return nil
}

var validDigest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func (h HelmSource) validAddress(at locator, field string) error {
	u, err := url.Parse(h.Chart)
	switch {
	case err != nil || u.Host == "" || !strings.HasSuffix(u.Path, ".tgz"):
		return at.errorf(field+".chart", "is no address of a .tgz, such as https://example.com/charts/podinfo-6.5.0.tgz")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return at.errorf(field+".chart", "an address has no user, query or fragment: what proves who asks belongs into the agent's --chart-credentials")
	case h.Repo != "":
		return at.errorf(field+".repo", "the chart is at an address of its own, so there is no repository")
	case h.Version != "":
		return at.errorf(field+".version", "the chart is at an address, which has one version: write digest to pin it")
	case h.Digest != "" && !validDigest.MatchString(h.Digest):
		return at.errorf(field+".digest", "%q is not sha256: and 64 hexadecimal digits", h.Digest)
	}
	return nil
}

func (s BundleSpec) validPatches(at locator) error {
	for i, c := range s.Components {
		if c == "" || path.IsAbs(c) {
			return at.errorf(fmt.Sprintf("spec.components.%d", i), "%q is no directory, relative to the bundle's", c)
		}
	}
	for i, p := range s.Patches {
		field := fmt.Sprintf("spec.patches.%d", i)
		switch {
		case (p.Path == "") == (strings.TrimSpace(p.Patch) == ""):
			return at.errorf(field, "a patch has either its text in patch, or the file's name in path")
		case path.IsAbs(p.Path):
			return at.errorf(field+".path", "%q must be relative to the bundle's directory", p.Path)
		}
		if t := p.Target; t != nil {
			if *t == (PatchTarget{}) {
				return at.errorf(field+".target", "is empty: it would choose every object; name a kind, such as \".*\"")
			}
			for name, expr := range map[string]string{"group": t.Group, "version": t.Version, "kind": t.Kind, "name": t.Name, "namespace": t.Namespace} {
				if _, err := regexp.Compile(expr); err != nil {
					return at.errorf(field+".target."+name, "%q is no regular expression", expr)
				}
			}
		}
	}
	return nil
}

func (a ServiceAccount) validate(at locator) error {
	if a.Namespace == "" || a.Name == "" {
		return at.errorf("spec.serviceAccount", "needs a namespace and a name")
	}
	if err := CheckNamespace(a.Namespace); err != nil {
		return at.impossible("spec.serviceAccount.namespace", err)
	}
	if len(validation.IsDNS1123Subdomain(a.Name)) > 0 {
		return at.errorf("spec.serviceAccount.name", "%q is not a name of lower-case letters, digits, dashes and dots", a.Name)
	}
	return nil
}

func (t Target) validate(at locator, field string, s BundleSpec) error {
	if t.Clusters != nil && len(t.Clusters) == 0 {
		return at.errorf(field+".clusters", "is an empty list: name a cluster, or leave the field out to match by labels alone")
	}
	if err := t.ClusterSelector.validate(at, field+".clusterSelector"); err != nil {
		return err
	}
	if path.IsAbs(t.Overlay) {
		return at.errorf(field+".overlay", "%q must be relative to the bundle's directory", t.Overlay)
	}
	if t.Overlay != "" && len(s.Sources) > 0 {
		return at.errorf(field+".overlay", "an overlay takes the place of one source, and this bundle has a list of them: use variables, or values")
	}
	if len(t.Values) > 0 && !s.HasChart() {
		return at.errorf(field+".values", "values are for charts, and this bundle has no helm source")
	}
	if len(t.Values) > 0 && s.charts() > 1 {
		return at.errorf(field+".values", "values are for one chart, and this bundle has %d", s.charts())
	}
	return nil
}

// unclosed is a step of a path that begins an item of a list and does not end it.
var unclosed = regexp.MustCompile(`/\[[^\]]*$`)

func (d Drift) validate(at locator, field string) error {
	switch d.Mode {
	case "", DriftCorrect, DriftReport, DriftIgnore:
	default:
		return at.errorf(field+".mode", "%q is not one of correct, report, ignore", d.Mode)
	}
	switch d.Extra {
	case "", ExtraIgnore, ExtraReport, ExtraRemove:
	default:
		return at.errorf(field+".extra", "%q is not one of ignore, report, remove", d.Extra)
	}
	for i, r := range d.Ignore {
		f := fmt.Sprintf("%s.ignore.%d", field, i)
		if len(r.Paths) == 0 && len(r.Managers) == 0 {
			return at.errorf(f, "needs paths or managers")
		}
		for j, p := range r.Paths {
			if !strings.HasPrefix(p, "/") {
				return at.errorf(fmt.Sprintf("%s.paths.%d", f, j), "%q is not a JSON pointer: it must begin with /", p)
			}
			if unclosed.MatchString(p) {
				return at.errorf(fmt.Sprintf("%s.paths.%d", f, j), "%q has a [ without its ]: an item of a list is written [name=value]", p)
			}
		}
	}
	return nil
}

func (s BundleSpec) validNamespace(at locator) error {
	const field = "spec.createNamespace"
	switch {
	case s.CreateNamespace == nil:
		return nil
	case s.Namespace.IsZero():
		return at.errorf(field, "needs spec.namespace, which says how the namespace is called")
	}
	for _, key := range slices.Sorted(maps.Keys(s.CreateNamespace.Labels)) {
		value := s.CreateNamespace.Labels[key]
		if len(validation.IsQualifiedName(key)) > 0 || len(validation.IsValidLabelValue(value)) > 0 {
			return at.errorf(field+".labels", "%q: %q is no label that Kubernetes takes", key, value)
		}
	}
	return nil
}

func validTakeOver(at locator, field string, managers []string) error {
	for i, m := range managers {
		if m == "" || m == FieldManager {
			return at.errorf(fmt.Sprintf("%s.%d", field, i), "%q is no other field manager", m)
		}
	}
	return nil
}

func validVariables(at locator, field string, vars map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		if !validVariable.MatchString(name) {
			return at.errorf(field+"."+name, "%q is not a variable's name (letters, digits and _)", name)
		}
	}
	return nil
}
