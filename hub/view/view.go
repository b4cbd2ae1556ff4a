// Package view makes what the hub shows out of what the hub knows.
// The same values are the JSON of the API and the data of the pages, so that both always agree.
// It is pure: the time is given, nothing is stored, and no roll-up is ever kept.
package view

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/intake"
)

// State is the one word for a cluster.
type State string

// The states. Where several hold, the first in this order is shown.
const (
	// StateUnknown: not heard from for too long; whatever was known is old.
	StateUnknown State = "unknown"
	// StateFailed: an error that concerns the cluster, or a bundle that failed.
	StateFailed State = "failed"
	// StateDrifted: at least one open episode that no suspension holds.
	StateDrifted State = "drifted"
	// StateSuspended: correction is suspended somewhere on the cluster.
	StateSuspended State = "suspended"
	// StateProgressing: on the way to the desired revision.
	StateProgressing State = "progressing"
	// StateReady: equals Git, and healthy.
	StateReady State = "ready"
)

// States lists the states by urgency.
func States() []State {
	return []State{StateFailed, StateUnknown, StateDrifted, StateSuspended, StateProgressing, StateReady}
}

// Urgency orders states for people: what needs a human first is 0.
func (s State) Urgency() int {
	if i := slices.Index(States(), s); i >= 0 {
		return i
	}
	return len(States())
}

// Input is what is known of one cluster.
type Input struct {
	Name string
	// Status is zero until the agent's first report.
	Status   api.ClusterStatus
	Bundles  []api.BundleStatus
	Open     []api.Episode
	LastSeen time.Time
	// Connected is whether the agent's stream is open now.
	Connected bool
	AgentID   string
	// LeftOut is what the hub did not take of the agent's reports; Dropped counts the closed episodes that went
	// because there were too many, the last of them at DroppedAt.
	LeftOut   []intake.LeftOut
	Dropped   uint64
	DroppedAt time.Time
}

// Cluster is one cluster as lists show it.
type Cluster struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
	State  State             `json:"state"`
	// Reason says why it is in the state, in a few words.
	Reason string `json:"reason,omitempty"`
	Source string `json:"source,omitempty"`
	Branch string `json:"branch,omitempty"`
	// DesiredRevision is the newest commit the agent fetched; AppliedRevision what all bundles were applied from.
	DesiredRevision string `json:"desiredRevision"`
	AppliedRevision string `json:"appliedRevision"`
	Subject         string `json:"subject,omitempty"`
	SignedBy        string `json:"signedBy,omitempty"`
	// Ready is whether every bundle is ready at the desired revision and the cluster is known.
	Ready         bool `json:"ready"`
	Bundles       int  `json:"bundles"`
	ReadyBundles  int  `json:"readyBundles"`
	FailedBundles int  `json:"failedBundles"`
	// DriftOpen counts open episodes; UnknownObjects, objects whose comparison failed.
	DriftOpen      int `json:"driftOpen"`
	UnknownObjects int `json:"unknownObjects"`
	// ExemptObjects counts objects that an annotation on the cluster, and not in Git, keeps from being looked at or corrected.
	ExemptObjects int `json:"exemptObjects"`
	// Suspended is whether any suspension is in force; SuspendedUntil is the last end of them.
	Suspended      bool             `json:"suspended"`
	SuspendedUntil time.Time        `json:"suspendedUntil,omitzero"`
	Suspensions    []api.Suspension `json:"suspensions,omitempty"`
	// LastSeen is when the hub last heard from the agent.
	LastSeen  time.Time `json:"lastSeen,omitzero"`
	Connected bool      `json:"connected"`
	Fetched   time.Time `json:"fetched,omitzero"`
	// Error is the cluster's own, or that of the first failed bundle, whose name is then in ErrorBundle.
	Error        *api.StatusError `json:"error,omitempty"`
	ErrorBundle  string           `json:"errorBundle,omitempty"`
	KubeVersion  string           `json:"kubeVersion,omitempty"`
	AgentVersion string           `json:"agentVersion,omitempty"`
	AgentID      string           `json:"agentID,omitempty"`
	// LeftOut is what the hub did not take of the agent's reports within the last day, by reason:
	// what is shown is then not all there is.
	LeftOut []intake.LeftOut `json:"leftOut,omitempty"`
}

// MaxDrift bounds ClusterDetail.Drift.
const MaxDrift = 100

// ClusterDetail is one cluster with what belongs to it.
type ClusterDetail struct {
	Cluster
	// BundleStatus is one page of the bundles, Page of Pages; Next is the address of the next page, empty on the last.
	BundleStatus []api.BundleStatus `json:"bundleStatus"`
	Page         int                `json:"page"`
	Pages        int                `json:"pages"`
	Next         string             `json:"next,omitempty"`
	// Drift is the newest open episodes, at most MaxDrift, newest first and without evidence; DriftOmitted counts the others.
	Drift        []api.Episode `json:"drift"`
	DriftOmitted int           `json:"driftOmitted,omitempty"`
}

// tellFor is how long a cluster's view says that something was left out.
const tellFor = 24 * time.Hour

// leftOut is what was left out lately.
func leftOut(in Input, now time.Time) (out []intake.LeftOut) {
	for _, l := range in.LeftOut {
		if now.Sub(l.Last) < tellFor {
			out = append(out, l)
		}
	}
	if in.Dropped > 0 && now.Sub(in.DroppedAt) < tellFor {
		out = append(out, intake.LeftOut{
			Reason: intake.TooMany, Count: in.Dropped, Last: in.DroppedAt, Example: "closed episodes were dropped for newer ones",
		})
	}
	return out
}

// Of builds a cluster's view at now; a cluster that was not heard from for longer than
// unknownAfter is Unknown.
func Of(in Input, now time.Time, unknownAfter time.Duration) Cluster {
	st := in.Status
	c := Cluster{
		Name: in.Name, Labels: st.Labels, Source: st.Source, Branch: st.Branch,
		DesiredRevision: st.DesiredRevision, AppliedRevision: st.AppliedRevision, Subject: st.Subject, SignedBy: st.SignedBy,
		Bundles: len(in.Bundles), DriftOpen: len(in.Open), Error: st.Error,
		LastSeen: in.LastSeen, Connected: in.Connected, Fetched: st.Fetched,
		KubeVersion: st.KubeVersion, AgentVersion: st.AgentVersion, AgentID: in.AgentID, LeftOut: leftOut(in, now),
	}
	for _, b := range in.Bundles {
		c.UnknownObjects += b.Unknown
		c.ExemptObjects += len(b.Exempt) + b.ExemptOmitted
		switch b.Phase {
		case api.PhaseReady:
			c.ReadyBundles++
		case api.PhaseFailed:
			c.FailedBundles++
			if c.Error == nil && b.Error != nil {
				c.Error, c.ErrorBundle = b.Error, b.Name
			}
		default: // on its way
		}
	}
	for _, s := range st.Suspensions {
		if !s.Active(now) {
			continue
		}
		c.Suspensions = append(c.Suspensions, s)
		if s.Until.After(c.SuspendedUntil) {
			c.SuspendedUntil = s.Until
		}
	}
	c.Suspended = len(c.Suspensions) > 0
	held := 0
	for _, e := range in.Open {
		if e.Outcome == api.OutcomeSuspended {
			held++
		}
	}
	if c.State, c.Reason = stateOf(c, held, now, unknownAfter); c.State != StateUnknown {
		if c.UnknownObjects > 0 {
			c.Reason += ", " + Count(c.UnknownObjects, "object") + " not compared"
		}
		if c.ExemptObjects > 0 {
			c.Reason += ", " + Count(c.ExemptObjects, "object") + " exempt"
		}
	}
	c.Ready = c.State != StateUnknown && c.Bundles > 0 && c.ReadyBundles == c.Bundles &&
		c.Error == nil && c.DesiredRevision == c.AppliedRevision
	return c
}

// stateOf decides the state; held counts the open episodes that a suspension holds.
func stateOf(c Cluster, held int, now time.Time, unknownAfter time.Duration) (State, string) {
	switch {
	case c.LastSeen.IsZero():
		return StateUnknown, "has never reported"
	case now.Sub(c.LastSeen) > unknownAfter:
		return StateUnknown, "last seen " + Ago(now, c.LastSeen)
	case c.ErrorBundle != "":
		return StateFailed, fmt.Sprintf("bundle %s failed", c.ErrorBundle)
	case c.Error != nil:
		return StateFailed, c.Error.Message
	case c.FailedBundles > 0:
		return StateFailed, Count(c.FailedBundles, "bundle") + " failed"
	case c.DriftOpen > held:
		return StateDrifted, Count(c.DriftOpen, "object") + " drifted"
	case c.Suspended:
		return StateSuspended, c.Suspensions[0].Reason
	case c.DriftOpen > 0: // held by a suspension that has just ended
		return StateDrifted, Count(c.DriftOpen, "object") + " drifted"
	case c.DesiredRevision == "":
		return StateProgressing, "has not fetched the fleet repository yet"
	case c.ReadyBundles < c.Bundles:
		return StateProgressing, fmt.Sprintf("%d of %s ready", c.ReadyBundles, Count(c.Bundles, "bundle"))
	case c.DesiredRevision != c.AppliedRevision:
		return StateProgressing, "applying " + Short(c.DesiredRevision)
	}
	return StateReady, "matches Git"
}

// Fleet sums up all clusters.
type Fleet struct {
	Clusters int           `json:"clusters"`
	States   map[State]int `json:"states"`
	// Drift counts open episodes, Exempt the exempt objects, Suspended the clusters with a suspension in force.
	Drift     int `json:"drift"`
	Exempt    int `json:"exempt"`
	Suspended int `json:"suspended"`
	Connected int `json:"connected"`
	// Revisions counts clusters by applied revision, most frequent first.
	Revisions []RevisionCount `json:"revisions"`
}

// RevisionCount is how many clusters a revision is applied on.
type RevisionCount struct {
	Revision string `json:"revision"`
	Subject  string `json:"subject,omitempty"`
	Clusters int    `json:"clusters"`
}

// Sum adds up clusters.
func Sum(cs []Cluster) Fleet {
	f := Fleet{Clusters: len(cs), States: map[State]int{}}
	revs := map[string]*RevisionCount{}
	for _, c := range cs {
		f.States[c.State]++
		f.Drift += c.DriftOpen
		f.Exempt += c.ExemptObjects
		if c.Suspended {
			f.Suspended++
		}
		if c.Connected {
			f.Connected++
		}
		if c.AppliedRevision == "" {
			continue
		}
		r := revs[c.AppliedRevision]
		if r == nil {
			r = &RevisionCount{Revision: c.AppliedRevision}
			revs[c.AppliedRevision] = r
		}
		r.Clusters++
		if c.AppliedRevision == c.DesiredRevision && c.Subject != "" {
			r.Subject = c.Subject
		}
	}
	for _, r := range revs {
		f.Revisions = append(f.Revisions, *r)
	}
	slices.SortFunc(f.Revisions, func(a, b RevisionCount) int {
		if a.Clusters != b.Clusters {
			return b.Clusters - a.Clusters
		}
		return strings.Compare(a.Revision, b.Revision)
	})
	return f
}

// Sentence is the fleet in one line: what an operator wants to know first.
func (f Fleet) Sentence() string {
	if f.Clusters == 0 {
		return "No cluster has joined yet"
	}
	parts := []string{Count(f.Clusters, "cluster")}
	for _, p := range []struct {
		n    int
		text string
	}{
		{f.States[StateReady], "match Git"},
		{f.States[StateFailed], "failed"},
		{f.States[StateDrifted], "drifted"},
		{f.States[StateProgressing], "progressing"},
		{f.States[StateSuspended], "suspended"},
		{f.States[StateUnknown], "unknown"},
	} {
		switch {
		case p.n == f.Clusters && p.text == "match Git" && p.n > 1:
			parts = append(parts, "all match Git")
		case p.n == 1 && p.text == "match Git":
			parts = append(parts, "1 matches Git")
		case p.n > 0:
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.text))
		}
	}
	return strings.Join(parts, " · ")
}
