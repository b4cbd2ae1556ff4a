package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/intake"
	"github.com/flotilla-fleet/flotilla/hub/proto/hubv1"
	"github.com/flotilla-fleet/flotilla/hub/store"
)

const (
	// silence is how long an agent, which sends a heartbeat every five seconds, may say nothing.
	silence = 25 * time.Second
	// stuck is how long one message to an agent may take.
	stuck = 15 * time.Second
	// maxSnapshot bounds what is gathered of all parts of a snapshot together; the store keeps less.
	maxSnapshot = 64 << 20
	// compareEvery is how often an agent may have the whole state compared.
	compareEvery = 10 * time.Second
	// restateAfter is how long the hub is content with a part of an agent's state, before it asks for all of it again.
	restateAfter = 30 * time.Minute
	// tellEvery is how often an agent is told what was left out.
	tellEvery = time.Minute
	// connectEvery and connectBurst are how often an agent may open a stream.
	connectEvery, connectBurst = 2 * time.Second, 60
	// reportRate and reportBurst are how many bytes of reports of one cluster are taken in a second, and at once.
	// An agent that sends more waits; no report counts less than reportLeast.
	reportRate, reportBurst, reportLeast = 4 << 20, 128 << 20, 1 << 10
)

// agents serves the agents' streams.
type agents struct{ *Hub }

type stream = connect.BidiStream[hubv1.AgentMessage, hubv1.HubMessage]

// Connect serves one stream from hello to its end.
func (h agents) Connect(ctx context.Context, st *stream) error {
	c, _ := ctx.Value(connKey{}).(conn)
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)

	s, hello, err := h.greet(ctx, c, st, end)
	if err != nil {
		return wireError(h.turnAway(ctx, "agent", err))
	}
	defer func() {
		h.sessions.close(s)
		h.changed(s.id.Cluster)
	}()

	writer := make(chan struct{})
	go func() {
		defer close(writer)
		h.write(ctx, c, st, s)
	}()
	err = h.serve(ctx, c, st, s, hello)
	end(err)
	<-writer
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	if errors.Is(err, store.ErrNotWritten) {
		h.log.Warn("reports not kept", "cluster", s.id.Cluster, "agent", s.id.AgentID, "error", err)
		return wireError(notKept(h.store.Health()))
	}
	h.log.Info("agent gone", "cluster", s.id.Cluster, "agent", s.id.AgentID, "cause", err)
	return wireError(err)
}

// greet reads hello and registers the stream.
func (h agents) greet(ctx context.Context, c conn, st *stream, end context.CancelCauseFunc) (*session, *hubv1.Hello, error) {
	id, err := h.identify(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := c.rc.SetReadDeadline(time.Now().Add(silence)); err != nil {
		return nil, nil, err
	}
	first, err := st.Receive()
	if err != nil {
		return nil, nil, fmt.Errorf("hello: %w", err)
	}
	hello := first.GetHello()
	switch {
	case hello == nil:
		return nil, nil, refused(reasonBadRequest, "", "the first message is not a hello")
	case hello.GetCluster() != id.Cluster:
		return nil, nil, refused(reasonWrongCluster, "use the identity of that cluster, or join again",
			"the certificate is for cluster %q, and the agent says it is %q", id.Cluster, hello.GetCluster())
	case hello.GetAgentId() != id.AgentID:
		return nil, nil, secondAgent(id.Cluster, id.AgentID)
	case len(hello.GetAgentVersion()) > maxVersion || len(hello.GetChecksum()) > maxVersion:
		return nil, nil, refused(reasonBadRequest, "", "the agent's version or checksum is longer than %d bytes", maxVersion)
	case !h.hellos.allow(id.Cluster, h.now()):
		return nil, nil, &api.Error{
			Kind: api.Waiting, Reason: reasonTooMany, After: connectEvery,
			Err: fmt.Errorf("the agent of cluster %q connects too often", id.Cluster),
		}
	}
	s := &session{
		id: id, version: hello.GetAgentVersion(), end: end,
		out: make(chan *hubv1.HubMessage, 16), done: make(chan struct{}),
		waiting: map[string]chan *hubv1.CommandResult{},
	}
	if err := h.sessions.open(s); err != nil {
		return nil, nil, err
	}
	// A revocation between the check above and the registration would find no stream to end.
	if _, err := h.identify(ctx); err != nil {
		h.sessions.close(s)
		return nil, nil, err
	}
	vouch(ctx) // there is one stream for each cluster
	h.log.Info("agent connected", "cluster", id.Cluster, "agent", id.AgentID, "version", s.version)
	return s, hello, nil
}

// write sends what is queued, and ends the reading when the stream must end.
func (h agents) write(ctx context.Context, c conn, st *stream, s *session) {
	expires := time.NewTimer(s.id.NotAfter.Sub(h.now()))
	defer expires.Stop()
	// A deadline in the past wakes the reader.
	defer func() { _ = c.rc.SetReadDeadline(time.Unix(1, 0)) }()
	for {
		select {
		case <-ctx.Done():
			return
		case <-expires.C:
			s.end(expired(s.id))
			return
		case m := <-s.out:
			if err := c.rc.SetWriteDeadline(time.Now().Add(stuck)); err != nil {
				s.end(err)
				return
			}
			if err := st.Send(m); err != nil {
				s.end(err)
				return
			}
			// In HTTP/2 a deadline that passes ends the stream, even with nothing to write.
			if err := c.rc.SetWriteDeadline(time.Time{}); err != nil {
				s.end(err)
				return
			}
		}
	}
}

// serve welcomes the agent, then stores what it sends.
func (h agents) serve(ctx context.Context, c conn, st *stream, s *session, hello *hubv1.Hello) error {
	rec := &receiver{Hub: h.Hub, s: s}
	welcome, err := rec.welcome(ctx, hello)
	if err != nil {
		return err
	}
	if err := s.send(&hubv1.HubMessage{Body: &hubv1.HubMessage_Welcome{Welcome: welcome}}); err != nil {
		return err
	}
	h.saw(s.id.Cluster)
	for {
		if err := c.rc.SetReadDeadline(time.Now().Add(silence)); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		m, err := st.Receive()
		if err != nil {
			return receiveError(ctx, err)
		}
		h.saw(s.id.Cluster)
		if err := rec.handle(ctx, m); err != nil {
			return err
		}
	}
}

func receiveError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	if connect.CodeOf(err) == connect.CodeDeadlineExceeded {
		return errSilent
	}
	return err
}

// receiver turns one agent's messages into what the store holds.
type receiver struct {
	*Hub
	s *session
	// ack is the last report stored.
	ack uint64
	// state collects a snapshot that comes in several messages, of size bytes up to now.
	state api.State
	size  int
	// omitted is what was not taken of it.
	omitted []intake.Omission
	// asked is set while a snapshot was asked for and has not come.
	asked bool
	// compared is when states were last compared, told when the agent was last told what was left out, and toldOf how much.
	compared, told time.Time
	toldOf         uint64
}

func (r *receiver) welcome(ctx context.Context, hello *hubv1.Hello) (*hubv1.Welcome, error) {
	agentID, seq, err := r.store.Position(ctx, r.s.id.Cluster)
	if err != nil {
		return nil, err
	}
	r.ack = seq
	// Reports continue what we hold only if it came from the same agent's store,
	// and neither side has lost anything since.
	r.asked = agentID != "" && agentID != r.s.id.AgentID || seq > hello.GetLast() || seq < hello.GetAcked()
	if !r.asked && seq == hello.GetLast() {
		same, err := r.sameState(ctx, hello.GetChecksum())
		if err != nil {
			return nil, err
		}
		r.asked = !same
	}
	return &hubv1.Welcome{Ack: r.ack, NeedSnapshot: r.asked, HubVersion: r.cfg.Version}, nil
}

// sameState compares the agent's state with the store's. Where something was left out of it they differ, and asking
// again would not help: then the agent's numbers are trusted for a while.
func (r *receiver) sameState(ctx context.Context, checksum string) (bool, error) {
	r.compared = time.Now()
	c, _, err := r.store.Cluster(ctx, r.s.id.Cluster)
	if err != nil {
		return false, err
	}
	if c.State().Checksum() == checksum {
		return true, nil
	}
	return c.LeftOut.Partial && r.now().Sub(c.LeftOut.Whole).Abs() < restateAfter, nil
}

func (r *receiver) handle(ctx context.Context, m *hubv1.AgentMessage) error {
	switch b := m.GetBody().(type) {
	case *hubv1.AgentMessage_Batch:
		return r.batch(ctx, b.Batch)
	case *hubv1.AgentMessage_Snapshot:
		return r.snapshot(ctx, b.Snapshot)
	case *hubv1.AgentMessage_Heartbeat:
		return r.heartbeat(ctx, b.Heartbeat)
	case *hubv1.AgentMessage_Result:
		r.s.result(b.Result)
		return nil
	case *hubv1.AgentMessage_Hello:
		return refused(reasonBadRequest, "", "a second hello")
	}
	return nil // a newer agent's message
}

// batch stores reports in one transaction and acknowledges them.
// Until a snapshot that was asked for is there, reports are not taken: they would not fit.
func (r *receiver) batch(ctx context.Context, b *hubv1.Batch) error {
	if r.asked || len(b.GetReports()) == 0 {
		return nil
	}
	if len(b.GetReports()) > maxReports {
		return refused(reasonBadReport, "", "%d reports at once: there may be %d", len(b.GetReports()), maxReports)
	}
	if err := r.slow(ctx, proto.Size(b)+len(b.GetReports())*reportLeast); err != nil {
		return err
	}
	reports, omitted := r.take(b.GetReports())
	begin := time.Now()
	ack, err := r.store.Apply(ctx, r.s.id.Cluster, r.s.id.AgentID, reports)
	if errors.Is(err, store.ErrNeedSnapshot) {
		return r.needSnapshot(err.Error())
	}
	if err == nil {
		err = r.store.Note(ctx, r.s.id.Cluster, omitted)
	}
	if err != nil {
		return fmt.Errorf("store reports: %w", err)
	}
	r.ack = ack
	r.metrics.received(reports, time.Since(begin))
	r.changed(r.s.id.Cluster)
	return r.acknowledge(ctx)
}

// acknowledge says up to which report all is stored, and now and then what was left out.
func (r *receiver) acknowledge(ctx context.Context) error {
	if err := r.s.send(&hubv1.HubMessage{Body: &hubv1.HubMessage_Ack{Ack: &hubv1.Ack{Seq: r.ack}}}); err != nil {
		return err
	}
	return r.tell(ctx)
}

// tell tells the agent what was left out since it was last told.
func (r *receiver) tell(ctx context.Context) error {
	if time.Since(r.told) < tellEvery {
		return nil
	}
	left, err := r.store.LeftOut(ctx, r.s.id.Cluster)
	if err != nil {
		return err
	}
	m, n := &hubv1.LeftOut{}, left.Dropped
	for _, l := range left.Sums {
		n += l.Count
		m.Sums = append(m.Sums, &hubv1.LeftOutSum{Reason: l.Reason, Count: l.Count, Example: l.Example})
	}
	if n == r.toldOf {
		return nil
	}
	if left.Dropped > 0 {
		m.Sums = append(m.Sums, &hubv1.LeftOutSum{
			Reason: intake.TooMany, Count: left.Dropped, Example: "closed episodes were dropped for newer ones",
		})
	}
	r.told, r.toldOf = time.Now(), n
	return r.s.send(&hubv1.HubMessage{Body: &hubv1.HubMessage_LeftOut{LeftOut: m}})
}

// slow waits while a cluster sends more than its share of reports.
func (r *receiver) slow(ctx context.Context, size int) error {
	return r.intake.wait(ctx, r.s.id.Cluster, size)
}

// snapshot gathers the parts of a snapshot, and stores it when the last one is there.
// The acknowledgement says from where the agent goes on: episodes that have ended are not in the snapshot.
func (r *receiver) snapshot(ctx context.Context, m *hubv1.Snapshot) error {
	if !r.asked {
		return refused(reasonBadReport, "", "a snapshot that nobody asked for")
	}
	size := proto.Size(m)
	if err := r.slow(ctx, size); err != nil {
		return err
	}
	r.gather(m, size)
	if !m.GetLast() {
		return nil
	}
	state, omitted := r.state, r.omitted
	r.state, r.size, r.omitted = api.State{}, 0, nil
	if sum := state.Checksum(); sum != m.GetChecksum() && len(omitted) == 0 {
		return refused(reasonBadReport, "", "the snapshot has checksum %s, and should have %s", sum, quoted(m.GetChecksum()))
	}
	err := r.store.ReplaceSnapshot(ctx, r.s.id.Cluster, r.s.id.AgentID, m.GetSeq(), state)
	if err == nil {
		err = r.store.Note(ctx, r.s.id.Cluster, omitted)
	}
	if err != nil {
		return fmt.Errorf("store snapshot: %w", err)
	}
	if _, r.ack, err = r.store.Position(ctx, r.s.id.Cluster); err != nil {
		return err
	}
	r.asked = false
	r.metrics.snapshots.Inc()
	r.changed(r.s.id.Cluster)
	return r.acknowledge(ctx)
}

// gather adds a part of a snapshot, as far as there is room.
func (r *receiver) gather(m *hubv1.Snapshot, size int) {
	if r.size += size; r.size > maxSnapshot {
		r.size = maxSnapshot + 1
		r.omit(intake.Omission{Reason: intake.TooMany, What: fmt.Sprintf("a part of the state: it may have %d bytes", maxSnapshot)})
		return
	}
	reports, omitted := r.take(m.GetItems())
	for _, rep := range reports {
		switch {
		case rep.Status != nil:
			r.state.Status = rep.Status
		case rep.Bundle != nil:
			r.state.Bundles = append(r.state.Bundles, *rep.Bundle)
		case rep.Episode != nil:
			r.state.Episodes = append(r.state.Episodes, *rep.Episode)
		}
	}
	r.omit(omitted...)
}

// maxOmitted bounds what is remembered of one message or snapshot that was not taken.
const maxOmitted = 10_000

func (r *receiver) omit(omitted ...intake.Omission) {
	r.omitted = append(r.omitted, omitted[:min(len(omitted), maxOmitted-len(r.omitted))]...)
}

// heartbeat notes when the agent reached its repository, and compares states when both sides are at the same report.
func (r *receiver) heartbeat(ctx context.Context, m *hubv1.Heartbeat) error {
	if ago := m.GetReachedAgoMs(); ago > 0 && ago <= longestReachedAgo.Milliseconds() {
		r.reached(r.s.id.Cluster, r.now().Add(-time.Duration(ago)*time.Millisecond))
	}
	if err := r.tell(ctx); err != nil {
		return err
	}
	if r.asked || m.GetChecksum() == "" || m.GetLast() != r.ack || time.Since(r.compared) < compareEvery {
		return nil
	}
	same, err := r.sameState(ctx, m.GetChecksum())
	if err != nil || same {
		return err
	}
	return r.needSnapshot("the checksums of the state differ")
}

func (r *receiver) needSnapshot(why string) error {
	r.asked = true
	r.log.Info("snapshot needed", "cluster", r.s.id.Cluster, "reason", why)
	return r.s.send(&hubv1.HubMessage{Body: &hubv1.HubMessage_NeedSnapshot{
		NeedSnapshot: &hubv1.NeedSnapshot{Reason: why},
	}})
}

// take opens the envelopes, and leaves out what no agent of a sound cluster sends.
// Whether the reports are the agent's to make, the store decides.
func (r *receiver) take(in []*hubv1.Report) (out []api.Report, omitted []intake.Omission) {
	now := r.now()
	last := uint64(0)
	for _, m := range in {
		rep, err := intake.Decode(m.GetPayload())
		if err != nil {
			// Where the one before was, this one begins: what was compacted between them cannot be read.
			rep = intake.Nothing(m.GetSeq(), last+1)
			omitted = append(omitted, intake.Omission{Reason: intake.Unreadable, What: err.Error()})
		} else {
			rep.Seq = m.GetSeq()
			var left []intake.Omission
			rep, left = intake.Take(rep, now)
			omitted = append(omitted, left...)
		}
		last = m.GetSeq()
		out = append(out, rep)
	}
	return out, omitted[:min(len(omitted), maxOmitted)]
}
