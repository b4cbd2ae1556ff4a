package apply

import (
	"context"
	"encoding/json"
	"slices"

	"k8s.io/apimachinery/pkg/version"

	"github.com/flotilla-fleet/flotilla/api"
)

// Facts says what rendering may know of the cluster.
// A group whose API server does not answer is left out.
func (a *Applier) Facts(ctx context.Context) (api.ClusterFacts, error) {
	raw, _, err := send(ctx, a.own.rest.Get().AbsPath("/version"))
	if err != nil {
		return api.ClusterFacts{}, Classify(api.ObjectRef{Kind: "APIServer", Name: "version"}, "", err)
	}
	var v version.Info
	if err := json.Unmarshal(raw, &v); err != nil {
		return api.ClusterFacts{}, err
	}
	facts := api.ClusterFacts{KubeVersion: v.GitVersion}
	a.kinds.discovery.Invalidate()
	groups, lists, err := a.kinds.discovery.ServerGroupsAndResources()
	if err != nil && len(lists) == 0 {
		return api.ClusterFacts{}, Classify(api.ObjectRef{Kind: "APIServer", Name: "discovery"}, "", err)
	}
	for _, g := range groups {
		for _, v := range g.Versions {
			facts.APIVersions = append(facts.APIVersions, v.GroupVersion)
		}
	}
	for _, l := range lists {
		for _, r := range l.APIResources {
			facts.APIVersions = append(facts.APIVersions, l.GroupVersion+"/"+r.Kind)
		}
	}
	slices.Sort(facts.APIVersions)
	facts.APIVersions = slices.Compact(facts.APIVersions)
	return facts, nil
}
