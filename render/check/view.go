package check

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// view is everything that is on one cluster.
type view struct {
	items []*item
	byID  map[string][]*item
	kinds map[schema.GroupKind]bool
	// mentioned are the words of a namespace that may be names of what somebody else than Git makes:
	// texts of custom resources, annotations, and what containers are started with. Those of cluster-scoped objects are under "".
	mentioned map[string]map[string]bool
	// owners are names of custom resources, by namespace: operators name what they make after them.
	owners map[string][]string
	// unknown says that a bundle of the cluster cannot be rendered.
	unknown bool
}

func newView() *view {
	return &view{
		byID: map[string][]*item{}, kinds: map[schema.GroupKind]bool{}, mentioned: map[string]map[string]bool{}, owners: map[string][]string{},
	}
}

func (v *view) add(b *bundle) {
	for _, i := range b.items {
		v.items = append(v.items, i)
		id := idIn(i.ref.Group, i.ref.Kind, i.ref.Namespace, i.ref.Name)
		v.byID[id] = append(v.byID[id], i)
		v.kinds[schema.GroupKind{Group: i.ref.Group, Kind: i.ref.Kind}] = true
		if v.mentioned[i.ref.Namespace] == nil {
			v.mentioned[i.ref.Namespace] = map[string]bool{}
		}
		maps.Copy(v.mentioned[i.ref.Namespace], i.mentions)
		if i.foreign {
			v.owners[i.ref.Namespace] = append(v.owners[i.ref.Namespace], i.ref.Name)
		}
	}
}

// idIn is like api.ObjectRef.ID, with the namespace that kubectl would take.
func idIn(group, kind, namespace, name string) string {
	if namespace == "" {
		namespace = "default" // of a cluster-scoped kind it says nothing
	}
	return group + "/" + kind + "/" + namespace + "/" + name
}

// find returns an object of a kind; nil if it is not in Git.
func (v *view) find(kind schema.GroupKind, namespace, name string) *item {
	if all := v.byID[idIn(kind.Group, kind.Kind, namespace, name)]; len(all) > 0 {
		return all[0]
	}
	return nil
}

// mayBeMade reports whether something in Git may make an object of a name, so that its absence from Git says nothing.
func (v *view) mayBeMade(namespace, name string) bool {
	for _, space := range []string{namespace, ""} {
		if v.mentioned[space][name] {
			return true
		}
		for _, owner := range v.owners[space] {
			if name == owner || strings.HasPrefix(name, owner+"-") {
				return true
			}
		}
	}
	return false
}

// mention collects what may be a name of something that an operator, a controller or a job makes.
func (i *item) mention() map[string]bool {
	into := map[string]bool{}
	for _, value := range i.object.GetAnnotations() {
		if len(value) <= 253 {
			into[value] = true
		}
	}
	if i.pod != nil {
		for _, value := range i.pod.annotations {
			into[value] = true
		}
		for _, c := range i.pod.containers() {
			for _, text := range slices.Concat(c.Command, c.Args) {
				words(text, into)
			}
			for _, e := range c.Env {
				words(e.Value, into)
			}
		}
	}
	if i.foreign {
		texts(i.object.Object, into)
	}
	return into
}

// words are the parts of a text that can be names.
func words(text string, into map[string]bool) {
	for _, w := range strings.FieldsFunc(text, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.'
	}) {
		into[w] = true
	}
}

// texts are all texts of a value.
func texts(v any, into map[string]bool) {
	switch x := v.(type) {
	case string:
		into[x] = true
		words(x, into)
	case map[string]any:
		for _, e := range x {
			texts(e, into)
		}
	case []any:
		for _, e := range x {
			texts(e, into)
		}
	}
}

// twice reports objects that two bundles have.
func (r *run) twice(v *view, add func(Finding)) {
	for _, all := range v.byID {
		for _, i := range all[1:] {
			if i.hook || all[0].hook || i.bundle == all[0].bundle {
				continue
			}
			add(i.finding(DeclaredTwice, "", fmt.Sprintf("bundle %q (%s) has it, too: one of them is not applied", all[0].bundle.name, all[0].file)))
		}
	}
}
