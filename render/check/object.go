package check

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/compare"
	"github.com/flotilla-fleet/flotilla/render/schemas"
)

// bundle is one rendering of a bundle, on whatever clusters it is.
type bundle struct {
	name, digest string
	items        []*item
	// findings are those that need nothing but the bundle.
	findings []Finding
}

// item is one object of a bundle, or one of its hooks.
type item struct {
	bundle *bundle
	object *unstructured.Unstructured
	ref    api.ObjectRef
	file   string
	hook   bool
	// builtin says that the group is one of Kubernetes' own, and foreign that it is none of every cluster's.
	builtin, foreign bool
	// mentions are what may be names of something that an operator, a controller or a job makes.
	mentions map[string]bool
	pod      *pod // nil: the object makes no pods
	// unclear says that its form is so wrong that it may be meant to make pods.
	unclear bool
	wants   []want
	// verdicts of Pod Security Standards, and of definitions, which clusters share.
	security map[string][]Finding
	custom   map[*definition][]Finding
}

// finding is one about the item.
func (i *item) finding(reason Reason, field, message string) Finding {
	ref := i.ref
	return Finding{Reason: reason, Bundle: i.bundle.name, File: i.file, Object: &ref, Field: field, Message: message}
}

// namespace is where the item is; what says nothing is where kubectl would put it.
func (i *item) namespace() string {
	if i.ref.Namespace == "" {
		return "default"
	}
	return i.ref.Namespace
}

func (r *run) newBundle(b *api.RenderedBundle) *bundle {
	out := &bundle{name: b.Name, digest: b.Digest}
	for _, o := range b.Objects {
		r.newItem(out, b, o, b.Origin[api.RefOf(o).ID()], false)
	}
	for _, h := range b.Hooks {
		r.newItem(out, b, h.Object, h.File, true)
	}
	for _, w := range b.Warnings {
		if !strings.HasPrefix(w, "spec.targets.") { // UnknownCluster says it once for all clusters
			out.findings = append(out.findings, Finding{Reason: RenderWarning, Bundle: b.Name, File: fileOf(b), Message: w})
		}
	}
	out.findings = append(out.findings, r.plainSecrets(out, b)...)
	return out
}

// fileOf is the bundle.yaml of a bundle; of an implicit one its kustomization.
func fileOf(b *api.RenderedBundle) string {
	if b.Kustomization != "" && b.Name == api.ClusterBundle {
		return b.Kustomization
	}
	return path.Join(b.Dir, "bundle.yaml")
}

func (r *run) newItem(b *bundle, rendered *api.RenderedBundle, o *unstructured.Unstructured, file string, hook bool) {
	ref := api.RefOf(o)
	i := &item{
		bundle: b, object: o, ref: ref, hook: hook, file: cmp.Or(file, fileOf(rendered)), builtin: r.builtin.KnowsGroup(ref.Group),
		security: map[string][]Finding{}, custom: map[*definition][]Finding{},
	}
	i.foreign = !i.builtin && !slices.Contains(served, ref.Group)
	b.items = append(b.items, i)
	forms, sound := r.form(i)
	b.findings = append(b.findings, forms...)
	i.pod = podOf(o)
	i.unclear = !sound && i.pod == nil
	i.mentions = i.mention()
	i.wants = wantsOf(i)
	b.findings = append(b.findings, i.images()...)
	if sound {
		b.findings = append(b.findings, i.ownPods()...)
	}
}

// served are groups of every cluster that are not among client-go's: there is no schema for them.
var served = []string{crds, "apiregistration.k8s.io", api.Group}

// form checks an object of one of Kubernetes' own kinds against its schema.
func (r *run) form(i *item) (found []Finding, sound bool) {
	gvk := i.object.GroupVersionKind()
	life := r.builtin.Lifecycle(gvk)
	kind := fmt.Sprintf("%s %s", gvk.GroupVersion(), gvk.Kind)
	use := ""
	if !life.Use.Empty() {
		use = "use " + life.Use.GroupVersion().String() + " " + life.Use.Kind
	}
	switch {
	case life.Removed > 0 && r.KubeMinor >= life.Removed:
		f := i.finding(RemovedAPI, "apiVersion", fmt.Sprintf("Kubernetes 1.%d has no %s: it went with 1.%d", r.KubeMinor, kind, life.Removed))
		f.Do = use
		return []Finding{f}, false
	case life.Removed > 0 && life.Deprecated > 0 && r.KubeMinor >= life.Deprecated:
		f := i.finding(DeprecatedAPI, "apiVersion", fmt.Sprintf("%s goes with Kubernetes 1.%d", kind, life.Removed))
		f.Do = use
		found = append(found, f)
	}
	if !i.builtin {
		return found, true // see customs
	}
	if !r.builtin.Knows(gvk) {
		if r.KubeMinor > schemas.Version {
			return found, false
		}
		return append(found, i.finding(UnknownKind, "apiVersion", fmt.Sprintf("Kubernetes 1.%d has no %s", schemas.Version, kind))), false
	}
	problems := r.builtin.Check(i.object)
	for _, p := range problems {
		if r.KubeMinor > schemas.Version && p.Kind == schemas.UnknownField {
			continue // it may be new there
		}
		found = append(found, i.finding(reasonOf(p.Kind), p.Field, p.Message))
	}
	return found, len(problems) == 0
}

func reasonOf(kind schemas.ProblemKind) Reason {
	if kind == schemas.UnknownField {
		return UnknownField
	}
	return BadValue
}

// pod is what an object makes pods from.
type pod struct {
	at                  string // the path of its spec
	spec                corev1.PodSpec
	labels, annotations map[string]string
}

// templates says where the pods of a kind are described.
var templates = map[string][]string{
	"/Pod": {}, "/ReplicationController": {"spec", "template"}, "apps/Deployment": {"spec", "template"}, "apps/ReplicaSet": {"spec", "template"},
	"apps/DaemonSet": {"spec", "template"}, "apps/StatefulSet": {"spec", "template"}, "batch/Job": {"spec", "template"},
	"batch/CronJob": {"spec", "jobTemplate", "spec", "template"},
}

// podOf returns what an object makes pods from; nil if it makes none.
func podOf(o *unstructured.Unstructured) *pod {
	path, ok := templates[o.GroupVersionKind().Group+"/"+o.GetKind()]
	if !ok {
		return nil
	}
	in, _, err := unstructured.NestedMap(o.Object, path...)
	if len(path) == 0 {
		in, err = o.Object, nil
	}
	if err != nil {
		return nil
	}
	var t corev1.PodTemplateSpec
	if runtime.DefaultUnstructuredConverter.FromUnstructured(map[string]any{"metadata": in["metadata"], "spec": in["spec"]}, &t) != nil {
		return nil
	}
	return &pod{at: strings.Join(append(slices.Clone(path), "spec"), "."), spec: t.Spec, labels: t.Labels, annotations: t.Annotations}
}

// container is one of a pod's, with its path.
type container struct {
	corev1.Container
	at string
}

func (p *pod) containers() []container {
	var out []container
	for _, c := range p.spec.InitContainers {
		out = append(out, container{c, p.at + ".initContainers.[name=" + c.Name + "]"})
	}
	for _, c := range p.spec.Containers {
		out = append(out, container{c, p.at + ".containers.[name=" + c.Name + "]"})
	}
	return out
}

// images reports images that are another one tomorrow.
func (i *item) images() []Finding {
	if i.pod == nil {
		return nil
	}
	var out []Finding
	for _, c := range i.pod.containers() {
		_, tag := compare.SplitImage(c.Image)
		switch {
		case strings.Contains(c.Image, "@") || c.Image == "":
		case tag == "":
			out = append(out, i.finding(UnpinnedImage, c.at+".image", fmt.Sprintf("image %q has neither tag nor digest, which means latest", c.Image)))
		case tag == "latest":
			out = append(out, i.finding(UnpinnedImage, c.at+".image", fmt.Sprintf("image %q is another one whenever it is pushed", c.Image)))
		}
	}
	return out
}
