package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/proto/hubv1"
)

const (
	// batchReports bounds one batch; the store bounds its bytes.
	batchReports = 500
	// partBytes bounds one part of a snapshot.
	partBytes = 1 << 20
	// checkEvery is how many heartbeats go by between two comparisons of states.
	checkEvery = 12
)

// link is one connection. Only run sends, only receive receives.
type link struct {
	*Client
	id     Identity
	stream *connect.BidiStreamForClient[hubv1.AgentMessage, hubv1.HubMessage]
	cancel context.CancelFunc

	in      chan *hubv1.HubMessage
	results chan *hubv1.CommandResult
	// commands counts those that run.
	commands sync.WaitGroup

	// sent is the last report sent, waiting whether its batch is not acknowledged yet.
	// One batch is under way at a time: the next one holds all that came meanwhile.
	sent    uint64
	waiting bool
	// acknowledged is the last report that the hub had acknowledged before this connection.
	acknowledged uint64
	beats        int
}

// run speaks until the stream ends, and waits for all it started.
func (l *link) run(ctx context.Context) error {
	if err := l.hello(); err != nil {
		err = l.why(err)
		l.end()
		return err
	}
	// A Send that waits for a hub that does not read ends with the context, too.
	defer context.AfterFunc(ctx, func() { _ = l.stream.CloseRequest() })()
	received := make(chan error, 1)
	go func() { received <- l.receive(ctx) }()
	err := l.loop(ctx, received)
	l.commands.Wait()
	_ = l.stream.CloseResponse()
	return err
}

// end breaks the stream off. net/http notices that a context has ended
// only once the request's body is closed, too.
func (l *link) end() {
	l.cancel()
	_ = l.stream.CloseRequest()
}

// hello introduces the agent.
func (l *link) hello() error {
	at, err := l.cfg.Outbox.Snapshot()
	if err != nil {
		return err
	}
	l.acknowledged = at.Acked
	return l.stream.Send(&hubv1.AgentMessage{Body: &hubv1.AgentMessage_Hello{Hello: &hubv1.Hello{
		Cluster: l.cfg.Cluster, AgentId: l.cfg.Outbox.AgentID(), AgentVersion: l.cfg.Version,
		Acked: at.Acked, Last: at.Seq, Checksum: at.State.Checksum(),
	}}})
}

// why returns the hub's own words for a stream that ended: a failed Send only says that it did.
func (l *link) why(err error) error {
	if errors.Is(err, io.EOF) {
		if _, rerr := l.stream.Receive(); rerr != nil {
			err = rerr
		}
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the hub ended the stream")
	}
	return clientError(err)
}

// receive passes on what the hub says, until the stream ends.
func (l *link) receive(ctx context.Context) error {
	for {
		m, err := l.stream.Receive()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the hub ended the stream")
			}
			return clientError(err)
		}
		select {
		case l.in <- m:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *link) loop(ctx context.Context, received <-chan error) (err error) {
	defer func() { // the receiver's reason is the better one, and it must have ended
		l.end()
		if received != nil {
			if rerr := <-received; err == nil || errors.Is(err, io.EOF) {
				err = rerr
			}
		}
	}()
	beat := time.NewTicker(l.cfg.Heartbeat)
	defer beat.Stop()
	renewal := time.NewTimer(max(0, l.id.renewAt().Sub(l.cfg.Now())))
	defer renewal.Stop()
	welcomed := false
	silence := time.NewTimer(answerTimeout)
	defer silence.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-received:
			received = nil
			return err
		case <-silence.C:
			if !welcomed {
				return clientError(errors.New("the hub does not answer"))
			}
			continue
		case <-renewal.C:
			if welcomed { // a renewal that failed before dialling is tried again by the next connection
				return errRenewed
			}
		case <-l.joined:
			return errRenewed
		case m := <-l.in:
			welcomed = welcomed || m.GetWelcome() != nil
			err = l.handle(ctx, m)
		case r := <-l.results:
			err = l.stream.Send(&hubv1.AgentMessage{Body: &hubv1.AgentMessage_Result{Result: r}})
		case <-beat.C:
			err = l.heartbeat()
		case <-l.cfg.Outbox.Grew():
		case <-l.notify:
		}
		if err == nil && welcomed && !l.waiting {
			err = l.push()
		}
		if err != nil {
			return err
		}
	}
}

func (l *link) handle(ctx context.Context, m *hubv1.HubMessage) error {
	switch b := m.GetBody().(type) {
	case *hubv1.HubMessage_Welcome:
		l.setStatus(true, nil)
		l.cfg.Log.Info("connected to the hub", "url", l.id.URL, "acked", b.Welcome.GetAck(), "snapshot", b.Welcome.GetNeedSnapshot())
		if err := l.resend(b.Welcome.GetAck()); err != nil {
			return err
		}
		if b.Welcome.GetNeedSnapshot() {
			return l.snapshot()
		}
		return l.acked(b.Welcome.GetAck())
	case *hubv1.HubMessage_Ack:
		return l.acked(b.Ack.GetSeq())
	case *hubv1.HubMessage_NeedSnapshot:
		l.cfg.Log.Info("the hub asks for a snapshot", "reason", b.NeedSnapshot.GetReason())
		return l.snapshot()
	case *hubv1.HubMessage_LeftOut:
		for _, sum := range b.LeftOut.GetSums() {
			l.cfg.Log.Warn("the hub did not take all that was reported", "reason", sum.GetReason(), "count", sum.GetCount(), "example", sum.GetExample())
		}
	case *hubv1.HubMessage_Command:
		l.commands.Go(func() { l.command(ctx, b.Command) })
	}
	return nil // or a newer hub's message
}

// resend reports the past again to a hub that has less than it had acknowledged: it was put back from a copy,
// or begun anew. The present it asks for itself.
func (l *link) resend(ack uint64) error {
	if ack >= l.acknowledged {
		return nil
	}
	n, err := l.cfg.Outbox.Resend()
	if err != nil {
		return err
	}
	l.cfg.Log.Warn("the hub has lost reports that it had acknowledged", "has", ack, "had", l.acknowledged, "episodes_sent_again", n)
	return nil
}

func (l *link) acked(seq uint64) error {
	if err := l.cfg.Outbox.Ack(seq); err != nil {
		return err
	}
	l.setAcked(seq)
	l.sent, l.waiting = max(l.sent, seq), false
	return nil
}

// push sends what the outbox holds beyond what was sent.
func (l *link) push() error {
	reports, err := l.cfg.Outbox.Outbox(l.sent, batchReports)
	if err != nil || len(reports) == 0 {
		return err
	}
	b := &hubv1.Batch{}
	for _, r := range reports {
		m, err := reportMessage(r)
		if err != nil {
			return err
		}
		b.Reports = append(b.Reports, m)
	}
	l.sent, l.waiting = reports[len(reports)-1].Seq, true
	return l.stream.Send(&hubv1.AgentMessage{Body: &hubv1.AgentMessage_Batch{Batch: b}})
}

// snapshot sends the present state. The hub's answer says from which report to go on:
// the outbox follows, so that episodes that ended while the hub was away are not lost.
func (l *link) snapshot() error {
	at, err := l.cfg.Outbox.Snapshot()
	if err != nil {
		return err
	}
	msg, size := &hubv1.Snapshot{Seq: at.Seq}, 0
	for _, r := range stateReports(at.State) {
		m, err := reportMessage(r)
		if err != nil {
			return err
		}
		if size += len(m.GetPayload()); size > partBytes && len(msg.GetItems()) > 0 {
			if err := l.sendSnapshot(msg); err != nil {
				return err
			}
			msg, size = &hubv1.Snapshot{Seq: at.Seq}, len(m.GetPayload())
		}
		msg.Items = append(msg.Items, m)
	}
	msg.Last, msg.Checksum = true, at.State.Checksum()
	l.sent, l.waiting = 0, true
	return l.sendSnapshot(msg)
}

func (l *link) sendSnapshot(m *hubv1.Snapshot) error {
	return l.stream.Send(&hubv1.AgentMessage{Body: &hubv1.AgentMessage_Snapshot{Snapshot: m}})
}

// stateReports takes a state apart; the hub puts it together again.
func stateReports(s api.State) []api.Report {
	var out []api.Report
	if s.Status != nil {
		out = append(out, api.Report{Status: s.Status})
	}
	for i := range s.Bundles {
		out = append(out, api.Report{Bundle: &s.Bundles[i]})
	}
	for i := range s.Episodes {
		out = append(out, api.Report{Episode: &s.Episodes[i]})
	}
	return out
}

// reachedAgo is how long ago the repository was reached, in milliseconds: the hub may have another clock.
func (l *link) reachedAgo() int64 {
	if l.cfg.Reached == nil {
		return 0
	}
	at := l.cfg.Reached()
	if at.IsZero() {
		return 0
	}
	return max(1, l.cfg.Now().Sub(at).Milliseconds())
}

func (l *link) heartbeat() error {
	hb := &hubv1.Heartbeat{ReachedAgoMs: l.reachedAgo()}
	if l.beats++; l.beats%checkEvery == 0 && !l.waiting {
		at, err := l.cfg.Outbox.Snapshot()
		if err != nil {
			return err
		}
		hb.Last, hb.Checksum = at.Seq, at.State.Checksum()
	}
	return l.stream.Send(&hubv1.AgentMessage{Body: &hubv1.AgentMessage_Heartbeat{Heartbeat: hb}})
}

// command does what was ordered and queues the result.
func (l *link) command(ctx context.Context, m *hubv1.Command) {
	res := &hubv1.CommandResult{Id: m.GetId()}
	payload, err := l.execute(ctx, m)
	if err != nil {
		res.Error, res.ErrorKind = err.Error(), string(api.KindOf(err))
		if e, ok := errors.AsType[*api.Error](err); ok {
			res.ErrorReason = e.Reason
		}
	}
	res.Payload = payload
	select {
	case l.results <- res:
	case <-ctx.Done():
	}
}

func (l *link) execute(ctx context.Context, m *hubv1.Command) ([]byte, error) {
	c := Command{Kind: m.GetKind(), Name: m.GetName(), Actor: m.GetActor(), Force: m.GetForce()}
	if len(m.GetSuspension()) > 0 {
		c.Suspension = new(api.Suspension)
		if err := json.Unmarshal(m.GetSuspension(), c.Suspension); err != nil {
			return nil, fmt.Errorf("suspension: %w", err)
		}
	}
	known := c.Kind == CommandSync || c.Kind == CommandResume || c.Kind == CommandSuspend && c.Suspension != nil
	if l.cfg.Commands == nil || !known {
		return nil, &api.Error{Kind: api.Stalled, Reason: "UnknownCommand", Err: fmt.Errorf("this agent does not know the command %q", c.Kind)}
	}
	out, err := l.cfg.Commands(ctx, c)
	if err != nil || out == nil {
		return nil, err
	}
	return json.Marshal(out)
}
