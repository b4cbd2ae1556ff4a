package cluster

import (
	"context"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
)

// An agent that is well renews its Lease by the clock, so that whoever asks the cluster alone knows how old
// what the agent has told is. Beside the spec of every Lease, it holds
//
//	metadata:
//	  annotations:
//	    flotilla.dev/renew-every: 30s                                # as a promise
//	    flotilla.dev/repository-reached: "2026-11-21T10:00:00Z"      # when that was last so; by the API server's clock
//	    flotilla.dev/unclean-starts: "2026-11-21T09:58:00Z,…"        # of agents that found the Lease not given back
const (
	// RenewEvery is how often.
	RenewEvery = 30 * time.Second

	annotationRenewEvery = api.Group + "/renew-every"
	annotationReached    = api.Group + "/repository-reached"
	annotationUnclean    = api.Group + "/unclean-starts"
	// maxUnclean bounds the starts that the Lease tells of.
	maxUnclean = 10
)

// LifeState is one word for whether an agent is at work.
type LifeState string

// The states.
const (
	// LifeAlive renews its Lease.
	LifeAlive LifeState = "alive"
	// LifeSilent has not renewed its Lease for three times as long as it promised.
	LifeSilent LifeState = "silent"
	// LifeStopped has given the Lease back, and no other agent has taken it.
	LifeStopped LifeState = "stopped"
	// LifeRestarting is at work or silent, and was started again three times within an hour without having ended properly.
	LifeRestarting LifeState = "restarting"
	// LifeUnknown holds a Lease that promises nothing: it is older than this program, or may not be read.
	LifeUnknown LifeState = "unknown"
)

// When an agent counts as LifeRestarting.
const (
	restartsWithin = time.Hour
	restartsMost   = 3
)

// Life is what the Lease says of the cluster's agent. Times are the API server's.
type Life struct {
	State LifeState `json:"state"`
	// Holder is the agent's identity; empty if no agent holds the Lease.
	Holder string `json:"holder,omitempty"`
	// LastSign is when the agent was last known to live, and Age how long ago that was, in seconds.
	LastSign time.Time `json:"lastSign,omitzero"`
	Age      int       `json:"ageSeconds"`
	// Reached is when the repository was last reached, as the agent said with its last sign.
	Reached time.Time `json:"repositoryReached,omitzero"`
	// UncleanStarts of the last hour, oldest first: what held the Lease before had not given it back.
	UncleanStarts []time.Time `json:"uncleanStarts,omitempty"`
}

// Works reports whether what the agent told is of now.
func (l Life) Works() bool { return l.State == LifeAlive || l.State == LifeUnknown }

// Life reads how the cluster's agent fares.
func (c *Client) Life(ctx context.Context) (Life, error) {
	l, found, err := c.readLease(ctx)
	if err != nil {
		return Life{State: LifeUnknown}, kube.Classify(LeaseRef(), "", err)
	}
	if !found {
		return Life{State: LifeStopped}, nil
	}
	return lifeOf(l, c.now().Add(c.server.ClockSkew())), nil
}

// lifeOf decides how an agent fares by its Lease.
func lifeOf(l lease, now time.Time) Life {
	notes := l.Metadata.Annotations
	out := Life{Holder: l.Spec.HolderIdentity, LastSign: parseTime(leaseTime, l.Spec.RenewTime), Reached: parseTime(time.RFC3339, notes[annotationReached])}
	if !out.LastSign.IsZero() {
		out.Age = max(0, int(now.Sub(out.LastSign).Seconds()))
	}
	for _, t := range uncleanStarts(notes) {
		if now.Sub(t) < restartsWithin {
			out.UncleanStarts = append(out.UncleanStarts, t)
		}
	}
	every, err := time.ParseDuration(notes[annotationRenewEvery])
	switch {
	case out.Holder == "":
		out.State = LifeStopped
	case len(out.UncleanStarts) >= restartsMost:
		out.State = LifeRestarting
	case err != nil || every <= 0:
		out.State = LifeUnknown
	case now.Sub(out.LastSign) > 3*every:
		out.State = LifeSilent
	default:
		out.State = LifeAlive
	}
	return out
}

func parseTime(layout, s string) time.Time {
	t, err := time.Parse(layout, s)
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

func uncleanStarts(notes map[string]string) []time.Time {
	var out []time.Time
	for s := range strings.SplitSeq(notes[annotationUnclean], ",") {
		if t := parseTime(time.RFC3339, s); !t.IsZero() {
			out = append(out, t)
		}
	}
	return out
}

// startedUnclean notes on a Lease that its holder had not given it back when an agent was started.
func (l *lease) startedUnclean(at time.Time) {
	all := append(uncleanStarts(l.Metadata.Annotations), at)
	all = all[max(0, len(all)-maxUnclean):]
	texts := make([]string, len(all))
	for i, t := range all {
		texts[i] = t.UTC().Format(time.RFC3339)
	}
	l.note(annotationUnclean, strings.Join(texts, ","))
}

func (l *lease) note(key, value string) {
	if l.Metadata.Annotations == nil {
		l.Metadata.Annotations = map[string]string{}
	}
	l.Metadata.Annotations[key] = value
}

// RenewLease says that the agent lives, and when it last reached its repository (by our own clock; zero if it never has).
// Its errors are those of AnswerLease.
func (c *Client) RenewLease(ctx context.Context, identity string, reached time.Time) error {
	l, found, err := c.readLease(ctx)
	if err != nil {
		return kube.Classify(LeaseRef(), "", err)
	}
	if !found {
		return c.AcquireLease(ctx, identity) // somebody deleted it
	}
	if err := l.heldBy(identity); err != nil {
		return err
	}
	l.note(annotationRenewEvery, RenewEvery.String())
	if !reached.IsZero() {
		l.note(annotationReached, reached.Add(c.server.ClockSkew()).UTC().Format(time.RFC3339))
	}
	l.Spec.RenewTime = c.serverNow()
	return kube.Classify(LeaseRef(), "", c.writeLease(ctx, l, found))
}
