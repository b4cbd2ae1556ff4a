package render

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/engine"
)

// purse is what is left of a tenant's rendering time in one pass over its bundles.
type purse struct {
	tenant *api.Tenant
	// left is the quota without what the bundles before take.
	left time.Duration
	// wasted is what was spent in this pass on bundles that are refused from now on.
	wasted time.Duration
	takes  []spending
	wastes []spending
}

// spending is how much rendering time a bundle takes.
type spending struct {
	bundle string
	took   time.Duration
}

// charge takes the time of a bundle out of the purse.
func (p *purse) charge(s spending) {
	p.left = max(0, p.left-s.took)
	p.takes = append(p.takes, s)
}

// waste notes what was spent on a bundle that is refused from now on.
func (p *purse) waste(s spending) {
	p.wasted += s.took
	p.wastes = append(p.wastes, s)
}

// rest is what a bundle may take that is rendered now.
func (p *purse) rest() time.Duration { return max(0, p.left-p.wasted) }

// refuse says why a bundle is not rendered that takes more than what is left.
func (p *purse) refuse(b resolved) error {
	e := b.deniedf("", "bundle %q takes more than %v to render: tenant %q may take %v, %s",
		b.name, told(p.left), p.tenant.Name, p.tenant.Quotas.RenderingTime, spendings("and", p.takes))
	e.Hint = "make it do less, or raise quotas.renderingTime in fleet.yaml; it is tried again when it changes, when the others take less, or after an hour"
	return e
}

// postpone says why a bundle has to wait for the next pass.
func (p *purse) postpone(b resolved) error {
	return &api.Error{
		Kind: api.Waiting, Reason: "RenderingTimeUsed", File: b.file,
		Err: fmt.Errorf("bundle %q waits for the next pass to be rendered: in this one, tenant %q used up its rendering time of %v on what failed, %s",
			b.name, p.tenant.Name, p.tenant.Quotas.RenderingTime, spendings("which is", p.wastes)),
	}
}

// spendings writes who takes how much, the most first.
func spendings(word string, all []spending) string {
	all = slices.SortedFunc(slices.Values(all), func(a, b spending) int {
		return cmp.Or(cmp.Compare(b.took, a.took), strings.Compare(a.bundle, b.bundle))
	})
	all = slices.DeleteFunc(all, func(s spending) bool { return s.took == 0 })
	words := make([]string, len(all))
	for i, s := range all {
		words[i] = fmt.Sprintf("%s takes %v", s.bundle, told(s.took))
	}
	if len(words) == 0 {
		return word + " no other bundle takes any"
	}
	return word + " " + summary(words)
}

// told is a duration as precise as people need it.
func told(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(100 * time.Millisecond)
}

// metered is an Engine that counts what one bundle takes, and ends it when that is too much.
type metered struct {
	Engine
	// known says how long the bundle takes: it was measured before. Then nothing is bounded.
	known cost
	most  time.Duration
	// short says that the bundle has less than its tenant has.
	short bool
	took  time.Duration
	over  bool // it took more
}

var errOver = errors.New("takes more rendering time than is left")

// Run implements Engine.
func (m *metered) Run(ctx context.Context, req engine.Request, files engine.Files) (engine.Result, error) {
	bounded := !m.known.fits()
	if bounded {
		if req.Time = m.most - m.took; req.Time <= 0 {
			m.over = true
			return engine.Result{}, errOver
		}
	}
	out, err := m.Engine.Run(ctx, req, files)
	m.took += out.Took
	e, failed := errors.AsType[*api.Error](err)
	if bounded && (m.took > m.most || failed && e.Reason == engine.ReasonTime) {
		m.over = true
		return engine.Result{Read: out.Read}, errOver
	}
	return out, err
}

// cost is how much rendering time a bundle takes, as far as that was measured.
type cost struct {
	measured bool
	took     time.Duration
	// over says that it takes more than that.
	over bool
}

// fits reports whether the whole cost is known.
func (c cost) fits() bool { return c.measured && !c.over }

// cost is that of the bundle that was rendered.
func (m *metered) cost() cost {
	if m.known.fits() {
		return m.known
	}
	return cost{measured: true, took: m.took, over: m.over}
}

// remembered reports whether the cost of a rendering that came to an error is kept: that of a success, and of too much.
// It is not where the bundle had less time than its tenant has.
func (m *metered) remembered(err error) bool {
	return !m.known.fits() && (err == nil || m.over && !m.short)
}

// byTenant splits the bundles of each tenant that has a quota of rendering time from the others.
func byTenant(here []resolved) (free []int, limited [][]int) {
	place := map[string]int{}
	for i, b := range here {
		if b.tenant == nil || b.tenant.Quotas.RenderingTime == 0 {
			free = append(free, i)
			continue
		}
		n, ok := place[b.tenant.Name]
		if !ok {
			n = len(limited)
			place[b.tenant.Name], limited = n, append(limited, nil)
		}
		limited[n] = append(limited[n], i)
	}
	return free, limited
}

// renderTenant renders the bundles of one tenant one after the other, as far as its rendering time goes:
// first those whose cost is known, then those that the cluster has, then the others, each by name.
// So what was rendered stays, and whatever is new or changed fails where there is not enough time for it.
func (c *cache) renderTenant(ctx context.Context, p *pass, here []resolved, indexes []int, done func(i int, e *entry, err error)) {
	costs := make(map[int]cost, len(indexes))
	for _, i := range indexes {
		if here[i].err == nil {
			costs[i] = c.costOf(ctx, p, here[i])
		}
	}
	slices.SortStableFunc(indexes, func(i, j int) int {
		return cmp.Or(yesFirst(costs[i].fits(), costs[j].fits()), yesFirst(here[i].held, here[j].held))
	})
	tenant := here[indexes[0]].tenant
	from := &purse{tenant: tenant, left: time.Duration(tenant.Quotas.RenderingTime)}
	for _, i := range indexes {
		if ctx.Err() != nil {
			return
		}
		if here[i].err != nil {
			done(i, nil, here[i].err)
			continue
		}
		e, err := c.take(ctx, p, here[i], costs[i], from)
		done(i, e, err)
	}
}

func yesFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// take renders one bundle of a tenant, if its time allows it.
func (c *cache) take(ctx context.Context, p *pass, b resolved, known cost, from *purse) (*entry, error) {
	if known.over && known.took >= from.left || known.fits() && known.took > from.left {
		return nil, from.refuse(b)
	}
	m := &metered{Engine: p.engine, known: known, most: from.rest(), short: from.wasted > 0}
	e, err := c.get(ctx, p, b, m)
	took := spending{b.name, m.cost().took}
	switch {
	case m.over && m.short:
		return nil, from.postpone(b)
	case m.over:
		err = from.refuse(b)
		from.waste(took)
		return nil, err
	case e != nil && err != nil: // remembered
		from.waste(took)
		return e, err
	case e != nil:
		took.took = e.cost.took // it may have been rendered for another cluster
	}
	from.charge(took)
	return e, err
}
