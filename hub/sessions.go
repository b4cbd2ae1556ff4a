package hub

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/pki"
	"github.com/flotilla-fleet/flotilla/hub/proto/hubv1"
)

// session is one agent's open stream.
type session struct {
	id      pki.Identity
	version string
	// end closes the stream with a reason.
	end context.CancelCauseFunc
	// out is what the stream's writer sends.
	out chan *hubv1.HubMessage
	// done is closed when the stream has ended.
	done chan struct{}

	mu sync.Mutex
	// command id -> where its result goes
	waiting map[string]chan *hubv1.CommandResult
}

// sessions holds at most one stream per cluster.
type sessions struct {
	mu sync.Mutex
	// cluster -> its stream
	live    map[string]*session
	stopped bool
}

// open registers a stream. The same agent's older stream is ended: it reconnected before the hub noticed.
// Another agent's is not: that is a refusal.
func (ss *sessions) open(s *session) error {
	for {
		ss.mu.Lock()
		if ss.stopped {
			ss.mu.Unlock()
			return errStopping
		}
		old := ss.live[s.id.Cluster]
		if old == nil {
			ss.live[s.id.Cluster] = s
			ss.mu.Unlock()
			return nil
		}
		ss.mu.Unlock()
		if old.id.AgentID != s.id.AgentID {
			return secondAgent(s.id.Cluster, old.id.AgentID)
		}
		old.end(errReplaced)
		<-old.done
	}
}

// stop ends all streams, and lets none begin: one that did would hold up the end of the hub.
func (ss *sessions) stop() {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.stopped = true
	for _, s := range ss.live {
		s.end(errStopping)
	}
}

func (ss *sessions) close(s *session) {
	ss.mu.Lock()
	if ss.live[s.id.Cluster] == s {
		delete(ss.live, s.id.Cluster)
	}
	ss.mu.Unlock()
	close(s.done)
}

func (ss *sessions) get(cluster string) *session {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return ss.live[cluster]
}

func (ss *sessions) count() int {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return len(ss.live)
}

// send queues a message, or gives up when the stream ends first.
func (s *session) send(m *hubv1.HubMessage) error {
	select {
	case s.out <- m:
		return nil
	case <-s.done:
		return errGone
	}
}

// command sends a command and waits for its result.
func (s *session) command(ctx context.Context, c *hubv1.Command) (*hubv1.CommandResult, error) {
	result := make(chan *hubv1.CommandResult, 1)
	s.mu.Lock()
	s.waiting[c.GetId()] = result
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.waiting, c.GetId())
		s.mu.Unlock()
	}()
	msg := &hubv1.HubMessage{Body: &hubv1.HubMessage_Command{Command: c}}
	select {
	case s.out <- msg:
	case <-s.done:
		return nil, notConnected(s.id.Cluster)
	case <-ctx.Done():
		return nil, noAnswer(s.id.Cluster, ctx.Err())
	}
	select {
	case r := <-result:
		return r, nil
	case <-s.done:
		return nil, noAnswer(s.id.Cluster, errGone)
	case <-ctx.Done():
		return nil, noAnswer(s.id.Cluster, ctx.Err())
	}
}

func (s *session) result(r *hubv1.CommandResult) {
	s.mu.Lock()
	ch := s.waiting[r.GetId()]
	delete(s.waiting, r.GetId())
	s.mu.Unlock()
	if ch != nil {
		ch <- r
	}
}

func notConnected(cluster string) error {
	return &api.Error{
		Kind: api.Waiting, Reason: "NotConnected", After: 5 * time.Second,
		Err:  fmt.Errorf("the agent of cluster %q is not connected", cluster),
		Hint: "try again when it is, or use the command on the cluster itself with --kubeconfig",
	}
}

func noAnswer(cluster string, err error) error {
	return &api.Error{
		Kind: api.Waiting, Reason: "NoAnswer", After: 5 * time.Second,
		Err:  fmt.Errorf("the agent of cluster %q did not answer: %w", cluster, err),
		Hint: "the command may still take effect: look at the cluster's page",
	}
}
