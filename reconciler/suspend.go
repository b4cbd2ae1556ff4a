package reconciler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
	"github.com/flotilla-fleet/flotilla/reconciler/correct"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
)

// SetSuspensions replaces the set of suspensions on the cluster, ends in the API server's time. It takes effect at once:
// what is not yet being written is not written any more.
func (r *Reconciler) SetSuspensions(set api.Suspensions) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.activeLocked(r.Now())
	r.suspensions = slices.Clone(set)
	r.scopeLocked()
	r.suspensionsChangedLocked(before)
	wake(r.kick)
}

// loadSuspensions reads the suspensions on the cluster. before are those that held when the agent was stopped:
// what ended meanwhile is announced like any other end, and the one from Git holds until Git was read again.
func (r *Reconciler) loadSuspensions(ctx context.Context, before api.Suspensions) error {
	var set api.Suspensions
	err := r.insist(ctx, func() (err error) {
		set, err = r.Applier.Suspensions(ctx)
		return err
	})
	if e, ok := errors.AsType[*api.Error](err); ok && e.Reason == reasonBadSuspension {
		r.Log.Error("a suspension cannot be read and holds as far as it can be", "error", err)
	} else if err != nil {
		return fmt.Errorf("read the suspensions before the first write: %w", err)
	}
	for i := range set {
		set[i].Until = r.serverTime(set[i].Until)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range before {
		if s.Name == api.GitSuspension {
			r.git = &s
		}
	}
	r.suspensions = set
	r.scopeLocked()
	r.suspensionsChangedLocked(before)
	return nil
}

// reasonBadSuspension marks a Suspension that cannot be understood; see api.DecodeSuspension.
const reasonBadSuspension = "BadSuspension"

// SuspendMax is the longest suspension that the fleet allows.
func (r *Reconciler) SuspendMax() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.suspendMaxLocked()
}

func (r *Reconciler) suspendMaxLocked() time.Duration {
	if r.rendering == nil {
		return api.LongestSuspension // what the fleet allows is not known yet, and an order that holds is not broken for that
	}
	if r.rendering.Fleet.Spec.SuspendMax == 0 {
		return api.DefaultSuspendMax
	}
	return time.Duration(r.rendering.Fleet.Spec.SuspendMax)
}

func gitSuspension(c api.Cluster) *api.Suspension {
	if c.Spec.Suspend == nil {
		return nil
	}
	return &api.Suspension{
		Name: api.GitSuspension, Scope: api.Scope{All: true},
		Reason: c.Spec.Suspend.Reason, Until: c.Spec.Suspend.Until, Actor: "git",
	}
}

// serverTime is the time that ends of suspensions are given in: the API server's.
// So a clock of ours that jumps neither ends nor prolongs a suspension.
func (r *Reconciler) serverTime(now time.Time) time.Time { return now.Add(r.Applier.ClockSkew()) }

// activeLocked returns the suspensions that hold at now.
func (r *Reconciler) activeLocked(now time.Time) api.Suspensions {
	now = r.serverTime(now)
	return slices.DeleteFunc(r.allowedLocked(), func(s api.Suspension) bool { return !s.Active(now) })
}

// allowedLocked returns all suspensions as far as the fleet allows them. Some may have ended.
func (r *Reconciler) allowedLocked() api.Suspensions {
	var out api.Suspensions
	limit := r.suspendMaxLocked()
	for _, s := range r.suspensions {
		// The API server knows nothing of the fleet's limit; what was asked for beyond it is cut off.
		if last := s.Created.Add(limit); !s.Created.IsZero() && s.Until.After(last) {
			s.Until = last
		}
		out = append(out, s)
	}
	if r.git != nil {
		out = append(out, *r.git)
	}
	return out
}

// scopeLocked makes known to the drift loop, and to applies, what holds for the whole cluster. It follows every change of suspensions and of the rendering.
func (r *Reconciler) scopeLocked() {
	scope := correct.Scope{Suspensions: r.allowedLocked()}
	if r.rendering != nil {
		scope.Autoscalers = autoscalersIn(*r.rendering)
	}
	r.drift.Publish(scope)
}

// autoscalersIn returns the autoscalers among the objects.
func autoscalersIn(rendering api.Rendering) []*unstructured.Unstructured {
	var out []*unstructured.Unstructured
	for _, rb := range rendering.Bundles {
		for _, o := range rb.Objects {
			if kube.IsAutoscaler(o.GetKind()) {
				out = append(out, o)
			}
		}
	}
	return out
}

// suspensionsChangedLocked records which suspensions hold now, announces what came and went,
// and has everything looked at again that one of them covers or covered.
func (r *Reconciler) suspensionsChangedLocked(before api.Suspensions) {
	now := r.Now()
	after := r.activeLocked(now)
	r.status.Suspensions = after
	for _, s := range after {
		if !holds(before, s) {
			r.Log.Info("suspended", "suspension", s.Name, "scope", s.Scope.String(), "until", s.Until, "reason", s.Reason, "actor", s.Actor)
			r.publish.Event(cluster.EventRequest{
				Type: "Normal", Reason: "Suspended",
				Message: fmt.Sprintf("%s until %s by %q: %s", s.Scope, s.Until.Format(time.RFC3339), s.Actor, s.Reason),
			})
		}
	}
	for _, s := range before {
		if !holds(after, s) {
			r.Log.Info("resumed", "suspension", s.Name, "scope", s.Scope.String())
			r.publish.Event(cluster.EventRequest{
				Type: "Normal", Reason: "Resumed",
				Message: fmt.Sprintf("%s (%s)", s.Scope, s.Name),
			})
		}
	}
	for name, b := range r.bundles {
		whole := r.suspendedLocked(name)
		next := b.status
		next.Suspended = whole
		if whole == "" && b.status.Phase == api.PhaseSuspended {
			next.Phase, next.Message = api.PhasePending, ""
		}
		if b.synced() {
			before := b.status
			b.status = next
			r.healthLocked(b, now) // whether its objects are only waited for depends on what is suspended
			next, b.status = b.status, before
		}
		r.setStatusLocked(b, next)
		r.onLocked(b, lifecycle.SuspensionsChanged{})
		r.drift.LookAtDrift(name)
	}
	r.recorder.Note("")
}

// activeNamedLocked reports whether the suspension of that name holds at now.
func (r *Reconciler) activeNamedLocked(name string, now time.Time) bool {
	return slices.ContainsFunc(r.activeLocked(now), func(s api.Suspension) bool { return s.Name == name })
}

func holds(set api.Suspensions, s api.Suspension) bool {
	return slices.ContainsFunc(set, func(o api.Suspension) bool { return o.Name == s.Name && o.Until.Equal(s.Until) })
}

// expireLocked notes suspensions that have ended by themselves,
// and returns how long until the next one does.
func (r *Reconciler) expireLocked(now time.Time) time.Duration {
	next := time.Hour
	active := r.activeLocked(now)
	for _, s := range active {
		next = min(next, s.Until.Sub(r.serverTime(now)))
	}
	if !slices.EqualFunc(active, r.status.Suspensions, func(a, b api.Suspension) bool { return a.Name == b.Name && a.Until.Equal(b.Until) }) {
		r.suspensionsChangedLocked(r.status.Suspensions)
	}
	return next
}

// suspendedLocked names the suspension that covers a whole bundle now; empty for none.
func (r *Reconciler) suspendedLocked(bundle string) string {
	for _, s := range r.activeLocked(r.Now()) {
		if s.Scope.CoversBundle(bundle) {
			return s.Name
		}
	}
	return ""
}

// holder returns the question that an apply asks before each write.
// It looks at the suspensions of that moment, not of when the apply began.
func (r *Reconciler) holder(bundle string) apply.Held {
	return func(ref api.ObjectRef) (api.Suspension, bool) { return r.drift.Held(r.Now(), bundle, ref) }
}
