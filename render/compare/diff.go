package compare

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

// Kind is what a revision does to an object or a bundle.
type Kind string

// What is done to an object; a bundle is created, changed or deleted, or cannot be rendered.
const (
	Created  Kind = "created"
	Changed  Kind = "changed"
	Deleted  Kind = "deleted"
	Moved    Kind = "moved"    // to another bundle, or from one
	Released Kind = "released" // it leaves Git and stays on the cluster
	Broken   Kind = "broken"   // it cannot be rendered
	Mended   Kind = "mended"   // it could not be rendered before
)

// Object is what a revision does to one object.
type Object struct {
	Object api.ObjectRef `json:"object"`
	Kind   Kind          `json:"kind"`
	// Other is the bundle that a moved object comes from, or goes to.
	Other string `json:"other,omitempty"`
	// File is where it comes from; of a deleted one, where it came from.
	File   string  `json:"file,omitempty"`
	Fields []Field `json:"fields,omitempty"`
}

// Variant is one change of a bundle, and the clusters on which it is exactly that.
type Variant struct {
	Clusters []string `json:"clusters"`
	Kind     Kind     `json:"kind"`
	// Outlier says that nearly all other clusters of the bundle get another change.
	Outlier bool `json:"outlier,omitempty"`
	// Routine says that nothing but image and chart versions change, none of them to another major version.
	Routine bool     `json:"routine,omitempty"`
	Objects []Object `json:"objects,omitempty"`
	// Settings are fields of the bundle itself that change.
	Settings []Field  `json:"settings,omitempty"`
	Error    string   `json:"error,omitempty"`
	Dangers  []Danger `json:"-"`
}

// Bundle is what a revision does to one bundle.
type Bundle struct {
	Bundle   string    `json:"bundle"`
	Variants []Variant `json:"variants"`
}

// Summary counts: objects that are in several clusters or variants count once.
type Summary struct {
	// Clusters are all that both revisions have, and Affected those on which something changes.
	Clusters int `json:"clusters"`
	Affected int `json:"affected"`
	Bundles  int `json:"bundles"`
	Created  int `json:"created"`
	Changed  int `json:"changed"`
	Deleted  int `json:"deleted"`
	Moved    int `json:"moved"`
	Released int `json:"released"`
}

// Result is what differs between two revisions.
type Result struct {
	Summary Summary `json:"summary"`
	// Joined and Left are clusters that only the later, or only the earlier revision has.
	Joined []string `json:"joined,omitempty"`
	Left   []string `json:"left,omitempty"`
	// Dangers come first in every view: each with its reason, and the clusters that it is about.
	Dangers []Danger `json:"dangers,omitempty"`
	Bundles []Bundle `json:"bundles"`
	// Failed are clusters that cannot be rendered at the later revision.
	Failed []Failure `json:"failed,omitempty"`
	// Deletions are what would be pruned, by cluster.
	Deletions map[string][]Deletion `json:"-"`
}

// Failure is why a cluster cannot be rendered.
type Failure struct {
	Cluster string `json:"cluster"`
	Error   string `json:"error"`
}

// Deletion is an object that a cluster would lose.
type Deletion struct {
	Bundle string
	Object api.ObjectRef
}

// Diff compares the renderings of two revisions.
func Diff(from, to []On) Result {
	d := differ{variants: map[string]map[string]*Variant{}, known: map[string]*Variant{}, dangers: map[string]*Danger{}}
	d.out.Deletions = map[string][]Deletion{}
	before := map[string]On{}
	for _, on := range from {
		before[on.Cluster] = on
	}
	for _, on := range to {
		earlier, both := before[on.Cluster]
		delete(before, on.Cluster)
		switch {
		case on.Err != nil:
			d.out.Failed = append(d.out.Failed, Failure{on.Cluster, on.Err.Error()})
		case !both || earlier.Err != nil:
			d.out.Joined = append(d.out.Joined, on.Cluster)
		default:
			d.cluster(earlier.Rendering, on.Rendering, on.Cluster)
		}
	}
	d.out.Left = slices.Sorted(maps.Keys(before))
	d.finish()
	return d.out
}

type differ struct {
	out      Result
	variants map[string]map[string]*Variant // bundle -> identity of the change -> variant
	known    map[string]*Variant            // what was compared -> its variant, without clusters
	dangers  map[string]*Danger
}

// cluster compares one cluster.
func (d *differ) cluster(from, to api.Rendering, name string) {
	d.out.Summary.Clusters++
	a, b := byName(from), byName(to)
	where := places{from: from, to: to}
	affected := false
	for _, bundle := range slices.Sorted(maps.Keys(union(a, b))) {
		x, y := a[bundle], b[bundle]
		if x.Digest == y.Digest && x.Err == nil && y.Err == nil {
			continue
		}
		v := d.compared(x, y, &where)
		if v == nil {
			continue
		}
		affected = true
		d.take(bundle, v, name)
		for _, o := range v.Objects {
			if o.Kind == Deleted {
				d.out.Deletions[name] = append(d.out.Deletions[name], Deletion{bundle, o.Object})
			}
		}
		d.ofCluster(bundle, v, to, name)
	}
	if affected {
		d.out.Summary.Affected++
	}
}

// compared returns what changes in a bundle, nil for nothing. What was compared for another cluster is not compared again.
func (d *differ) compared(x, y api.RenderedBundle, where *places) *Variant {
	moves := where.moves(x, y)
	id := strings.Join([]string{x.Name, y.Name, x.Digest, y.Digest, errorText(x.Err), errorText(y.Err), text(moves)}, "\x00")
	v, known := d.known[id]
	if !known {
		v = variantOf(x, y, moves)
		d.known[id] = v
	}
	return v
}

// take adds a cluster to those that get a change.
func (d *differ) take(bundle string, v *Variant, cluster string) {
	if d.variants[bundle] == nil {
		d.variants[bundle] = map[string]*Variant{}
	}
	identity, _ := json.Marshal(v) // strings
	have := d.variants[bundle][string(identity)]
	if have == nil {
		clone := *v
		have = &clone
		d.variants[bundle][string(identity)] = have
	}
	have.Clusters = append(have.Clusters, cluster)
	for _, danger := range v.Dangers {
		d.danger(danger, cluster)
	}
}

func variantOf(x, y api.RenderedBundle, moves map[string]string) *Variant {
	switch {
	case y.Err != nil && errorText(x.Err) == errorText(y.Err):
		return nil
	case y.Err != nil:
		v := &Variant{Kind: Broken, Error: y.Err.Error()}
		v.Dangers = []Danger{{Reason: CannotRender, Bundle: y.Name, Detail: v.Error}}
		return v
	case x.Err != nil:
		return &Variant{Kind: Mended}
	}
	v := &Variant{Kind: Changed}
	switch {
	case x.Name == "":
		v.Kind = Created
	case y.Name == "":
		v.Kind = Deleted
	default:
		v.Settings = fieldsOf(plainOf(x.Spec), plainOf(y.Spec), "", nil)
	}
	pairs := objectsOf(x, y, moves)
	for _, p := range pairs {
		v.Objects = append(v.Objects, p.Object)
	}
	v.Dangers = dangersOf(x, y, pairs)
	v.Routine = v.Kind == Changed && len(v.Dangers) == 0 && routine(v)
	return v
}

// pair is an object with both its forms.
type pair struct {
	Object
	before, after *unstructured.Unstructured
}

func objectsOf(x, y api.RenderedBundle, moves map[string]string) []pair {
	hidden := maskerOf(x, y)
	before, after := byID(x), byID(y)
	var out []pair
	for _, id := range slices.SortedFunc(maps.Keys(union(before, after)), strings.Compare) {
		a, b := before[id], after[id]
		p := pair{before: a, after: b}
		switch {
		case b == nil:
			p.Object = Object{Object: api.RefOf(a), Kind: Deleted, File: x.Origin[id]}
			if other, moved := moves[id]; moved {
				p.Kind, p.Other = Moved, other
			} else if stays(x, y, a) {
				p.Kind = Released
			}
		case a == nil:
			p.Object = Object{Object: api.RefOf(b), Kind: Created, File: y.Origin[id]}
			if other, moved := moves[id]; moved {
				p.Kind, p.Other = Moved, other
			}
		default:
			fields := fieldsOf(a.Object, b.Object, "", nil)
			if len(fields) == 0 {
				continue
			}
			p.Object = Object{Object: api.RefOf(b), Kind: Changed, File: y.Origin[id], Fields: hidden.object(b, fields)}
		}
		out = append(out, p)
	}
	return out
}

// stays reports whether an object that left Git is not deleted.
func stays(x, y api.RenderedBundle, o *unstructured.Unstructured) bool {
	spec := y.Spec
	if y.Name == "" {
		spec = x.Spec
	}
	if !spec.PruneEnabled() {
		return true
	}
	a := o.GetAnnotations()
	if a[api.AnnotationPrune] == api.ValueEnabled {
		return false
	}
	options := "," + strings.ReplaceAll(a["argocd.argoproj.io/sync-options"], " ", "") + ","
	return a[api.AnnotationPrune] == api.ValueDisabled || a[api.AnnotationReconcile] == api.ValueDisabled ||
		a["helm.sh/resource-policy"] == "keep" || a["kustomize.toolkit.fluxcd.io/prune"] == api.ValueDisabled ||
		slices.ContainsFunc([]string{"Delete=false", "Prune=false", "Delete=confirm", "Prune=confirm"}, func(word string) bool {
			return strings.Contains(options, ","+word+",")
		})
}

// places knows which bundles declare an object on a cluster, in either revision. It looks only if it is asked.
type places struct {
	from, to api.Rendering
	old, now map[string]string // object ID -> bundle
}

// moves returns those objects of a bundle that come from, or go to, another one: object ID -> that bundle.
func (w *places) moves(x, y api.RenderedBundle) map[string]string {
	before, after := byID(x), byID(y)
	var out map[string]string
	note := func(id, other string) {
		if out == nil {
			out = map[string]string{}
		}
		out[id] = other
	}
	for id := range union(before, after) {
		switch {
		case after[id] == nil:
			if w.now == nil {
				w.now = declared(w.to)
			}
			if other := w.now[id]; other != "" {
				note(id, other)
			}
		case before[id] == nil:
			if w.old == nil {
				w.old = declared(w.from)
			}
			if other := w.old[id]; other != "" {
				note(id, other)
			}
		}
	}
	return out
}

func declared(r api.Rendering) map[string]string {
	out := map[string]string{}
	for _, b := range r.Bundles {
		for id := range b.Origin {
			out[id] = b.Name
		}
	}
	return out
}

func byName(r api.Rendering) map[string]api.RenderedBundle {
	out := make(map[string]api.RenderedBundle, len(r.Bundles))
	for _, b := range r.Bundles {
		out[b.Name] = b
	}
	return out
}

func byID(b api.RenderedBundle) map[string]*unstructured.Unstructured {
	out := make(map[string]*unstructured.Unstructured, len(b.Objects))
	for _, o := range b.Objects {
		out[api.RefOf(o).ID()] = o
	}
	return out
}

func union[V any](a, b map[string]V) map[string]bool {
	out := map[string]bool{}
	for k := range a {
		out[k] = true
	}
	for k := range b {
		out[k] = true
	}
	return out
}

// plainOf is a value as JSON has it, without what is empty.
func plainOf(v any) any {
	b, err := json.Marshal(v)
	var out any
	if err != nil || json.Unmarshal(b, &out) != nil { // it came from YAML
		return nil
	}
	return out
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// finish puts everything in order, and counts.
func (d *differ) finish() {
	counted := map[string]Kind{}
	for _, name := range slices.Sorted(maps.Keys(d.variants)) {
		b := Bundle{Bundle: name}
		total := 0
		for _, v := range d.variants[name] {
			b.Variants = append(b.Variants, *v)
			total += len(v.Clusters)
			for _, o := range v.Objects {
				owner := name
				if o.Kind == Moved { // it is in two bundles, and one move
					owner = ""
				}
				counted[strings.Join([]string{owner, o.Object.ID(), string(o.Kind)}, "\x00")] = o.Kind
			}
		}
		slices.SortFunc(b.Variants, func(x, y Variant) int {
			return cmp.Or(cmp.Compare(len(y.Clusters), len(x.Clusters)), slices.Compare(x.Clusters, y.Clusters))
		})
		for i := range b.Variants[1:] {
			b.Variants[i+1].Outlier = len(b.Variants[0].Clusters)*4 >= total*3
		}
		d.out.Bundles = append(d.out.Bundles, b)
	}
	s := &d.out.Summary
	s.Bundles = len(d.out.Bundles)
	for _, kind := range counted {
		switch kind {
		case Created:
			s.Created++
		case Changed:
			s.Changed++
		case Deleted:
			s.Deleted++
		case Moved:
			s.Moved++
		case Released:
			s.Released++
		case Broken, Mended: // of bundles only
		}
	}
	for _, danger := range d.dangers {
		d.out.Dangers = append(d.out.Dangers, *danger)
	}
	SortDangers(d.out.Dangers)
}
