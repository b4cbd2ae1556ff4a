package persons

import (
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

// StampName is the name of the admission policy that stamps the last editor, and of its binding.
const StampName = "last-editor." + api.Group

// StampPolicy are the objects (Kubernetes 1.36 and later) that have the API server write the name of
// the user who changes an object of ours onto it, with the state that the change began from and a mark.
// The mark is another one each time the policy is put in force, so that a stamp of before proves nothing.
// What a request itself says of the stamp is overwritten, also as the object is created and with an update of its status;
// other writes to subresources leave the stamp as it is. Our own user's changes carry none.
// The name is personal data: it stays readable on the object, whatever drift.Input.Person makes of it in episodes.
func StampPolicy(ownUser, mark string) []*unstructured.Unstructured {
	const version = "admissionregistration.k8s.io/v1"
	editor, from := strconv.Quote(api.AnnotationLastEditor), strconv.Quote(api.AnnotationLastEditorFrom)
	generation := `(has(oldObject.metadata.generation) ? string(oldObject.metadata.generation) : "0")`
	differs := func(key string) string {
		of := func(o string) string { return o + `.metadata.?annotations[?` + key + `].orValue("")` }
		return of("object") + ` != ` + of("oldObject")
	}
	// Who ends an opt-out did not make the drift that comes to light with it.
	state := `(request.operation == "CREATE" || ` + differs(strconv.Quote(api.AnnotationDrift)) + ` || ` +
		differs(strconv.Quote(api.AnnotationSSA)) + ` ? "/" : oldObject.metadata.resourceVersion + "/" + ` + generation + `)`
	stamp := `Object{metadata: Object.metadata{annotations: {` + editor + `: request.userInfo.username, ` +
		from + `: ` + state + ` + ` + strconv.Quote("/"+mark) + `}}}`
	policy := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": version, "kind": "MutatingAdmissionPolicy",
		"metadata": map[string]any{"name": StampName},
		"spec": map[string]any{
			"failurePolicy": "Ignore", "reinvocationPolicy": "Never",
			"matchConstraints": map[string]any{
				"objectSelector": map[string]any{"matchExpressions": []any{
					map[string]any{"key": api.LabelPartOf, "operator": "Exists"},
				}},
				"resourceRules": []any{
					stampRule("*", "CREATE", "UPDATE"),
					stampRule("*/*", "UPDATE"),
				},
			},
			"matchConditions": []any{
				map[string]any{
					"name": "not-flotilla", "expression": "request.userInfo.username != " + strconv.Quote(ownUser),
				},
				map[string]any{
					"name":       "whole-object-or-stamp",
					"expression": `!has(request.subResource) || request.subResource == "" || ` + differs(editor) + ` || ` + differs(from),
				},
			},
			"mutations": []any{map[string]any{
				"patchType": "ApplyConfiguration", "applyConfiguration": map[string]any{"expression": stamp},
			}},
		},
	}}
	binding := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": version, "kind": "MutatingAdmissionPolicyBinding",
		"metadata": map[string]any{"name": StampName},
		"spec":     map[string]any{"policyName": StampName},
	}}
	return []*unstructured.Unstructured{policy, binding}
}

func stampRule(resources string, operations ...any) map[string]any {
	return map[string]any{
		"apiGroups": []any{"*"}, "apiVersions": []any{"*"}, "operations": operations, "resources": []any{resources},
	}
}
