package health

import (
	"fmt"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/ext"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"

	"github.com/flotilla-fleet/flotilla/api"
)

// Status is the one word for an object's health.
type Status string

// The statuses.
const (
	Ready      Status = "ready"
	InProgress Status = "inProgress"
	Failed     Status = "failed"
)

// costLimit bounds the evaluation of one expression.
const costLimit = 1_000_000

// check is a compiled api.HealthCheck.
type check struct {
	failed, inProgress, current cel.Program
	// err is why it could not be compiled, and field the expression that could not.
	err   error
	field string
}

// Validate reports expressions that do not compile or do not give a truth value.
// The error's field is the path of the expression in a bundle.yaml.
func Validate(checks []api.HealthCheck) error {
	for i, c := range checks {
		if k := compile(c); k.err != nil {
			return &api.Error{Kind: api.Stalled, Reason: "BadHealthCheck", Field: fmt.Sprintf("spec.health.%d%s", i, k.field), Err: k.err}
		}
	}
	return nil
}

func compile(c api.HealthCheck) check {
	env, err := cel.NewEnv(cel.Variable("self", cel.DynType), ext.Strings(), ext.Lists(), cel.OptionalTypes())
	if err != nil {
		return check{err: err}
	}
	var k check
	for _, e := range []struct {
		field, expression string
		into              *cel.Program
	}{{"failed", c.Failed, &k.failed}, {"inProgress", c.InProgress, &k.inProgress}, {"current", c.Current, &k.current}} {
		if e.expression == "" {
			continue
		}
		ast, iss := env.Compile(e.expression)
		err := iss.Err()
		if err == nil {
			if t := ast.OutputType(); t != cel.BoolType && t != cel.DynType {
				err = fmt.Errorf("gives %s, and not true or false", t)
			}
		}
		if err == nil {
			*e.into, err = env.Program(ast, cel.CostLimit(costLimit))
		}
		if err != nil {
			return check{err: err, field: "." + e.field}
		}
	}
	return k
}

// judge says how an object fares; k is nil where the bundle says nothing of its kind.
func judge(o *unstructured.Unstructured, k *check) (Status, string) {
	if o.GetDeletionTimestamp() != nil {
		if !api.Expires(o) {
			return InProgress, "is being deleted"
		}
		// Its time to live ends with a deletion that waits for its Pods: how it ended is still what counts.
		o = o.DeepCopy()
		o.SetDeletionTimestamp(nil)
	}
	if k != nil {
		return k.judge(o)
	}
	return standard(o)
}

// standard is how an object fares by its kind's own conventions.
func standard(o *unstructured.Unstructured) (Status, string) {
	res, err := status.Compute(o)
	if err != nil {
		return InProgress, "its status cannot be understood: " + err.Error()
	}
	switch res.Status {
	case status.CurrentStatus:
		return Ready, ""
	case status.FailedStatus:
		return Failed, res.Message
	default:
		return InProgress, res.Message
	}
}

func (k *check) judge(o *unstructured.Unstructured) (Status, string) {
	if k.err != nil {
		return Failed, fmt.Sprintf("bad health expression %s: %v", strings.TrimPrefix(k.field, "."), k.err)
	}
	// A status that is older than the spec says nothing about it.
	if seen, ok, _ := unstructured.NestedInt64(o.Object, "status", "observedGeneration"); ok && seen != o.GetGeneration() {
		return InProgress, fmt.Sprintf("generation %d is not observed yet", o.GetGeneration())
	}
	input := map[string]any{"self": o.Object}
	for _, e := range []struct {
		field   string
		program cel.Program
		holds   Status
	}{{"failed", k.failed, Failed}, {"inProgress", k.inProgress, InProgress}, {"current", k.current, Ready}} {
		if e.program == nil {
			continue
		}
		yes, err := ask(e.program, input)
		switch {
		case err != nil:
			// Most often a status field that nobody has written yet.
			return InProgress, fmt.Sprintf("its %s expression has no answer yet: %v", e.field, err)
		case yes && e.holds == Ready:
			return Ready, ""
		case yes:
			return e.holds, firstMessage(o, "its "+e.field+" expression holds")
		}
	}
	if k.current != nil {
		return InProgress, firstMessage(o, "its current expression does not hold")
	}
	return standard(o)
}

// ask evaluates an expression.
func ask(p cel.Program, input map[string]any) (bool, error) {
	v, _, err := p.Eval(input)
	if err != nil {
		return false, err
	}
	b, ok := v.Value().(bool)
	if !ok {
		return false, fmt.Errorf("it gave %v, and not true or false", v.Value())
	}
	return b, nil
}

// firstMessage is what the object's own conditions say that is not well, else what we say.
func firstMessage(o *unstructured.Unstructured, otherwise string) string {
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, c := range conditions {
		m, _ := c.(map[string]any)
		msg, _ := m["message"].(string)
		if m["type"] == "Ready" && msg != "" {
			return strings.TrimSpace(msg)
		}
	}
	return otherwise
}

// still are kinds that have no status to wait for: they are healthy when they exist.
var still = map[string]bool{
	"/ConfigMap": true, "/Secret": true, "/ServiceAccount": true, "/LimitRange": true, "/Endpoints": true, "/Event": true,
	"rbac.authorization.k8s.io/Role": true, "rbac.authorization.k8s.io/RoleBinding": true,
	"rbac.authorization.k8s.io/ClusterRole": true, "rbac.authorization.k8s.io/ClusterRoleBinding": true,
	"networking.k8s.io/NetworkPolicy": true, "networking.k8s.io/Ingress": true, "networking.k8s.io/IngressClass": true,
	"storage.k8s.io/StorageClass": true, "storage.k8s.io/CSIDriver": true,
	"scheduling.k8s.io/PriorityClass": true, "node.k8s.io/RuntimeClass": true,
	"discovery.k8s.io/EndpointSlice": true, "coordination.k8s.io/Lease": true,
	"batch/CronJob": true, "autoscaling/HorizontalPodAutoscaler": true,

	"admissionregistration.k8s.io/MutatingWebhookConfiguration":     true,
	"admissionregistration.k8s.io/ValidatingWebhookConfiguration":   true,
	"admissionregistration.k8s.io/ValidatingAdmissionPolicyBinding": true,
	"admissionregistration.k8s.io/MutatingAdmissionPolicy":          true,
	"admissionregistration.k8s.io/MutatingAdmissionPolicyBinding":   true,
	"flotilla.dev/Suspension":                                       true,
}

func isStill(ref api.ObjectRef) bool { return still[ref.Group+"/"+ref.Kind] }
