package cluster

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
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// bundleDeployments is where the BundleDeployments are.
func bundleDeployments() (kube.Collection, error) {
	return kube.Address{Group: api.Group, Version: api.Version, Resource: "bundledeployments", Namespace: api.SystemNamespace}.Collection()
}

// Bounds of a BundleDeployment's message, and of each text that says where its error is.
const (
	maxMessage = 1024
	maxWhere   = 512
)

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
	Phase           string       `json:"phase,omitempty"`
	Revision        string       `json:"revision,omitempty"`
	DesiredRevision string       `json:"desiredRevision,omitempty"`
	Objects         int          `json:"objects"`
	ReadyObjects    int          `json:"readyObjects"`
	Drifted         int          `json:"drifted"`
	Unknown         int          `json:"unknown"`
	Uncompared      []string     `json:"uncompared,omitempty"`
	Exempt          []string     `json:"exempt,omitempty"`
	ExemptOmitted   int          `json:"exemptOmitted,omitempty"`
	Warnings        []string     `json:"warnings,omitempty"`
	SuspendedBy     string       `json:"suspendedBy,omitempty"`
	Message         string       `json:"message,omitempty"`
	AgentVersion    string       `json:"agentVersion,omitempty"`
	Conditions      []condition  `json:"conditions,omitempty"`
	Error           *bundleError `json:"error,omitempty"`
}

// Bounds of the warnings in a BundleDeployment; the hub has more of them.
const (
	maxWarnings = 10
	maxWarning  = 500 // bytes
)

// boundedWarnings are the first of a bundle's warnings, the last of which says how many more there are.
func boundedWarnings(all []string) []string {
	out := make([]string, 0, min(len(all), maxWarnings+1))
	for i, w := range all {
		if i == maxWarnings {
			return append(out, fmt.Sprintf("and %d more: flotilla render tells them", len(all)-i))
		}
		if len(w) > maxWarning {
			w = strings.ToValidUTF8(w[:maxWarning], "") + "…"
		}
		out = append(out, w)
	}
	return out
}

// bundleError is where the error is that the message tells of.
type bundleError struct {
	Kind   api.ErrorKind `json:"kind"`
	Reason string        `json:"reason,omitempty"`
	File   string        `json:"file,omitempty"`
	Line   int           `json:"line,omitempty"`
	Field  string        `json:"field,omitempty"`
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
	// hooks: bundle -> which of its hooks ran
	hooks map[string]hooksRan
}

func newStatusCache() *statusCache {
	return &statusCache{known: map[string]bundleDeployment{}, kinds: map[string]int{}, hooks: map[string]hooksRan{}}
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

// loadLocked reads the BundleDeployments once.
func (s *statusCache) loadLocked(ctx context.Context, server *kube.Server) error {
	if s.loaded {
		return nil
	}
	all, err := deployments(ctx, server.Own)
	if err != nil {
		return err
	}
	s.known, s.kinds, s.hooks = map[string]bundleDeployment{}, map[string]int{}, map[string]hooksRan{}
	for _, d := range all {
		s.hooks[d.Metadata.Name] = takeHooksRan(d.Metadata.Annotations)
		s.setLocked(d)
	}
	s.loaded = true
	return nil
}

// deployments reads the BundleDeployments. One that is foreign or broken is left out, and written anew.
func deployments(ctx context.Context, own *kube.Client) ([]bundleDeployment, error) {
	in, err := bundleDeployments()
	if err != nil {
		return nil, err
	}
	var all []bundleDeployment
	err = own.List(ctx, in, kube.Selector{}, "", func(o *unstructured.Unstructured) {
		var d bundleDeployment
		if raw, err := json.Marshal(o.Object); err == nil && json.Unmarshal(raw, &d) == nil {
			all = append(all, d)
		}
	})
	return all, err
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
func (c *Client) PublishStatus(ctx context.Context, st api.BundleStatus, entries []api.InventoryEntry) error {
	return kube.Classify(bundleRef(st.Name), "", c.publish(ctx, st, entries))
}

func (c *Client) publish(ctx context.Context, st api.BundleStatus, entries []api.InventoryEntry) error {
	c.status.mu.Lock()
	if err := c.status.loadLocked(ctx, c.server); err != nil {
		c.status.mu.Unlock()
		return err
	}
	old, exists := c.status.known[st.Name]
	d := c.deployment(st, entries, old)
	covered := c.status.coversLocked(d)
	c.status.mu.Unlock()

	if exists && equalJSON(d, old) {
		return nil
	}
	if !exists && st.Phase == api.PhaseApplying && st.Message == "" && covered {
		return nil
	}
	return c.writeStatus(ctx, d)
}

func (c *Client) writeStatus(ctx context.Context, d bundleDeployment) error {
	body, err := json.Marshal(d)
	if err != nil {
		return err
	}
	at, err := deploymentPlace(d.Metadata.Name)
	if err != nil {
		return err
	}
	if _, err := c.server.Own.Apply(ctx, at, body, kube.Mode{}); err != nil {
		return err
	}
	c.status.mu.Lock()
	defer c.status.mu.Unlock()
	c.status.setLocked(d)
	return nil
}

// Announce makes sure, before anything of a bundle is written, that a rebuilt inventory would look
// through all kinds that the bundle is about to have objects of. owned is what it owns so far.
func (c *Client) Announce(ctx context.Context, bundle api.RenderedBundle, revision string, owned []api.InventoryEntry) error {
	return kube.Classify(bundleRef(bundle.Name), "", c.announce(ctx, bundle, revision, owned))
}

func (c *Client) announce(ctx context.Context, bundle api.RenderedBundle, revision string, owned []api.InventoryEntry) error {
	c.status.mu.Lock()
	if err := c.status.loadLocked(ctx, c.server); err != nil {
		c.status.mu.Unlock()
		return err
	}
	old, exists := c.status.known[bundle.Name]
	missing := slices.ContainsFunc(bundle.Objects, func(o *unstructured.Unstructured) bool {
		return c.status.kinds[o.GroupVersionKind().GroupKind().String()] == 0
	})
	c.status.mu.Unlock()
	if !missing {
		return nil
	}
	entries := slices.Clone(owned)
	for _, o := range bundle.Objects {
		entries = append(entries, api.InventoryEntry{Object: api.RefOf(o)})
	}
	d := c.deployment(api.BundleStatus{
		Name: bundle.Name, Phase: api.PhaseApplying, DesiredRevision: revision, Keep: !bundle.Spec.PruneEnabled(),
		ServiceAccount: bundle.Spec.ServiceAccount, Tenant: bundle.TenantName(),
	}, entries, old)
	if exists {
		d.Status = old.Status
	}
	return c.writeStatus(ctx, d)
}

// DeleteStatus deletes the BundleDeployment of a bundle of which nothing is left.
func (c *Client) DeleteStatus(ctx context.Context, bundle string) error {
	at, err := deploymentPlace(bundle)
	if err == nil {
		err = c.server.Own.Delete(ctx, at, "")
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return kube.Classify(bundleRef(bundle), "", err)
	}
	c.status.mu.Lock()
	defer c.status.mu.Unlock()
	c.status.removeLocked(bundle)
	delete(c.status.hooks, bundle)
	return nil
}

// deployment makes the BundleDeployment of a status; old is the one before, or zero.
func (c *Client) deployment(st api.BundleStatus, entries []api.InventoryEntry, old bundleDeployment) bundleDeployment {
	gks, namespaces := map[string]bool{}, map[string]bool{}
	var handsOff []string
	for _, e := range entries {
		if e.HandsOff {
			handsOff = append(handsOff, e.Object.ID())
		}
		gks[e.Object.GVK().GroupKind().String()] = true
		if ns := e.Object.Namespace; ns != "" && ns != api.SystemNamespace {
			namespaces[ns] = true
		}
	}
	d := bundleDeployment{
		APIVersion: api.APIVersion, Kind: api.KindBundleDeployment,
		Metadata: deploymentMeta{
			Name: st.Name, Namespace: api.SystemNamespace,
			Labels: map[string]string{api.LabelApplySetID: plan.ApplySetID(st.Name), api.LabelManagedBy: api.ManagedBy},
			Annotations: map[string]string{
				api.AnnotationTooling:    "flotilla/" + api.Version,
				api.AnnotationGroupKinds: strings.Join(slices.Sorted(maps.Keys(gks)), ","),
				api.AnnotationNamespaces: strings.Join(slices.Sorted(maps.Keys(namespaces)), ","),
			},
		},
		Status: bundleDeploymentBody{
			Phase: string(st.Phase), Revision: st.AppliedRevision, DesiredRevision: st.DesiredRevision,
			Objects: st.Objects, ReadyObjects: st.ReadyObjects, Drifted: st.Drifted, Unknown: st.Unknown,
			Uncompared: st.Uncompared, Exempt: st.Exempt, ExemptOmitted: st.ExemptOmitted,
			Warnings: boundedWarnings(st.Warnings), SuspendedBy: st.Suspended, Message: messageOf(st), AgentVersion: c.version, Error: errorOf(st),
		},
	}
	if st.Keep {
		d.Metadata.Annotations[api.AnnotationPrune] = api.ValueDisabled
	}
	if len(handsOff) > 0 {
		slices.Sort(handsOff)
		d.Metadata.Annotations[annotationHandsOff] = strings.Join(handsOff, ",")
	}
	if sa := st.ServiceAccount; sa != nil {
		d.Metadata.Annotations[annotationServiceAccount] = sa.Namespace + "/" + sa.Name
	}
	if st.Tenant != "" {
		d.Metadata.Annotations[annotationTenant] = st.Tenant
	}
	d.Status.Conditions = c.conditions(st, old.Status.Conditions)
	return d
}

// Reasons of the condition Drifted where somebody keeps taking fields back, and where corrections fail.
// The message says who, or why.
const (
	reasonContested   = "Contested"
	reasonUncorrected = "CorrectionFailed"
)

// conditions are the three that people look at; their times move only when their status does.
func (c *Client) conditions(st api.BundleStatus, old []condition) []condition {
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
	exempt := len(st.Exempt) + st.ExemptOmitted
	switch {
	case st.Drifted > 0:
		drifted.Status, drifted.Reason = "True", "Drifted"
		drifted.Message = fmt.Sprintf("%d of %d objects differ from Git", st.Drifted, st.Objects)
		if st.Unknown > 0 {
			drifted.Message += fmt.Sprintf(", %d could not be compared", st.Unknown)
		}
		if exempt > 0 {
			drifted.Message += fmt.Sprintf(", %d are exempt", exempt)
		}
		switch {
		case len(st.Uncorrected) > 0:
			drifted.Reason = reasonUncorrected
			drifted.Message = told(drifted.Message, st.Uncorrected, st.UncorrectedOmitted+len(st.Contested)+st.ContestedOmitted)
		case len(st.Contested) > 0:
			drifted.Reason = reasonContested
			drifted.Message = told(drifted.Message, st.Contested, st.ContestedOmitted)
		}
	case st.Unknown > 0:
		drifted.Status, drifted.Reason = "Unknown", "NotCompared"
		drifted.Message = bounded(fmt.Sprintf("%d objects could not be compared; %s", st.Unknown, strings.Join(st.Uncompared, "\n")), maxMessage)
	case exempt > 0:
		drifted.Message = fmt.Sprintf("%d of %d objects are exempt", exempt, st.Objects)
	}
	suspended := condition{Type: "Suspended", Status: "False", Reason: "NotSuspended"}
	if st.Suspended != "" {
		suspended.Status, suspended.Reason, suspended.Message = "True", "Suspended", fmt.Sprintf("by %q", st.Suspended)
	}
	out := []condition{ready, drifted, suspended}
	for i := range out {
		out[i].LastTransitionTime = c.now().UTC().Truncate(time.Second)
		for _, o := range old {
			if o.Type == out[i].Type && o.Status == out[i].Status {
				out[i].LastTransitionTime = o.LastTransitionTime
			}
		}
	}
	return out
}

// told is a message with a line for each object, and how many objects more it could name.
// That is never what is cut off.
func told(message string, lines []string, omitted int) string {
	more := ""
	if omitted > 0 {
		more = fmt.Sprintf("\nand %d more: flotilla drift lists them", omitted)
	}
	return bounded(message+"; "+strings.Join(lines, "\n"), maxMessage-len(more)) + more
}

func messageOf(st api.BundleStatus) string {
	msg := st.Message
	if st.Error != nil {
		msg = st.Error.Message
	}
	return bounded(msg, maxMessage)
}

func errorOf(st api.BundleStatus) *bundleError {
	e := st.Error
	if e == nil {
		return nil
	}
	return &bundleError{
		Kind: e.Kind, Reason: bounded(e.Reason, maxWhere),
		File: bounded(e.File, maxWhere), Line: e.Line, Field: bounded(e.Field, maxWhere),
	}
}

func bounded(s string, limit int) string {
	if len(s) > limit {
		return strings.ToValidUTF8(s[:limit], "") + " …"
	}
	return s
}

func camel(s string) string {
	if s == "" {
		return "Unknown"
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func deploymentPlace(bundle string) (kube.Place, error) {
	return kube.PlaceOf(bundleRef(bundle), "bundledeployments")
}

func equalJSON(a, b bundleDeployment) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && string(x) == string(y)
}

// annotationServiceAccount, on a BundleDeployment, is the bundle's service account as "namespace/name":
// whoever lost the store prunes the bundle as the same one.
const annotationServiceAccount = api.Group + "/service-account"

// annotationTenant, on a BundleDeployment, names the bundle's tenant: whoever lost the store knows who had the bundle's name first.
const annotationTenant = api.Group + "/tenant"

// annotationHandsOff, on a BundleDeployment, lists the IDs of objects that Git has, or had last, with api.AnnotationReconcile
// disabled: whoever lost the store leaves them alone. Nothing on the objects themselves says so.
const annotationHandsOff = api.Group + "/hands-off"

// serviceAccount reads annotationServiceAccount; nil if there is none.
func (d bundleDeployment) serviceAccount() *api.ServiceAccount {
	ns, name, ok := strings.Cut(d.Metadata.Annotations[annotationServiceAccount], "/")
	if !ok {
		return nil
	}
	return &api.ServiceAccount{Namespace: ns, Name: name}
}

// Annotations of a BundleDeployment that say which hooks ran: the digest of the bundle whose hooks ran to their end last,
// and, until that is another one, of the bundle whose hooks before the objects did; begunHalf while they do.
// They have a field manager of their own, so that nothing that is published can undo them.
const (
	annotationHooks      = api.Group + "/hooks-ran"
	annotationHooksBegun = api.Group + "/hooks-begun"
	hooksManager         = api.FieldManager + "-hooks"
)

// hooksRan is what those annotations say.
type hooksRan struct{ ran, begun string }

// takeHooksRan moves the memory out of annotations: it is no part of what is published.
func takeHooksRan(annotations map[string]string) hooksRan {
	m := hooksRan{annotations[annotationHooks], annotations[annotationHooksBegun]}
	delete(annotations, annotationHooks)
	delete(annotations, annotationHooksBegun)
	return m
}

// HooksRan returns what NoteHooks noted last of a bundle, and whether the bundle was ever applied to the end, with hooks or without.
func (c *Client) HooksRan(ctx context.Context, bundle string) (ran, begun string, installed bool, err error) {
	c.status.mu.Lock()
	defer c.status.mu.Unlock()
	if err := c.status.loadLocked(ctx, c.server); err != nil {
		return "", "", false, kube.Classify(bundleRef(bundle), "", &api.Error{Kind: api.Transient, Reason: "HooksUnknown", Err: err})
	}
	m := c.status.hooks[bundle]
	return m.ran, m.begun, c.status.known[bundle].Status.Revision != "", nil
}

// NoteHooks notes on the BundleDeployment which hooks of a bundle ran, and creates it if there is none yet.
func (c *Client) NoteHooks(ctx context.Context, bundle, ran, begun string) error {
	return kube.Classify(bundleRef(bundle), "", c.noteHooks(ctx, bundle, hooksRan{ran, begun}))
}

func (c *Client) noteHooks(ctx context.Context, bundle string, m hooksRan) error {
	annotations := map[string]string{}
	for k, v := range map[string]string{annotationHooks: m.ran, annotationHooksBegun: m.begun} {
		if v != "" {
			annotations[k] = v
		}
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": api.APIVersion, "kind": api.KindBundleDeployment,
		"metadata": deploymentMeta{
			Name: bundle, Namespace: api.SystemNamespace, Annotations: annotations,
			Labels: map[string]string{api.LabelApplySetID: plan.ApplySetID(bundle), api.LabelManagedBy: api.ManagedBy},
		},
	})
	if err != nil {
		return err
	}
	at, err := deploymentPlace(bundle)
	if err != nil {
		return err
	}
	if _, err := c.server.Own.Apply(ctx, at, body, kube.Mode{Manager: hooksManager}); err != nil {
		return err
	}
	c.status.mu.Lock()
	defer c.status.mu.Unlock()
	c.status.hooks[bundle] = m
	return nil
}
