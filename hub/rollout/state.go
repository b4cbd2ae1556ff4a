package rollout

import (
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// Version is the content of a rollout's bundles on one cluster, and a commit that has it.
type Version struct {
	Revision string `json:"revision"`
	Content  string `json:"content"`
}

// Release is the hub's word that a cluster may have a content.
type Release struct {
	// Number orders all releases of a rollout. An agent takes no release whose number is not above the last that it took.
	Number  uint64 `json:"number"`
	Cluster string `json:"cluster"`
	// Candidate is the ID of the candidate that it belongs to.
	Candidate string `json:"candidate"`
	Version
	// Instead is the content that failed, in a release that returns to what was before. The agent stays until Git has another one.
	Instead string `json:"instead,omitempty"`
}

// Report is what an agent says of a rollout on its cluster. Each replaces the last.
type Report struct {
	Cluster string `json:"cluster"`
	// Seq numbers the reports of an agent. A report whose number is not above the last changes nothing.
	Seq uint64 `json:"seq"`
	// Epoch is that of the hub for which the report was made: an older one does not tell what came after a restore.
	Epoch string `json:"epoch"`
	// Newest is what the newest commit that the agent has seen says, and Spec the rollout in that commit.
	// Spec is to be validated before Decide sees it: a wave that comes after one that is not there ends Decide in a panic.
	Newest Version          `json:"newest"`
	Spec   *api.RolloutSpec `json:"spec,omitempty"`
	// Held is the last release that the agent took. A suspension voids it: of it the Number stays, and nothing else.
	Held Release `json:"held"`
	// Applied is the content that was applied last, Healthy whether all of it is healthy, Drift whether drift is open.
	Applied string `json:"applied"`
	Healthy bool   `json:"healthy"`
	Drift   bool   `json:"drift"`
	// Stalled: only a person can help, and waiting cannot.
	Stalled bool `json:"stalled"`
	// Suspension names the suspension that holds the rollout's bundles, Closed the freeze or the window that does.
	Suspension string `json:"suspension,omitempty"`
	Closed     string `json:"closed,omitempty"`
	// Forced is the content that a person released on the cluster itself; empty if none did.
	Forced string `json:"forced,omitempty"`
}

// Cluster is what the hub knows of a cluster beside its reports.
type Cluster struct {
	Labels    map[string]string
	Reachable bool
}

// OrderKind is what a person orders.
type OrderKind string

// The kinds of orders.
const (
	Approve OrderKind = "approve"
	Pause   OrderKind = "pause"
	Resume  OrderKind = "resume" // ends a pause; goes on after a halt without those that failed
	Return  OrderKind = "return"
	Hold    OrderKind = "hold" // nothing is released to one cluster
	Unhold  OrderKind = "unhold"
	Force   OrderKind = "force" // one cluster gets the candidate now
)

// Order is a person's.
type Order struct {
	Kind OrderKind
	// Candidate is the ID of the candidate that an approval is for.
	Candidate string
	Wave      string
	Cluster   string
	Reason    string
}

// Input is what is new since the last decision, and what is so now.
type Input struct {
	// Epoch is another one when the hub was restored from a backup.
	Epoch string
	// Clusters are all that the hub knows, by name. One that is not here has left.
	Clusters map[string]Cluster
	Reports  []Report
	Orders   []Order
	Now      time.Time
}

// State is all that is kept between decisions. It is changed by Decide alone.
type State struct {
	Epoch string `json:"epoch"`
	// Restored is set when the hub was put back from a backup. It ends when every cluster of the rollout has reported since,
	// or when a person resumes the rollout.
	Restored bool `json:"restored,omitempty"`
	// Number is that of the last release.
	Number uint64            `json:"number"`
	Known  map[string]*Known `json:"known"`
	// Past are revisions that are known to be older than the candidate's, newest last; at most maxPast.
	Past []string `json:"past,omitempty"`
	// Turned are revisions among Past to which an agent went from the candidate's: the branch may have been set back.
	Turned    []string   `json:"turned,omitempty"`
	Candidate *Candidate `json:"candidate,omitempty"`
	// Last is the last candidate that was completed: cluster -> what it was there. Distrusted after a restore.
	Last         map[string]Version `json:"last,omitempty"`
	LastID       string             `json:"lastID,omitempty"`
	LastRevision string             `json:"lastRevision,omitempty"`
	// Paused is a person's reason; empty if none paused the rollout. Holds: cluster -> reason.
	Paused string            `json:"paused,omitempty"`
	Holds  map[string]string `json:"holds,omitempty"`
	// Flights: cluster -> a release that has neither led to health nor failed.
	Flights map[string]*Flight `json:"flights,omitempty"`
}

const maxPast = 1000

// Known is the last that was heard of a cluster.
type Known struct {
	Report
	// Heard is set when the cluster reported since the hub was restored.
	Heard bool `json:"heard"`
	// Joined is the ID of the candidate that a cluster got which is no member of the present one.
	Joined string `json:"joined,omitempty"`
}

// Flight is a release under way.
type Flight struct {
	Number  uint64    `json:"number"`
	Content string    `json:"content"`
	Due     time.Time `json:"due"`
	// Guess: the hub did not release it. A person forced it on the cluster, or a restored hub found it held by the agent.
	// It takes a place, and gives its cluster no right to another release beyond the places that there are.
	Guess bool `json:"guess,omitempty"`
}

// Phase is that of a candidate.
type Phase string

// The phases of a candidate.
const (
	Running   Phase = "running"
	Halted    Phase = "halted"
	Returned  Phase = "returned"
	Completed Phase = "completed"
)

// Candidate is what a rollout moves. It is told by content: all its revisions have the same on every cluster.
type Candidate struct {
	ID        string          `json:"id"`
	Revisions []string        `json:"revisions"`
	Spec      api.RolloutSpec `json:"spec"`
	Started   time.Time       `json:"started"`
	Phase     Phase           `json:"phase"`
	// Why says for what a candidate halted or returned.
	Why     string             `json:"why,omitempty"`
	Waves   []*Wave            `json:"waves"`
	Members map[string]*Member `json:"members"`
}

// WavePhase is that of a wave.
type WavePhase string

// The phases of a wave.
const (
	Waiting  WavePhase = "waiting"
	Asking   WavePhase = "asking"
	Rolling  WavePhase = "rolling"
	Soaking  WavePhase = "soaking"
	Finished WavePhase = "finished"
)

// Wave is one of a candidate's, with its numbers worked out for the members that it has.
type Wave struct {
	Name     string        `json:"name"`
	After    []int         `json:"after,omitempty"`
	Soak     time.Duration `json:"soak"`
	Parallel int           `json:"parallel"`
	Failures int           `json:"failures"`
	Approve  bool          `json:"approve,omitempty"`
	Approved bool          `json:"approved,omitempty"`
	Phase    WavePhase     `json:"phase"`
	// Members are fixed when the candidate starts; sorted.
	Members []string `json:"members"`
}

// Member is a cluster in a wave.
type Member struct {
	// Version is what the candidate is here. Empty: its agent has not seen any of the candidate's revisions.
	Version
	// Number is that of its own release; zero before.
	Number uint64 `json:"number,omitempty"`
	// Had: the candidate was released to it, whatever became of that.
	Had bool `json:"had,omitempty"`
	// Forced: a person released it on the cluster itself.
	Forced bool `json:"forced,omitempty"`
	// Return is the number of the release that took it back.
	Return uint64 `json:"return,omitempty"`
	// Good is since when the hub knows it to be healthy at the content, after its release; zero while it is not.
	Good time.Time `json:"good,omitzero"`
	// Due is when it counts as failed, if it is not good by then.
	Due    time.Time `json:"due,omitzero"`
	Failed bool      `json:"failed,omitempty"`
	// Excused: it failed, and a person had the rollout go on.
	Excused bool `json:"excused,omitempty"`
	Left    bool `json:"left,omitempty"`
}

// Reason is the one thing that a wave or a cluster waits for, in words.
type Reason struct {
	Wave    string `json:"wave,omitempty"`
	Cluster string `json:"cluster,omitempty"`
	Text    string `json:"text"`
}
