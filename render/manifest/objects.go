package manifest

import (
	"cmp"
	"encoding/base64"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

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
	kind := d.text("kind")
	if !strings.HasSuffix(kind, "List") || (kind != "List" && (!d.has("items") || d.has("metadata", "name"))) {
		return []Document{d}, nil
	}
	if depth > 2 {
		return nil, d.errorf(nil, "items", "lists are nested too deeply")
	}
	items, err := d.items()
	if err != nil {
		return nil, err
	}
	var out []Document
	for _, item := range items {
		sub, err := item.expand(depth+1, budget)
		if err != nil {
			return nil, err
		}
		out = append(out, sub...)
	}
	return out, nil
}

// items are the documents of a List.
func (d Document) items() ([]Document, error) {
	list := Get(d.Node, "items")
	if !d.has("items") {
		return nil, nil
	}
	var decoded []any
	if d.Decoded != nil {
		var ok bool
		if decoded, ok = d.Decoded["items"].([]any); !ok {
			return nil, d.errorf(list, "items", "is not a list")
		}
	} else if list.Kind != yaml.SequenceNode {
		return nil, d.errorf(list, "items", "is not a list")
	}
	if list == nil { // a merge brought it
		list = &yaml.Node{}
	}
	var out []Document
	for i := range max(len(decoded), len(list.Content)) {
		item := Document{File: d.File, Node: d.Node}
		if i < len(list.Content) {
			item.Node = resolve(list.Content[i])
		}
		if d.Decoded != nil {
			if item.Decoded = mappingAt(decoded, i); item.Decoded == nil {
				return nil, d.errorf(item.Node, "items", "an item is not an object")
			}
		}
		out = append(out, item)
	}
	return out, nil
}

func mappingAt(list []any, i int) map[string]any {
	if i >= len(list) {
		return nil
	}
	m, _ := list[i].(map[string]any)
	return m
}

func (d Document) object(vars Variables, budget *int) (Object, error) {
	if vars != nil && d.substitutable() {
		if err := d.Substitute(vars); err != nil {
			return Object{}, err
		}
	}
	for _, field := range []string{"apiVersion", "kind"} {
		if d.text(field) == "" {
			return Object{}, d.missing(field)
		}
		if !d.isString(field) {
			return Object{}, d.errorf(Get(d.Node, field), field, "is not a string")
		}
	}
	if d.text("metadata", "name") == "" {
		e := d.missing("metadata.name")
		if d.has("metadata", "generateName") {
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
	kind, name := d.text("kind"), d.text("metadata", "name")
	switch {
	case kind == "" && name == "":
		return ""
	case kind == "":
		return "object " + name
	case name == "":
		return "a " + kind
	}
	if ns := d.text("metadata", "namespace"); ns != "" {
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
		m, _ := u.Object["metadata"].(map[string]any)
		n := Get(d.Node, "metadata", field)
		if m[field] == nil {
			delete(m, field)
			continue
		}
		vals, ok := m[field].(map[string]any)
		if !ok {
			return d.errorf(n, "metadata."+field, "%s: is not a mapping", d.describe())
		}
		nullsToText(vals)
		for k, v := range vals {
			if _, ok := v.(string); !ok {
				e := d.errorf(n, "metadata."+field+"."+k, "%s: the value is not a string", d.describe())
				e.Hint = "write it in quotes"
				return e
			}
		}
	}
	return d.checkNames(u)
}

// checkNames refuses an object that no API server can have: what its name, namespace and apiVersion say become parts of URLs.
func (d Document) checkNames(u *unstructured.Unstructured) error {
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
	ref := api.RefOf(u)
	if err := api.CheckName(ref.Name); err != nil {
		return d.impossible("metadata.name", err, "metadata", "name")
	}
	if ref.Namespace != "" {
		if err := api.CheckNamespace(ref.Namespace); err != nil {
			return d.impossible("metadata.namespace", err, "metadata", "namespace")
		}
	}
	gv, err := schema.ParseGroupVersion(u.GetAPIVersion())
	if err == nil {
		err = cmp.Or(api.CheckGroup(gv.Group), api.CheckVersion(gv.Version))
	}
	if err != nil {
		return d.impossible("apiVersion", err, "apiVersion")
	}
	if err := api.CheckKind(u.GetKind()); err != nil {
		return d.impossible("kind", err, "kind")
	}
	return nil
}

func (d Document) impossible(field string, err error, path ...string) error {
	e := d.errorf(Get(d.Node, path...), field, "%w", err)
	e.Reason = api.ReasonImpossibleName
	return e
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
	if gvk := u.GroupVersionKind(); gvk.Group == "" && (gvk.Kind == "Secret" || gvk.Kind == "ConfigMap") {
		for _, field := range []string{"data", "stringData"} {
			if m, ok := u.Object[field].(map[string]any); ok {
				nullsToText(m)
			}
		}
		if gvk.Kind == "Secret" {
			mergeStringData(u)
		}
	}
}

// nullsToText puts the empty string for null where Kubernetes knows only strings, as the API server would.
func nullsToText(m map[string]any) {
	for k, v := range m {
		if v == nil {
			m[k] = ""
		}
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
