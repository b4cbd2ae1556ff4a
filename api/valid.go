package api

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/util/validation"
)

// ReasonBadSuspension is the reason of errors about a Suspension that cannot be understood.
const ReasonBadSuspension = "BadSuspension"

// ReasonImpossibleName is the reason of errors about a name that no API server has.
const ReasonImpossibleName = "ImpossibleName"

// CheckName reports why no object can have a name. Names become parts of URLs,
// and what most kinds allow is narrower: the API server says that.
func CheckName(name string) error {
	return checkSegment("name", name)
}

// CheckNamespace reports why no namespace can have a name. The empty name is none.
func CheckNamespace(name string) error {
	if msgs := validation.IsDNS1123Label(name); len(msgs) > 0 {
		return impossible("namespace", name, "a namespace has at most 63 lower-case letters, digits and dashes")
	}
	return nil
}

// CheckGroup reports why no API group can have a name. The empty name is that of the core group.
func CheckGroup(name string) error {
	if name == "" || len(validation.IsDNS1123Subdomain(name)) == 0 {
		return nil
	}
	return impossible("group", name, "an API group is a DNS name in lower case")
}

// CheckVersion reports why no API group can have a version.
func CheckVersion(version string) error {
	if len(validation.IsDNS1035Label(version)) > 0 {
		return impossible("version", version, "a version is such as v1 or v1beta2")
	}
	return nil
}

// CheckKind reports why no kind can have a name.
func CheckKind(kind string) error {
	if len(validation.IsDNS1035Label(strings.ToLower(kind))) > 0 {
		return impossible("kind", kind, "a kind is a word of letters and digits")
	}
	return nil
}

// CheckResource reports why no resource, or subresource, can have a name.
func CheckResource(name string) error { return checkSegment("resource", name) }

// Check reports why no API server has such an object. The version and the namespace may be empty.
func (r ObjectRef) Check() error {
	errs := []error{CheckGroup(r.Group), CheckKind(r.Kind), CheckName(r.Name)}
	if r.Version != "" {
		errs = append(errs, CheckVersion(r.Version))
	}
	if r.Namespace != "" {
		errs = append(errs, CheckNamespace(r.Namespace))
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// checkSegment refuses what cannot be one segment of a URL's path, and what cannot be printed.
func checkSegment(what, s string) error {
	switch msgs := content.IsPathSegmentName(s); {
	case s == "":
		return impossible(what, s, "it is empty")
	case len(msgs) > 0:
		return impossible(what, s, strings.Join(msgs, ", "))
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return impossible(what, s, "it has characters that cannot be printed")
	}
	return nil
}

// longestQuoted bounds how much of an impossible name its error repeats.
const longestQuoted = 100

func impossible(what, s, why string) error {
	if len(s) > longestQuoted {
		s = strings.ToValidUTF8(s[:longestQuoted], "") + "…"
	}
	return &Error{Kind: Stalled, Reason: ReasonImpossibleName, Err: fmt.Errorf("%q cannot be a %s: %s", s, what, why)}
}

// CheckNames reports a name in the suspension that nothing can have: its own, unless it is to be made up,
// or that of a bundle or an object in its scope.
func (s Suspension) CheckNames() error {
	if s.Name != "" {
		if err := CheckSuspensionName(s.Name); err != nil {
			return err
		}
	}
	for _, b := range s.Scope.Bundles {
		if !ValidName(b) {
			return impossible("bundle", b, "a bundle's name has at most 63 lower-case letters, digits and dashes")
		}
	}
	for _, o := range s.Scope.Objects {
		if err := o.Check(); err != nil {
			return err
		}
	}
	return nil
}

// CheckSuspensionName reports why no Suspension can have a name.
func CheckSuspensionName(name string) error {
	if len(validation.IsDNS1123Subdomain(name)) > 0 {
		return impossible("Suspension's name", name, "it has lower-case letters, digits, dashes and dots")
	}
	return nil
}
