package drift

import (
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

// StampName is the name of the admission policy that stamps the last editor, and of its binding.
const StampName = "last-editor." + api.Group

// StampPolicy are the objects (Kubernetes 1.36 and later) that have the API server write the name of
// the user who changes an object of ours onto it, with the state that the change began from.
// Our own user's changes carry no stamp. The name is personal data: it stays readable on the object,
// whatever Input.Person makes of it in episodes.
func StampPolicy(ownUser string) []*unstructured.Unstructured {
	const version = "admissionregistration.k8s.io/v1"
	generation := `(has(oldObject.metadata.generation) ? string(oldObject.metadata.generation) : "0")`
	stamp := `Object{metadata: Object.metadata{annotations: {` +
		strconv.Quote(api.AnnotationLastEditor) + `: request.userInfo.username, ` +
		strconv.Quote(api.AnnotationLastEditorFrom) + `: oldObject.metadata.resourceVersion + "/" + ` + generation + `}}}`
	policy := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": version, "kind": "MutatingAdmissionPolicy",
		"metadata": map[string]any{"name": StampName},
		"spec": map[string]any{
			"failurePolicy": "Ignore", "reinvocationPolicy": "Never",
			"matchConstraints": map[string]any{
				"objectSelector": map[string]any{"matchExpressions": []any{
					map[string]any{"key": api.LabelPartOf, "operator": "Exists"},
				}},
				"resourceRules": []any{map[string]any{
					"apiGroups": []any{"*"}, "apiVersions": []any{"*"}, "operations": []any{"UPDATE"}, "resources": []any{"*"},
				}},
			},
			"matchConditions": []any{map[string]any{
				"name": "not-flotilla", "expression": "request.userInfo.username != " + strconv.Quote(ownUser),
			}},
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
