package kustomize

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/manifest"
)

// located turns an error of a build, which names hardly more than a relative file, into one with the file,
// line and field that caused it, as far as they can be found.
func (j *jail) located(err error) error {
	msg := err.Error()
	if m := unknownField.FindStringSubmatch(msg); m != nil {
		for _, file := range slices.Backward(j.read) {
			if n := j.key(file, m[1]); n != nil {
				return refusal(file, n, m[1], "unknown field %q", m[1])
			}
		}
	}
	// A file that cannot be read as what it is read for is named, and it is one of the last that were read.
	for _, file := range slices.Backward(j.read) {
		if !strings.Contains(msg, path.Base(file)) || slices.Contains(Names(), path.Base(file)) {
			continue
		}
		data, readErr := j.files.ReadFile(file)
		if readErr != nil {
			continue
		}
		docs, found := manifest.Parse(file, data)
		if found == nil && strings.Contains(msg, "accumulating resources from") {
			_, found = manifest.Objects(docs, nil)
		}
		if found != nil {
			return found
		}
	}
	if m := patchPath.FindStringSubmatch(msg); m != nil {
		if at, op := j.operation(m[1]); op != "" {
			return refusalAt(at, "path", "the patch cannot %s %s: what it is for has no such path", op, m[1])
		}
	}
	if m := resourceID.FindStringSubmatch(msg); m != nil {
		kind, name := m[2], m[3]
		if at := j.declared(kind, name); m[1] == "already registered id" && len(at) > 1 {
			return refusalAt(at[len(at)-1], "metadata.name", "%s/%s is also in %s:%d", kind, name, at[0].file, at[0].line)
		} else if m[1] == "no matches for Id" && len(at) > 0 {
			return refusalAt(at[len(at)-1], "metadata.name", "the patch of %s/%s matches no resource", kind, name)
		}
	}
	return &api.Error{Kind: api.Stalled, Reason: "KustomizeFailed", File: j.root, Err: fmt.Errorf("kustomize: %s", tidy(err))}
}

// patchPath is how a JSON patch says that a path is not there.
var patchPath = regexp.MustCompile(`(?:missing path|missing key|does not exist|nonexistent key|invalid index referenced|doc is missing)[^/\n]*?:? "?(/[^\s":]+)`)

// operation finds the operation of a JSON patch on a path, in the patches of kustomizations and in files of their own.
func (j *jail) operation(on string) (at place, op string) {
	for _, file := range slices.Backward(j.read) {
		text, err := j.files.ReadFile(file)
		if err != nil {
			continue
		}
		docs, err := manifest.Parse(file, text)
		if err != nil || len(docs) == 0 {
			continue
		}
		if line, op := operationIn(docs[0].Node, on, 0); op != "" {
			return place{file, line}, op
		}
		for _, field := range []string{"patches", "patchesJson6902"} {
			for _, item := range items(manifest.Get(docs[0].Node, field)) {
				p := manifest.Get(item, "patch")
				if p == nil {
					continue
				}
				inner, err := manifest.Parse(file, []byte(p.Value))
				if err != nil || len(inner) == 0 {
					continue
				}
				before := p.Line - 1
				if p.Style == yaml.LiteralStyle || p.Style == yaml.FoldedStyle {
					before++ // the text begins behind the line with the |
				}
				if line, op := operationIn(inner[0].Node, on, before); op != "" {
					return place{file, line}, op
				}
			}
		}
	}
	return place{}, ""
}

// operationIn finds an operation in a list of them.
func operationIn(list *yaml.Node, on string, before int) (line int, op string) {
	for _, item := range items(list) {
		p, o := manifest.Get(item, "path"), manifest.Get(item, "op")
		if p != nil && o != nil && p.Value == on {
			return before + p.Line, o.Value
		}
	}
	return 0, ""
}

// resourceID is how kustomize names a resource in the errors that are told better: Deployment.v1.apps/web.[noNs].
var resourceID = regexp.MustCompile(`(already registered id|no matches for Id):? ([A-Za-z0-9]+)\.[^/\s]*/([^\s;]+)\.\S*`)

// place is where something is written.
type place struct {
	file string
	line int
}

func refusalAt(at place, field, format string, args ...any) error {
	return refusal(at.file, &yaml.Node{Line: at.line}, field, format, args...)
}

// declared finds where the files that were read, and the patches in kustomizations, name an object.
func (j *jail) declared(kind, name string) []place {
	var out []place
	look := func(file string, text []byte, line int) {
		docs, err := manifest.Parse(file, text)
		if err != nil {
			return
		}
		for _, d := range docs {
			k, n := manifest.Get(d.Node, "kind"), manifest.Get(d.Node, "metadata", "name")
			if k == nil || n == nil || k.Value != kind || n.Value != name {
				continue
			}
			at := place{file, n.Line}
			if line > 0 {
				at.line = line // of the text in the kustomization
			}
			out = append(out, at)
		}
	}
	for _, file := range j.read {
		text, err := j.files.ReadFile(file)
		if err != nil {
			continue
		}
		if !slices.Contains(Names(), path.Base(file)) {
			look(file, text, 0)
			continue
		}
		if docs, err := manifest.Parse(file, text); err == nil && len(docs) > 0 {
			for _, item := range items(manifest.Get(docs[0].Node, "patches")) {
				if p := manifest.Get(item, "patch"); p != nil {
					look(file, []byte(p.Value), p.Line)
				}
			}
		}
	}
	return out
}

var unknownField = regexp.MustCompile(`unknown field "([^"]+)"`)

// key finds a key anywhere in a kustomization file; nil in any other file.
func (j *jail) key(file, name string) *yaml.Node {
	if !slices.Contains(Names(), path.Base(file)) {
		return nil
	}
	data, err := j.files.ReadFile(file)
	if err != nil {
		return nil
	}
	docs, err := manifest.Parse(file, data)
	if err != nil || len(docs) == 0 {
		return nil
	}
	return keyIn(docs[0].Node, name)
}

func keyIn(n *yaml.Node, name string) *yaml.Node {
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && c.Value == name {
			return c
		}
		if found := keyIn(c, name); found != nil {
			return found
		}
	}
	return nil
}

// Relocate adds the line to an error about a resource, where the build lost it:
// it is that of the same error about the file that the resource came from.
func Relocate(err error, files Files) {
	e, ok := errors.AsType[*api.Error](err)
	if !ok || e.Line > 0 || e.File == "" {
		return
	}
	data, readErr := files.ReadFile(e.File)
	if readErr != nil {
		return
	}
	docs, parseErr := manifest.Parse(e.File, data)
	if parseErr != nil {
		return
	}
	_, again := manifest.Objects(docs, nil)
	if in, ok := errors.AsType[*api.Error](again); ok && in.Err.Error() == e.Err.Error() {
		e.Line = in.Line
	}
}

// tidy shortens kustomize's chain of wrapped messages to what helps.
func tidy(err error) string {
	msg := err.Error()
	// It first tries each directory as a file, and tells of that, too.
	if i := strings.LastIndex(msg, errDirectory.Error()+"': "); i >= 0 {
		msg = msg[i+len(errDirectory.Error())+3:]
	}
	msg = strings.Join(strings.Fields(msg), " ")
	if len(msg) > 600 {
		msg = msg[:600] + "…"
	}
	return msg
}

// Line is where a file of the repository declares an object, 0 if it cannot be told; see Declared.
func Line(file string, text []byte, kind, name string) int {
	docs, err := manifest.Parse(file, text)
	if err != nil {
		return 0
	}
	if n := Declared(docs, kind, name); n != nil {
		return n.Line
	}
	return 0
}

// Declared is what declares an object in a file of the repository, nil if it cannot be told: a document of its kind,
// or a generator in a kustomization. Prefixes and suffixes of the name may have been added.
func Declared(docs []manifest.Document, kind, name string) *yaml.Node {
	var best *yaml.Node
	length := 0
	look := func(n, called *yaml.Node) {
		if called != nil && strings.Contains(name, called.Value) && len(called.Value) > length {
			best, length = n, len(called.Value)
		}
	}
	for _, d := range docs {
		for _, field := range map[string][]string{"ConfigMap": {"configMapGenerator"}, "Secret": {"secretGenerator"}}[kind] {
			for _, item := range items(manifest.Get(d.Node, field)) {
				look(item, manifest.Get(item, "name"))
			}
		}
		for _, n := range append(items(manifest.Get(d.Node, "items")), d.Node) {
			if k := manifest.Get(n, "kind"); k != nil && k.Value == kind {
				look(n, manifest.Get(n, "metadata", "name"))
			}
		}
	}
	return best
}
