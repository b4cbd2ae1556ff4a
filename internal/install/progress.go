package install

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

// Progress is how far an installed component is.
type Progress struct {
	// Ready: there is nothing to wait for any more.
	Ready bool
	// Says is one line for people.
	Says string
}

// AgentProgress judges an agent by its Deployment and by what it reported on the cluster.
// before is what it had reported before the installation; a report by the same process is no sign of the new one,
// unless the Deployment was left unchanged. bundles are what the agent says of them.
func AgentProgress(workload *unstructured.Unstructured, before, now api.ClusterStatus, bundles []api.BundleStatus, unchanged bool) Progress {
	if now.Cluster == "" || (!unchanged && now.Started.Equal(before.Started)) {
		if says, ok := podsReady(workload); !ok {
			return Progress{Says: says}
		}
		return Progress{Says: "the Pod runs; its agent has not reported yet"}
	}
	switch {
	case now.Error != nil:
		return Progress{Says: "the agent runs, and reports: " + now.Error.Message}
	case now.DesiredRevision == "":
		return Progress{Says: "the agent runs, and has not fetched the repository yet"}
	case now.AppliedRevision != now.DesiredRevision:
		return Progress{Says: fmt.Sprintf("the agent applies %.10s", now.DesiredRevision) + failing(bundles)}
	}
	return Progress{Ready: true, Says: fmt.Sprintf("the agent has applied %.10s", now.AppliedRevision)}
}

// FirstPass holds an agent for ready only once it has applied a revision other than stale, and all its bundles are healthy.
func FirstPass(p Progress, now api.ClusterStatus, bundles []api.BundleStatus, stale string) Progress {
	if !p.Ready {
		return p
	}
	if now.AppliedRevision == stale {
		return Progress{Says: "the agent has not seen the new commit yet"}
	}
	i := slices.IndexFunc(bundles, func(b api.BundleStatus) bool { return b.Phase != api.PhaseReady && b.Phase != api.PhaseSuspended })
	if i < 0 {
		return p
	}
	says := fmt.Sprintf("%s; bundle %q is %s", p.Says, bundles[i].Name, bundles[i].Phase)
	if m := bundles[i].Message; m != "" {
		says += ": " + m
	}
	return Progress{Says: says + failing(bundles)}
}

// HubProgress judges a hub by its StatefulSet.
func HubProgress(workload *unstructured.Unstructured) Progress {
	says, ok := podsReady(workload)
	return Progress{Ready: ok, Says: says}
}

// podsReady reports whether the controller has seen the newest template, and has its Pod ready.
func podsReady(workload *unstructured.Unstructured) (string, bool) {
	if workload == nil {
		return "the workload is not there", false
	}
	number := func(field string) int64 {
		n, _, _ := unstructured.NestedInt64(workload.Object, "status", field)
		return n
	}
	switch {
	case number("observedGeneration") < workload.GetGeneration():
		return "the controller has not seen the new template yet", false
	case number("updatedReplicas") < 1:
		return "the new Pod is not created yet" + why(workload), false
	case number("readyReplicas") < 1:
		return "the new Pod is not ready yet" + why(workload), false
	}
	return "the Pod is ready", true
}

// why is what the controller says of a Pod that it cannot create.
func why(workload *unstructured.Unstructured) string {
	conditions, _, _ := unstructured.NestedSlice(workload.Object, "status", "conditions")
	for _, c := range conditions {
		condition, _ := c.(map[string]any)
		if condition["type"] == "ReplicaFailure" && condition["status"] == "True" {
			return fmt.Sprintf(": %v", condition["message"])
		}
	}
	return ""
}

// failing names the first bundle that failed, and why.
func failing(bundles []api.BundleStatus) string {
	i := slices.IndexFunc(bundles, func(b api.BundleStatus) bool { return b.Error != nil })
	if i < 0 {
		return ""
	}
	return fmt.Sprintf("; bundle %q fails: %s", bundles[i].Name, bundles[i].Error.Message)
}
