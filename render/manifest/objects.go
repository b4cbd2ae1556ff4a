package manifest

import (
	"encoding/base64"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

// Object is a Kubernetes object and where it was written.
type Object struct {
	*unstructured.Unstructured
	File string
	Line int
}

// Objects turns documents into objects: lists are expanded, variables put in (nil: left alone),
// and what only a server may write is left out.
// A document that is no object is an error: dropping it would delete what it used to describe.
func Objects(docs []Document, vars Variables) ([]Object, error) {
	var out []Object
	budget := maxValues
	for _, d := range docs {
		items, err := d.expand(0, &budget)
		if err != nil {
			return nil, err
		}
		for _, item := range items {
			o, err := item.object(vars, &budget)
			if err != nil {
				return nil, err
			}
			out = append(out, o)
		}
	}
	return out, nil
}

// expand returns the items of a List, and the document itself if it is none.
func (d Document) expand(depth int, budget *int) ([]Document, error) {
	if *budget--; *budget < 0 {
		return nil, d.tooLarge(d.Node)
	}
	if d.Node.Kind != yaml.MappingNode {
		return nil, d.errorf(nil, "", "the document is not an object: it has no apiVersion and kind")
	}
	items := Get(d.Node, "items")
	kind := text(Get(d.Node, "kind"))
	if !strings.HasSuffix(kind, "List") || (kind != "List" && (items == nil || Get(d.Node, "metadata", "name") != nil)) {
		return []Document{d}, nil
	}
	if depth > 2 {
		return nil, d.errorf(nil, "items", "lists are nested too deeply")
	}
	if items == nil {
		return nil, nil
	}
	if items.Kind != yaml.SequenceNode {
		return nil, d.errorf(items, "items", "is not a list")
	}
	var out []Document
	for _, n := range items.Content {
		sub, err := Document{File: d.File, Node: resolve(n)}.expand(depth+1, budget)
		if err != nil {
			return nil, err
		}
		out = append(out, sub...)
	}
	return out, nil
}

func (d Document) object(vars Variables, budget *int) (Object, error) {
	if vars != nil && d.substitutable() {
		if err := d.Substitute(vars); err != nil {
			return Object{}, err
		}
	}
	for _, field := range []string{"apiVersion", "kind"} {
		n := Get(d.Node, field)
		if text(n) == "" {
			return Object{}, d.missing(field)
		}
		if n.ShortTag() != "!!str" {
			return Object{}, d.errorf(n, field, "is not a string")
		}
	}
	if text(Get(d.Node, "metadata", "name")) == "" {
		e := d.missing("metadata.name")
		if Get(d.Node, "metadata", "generateName") != nil {
			e.Hint = "generateName would make a new object at every apply: give it a name"
		}
		return Object{}, e
	}
	v, err := d.value(budget)
	if err != nil {
		return Object{}, err
	}
	u := &unstructured.Unstructured{Object: v.(map[string]any)}
	if err := d.check(u); err != nil {
		return Object{}, err
	}
	clean(u)
	return Object{Unstructured: u, File: d.File, Line: d.Line()}, nil
}

func (d Document) missing(field string) *api.Error {
	what := "has no " + field
	if ref := d.describe(); ref != "" {
		what = ref + " " + what
	} else {
		what = "the document " + what
	}
	e := d.errorf(nil, field, "%s", what)
	return e
}

// describe names the object as far as it can be told.
func (d Document) describe() string {
	kind, name := text(Get(d.Node, "kind")), text(Get(d.Node, "metadata", "name"))
	switch {
	case kind == "" && name == "":
		return ""
	case kind == "":
		return "object " + name
	case name == "":
		return "a " + kind
	}
	if ns := text(Get(d.Node, "metadata", "namespace")); ns != "" {
		name = ns + "/" + name
	}
	return kind + "/" + name
}

// check refuses what would only fail later, and less clearly.
func (d Document) check(u *unstructured.Unstructured) error {
	group := u.GroupVersionKind().Group
	switch {
	case group == api.Group && (u.GetKind() == api.KindBundle || u.GetKind() == api.KindCluster || u.GetKind() == api.KindFleet):
		e := d.errorf(nil, "kind", "a %s is not applied to a cluster", u.GetKind())
		e.Hint = "flotilla reads its own files by their names: bundle.yaml, cluster.yaml and fleet.yaml"
		return e
	case group == api.Group && u.GetKind() == api.KindBundleDeployment:
		return d.errorf(nil, "kind", "a BundleDeployment is written by the agent only")
	case group == "kustomize.config.k8s.io":
		e := d.errorf(nil, "kind", "a %s is not applied to a cluster", u.GetKind())
		e.Hint = "name the file kustomization.yaml"
		return e
	}
	for _, field := range []string{"labels", "annotations"} {
		n := Get(d.Node, "metadata", field)
		if n == nil {
			continue
		}
		m, _ := u.Object["metadata"].(map[string]any)
		if m[field] == nil {
			delete(m, field)
			continue
		}
		vals, ok := m[field].(map[string]any)
		if !ok {
			return d.errorf(n, "metadata."+field, "%s: is not a mapping", d.describe())
		}
		for k, v := range vals {
			if _, ok := v.(string); !ok {
				e := d.errorf(n, "metadata."+field+"."+k, "%s: the value is not a string", d.describe())
				e.Hint = "write it in quotes"
				return e
			}
		}
	}
	for _, field := range []string{"name", "namespace"} {
		m, _ := u.Object["metadata"].(map[string]any)
		if v, there := m[field]; there {
			if _, ok := v.(string); !ok && v != nil {
				return d.errorf(Get(d.Node, "metadata", field), "metadata."+field, "the value is not a string: write it in quotes")
			}
			if v == nil {
				delete(m, field)
			}
		}
	}
	return nil
}

// clean removes what only a server may write, and the nulls that generators leave behind.
func clean(u *unstructured.Unstructured) {
	delete(u.Object, "status")
	if m, ok := u.Object["metadata"].(map[string]any); ok {
		for _, f := range []string{"uid", "resourceVersion", "generation", "managedFields", "selfLink", "creationTimestamp"} {
			delete(m, f)
		}
	}
	dropNullTimestamps(u.Object)
	if gvk := u.GroupVersionKind(); gvk.Group == "" && gvk.Kind == "Secret" {
		mergeStringData(u)
	}
}

// mergeStringData moves a Secret's stringData into data, as the server would:
// what is written only to stringData is never seen again, and a key that leaves it stays behind.
func mergeStringData(u *unstructured.Unstructured) {
	text, ok := u.Object["stringData"].(map[string]any)
	if _, there := u.Object["stringData"]; there && len(text) == 0 {
		delete(u.Object, "stringData")
	}
	if !ok || len(text) == 0 {
		return
	}
	for _, v := range text {
		if _, ok := v.(string); !ok {
			return // the server says it better
		}
	}
	data, ok := u.Object["data"].(map[string]any)
	if !ok {
		data = make(map[string]any, len(text))
		u.Object["data"] = data
	}
	for k, v := range text {
		data[k] = base64.StdEncoding.EncodeToString([]byte(v.(string)))
	}
	delete(u.Object, "stringData")
}

func dropNullTimestamps(v any) {
	switch x := v.(type) {
	case map[string]any:
		if m, ok := x["metadata"].(map[string]any); ok {
			if t, there := m["creationTimestamp"]; there && t == nil {
				delete(m, "creationTimestamp")
			}
		}
		for _, c := range x {
			dropNullTimestamps(c)
		}
	case []any:
		for _, c := range x {
			dropNullTimestamps(c)
		}
	}
}
