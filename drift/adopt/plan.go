package adopt

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/api/fieldpath"
	"github.com/flotilla-fleet/flotilla/internal/yamledit"
)

// Renderer renders the fleet repository; *render.Renderer is one.
type Renderer interface {
	Render(ctx context.Context, snap api.Snapshot, cluster string, facts api.ClusterFacts) (api.Rendering, error)
}

// Clusters says on which clusters the change may take effect.
type Clusters int

const (
	// OnlyDrifted is the cluster that the drift is on.
	OnlyDrifted Clusters = iota
	// AllConcerned are also those that share the files with it.
	AllConcerned
)

// Request is what is to be adopted.
type Request struct {
	Episode  api.Episode
	Snapshot api.Snapshot
	Renderer Renderer
	// List lists the clusters of a tree, for which everything is rendered; render.Clusters does.
	List     func(api.Tree) ([]api.Cluster, error)
	Clusters Clusters
}

// File is one file to write. Before is nil for a new one.
type File struct {
	Name          string
	Before, After []byte
}

// Plan is a proven change.
type Plan struct {
	Files []File
	// Method says in a few words how the repository says it.
	Method string
	// Clusters are those on which the rendering changes, sorted.
	Clusters []string
}

// New finds a change of the repository that makes the live values of an episode what Git says,
// and proves it. It writes nothing. The error says why there is none.
func New(ctx context.Context, req Request) (Plan, error) {
	e := req.Episode
	if err := adoptable(e); err != nil {
		return Plan{}, err
	}
	changes, err := changesOf(e)
	if err != nil {
		return Plan{}, refuse(e, err)
	}
	before, err := renderAll(ctx, req, req.Snapshot.Tree)
	if err != nil {
		return Plan{}, err
	}
	b, o, err := before.object(e)
	if err != nil {
		return Plan{}, err
	}
	if err := current(e, o.Object); err != nil {
		return Plan{}, err
	}
	if at := displaced(e, o.Object, changes); at != "" {
		return Plan{}, refusal(e, "something that the drift does not tell of stands in place of "+at,
			"with drift.extra: report in the bundle it is told, and can be adopted")
	}
	if b.Spec.HasChart() {
		return Plan{}, helmRefusal(e, b)
	}
	methods := plainMethods(req.Snapshot.Tree, e.Object, b, changes)
	if b.Kustomization != "" {
		methods = kustomizeMethods(req.Snapshot.Tree, e, o.Object, b, changes)
	}
	var errs []error
	for _, m := range methods {
		plan, err := attempt(ctx, req, m, before, changes)
		if err == nil {
			return plan, nil
		}
		if errors.Is(err, errOthers) || ctx.Err() != nil {
			return Plan{}, err
		}
		errs = append(errs, fmt.Errorf("%s: %w", m.name, err))
	}
	return Plan{}, refuse(e, errors.Join(errs...))
}

// attempt makes the edits of one method and proves them.
func attempt(ctx context.Context, req Request, m method, before renderings, changes []yamledit.Change) (Plan, error) {
	files, err := m.edit()
	if err != nil {
		return Plan{}, err
	}
	tree := changed{Tree: req.Snapshot.Tree, files: map[string][]byte{}}
	p := Plan{Method: m.name}
	for name, text := range files {
		old, err := req.Snapshot.Tree.ReadFile(name)
		if err != nil {
			old = nil
		}
		if encrypted(old) {
			return Plan{}, fmt.Errorf("%s is encrypted", name)
		}
		tree.files[name] = text
		p.Files = append(p.Files, File{Name: name, Before: old, After: text})
	}
	slices.SortFunc(p.Files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	after, err := renderAll(ctx, req, tree)
	if err != nil {
		return Plan{}, err
	}
	p.Clusters, err = verify(req, before, after, changes)
	return p, err
}

// changesOf reads the fields of an episode.
func changesOf(e api.Episode) ([]yamledit.Change, error) {
	var out []yamledit.Change
	for _, f := range e.Fields {
		c := yamledit.Change{Path: fieldpath.Parts(f.Path), Text: f.Path, Remove: f.Class == api.ClassRemoved}
		if len(c.Path) == 0 {
			return nil, fmt.Errorf("%q is not the path of a field", f.Path)
		}
		if !c.Remove {
			var err error
			if c.Value, err = yamledit.ParseJSON(f.Live); err != nil {
				return nil, fmt.Errorf("the live value of %s was not recorded whole", f.Path)
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// encrypted reports a file that SOPS wrote: an edit would break its signature.
func encrypted(data []byte) bool { return strings.Contains(string(data), "ENC[AES256_GCM,") }

// adoptable refuses what can never be adopted.
func adoptable(e api.Episode) error {
	switch {
	case e.Object.Kind == "Secret" && e.Object.Group == "":
		return refusal(e, "a Secret is never written to the repository",
			"change it with sops, and commit")
	case e.Class == api.ClassMissing:
		return refusal(e, "the object was deleted",
			"to keep it deleted, remove it from the bundle "+e.Bundle+" in Git")
	case e.Class == api.ClassExtra:
		return refusal(e, "the object is not in Git",
			"to keep it, add a manifest of it to a bundle")
	case len(e.Fields) == 0:
		return refusal(e, "no field of it is known", "")
	case e.FieldsOmitted > 0:
		return refusal(e, fmt.Sprintf("%d more fields differ than were recorded", e.FieldsOmitted), "")
	}
	for _, f := range e.Fields {
		if label := fieldpath.Label(f.Path); api.OwnLabel(label) {
			return refusal(e, "the label "+label+" is flotilla's own", "")
		}
		if onlyOrder(f.Live) {
			return refusal(e, "only the order of the list "+f.Path+" differs", "put its items in that order by hand")
		}
	}
	return nil
}

// displaced names an item of a list that is gone while the live list has one that neither Git has nor the episode tells of:
// without it Git would say half of what is live.
func displaced(e api.Episode, git map[string]any, changes []yamledit.Change) string {
	if e.Evidence == nil || e.Evidence.Live == "" {
		return ""
	}
	live, err := yamledit.ParseJSON(e.Evidence.Live)
	if err != nil {
		return ""
	}
	for _, c := range changes {
		last := c.Path[len(c.Path)-1]
		if !c.Remove || len(last.Keys) == 0 {
			continue
		}
		parent := c.Path[:len(c.Path)-1]
		have, _ := fieldpath.Get(live, parent)
		want, _ := fieldpath.Get(git, parent)
		list, _ := have.([]any)
		known, _ := want.([]any)
		for _, item := range list {
			p := fieldpath.Part{Keys: slices.Clone(last.Keys)}
			m, _ := item.(map[string]any)
			for i, k := range p.Keys {
				p.Keys[i].Value = fieldpath.Scalar(m[k.Name])
			}
			told := slices.ContainsFunc(changes, func(other yamledit.Change) bool {
				return !other.Remove && len(other.Path) >= len(c.Path) && slices.Equal(other.Path[len(parent)].Keys, p.Keys)
			})
			if fieldpath.Index(known, p) < 0 && !told {
				return c.Text
			}
		}
	}
	return ""
}

// onlyOrder reports a value that names the items of a list instead of holding them: ["[name=a]","[name=b]"].
func onlyOrder(live string) bool {
	v, err := yamledit.ParseJSON(live)
	list, ok := v.([]any)
	if err != nil || !ok || len(list) == 0 {
		return false
	}
	for _, item := range list {
		s, _ := item.(string)
		if !strings.HasPrefix(s, "[") || !strings.HasSuffix(s, "]") || !strings.Contains(s, "=") {
			return false
		}
	}
	return true
}

func refuse(e api.Episode, err error) error { return refusal(e, err.Error(), "") }

func refusal(e api.Episode, why, hint string) error {
	return &api.Error{
		Kind: api.Stalled, Reason: "NotAdopted",
		Err: fmt.Errorf("%s cannot be adopted: %s", e.Object, why), Hint: hint,
	}
}

// helmRefusal says where to look: which value makes a field of a chart's output is not known.
func helmRefusal(e api.Episode, b api.RenderedBundle) error {
	charts := []*api.HelmSource{b.Spec.Helm}
	for _, x := range b.Spec.Sources {
		charts = append(charts, x.Helm)
	}
	var files []string
	for _, h := range charts {
		if h == nil {
			continue
		}
		for _, f := range h.ValuesFiles {
			files = append(files, path.Join(b.Dir, f))
		}
	}
	files = append(files, path.Join(b.Dir, "bundle.yaml"))
	return refusal(e, fmt.Sprintf("the bundle %s has a Helm chart, and which of its values makes the field cannot be told", e.Bundle),
		"the template is "+b.Origin[e.Object.ID()]+"; set its value in "+strings.Join(files, " or "))
}
