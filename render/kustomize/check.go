package kustomize

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/manifest"
)

// refusedFields are those of a kustomization that would run or fetch something, or poison later builds.
var refusedFields = map[string]string{
	"helmCharts":                  "Helm inflation runs an external program: make the chart a bundle of its own",
	"helmChartInflationGenerator": "Helm inflation runs an external program: make the chart a bundle of its own",
	"helmGlobals":                 "Helm inflation runs an external program: make the chart a bundle of its own",
}

// listed are the fields that list resources: files or directories that must be there.
var listed = []string{"resources", "components", "bases"}

// loadedLists are the other fields that hold names of files, or inline documents.
var loadedLists = []string{
	"crds", "configurations", "generators", "transformers", "validators", "patchesStrategicMerge",
}

func refusal(file string, n *yaml.Node, field, format string, args ...any) *api.Error {
	e := &api.Error{Kind: api.Stalled, Reason: "KustomizeFailed", File: file, Field: field, Err: fmt.Errorf(format, args...)}
	if n != nil {
		e.Line = n.Line
	}
	return e
}

// kustomization checks a kustomization file, and asks for origins in the one that is built.
func (j *jail) kustomization(file string, data []byte) ([]byte, error) {
	docs, err := manifest.Parse(file, data)
	if err != nil {
		return nil, err
	}
	if len(docs) != 1 || docs[0].Node.Kind != yaml.MappingNode {
		if len(docs) == 0 {
			return data, nil // kustomize's own words for an empty file are good
		}
		return nil, refusal(file, nil, "", "a kustomization is one YAML document")
	}
	if _, err := docs[0].Value(); err != nil { // duplicate keys, unbounded aliases
		return nil, err
	}
	root := docs[0].Node
	for field, why := range refusedFields {
		if n := manifest.Get(root, field); n != nil && len(n.Content) > 0 {
			return nil, refusal(file, n, field, "is not supported: %s", why)
		}
	}
	if err := j.names(file, root); err != nil {
		return nil, err
	}
	if file == j.root && manifest.Get(root, "buildMetadata") == nil && root.Style&yaml.FlowStyle == 0 {
		j.origins = true
		data = append(bytes.TrimRight(bytes.Clone(data), "\n"), "\nbuildMetadata: [originAnnotations]\n"...)
	}
	return data, nil
}

// names checks every file name in a kustomization.
func (j *jail) names(file string, root *yaml.Node) error {
	if err := j.openAPI(file, manifest.Get(root, "openapi")); err != nil {
		return err
	}
	for _, field := range listed {
		for _, n := range items(manifest.Get(root, field)) {
			if err := j.local(file, field, n); err != nil {
				return err
			}
			if err := j.there(file, field, n, n.Value); err != nil {
				return err
			}
		}
	}
	for _, field := range loadedLists {
		for _, n := range items(manifest.Get(root, field)) {
			if strings.Contains(n.Value, "\n") {
				if err := j.check(file, []byte(n.Value)); err != nil {
					return err
				}
				continue
			}
			if err := j.local(file, field, n); err != nil {
				return err
			}
		}
	}
	for _, field := range []string{"patches", "patchesJson6902", "replacements", "configMapGenerator", "secretGenerator"} {
		if err := j.localBelow(file, field, manifest.Get(root, field)); err != nil {
			return err
		}
		if err := j.exist(file, field, manifest.Get(root, field)); err != nil {
			return err
		}
	}
	return nil
}

// exist checks that the files are there which the items of a kustomization's field name.
func (j *jail) exist(file, field string, list *yaml.Node) error {
	for _, item := range items(list) {
		for _, key := range []string{"path", "env", "files", "envs"} {
			n := manifest.Get(item, key)
			names := items(n)
			if n != nil && n.Kind == yaml.ScalarNode && (key == "path" || key == "env") && n.ShortTag() != "!!null" {
				names = []*yaml.Node{n}
			}
			for _, v := range names {
				name := v.Value
				if _, of, ok := strings.Cut(name, "="); ok && key == "files" {
					name = of
				}
				if v.Kind != yaml.ScalarNode || name == "" || path.IsAbs(name) {
					continue
				}
				if err := j.there(file, field+"."+key, v, name); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// there refuses the name of a file or directory that is not there, or that may not be read.
func (j *jail) there(file, field string, n *yaml.Node, name string) error {
	_, err := j.files.Stat(rel(path.Join("/", path.Dir(file), name)))
	if e, ok := errors.AsType[*api.Error](err); ok {
		at := refusal(file, n, field, "%w", e.Err)
		at.Kind, at.Reason, at.Hint = e.Kind, e.Reason, e.Hint
		return at
	}
	if err != nil {
		return refusal(file, n, field, "%q does not exist", name)
	}
	return nil
}

func items(n *yaml.Node) []*yaml.Node {
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	return n.Content
}

// localBelow checks the values of every key that kustomize loads a file from.
func (j *jail) localBelow(file, field string, n *yaml.Node) error {
	if n == nil {
		return nil
	}
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, v := n.Content[i].Value, n.Content[i+1]
			switch key {
			case "path", "env":
				if err := j.local(file, field+"."+key, v); err != nil {
					return err
				}
			case "files", "envs", "paths", "resources", "transformers", "generators":
				for _, item := range items(v) {
					if err := j.local(file, field+"."+key, item); err != nil {
						return err
					}
				}
			case "exec", "container", "starlark":
				if field == "function" {
					return refusal(file, v, key, "functions are not run")
				}
			}
		}
	}
	for _, c := range n.Content {
		if err := j.localBelow(file, field, c); err != nil {
			return err
		}
	}
	return nil
}

// local refuses what kustomize would take for an address of another machine.
func (j *jail) local(file, field string, n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return nil
	}
	name := n.Value
	if key, value, ok := strings.Cut(name, "="); ok && !strings.Contains(key, "/") {
		name = value // "key=file" of a generator
	}
	if j.hasAt(file, name) && !strings.ContainsAny(n.Value, ":/?") {
		return nil
	}
	for _, s := range []string{n.Value, name} {
		if remote(s) {
			return refusal(file, n, field, "%q is remote: only files of the fleet repository are read", redacted(s))
		}
	}
	return nil
}

func remote(name string) bool {
	l := strings.ToLower(strings.TrimSpace(name))
	first, _, _ := strings.Cut(l, "/")
	switch {
	case strings.Contains(l, "://"), strings.HasPrefix(l, "http:"), strings.HasPrefix(l, "https:"),
		strings.HasPrefix(l, "git::"), strings.HasPrefix(l, "gh:"), strings.HasPrefix(l, "file:"), strings.HasPrefix(l, "ssh:"),
		strings.Contains(first, "@"), strings.Contains(l, "?ref="), strings.Contains(l, "?version="):
		return true
	}
	return first == "github.com" || strings.HasPrefix(first, "github.com:") || first == "www.github.com"
}

// hasAt reports whether a name with an @ in it is that of something beside a kustomization, such as getty@tty1.service.
// Kustomize reads it from there: nothing in it says a host or a path on one.
func (j *jail) hasAt(file, name string) bool {
	return !strings.ContainsAny(name, ":/?") && strings.Contains(name, "@") && j.Exists(path.Join("/", path.Dir(file), name))
}

// openAPI lets a build bring a schema of its own from a file of the repository.
func (j *jail) openAPI(file string, n *yaml.Node) error {
	if n == nil || n.Kind != yaml.MappingNode || len(n.Content) == 0 {
		return nil
	}
	if err := j.localBelow(file, "openapi", n); err != nil {
		return err
	}
	if p := manifest.Get(n, "path"); p != nil && !j.Exists(path.Join("/", path.Dir(file), p.Value)) {
		return refusal(file, p, "openapi.path", "%q does not exist", p.Value)
	}
	j.schema = true
	return nil
}

// redacted leaves out credentials of an address.
func redacted(s string) string {
	if i := strings.LastIndex(s, "@"); i >= 0 {
		if j := strings.Index(s, "://"); j >= 0 && j < i {
			return s[:j+3] + "…" + s[i:]
		}
	}
	return s
}

// check refuses other files that would make kustomize load, or run, more than it should:
// configurations of its builtin plugins, functions, and documents that expand without bound.
func (j *jail) check(file string, data []byte) error {
	aliases := bytes.IndexByte(data, '&') >= 0 && bytes.IndexByte(data, '*') >= 0
	plugin := bytes.Contains(data, []byte("builtin"))
	function := bytes.Contains(data, []byte("config.kubernetes.io/function")) || bytes.Contains(data, []byte("config.k8s.io/function"))
	if !aliases && !plugin && !function {
		return nil
	}
	docs, err := manifest.Parse(file, data)
	if err != nil {
		return nil //nolint:nilerr // not YAML: the input of a generator, or an error that kustomize tells
	}
	for _, d := range docs {
		if aliases {
			if _, err := d.Value(); err != nil {
				return err
			}
		}
		annotations := manifest.Get(d.Node, "metadata", "annotations")
		for _, key := range []string{"config.kubernetes.io/function", "config.k8s.io/function"} {
			if n := manifest.Get(annotations, key); n != nil {
				return refusal(file, n, "metadata.annotations."+key, "functions are not run")
			}
		}
		if v := manifest.Get(d.Node, "apiVersion"); v != nil && v.Value == "builtin" {
			if k := manifest.Get(d.Node, "kind"); k != nil && strings.HasPrefix(k.Value, "HelmChart") {
				return refusal(file, k, "kind", "%s", refusedFields["helmCharts"])
			}
			if err := j.localBelow(file, "", d.Node); err != nil {
				return err
			}
		}
	}
	return nil
}
