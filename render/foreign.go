package render

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/manifest"
)

// foreignMark is an annotation or a label by which another tool is told what to do.
type foreignMark struct {
	// key is the whole key; one that ends with * stands for all keys that begin so.
	key string
	// instead says what is written for flotilla, given the value; empty where nothing is lost.
	instead func(value string) string
}

// foreignMarks are those that people bring along. What flotilla heeds itself (see api.Keeps) is left out by lost.
var foreignMarks = []foreignMark{
	{"argocd.argoproj.io/sync-wave", always("objects are applied by kind, and bundles after those in spec.dependsOn")},
	{"argocd.argoproj.io/hook", always("hooks are those of charts, with helm.sh/hook; anything else is applied as an object")},
	{api.AnnotationArgoSync, insteadOfOptions},
	{"argocd.argoproj.io/compare-options", func(v string) string {
		if slices.Contains(words(v), "IgnoreExtraneous") {
			return "spec.drift.extra says what becomes of what is not in Git"
		}
		return ""
	}},
	{"argocd.argoproj.io/ignore-healthcheck", on("true", "write spec.wait: false, or a check in spec.health")},
	{"kustomize.toolkit.fluxcd.io/reconcile", on(api.ValueDisabled, write(api.AnnotationReconcile, api.ValueDisabled))},
	{api.AnnotationFluxPrune, on(api.ValueDisabled, write(api.AnnotationPrune, api.ValueDisabled))},
	{"kustomize.toolkit.fluxcd.io/force", on(api.ValueEnabled, write(api.AnnotationForce, api.ValueEnabled))},
	{"kustomize.toolkit.fluxcd.io/ssa", func(v string) string {
		switch strings.ToLower(v) {
		case "merge":
			return write(api.AnnotationSSA, "Merge")
		case "ifnotpresent":
			return write(api.AnnotationSSA, "IfNotPresent")
		case "ignore":
			return write(api.AnnotationReconcile, api.ValueDisabled)
		}
		return ""
	}},
	{fluxSubstitute, on(api.ValueDisabled, write(manifest.AnnotationSubstitute, api.ValueDisabled))},
	{"helm.toolkit.fluxcd.io/driftDetection", on(api.ValueDisabled, write(api.AnnotationDrift, string(api.DriftIgnore)))},
	{api.AnnotationHelmPolicy, func(v string) string {
		if v = strings.TrimSpace(v); v == "" || strings.EqualFold(v, "keep") {
			return ""
		}
		return `the only value that counts is "keep"`
	}},
	{"helm.sh/hook", func(v string) string {
		if slices.Contains(words(v), "crd-install") {
			return "" // in charts that were made for Helm 2, beside what Helm 3 reads
		}
		return "hooks are run for charts only: render it as one with spec.helm"
	}},
	{"objectset.rio.cattle.io/*", always("Rancher Fleet knows its own objects by it: take it out of Git")},
	{"config.kubernetes.io/depends-on", always("objects are applied by kind, and bundles after those in spec.dependsOn")},
	{"config.kubernetes.io/local-config", func(v string) string {
		if v == "false" {
			return ""
		}
		return "the object is applied: take it out of the bundle's directory"
	}},
	{"client.lifecycle.config.k8s.io/deletion", on("detach", write(api.AnnotationPrune, api.ValueDisabled))},
	{"client.lifecycle.config.k8s.io/mutation", on("ignore", write(api.AnnotationSSA, "IfNotPresent"))},
	{"configmanagement.gke.io/managed", on(api.ValueDisabled, write(api.AnnotationReconcile, api.ValueDisabled))},
	{"kapp.k14s.io/change-rule*", always("objects are applied by kind, and bundles after those in spec.dependsOn")},
	{"kapp.k14s.io/delete-strategy", on("orphan", write(api.AnnotationPrune, api.ValueDisabled))},
	{"kapp.k14s.io/update-strategy", func(v string) string {
		if strings.HasSuffix(v, "replace") {
			return write(api.AnnotationForce, api.ValueEnabled)
		}
		return ""
	}},
}

const fluxSubstitute = "kustomize.toolkit.fluxcd.io/substitute"

func always(instead string) func(string) string { return func(string) string { return instead } }

func on(value, instead string) func(string) string {
	return func(v string) string {
		if strings.EqualFold(v, value) {
			return instead
		}
		return ""
	}
}

func write(annotation, value string) string {
	return "write the annotation " + annotation + ": " + value
}

// words are the items of a list with commas.
func words(s string) []string {
	out := strings.Split(s, ",")
	for i := range out {
		out[i] = strings.TrimSpace(out[i])
	}
	return out
}

// insteadOfOptions is for Argo CD's sync options. Those that ask for what flotilla does anyway are not lost.
func insteadOfOptions(v string) string {
	var out []string
	for _, option := range words(v) {
		switch option {
		case "Replace=true", "Force=true":
			out = append(out, "for "+option+" "+write(api.AnnotationForce, api.ValueEnabled))
		case "PruneLast=true":
			out = append(out, option+" is so of a bundle, and spec.dependsOn says it of several")
		case "ServerSideApply=false", "Validate=false":
			out = append(out, "instead of "+option+" objects are applied by server-side apply, and validated")
		}
	}
	return strings.Join(out, "; ")
}

// lost says what is written instead of a mark; empty where the mark is another's affair, or flotilla heeds it.
func lost(b resolved, o *unstructured.Unstructured, key, value string, label bool) string {
	switch {
	case key == fluxSubstitute && !b.spec.Substitute:
		return ""
	case key == api.AnnotationFluxPrune && (!label || api.Keeps(o.GetAnnotations()) != ""):
		return "" // the annotation is heeded
	case label && !strings.HasPrefix(key, "kustomize.toolkit.fluxcd.io/") && !strings.HasPrefix(key, "objectset.rio.cattle.io/"):
		return "" // no tool reads the others among labels
	}
	for _, m := range foreignMarks {
		prefix, all := strings.CutSuffix(m.key, "*")
		if key == m.key || all && strings.HasPrefix(key, prefix) {
			return m.instead(value)
		}
	}
	return ""
}

// foreignMarkWarnings names what other tools heed on the bundle's objects and flotilla does not: each key once, with what is written instead.
func foreignMarkWarnings(v *view, b resolved, objects []manifest.Object) []string {
	type first struct {
		at      manifest.Object
		what    string
		instead string
		more    int
	}
	found := map[string]*first{}
	var order []string
	note := func(o manifest.Object, kind string, marks map[string]string) {
		for _, key := range slices.Sorted(maps.Keys(marks)) {
			instead := lost(b, o.Unstructured, key, marks[key], kind == "label")
			if instead == "" {
				continue
			}
			id := key + "\x00" + instead
			if found[id] == nil {
				found[id] = &first{at: o, what: kind + " " + key, instead: instead}
				order = append(order, id)
				continue
			}
			found[id].more++
		}
	}
	for _, o := range objects {
		note(o, "annotation", o.GetAnnotations())
		note(o, "label", o.GetLabels())
	}
	var out []string
	for _, id := range order {
		f := found[id]
		more := ""
		if f.more > 0 {
			more = fmt.Sprintf(" (and on %d more)", f.more)
		}
		key, _, _ := strings.Cut(id, "\x00")
		out = append(out, fmt.Sprintf("%s: the %s on %s%s has no effect: %s",
			placeOf(v, f.at, key), f.what, api.RefOf(f.at.Unstructured), more, f.instead))
	}
	return out
}

// placeOf is where a key is written: the first line from the object's on that has it, else the object's.
func placeOf(v *view, o manifest.Object, key string) string {
	start := v.lineOf(o)
	line := start
	if data, err := v.tree.ReadFile(o.File); err == nil { // as it is in Git, which is what people look at
		n := 0
		for text := range strings.Lines(string(data)) {
			if n++; n >= start && strings.Contains(text, key) {
				line = n
				break
			}
		}
	}
	if line == 0 {
		return o.File
	}
	return fmt.Sprintf("%s:%d", o.File, line)
}
