package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// Report is what the agent tells, on the cluster itself, whoever asks without the hub:
// the ConfigMap flotilla-system/flotilla-agent.
//
//	data:
//	  status.json: api.ClusterStatus
//	  drift.json: the open episodes, without evidence and timeline, at most maxReportedDrift and maxDriftBytes;
//	    fields and earlier rounds that have no room are only counted, and so are episodes
//	metadata:
//	  annotations:
//	    flotilla.dev/sync: "2026-11-21T10:00:00Z podinfo"   # an order; see OrderSync
type Report struct {
	Status api.ClusterStatus `json:"status"`
	Drift  []api.Episode     `json:"drift"`
	// DriftOmitted counts the open episodes that Drift leaves out.
	DriftOmitted int `json:"driftOmitted,omitempty"`
}

const (
	// maxReportedDrift bounds Report.Drift: the whole must stay far below etcd's limit for one object.
	maxReportedDrift = 100
	// maxDriftBytes bounds it as it is written: half of what a ConfigMap may hold, of which the status gets the rest.
	maxDriftBytes = 512 << 10
	// annotationSync orders the agent to look anew: when that was ordered, and for which bundle.
	annotationSync = api.Group + "/sync"

	reportName  = "flotilla-agent"
	statusKey   = "status.json"
	driftKey    = "drift.json"
	omittedKey  = "driftOmitted"
	agentsOwner = "flotilla_agent" // no bundle can have this name; the label of what is the agent's own is made of it
)

// ReportRef is the object that holds the Report.
func ReportRef() api.ObjectRef {
	return api.ObjectRef{Version: "v1", Kind: "ConfigMap", Namespace: api.SystemNamespace, Name: reportName}
}

func reportPlace() (kube.Place, error) { return kube.PlaceOf(ReportRef(), "configmaps") }

// PublishReport writes the report. The caller knows whether it changed.
func (c *Client) PublishReport(ctx context.Context, r Report) error {
	status, err := json.Marshal(r.Status)
	if err != nil {
		return err
	}
	drift, err := reportedDrift(r.Drift)
	if err != nil {
		return err
	}
	open, err := json.Marshal(drift)
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{
			"name": reportName, "namespace": api.SystemNamespace,
			// With these labels the agent's own watch sees orders that are written here.
			"labels": map[string]string{api.LabelManagedBy: api.ManagedBy, api.LabelPartOf: plan.ApplySetID(agentsOwner)},
		},
		"data": map[string]string{statusKey: string(status), driftKey: string(open), omittedKey: fmt.Sprint(len(r.Drift) - len(drift))},
	})
	if err != nil {
		return err
	}
	at, err := reportPlace()
	if err != nil {
		return err
	}
	_, err = c.server.Own.Apply(ctx, at, body, kube.Mode{})
	return kube.Classify(ReportRef(), "", err)
}

// reportedDrift writes as many of the episodes as there is room for.
// Each may have an equal share, so that one with large values takes no other's place, and what it does not need is for the next.
func reportedDrift(all []api.Episode) ([]json.RawMessage, error) {
	out := []json.RawMessage{}
	left := maxDriftBytes
	first := all[:min(len(all), maxReportedDrift)]
	for i, e := range first {
		raw, err := reportedEpisode(e, left/(len(first)-i))
		if err != nil {
			return nil, err
		}
		if len(raw) < left {
			out = append(out, raw)
			left -= len(raw) + 1
		}
	}
	return out, nil
}

// reportedEpisode writes an episode without what would be too much: its evidence, its timeline, and the fields and earlier rounds that go
// beyond a size. Rounds get the room that fields leave.
// A field is never told without its values: that would say that they are absent.
func reportedEpisode(e api.Episode, size int) ([]byte, error) {
	fields, rounds := e.Fields, e.Rounds
	e.Fields, e.Rounds, e.Evidence, e.Timeline = nil, nil, nil, nil
	raw, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	size -= len(raw)
	for i, f := range fields {
		raw, err := json.Marshal(f)
		if err != nil {
			return nil, err
		}
		if size -= len(raw) + 1; size < 0 {
			e.FieldsOmitted += len(fields) - i
			break
		}
		e.Fields = fields[:i+1]
	}
	const key = `,"rounds":`
	e.Rounds = api.FewerRounds(rounds, api.MaxRounds, size-len(key))
	return json.Marshal(e)
}

// Report reads what the agent of the cluster tells.
func (c *Client) Report(ctx context.Context) (Report, error) {
	m, err := c.readReport(ctx)
	if err != nil {
		return Report{}, err
	}
	r := Report{Drift: []api.Episode{}}
	if err := json.Unmarshal([]byte(m.Data[statusKey]), &r.Status); err != nil {
		return r, fmt.Errorf("read the agent's report: %w", err)
	}
	if err := json.Unmarshal([]byte(m.Data[driftKey]), &r.Drift); err != nil {
		return r, fmt.Errorf("read the agent's report: %w", err)
	}
	_, err = fmt.Sscan(m.Data[omittedKey], &r.DriftOmitted)
	return r, err
}

func (c *Client) readReport(ctx context.Context) (corev1.ConfigMap, error) {
	var m corev1.ConfigMap
	at, err := reportPlace()
	if err != nil {
		return m, err
	}
	raw, err := c.server.Own.Read(ctx, at)
	if apierrors.IsNotFound(err) {
		return m, &api.Error{
			Kind: api.Stalled, Reason: "NoAgent", Err: errors.New("no flotilla agent has been on this cluster"),
			Hint: "run flotilla agent for it, or choose another cluster with --kubeconfig",
		}
	}
	if err != nil {
		return m, kube.Classify(ReportRef(), "", err)
	}
	return m, json.Unmarshal(raw, &m)
}

// OrderSync asks the agent, through the cluster, to look at a bundle anew; an empty name means all.
func (c *Client) OrderSync(ctx context.Context, bundle string) error {
	if bundle != "" {
		all, err := c.BundleStatuses(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(all, func(b api.BundleStatus) bool { return b.Name == bundle }) {
			return &api.Error{Kind: api.Stalled, Reason: api.ReasonNoSuchBundle, Err: fmt.Errorf("there is no bundle %q on this cluster", bundle)}
		}
	}
	order := strings.TrimSpace(c.now().UTC().Format(time.RFC3339Nano) + " " + bundle)
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, annotationSync, order)
	at, err := reportPlace()
	if err != nil {
		return err
	}
	_, err = c.server.Own.Patch(ctx, at, types.MergePatchType, patch)
	return kube.Classify(ReportRef(), "", err)
}

// SyncOrder reads the last order, and for which bundle it is (empty: all). The order is empty if none was ever given.
// Orders are told apart by their whole text. The time in it is that of whoever gave the order:
// it says nothing about which of two came later.
func (c *Client) SyncOrder(ctx context.Context) (order, bundle string, err error) {
	m, err := c.readReport(ctx)
	if err != nil {
		return "", "", err
	}
	order = m.Annotations[annotationSync]
	_, bundle, _ = strings.Cut(order, " ")
	return order, bundle, nil
}

// BundleStatuses reads the BundleDeployments, sorted by name. A cluster without the CRD has none.
func (c *Client) BundleStatuses(ctx context.Context) ([]api.BundleStatus, error) {
	all, err := deployments(ctx, c.server.Own)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, kube.Classify(bundleRef("*"), "", err)
	}
	out := []api.BundleStatus{}
	for _, d := range all {
		out = append(out, d.bundleStatus())
	}
	return out, nil
}

func (d bundleDeployment) bundleStatus() api.BundleStatus {
	s := d.Status
	st := api.BundleStatus{
		Name: d.Metadata.Name, Phase: api.BundlePhase(s.Phase),
		AppliedRevision: s.Revision, DesiredRevision: s.DesiredRevision,
		Objects: s.Objects, ReadyObjects: s.ReadyObjects, Drifted: s.Drifted, Unknown: s.Unknown,
		Uncompared: s.Uncompared, Exempt: s.Exempt, ExemptOmitted: s.ExemptOmitted, Warnings: s.Warnings,
		Suspended: s.SuspendedBy, Message: s.Message, Keep: d.Metadata.Annotations[api.AnnotationPrune] == api.ValueDisabled,
		ServiceAccount: d.serviceAccount(), Tenant: d.Metadata.Annotations[annotationTenant],
	}
	for _, c := range s.Conditions {
		_, told, ok := strings.Cut(c.Message, "; ")
		switch {
		case !ok || c.Type != "Drifted":
		case c.Reason == reasonContested:
			st.Contested = []string{told}
		case c.Reason == reasonUncorrected:
			st.Uncorrected = []string{told}
		}
	}
	if e := s.Error; e != nil {
		st.Error = &api.StatusError{Kind: e.Kind, Reason: e.Reason, Message: s.Message, File: e.File, Line: e.Line, Field: e.Field}
	}
	return st
}
