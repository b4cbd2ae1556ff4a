package render

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/engine"
	"github.com/flotilla-fleet/flotilla/render/kustomize"
	"github.com/flotilla-fleet/flotilla/render/manifest"
)

// A bundle's components and patches are a kustomization whose one resource is what was rendered.
// It is in memory, in a directory of the bundle that begins with a dot, so that the names in it are relative to the bundle.
const (
	changesDir  = ".flotilla"
	objectsFile = "rendered.yaml"
)

// changeAll applies the bundle's components and patches to its objects.
func changeAll(ctx context.Context, p *pass, v *view, b resolved, all *built) error {
	if len(b.spec.Components) == 0 && len(b.spec.Patches) == 0 {
		return nil
	}
	c, err := newChange(v, b, all.objects)
	if err != nil {
		return err
	}
	vars := p.variablesOf(b)
	out, err := p.engine.Run(ctx, engine.Request{Kustomization: &engine.Kustomization{Dir: c.dir, Variables: vars}}, c)
	all.mentioned = append(all.mentioned, out.Mentioned...)
	if err != nil {
		locateVariable(err, v.tree, append(out.Read, b.file))
		return c.located(err)
	}
	all.objects = c.restored(out.Objects)
	return nil
}

// change is the kustomization of a bundle's components and patches. It is engine.Files.
type change struct {
	*view
	bundle resolved
	dir    string
	files  map[string][]byte // by their whole names
	// fields: line of the kustomization -> the field of bundle.yaml that made it
	fields map[int]string
	// inline: file that holds the text of a patch -> the field of bundle.yaml where it stands
	inline map[string]string
	// from are the objects before the change, by ID.
	from map[string]manifest.Object
}

func newChange(v *view, b resolved, objects []manifest.Object) (*change, error) {
	c := &change{
		view: v, bundle: b, dir: path.Join(b.dir, changesDir),
		files: map[string][]byte{}, fields: map[int]string{}, inline: map[string]string{}, from: map[string]manifest.Object{},
	}
	if err := c.writeObjects(objects); err != nil {
		return nil, err
	}
	lines := []string{"resources: [" + objectsFile + "]"}
	add := func(field string, v any) error {
		text, err := json.Marshal(v)
		lines = append(lines, "- "+string(text))
		c.fields[len(lines)] = field
		return err
	}
	if len(b.spec.Components) > 0 {
		lines = append(lines, "components:")
	}
	for i, name := range b.spec.Components {
		field := fmt.Sprintf("spec.components.%d", i)
		if err := c.there(field, name, kustomize.Find(v, path.Join(b.dir, name)) != "", "kustomization.yaml in it"); err != nil {
			return nil, err
		}
		if err := add(field, path.Join("..", name)); err != nil {
			return nil, err
		}
	}
	if len(b.spec.Patches) > 0 {
		lines = append(lines, "patches:")
	}
	for i, patch := range b.spec.Patches {
		field := fmt.Sprintf("spec.patches.%d", i)
		if patch.Path != "" {
			if err := c.there(field+".path", patch.Path, true, ""); err != nil {
				return nil, err
			}
			patch.Path = path.Join("..", patch.Path)
		} else {
			// A file of its own, so that errors have the line within it.
			patch.Path = fmt.Sprintf("patch-%d.yaml", i)
			c.files[path.Join(c.dir, patch.Path)], patch.Patch = []byte(patch.Patch), ""
			c.inline[path.Join(c.dir, patch.Path)] = field + ".patch"
		}
		if err := add(field, patch); err != nil {
			return nil, err
		}
	}
	c.files[path.Join(c.dir, "kustomization.yaml")] = []byte(strings.Join(lines, "\n") + "\n")
	return c, nil
}

// there refuses the name of a file or directory that is not there, or not the bundle's to read.
func (c *change) there(field, name string, whole bool, lacks string) error {
	at := path.Join(c.bundle.dir, name)
	if err := c.within(c.bundle, field, at); err != nil {
		return err
	}
	if _, err := c.view.Stat(at); err != nil {
		return c.bundle.errorf(field, "there is no %q", at)
	}
	if !whole {
		return c.bundle.errorf(field, "there is no %s: %q", lacks, at)
	}
	return nil
}

// writeObjects writes the objects as the resource of the kustomization. What is in them is no variable's place any more.
func (c *change) writeObjects(objects []manifest.Object) error {
	var out bytes.Buffer
	for _, o := range objects {
		ref := api.RefOf(o.Unstructured)
		if first, twice := c.from[ref.ID()]; twice {
			return c.bundle.duplicateObject(ref, o, first.File)
		}
		c.from[ref.ID()] = o
		text, err := json.Marshal(shielded(o.Object, dollarBrace))
		if err != nil {
			return fmt.Errorf("write %s: %w", ref, err)
		}
		out.WriteString("---\n")
		escapeControl(&out, text)
		out.WriteByte('\n')
	}
	c.files[path.Join(c.dir, objectsFile)] = out.Bytes()
	return nil
}

// restored are the objects as they come out, with where each was written.
func (c *change) restored(objects []manifest.Object) []manifest.Object {
	for i := range objects {
		o := &objects[i]
		if strings.HasPrefix(o.File, c.dir+"/") {
			o.File, o.Line = c.bundle.file, 0 // it has another name now, or a patch made it
			if was, ok := c.from[api.RefOf(o.Unstructured).ID()]; ok {
				o.File, o.Line = was.File, was.Line
			}
		}
		o.Object, _ = shielded(o.Object, braceDollar).(map[string]any)
	}
	return objects
}

// located has an error about the kustomization name the field of bundle.yaml.
func (c *change) located(err error) error {
	e, ok := errors.AsType[*api.Error](err)
	if !ok || !strings.HasPrefix(e.File, c.dir+"/") {
		return err
	}
	at, b := *e, c.bundle
	text := strings.ReplaceAll(e.Err.Error(), c.dir+"/"+objectsFile, "what was rendered")
	field, ok := c.inline[e.File]
	for file, of := range c.inline {
		if strings.Contains(text, path.Base(file)) {
			text, field, ok = strings.ReplaceAll(text, path.Base(file), of), of, true
		}
	}
	at.File, at.Line, at.Err = b.file, 0, errors.New(text)
	if ok {
		at.Field = field
		if n := b.node(strings.Split(field, ".")...); n != nil {
			at.Line = n.Line
			switch {
			case e.Line == 0:
			case n.Style == yaml.LiteralStyle: // the text begins behind the line with the |
				at.Line += e.Line
			case n.Style == 0 || n.Style == yaml.FlowStyle:
				at.Line += e.Line - 1
			}
		}
		return &at
	}
	at.Field = c.fields[e.Line]
	if path.Base(e.File) == objectsFile || at.Field == "" {
		at.Field = "spec.patches"
		if len(b.spec.Patches) == 0 {
			at.Field = "spec.components"
		}
	}
	at.Line = LineOf(b.data, strings.Split(at.Field, ".")...)
	return &at
}

// ReadFile implements fs.ReadFileFS.
func (c *change) ReadFile(name string) ([]byte, error) {
	if data, ok := c.files[name]; ok {
		return data, nil
	}
	return c.view.ReadFile(name)
}

// ReadDir implements fs.ReadDirFS.
func (c *change) ReadDir(name string) ([]fs.DirEntry, error) {
	if name != c.dir {
		return c.view.ReadDir(name)
	}
	var out []fs.DirEntry
	for _, file := range slices.Sorted(maps.Keys(c.files)) {
		out = append(out, fs.FileInfoToDirEntry(memoryInfo{path.Base(file), 0o444}))
	}
	return out, nil
}

// Stat implements fs.StatFS.
func (c *change) Stat(name string) (fs.FileInfo, error) {
	if name == c.dir {
		return memoryInfo{changesDir, fs.ModeDir | 0o555}, nil
	}
	if _, ok := c.files[name]; ok {
		return memoryInfo{path.Base(name), 0o444}, nil
	}
	if strings.HasPrefix(name, c.dir+"/") {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	return c.view.Stat(name)
}

// memoryInfo describes a file in memory. Only its name and kind mean something.
type memoryInfo struct {
	name string
	mode fs.FileMode
}

func (m memoryInfo) Name() string       { return m.name }
func (m memoryInfo) Size() int64        { return 0 }
func (m memoryInfo) Mode() fs.FileMode  { return m.mode }
func (m memoryInfo) ModTime() time.Time { return time.Time{} }
func (m memoryInfo) IsDir() bool        { return m.mode.IsDir() }
func (m memoryInfo) Sys() any           { return nil }

// A ${ that is rendered already has a character of no meaning in it while the components and patches get their variables.
const shield = "$\ue0f5{"

func dollarBrace(s string) string { return strings.ReplaceAll(s, "${", shield) }
func braceDollar(s string) string { return strings.ReplaceAll(s, shield, "${") }

// shielded is a value with every string in it changed. What need not change is not copied.
func shielded(v any, f func(string) string) any {
	switch x := v.(type) {
	case string:
		return f(x)
	case map[string]any:
		out := make(map[string]any, len(x))
		for k, e := range x {
			out[f(k)] = shielded(e, f)
		}
		return out
	case []any:
		out := make([]any, len(x))
		for i, e := range x {
			out[i] = shielded(e, f)
		}
		return out
	default:
		return v
	}
}

// escapeControl writes JSON so that a YAML parser takes it: it refuses control characters, which JSON allows in part.
func escapeControl(out *bytes.Buffer, text []byte) {
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		if r >= 0x7f && r <= 0x9f || r == 0xfeff || r >= 0xfffe && r <= 0xffff {
			out.WriteString(`\u` + strconv.FormatInt(0x10000+int64(r), 16)[1:])
		} else {
			out.Write(text[:size])
		}
		text = text[size:]
	}
}
