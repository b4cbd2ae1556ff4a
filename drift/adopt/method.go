package adopt

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/api/fieldpath"
	"github.com/flotilla-fleet/flotilla/internal/yamledit"
)

// method is one way to say the change. Whether it is right is for verify to find out.
type method struct {
	name string
	// edit returns the files as they would be.
	edit func() (map[string][]byte, error)
}

// object selects the manifest of an object. A manifest without a namespace has whichever it is given.
func object(ref api.ObjectRef) yamledit.Selector {
	return func(root any) bool {
		m, _ := root.(map[string]any)
		meta, _ := m["metadata"].(map[string]any)
		version, _ := m["apiVersion"].(string)
		group := ""
		if i := strings.LastIndex(version, "/"); i >= 0 {
			group = version[:i]
		}
		ns := meta["namespace"]
		return m["kind"] == ref.Kind && group == ref.Group && meta["name"] == ref.Name && (ns == nil || ns == "" || ns == ref.Namespace)
	}
}

// plainMethods edit the manifest itself.
func plainMethods(tree api.Tree, ref api.ObjectRef, b api.RenderedBundle, changes []yamledit.Change) []method {
	file := b.Origin[ref.ID()]
	return []method{{"edit " + file, func() (map[string][]byte, error) {
		data, err := tree.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if bytes.Contains(data, []byte("${")) && b.Spec.Substitute {
			if err := variable(data, object(ref), changes); err != nil {
				return nil, err
			}
		}
		out, err := yamledit.Edit(data, object(ref), changes)
		return map[string][]byte{file: out}, err
	}}}
}

// variable refuses to put a value in the place of ${…}.
func variable(data []byte, which yamledit.Selector, changes []yamledit.Change) error {
	docs, err := yamledit.Parse(data)
	if err != nil {
		return err
	}
	at, err := yamledit.Select(docs, which)
	if err != nil {
		return err
	}
	root, err := docs[at].Value()
	if err != nil {
		return err
	}
	for _, c := range changes {
		v, _ := fieldpath.Get(root, c.Path)
		if s, ok := v.(string); ok && strings.Contains(strings.ReplaceAll(s, "$${", ""), "${") {
			return fmt.Errorf("%s is written as %q: change the variable in cluster.yaml or fleet.yaml", c, s)
		}
		if s, ok := c.Value.(string); ok && strings.Contains(s, "${") {
			return fmt.Errorf("%s would be taken for a variable", c)
		}
	}
	return nil
}

// kustomization is the overlay's, with what is known of the object.
type kustomization struct {
	tree   api.Tree
	file   string
	dir    string
	ref    api.ObjectRef
	object map[string]any // as rendered
	origin string
	body   struct {
		Resources []string
		Patches   []struct{ Path string }
		Images    []struct{ Name, NewName, NewTag, Digest string }
		Replicas  []struct{ Name string }
	}
}

// kustomizeMethods say it where the overlay says it already, and everything else in a patch of the overlay.
func kustomizeMethods(tree api.Tree, e api.Episode, o map[string]any, b api.RenderedBundle, changes []yamledit.Change) []method {
	k := &kustomization{
		tree: tree, file: b.Kustomization, dir: path.Dir(b.Kustomization), ref: e.Object, object: o, origin: b.Origin[e.Object.ID()],
	}
	try := func(name string, patch func(*edits, []yamledit.Change) error) method {
		return method{name, func() (map[string][]byte, error) {
			data, err := tree.ReadFile(k.file)
			if err != nil {
				return nil, err
			}
			if err := yaml.Unmarshal(data, &k.body); err != nil {
				return nil, err
			}
			es := &edits{tree: tree, files: map[string][]byte{}}
			rest, err := k.inPlace(es, changes)
			if err != nil {
				return nil, err
			}
			if len(rest) > 0 {
				if err := patch(es, rest); err != nil {
					return nil, err
				}
			}
			return es.files, nil
		}}
	}
	return []method{
		// kustomize tells a resource by the namespace that its own file gives it, which may be none.
		try("edit "+k.dir, func(es *edits, cs []yamledit.Change) error { return k.mergePatch(es, cs, "") }),
		try("edit "+k.dir+", with the namespace", func(es *edits, cs []yamledit.Change) error {
			return k.mergePatch(es, cs, "  namespace: "+k.ref.Namespace+"\n")
		}),
		try("add a JSON patch to "+k.dir, k.jsonPatch),
	}
}

// edits are files as they would be.
type edits struct {
	tree  api.Tree
	files map[string][]byte
}

func (es *edits) read(name string) ([]byte, error) {
	if b, ok := es.files[name]; ok {
		return b, nil
	}
	return es.tree.ReadFile(name)
}

func (es *edits) apply(name string, which yamledit.Selector, changes ...yamledit.Change) error {
	data, err := es.read(name)
	if err != nil {
		return err
	}
	out, err := yamledit.Edit(data, which, changes)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	es.files[name] = out
	return nil
}

// inPlace edits what the overlay says itself: an entry of replicas or images, a patch, one of its own manifests.
// It returns what is left.
func (k *kustomization) inPlace(es *edits, changes []yamledit.Change) (rest []yamledit.Change, err error) {
	for _, c := range changes {
		done := false
		for _, try := range []func(*edits, yamledit.Change) (bool, error){k.replicas, k.image, k.existing} {
			if done, err = try(es, c); done || err != nil {
				break
			}
		}
		if err != nil {
			return nil, err
		}
		if !done {
			rest = append(rest, c)
		}
	}
	return rest, nil
}

// field is a change in the kustomization itself.
func field(value any, pathText string) yamledit.Change {
	return yamledit.Change{Path: fieldpath.Parts(pathText), Text: pathText, Value: value}
}

func (k *kustomization) replicas(es *edits, c yamledit.Change) (bool, error) {
	for i, r := range k.body.Replicas {
		if c.Text == "/spec/replicas" && !c.Remove && r.Name == k.ref.Name {
			return true, es.apply(k.file, yamledit.First, field(c.Value, fmt.Sprintf("/replicas/%d/count", i)))
		}
	}
	return false, nil
}

func (k *kustomization) image(es *edits, c yamledit.Change) (bool, error) {
	live, ok := c.Value.(string)
	now, _ := fieldpath.Get(k.object, c.Path)
	was, isText := now.(string)
	if !ok || !isText || c.Path[len(c.Path)-1].Name != "image" {
		return false, nil
	}
	repo, tag, digest := splitImage(live)
	oldRepo, _, _ := splitImage(was)
	for i, im := range k.body.Images {
		if im.NewName != oldRepo && (im.NewName != "" || im.Name != oldRepo) {
			continue
		}
		at := fmt.Sprintf("/images/%d/", i)
		var cs []yamledit.Change
		if repo != oldRepo {
			cs = append(cs, field(repo, at+"newName"))
		}
		for _, f := range []struct{ name, was, now string }{{"newTag", im.NewTag, tag}, {"digest", im.Digest, digest}} {
			switch {
			case f.now != "":
				cs = append(cs, field(f.now, at+f.name))
			case f.was != "":
				cs = append(cs, yamledit.Change{Path: fieldpath.Parts(at + f.name), Text: at + f.name, Remove: true})
			}
		}
		return true, es.apply(k.file, yamledit.First, cs...)
	}
	return false, nil
}

// splitImage takes an image's reference apart.
func splitImage(s string) (repo, tag, digest string) {
	s, digest, _ = strings.Cut(s, "@")
	if i := strings.LastIndex(s, ":"); i > strings.LastIndex(s, "/") {
		return s[:i], s[i+1:], digest
	}
	return s, "", digest
}

// existing edits the last file of the overlay that says the field: a patch, or the object's own manifest.
func (k *kustomization) existing(es *edits, c yamledit.Change) (bool, error) {
	var files []string
	for _, v := range slices.Backward(k.body.Patches) {
		if p := v.Path; p != "" {
			files = append(files, path.Join(k.dir, p))
		}
	}
	for _, r := range k.body.Resources {
		if f := path.Join(k.dir, r); f == k.origin && path.Dir(f) == k.dir {
			files = append(files, f)
		}
	}
	for _, f := range files {
		data, err := es.read(f)
		if err != nil {
			continue
		}
		docs, err := yamledit.Parse(data)
		if err != nil {
			continue
		}
		at, err := yamledit.Select(docs, object(k.ref))
		if err != nil {
			continue
		}
		root, err := docs[at].Value()
		if err != nil {
			continue
		}
		if _, says := fieldpath.Get(root, c.Path); !says && f != k.origin {
			continue
		}
		if c.Remove && f != k.origin {
			continue // the base may say it too: a patch must take it away
		}
		return true, es.apply(f, object(k.ref), c)
	}
	return false, nil
}

// patchFile is the name of the overlay's file for what is adopted of the object.
func (k *kustomization) patchFile(suffix string) string {
	kind := strings.ToLower(k.ref.Kind)
	name := strings.Map(func(r rune) rune {
		if r == ':' || r == '/' {
			return '-'
		}
		return r
	}, k.ref.Name)
	return "adopted-" + kind + "-" + name + suffix
}

// list adds a patch to the kustomization, unless it is there.
func (k *kustomization) list(es *edits, file string, target map[string]any) error {
	for _, p := range k.body.Patches {
		if p.Path == file {
			return nil
		}
	}
	item := map[string]any{"path": file}
	if target != nil {
		item["target"] = target
	}
	data, err := es.read(k.file)
	if err != nil {
		return err
	}
	var top map[string]any
	if err := yaml.Unmarshal(data, &top); err != nil {
		return err
	}
	if _, there := top["patches"]; there {
		// An item that tells itself by its path is added at the end.
		return es.apply(k.file, yamledit.First, yamledit.Change{
			Path: []fieldpath.Part{{Name: "patches"}, {Keys: []fieldpath.PartKey{{Name: "path", Value: file}}}}, Text: "/patches", Value: item,
		})
	}
	return es.apply(k.file, yamledit.First, field([]any{item}, "/patches"))
}

// mergePatch says the changes in a strategic merge patch, where items of lists are told by their keys.
func (k *kustomization) mergePatch(es *edits, changes []yamledit.Change, namespace string) error {
	file := k.patchFile(".yaml")
	name := path.Join(k.dir, file)
	data, err := es.read(name)
	if err != nil {
		data = fmt.Appendf(nil, "# Adopted from the live object by flotilla drift adopt.\napiVersion: %s\nkind: %s\nmetadata:\n  name: %s\n%s",
			k.object["apiVersion"], k.ref.Kind, k.ref.Name, namespace)
	}
	merged := make([]yamledit.Change, len(changes))
	for i, c := range changes {
		if c, err = asMerge(c); err != nil {
			return err
		}
		merged[i] = c
	}
	if data, err = yamledit.Edit(data, object(k.ref), merged); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	es.files[name] = data
	return k.list(es, file, nil)
}

// asMerge writes a change as a merge patch says it: what goes is null, or an item with $patch: delete.
func asMerge(c yamledit.Change) (yamledit.Change, error) {
	for _, p := range c.Path {
		if p.Value != nil {
			return c, errors.New("a merge patch cannot change one item of a set")
		}
	}
	last := c.Path[len(c.Path)-1]
	switch {
	case !c.Remove:
	case last.Name != "":
		c.Remove, c.Value = false, nil
	default:
		item := yamledit.Keyed(last)
		item["$patch"] = "delete"
		c.Remove, c.Value = false, item
	}
	return c, nil
}

// jsonPatch says the changes as operations; items of lists are tested to be the ones that are meant.
func (k *kustomization) jsonPatch(es *edits, changes []yamledit.Change) error {
	file := k.patchFile(".patch.yaml")
	name := path.Join(k.dir, file)
	var ops []any
	for _, c := range changes {
		more, err := operations(k.object, c)
		if err != nil {
			return err
		}
		ops = append(ops, more...)
	}
	var b bytes.Buffer
	if old, err := es.read(name); err == nil { // a list of operations goes on at its end
		b.Write(append(bytes.TrimRight(old, "\n"), '\n'))
	} else {
		b.WriteString("# Adopted from the live object by flotilla drift adopt.\n")
	}
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	enc.CompactSeqIndent()
	if err := errors.Join(enc.Encode(ops), enc.Close()); err != nil {
		return err
	}
	es.files[name] = b.Bytes()
	target := map[string]any{"kind": k.ref.Kind, "name": k.ref.Name}
	if k.ref.Group != "" {
		target["group"] = k.ref.Group
	}
	return k.list(es, file, target)
}

// operations are the JSON patch (RFC 6902) of one change to an object.
func operations(o any, c yamledit.Change) ([]any, error) {
	var ops []any
	at, v := "", o
	op := func(verb, path string, value any) {
		m := map[string]any{"op": verb, "path": path}
		if verb != "remove" {
			m["value"] = value
		}
		ops = append(ops, m)
	}
	for i, p := range c.Path {
		last := i == len(c.Path)-1
		list, isList := v.([]any)
		if !isList {
			m, _ := v.(map[string]any)
			if p.Name == "" {
				return nil, fmt.Errorf("%s is not in the rendered object", c)
			}
			next, there := m[p.Name]
			at += "/" + fieldpath.Escape(p.Name)
			if !there && !last {
				rest := yamledit.Change{Path: c.Path[i+1:], Text: c.Text, Value: c.Value}
				_, value, err := yamledit.Missing(c.Path[i:], rest)
				if err != nil || c.Remove {
					return nil, errors.Join(err, fmt.Errorf("%s is not in the rendered object", c))
				}
				op("add", at, value)
				return ops, nil
			}
			v = next
			if last && c.Remove {
				op("remove", at, nil)
			} else if last {
				op("add", at, c.Value)
			}
			continue
		}
		n := fieldpath.Index(list, p)
		if n < 0 {
			if !last || c.Remove {
				return nil, fmt.Errorf("%s is not in the rendered object", c)
			}
			op("add", at+"/-", c.Value)
			return ops, nil
		}
		at += fmt.Sprintf("/%d", n)
		v = list[n]
		if m, ok := v.(map[string]any); ok {
			for _, key := range p.Keys {
				if is, there := m[key.Name]; there {
					op("test", at+"/"+key.Name, is)
				}
			}
		} else {
			op("test", at, v)
		}
		if last && c.Remove {
			op("remove", at, nil)
		} else if last {
			op("replace", at, c.Value)
		}
	}
	return ops, nil
}
