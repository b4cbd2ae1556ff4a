package api

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// State is all that is so on a cluster now:
// what a hub has to hold to show it. Reports are the steps from one State to the next.
type State struct {
	// Status is nil until the agent has said anything.
	Status *ClusterStatus `json:"status,omitempty"`
	// Bundles are sorted by name.
	Bundles []BundleStatus `json:"bundles,omitempty"`
	// Episodes are the open ones, sorted by ID.
	Episodes []Episode `json:"episodes,omitempty"`
}

// StateAt is a State with its place among the reports.
type StateAt struct {
	State State
	// Seq is the newest report that State includes.
	Seq uint64
	// Acked is the last report that the hub has acknowledged; the outbox goes on from there.
	Acked uint64
}

// Checksum is equal for two states that say the same.
// Bookkeeping (see Content), the order of lists of things with names,
// and time zones make no difference.
func (s State) Checksum() string {
	c := State{
		Bundles:  make([]BundleStatus, 0, len(s.Bundles)),
		Episodes: make([]Episode, 0, len(s.Episodes)),
	}
	if s.Status != nil {
		st := s.Status.Content()
		c.Status = &st
	}
	for _, b := range s.Bundles {
		c.Bundles = append(c.Bundles, b.Content())
	}
	for _, e := range s.Episodes {
		c.Episodes = append(c.Episodes, e.Content())
	}
	slices.SortFunc(c.Bundles, func(a, b BundleStatus) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(c.Episodes, func(a, b Episode) int { return cmp.Compare(a.ID, b.ID) })
	// Only strings, numbers, times and maps of strings: it always marshals, and always the same.
	b, _ := json.Marshal(c)
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// Content is the status without bookkeeping (Fetched) and with all times in UTC:
// a change of anything else is worth a report.
func (s ClusterStatus) Content() ClusterStatus {
	s.Fetched = time.Time{}
	s.Started = s.Started.UTC()
	s.Suspensions = slices.Clone(s.Suspensions)
	for i := range s.Suspensions {
		s.Suspensions[i].Until = s.Suspensions[i].Until.UTC()
		s.Suspensions[i].Created = s.Suspensions[i].Created.UTC()
	}
	return s
}

// Content is the status without bookkeeping (Updated); see ClusterStatus.Content.
func (s BundleStatus) Content() BundleStatus {
	s.Updated = time.Time{}
	return s
}

// Content is the episode without bookkeeping (LastSeen, Track); see ClusterStatus.Content.
// Nor are Rounds and Reopened in it. They change only when Count does, and a hub of before does not know them:
// its checksum must be that of its agents.
func (e Episode) Content() Episode {
	e.LastSeen, e.Track = time.Time{}, nil
	e.Reopened, e.Rounds = time.Time{}, nil
	e.Onset, e.End, e.NextCorrection = e.Onset.UTC(), e.End.UTC(), e.NextCorrection.UTC()
	e.By.Time = e.By.Time.UTC()
	e.Fields = slices.Clone(e.Fields)
	for i := range e.Fields {
		e.Fields[i].By.Time = e.Fields[i].By.Time.UTC()
	}
	e.Timeline = slices.Clone(e.Timeline)
	for i := range e.Timeline {
		e.Timeline[i].At = e.Timeline[i].At.UTC()
	}
	return e
}

// EpisodeID is an Episode's ID taken apart: "prod-eu-k7qa-42" is the 42nd episode
// of the store k7qa of the cluster prod-eu.
// A store that was lost and begun anew has another tag, so IDs are never given twice.
type EpisodeID struct {
	Cluster string
	// Store is the store's tag: letters and digits.
	Store string
	// Seq counts from 1.
	Seq uint64
}

// String is the inverse of ParseEpisodeID.
func (id EpisodeID) String() string {
	return id.Cluster + "-" + id.Store + "-" + strconv.FormatUint(id.Seq, 10)
}

// ParseEpisodeID takes an ID apart. There is only one way to read an ID,
// so that no cluster can speak for another whose name begins like its own.
func ParseEpisodeID(s string) (EpisodeID, error) {
	rest, num, ok := cutLast(s)
	if !ok {
		return EpisodeID{}, fmt.Errorf("%q is not an episode's ID", s)
	}
	cluster, tag, ok := cutLast(rest)
	n, err := strconv.ParseUint(num, 10, 64)
	id := EpisodeID{Cluster: cluster, Store: tag, Seq: n}
	if !ok || err != nil || n == 0 || tag == "" || !ValidName(cluster) || id.String() != s {
		return EpisodeID{}, fmt.Errorf("%q is not an episode's ID", s)
	}
	return id, nil
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '-')
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+1:], true
}

// Follows reports whether nothing is missing between the report numbered last and this one.
// It also holds for a report that is not newer than last: that was applied before.
func (r Report) Follows(last uint64) bool {
	if r.From != 0 {
		return r.From <= last+1
	}
	return r.Seq <= last+1
}

// Validate reports a report that does not say exactly one thing, or says it without a name.
func (r Report) Validate() error {
	n := 0
	for _, set := range []bool{r.Status != nil, r.Bundle != nil, r.RemovedBundle != "", r.Episode != nil, r.Compacted != nil} {
		if set {
			n++
		}
	}
	switch {
	case r.Seq == 0:
		return errors.New("a report needs a number")
	case r.From > r.Seq:
		return fmt.Errorf("report %d stands for those from %d", r.Seq, r.From)
	case n != 1:
		return fmt.Errorf("report %d says %d things, and must say one", r.Seq, n)
	case r.Bundle != nil && r.Bundle.Name == "":
		return fmt.Errorf("report %d: the bundle has no name", r.Seq)
	case r.Compacted != nil && (r.Compacted.From > r.Compacted.To || r.Compacted.To != r.Seq):
		return fmt.Errorf("report %d: compacted from %d to %d", r.Seq, r.Compacted.From, r.Compacted.To)
	}
	if r.Episode != nil {
		if _, err := ParseEpisodeID(r.Episode.ID); err != nil {
			return fmt.Errorf("report %d: %w", r.Seq, err)
		}
	}
	return nil
}
