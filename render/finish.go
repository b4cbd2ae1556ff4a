package render

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/manifest"
)

// defaultNamespace is where an object goes that names no namespace in a bundle that names none.
const defaultNamespace = "default"

// check refuses what must not be applied.
func check(v *view, b resolved, out built) error {
	made := len(b.newNamespace()) // which is no sign that the sources hold anything
	if len(out.objects) == made && len(out.hooks) == 0 && b.spec.Empty != api.EmptyAllowed {
		return &api.Error{
			Kind: api.Stalled, Reason: "EmptyBundle", File: b.file,
			Err:  fmt.Errorf("bundle %q renders to no object at all", b.name),
			Hint: "to remove it, delete its bundle.yaml or exclude the cluster in spec.targets; to let it render nothing, set spec.empty: allowed",
		}
	}
	for _, o := range out.objects {
		if err := stillEncrypted(o); err != nil {
			return v.placed(err, o)
		}
		if err := orders(o); err != nil {
			return v.placed(err, o)
		}
	}
	for _, h := range out.hooks {
		if err := stillEncrypted(manifest.Object{Unstructured: h.Object, File: h.File, Line: h.Line}); err != nil {
			return err
		}
	}
	return nil
}

// ordersKnown are the annotations by which an object says what flotilla may do with it, with what each may say.
var ordersKnown = map[string][]string{
	api.AnnotationReconcile:       {api.ValueDisabled, api.ValueEnabled},
	api.AnnotationPrune:           {api.ValueDisabled, api.ValueEnabled},
	api.AnnotationForce:           {api.ValueEnabled, api.ValueDisabled},
	api.AnnotationSSA:             {"IfNotPresent", "Merge"},
	api.AnnotationDrift:           {string(api.DriftCorrect), string(api.DriftReport), string(api.DriftIgnore)},
	manifest.AnnotationSubstitute: {api.ValueDisabled, api.ValueEnabled},
	api.AnnotationCheckIgnore:     nil, // any text; flotilla check reads it
}

// orders refuses annotations of ours that mean nothing: who mistypes one that is to protect an object learns it before it is needed.
func orders(o manifest.Object) error {
	for _, key := range slices.Sorted(maps.Keys(o.GetAnnotations())) {
		name, ours := strings.CutPrefix(key, api.Group+"/")
		if !ours || key == api.AnnotationLastEditor || key == api.AnnotationLastEditorFrom {
			continue
		}
		value := o.GetAnnotations()[key]
		e := &api.Error{Kind: api.Stalled, Reason: "UnknownAnnotation", File: o.File, Line: o.Line, Field: "metadata.annotations." + key}
		allowed, known := ordersKnown[key]
		switch {
		case !known:
			e.Err = fmt.Errorf("%s: there is no annotation %q", api.RefOf(o.Unstructured), name)
			e.Hint = "there are " + strings.Join(slices.Sorted(maps.Keys(ordersKnown)), ", ")
		case allowed != nil && !slices.Contains(allowed, value):
			e.Err = fmt.Errorf("%s: %q is not one of %s", api.RefOf(o.Unstructured), value, strings.Join(allowed, ", "))
		default:
			continue
		}
		return e
	}
	return nil
}

// stillEncrypted refuses an object with a value that SOPS encrypted, or with SOPS's metadata.
func stillEncrypted(o manifest.Object) error {
	field := ""
	if _, there := o.Object["sops"]; there {
		field = "sops"
	} else if field = encryptedField(o.Object, ""); field == "" {
		return nil
	}
	return &api.Error{
		Kind: api.Stalled, Reason: "StillEncrypted", File: o.File, Line: o.Line, Field: strings.TrimPrefix(field, "."),
		Err:  fmt.Errorf("%s still holds a value that is encrypted with sops", api.RefOf(o.Unstructured)),
		Hint: "its sops metadata was lost, or it was put into another file after it was encrypted: encrypt the file that Git holds",
	}
}

const sopsMark = "ENC[AES256_GCM,"

// sopsValue is a value that SOPS encrypted, wherever it stands in a text.
var sopsValue = regexp.MustCompile(`ENC\[AES256_GCM,data:[A-Za-z0-9+/=]*,iv:[A-Za-z0-9+/=]+,tag:[A-Za-z0-9+/=]+,type:[a-z]+\]`)

// encrypted reports whether a text is, or holds, a value that SOPS encrypted; base64 is looked into.
func encrypted(s string) bool {
	for range 3 { // a Secret in a Secret in a file
		if strings.HasPrefix(s, sopsMark) || strings.Contains(s, sopsMark) && sopsValue.MatchString(s) {
			return true
		}
		if len(s) < len(sopsMark) || strings.ContainsAny(s[:len(sopsMark)], " .,:{[-_\"") {
			return false // no base64
		}
		plain, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return false
		}
		s = string(plain)
	}
	return false
}

// encryptedField is the path of the first encrypted value, in the order of the keys; empty if there is none.
func encryptedField(v any, at string) string {
	switch x := v.(type) {
	case string:
		if encrypted(x) {
			return at
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(x)) {
			if f := encryptedField(x[k], at+"."+k); f != "" {
				return f
			}
		}
	case []any:
		for _, e := range x {
			if f := encryptedField(e, at); f != "" {
				return f
			}
		}
	}
	return ""
}

// scopes says of kinds whether they are namespaced.
type scopes map[schema.GroupKind]bool

// scopesOf reads the CRDs among objects.
func scopesOf(objects []manifest.Object) scopes {
	var out scopes
	for _, o := range objects {
		if o.GetKind() != "CustomResourceDefinition" {
			continue
		}
		group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(o.Object, "spec", "names", "kind")
		scope, _, _ := unstructured.NestedString(o.Object, "spec", "scope")
		if out == nil {
			out = scopes{}
		}
		out[schema.GroupKind{Group: group, Kind: kind}] = scope == "Namespaced"
	}
	return out
}

// of tells whether a kind is namespaced, and whether that is known at all.
func (s scopes) of(gk schema.GroupKind) (namespaced, known bool) {
	if n, ok := builtinScope(gk); ok { // a CRD that says otherwise is not served
		return n, true
	}
	n, ok := s[gk]
	return n, ok
}

// prepare gives namespaces to the objects whose scope is known within the bundle.
func (e *entry) prepare(b resolved) {
	var defaulted []string
	for i, o := range e.built.objects {
		namespaced, known := e.scopes.of(o.GroupVersionKind().GroupKind())
		if !known {
			e.pending = append(e.pending, i)
			continue
		}
		if setNamespace(o.Unstructured, b.spec.Namespace, namespaced) {
			defaulted = append(defaulted, api.RefOf(o.Unstructured).String())
		}
	}
	for _, h := range e.built.hooks {
		namespaced, known := e.scopes.of(h.Object.GroupVersionKind().GroupKind())
		setNamespace(h.Object, b.spec.Namespace, namespaced || !known)
	}
	if len(defaulted) > 0 && !b.spec.HasChart() {
		e.built.warnings = append(e.built.warnings, fmt.Sprintf(
			"%s: no namespace is given, so it is %q (set metadata.namespace, or spec.namespace in %s)",
			summary(defaulted), defaultNamespace, b.file))
	}
}

func summary(names []string) string {
	if len(names) <= 3 {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), len(names)-3)
}

// finish does what needs to know all bundles: the scopes that their CRDs define, and the tenants' quotas.
// An object may be in two bundles: which of them has it, only the cluster can tell.
func finish(here []resolved, entries []*entry, errs []error) []api.RenderedBundle {
	all := scopes{}
	for _, e := range entries {
		if e == nil {
			continue
		}
		maps.Copy(all, e.scopes)
	}
	out := make([]api.RenderedBundle, len(here))
	for i, b := range here {
		out[i] = api.RenderedBundle{Name: b.name, Dir: b.dir, Spec: b.spec, Tenant: b.tenant, Warnings: b.warnings}
		if errs[i] == nil && entries[i] != nil {
			var final api.RenderedBundle
			if final, errs[i] = entries[i].rendered(b, all); errs[i] == nil {
				out[i] = final
			}
		}
		if errs[i] != nil {
			out[i] = failedBundle(out[i], errs[i])
		}
	}
	limitObjects(here, out)
	return out
}

func failedBundle(b api.RenderedBundle, err error) api.RenderedBundle {
	return api.RenderedBundle{Name: b.Name, Dir: b.Dir, Spec: b.Spec, Tenant: b.Tenant, Warnings: b.Warnings, Err: err}
}

// maxFinals bounds how many forms of one rendering are kept: clusters differ in the CRDs of their other bundles.
const maxFinals = 4

// rendered is the bundle in its final form; the same value as last time if nothing that concerns it changed.
func (e *entry) rendered(b resolved, all scopes) (api.RenderedBundle, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	key := e.answers(all)
	if final := e.finals[key]; final != nil {
		return *final, nil
	}
	objects := slices.Clone(e.built.objects)
	for _, i := range e.pending {
		o := objects[i]
		o.Unstructured = o.DeepCopy()
		namespaced, known := all.of(o.GroupVersionKind().GroupKind())
		setNamespace(o.Unstructured, b.spec.Namespace, namespaced || !known)
		if err := admitObject(b, o); err != nil {
			return api.RenderedBundle{}, err
		}
		objects[i] = o
	}
	slices.SortStableFunc(objects, func(x, y manifest.Object) int {
		return api.CompareRefs(api.RefOf(x.Unstructured), api.RefOf(y.Unstructured))
	})
	final := api.RenderedBundle{
		Name: b.name, Dir: b.dir, Kustomization: e.built.kustomization, Spec: b.spec, Tenant: b.tenant, Hooks: slices.Clone(e.built.hooks), Inputs: e.inputs,
		Warnings: slices.Concat(b.warnings, e.built.warnings),
		Objects:  make([]*unstructured.Unstructured, len(objects)),
		Origin:   make(map[string]string, len(objects)),
	}
	final.Spec.Drift.Ignore = slices.Concat(b.spec.Drift.Ignore, e.built.ignore)
	for i, o := range objects {
		ref := api.RefOf(o.Unstructured)
		if first, twice := final.Origin[ref.ID()]; twice {
			return api.RenderedBundle{}, b.duplicateObject(ref, o, first)
		}
		final.Origin[ref.ID()] = o.File
		final.Objects[i] = o.Unstructured
	}
	slices.SortStableFunc(final.Hooks, compareHooks)
	final.Digest = bundleDigest(final, e.built)
	if len(e.finals) >= maxFinals {
		clear(e.finals)
	}
	e.finals[key] = &final
	return final, nil
}

func (b resolved) duplicateObject(ref api.ObjectRef, again manifest.Object, first string) error {
	e := &api.Error{
		Kind: api.Stalled, Reason: "DuplicateObject", File: again.File, Line: again.Line,
		Err: fmt.Errorf("%s is also in %s", ref, first),
	}
	if b.spec.Namespace.Override != "" {
		e.Hint = "spec.namespace.override puts objects of several namespaces into one: two of them must not have one name"
	}
	return e
}

// compareHooks orders hooks as Helm does, by weight. Which of them are of one moment depends on what is there already,
// and so does the order of those of one weight: both are for whoever runs them.
func compareHooks(a, b api.Hook) int {
	return cmp.Or(cmp.Compare(a.Weight, b.Weight), api.CompareRefs(api.RefOf(a.Object), api.RefOf(b.Object)))
}

// answers is what the cluster's CRDs say about the pending objects.
func (e *entry) answers(all scopes) string {
	var b strings.Builder
	for _, i := range e.pending {
		n, known := all.of(e.built.objects[i].GroupVersionKind().GroupKind())
		fmt.Fprint(&b, n, known, ";")
	}
	return b.String()
}

// bundleDigest covers objects, hooks and spec. Fields that differ each time are left out.
func bundleDigest(b api.RenderedBundle, from built) string {
	h := sha256.New()
	enc := json.NewEncoder(h)
	_ = enc.Encode(b.Spec) // writing to a hash cannot fail, and all of these come from YAML
	for _, o := range b.Objects {
		ref := api.RefOf(o)
		for _, r := range from.ignore {
			if r.Target.Kind == ref.Kind && r.Target.Group == ref.Group && r.Target.Name == ref.Name {
				o = without(o, r.Paths)
			}
		}
		_ = enc.Encode(o.Object)
	}
	for _, k := range b.Hooks {
		k.Object = without(k.Object, from.unstable[k.Object])
		_ = enc.Encode(k)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
