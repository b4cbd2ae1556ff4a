package drift

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/api/fieldpath"
)

// managers are tools of all kinds.
var twinManagers = []string{"kubectl-edit", "kubectl-client-side-apply", "kubectl-patch", "HashiCorp", "Lens", "k9s", "helm", "pulumi-kubernetes"}

// spoil does something random to an object. It reports false if the API server does not take it, or nothing changes.
func (s *player) spoil(p *pair) bool {
	live := s.live(p)
	manager := twinManagers[s.rand.IntN(len(twinManagers))]
	ctx, name := s.t.Context(), p.desired.GetName()
	var (
		said string
		err  error
	)
	switch n := s.rand.IntN(40); {
	case n == 0 && p.desired.GetKind() != "CustomResourceDefinition":
		if err = p.at.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			return false
		}
		s.log = "deleted; "
		s.gone(p)
		if s.rand.IntN(2) == 0 {
			s.log = "made anew by " + manager + "; "
			_, err = p.at.Create(ctx, p.desired.DeepCopy(), metav1.CreateOptions{FieldManager: manager})
		}
		return err == nil
	case n == 1 && slices.Contains([]string{"Deployment", "StatefulSet", "Thing"}, live.GetKind()):
		said = "scaled by " + manager
		_, err = p.at.Patch(ctx, name, types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, 4+s.rand.IntN(3)), metav1.PatchOptions{FieldManager: manager}, "scale")
		return s.did(said, err)
	case n == 2 && live.GetKind() == "HorizontalPodAutoscaler":
		said = "patched in autoscaling/v1 by " + manager
		gvr := schema.GroupVersionResource{Group: "autoscaling", Version: "v1", Resource: p.gvr.Resource}
		_, err = s.Dynamic.Resource(gvr).Namespace(s.NS).Patch(ctx, name, types.MergePatchType, []byte(`{"spec":{"maxReplicas":7},"metadata":{"labels":{"v1":"x"}}}`), metav1.PatchOptions{FieldManager: manager})
		return s.did(said, err)
	}
	next := live.DeepCopy()
	for range 1 + s.rand.IntN(2) {
		said += s.mutate(next.Object) + " "
	}
	if cmp.Equal(s.content(live), s.content(next)) {
		return false
	}
	switch how := s.rand.IntN(3); how {
	case 0:
		said += "by PUT of " + manager
		next.SetManagedFields(nil)
		_, err = p.at.Update(ctx, next, metav1.UpdateOptions{FieldManager: manager})
	case 1:
		said += "by an apply of " + manager
		for _, field := range []string{"managedFields", "resourceVersion", "uid", "creationTimestamp", "generation"} {
			unstructured.RemoveNestedField(next.Object, "metadata", field)
		}
		delete(next.Object, "status")
		_, err = p.at.Apply(ctx, name, next, metav1.ApplyOptions{FieldManager: manager, Force: true})
	default:
		said += "by a patch of " + manager
		patch, perr := mergePatch(live.Object, next.Object)
		if perr != nil {
			s.t.Fatal(perr)
		}
		_, err = p.at.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: manager})
	}
	return s.did(said, err)
}

// did notes an edit, unless the API server did not take it.
func (s *player) did(said string, err error) bool {
	if err == nil {
		s.log += said + "; "
	}
	return err == nil
}

// mergePatch is a JSON merge patch (RFC 7386) from one object to another.
func mergePatch(a, b map[string]any) ([]byte, error) {
	var diff func(a, b map[string]any) map[string]any
	diff = func(a, b map[string]any) map[string]any {
		out := map[string]any{}
		for k := range a {
			if _, stays := b[k]; !stays {
				out[k] = nil
			}
		}
		for k, v := range b {
			x, okX := a[k].(map[string]any)
			y, okY := v.(map[string]any)
			switch {
			case fieldpath.Equal(a[k], v):
			case okX && okY:
				out[k] = diff(x, y)
			default:
				out[k] = v
			}
		}
		return out
	}
	return json.Marshal(diff(a, b))
}

// additions are fields of well-known kinds that somebody may add, by the map that they are added to.
var twinAdditions = map[string][]any{
	"spec":            {"paused", true, "minReadySeconds", int64(7), "sessionAffinity", "ClientIP", "revisionHistoryLimit", int64(4), "priorityClassName", "system-node-critical", "level", int64(9), "acquireTime", nil},
	"securityContext": {"runAsUser", int64(7), "privileged", true, "runAsNonRoot", true},
	"resources":       {"requests", map[string]any{"cpu": "10m"}},
	"emptyDir":        {"medium", "Memory"},
	"strategy":        {"rollingUpdate", map[string]any{"maxSurge": int64(3), "maxUnavailable": int64(1)}},
}

// mutate changes something at a random place of an object, and says what.
func (s *player) mutate(o map[string]any) string {
	var keys []string
	for k := range o {
		if k != "apiVersion" && k != "kind" && k != "status" {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	key := keys[s.rand.IntN(len(keys))]
	if key == "metadata" {
		md := o["metadata"].(map[string]any)
		key = []string{"labels", "annotations"}[s.rand.IntN(2)]
		m, _ := md[key].(map[string]any)
		if m == nil {
			m = map[string]any{}
			md[key] = m
		}
		if s.rand.IntN(8) == 0 && key == "annotations" {
			delete(md, key)
			return "metadata." + key + " removed,"
		}
		return "metadata." + key + s.inMap(key, m)
	}
	switch v := o[key].(type) {
	case map[string]any:
		return key + s.inMap(key, v)
	case []any:
		l, said := s.inList(v)
		o[key] = l
		return key + said
	default:
		o[key] = s.another(v)
		return key + " changed,"
	}
}

func (s *player) inMap(name string, m map[string]any) string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	keys = slices.DeleteFunc(keys, func(k string) bool {
		return k == api.LabelPartOf || k == api.LabelBundle // they say whose the object is: another tool's is left alone
	})
	if n := s.rand.IntN(6); n == 0 || len(keys) == 0 {
		if more := twinAdditions[name]; len(more) > 0 {
			i := 2 * s.rand.IntN(len(more)/2)
			m[more[i].(string)] = more[i+1]
			return fmt.Sprintf(".%s added,", more[i])
		}
		m["extra"] = "eHg="
		return ".extra added,"
	}
	k := keys[s.rand.IntN(len(keys))]
	if s.rand.IntN(6) == 0 {
		delete(m, k)
		return "." + k + " removed,"
	}
	switch v := m[k].(type) {
	case map[string]any:
		return "." + k + s.inMap(k, v)
	case []any:
		l, said := s.inList(v)
		m[k] = l
		return "." + k + said
	default:
		m[k] = s.another(v)
		return "." + k + " changed,"
	}
}

func (s *player) inList(l []any) ([]any, string) {
	if len(l) == 0 {
		return append(l, "extra"), "[] added,"
	}
	i := s.rand.IntN(len(l))
	switch s.rand.IntN(6) {
	case 0:
		return slices.Delete(slices.Clone(l), i, i+1), fmt.Sprintf("[%d] removed,", i)
	case 1:
		if m, ok := l[i].(map[string]any); ok {
			m = runtime.DeepCopyJSON(m)
			for _, k := range []string{"name", "port", "containerPort", "host", "mountPath"} {
				if v, ok := m[k]; ok {
					m[k] = s.another(v)
				}
			}
			return append(slices.Clone(l), m), "[] added,"
		}
		return append(slices.Clone(l), s.another(l[i])), "[] added,"
	}
	switch v := l[i].(type) {
	case map[string]any:
		return l, fmt.Sprintf("[%d]%s", i, s.inMap("", v))
	case []any:
		in, said := s.inList(v)
		l[i] = in
		return l, fmt.Sprintf("[%d]%s", i, said)
	default:
		l[i] = s.another(v)
		return l, fmt.Sprintf("[%d] changed,", i)
	}
}

// another is a value of the same type.
func (s *player) another(v any) any {
	switch v := v.(type) {
	case string:
		return []string{v + "x", "zz", "2", "eHg=", "true", "Always"}[s.rand.IntN(6)]
	case int64:
		return v + 1 + int64(s.rand.IntN(3))
	case float64:
		return v + 1
	case bool:
		return !v
	}
	return v
}
