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
	return &api.Error{Kind: api.Stalled, Reason: "KustomizeFailed", File: j.root, Err: fmt.Errorf("kustomize: %s", tidy(err))}
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
