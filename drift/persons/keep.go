package persons

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

// Cluster is where the admission policy that names persons is put in force.
type Cluster interface {
	// User is the name that the API server knows the agent by.
	User(ctx context.Context) (string, error)
	// EnsureOwn applies objects that are the agent's own.
	EnsureOwn(ctx context.Context, objs []*unstructured.Unstructured) error
	// RemoveOwn deletes them; what is not there needs no deleting.
	RemoveOwn(ctx context.Context, objs []*unstructured.Unstructured) error
	// Stands reports whether all of them are on the cluster as they were written.
	Stands(ctx context.Context, objs []*unstructured.Unstructured) (bool, error)
}

// checkEvery is how often Keep looks whether the policy still stands.
const checkEvery = 5 * time.Minute

// Keep keeps the admission policy on the cluster where it is wanted, and off where it is not, until ctx ends.
func (p *Persons) Keep(ctx context.Context, c Cluster, log *slog.Logger) {
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	wait := time.Second
	var done api.Persons
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.changed:
			wait = time.Second
		case <-retry.C:
		}
		mode := p.wanted()
		err := p.set(ctx, c, mode)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			if done != mode {
				log.Info("persons", "mode", mode)
			}
			done, wait = mode, time.Second
			retry.Reset(checkEvery)
		default:
			log.Warn("persons", "mode", mode, "error", err, "retry", wait)
			retry.Reset(wait)
			wait = min(2*wait, 5*time.Minute)
		}
	}
}

// set puts the policy in force or takes it away. A person is named only by a policy that is known to stand.
func (p *Persons) set(ctx context.Context, c Cluster, mode api.Persons) error {
	if mode == api.PersonsOff {
		// The mark goes first: what happens from now on is not stamped, and must not look as if it were.
		if err := p.forgetMark(); err != nil {
			return err
		}
		return c.RemoveOwn(ctx, StampPolicy("", ""))
	}
	user, err := c.User(ctx)
	if err != nil {
		return err
	}
	mark, err := p.lastMark()
	if err != nil {
		return err
	}
	stands, err := c.Stands(ctx, StampPolicy(user, mark))
	if err != nil {
		return needs136(err)
	}
	if mark == "" || !stands {
		p.inForce("")
		// Somebody may have changed objects without a stamp: those of before prove nothing any more.
		if mark, err = p.newMark(); err != nil {
			return err
		}
	}
	if err := c.EnsureOwn(ctx, StampPolicy(user, mark)); err != nil {
		return needs136(err)
	}
	p.inForce(mark)
	return nil
}

func needs136(err error) error {
	return fmt.Errorf("the admission policy that names persons (it needs Kubernetes 1.36): %w", err)
}
