package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// KindRollout is the kind of a rollout.yaml.
const KindRollout = "Rollout"

// Rollout says through which waves a change of some bundles reaches the fleet; rollout.yaml anywhere in the repository.
type Rollout struct {
	APIVersion string      `yaml:"apiVersion" json:"apiVersion"`
	Kind       string      `yaml:"kind" json:"kind"`
	Metadata   Meta        `yaml:"metadata" json:"metadata"`
	Spec       RolloutSpec `yaml:"spec" json:"spec"`
}

// RolloutSpec is the body of a Rollout.
type RolloutSpec struct {
	// Bundles and BundleSelector choose the bundles that move together; exactly one is set.
	Bundles        []string  `yaml:"bundles,omitempty" json:"bundles,omitempty"`
	BundleSelector *Selector `yaml:"bundleSelector,omitempty" json:"bundleSelector,omitempty"`
	Waves          []Wave    `yaml:"waves" json:"waves"`
	// Deadline is how long a cluster has, from its release until it is healthy. Past it the cluster counts as failed.
	// Zero means DefaultDeadline.
	Deadline Duration `yaml:"deadline,omitempty" json:"deadline,omitempty"`
	// Unreachable says what an unreachable cluster means for its wave. Empty means UnreachableSkip.
	Unreachable Unreachable `yaml:"unreachable,omitempty" json:"unreachable,omitempty"`
	// OnFailure says what happens when more clusters of a wave failed than may. Empty means OnFailureHalt.
	OnFailure OnFailure `yaml:"onFailure,omitempty" json:"onFailure,omitempty"`
	// Paused is the reason for which nothing is released. Empty: it is not paused from Git.
	Paused string `yaml:"paused,omitempty" json:"paused,omitempty"`
	// Windows and Freeze say when changes of these bundles may be applied.
	Windows []Window `yaml:"windows,omitempty" json:"windows,omitempty"`
	Freeze  *Freeze  `yaml:"freeze,omitempty" json:"freeze,omitempty"`
}

// DefaultDeadline is how long a cluster has to become healthy where the rollout does not say it.
const DefaultDeadline = 15 * time.Minute

// HealthDeadline is Deadline with its default.
func (s RolloutSpec) HealthDeadline() time.Duration {
	if s.Deadline > 0 {
		return time.Duration(s.Deadline)
	}
	return DefaultDeadline
}

// Takes reports whether a bundle of that name and labels moves with the rollout.
func (s RolloutSpec) Takes(bundle Meta) bool {
	if s.BundleSelector != nil {
		return s.BundleSelector.Matches(bundle.Labels)
	}
	return slices.Contains(s.Bundles, bundle.Name)
}

// WaveOf returns the index of the wave that a cluster is in. If several waves choose it, that is the first of them. If none does, it is -1.
func (s RolloutSpec) WaveOf(cluster string, labels map[string]string) int {
	return slices.IndexFunc(s.Waves, func(w Wave) bool {
		if w.ClusterSelector != nil {
			return w.ClusterSelector.Matches(labels)
		}
		return slices.Contains(w.Clusters, cluster)
	})
}

// Before returns the indexes of the waves that must have finished before this one begins.
// Without a list of names that is the wave above; the first wave has none. An empty list means none.
func (s RolloutSpec) Before(wave int) []int {
	w := s.Waves[wave]
	if w.After == nil {
		if wave == 0 {
			return nil
		}
		return []int{wave - 1}
	}
	out := make([]int, 0, len(w.After))
	for _, name := range w.After {
		out = append(out, slices.IndexFunc(s.Waves, func(o Wave) bool { return o.Name == name }))
	}
	return out
}

// Wave is a set of clusters that get a candidate together.
type Wave struct {
	Name string `yaml:"name" json:"name"`
	// After names the waves that must have finished. Nil means the wave above; an empty list means none.
	After []string `yaml:"after,omitempty" json:"after,omitempty"`
	// ClusterSelector and Clusters choose the clusters; exactly one is set.
	// A cluster that several waves choose is in the first of them.
	ClusterSelector *Selector `yaml:"clusterSelector,omitempty" json:"clusterSelector,omitempty"`
	Clusters        []string  `yaml:"clusters,omitempty" json:"clusters,omitempty"`
	// MaxParallel bounds how many clusters of the wave change at one time. Nil means all.
	MaxParallel *Amount `yaml:"maxParallel,omitempty" json:"maxParallel,omitempty"`
	// MaxFailures is how many clusters of the wave may fail. Nil means none.
	MaxFailures *Amount `yaml:"maxFailures,omitempty" json:"maxFailures,omitempty"`
	// Soak is how long every counted cluster must have been healthy, without a break, before the wave has finished.
	Soak Duration `yaml:"soak,omitempty" json:"soak,omitempty"`
	// Approve has the wave wait for a person's approval before its first release.
	Approve bool `yaml:"approve,omitempty" json:"approve,omitempty"`
}

// Parallel is how many of n clusters may change at one time: a share is rounded down, and is at least one.
func (w Wave) Parallel(n int) int {
	if w.MaxParallel == nil {
		return max(n, 1)
	}
	return max(w.MaxParallel.floor(n), 1)
}

// Failures is how many of n clusters may fail: a share is rounded up.
func (w Wave) Failures(n int) int {
	if w.MaxFailures == nil {
		return 0
	}
	return w.MaxFailures.ceil(n)
}

// Unreachable says what an unreachable cluster means for its wave.
type Unreachable string

// The words for it.
const (
	// UnreachableSkip goes on without the cluster. It gets the candidate when it is back.
	UnreachableSkip Unreachable = "skip"
	// UnreachableWait waits for the cluster.
	UnreachableWait Unreachable = "wait"
	// UnreachableFail counts the cluster as failed.
	UnreachableFail Unreachable = "fail"
)

// OnFailure says what happens when more clusters of a wave failed than may.
type OnFailure string

// The words for it.
const (
	// OnFailureHalt releases nothing more of the candidate.
	OnFailureHalt OnFailure = "halt"
	// OnFailureReturn releases the last candidate that finished to every cluster that was released this one.
	OnFailureReturn OnFailure = "return"
)

// Amount is a number of clusters, or a share of them in percent: 3, or 25%.
type Amount struct {
	Number  int
	Percent bool
}

// String writes it as in a file.
func (a Amount) String() string {
	if a.Percent {
		return strconv.Itoa(a.Number) + "%"
	}
	return strconv.Itoa(a.Number)
}

func (a Amount) floor(n int) int {
	if a.Percent {
		return n * a.Number / 100
	}
	return a.Number
}

func (a Amount) ceil(n int) int {
	if a.Percent {
		return (n*a.Number + 99) / 100
	}
	return a.Number
}

// parseAmount accepts a number from 0 to a million, or a share from 0% to 100%.
func parseAmount(s string) (Amount, error) {
	digits, percent := strings.CutSuffix(s, "%")
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || percent && n > 100 || n > 1_000_000 {
		return Amount{}, fmt.Errorf("%q is neither a number of clusters such as 3 nor a share such as 25%%", s)
	}
	return Amount{Number: int(n), Percent: percent}, nil
}

// UnmarshalYAML accepts 3 and "25%".
func (a *Amount) UnmarshalYAML(n *yaml.Node) error {
	v, err := parseAmount(n.Value) // a list or mapping has none
	if err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	*a = v
	return nil
}

// MarshalYAML writes it as String does.
func (a Amount) MarshalYAML() (any, error) { return a.String(), nil }

// UnmarshalJSON accepts what MarshalJSON writes.
func (a *Amount) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("amount %s is not a string such as \"25%%\"", b)
	}
	v, err := parseAmount(s)
	*a = v
	return err
}

// MarshalJSON writes a string.
func (a Amount) MarshalJSON() ([]byte, error) { return json.Marshal(a.String()) }

// Matches reports whether the selector matches labels. An empty selector matches everything. A nil or an invalid one matches nothing.
func (s *Selector) Matches(set map[string]string) bool {
	if s == nil {
		return false
	}
	sel, err := metav1.LabelSelectorAsSelector(s.LabelSelector())
	return err == nil && sel.Matches(labels.Set(set))
}

// validate refuses what is no selector. Nil is one.
func (s *Selector) validate(at locator, field string) error {
	if _, err := metav1.LabelSelectorAsSelector(s.LabelSelector()); err != nil {
		return at.errorf(field, "%v", err)
	}
	return nil
}

// RolloutContent is the content that a cluster has, or should have, of a rollout's bundles: bundle -> its digest.
// A bundle that the cluster does not have is left out, so that its removal is a content of its own.
func RolloutContent(digests map[string]string) string {
	b, _ := json.Marshal(digests) // strings, by sorted keys
	if len(digests) == 0 {
		b = []byte("{}")
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}
