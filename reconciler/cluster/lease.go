package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// The Lease flotilla-system/flotilla-agent says which agent looks after the cluster.
//
// Who finds it held by another challenges the holder, by an annotation on the Lease.
// A holder that lives sees that by its watch and answers with a new renewTime;
// one that does not answer for DefaultChallenge has lost the cluster.
// Beside that it is renewed every RenewEvery, for people; see Life.
const (
	leaseName = "flotilla-agent"
	// annotationChallenge holds the identity of the agent that asks whether the holder lives.
	annotationChallenge = api.Group + "/challenge"
	// DefaultChallenge is how long a holder has to answer.
	DefaultChallenge = 10 * time.Second
	challengePoll    = 250 * time.Millisecond
	// releaseTries bounds how often a release is tried that challenges conflict with.
	releaseTries = 5
)

// ReasonOtherAgent is the reason of errors that say that another agent has the cluster.
const ReasonOtherAgent = "OtherAgent"

// leaseTime is how Leases write their times.
const leaseTime = "2006-01-02T15:04:05.000000Z07:00"

type lease struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Metadata   leaseMeta `json:"metadata"`
	Spec       leaseSpec `json:"spec"`
}

type leaseMeta struct {
	Name            string            `json:"name"`
	Namespace       string            `json:"namespace"`
	ResourceVersion string            `json:"resourceVersion,omitempty"`
	Labels          map[string]string `json:"labels,omitempty"`
	Annotations     map[string]string `json:"annotations,omitempty"`
}

type leaseSpec struct {
	HolderIdentity       string `json:"holderIdentity"`
	LeaseDurationSeconds int    `json:"leaseDurationSeconds"`
	AcquireTime          string `json:"acquireTime,omitempty"`
	RenewTime            string `json:"renewTime,omitempty"`
	LeaseTransitions     int    `json:"leaseTransitions"`
}

// LeaseRef is the agent's Lease.
func LeaseRef() api.ObjectRef {
	return api.ObjectRef{Group: "coordination.k8s.io", Version: "v1", Kind: "Lease", Namespace: api.SystemNamespace, Name: leaseName}
}

func leasePlace() (kube.Place, error) { return kube.PlaceOf(LeaseRef(), "leases") }

// AcquireLease makes this agent the only one on the cluster.
// The holder itself has it at once. Another agent gets it when the holder released it or does not answer a challenge;
// otherwise the error's kind is Forbidden and names the holder.
func (c *Client) AcquireLease(ctx context.Context, identity string) error {
	return kube.Classify(LeaseRef(), "", c.acquireLease(ctx, identity))
}

func (c *Client) acquireLease(ctx context.Context, identity string) error {
	l, found, err := c.readLease(ctx)
	if err != nil {
		return err
	}
	unclean := l.Spec.HolderIdentity != "" // nobody has given it back
	if holder := l.Spec.HolderIdentity; holder != "" && holder != identity {
		if l, found, err = c.challenge(ctx, identity, l); err != nil {
			return err
		}
	}
	now := c.serverNow()
	if unclean && l.Spec.HolderIdentity != "" {
		l.startedUnclean(parseTime(leaseTime, now))
	}
	l.note(annotationRenewEvery, RenewEvery.String())
	if l.Spec.HolderIdentity != identity {
		l.Spec.AcquireTime = now
		if found {
			l.Spec.LeaseTransitions++
		}
	}
	l.Spec.HolderIdentity, l.Spec.RenewTime = identity, now
	return c.writeLease(ctx, l, found)
}

// challenge asks the holder whether it lives. It returns the lease as it is when there was no answer.
func (c *Client) challenge(ctx context.Context, identity string, held lease) (lease, bool, error) {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{annotationChallenge: identity}}})
	if err != nil {
		return lease{}, false, err
	}
	at, err := leasePlace()
	if err != nil {
		return lease{}, false, err
	}
	if _, err := c.server.Own.Patch(ctx, at, types.MergePatchType, patch); err != nil && !apierrors.IsNotFound(err) {
		return lease{}, false, err
	}
	ctxWait, cancel := context.WithTimeout(ctx, c.challengeFor)
	defer cancel()
	for {
		l, found, err := c.readLease(ctx)
		switch {
		case err != nil:
			return lease{}, false, err
		case !found || l.Spec.HolderIdentity == "" || l.Spec.HolderIdentity == identity:
			return l, found, nil
		case l.Spec.RenewTime != held.Spec.RenewTime || l.Spec.HolderIdentity != held.Spec.HolderIdentity:
			return lease{}, false, &api.Error{
				Kind: api.Forbidden, Reason: ReasonOtherAgent,
				Err:  fmt.Errorf("another agent, %q, looks after this cluster (it answered at %s)", l.Spec.HolderIdentity, l.Spec.RenewTime),
				Hint: "stop it first",
			}
		}
		if kube.Pause(ctxWait, challengePoll) != nil {
			if ctx.Err() != nil {
				return lease{}, false, ctx.Err()
			}
			c.log.Warn("the agent that held this cluster does not answer", "holder", l.Spec.HolderIdentity)
			return l, found, nil
		}
	}
}

// AnswerLease answers a challenge. It is to be called whenever the watch sees the Lease change.
// The error's kind is Forbidden when another agent holds the cluster: then this one must stop.
func (c *Client) AnswerLease(ctx context.Context, identity string) error {
	l, found, err := c.readLease(ctx)
	switch {
	case err != nil:
		return kube.Classify(LeaseRef(), "", err)
	case !found:
		return c.AcquireLease(ctx, identity) // somebody deleted it
	case l.Spec.HolderIdentity != identity:
		return l.heldBy(identity)
	case l.Metadata.Annotations[annotationChallenge] == "":
		return nil
	}
	l.Spec.RenewTime = c.serverNow()
	return kube.Classify(LeaseRef(), "", c.writeLease(ctx, l, found))
}

// heldBy returns an error if another agent holds the lease.
func (l lease) heldBy(identity string) error {
	if l.Spec.HolderIdentity == identity {
		return nil
	}
	return &api.Error{
		Kind: api.Forbidden, Reason: ReasonOtherAgent,
		Err:  fmt.Errorf("another agent, %q, has taken over this cluster", l.Spec.HolderIdentity),
		Hint: "one of the two must stop",
	}
}

// ReleaseLease lets the next agent in at once. It does nothing if another one holds the lease.
// A challenge that comes at the same moment changes the lease, so a conflict is tried again.
func (c *Client) ReleaseLease(ctx context.Context, identity string) error {
	for try := 1; ; try++ {
		l, found, err := c.readLease(ctx)
		if err == nil && found && l.Spec.HolderIdentity == identity {
			l.Spec.HolderIdentity = ""
			err = c.writeLease(ctx, l, found)
		}
		switch {
		case err == nil:
			return nil
		case !apierrors.IsConflict(err) || try == releaseTries:
			return fmt.Errorf("release the lease: %w", err)
		}
	}
}

// readLease returns the lease; found is false if there is none.
func (c *Client) readLease(ctx context.Context) (l lease, found bool, err error) {
	at, err := leasePlace()
	if err != nil {
		return lease{}, false, err
	}
	raw, err := c.server.Own.Read(ctx, at)
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return lease{}, false, err
	default:
		if err := json.Unmarshal(raw, &l); err != nil {
			return lease{}, false, errors.Join(errors.New("decode the lease"), err)
		}
		found = true
	}
	l.APIVersion, l.Kind = "coordination.k8s.io/v1", "Lease"
	l.Metadata.Name, l.Metadata.Namespace = leaseName, api.SystemNamespace
	return l, found, nil
}

// writeLease stores the lease, on the condition that it is still the one that was read. An answered challenge goes away.
func (c *Client) writeLease(ctx context.Context, l lease, found bool) error {
	// With these labels the agent's own watch sees challenges.
	l.Metadata.Labels = map[string]string{api.LabelManagedBy: api.ManagedBy, api.LabelPartOf: plan.ApplySetID(agentsOwner)}
	delete(l.Metadata.Annotations, annotationChallenge)
	l.Spec.LeaseDurationSeconds = int(DefaultChallenge.Seconds())
	at, err := leasePlace()
	if err != nil {
		return err
	}
	if !found {
		_, err := c.server.Own.Create(ctx, at.At.Collection(), l, "")
		return err
	}
	return c.server.Own.Put(ctx, at, l)
}

// serverNow is the API server's time, so that agents with different clocks agree.
func (c *Client) serverNow() string {
	return c.now().Add(c.server.ClockSkew()).UTC().Format(leaseTime)
}
