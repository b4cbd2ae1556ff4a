package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// DecodeFleet reads a fleet.yaml. Like DecodeCluster and DecodeBundle, it is strict:
// one document, a known apiVersion and kind, no unknown field, no impossible value.
// Every error is an *Error with the file, and the line and field where they can be told.
func DecodeFleet(file string, data []byte) (Fleet, error) {
	var f Fleet
	if err := decode(file, data, KindFleet, &f); err != nil {
		return Fleet{}, err
	}
	return f, f.validate(locator{file, data})
}

// DecodeCluster reads a cluster.yaml; see DecodeFleet.
func DecodeCluster(file string, data []byte) (Cluster, error) {
	var c Cluster
	if err := decode(file, data, KindCluster, &c); err != nil {
		return Cluster{}, err
	}
	return c, c.validate(locator{file, data})
}

// DecodeBundle reads a bundle.yaml; see DecodeFleet.
func DecodeBundle(file string, data []byte) (Bundle, error) {
	var b Bundle
	if err := decode(file, data, KindBundle, &b); err != nil {
		return Bundle{}, err
	}
	return b, b.validate(locator{file, data})
}

func decode(file string, data []byte, kind string, into any) error {
	var head struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string `yaml:"kind"`
	}
	if err := yaml.Unmarshal(data, &head); err != nil {
		return yamlError(file, data, err)
	}
	at := locator{file, data}
	if field := emptied(data); field != "" {
		return at.errorf(field, "nothing is below it: that is neither the field's absence nor an empty list or mapping; remove the key, or write what you mean")
	}
	if head.APIVersion != APIVersion {
		return at.errorf("apiVersion", "%q is not %q", head.APIVersion, APIVersion)
	}
	if head.Kind != kind {
		return at.errorf("kind", "%q is not %q, which this file must hold", head.Kind, kind)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(into); err != nil {
		return yamlError(file, data, err)
	}
	if err := dec.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		return at.errorf("", "more than one YAML document")
	}
	return nil
}

// telling are the lists and mappings whose absence means something, mostly "every" or "the agent itself":
// one whose content was commented out must not mean that by accident. A star is any key or index.
var telling = []string{
	"spec.targets", "spec.targets.*", "spec.targets.*.clusters", "spec.targets.*.clusters.*",
	"spec.targets.*.clusterSelector", "spec.targets.*.clusterSelector.matchLabels",
	"spec.targets.*.clusterSelector.matchExpressions", "spec.targets.*.clusterSelector.matchExpressions.*",
	"spec.kustomize", "spec.helm", "spec.sources", "spec.sources.*", "spec.sources.*.helm",
	"spec.createNamespace", "spec.components", "spec.components.*", "spec.patches", "spec.patches.*", "spec.patches.*.target", "spec.serviceAccount", "spec.drift",
	"spec.drift.ignore", "spec.drift.ignore.*", "spec.drift.ignore.*.target", "spec.drift.ignore.*.paths", "spec.drift.ignore.*.managers",
	"spec.defaults.drift", "spec.defaults.drift.ignore", "spec.defaults.drift.ignore.*", "spec.defaults.drift.ignore.*.target",
	"spec.defaults.drift.ignore.*.paths", "spec.defaults.drift.ignore.*.managers",
	"spec.bundles", "spec.bundles.*", "spec.bundleSelector", "spec.bundleSelector.matchLabels",
	"spec.bundleSelector.matchExpressions", "spec.bundleSelector.matchExpressions.*",
	"spec.waves", "spec.waves.*", "spec.waves.*.after", "spec.waves.*.after.*", "spec.waves.*.clusters", "spec.waves.*.clusters.*",
	"spec.waves.*.clusterSelector", "spec.waves.*.clusterSelector.matchLabels",
	"spec.waves.*.clusterSelector.matchExpressions", "spec.waves.*.clusterSelector.matchExpressions.*",
	"spec.waves.*.maxParallel", "spec.waves.*.maxFailures", "spec.waves.*.soak", "spec.waves.*.approve", "spec.paused",
	"spec.windows", "spec.windows.*", "spec.windows.*.clusterSelector", "spec.windows.*.clusterSelector.matchLabels",
	"spec.windows.*.clusterSelector.matchExpressions", "spec.windows.*.clusterSelector.matchExpressions.*", "spec.windows.*.timeZone", "spec.freeze",
	"spec.guards", "spec.suspend", "spec.tenants", "spec.tenants.*", "spec.tenants.*.keys", "spec.tenants.*.keys.*",
}

// emptied returns the first of those that is null; empty if none is.
func emptied(data []byte) string {
	var doc yaml.Node
	if yaml.Unmarshal(data, &doc) != nil || len(doc.Content) == 0 {
		return ""
	}
	patterns := make([][]string, len(telling))
	for i, t := range telling {
		patterns[i] = strings.Split(t, ".")
	}
	return emptiedBelow(doc.Content[0], "", patterns)
}

func emptiedBelow(n *yaml.Node, at string, patterns [][]string) string {
	for i, c := range n.Content {
		key := strconv.Itoa(i)
		if n.Kind == yaml.MappingNode {
			if i%2 == 0 {
				continue
			}
			key = n.Content[i-1].Value
		}
		here, below := matching(patterns, key)
		field := strings.TrimPrefix(at+"."+key, ".")
		if here && c.ShortTag() == "!!null" {
			return field
		}
		if len(below) > 0 {
			if f := emptiedBelow(c, field, below); f != "" {
				return f
			}
		}
	}
	return ""
}

// matching reports whether a pattern ends with a key, and returns what is left of those that go on below it.
func matching(patterns [][]string, key string) (here bool, below [][]string) {
	for _, p := range patterns {
		if p[0] != key && p[0] != "*" {
			continue
		}
		if len(p) == 1 {
			here = true
		} else {
			below = append(below, p[1:])
		}
	}
	return here, below
}

var (
	yamlLine    = regexp.MustCompile(`line (\d+): `)
	yamlUnknown = regexp.MustCompile(`field (\S+) not found in type \S+`)
)

// yamlError turns the decoder's words into file, line and field.
func yamlError(file string, data []byte, err error) error {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	msg = strings.TrimPrefix(msg, "unmarshal errors:\n  ")
	msg, _, _ = strings.Cut(msg, "\n")
	e := &Error{Kind: Stalled, Reason: "BadFleetFile", File: file}
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		msg = strings.Replace(msg, m[0], "", 1)
	}
	if m := yamlUnknown.FindStringSubmatch(msg); m != nil {
		e.Field, msg = locator{file, data}.path(m[1], e.Line), "unknown field"
	}
	e.Err = errors.New(msg)
	return e
}

// locator makes errors about fields, with their line.
type locator struct {
	file string
	data []byte
}

// errorf reports a field by its path: keys and list indexes separated by dots.
func (l locator) errorf(field, format string, args ...any) error {
	return &Error{
		Kind: Stalled, Reason: "BadFleetFile", File: l.file, Line: l.line(field), Field: field,
		Err: fmt.Errorf(format, args...),
	}
}

// name refuses what is no name of flotilla's own.
func (l locator) name(field, name string) error {
	if ValidName(name) {
		return nil
	}
	return l.errorf(field, "%q is not a name of at most 63 lower-case letters, digits and dashes", name)
}

// impossible reports a name that nothing can have. Variables are no part of the files that are flotilla's own.
func (l locator) impossible(field string, err error) error {
	e := &Error{Kind: Stalled, Reason: ReasonImpossibleName, File: l.file, Line: l.line(field), Field: field, Err: err}
	if strings.Contains(err.Error(), "${") {
		e.Hint = "variables are put into manifests only, and not into this file"
	}
	return e
}

// line finds the line of a field, or of its nearest parent that is written down.
func (l locator) line(field string) int {
	var doc yaml.Node
	if yaml.Unmarshal(l.data, &doc) != nil || len(doc.Content) == 0 {
		return 0
	}
	n, line := doc.Content[0], doc.Content[0].Line
	if field == "" {
		return line
	}
	for key := range strings.SplitSeq(field, ".") {
		k, next := child(n, key)
		if next == nil {
			break
		}
		n, line = next, k.Line
	}
	return line
}

// path returns the whole path of the key that is written on a line; the key alone where that could be several.
func (l locator) path(key string, line int) string {
	var doc yaml.Node
	if yaml.Unmarshal(l.data, &doc) != nil {
		return key
	}
	var found []string
	var walk func(n *yaml.Node, at string)
	walk = func(n *yaml.Node, at string) {
		for i, c := range n.Content {
			switch {
			case n.Kind == yaml.DocumentNode:
				walk(c, "")
			case n.Kind == yaml.SequenceNode:
				walk(c, at+strconv.Itoa(i)+".")
			case n.Kind == yaml.MappingNode && i%2 == 1:
				k := n.Content[i-1]
				if k.Value == key && k.Line == line {
					found = append(found, at+key)
				}
				walk(c, at+k.Value+".")
			}
		}
	}
	walk(&doc, "")
	if len(found) != 1 {
		return key
	}
	return found[0]
}

func child(n *yaml.Node, key string) (at, value *yaml.Node) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				return n.Content[i], n.Content[i+1]
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(key); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i], n.Content[i]
		}
	default: // a scalar has no children
	}
	return nil, nil
}
