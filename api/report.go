package api

import "time"

// Report is one message from an agent to the hub.
// Reports are numbered without gaps by the agent's store, and the numbers of those that were
// compacted are told by From; applying one twice changes nothing.
// Exactly one of Status, Bundle, RemovedBundle, Episode and Compacted is set.
type Report struct {
	Seq uint64 `json:"seq"`
	// From is the first number that the report stands for, where that is not Seq itself
	// because those right before it were compacted; see Follows.
	From uint64    `json:"from,omitempty"`
	At   time.Time `json:"at"`
	// Status replaces what is known of the cluster itself.
	Status *ClusterStatus `json:"status,omitempty"`
	// Bundle replaces what is known of one bundle.
	Bundle *BundleStatus `json:"bundle,omitempty"`
	// RemovedBundle is a bundle that is no longer on the cluster.
	RemovedBundle string `json:"removedBundle,omitempty"`
	// Episode replaces what is known of one episode.
	Episode *Episode `json:"episode,omitempty"`
	// Compacted tells what the bounded outbox had to drop.
	Compacted *Compacted `json:"compacted,omitempty"`
}

// Kind says in a word what the report holds; empty if it holds nothing.
func (r Report) Kind() string {
	switch {
	case r.Status != nil:
		return "status"
	case r.Bundle != nil:
		return "bundle"
	case r.RemovedBundle != "":
		return "removedBundle"
	case r.Episode != nil:
		return "episode"
	case r.Compacted != nil:
		return "compacted"
	}
	return ""
}

// Compacted says that reports were dropped, or merged into later ones, while the hub was away.
// It takes the place of the last of them: its report's Seq is To.
type Compacted struct {
	// From and To are the sequence numbers concerned, both included.
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
	// Episodes counts closed episodes whose reports were dropped. If there are any, episodes that
	// were reported as open may be over: the checksum of the state tells, and a snapshot helps.
	Episodes int `json:"episodes"`
}

// ClusterStatus is what an agent says of its cluster as a whole.
type ClusterStatus struct {
	Cluster string            `json:"cluster"`
	Labels  map[string]string `json:"labels,omitempty"`
	// Source is the repository's address without credentials. Branch is the branch that is followed,
	// or "tag NAME", "semver RANGE", "commit HASH" or "ref NAME".
	Source string `json:"source,omitempty"`
	Branch string `json:"branch,omitempty"`
	// DesiredRevision is the newest commit fetched; AppliedRevision is the one
	// that every bundle was last applied from.
	DesiredRevision string `json:"desiredRevision,omitempty"`
	AppliedRevision string `json:"appliedRevision,omitempty"`
	// Subject is the first line of the desired revision's message.
	Subject string `json:"subject,omitempty"`
	// SignedBy says whose signature of the desired revision was verified; empty where none is asked for.
	SignedBy string `json:"signedBy,omitempty"`
	// Fetched is when the repository was last reached.
	Fetched time.Time `json:"fetched,omitzero"`
	// Error concerns the whole cluster: the fetch, the fleet file, a guard.
	Error *StatusError `json:"error,omitempty"`
	// Suspensions that are in force.
	Suspensions  []Suspension `json:"suspensions,omitempty"`
	KubeVersion  string       `json:"kubeVersion,omitempty"`
	AgentVersion string       `json:"agentVersion,omitempty"`
	// Started is when this agent process began.
	Started time.Time `json:"started,omitzero"`
}

// StatusError is an Error as it is shown and sent.
type StatusError struct {
	Kind    ErrorKind `json:"kind"`
	Reason  string    `json:"reason,omitempty"`
	Message string    `json:"message"`
	File    string    `json:"file,omitempty"`
	Line    int       `json:"line,omitempty"`
	Field   string    `json:"field,omitempty"`
}

// BundlePhase is the one word for a bundle's state.
type BundlePhase string

// The phases, in the order in which they go by.
const (
	PhasePending     BundlePhase = "pending"     // not yet begun at this revision
	PhaseBlocked     BundlePhase = "blocked"     // a dependency is not ready
	PhaseApplying    BundlePhase = "applying"    //
	PhaseProgressing BundlePhase = "progressing" // applied, waiting for health
	PhaseReady       BundlePhase = "ready"
	PhaseFailed      BundlePhase = "failed"
	PhaseSuspended   BundlePhase = "suspended"
)

// BundleStatus is what an agent says of one bundle.
type BundleStatus struct {
	Name  string      `json:"name"`
	Phase BundlePhase `json:"phase"`
	// DesiredRevision is the commit whose bundle should be here, AppliedRevision the one that is.
	DesiredRevision string `json:"desiredRevision,omitempty"`
	AppliedRevision string `json:"appliedRevision,omitempty"`
	Digest          string `json:"digest,omitempty"`
	// Objects counts the inventory, ReadyObjects those that are healthy.
	Objects      int `json:"objects"`
	ReadyObjects int `json:"readyObjects"`
	// Drifted counts objects with an open episode, Unknown those whose comparison failed.
	Drifted int `json:"drifted"`
	Unknown int `json:"unknown"`
	// Uncompared says of objects whose comparison failed which they are, and why: at most MaxContested.
	Uncompared []string `json:"uncompared,omitempty"`
	// Contested says of drift that somebody keeps bringing back who it is, and what would end it:
	// at most MaxContested, and of how many more objects it could be said.
	Contested        []string `json:"contested,omitempty"`
	ContestedOmitted int      `json:"contestedOmitted,omitempty"`
	// Uncorrected says of drift whose correction failed which object it is, and why: at most MaxContested, and how many more.
	Uncorrected        []string `json:"uncorrected,omitempty"`
	UncorrectedOmitted int      `json:"uncorrectedOmitted,omitempty"`
	// Exempt are objects that an annotation on the cluster, and not in Git, keeps from being looked at or corrected,
	// each with that annotation: at most MaxExempt, and how many more there are.
	Exempt        []string `json:"exempt,omitempty"`
	ExemptOmitted int      `json:"exemptOmitted,omitempty"`
	// Suspended names the suspension that covers the whole bundle.
	Suspended string `json:"suspended,omitempty"`
	// Removing says that its removal has begun: of what it had, some is gone.
	Removing bool `json:"removing,omitempty"`
	// Keep says that what leaves the bundle, or goes with it, stays on the cluster (prune: false).
	Keep bool `json:"keep,omitempty"`
	// ServiceAccount is whom the bundle is applied as, and pruned as once it has left Git; nil for the agent itself.
	ServiceAccount *ServiceAccount `json:"serviceAccount,omitempty"`
	// Tenant is whose bundle it is; empty for the platform's.
	Tenant    string       `json:"tenant,omitempty"`
	DependsOn []string     `json:"dependsOn,omitempty"`
	Error     *StatusError `json:"error,omitempty"`
	Warnings  []string     `json:"warnings,omitempty"`
	// Message says what is going on, such as which object is not healthy yet.
	Message string `json:"message,omitempty"`
	// Changes is what the last pass that changed anything did, bounded to MaxChanges.
	Changes        []Change `json:"changes,omitempty"`
	ChangesOmitted int      `json:"changesOmitted,omitempty"`
	// Changed is when that pass was, and ChangedRevision the commit it applied.
	Changed         time.Time `json:"changed,omitzero"`
	ChangedRevision string    `json:"changedRevision,omitempty"`
	Updated         time.Time `json:"updated,omitzero"`
}

// Applied is one pass that changed something on a cluster, as history tells it.
type Applied struct {
	Cluster string    `json:"cluster"`
	Bundle  string    `json:"bundle"`
	At      time.Time `json:"at"`
	// Revision is the commit that was applied.
	Revision string `json:"revision,omitempty"`
	// Changes are bounded to MaxChanges.
	Changes []Change `json:"changes,omitempty"`
	Omitted int      `json:"omitted,omitempty"`
	// Removed says that the bundle is no longer on the cluster. What was deleted before is a pass of its own.
	Removed bool `json:"removed,omitempty"`
}

// MaxContested bounds BundleStatus.Contested, BundleStatus.Uncorrected and BundleStatus.Uncompared, each.
const MaxContested = 3

// MaxUncompared bounds the reason in a line of BundleStatus.Uncompared, in bytes.
const MaxUncompared = 300

// MaxExempt bounds BundleStatus.Exempt.
const MaxExempt = 20

// MaxChanges bounds BundleStatus.Changes.
const MaxChanges = 100

// StatusErrorOf turns an error into what is shown and sent; nil for nil.
func StatusErrorOf(err error) *StatusError {
	if err == nil {
		return nil
	}
	out := &StatusError{Kind: KindOf(err), Message: err.Error()}
	if e, ok := asError(err); ok {
		out.Reason, out.File, out.Line, out.Field = e.Reason, e.File, e.Line, e.Field
	}
	return out
}
