package objects

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// Tally is what a bundle's status says of its objects: what drifted, what could not be compared and what is exempt.
type Tally struct {
	Drifted, Unknown   int
	Contested          []string
	ContestedOmitted   int
	Uncorrected        []string
	UncorrectedOmitted int
	Exempt             []string
	ExemptOmitted      int
	Uncompared         []string
}

// tallyIn is the tally that a status holds.
func tallyIn(s api.BundleStatus) Tally {
	return Tally{
		Drifted: s.Drifted, Unknown: s.Unknown, Contested: s.Contested, ContestedOmitted: s.ContestedOmitted,
		Uncorrected: s.Uncorrected, UncorrectedOmitted: s.UncorrectedOmitted,
		Exempt: s.Exempt, ExemptOmitted: s.ExemptOmitted, Uncompared: s.Uncompared,
	}
}

// In returns a status with the tally in it.
func (t Tally) In(s api.BundleStatus) api.BundleStatus {
	s.Drifted, s.Unknown = t.Drifted, t.Unknown
	s.Contested, s.ContestedOmitted = t.Contested, t.ContestedOmitted
	s.Uncorrected, s.UncorrectedOmitted = t.Uncorrected, t.UncorrectedOmitted
	s.Exempt, s.ExemptOmitted = t.Exempt, t.ExemptOmitted
	s.Uncompared = t.Uncompared
	return s
}

// Restore sets the tally of a bundle to what a status says that was stored. Its objects are to be known already.
func (h *Home) Restore(name string, s api.BundleStatus) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.bundleLocked(name)
	b.tally = tallyIn(s)
	owned := b.inventory()
	for _, line := range s.Exempt { // what is exempt and not owned was passed over
		if !slices.ContainsFunc(owned, func(e api.InventoryEntry) bool {
			return strings.HasPrefix(line, e.Object.String()+": ")
		}) {
			b.passed = append(b.passed, line)
		}
	}
}

// Pass notes the objects that an apply passed over for an annotation that they bore before they were ours.
// Before an object is ours every such annotation counts, whatever the policy says of what is added.
func (h *Home) Pass(name string, orders map[string]api.Orders) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.bundleLocked(name)
	b.passed = nil
	for id, live := range orders {
		o := b.objects[id]
		if o == nil || o.Baseline == nil {
			continue
		}
		if what := plan.Exempt(api.OrdersIn(o.Baseline.GetAnnotations()), live, api.Drift{}); what != "" {
			b.passed = append(b.passed, api.RefOf(o.Baseline).String()+": "+what)
		}
	}
}

// Recount counts anew, and reports whether the tally has changed. If it has, changed is called under Home's lock.
func (h *Home) Recount(name string, now time.Time, changed func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b := h.bundles[name]; b != nil && b.recount(now) {
		changed()
	}
}

func (b *bundle) recount(now time.Time) bool {
	next := b.count()
	if reflect.DeepEqual(next, b.tally) {
		return false
	}
	b.tally, b.counted = next, now
	return true
}

// Tallies returns the tallies of all bundles as they were last counted.
func (h *Home) Tallies() (out []Tally) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, b := range h.bundles {
		out = append(out, b.tally)
	}
	return out
}

// Tally returns the tally of a bundle as it was last counted.
func (h *Home) Tally(name string) Tally {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b := h.bundles[name]; b != nil {
		return b.tally
	}
	return Tally{}
}

func (b *bundle) count() (t Tally) {
	for _, o := range b.objects {
		if o.Episode != nil {
			t.Drifted++
		}
		if o.Unknown != "" {
			t.Unknown++
		}
	}
	t.Contested, t.ContestedOmitted = b.told(api.OutcomeContested, func(e api.Episode) string { return e.Hint })
	t.Uncorrected, t.UncorrectedOmitted = b.told(api.OutcomeFailed, func(e api.Episode) string { return e.Error })
	t.Exempt, t.ExemptOmitted = b.exempt()
	t.Uncompared = b.uncompared()
	return t
}

// exempt lists the objects in Git that an annotation on the cluster takes out, and those that left Git and an annotation keeps.
func (b *bundle) exempt() (first []string, omitted int) {
	if !b.Gone {
		first = slices.Clone(b.passed)
	}
	for _, o := range b.objects {
		if o.Orders == (api.Orders{}) || o.Entry == nil {
			continue
		}
		switch {
		case o.Baseline == nil && o.Orders.Keep != "":
			first = append(first, fmt.Sprintf("%s: left Git, and stays: %s", o.Entry.Object, o.Orders.Keep))
		case o.Baseline != nil && !b.Gone && b.Applied != nil:
			if what := plan.Exempt(api.OrdersIn(o.Baseline.GetAnnotations()), o.Orders, b.Applied.Spec.Drift); what != "" {
				first = append(first, api.RefOf(o.Baseline).String()+": "+what)
			}
		}
	}
	slices.Sort(first)
	n := min(len(first), api.MaxExempt)
	return first[:n], len(first) - n
}

// uncompared tells of the objects that could not be compared, and why.
func (b *bundle) uncompared() []string {
	var ids, out []string
	for id, o := range b.objects {
		if o.Unknown != "" {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	for _, id := range ids[:min(len(ids), api.MaxContested)] {
		why, name := b.objects[id].Unknown, id
		if ref, ok := api.ParseID(id); ok {
			name = ref.String()
		}
		if len(why) > api.MaxUncompared {
			why = strings.ToValidUTF8(why[:api.MaxUncompared], "") + "…"
		}
		out = append(out, name+": "+why)
	}
	return out
}

// told is one line for each object whose drift has come to an outcome, and how many more there are.
func (b *bundle) told(outcome api.Outcome, what func(api.Episode) string) ([]string, int) {
	var out []string
	for _, o := range b.objects {
		if e := o.Episode; e != nil && e.Outcome == outcome {
			out = append(out, e.Object.String()+": "+what(*e))
		}
	}
	slices.Sort(out)
	n := min(len(out), api.MaxContested)
	return out[:n], len(out) - n
}
