package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/discovery"

	"github.com/flotilla-fleet/flotilla/api"
)

// factsMemory is what was last known of the groups that the API server offers.
type factsMemory struct {
	mu sync.Mutex
	// versions: group and version -> what a chart sees of it
	versions map[schema.GroupVersion][]string
}

// Facts says what rendering may know of the cluster.
//
// Of a group whose API server does not answer, what was known before still holds: a chart that asks for it
// would else render less, and what it leaves out would be pruned. Where nothing is known of it yet,
// an aggregated API that is down counts with its version alone; any other gap is an error, and worth another try.
func (s *Server) Facts(ctx context.Context) (api.ClusterFacts, error) {
	v, err := s.Version(ctx)
	if err != nil {
		return api.ClusterFacts{}, err
	}
	s.facts.mu.Lock()
	defer s.facts.mu.Unlock()
	found, err := s.discover(ctx)
	if err != nil {
		return api.ClusterFacts{}, Classify(api.ObjectRef{Kind: "APIServer", Name: "discovery"}, "", err)
	}
	s.facts.versions = found
	// Discovery tells of a CRD a moment after it is established.
	for gvk := range s.Kinds.recent() {
		gv := gvk.GroupVersion()
		found[gv] = append(found[gv], gv.String(), gv.String()+"/"+gvk.Kind)
	}
	facts := api.ClusterFacts{KubeVersion: v.GitVersion}
	for _, texts := range found {
		facts.APIVersions = append(facts.APIVersions, texts...)
	}
	slices.Sort(facts.APIVersions)
	facts.APIVersions = slices.Compact(facts.APIVersions)
	return facts, nil
}

// Version says which version of Kubernetes the API server is.
func (s *Server) Version(ctx context.Context) (version.Info, error) {
	var v version.Info
	raw, _, err := send(ctx, serverVersion(s.Own.rest.Get()))
	if err != nil {
		return v, Classify(api.ObjectRef{Kind: "APIServer", Name: "version"}, "", err)
	}
	return v, json.Unmarshal(raw, &v)
}

// discover asks for all groups, and fills the gaps in the answer.
func (s *Server) discover(ctx context.Context) (map[schema.GroupVersion][]string, error) {
	s.Kinds.discovery.Invalidate()
	groups, lists, err := s.Kinds.discovery.ServerGroupsAndResources()
	failed, partial := discovery.GroupDiscoveryFailedErrorGroups(err)
	if err != nil && !partial {
		return nil, err
	}
	found := map[schema.GroupVersion][]string{}
	add := func(groupVersion, text string) {
		if gv, err := schema.ParseGroupVersion(groupVersion); err == nil && failed[gv] == nil {
			found[gv] = append(found[gv], text)
		}
	}
	for _, g := range groups {
		for _, v := range g.Versions {
			add(v.GroupVersion, v.GroupVersion)
		}
	}
	for _, l := range lists {
		for _, r := range l.APIResources {
			add(l.GroupVersion, l.GroupVersion+"/"+r.Kind)
		}
	}
	var down map[schema.GroupVersion]bool
	for gv := range failed {
		if known := s.facts.versions[gv]; known != nil {
			found[gv] = known
			continue
		}
		if down == nil {
			if down, err = s.downAPIs(ctx); err != nil {
				return nil, err
			}
		}
		if !down[gv] {
			return nil, &api.Error{
				Kind: api.Transient, Reason: "DiscoveryIncomplete",
				Err: fmt.Errorf("the API server does not say what it offers of %s: %w", gv, failed[gv]),
			}
		}
		s.log.Warn("an aggregated API is down: charts see its version, and none of its kinds", "api", gv.String())
		found[gv] = []string{gv.String()}
	}
	return found, nil
}

// downAPIs are the aggregated APIs that other servers than the API server itself should serve, and do not.
func (s *Server) downAPIs(ctx context.Context) (map[schema.GroupVersion]bool, error) {
	out := map[schema.GroupVersion]bool{}
	services, err := Address{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}.Collection()
	if err != nil {
		return nil, err
	}
	err = s.Own.List(ctx, services, Selector{}, "", func(o *unstructured.Unstructured) {
		service, _, _ := unstructured.NestedMap(o.Object, "spec", "service")
		if service == nil {
			return
		}
		conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
		available := slices.ContainsFunc(conditions, func(c any) bool {
			m, _ := c.(map[string]any)
			return m["type"] == "Available" && m["status"] == "True"
		})
		group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
		version, _, _ := unstructured.NestedString(o.Object, "spec", "version")
		out[schema.GroupVersion{Group: group, Version: version}] = !available
	})
	return out, err
}
