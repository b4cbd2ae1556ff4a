package render

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/manifest"
)

// deniedf is an error about a field of the bundle's file that its tenant may not have.
func (b resolved) deniedf(field, format string, args ...any) *api.Error {
	e := b.errorf(field, format, args...)
	e.Kind, e.Reason = api.Forbidden, api.ReasonTenantDenied
	return e
}

// bind gives a tenant's bundle what it is bound to, and says what of its own words it may not have.
func (b *resolved) bind(said api.BundleSpec) error {
	t := b.tenant
	if t == nil {
		return nil
	}
	account := t.ServiceAccount
	b.spec.ServiceAccount = &account
	if s := said.ServiceAccount; s != nil && *s != account {
		return b.deniedf("spec.serviceAccount", "tenant %q is applied as the service account %s/%s, and not as %s/%s",
			t.Name, account.Namespace, account.Name, s.Namespace, s.Name)
	}
	if !t.AdmitsDrift(said.Drift.Mode) {
		return b.deniedf("spec.drift.mode", "tenant %q may not choose the drift mode %q", t.Name, said.Drift.Mode)
	}
	if len(said.Drift.Ignore) > 0 && !t.AdmitsDrift(api.DriftIgnore) {
		return b.deniedf("spec.drift.ignore", "tenant %q may not have drift ignored", t.Name)
	}
	for _, x := range b.sources() {
		if x.helm == nil {
			continue
		}
		if repo, name, remote := remoteChart(x.helm); remote && !t.AdmitsChart(repo, name) {
			return b.deniedf(x.field+".chart", "tenant %q may not have the chart %s/%s: its charts come from %s",
				t.Name, strings.TrimSuffix(repo, "/"), name, orNowhere(t.Charts))
		}
	}
	return nil
}

func orNowhere(places []string) string {
	if len(places) == 0 {
		return "its own path alone"
	}
	return strings.Join(places, ", ")
}

// admit says what of a bundle's objects and hooks its tenant may not have.
// What only other bundles' CRDs know the scope of is left for later.
func (e *entry) admit(v *view, b resolved) error {
	if b.tenant == nil {
		return nil
	}
	for i, o := range e.built.objects {
		if slices.Contains(e.pending, i) {
			e.built.objects[i].Line = v.lineOf(o) // nobody can look later
			continue
		}
		if err := admitObject(b, o); err != nil {
			return v.placed(err, o)
		}
	}
	for _, h := range e.built.hooks {
		if err := admitObject(b, manifest.Object{Unstructured: h.Object, File: h.File, Line: h.Line}); err != nil {
			return err
		}
	}
	return nil
}

// admitObject says why the bundle's tenant may not have an object, whose namespace is set if it needs one.
func admitObject(b resolved, o manifest.Object) error {
	t := b.tenant
	if t == nil {
		return nil
	}
	ref := api.RefOf(o.Unstructured)
	fail := func(field string, err error) error {
		return &api.Error{Kind: api.Forbidden, Reason: api.ReasonTenantDenied, File: o.File, Line: o.Line, Field: field, Err: err}
	}
	if err := t.Admits(ref, ref.Namespace != ""); err != nil {
		return fail("", err)
	}
	if field, err := admitMetadata(t, o); err != nil {
		return fail(field, err)
	}
	if ref.Group == api.Group {
		if err := admitSuspension(b, o); err != nil {
			return fail("spec.scope", err)
		}
	}
	var bad error
	walk(o.Object, "", func(key string, v any) {
		switch image := imageOf(key, v); {
		case bad != nil:
		case image != "" && !t.AdmitsImage(image):
			bad = fail("", fmt.Errorf("tenant %q may not run the image %q in %s: its images come from %s", t.Name, image, ref, strings.Join(t.Images, ", ")))
		case key == "labels":
			if label := ownLabel(v); label != "" {
				bad = fail("", fmt.Errorf("tenant %q may not set the label %s in %s: it says whose an object is", t.Name, label, ref))
			}
		}
	})
	return bad
}

// walk calls f for every value in v, with the key that it, or the list that it is in, stands under.
func walk(v any, key string, f func(key string, v any)) {
	f(key, v)
	switch x := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(x)) {
			walk(x[k], k, f)
		}
	case []any:
		for _, e := range x {
			walk(e, key, f)
		}
	}
}

// imageOf returns what a container, or a volume that is an image, runs or mounts; empty if v is neither.
func imageOf(key string, v any) string {
	m, ok := v.(map[string]any)
	if !ok {
		return ""
	}
	image := ""
	switch key {
	case "containers", "initContainers", "ephemeralContainers":
		image, _ = m["image"].(string)
	case "volumes":
		image, _, _ = unstructured.NestedString(m, "image", "reference")
	}
	return image
}

// ownLabel returns a label among those of v that only flotilla writes.
func ownLabel(v any) string {
	m, _ := v.(map[string]any)
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if strings.HasPrefix(key, api.Group+"/") || strings.HasPrefix(key, "applyset.kubernetes.io/") {
			return key
		}
	}
	return ""
}

// admitMetadata says which annotation of ours a tenant's object may not carry.
func admitMetadata(t *api.Tenant, o manifest.Object) (field string, err error) {
	annotations := o.GetAnnotations()
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		field = "metadata.annotations." + key
		_, known := ordersKnown[key]
		switch {
		case strings.HasPrefix(key, "applyset.kubernetes.io/"), strings.HasPrefix(key, api.Group+"/") && !known:
			return field, fmt.Errorf("tenant %q may not set it on %s: only flotilla writes it", t.Name, api.RefOf(o.Unstructured))
		case !known:
		case t.Rights.Annotations != nil && !slices.Contains(*t.Rights.Annotations, key),
			key == api.AnnotationDrift && !t.AdmitsDrift(api.DriftMode(annotations[key])):
			return field, fmt.Errorf("tenant %q has no right to set it to %q on %s", t.Name, annotations[key], api.RefOf(o.Unstructured))
		}
	}
	return "", nil
}

// admitSuspension refuses a Suspension of anything but the tenant's own bundles.
func admitSuspension(b resolved, o manifest.Object) error {
	s, err := api.DecodeSuspension(o.Unstructured)
	if err != nil {
		return err
	}
	for _, name := range s.Scope.Bundles {
		if !slices.Contains(b.siblings, name) {
			return fmt.Errorf("tenant %q may not suspend bundle %q: it is not its own", b.tenant.Name, name)
		}
	}
	if len(s.Scope.Bundles) == 0 {
		return fmt.Errorf("tenant %q may suspend its own bundles, by their names, and not %s", b.tenant.Name, s.Scope)
	}
	return nil
}

// limitBundles fails the bundles of each tenant that are more than it may have on a cluster:
// first those that the cluster does not have yet, and of these the last by name.
func limitBundles(here []resolved, holders map[string]string) {
	byTenant := map[string][]*resolved{}
	for i := range here {
		b := &here[i]
		if b.tenant == nil {
			continue
		}
		holder, held := holders[b.name]
		b.held = held && holder == b.tenant.Name
		if b.tenant.Quotas.Bundles > 0 {
			byTenant[b.tenant.Name] = append(byTenant[b.tenant.Name], b)
		}
	}
	for tenant, bundles := range byTenant {
		slices.SortStableFunc(bundles, func(a, b *resolved) int { return yesFirst(a.held, b.held) })
		most := bundles[0].tenant.Quotas.Bundles
		for _, b := range bundles[min(most, len(bundles)):] {
			b.err = cmp.Or(b.err, error(b.deniedf("metadata.name", "tenant %q may have %d bundles on a cluster, and this is one more", tenant, most)))
		}
	}
}

// limitObjects fails the bundles with which a tenant would have more objects on a cluster than it may: the last of them by name.
func limitObjects(here []resolved, bundles []api.RenderedBundle) {
	count := map[string]int{}
	for i, b := range bundles {
		if b.Tenant == nil || b.Tenant.Quotas.Objects == 0 || b.Err != nil {
			continue
		}
		n, most := len(b.Objects)+len(b.Hooks), b.Tenant.Quotas.Objects
		if count[b.Tenant.Name]+n > most {
			bundles[i] = failedBundle(b, here[i].deniedf("", "tenant %q may have %d objects on a cluster: it has %d in bundles before this one, and %d here",
				b.Tenant.Name, most, count[b.Tenant.Name], n))
			continue
		}
		count[b.Tenant.Name] += n
	}
}
