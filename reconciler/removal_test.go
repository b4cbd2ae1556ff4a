package reconciler

import (
	"context"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/health"
	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
)

// removing is as much of a cluster as the removal of a bundle needs.
type removing struct {
	Applier
	Health
	hooks   int  // runs of them
	noted   bool // on the BundleDeployment: they ran
	deleted int  // how often the BundleDeployment was
}

func (a *removing) RunPostDelete(context.Context, apply.Request) ([]api.Change, bool, error) {
	if !a.noted {
		a.hooks++
	}
	a.noted = true
	return nil, true, nil
}

func (a *removing) DeleteStatus(context.Context, string) error {
	a.deleted++
	a.noted = false
	return nil
}

func (a *removing) ClockSkew() time.Duration                            { return 0 }
func (a *removing) Set(string, []api.InventoryEntry, []api.HealthCheck) {}
func (a *removing) Remove(string)                                       {}
func (a *removing) Get(string) health.Summary                           { return health.Summary{} }

// A store that fails has a removal tried again, and its hooks are not run again for that.
func TestRemoval_withAStoreThatFails(t *testing.T) {
	a := &removing{}
	r := assembled(&failing{fails: 2}, func(c *Config) { c.Applier, c.Health = a, a })
	r.rendering = &api.Rendering{}
	b := newBundle("a")
	b.life = lifeAfter(lifecycle.RemovedFromGit{})
	b.applied, b.status.Digest = &api.RenderedBundle{Name: "a"}, "d"
	r.has(b)
	for try := 1; r.bundles["a"] != nil; try++ {
		if try > 3 {
			t.Fatal("the bundle is not forgotten")
		}
		r.onLocked(b, lifecycle.Adopted{Commit: true})
		r.placeLocked(b).do(t.Context())
	}
	if a.hooks != 1 || a.deleted != 1 {
		t.Errorf("the hooks ran %d times and the BundleDeployment was deleted %d times, want 1 and 1", a.hooks, a.deleted)
	}
}
