package reconciler

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
)

// lifeAfter is a bundle's life after events at one time.
func lifeAfter(events ...lifecycle.Event) (s lifecycle.State) {
	for _, e := range events {
		s, _ = lifecycle.Next(s, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), e)
	}
	return s
}

// quietModel is a model in which nothing happens by chance: every object belongs to the first bundle.
func quietModel(t *testing.T) *model {
	m := &model{
		t: t, rand: rand.New(rand.NewPCG(1, 1)), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), calm: true,
		live: map[string]livingObject{}, told: map[string]api.BundleStatus{}, stored: map[string]api.BundleRecord{},
	}
	m.start()
	m.commit()
	for m.run() {
		m.now = m.now.Add(time.Second)
	}
	return m
}

// A bundle is given its place, and before it begins, because its objects are still being compared, a commit breaks it:
// nothing of that commit is applied, and what was applied before stays the measure of drift.
func TestRun_aCommitBreaksItBeforeItBegins(t *testing.T) {
	m := quietModel(t)
	applied := m.r.bundles["a"].status.AppliedRevision
	m.wish.version[3]++
	m.commit()
	b := m.r.bundles["a"]
	m.r.mu.Lock()
	x := m.r.placeLocked(b)
	m.r.mu.Unlock()
	m.wish.broken[0] = true
	m.commit()
	x.do(t.Context())
	if got := b.status; got.Phase != api.PhaseFailed || got.Error == nil || got.AppliedRevision != applied {
		t.Errorf("phase %s, error %v, applied %s, want what cannot be rendered to fail and %s to stay applied", got.Phase, got.Error, got.AppliedRevision, applied)
	}
	if n := len(m.r.objects.IDs("a")); n != modelObjects {
		t.Errorf("drift is measured against %d objects, want %d", n, modelObjects)
	}
	m.wish.broken[0] = false
	m.commit()
	m.rest()
}

// After a restart a bundle that no commit has touched is still the one of the commit that last did.
func TestRun_aRestartKeepsTheRevision(t *testing.T) {
	m := quietModel(t)
	revision := m.r.bundles["a"].status.DesiredRevision
	m.wish.depends[3] ^= 1 // which concerns another bundle
	m.commit()
	m.run()
	m.restart(false)
	if m.run() {
		t.Error("something is applied again")
	}
	if got := m.r.bundles["a"].status.DesiredRevision; got != revision || revision == m.git[len(m.git)-1].Revision {
		t.Errorf("the bundle is said to be of %s, want %s", got, revision)
	}
}
