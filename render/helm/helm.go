// Package helm renders charts; it never installs one.
//
// It promises: no cluster is asked (lookup finds nothing), no name is resolved, no file outside the chart is read,
// and nothing is kept between renders.
// Tests are left out, hooks are told apart, the CRDs of crds/ come first.
// Its errors name the template and line, or the values that a schema refuses, as far as Helm tells.
package helm

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/ignore"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/manifest"
)

// Files is what a chart is loaded from. Names are relative to the root, slash-separated.
type Files interface {
	fs.ReadFileFS
	fs.ReadDirFS
	fs.StatFS
}

// Chart is a loaded chart. It may be rendered many times.
type Chart struct {
	// where is the chart's directory, or its name and version; errors name it.
	where string
	load  func() (*chart.Chart, error)
}

// maxChartBytes bounds a chart.
const maxChartBytes = 32 << 20

// Packed is a chart as it is read, before Helm has looked at it: its files, or its archive.
type Packed struct {
	// Where is the chart's directory, or its name and version; errors name it.
	Where string
	Files []File
	// Archive is a packaged chart (.tgz); nil if there are Files.
	Archive []byte
}

// File is a file of a chart. Its name is relative to the chart's directory.
type File struct {
	Name string
	Data []byte
}

// Pack reads the files of a chart from a directory of the repository, subcharts in charts/ included.
func Pack(files Files, dir string) (Packed, error) {
	if st, err := files.Stat(path.Join(dir, "Chart.yaml")); err != nil || st.IsDir() {
		return Packed{}, failed(dir, fmt.Errorf("there is no Chart.yaml in %q", dir))
	}
	l := &lister{files: files, dir: dir, rules: ignore.Empty()}
	if data, err := files.ReadFile(path.Join(dir, ".helmignore")); err == nil {
		rules, err := ignore.Parse(bytes.NewReader(data))
		if err != nil {
			return Packed{}, failed(path.Join(dir, ".helmignore"), err)
		}
		l.rules = rules
	}
	l.rules.AddDefaults()
	if err := l.walk("."); err != nil {
		return Packed{}, err
	}
	return Packed{Where: dir, Files: l.out}, nil
}

// Load has Helm read the chart.
func (p Packed) Load() (*Chart, error) {
	if p.Archive != nil {
		files, err := loader.LoadArchiveFiles(bytes.NewReader(p.Archive))
		if err != nil {
			return nil, failed(p.Where, err)
		}
		return newChart(p.Where, files)
	}
	files := make([]*loader.BufferedFile, len(p.Files))
	for i, f := range p.Files {
		files[i] = &loader.BufferedFile{Name: f.Name, Data: f.Data}
	}
	return newChart(p.Where, files)
}

// newChart keeps the files rather than the chart, for rendering writes into a chart's values.
func newChart(where string, files []*loader.BufferedFile) (*Chart, error) {
	c := &Chart{where: where, load: func() (*chart.Chart, error) { return loader.LoadFiles(files) }}
	loaded, err := c.load()
	if err == nil {
		err = loaded.Validate()
	}
	if err != nil {
		return nil, loadError(where, files, err)
	}
	if loaded.Metadata.Type == "library" {
		return nil, failed(path.Join(where, "Chart.yaml"), errors.New("a library chart cannot be rendered"))
	}
	return c, nil
}

type lister struct {
	files Files
	dir   string
	rules *ignore.Rules
	out   []File
	size  int
	// linked counts the symbolic links that lead to where it is.
	linked int
}

// maxLinked bounds symbolic links to directories within each other, so that one that leads back ends.
const maxLinked = 5

// enter walks a directory below, also where it is a symbolic link, such as one to a subchart that several charts share.
func (l *lister) enter(name string, e fs.DirEntry) error {
	if e.Type()&fs.ModeSymlink != 0 {
		if l.linked++; l.linked > maxLinked {
			return failed(path.Join(l.dir, name), fmt.Errorf("more than %d symbolic links to directories lie within each other", maxLinked))
		}
		defer func() { l.linked-- }()
	}
	return l.walk(name)
}

func (l *lister) walk(rel string) error {
	entries, err := l.files.ReadDir(path.Join(l.dir, rel))
	if err != nil {
		return failed(path.Join(l.dir, rel), err)
	}
	for _, e := range entries {
		name := path.Join(rel, e.Name())
		full := path.Join(l.dir, name)
		st, err := l.files.Stat(full) // follows symbolic links
		if err != nil {
			if _, told := errors.AsType[*api.Error](err); told {
				return err
			}
			return failed(full, err)
		}
		if l.rules.Ignore(name, st) {
			continue
		}
		if st.IsDir() {
			if err := l.enter(name, e); err != nil {
				return err
			}
			continue
		}
		data, err := l.files.ReadFile(full)
		if err != nil {
			return err
		}
		if l.size += len(data); l.size > maxChartBytes {
			return failed(l.dir, fmt.Errorf("the chart is larger than %d bytes", maxChartBytes))
		}
		l.out = append(l.out, File{Name: name, Data: bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))})
	}
	return nil
}

// Request is one rendering of a chart.
type Request struct {
	Chart       *Chart
	ReleaseName string
	Namespace   string
	// Values are layered over the chart's own.
	Values map[string]any
	Facts  api.ClusterFacts
	// SkipSchema leaves the values unchecked.
	SkipSchema bool
	// Clock is the time that now tells. Zero means what it is.
	Clock time.Time
}

// Output is what a chart says.
type Output struct {
	// CRDs come from crds/, Documents from the templates; in a stable order.
	CRDs, Documents []manifest.Document
	Hooks           []Hook
	// Random names the templates that use functions whose result differs each time.
	Random []Position
	// Clocked names the templates that use the time.
	Clocked []Position
	// Repeated are keys that a mapping has twice.
	Repeated []Repeated
	// Warnings tell what of the chart has no effect.
	Warnings []string
}

// Hook is a document that is run rather than kept.
type Hook struct {
	manifest.Document
	Phases         []api.HookPhase
	Weight         int
	DeletePolicies []string
}

// Annotations of a Helm hook.
const (
	AnnotationHook         = "helm.sh/hook"
	AnnotationHookWeight   = "helm.sh/hook-weight"
	AnnotationDeletePolicy = "helm.sh/hook-delete-policy"
)

// Render renders the chart.
func Render(req Request) (Output, error) {
	where := req.Chart.where
	ch, err := req.Chart.load()
	if err != nil {
		return Output{}, failed(where, err)
	}
	caps, err := capabilities(req.Facts)
	if err != nil {
		return Output{}, err
	}
	if err := fits(ch, where, caps); err != nil {
		return Output{}, err
	}
	if err := chartutil.ProcessDependenciesWithMerge(ch, req.Values); err != nil {
		return Output{}, failed(where, err)
	}
	var out Output
	if req.SkipSchema {
		withoutSchemas(ch)
	} else if out.Warnings, err = localSchemas(ch, where); err != nil {
		return Output{}, err
	}
	opts := chartutil.ReleaseOptions{Name: req.ReleaseName, Namespace: req.Namespace, Revision: 1, IsInstall: true}
	values, err := chartutil.ToRenderValues(ch, req.Values, opts, caps)
	if err != nil {
		return Output{}, schemaError(where, ch.Name(), err)
	}
	if !req.Clock.IsZero() {
		setClock(ch, req.Clock)
	}
	rendered, err := engine.Engine{}.Render(ch, values)
	if err != nil {
		return Output{}, templateError(where, ch, err)
	}
	for _, crd := range ch.CRDObjects() {
		docs, twice, err := documents(path.Join(where, strings.TrimPrefix(crd.Filename, ch.Name()+"/")), string(crd.File.Data))
		if err != nil {
			return Output{}, err
		}
		out.CRDs, out.Repeated = append(out.CRDs, docs...), append(out.Repeated, twice...)
	}
	if err := out.collect(rendered, where, ch.Name()); err != nil {
		return Output{}, err
	}
	out.Random, out.Clocked = unstable(where, ch)
	return out, nil
}

// DefaultKubeVersion is the version that charts are rendered for where no cluster is known: that of the Kubernetes
// libraries in go.mod. Helm's own default is years old.
const DefaultKubeVersion = "v1.37.1"

// DefaultAPIVersions are the API versions that charts see where no cluster is known.
func DefaultAPIVersions() []string { return slices.Clone(chartutil.DefaultVersionSet) }

// capabilities are those of the live cluster, or DefaultKubeVersion and Helm's default APIs where it is not known.
func capabilities(facts api.ClusterFacts) (*chartutil.Capabilities, error) {
	caps := chartutil.DefaultCapabilities.Copy()
	caps.KubeVersion = chartutil.KubeVersion{Version: DefaultKubeVersion, Major: "1", Minor: strings.Split(DefaultKubeVersion, ".")[1]}
	if facts.KubeVersion != "" {
		v, err := chartutil.ParseKubeVersion(facts.KubeVersion)
		if err != nil {
			return nil, fmt.Errorf("the cluster's version %q: %w", facts.KubeVersion, err)
		}
		caps.KubeVersion = *v
	}
	if len(facts.APIVersions) > 0 {
		caps.APIVersions = slices.Clone(facts.APIVersions)
	}
	return caps, nil
}

// fits reports a chart that is not for this cluster, or not complete.
func fits(ch *chart.Chart, where string, caps *chartutil.Capabilities) error {
	file := path.Join(where, "Chart.yaml")
	if want := ch.Metadata.KubeVersion; want != "" && !chartutil.IsCompatibleRange(want, caps.KubeVersion.String()) {
		e := failed(file, fmt.Errorf("the chart needs Kubernetes %s, and the cluster has %s", want, caps.KubeVersion.Version))
		e.Field, e.Line = "kubeVersion", chartLine(ch.Raw, "kubeVersion")
		return e
	}
	have := map[string]bool{}
	for _, d := range ch.Dependencies() {
		have[d.Name()] = true
	}
	for _, d := range ch.Metadata.Dependencies {
		if !have[d.Name] {
			e := failed(file, fmt.Errorf("dependency %q is not in charts/", d.Name))
			e.Field, e.Line = "dependencies", chartLine(ch.Raw, "dependencies")
			e.Hint = "run \"helm dependency update\" and commit charts/"
			return e
		}
	}
	return nil
}

// collect sorts the rendered files' documents into objects and hooks.
func (o *Output) collect(rendered map[string]string, where, name string) error {
	files := make([]string, 0, len(rendered))
	for f := range rendered {
		if base := path.Base(f); strings.HasSuffix(base, "NOTES.txt") || strings.HasPrefix(base, "_") {
			continue
		}
		files = append(files, f)
	}
	slices.Sort(files)
	for _, f := range files {
		if strings.TrimSpace(rendered[f]) == "" {
			continue
		}
		file := path.Join(where, strings.TrimPrefix(f, name+"/"))
		docs, twice, err := documents(file, rendered[f])
		o.Repeated = append(o.Repeated, twice...)
		if err != nil {
			if e, ok := errors.AsType[*api.Error](err); ok {
				e.Hint = "the line is that of the rendered output"
			}
			return err
		}
		for _, d := range docs {
			o.add(d)
		}
	}
	slices.SortStableFunc(o.Hooks, func(a, b Hook) int { return a.Weight - b.Weight })
	return nil
}

func (o *Output) add(d manifest.Document) {
	annotations := annotationsOf(d)
	words, isHook := annotations[AnnotationHook]
	if !isHook {
		o.Documents = append(o.Documents, d)
		return
	}
	h := Hook{Document: d}
	var unknown string
	if h.Phases, unknown = phases(words); unknown != "" {
		o.Warnings = append(o.Warnings, fmt.Sprintf("%s:%d: left out, for %s names %q, which is no moment of Helm's", d.File, d.Line(), AnnotationHook, unknown))
		return
	}
	if len(h.Phases) == 0 {
		return // a test, or a rollback, which is never run
	}
	if w := annotations[AnnotationHookWeight]; w != "" {
		n, err := strconv.Atoi(w)
		if err != nil {
			o.Warnings = append(o.Warnings, fmt.Sprintf("%s:%d: %s is %q, which is no number, and so 0", d.File, d.Line(), AnnotationHookWeight, w))
		}
		h.Weight = n
	}
	h.DeletePolicies = splitWords(annotations[AnnotationDeletePolicy])
	if len(h.DeletePolicies) == 0 {
		h.DeletePolicies = []string{"before-hook-creation"} // Helm's default
	}
	o.Hooks = append(o.Hooks, h)
}

// annotationsOf are a document's annotations, as Helm reads them: whatever is no text becomes one.
func annotationsOf(d manifest.Document) map[string]string {
	metadata, _ := d.Decoded["metadata"].(map[string]any)
	annotations, _ := metadata["annotations"].(map[string]any)
	out := make(map[string]string, len(annotations))
	for k, v := range annotations {
		if v == nil {
			v = ""
		}
		out[k] = fmt.Sprint(v)
	}
	return out
}

// phases are the moments at which a hook runs; a rollback and a test never come. As in Helm, one unknown word spoils all.
func phases(words string) (known []api.HookPhase, unknown string) {
	for word := range strings.SplitSeq(words, ",") {
		word = strings.ToLower(strings.TrimSpace(word))
		switch p := api.HookPhase(word); p {
		case api.HookPreInstall, api.HookPreUpgrade, api.HookPostInstall, api.HookPostUpgrade, api.HookPreDelete, api.HookPostDelete:
			known = append(known, p)
		case "pre-rollback", "post-rollback", "test", "test-success":
		default:
			return nil, cmp.Or(word, "nothing")
		}
	}
	return known, ""
}

func splitWords(s string) []string {
	var out []string
	for w := range strings.SplitSeq(s, ",") {
		if w = strings.ToLower(strings.TrimSpace(w)); w != "" {
			out = append(out, w)
		}
	}
	return out
}
