package compare

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// addedRights says what an object of RBAC lets somebody do that it did not before; before may be nil.
func addedRights(before, after *unstructured.Unstructured) []string {
	if after.GroupVersionKind().Group != "rbac.authorization.k8s.io" {
		return nil
	}
	switch after.GetKind() {
	case "Role", "ClusterRole":
		return addedRules(before, after)
	case "RoleBinding", "ClusterRoleBinding":
		return addedSubjects(before, after)
	}
	return nil
}

// right is one thing that a rule allows. Each part may be "*".
type right struct{ group, resource, name, verb string }

func (r right) covers(other right) bool {
	return covers(r.group, other.group) && covers(r.resource, other.resource) && covers(r.verb, other.verb) &&
		(r.name == "" || r.name == other.name)
}

func covers(have, want string) bool { return have == "*" || have == want }

func (r right) String() string {
	what := r.resource
	if r.group != "" {
		what += "." + r.group
	}
	if r.name != "" {
		what += " " + r.name
	}
	return r.verb + " " + what
}

func addedRules(before, after *unstructured.Unstructured) []string {
	var had []right
	if before != nil {
		had = rightsOf(before)
	}
	lost := map[string][]string{} // what -> verbs
	for _, r := range rightsOf(after) {
		if slices.ContainsFunc(had, func(h right) bool { return h.covers(r) }) {
			continue
		}
		verb := r.verb
		r.verb = ""
		what := strings.TrimSpace(r.String())
		if !slices.Contains(lost[what], verb) {
			lost[what] = append(lost[what], verb)
		}
	}
	var out []string
	for _, what := range slices.Sorted(maps.Keys(lost)) {
		slices.Sort(lost[what])
		out = append(out, fmt.Sprintf("allows %s of %s", strings.Join(lost[what], ", "), what))
	}
	return out
}

func rightsOf(role *unstructured.Unstructured) []right {
	var out []right
	for _, rule := range list(role.Object, "rules") {
		names := words(rule["resourceNames"])
		if len(names) == 0 {
			names = []string{""}
		}
		for _, verb := range words(rule["verbs"]) {
			for _, url := range words(rule["nonResourceURLs"]) {
				out = append(out, right{resource: url, verb: verb})
			}
			for _, group := range words(rule["apiGroups"]) {
				for _, resource := range words(rule["resources"]) {
					for _, name := range names {
						out = append(out, right{group, resource, name, verb})
					}
				}
			}
		}
	}
	return out
}

func words(v any) []string {
	items, _ := v.([]any)
	var out []string
	for _, item := range items {
		if s, ok := item.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

func addedSubjects(before, after *unstructured.Unstructured) []string {
	role := fmt.Sprintf("%v %v", at(after.Object, "roleRef", "kind"), at(after.Object, "roleRef", "name"))
	had := map[string]bool{}
	if before != nil && text(at(before.Object, "roleRef")) == text(at(after.Object, "roleRef")) {
		for _, s := range list(before.Object, "subjects") {
			had[subject(s)] = true
		}
	}
	var out []string
	for _, s := range list(after.Object, "subjects") {
		if who := subject(s); !had[who] {
			out = append(out, fmt.Sprintf("gives %s to %s", role, who))
		}
	}
	return out
}

func subject(s map[string]any) string {
	out := fmt.Sprint(s["kind"], " ")
	if ns, _ := s["namespace"].(string); ns != "" {
		out += ns + "/"
	}
	return out + fmt.Sprint(s["name"])
}

// addedHostAccess says what of its node the Pods of an object get that they did not before; before may be nil.
func addedHostAccess(before, after *unstructured.Unstructured) []string {
	var had map[string]bool
	if before != nil {
		had = hostAccess(before)
	}
	var out []string
	for _, what := range slices.Sorted(maps.Keys(hostAccess(after))) {
		if !had[what] {
			out = append(out, what)
		}
	}
	return out
}

// podOf returns the spec of the Pods that an object makes; nil if it makes none.
func podOf(o *unstructured.Unstructured) any {
	switch o.GetKind() {
	case "Pod":
		return at(o.Object, "spec")
	case "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job":
		return at(o.Object, "spec", "template", "spec")
	case "CronJob":
		return at(o.Object, "spec", "jobTemplate", "spec", "template", "spec")
	}
	return nil
}

// containersOf are all containers of a Pod.
func containersOf(pod any) []map[string]any {
	return slices.Concat(list(pod, "containers"), list(pod, "initContainers"), list(pod, "ephemeralContainers"))
}

func hostAccess(o *unstructured.Unstructured) map[string]bool {
	pod := podOf(o)
	out := map[string]bool{}
	for _, field := range []string{"hostNetwork", "hostPID", "hostIPC"} {
		if at(pod, field) == true {
			out["sets "+field] = true
		}
	}
	for _, v := range list(pod, "volumes") {
		if path, ok := at(v, "hostPath", "path").(string); ok {
			out["mounts the node's "+path] = true
		}
	}
	for _, c := range containersOf(pod) {
		name := fmt.Sprint(c["name"])
		if at(c, "securityContext", "privileged") == true {
			out["runs container "+name+" privileged"] = true
		}
		for _, capability := range words(at(c, "securityContext", "capabilities", "add")) {
			out["gives container "+name+" the capability "+capability] = true
		}
		for _, port := range list(c, "ports") {
			if n := port["hostPort"]; n != nil && fmt.Sprint(n) != "0" {
				out[fmt.Sprintf("opens port %v of the node", n)] = true
			}
		}
	}
	return out
}
