package apply

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

const bundleDeploymentsPath = "/apis/" + api.Group + "/" + api.Version + "/namespaces/" + api.SystemNamespace + "/bundledeployments"

// maxMessage bounds the message of a BundleDeployment.
const maxMessage = 1024

// bundleDeployment is the whole of a BundleDeployment that flotilla applies, in one write.
type bundleDeployment struct {
	APIVersion string               `json:"apiVersion"`
	Kind       string               `json:"kind"`
	Metadata   deploymentMeta       `json:"metadata"`
	Status     bundleDeploymentBody `json:"status"`
}

type deploymentMeta struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

type bundleDeploymentBody struct {
	Phase           string      `json:"phase,omitempty"`
	Revision        string      `json:"revision,omitempty"`
	DesiredRevision string      `json:"desiredRevision,omitempty"`
	Objects         int         `json:"objects"`
	ReadyObjects    int         `json:"readyObjects"`
	Drifted         int         `json:"drifted"`
	Unknown         int         `json:"unknown"`
	SuspendedBy     string      `json:"suspendedBy,omitempty"`
	Message         string      `json:"message,omitempty"`
	AgentVersion    string      `json:"agentVersion,omitempty"`
	Conditions      []condition `json:"conditions,omitempty"`
}

type condition struct {
	Type               string    `json:"type"`
	Status             string    `json:"status"`
	Reason             string    `json:"reason,omitempty"`
	Message            string    `json:"message,omitempty"`
	LastTransitionTime time.Time `json:"lastTransitionTime,omitzero"`
}

// statusCache knows the BundleDeployments as they are on the cluster, so that nothing is written twice.
// The agent is their only writer.
type statusCache struct {
	mu     sync.Mutex
	loaded bool
	// known: bundle -> its BundleDeployment
	known map[string]bundleDeployment
	// kinds counts the BundleDeployments that name a kind: all kinds that Inventory looks through.
	kinds map[string]int
}

func newStatusCache() *statusCache {
	return &statusCache{known: map[string]bundleDeployment{}, kinds: map[string]int{}}
}

// setLocked takes in a BundleDeployment as it is on the cluster.
func (s *statusCache) setLocked(d bundleDeployment) {
	s.removeLocked(d.Metadata.Name)
	s.known[d.Metadata.Name] = d
	for gk := range d.kinds() {
		s.kinds[gk]++
	}
}

func (s *statusCache) removeLocked(bundle string) {
	for gk := range s.known[bundle].kinds() {
		if s.kinds[gk]--; s.kinds[gk] == 0 {
			delete(s.kinds, gk)
		}
	}
	delete(s.known, bundle)
}

// kinds are those that the ApplySet is declared to hold.
func (d bundleDeployment) kinds() iter.Seq[string] {
	return func(yield func(string) bool) {
		for gk := range strings.SplitSeq(d.Metadata.Annotations[api.AnnotationGroupKinds], ",") {
			if gk != "" && !yield(gk) {
				return
			}
		}
	}
}

// load reads the BundleDeployments once.
func (s *statusCache) loadLocked(ctx context.Context, a *Applier) error {
	if s.loaded {
		return nil
	}
	var all []bundleDeployment
	err := a.own.list(ctx, bundleDeploymentsPath, "", "", func(o *unstructured.Unstructured) {
		var d bundleDeployment
		raw, err := json.Marshal(o.Object)
		if err != nil || json.Unmarshal(raw, &d) != nil {
			return // foreign or broken: it is written anew
		}
		all = append(all, d)
	})
	if err != nil {
		return err
	}
	s.known, s.kinds = map[string]bundleDeployment{}, map[string]int{}
	for _, d := range all {
		s.setLocked(d)
	}
	s.loaded = true
	return nil
}

// coversLocked reports whether Inventory looks through all kinds of the BundleDeployment without it.
func (s *statusCache) coversLocked(d bundleDeployment) bool {
	for gk := range d.kinds() {
		if s.kinds[gk] == 0 {
			return false
		}
	}
	return true
}

// PublishStatus writes a bundle's BundleDeployment, the parent of its ApplySet, if it would change.
// That a bundle is being applied is not written for a parent that does not exist yet,
// unless the ApplySet would otherwise hold kinds that a rebuilt inventory does not look for.
func (a *Applier) PublishStatus(ctx context.Context, st api.BundleStatus, entries []api.InventoryEntry) error {
	return Classify(bundleRef(st.Name), "", a.publish(ctx, st, entries))
}

func (a *Applier) publish(ctx context.Context, st api.BundleStatus, entries []api.InventoryEntry) error {
	a.status.mu.Lock()
	if err := a.status.loadLocked(ctx, a); err != nil {
		a.status.mu.Unlock()
		return err
	}
	old, exists := a.status.known[st.Name]
	d := a.deployment(st, entries, old)
	covered := a.status.coversLocked(d)
	a.status.mu.Unlock()

	if exists && equalJSON(d, old) {
		return nil
	}
	if !exists && st.Phase == api.PhaseApplying && covered {
		return nil
	}
	return a.writeStatus(ctx, d)
}

func (a *Applier) writeStatus(ctx context.Context, d bundleDeployment) error {
	body, err := json.Marshal(d)
	if err != nil {
		return err
	}
	if _, err := a.own.apply(ctx, deploymentPlace(d.Metadata.Name), body, patchMode{}); err != nil {
		return err
	}
	a.status.mu.Lock()
	defer a.status.mu.Unlock()
	a.status.setLocked(d)
	return nil
}

// announceKinds makes sure, before anything is written, that a rebuilt inventory would look
// through all kinds that the bundle is about to have objects of.
func (a *Applier) announceKinds(ctx context.Context, req Request) error {
	a.status.mu.Lock()
	if err := a.status.loadLocked(ctx, a); err != nil {
		a.status.mu.Unlock()
		return err
	}
	old, exists := a.status.known[req.Bundle.Name]
	missing := slices.ContainsFunc(req.Bundle.Objects, func(o *unstructured.Unstructured) bool {
		return a.status.kinds[groupKind(api.RefOf(o))] == 0
	})
	a.status.mu.Unlock()
	if !missing {
		return nil
	}
	entries := slices.Clone(req.Inventory)
	for _, o := range req.Bundle.Objects {
		entries = append(entries, api.InventoryEntry{Object: api.RefOf(o)})
	}
	d := a.deployment(api.BundleStatus{Name: req.Bundle.Name, Phase: api.PhaseApplying, DesiredRevision: req.Revision, Keep: !req.Bundle.Spec.PruneEnabled()}, entries, old)
	if exists {
		d.Status = old.Status
	}
	return a.writeStatus(ctx, d)
}

// DeleteStatus deletes the BundleDeployment of a bundle of which nothing is left.
func (a *Applier) DeleteStatus(ctx context.Context, bundle string) error {
	err := a.own.delete(ctx, deploymentPlace(bundle), "")
	if err != nil && !apierrors.IsNotFound(err) {
		return Classify(bundleRef(bundle), "", err)
	}
	a.status.mu.Lock()
	defer a.status.mu.Unlock()
	a.status.removeLocked(bundle)
	return nil
}

// deployment makes the BundleDeployment of a status; old is the one before, or zero.
func (a *Applier) deployment(st api.BundleStatus, entries []api.InventoryEntry, old bundleDeployment) bundleDeployment {
	gks, namespaces := map[string]bool{}, map[string]bool{}
	for _, e := range entries {
		gks[groupKind(e.Object)] = true
		if ns := e.Object.Namespace; ns != "" && ns != api.SystemNamespace {
			namespaces[ns] = true
		}
	}
	d := bundleDeployment{
		APIVersion: api.APIVersion, Kind: api.KindBundleDeployment,
		Metadata: deploymentMeta{
			Name: st.Name, Namespace: api.SystemNamespace,
			Labels: map[string]string{api.LabelApplySetID: ApplySetID(st.Name), api.LabelManagedBy: api.ManagedBy},
			Annotations: map[string]string{
				api.AnnotationTooling:    "flotilla/" + api.Version,
				api.AnnotationGroupKinds: strings.Join(slices.Sorted(maps.Keys(gks)), ","),
				api.AnnotationNamespaces: strings.Join(slices.Sorted(maps.Keys(namespaces)), ","),
			},
		},
		Status: bundleDeploymentBody{
			Phase: string(st.Phase), Revision: st.AppliedRevision, DesiredRevision: st.DesiredRevision,
			Objects: st.Objects, ReadyObjects: st.ReadyObjects, Drifted: st.Drifted, Unknown: st.Unknown,
			SuspendedBy: st.Suspended, Message: messageOf(st), AgentVersion: a.version,
		},
	}
	if st.Keep {
		d.Metadata.Annotations[api.AnnotationPrune] = api.ValueDisabled
	}
	if h := old.Metadata.Annotations[annotationHooks]; h != "" {
		d.Metadata.Annotations[annotationHooks] = h
	}
	d.Status.Conditions = a.conditions(st, old.Status.Conditions)
	return d
}

// conditions are the three that people look at; their times move only when their status does.
func (a *Applier) conditions(st api.BundleStatus, old []condition) []condition {
	ready := condition{Type: "Ready", Status: "False", Reason: camel(string(st.Phase)), Message: messageOf(st)}
	switch {
	case st.Phase == api.PhaseReady:
		ready.Status = "True"
	case st.Error != nil && st.Error.Reason != "":
		ready.Reason = st.Error.Reason
	case st.Phase == api.PhaseSuspended && st.ReadyObjects == st.Objects:
		ready.Status = "Unknown"
	}
	drifted := condition{Type: "Drifted", Status: "False", Reason: "InSync"}
	switch {
	case st.Drifted > 0:
		drifted.Status, drifted.Reason = "True", "Drifted"
		drifted.Message = fmt.Sprintf("%d of %d objects differ from Git", st.Drifted, st.Objects)
	case st.Unknown > 0:
		drifted.Status, drifted.Reason = "Unknown", "NotCompared"
		drifted.Message = fmt.Sprintf("%d objects could not be compared", st.Unknown)
	}
	suspended := condition{Type: "Suspended", Status: "False", Reason: "NotSuspended"}
	if st.Suspended != "" {
		suspended.Status, suspended.Reason, suspended.Message = "True", "Suspended", fmt.Sprintf("by %q", st.Suspended)
	}
	out := []condition{ready, drifted, suspended}
	for i := range out {
		out[i].LastTransitionTime = a.now().UTC().Truncate(time.Second)
		for _, o := range old {
			if o.Type == out[i].Type && o.Status == out[i].Status {
				out[i].LastTransitionTime = o.LastTransitionTime
			}
		}
	}
	return out
}

func messageOf(st api.BundleStatus) string {
	msg := st.Message
	if st.Error != nil {
		msg = st.Error.Message
	}
	if len(msg) > maxMessage {
		msg = strings.ToValidUTF8(msg[:maxMessage], "") + " …"
	}
	return msg
}

func camel(s string) string {
	if s == "" {
		return "Unknown"
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// groupKind is written as KEP-3659 does: "Deployment.apps", and "Service" for the core group.
func groupKind(ref api.ObjectRef) string {
	if ref.Group == "" {
		return ref.Kind
	}
	return ref.Kind + "." + ref.Group
}

func deploymentPlace(bundle string) place {
	return place{bundleRef(bundle), bundleDeploymentsPath + "/" + bundle}
}

func equalJSON(a, b bundleDeployment) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && string(x) == string(y)
}

// hooksRan is the digest of the bundle whose hooks ran last; empty if none ever did.
func (s *statusCache) hooksRan(ctx context.Context, a *Applier, bundle string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.loadLocked(ctx, a); err != nil {
		return "", &api.Error{Kind: api.Transient, Reason: "HooksUnknown", Err: err}
	}
	return s.known[bundle].Metadata.Annotations[annotationHooks], nil
}

// setHooksRan notes on the BundleDeployment that the hooks of a digest ran.
func (s *statusCache) setHooksRan(ctx context.Context, a *Applier, bundle, digest string) error {
	s.mu.Lock()
	d, ok := s.known[bundle]
	s.mu.Unlock()
	if !ok {
		d = a.deployment(api.BundleStatus{Name: bundle, Phase: api.PhaseApplying}, nil, bundleDeployment{})
	}
	d.Metadata.Annotations = maps.Clone(d.Metadata.Annotations)
	d.Metadata.Annotations[annotationHooks] = digest
	return a.writeStatus(ctx, d)
}
