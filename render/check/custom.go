package check

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/flotilla-fleet/flotilla/render/schemas"
)

// definition is a CustomResourceDefinition of a bundle. Definition is nil where it could not be read; err says why.
type definition struct {
	*schemas.Definition
	from *item
	err  error
}

// crds is the group of CustomResourceDefinitions.
const crds = "apiextensions.k8s.io"

// definition returns what a CustomResourceDefinition says, read once for all clusters.
func (r *run) definition(i *item) *definition {
	key := i.bundle.name + "\x00" + i.bundle.digest + "\x00" + i.ref.ID()
	if r.definitions[key] == nil {
		d, err := schemas.NewDefinition(i.object)
		r.definitions[key] = &definition{Definition: d, from: i, err: err}
	}
	return r.definitions[key]
}

// customs checks the objects whose kinds are not Kubernetes' own against the definitions of the same cluster.
func (r *run) customs(ctx context.Context, view *view, add func(Finding)) {
	known := map[schema.GroupKind]*definition{}
	for _, i := range view.items {
		if i.ref.Group != crds || i.ref.Kind != "CustomResourceDefinition" || i.ref.Version != "v1" {
			continue
		}
		d := r.definition(i)
		if d.err != nil {
			add(i.finding(BadDefinition, "spec.versions", d.err.Error()))
			continue
		}
		known[schema.GroupKind{Group: d.Group, Kind: d.Kind}] = d
	}
	for _, i := range view.items {
		if !i.foreign {
			continue
		}
		d := known[schema.GroupKind{Group: i.ref.Group, Kind: i.ref.Kind}]
		if _, seen := i.custom[d]; !seen {
			i.custom[d] = i.checked(ctx, d)
		}
		for _, f := range i.custom[d] {
			add(f)
		}
	}
}

// checked holds a custom resource against its definition; nil if there is none.
func (i *item) checked(ctx context.Context, d *definition) []Finding {
	kind := i.ref.Kind + "." + i.ref.Group
	switch {
	case d == nil:
		return []Finding{i.finding(NoSchema, "", fmt.Sprintf("no CustomResourceDefinition of %s comes with the cluster's bundles: its objects are not checked", kind))}
	case !d.Served(i.ref.Version):
		return []Finding{i.finding(NotServed, "apiVersion", fmt.Sprintf("the CustomResourceDefinition of %s (%s) does not serve %s", kind, d.from.file, i.ref.Version))}
	}
	var out []Finding
	if d.Deprecated(i.ref.Version) {
		out = append(out, i.finding(DeprecatedAPI, "apiVersion", fmt.Sprintf("the CustomResourceDefinition of %s (%s) calls %s deprecated", kind, d.from.file, i.ref.Version)))
	}
	for _, p := range d.Check(ctx, i.object) {
		out = append(out, i.finding(reasonOf(p.Kind), p.Field, p.Message))
	}
	return out
}
