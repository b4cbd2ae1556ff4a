package drift

import (
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/flotilla-fleet/flotilla/api"
	paths "github.com/flotilla-fleet/flotilla/api/fieldpath"
)

// rule is an ignore rule that concerns the object.
type rule struct {
	number   int
	patterns []paths.Pattern
	managers []string
}

type rules []rule

// rulesFor compiles the rules whose target the object is.
func rulesFor(in Input) rules {
	o := in.Desired
	if o == nil {
		o = in.Live
	}
	ref := api.RefOf(o)
	var out rules
	for i, r := range in.Spec.Ignore {
		if !r.Target.Matches(ref) {
			continue
		}
		c := rule{number: i + 1, managers: r.Managers}
		for _, p := range r.Paths {
			c.patterns = append(c.patterns, paths.Parse(p))
		}
		out = append(out, c)
	}
	return out
}

// everything says which rule is for the whole object, its absence included; empty if none is.
func (rs rules) everything() string {
	for _, r := range rs {
		if slices.ContainsFunc(r.patterns, func(p paths.Pattern) bool { return len(p) == 0 }) {
			return fmt.Sprintf("ignore rule %d, for the whole object", r.number)
		}
	}
	return ""
}

// ignores says which rule leaves a field alone that these managers claim; empty if none does.
func (rs rules) ignores(t trail, managers []string) string {
	if ourLabels(t) {
		return "" // without them the object would not be ours any more
	}
	for _, r := range rs {
		for _, p := range r.patterns {
			if p.Covers(t) {
				return fmt.Sprintf("ignore rule %d", r.number)
			}
		}
		for _, m := range managers {
			if m != "" && slices.Contains(r.managers, m) {
				return fmt.Sprintf("ignore rule %d: manager %s", r.number, m)
			}
		}
	}
	return ""
}

// ourLabels reports whether a field is one of the labels by which an object is known as ours, or holds them.
func ourLabels(t trail) bool {
	switch len(t) {
	case 0:
		return true
	case 1:
		return t.Under("metadata")
	case 2:
		return t.Under("metadata", "labels")
	}
	return api.OwnLabel(t.Label())
}

// RuleFor is the ignore rule that would end an episode: this object's fields, and no more.
func RuleFor(e api.Episode) api.IgnoreRule {
	r := api.IgnoreRule{Target: api.IgnoreTarget{
		Group: e.Object.Group, Kind: e.Object.Kind, Namespace: e.Object.Namespace, Name: e.Object.Name,
	}}
	for _, f := range e.Fields {
		if !api.OwnLabel(paths.Label(f.Path)) {
			r.Paths = append(r.Paths, f.Path)
		}
	}
	if len(e.Fields) == 0 {
		r.Paths = []string{"/"}
	}
	return r
}

// RuleYAML is the rule as it is written below spec of a bundle.yaml.
func RuleYAML(r api.IgnoreRule) string {
	var doc struct {
		Drift struct {
			Ignore []api.IgnoreRule `yaml:"ignore"`
		} `yaml:"drift"`
	}
	doc.Drift.Ignore = []api.IgnoreRule{r}
	b, err := yaml.Marshal(doc)
	if err != nil {
		return "" // strings always marshal
	}
	return string(b)
}
