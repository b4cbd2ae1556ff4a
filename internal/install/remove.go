package install

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
)

// Owned is what a removal asks about what bundles own.
type Owned interface {
	Inventory(ctx context.Context) (map[string][]api.InventoryEntry, error)
	// Prune deletes objects of a bundle, in the order in which the agent would.
	Prune(ctx context.Context, req apply.PruneRequest) apply.Result
	// Release takes flotilla's labels off an object.
	Release(ctx context.Context, ref api.ObjectRef) error
	// DeleteStatus deletes a BundleDeployment.
	DeleteStatus(ctx context.Context, bundle string) error
}

// Own is what a removal asks about what is flotilla's own.
type Own interface {
	// AcquireLease takes the cluster's Lease. While an agent lives, the error's kind is Forbidden.
	AcquireLease(ctx context.Context, identity string) error
	// RemoveOwn deletes objects, the last one first.
	RemoveOwn(ctx context.Context, objs []*unstructured.Unstructured) error
}

// Workloads says what becomes of the objects of bundles when flotilla goes.
type Workloads string

// The choices.
const (
	// Leave takes flotilla's labels off, and leaves the objects as they are.
	Leave Workloads = "leave"
	// Delete deletes them.
	Delete Workloads = "delete"
)

// Inventory returns what bundles own. A cluster that never had an agent holds nothing.
func Inventory(ctx context.Context, c Owned) (map[string][]api.InventoryEntry, error) {
	all, err := c.Inventory(ctx)
	if e, ok := errors.AsType[*api.Error](err); ok && e.Reason == "KindMissing" {
		return nil, nil
	}
	return all, err
}

// identity is what a removal calls itself on the cluster's Lease.
const identity = "flotilla-uninstall"

// Takeover waits until the agent has ended, and keeps another one from starting.
// An agent whose Pod is deleted gives the Lease up; one that is dead does not answer.
func Takeover(ctx context.Context, c Own, pause time.Duration) error {
	for {
		err := c.AcquireLease(ctx, identity)
		if err == nil || api.KindOf(err) != api.Forbidden {
			return err
		}
		select {
		case <-ctx.Done():
			return &api.Error{
				Kind: api.Waiting, Reason: "AgentRuns", Err: fmt.Errorf("cannot take over from the agent: %w", err),
				Hint: "stop it, wherever it runs, and try again",
			}
		case <-time.After(pause):
		}
	}
}

// Disown lets go of what bundles own, one bundle after the other. It calls done after each bundle.
func Disown(ctx context.Context, c Owned, owned map[string][]api.InventoryEntry, what Workloads, done func(bundle string, objects int)) error {
	for _, bundle := range slices.Sorted(maps.Keys(owned)) {
		entries := owned[bundle]
		if what == Delete {
			if res := c.Prune(ctx, apply.PruneRequest{Bundle: bundle, Entries: entries}); res.Err != nil {
				return fmt.Errorf("cannot delete the objects of bundle %q: %w", bundle, res.Err)
			}
		}
		// What an annotation keeps from being deleted is let go like the rest.
		for _, e := range entries {
			if err := c.Release(ctx, e.Object); err != nil {
				return err
			}
		}
		if err := c.DeleteStatus(ctx, bundle); err != nil {
			return err
		}
		done(bundle, len(entries))
	}
	return nil
}
