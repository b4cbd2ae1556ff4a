package hubtest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	hubstore "github.com/flotilla-fleet/flotilla/hub/store"
)

// revisionsOfSeed are those of the seeded fleet, newest first.
var revisionsOfSeed = []string{
	"8c41f0d27a5be93c1f6a1f0e1d7b9c2a4e5f6071", "5d09e7b34c182fa6b0d3e9c4a7f15286d3b4c5a6", "b7a2c6e918f4d503a1e2f3c4b5d6978812340abc",
}

var subjects = []string{
	"podinfo: roll out 6.9.2 to prod", "cert-manager: raise memory limit to 256Mi", "network policies for team-a",
}

var bundleNames = []string{"cert-manager", "cluster", "ingress-nginx", "monitoring", "network-policies", "podinfo", "rbac", "reports"}

// Seed fills a hub's directory, before the hub starts, with n clusters in all states:
// what a fleet looks like on an ordinary day. The same now gives the same content.
func Seed(dir string, n int, now time.Time) (err error) {
	st, err := hubstore.Open(hubstore.Config{Path: filepath.Join(dir, "hub.db"), Now: func() time.Time { return now }})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	seen := map[string]time.Time{}
	for i := range n {
		s := seedOf(i, n, now)
		if _, err := st.Apply(context.Background(), s.name, "agent-"+s.name, s.reports); err != nil {
			return err
		}
		seen[s.name] = s.seen
	}
	return st.Seen(context.Background(), seen)
}

type seeded struct {
	name    string
	seen    time.Time
	now     time.Time
	kind    string
	reports []api.Report
}

// seedOf makes one cluster. Three are the demo's, in the states that a demo shows.
func seedOf(i, n int, now time.Time) *seeded {
	env := []string{"prod", "staging", "dev"}[i%3]
	region := []string{"eu", "us", "ap", "sa"}[(i/3)%4]
	s := &seeded{name: fmt.Sprintf("%s-%s-%02d", env, region, i/12+1), now: now, seen: now.Add(-time.Duration(i%4) * time.Second)}
	switch {
	case n <= 3:
		s.name, s.kind = []string{"prod-eu", "prod-us", "staging-eu"}[i], []string{"drifted", "ready", "suspended"}[i]
		env, region = []string{"prod", "prod", "staging"}[i], []string{"eu", "us", "eu"}[i]
	case i%61 == 7:
		s.kind = "failed"
	case i%23 == 4:
		s.kind = "drifted"
	case i%37 == 11:
		s.kind = "suspended"
	case i%53 == 20:
		s.kind, s.seen = "silent", now.Add(-time.Duration(i)*time.Minute)
	case i%17 == 3:
		s.kind = "progressing"
	case i%10 == 9:
		s.kind = "behind"
	default:
		s.kind = "ready"
	}
	s.status(map[string]string{"env": env, "region": region})
	for j := range bundleNames {
		s.bundle(j)
	}
	s.episodes()
	return s
}

func (s *seeded) add(r api.Report) {
	r.Seq, r.At = uint64(len(s.reports)+1), s.now
	s.reports = append(s.reports, r)
}

func (s *seeded) revisions() (desired, applied string) {
	switch s.kind {
	case "progressing":
		return revisionsOfSeed[0], revisionsOfSeed[1]
	case "behind":
		return revisionsOfSeed[1], revisionsOfSeed[1]
	case "silent":
		return revisionsOfSeed[2], revisionsOfSeed[2]
	}
	return revisionsOfSeed[0], revisionsOfSeed[0]
}

func (s *seeded) status(labels map[string]string) {
	desired, applied := s.revisions()
	st := &api.ClusterStatus{
		Cluster: s.name, Labels: labels, Source: "https://git.example.com/platform/fleet.git", Branch: "main",
		DesiredRevision: desired, AppliedRevision: applied, Fetched: s.now.Add(-3 * time.Second),
		KubeVersion: "v1.37.1", AgentVersion: "v0.3.0", Started: s.now.Add(-80 * time.Hour),
	}
	for i, r := range revisionsOfSeed {
		if r == desired {
			st.Subject = subjects[i]
		}
	}
	if s.kind == "suspended" {
		st.Suspensions = []api.Suspension{{
			Name: "inc-4711", Scope: api.Scope{Bundles: []string{"podinfo"}}, Reason: "INC-4711: scaling by hand during the sale",
			Actor: "dana@example.com", Created: s.now.Add(-12 * time.Minute), Until: s.now.Add(47*time.Minute + 31*time.Second),
		}}
	}
	s.add(api.Report{Status: st})
}

func (s *seeded) bundle(j int) {
	desired, applied := s.revisions()
	b := &api.BundleStatus{
		Name: bundleNames[j], Phase: api.PhaseReady, DesiredRevision: desired, AppliedRevision: applied,
		Objects: 4 + 3*j, ReadyObjects: 4 + 3*j, Updated: s.now.Add(-time.Duration(26+7*j) * time.Minute),
		Changes: []api.Change{{
			Object: api.ObjectRef{Group: "apps", Version: "v1", Kind: "Deployment", Namespace: bundleNames[j], Name: bundleNames[j]},
			Action: api.Updated, Reason: "spec.template differs",
		}},
	}
	b.Changed, b.ChangedRevision = b.Updated, applied
	if b.Name == "podinfo" {
		b.DependsOn = []string{"cert-manager", "ingress-nginx"}
	}
	switch {
	case s.kind == "failed" && b.Name == "monitoring":
		b.Phase, b.ReadyObjects = api.PhaseFailed, b.Objects-2
		b.Error = &api.StatusError{
			Kind: api.Stalled, Reason: "UnsetVariable", File: "infrastructure/monitoring/bundle.yaml", Line: 14,
			Field: "spec.helm.values", Message: "the variable \"retention_days\" is not set for this cluster and has no default",
		}
	case s.kind == "progressing" && (b.Name == "podinfo" || b.Name == "reports"):
		b.Phase, b.ReadyObjects = api.PhaseProgressing, b.Objects-1
		b.Message = "waiting for Deployment.apps/podinfo/podinfo: 2 of 3 replicas are available"
	case s.kind == "suspended" && b.Name == "podinfo":
		b.Phase, b.Suspended, b.Drifted = api.PhaseSuspended, "inc-4711", 1
	case s.kind == "ready" && b.Name == "podinfo" && s.name == "prod-us":
		b.Exempt = []string{"Deployment.apps/podinfo/podinfo: flotilla.dev/drift: ignore"}
	case s.kind == "drifted" && b.Name == "podinfo":
		b.Drifted = 1
	}
	s.add(api.Report{Bundle: b})
}

func (s *seeded) episodes() {
	if s.kind == "drifted" || s.kind == "suspended" {
		e := s.episode(1, "podinfo", s.now.Add(-41*time.Second))
		if s.kind == "suspended" {
			e.Outcome, e.Suspension = api.OutcomeSuspended, "inc-4711"
		} else {
			e.Outcome, e.NextCorrection = api.OutcomeContested, s.now.Add(3*time.Minute+12*time.Second)
			e.Count = 4
			e.Hint = "ignore: [{target: {kind: Deployment, name: podinfo}, paths: [/spec/replicas]}]"
		}
		s.add(api.Report{Episode: e})
	}
	closed := s.episode(2, "podinfo-canary", s.now.Add(-6*time.Hour-13*time.Minute))
	closed.Outcome, closed.End = api.OutcomeCorrected, closed.Onset.Add(640*time.Millisecond)
	s.add(api.Report{Episode: closed})
	gone := s.episode(3, "settings", s.now.Add(-29*time.Hour))
	gone.Object = api.ObjectRef{Version: "v1", Kind: "ConfigMap", Namespace: "podinfo", Name: "settings"}
	gone.Class, gone.Fields, gone.By = api.ClassMissing, nil, api.Attribution{Confidence: api.ConfidenceUnknown}
	gone.Outcome, gone.End = api.OutcomeCorrected, gone.Onset.Add(810*time.Millisecond)
	s.add(api.Report{Episode: gone})
}

func (s *seeded) episode(n int, name string, at time.Time) *api.Episode {
	edit := api.Attribution{Manager: "kubectl-edit", Operation: "Update", Time: at.Truncate(time.Second), Confidence: api.ConfidenceTool}
	scale := api.Attribution{Manager: "kube-autoscaler", Operation: "Update", Subresource: "scale", Time: at.Truncate(time.Second), Confidence: api.ConfidenceTool}
	return &api.Episode{
		ID: api.EpisodeID{Cluster: s.name, Store: "k7qa", Seq: uint64(n)}.String(), Cluster: s.name, Bundle: "podinfo",
		Object: api.ObjectRef{Group: "apps", Version: "v1", Kind: "Deployment", Namespace: "podinfo", Name: name},
		Class:  api.ClassChanged, By: edit, Revision: revisionsOfSeed[0], Onset: at, LastSeen: at, Count: 1, Outcome: api.OutcomePending,
		Fields: []api.FieldDiff{
			{Path: "/spec/replicas", Class: api.ClassChanged, Desired: "3", Live: "12", By: scale},
			{
				Path: "/spec/template/spec/containers/[name=podinfod]/image", Class: api.ClassChanged,
				Desired: `"ghcr.io/stefanprodan/podinfo:6.9.2"`, Live: `"ghcr.io/stefanprodan/podinfo:latest"`, By: edit,
			},
			{
				Path: "/spec/template/spec/containers/[name=podinfod]/resources/limits", Class: api.ClassRemoved,
				Desired: `{"cpu":"500m","memory":"256Mi"}`, By: api.Attribution{Confidence: api.ConfidenceUnknown},
			},
		},
		Evidence: &api.Evidence{
			ResourceVersion: "184467", Generation: 9,
			Live:          `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"podinfo","namespace":"podinfo"},"spec":{"replicas":12}}`,
			ManagedFields: `[{"manager":"flotilla","operation":"Apply"},{"manager":"kubectl-edit","operation":"Update"}]`,
		},
		Timeline: []api.Moment{
			{At: at, What: "kubectl-edit changed 3 fields; seen by watch"},
			{At: at.Add(180 * time.Millisecond), What: "evidence stored: generation 9, resourceVersion 184467"},
			{At: at.Add(640 * time.Millisecond), What: "corrected"},
		},
	}
}
