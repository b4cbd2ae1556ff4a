package check

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	psa "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// podSecurity holds pods against the Pod Security Standards that their namespace asks for.
func (r *run) podSecurity(v *view, add func(Finding)) {
	asked := map[string]psa.Policy{}
	for _, i := range v.items {
		if i.ref.Kind != "Namespace" || i.ref.Group != "" {
			continue
		}
		free := psa.LevelVersion{Level: psa.LevelPrivileged, Version: psa.LatestVersion()}
		p, errs := psa.PolicyToEvaluate(i.object.GetLabels(), psa.Policy{Enforce: free, Audit: free, Warn: free})
		for _, e := range errs {
			add(i.finding(BadValue, "metadata.labels", "a label of the Pod Security Standards has a value that it cannot have: "+e.Field))
		}
		if len(errs) == 0 {
			asked[i.ref.Name] = p
		}
	}
	for _, i := range v.items {
		p, ok := asked[i.namespace()]
		if i.pod == nil || !ok {
			continue
		}
		for _, f := range i.secured(r.security, p) {
			add(f)
		}
	}
}

// secured holds an item's pods against a policy.
func (i *item) secured(standards policy.Evaluator, p psa.Policy) []Finding {
	key := p.String()
	if found, ok := i.security[key]; ok {
		return found
	}
	var out []Finding
	if detail := i.forbidden(standards, p.Enforce); detail != "" {
		out = append(out, i.finding(PodSecurity, i.pod.at, fmt.Sprintf("the namespace enforces %s: %s", p.Enforce.Level, detail)))
	}
	stricter := p.Warn
	if psa.CompareLevels(p.Audit.Level, stricter.Level) > 0 {
		stricter = p.Audit
	}
	if detail := i.forbidden(standards, stricter); detail != "" && psa.CompareLevels(stricter.Level, p.Enforce.Level) > 0 {
		out = append(out, i.finding(PodSecurityAdvice, i.pod.at, fmt.Sprintf("the namespace warns of what is not %s: %s", stricter.Level, detail)))
	}
	i.security[key] = out
	return out
}

// forbidden is why a standard forbids the pods; empty if it does not.
func (i *item) forbidden(standards policy.Evaluator, level psa.LevelVersion) string {
	result := policy.AggregateCheckResults(standards.EvaluatePod(level, &metav1.ObjectMeta{Labels: i.pod.labels, Annotations: i.pod.annotations}, &i.pod.spec))
	if result.Allowed {
		return ""
	}
	return result.ForbiddenDetail()
}
