package render

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/engine"
	"github.com/flotilla-fleet/flotilla/render/helm"
	"github.com/flotilla-fleet/flotilla/render/kustomize"
	"github.com/flotilla-fleet/flotilla/render/manifest"
)

// built is what one bundle's source says, before the other bundles are known.
type built struct {
	objects  []manifest.Object
	hooks    []api.Hook
	warnings []string
	// unstable: object of a hook -> paths of fields that come out differently each time
	unstable map[*unstructured.Unstructured][]string
	// ignore are rules for such fields of objects.
	ignore []api.IgnoreRule
	// charts are those from outside the repository.
	charts []fetchedChart
	// kustomization is the file of the kustomization; empty if it is none.
	kustomization string
	// mentioned are the variables that all this may depend on; see manifest.Mentioned.
	mentioned []string
}

// fetchedChart is a chart from outside the repository, and what it was when it was fetched.
type fetchedChart struct{ Repo, Name, Version, Digest string }

// digestsOf joins the digests of charts, in the order of the sources.
func digestsOf(charts []fetchedChart) string {
	out := make([]string, len(charts))
	for i, c := range charts {
		out[i] = c.Digest
	}
	return strings.Join(out, " ")
}

// source is one of a bundle's sources.
type source struct {
	// field is where bundle.yaml says it.
	field string
	// helm is nil for a directory.
	helm *api.HelmSource
	dir  string
	// explicit says that the directory must be a kustomization.
	explicit bool
}

// sources returns what the bundle is rendered from.
func (b resolved) sources() []source {
	switch {
	case b.spec.Helm != nil:
		return []source{{field: "spec.helm", helm: b.spec.Helm}}
	case len(b.spec.Sources) > 0:
		out := make([]source, len(b.spec.Sources))
		for i, s := range b.spec.Sources {
			out[i] = source{field: fmt.Sprintf("spec.sources.%d", i)}
			if out[i].helm = s.Helm; s.Helm != nil {
				out[i].field += ".helm"
			} else {
				out[i].field += ".path"
				out[i].dir = path.Join(b.dir, s.Path)
			}
		}
		return out
	case b.overlay != "":
		return []source{{field: b.sourceField(), dir: path.Join(b.dir, b.overlay), explicit: true}}
	case b.spec.Kustomize != nil:
		return []source{{field: b.sourceField(), dir: path.Join(b.dir, b.spec.Kustomize.Path), explicit: true}}
	default:
		return []source{{field: b.sourceField(), dir: b.dir}}
	}
}

// build renders one bundle from its sources, and has its components and patches change what comes out.
func build(ctx context.Context, p *pass, v *view, b resolved) (built, error) {
	all := built{unstable: map[*unstructured.Unstructured][]string{}}
	sources := b.sources()
	for _, s := range sources {
		var one built
		var err error
		if s.helm != nil {
			one, err = buildHelm(ctx, p, v, b, s)
		} else {
			one, err = kustomizeOrPlain(ctx, p, v, b, s)
		}
		all.add(one)
		if err != nil {
			return all, err
		}
	}
	if len(sources) > 1 {
		all.kustomization = "" // none of them says it all
	}
	if err := changeAll(ctx, p, v, b, &all); err != nil {
		return all, err
	}
	if x := b.spec.Namespace.Override; x != "" {
		moveReferences(x, all)
	}
	all.objects = append(all.objects, b.newNamespace()...)
	return all, nil
}

// newNamespace is the namespace that the bundle brings, if it does.
func (b resolved) newNamespace() []manifest.Object {
	if b.spec.CreateNamespace == nil {
		return nil
	}
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace"}}
	o.SetName(b.spec.Namespace.Name())
	if labels := b.spec.CreateNamespace.Labels; len(labels) > 0 {
		o.SetLabels(labels)
	}
	return []manifest.Object{{Unstructured: o, File: b.file, Line: LineOf(b.data, "spec", "createNamespace")}}
}

func (a *built) add(b built) {
	a.objects, a.hooks = append(a.objects, b.objects...), append(a.hooks, b.hooks...)
	a.warnings, a.ignore = append(a.warnings, b.warnings...), append(a.ignore, b.ignore...)
	a.charts, a.kustomization = append(a.charts, b.charts...), cmp.Or(a.kustomization, b.kustomization)
	a.mentioned = append(a.mentioned, b.mentioned...)
	maps.Copy(a.unstable, b.unstable)
}

// locateVariable adds the line to an error about a ${…}. The file is that of the object,
// or the first of the others that were read which has it; the line the first that does. Comments come last.
func locateVariable(err error, tree api.Tree, read []string) {
	name, unset := manifest.Unset(err)
	body, malformed := manifest.Malformed(err)
	e, ok := errors.AsType[*api.Error](err)
	if !unset && !malformed || !ok {
		return
	}
	reference := regexp.MustCompile(`(^|[^$])\$\{#?` + regexp.QuoteMeta(name) + `([^A-Za-z0-9_]|$)`)
	if malformed {
		reference = regexp.MustCompile(`(^|[^$])\$\{` + regexp.QuoteMeta(body))
	}
	for _, comments := range []bool{false, true} {
		for _, file := range slices.Concat([]string{e.File}, read) {
			data, err := tree.ReadFile(file) // as it is in Git: where it is encrypted, decrypting would move the lines
			if err != nil {
				continue
			}
			n := 0
			for line := range strings.Lines(string(data)) {
				n++
				if reference.MatchString(line) && strings.HasPrefix(strings.TrimSpace(line), "#") == comments {
					e.File, e.Line = file, n
					return
				}
			}
		}
	}
}

// kustomizeOrPlain builds the kustomization that the bundle names or holds, and reads plain YAML where there is none.
func kustomizeOrPlain(ctx context.Context, p *pass, v *view, b resolved, s source) (built, error) {
	vars := p.variablesOf(b)
	if err := v.within(b, s.field, s.dir); err != nil {
		return built{}, err
	}
	from := kustomize.Find(v, s.dir)
	switch {
	case from != "":
		out, err := p.engine.Run(ctx, engine.Request{Kustomization: &engine.Kustomization{Dir: s.dir, Variables: vars}}, v)
		locateVariable(err, v.tree, out.Read) // kustomize keeps no lines
		kustomize.Relocate(err, v)
		return built{objects: out.Objects, kustomization: from, mentioned: out.Mentioned}, err
	case s.explicit:
		return built{}, b.errorf(s.field, "there is no kustomization.yaml in %q", s.dir)
	}
	if st, err := v.Stat(s.dir); err != nil || !st.IsDir() {
		return built{}, b.errorf(s.field, "there is no directory %q", s.dir)
	}
	docs, warnings, err := plainDocs(v, b, s.dir)
	if err != nil {
		return built{}, err
	}
	var mentioned []string
	if b.spec.Substitute {
		mentioned = manifest.Mentioned(docs) // before they are put in
	}
	objects, err := manifest.Objects(docs, vars)
	return built{objects: objects, warnings: warnings, mentioned: mentioned}, err
}

// sourceField is the field of bundle.yaml that says where the kustomization is.
func (b resolved) sourceField() string {
	if b.overlay != "" {
		return fmt.Sprintf("spec.targets.%d.overlay", b.target)
	}
	return "spec.kustomize.path"
}

// errorf is an error about a field of the bundle's file.
func (b resolved) errorf(field, format string, args ...any) *api.Error {
	e := &api.Error{Kind: api.Stalled, Reason: "BadBundle", File: b.file, Field: field, Err: fmt.Errorf(format, args...)}
	if n := b.node(strings.Split(field, ".")...); n != nil {
		e.Line = n.Line
	}
	return e
}

// node finds a field in the bundle's file; list indexes are numbers.
func (b resolved) node(keys ...string) *yaml.Node {
	docs, err := manifest.Parse(b.file, b.data)
	if err != nil || len(docs) == 0 {
		return nil
	}
	return nodeAt(docs[0].Node, keys...)
}

// nodeAt finds what is below a path of keys and indexes; nil if nothing is.
func nodeAt(n *yaml.Node, keys ...string) *yaml.Node {
	for _, k := range keys {
		if n != nil && n.Kind == yaml.SequenceNode {
			i := 0
			if _, err := fmt.Sscanf(k, "%d", &i); err != nil || i < 0 || i >= len(n.Content) {
				return nil
			}
			n = n.Content[i]
			continue
		}
		n = manifest.Get(n, k)
	}
	return n
}

// inside reports whether a cleaned name stays in the repository.
func inside(name string) bool { return fs.ValidPath(name) }

// within refuses a name, from a field of the bundle's file, that leads out of the repository or to what is not the bundle's to read.
func (v *view) within(b resolved, field, name string) error {
	if !inside(name) {
		return b.errorf(field, "leads out of the fleet repository")
	}
	_, err := v.Stat(name)
	if e, ok := denied(err); ok {
		at := b.errorf(field, "%w", e.Err)
		at.Kind, at.Reason, at.Hint = e.Kind, e.Reason, e.Hint
		return at
	}
	return nil
}

func buildHelm(ctx context.Context, p *pass, v *view, b resolved, s source) (built, error) {
	chart, fetched, err := loadChart(ctx, p, v, b, s)
	if err != nil {
		return built{}, err
	}
	layers, err := layeredValues(p, v, b, s)
	if err != nil {
		return built{}, err
	}
	out, err := p.engine.Run(ctx, engine.Request{Chart: &engine.Chart{
		Packed:      chart,
		ReleaseName: cmp.Or(s.helm.ReleaseName, b.name), Namespace: cmp.Or(b.spec.Namespace.Name(), defaultNamespace),
		Values: merged(layers), SkipSchema: s.helm.Schema == api.SchemaSkip, Facts: p.facts,
	}}, nil)
	if err != nil {
		return built{charts: fetched}, inLayer(err, layers)
	}
	if s.helm.IsAddress() && s.helm.Digest == "" {
		out.Warnings = append(out.Warnings, fmt.Sprintf("%s:%d: %s.chart: what is at an address may change without a commit: pin it with digest: %s",
			b.file, LineOf(b.data, strings.Split(s.field+".chart", ".")...), s.field, fetched[0].Digest))
	}
	made := built{objects: out.Objects, warnings: out.Warnings, ignore: out.Ignore, charts: fetched, unstable: map[*unstructured.Unstructured][]string{}}
	for _, l := range layers {
		made.mentioned = append(made.mentioned, l.mentioned...)
	}
	for _, h := range out.Hooks {
		made.hooks = append(made.hooks, h.Hook)
		made.unstable[h.Object] = h.Unstable
	}
	return made, nil
}

// loadChart loads a chart. Fetched is one from outside the repository, if it is that.
func loadChart(ctx context.Context, p *pass, v *view, b resolved, s source) (packed helm.Packed, fetched []fetchedChart, err error) {
	h, field := s.helm, s.field+".chart"
	repo, name, remote := remoteChart(h)
	if !remote {
		dir := path.Join(b.dir, h.Chart)
		if err := v.within(b, field, dir); err != nil {
			return helm.Packed{}, nil, err
		}
		if st, err := v.Stat(dir); err != nil || !st.IsDir() {
			e := b.errorf(field, "there is no directory %q", dir)
			if !strings.HasPrefix(h.Chart, ".") {
				e.Hint = "a chart of the repository begins with ./ or ../; one from elsewhere needs repo or oci://"
			}
			return helm.Packed{}, nil, e
		}
		if !v.links.through(dir) {
			if err := v.cover(dir); err != nil {
				return helm.Packed{}, nil, err
			}
		}
		packed, err = helm.Pack(v, dir)
		return packed, nil, err
	}
	if p.charts == nil {
		return helm.Packed{}, nil, b.errorf(field, "charts from outside the fleet repository cannot be fetched here")
	}
	version := cmp.Or(h.Digest, h.Version)
	archive, digest, err := p.charts.Fetch(ctx, repo, name, version)
	if err != nil {
		at := api.Error{Kind: api.Transient, Reason: "ChartNotFetched", Err: fmt.Errorf("fetch chart %q: %w", name, err)}
		if e, ok := errors.AsType[*api.Error](err); ok {
			at = *e
		}
		if at.File = cmp.Or(at.File, b.file); at.File == b.file {
			at.Field = cmp.Or(strings.Replace(at.Field, "spec.helm", s.field, 1), field)
			at.Line = cmp.Or(at.Line, LineOf(b.data, strings.Split(at.Field, ".")...))
		}
		return helm.Packed{}, nil, &at
	}
	where := name + "-" + version
	if h.IsAddress() {
		where = strings.TrimSuffix(name, ".tgz")
	}
	return helm.Packed{Where: where, Archive: archive}, []fetchedChart{{repo, name, version, digest}}, nil
}

// remoteChart tells a chart from elsewhere: its repository and name.
func remoteChart(h *api.HelmSource) (repo, name string, remote bool) {
	if strings.HasPrefix(h.Chart, "oci://") || h.IsAddress() {
		i := strings.LastIndex(h.Chart, "/")
		return h.Chart[:i], h.Chart[i+1:], true
	}
	return h.Repo, h.Chart, h.Repo != ""
}

// exactVersion matches what always means the same chart. An empty version is that of a chart at an address: what was fetched first stays.
var exactVersion = regexp.MustCompile(`^(v?\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]+)?|sha256:[0-9a-f]{64}|)$`)

// layer is one of the sources of a chart's values, and where it is written.
type layer struct {
	values    map[string]any
	file      string
	node      *yaml.Node
	mentioned []string // variables; see manifest.Mentioned
}

func merged(layers []layer) map[string]any {
	all := make([]map[string]any, len(layers))
	for i, l := range layers {
		all[i] = l.values
	}
	return helm.Merge(all...)
}

// inLayer has an error about a value name the layer that says it: the last one that has the field, or what is above it.
func inLayer(err error, layers []layer) error {
	e, ok := errors.AsType[*api.Error](err)
	if !ok || e.Reason != "BadValues" {
		return err
	}
	field, _ := strings.CutPrefix(e.Field, "values.")
	for keys := strings.Split(field, "."); len(keys) > 0; keys = keys[:len(keys)-1] {
		for _, l := range slices.Backward(layers) {
			if n := nodeAt(l.node, keys...); n != nil {
				at := *e
				at.Hint = strings.TrimPrefix(at.Hint+"; the schema is "+e.File, "; ")
				at.File, at.Line = l.file, n.Line
				if key := nodeAt(l.node, keys[:len(keys)-1]...); key != nil && key.Kind == yaml.MappingNode {
					at.Line = keyLine(key, keys[len(keys)-1], n.Line)
				}
				return &at
			}
		}
	}
	return err
}

// keyLine is the line of a key of a mapping.
func keyLine(n *yaml.Node, key string, otherwise int) int {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i].Line
		}
	}
	return otherwise
}

// layeredValues are, later ones winning: the values files, spec.helm.values, the target's overlay file, the target's values.
// The chart's own come below them all.
func layeredValues(p *pass, v *view, b resolved, s source) ([]layer, error) {
	var layers []layer
	for i, file := range s.helm.ValuesFiles {
		l, err := valuesFile(p, v, b, fmt.Sprintf("%s.valuesFiles.%d", s.field, i), path.Join(b.dir, file))
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	l, err := inlineValues(p, b, s.helm.Values, append(strings.Split(s.field, "."), "values")...)
	if err != nil {
		return nil, err
	}
	layers = append(layers, l)
	if b.overlay != "" {
		file := path.Join(b.dir, b.overlay)
		if inside(file) {
			if st, err := v.Stat(file); err == nil && st.IsDir() {
				file = path.Join(file, "values.yaml")
			}
		}
		l, err := valuesFile(p, v, b, b.sourceField(), file)
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	if b.target >= 0 {
		l, err := inlineValues(p, b, b.values, "spec", "targets", fmt.Sprint(b.target), "values")
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	return layers, nil
}

func valuesFile(p *pass, v *view, b resolved, field, file string) (layer, error) {
	if err := v.within(b, field, file); err != nil {
		return layer{}, err
	}
	data, err := v.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return layer{}, b.errorf(field, "there is no values file %q", file)
	}
	if err != nil {
		return layer{}, err
	}
	docs, err := manifest.Parse(file, data)
	if err != nil {
		return layer{}, err
	}
	switch len(docs) {
	case 0:
		return layer{}, nil
	case 1:
		return valuesOf(p, b, docs[0], data)
	}
	return layer{}, b.errorf(field, "the values file %q holds more than one document", file)
}

// inlineValues reads values from the bundle's file itself, for Helm reads them otherwise than we read the rest of it.
func inlineValues(p *pass, b resolved, decoded map[string]any, keys ...string) (layer, error) {
	if len(decoded) == 0 {
		return layer{}, nil
	}
	docs, err := manifest.Parse(b.file, b.data)
	if err != nil {
		return layer{}, err
	}
	return valuesOf(p, b, docs[0], b.data, keys...)
}

// valuesOf reads the values below a path of keys of a document, and data is its text.
// We check them and put in the variables; how a scalar is understood is Helm's affair.
func valuesOf(p *pass, b resolved, whole manifest.Document, data []byte, keys ...string) (layer, error) {
	d := manifest.Document{File: whole.File, Node: nodeAt(whole.Node, keys...)}
	var mentioned []string
	if b.spec.Substitute && bytes.Contains(data, []byte("${")) {
		mentioned = manifest.Mentioned([]manifest.Document{d})
		if err := d.SubstituteWhere(p.variablesOf(b), helm.Boolean); err != nil {
			return layer{}, err
		}
		var err error
		if data, err = yaml.Marshal(whole.Node); err != nil {
			return layer{}, fmt.Errorf("write %q with its variables: %w", d.File, err)
		}
	}
	v, err := d.Value() // keys that occur twice, aliases without bound
	if err != nil {
		return layer{}, err
	}
	if _, ok := v.(map[string]any); !ok {
		return layer{}, &api.Error{Kind: api.Stalled, Reason: "BadValues", File: d.File, Line: d.Line(), Err: errors.New("values are a mapping")}
	}
	values, err := helm.Values(d.File, data, keys...)
	return layer{values: values, file: d.File, node: d.Node, mentioned: mentioned}, err
}
