package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift/store"
	"github.com/flotilla-fleet/flotilla/reconciler"
	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
)

const (
	// standbyPoll is how often an agent that stands by looks whether it may take over.
	standbyPoll = time.Second
	// standbyFetch is how often it asks whether the repository answers.
	standbyFetch = 30 * time.Second
	// standbyDoubt is the age of the Lease from which its holder is challenged. One that lives renews it before.
	standbyDoubt = cluster.RenewEvery + 10*time.Second
	// takeWithin bounds one attempt to take the cluster: a challenge that nobody answers is part of it.
	takeWithin = 30 * time.Second
)

// Open is New. With Config.Standby it waits until no other process has the agent's directory and no other agent the cluster,
// and then takes the cluster. Meanwhile it serves /readyz, which says whether it could take over:
// a Deployment that replaces one agent by the next ends the old one only then.
// A configuration that no agent can run with is an error before the wait.
func Open(ctx context.Context, cfg Config) (*Agent, error) {
	if !cfg.Standby {
		return New(cfg)
	}
	if err := cfg.validate(); err != nil {
		return nil, badConfig(err)
	}
	if err := cfg.checkJoin(); err != nil {
		return nil, err
	}
	t := taker{cfg: cfg}
	ahead, err := t.try(ctx)
	if ahead != nil {
		cfg.Log.Info("this agent stands by", "because", ahead)
		err = t.standBy(ctx)
	}
	if err != nil && t.agent != nil {
		return nil, errors.Join(err, t.agent.Close())
	}
	return t.agent, err
}

// taker makes an agent that has its directory and its cluster.
type taker struct {
	cfg Config
	// agent is nil while another process has the directory.
	agent *Agent
}

// try opens the directory and takes the cluster, as far as that is free. ahead says that another agent has one of them.
// Where the cluster cannot be asked, the agent is ready to run: Run asks until there is an answer.
func (t *taker) try(ctx context.Context) (ahead, err error) {
	if t.agent == nil {
		a, err := New(t.cfg)
		if errors.Is(err, store.ErrLocked) {
			return err, nil
		}
		if err != nil {
			return nil, err
		}
		t.agent = a
	}
	bounded, cancel := context.WithTimeout(ctx, takeWithin)
	defer cancel()
	if err := t.agent.take(bounded); err != nil {
		if otherAgent(err) {
			return err, nil
		}
		t.cfg.Log.Warn("the cluster is not ready for the agent", "error", err)
	}
	return nil, ctx.Err()
}

// otherAgent reports whether an error says that another agent has the cluster.
func otherAgent(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && e.Reason == cluster.ReasonOtherAgent
}

// standBy waits until nobody is ahead, and serves /readyz meanwhile.
func (t *taker) standBy(ctx context.Context) error {
	s, err := newStandby(t.cfg, t.agent)
	if err != nil {
		return err
	}
	defer s.close()
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	g, inner := errgroup.WithContext(inner)
	if t.cfg.Listen != "" {
		g.Go(func() error { return serve(inner, t.cfg, prometheus.NewRegistry(), s.vitals) })
	}
	g.Go(func() error {
		defer cancel() // ends what is served
		return t.await(inner, s)
	})
	return g.Wait()
}

func (t *taker) await(ctx context.Context, s *standby) error {
	for {
		if s.look(ctx) || t.agent == nil {
			if ahead, err := t.try(ctx); ahead == nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(standbyPoll):
		}
	}
}

// standby looks at what an agent needs: with the agent that has its directory already, else with one of its own
// that has an empty directory and never runs. It writes nothing to the cluster.
type standby struct {
	agent *Agent
	dir   string // the empty one; "" if the agent is not standby's own
	// probe is of the directory that the next agent will have.
	probe diskProbe
	// answered and reached are when the API server and the repository last did.
	answered, reached atomic.Pointer[time.Time]
	fetched           time.Time
}

func newStandby(cfg Config, opened *Agent) (*standby, error) {
	s := &standby{agent: opened, probe: diskProbe{dir: cfg.Dir}}
	if opened != nil {
		return s, nil
	}
	dir, err := os.MkdirTemp("", "flotilla-standby-")
	if err != nil {
		return nil, fmt.Errorf("stand by: %w", err)
	}
	cfg.Dir = dir
	if s.agent, err = New(cfg); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	s.dir = dir
	return s, nil
}

func (s *standby) close() {
	if s.dir == "" {
		return
	}
	if err := errors.Join(s.agent.Close(), os.RemoveAll(s.dir)); err != nil {
		s.agent.cfg.Log.Warn("stand by", "error", err)
	}
}

// look reports whether the Lease may be free: nobody holds it, or its holder has not renewed it in time.
func (s *standby) look(ctx context.Context) (free bool) {
	life, err := s.agent.target.Life(ctx)
	now := s.agent.now()
	if err == nil {
		s.answered.Store(&now)
		free = life.Holder == "" || life.Age >= int(standbyDoubt.Seconds())
	}
	if now.Sub(s.fetched) < standbyFetch && !now.Before(s.fetched) {
		return free
	}
	s.fetched = now
	if _, err := s.agent.source.Changed(ctx); err != nil {
		s.agent.cfg.Log.Warn("the repository does not answer the agent that stands by", "error", err)
		return free
	}
	s.reached.Store(&now)
	return free
}

func (s *standby) vitals() vitals {
	now := s.agent.now()
	return vitals{
		standby: true, now: now, poll: s.agent.poll(),
		leased: value(s.answered.Load()), reached: value(s.reached.Load()), stored: s.probe.writable(now),
	}
}

func value(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// poll is how often the repository is asked.
func (a *Agent) poll() time.Duration {
	if a.cfg.Poll <= 0 {
		return reconciler.DefaultPoll
	}
	return a.cfg.Poll
}

// vitals looks at the agent as it is now.
func (a *Agent) vitals() vitals {
	v := vitals{now: a.now(), poll: a.poll(), leased: value(a.leased.Load()), reached: a.reconciler.Reached(), stored: a.reconciler.Stored()}
	if v.stored != nil {
		v.stored = errors.New("the last transaction failed; the log says why")
	} else {
		v.stored = a.probe.writable(v.now)
	}
	return v
}
