// Package client is the agent's side of the hub: it joins, keeps one stream open,
// sends what the agent's store has not delivered yet, and passes on the hub's commands.
//
// It promises that every report is delivered at least once and in order,
// and that the agent never waits for it: without a hub, reports stay in the store.
// It decides nothing about the cluster and never writes to it.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/proto/hubv1"
)

const (
	answerTimeout = 15 * time.Second
	// minWait and maxWait bound the time between two attempts; a refusal waits longer.
	minWait     = 200 * time.Millisecond
	maxWait     = 10 * time.Second
	refusedWait = time.Minute
	// lasting is how long a stream must live for the next attempt to be quick again.
	lasting = 10 * time.Second
)

// Outbox is the agent's store, as far as the hub is concerned.
type Outbox interface {
	AgentID() string
	// Outbox returns at most limit reports with numbers above after, in order.
	Outbox(after uint64, limit int) ([]api.Report, error)
	// Ack says that the hub has stored all reports up to seq.
	Ack(seq uint64) error
	// Resend reports again what the store still holds of the past, for a hub that has lost it.
	Resend() (n int, err error)
	// Snapshot is the present state and its place among the reports.
	Snapshot() (api.StateAt, error)
	// Grew receives after reports were added.
	Grew() <-chan struct{}
}

// Command is what somebody ordered through the hub.
type Command struct {
	// Kind is one of the Command constants.
	Kind string
	// Suspension is set for CommandSuspend; its name is the agent's to choose.
	Suspension *api.Suspension
	// Name is the suspension to resume, or the bundle to sync; empty means all.
	Name string
	// Actor is who ordered it, as the hub knows.
	Actor string
	// Force has CommandSuspend take names that the cluster does not have.
	Force bool
}

// The kinds of commands.
const (
	CommandSync    = "sync"
	CommandSuspend = "suspend"
	CommandResume  = "resume"
)

// Config is what a Client is made from.
type Config struct {
	// Dir holds the identity that Join wrote; Run waits where there is none yet. It is read again for every connection.
	Dir string
	// Cluster must be the identity's: an agent with a wrong directory is refused.
	Cluster string
	Outbox  Outbox
	// Keep is given the identity before it is used for the first time, to keep it where the disk may be lost.
	// It is tried again with each connection until it succeeds, and does not hold one up for long. Nil keeps nothing.
	Keep func(ctx context.Context, identity []byte) error
	// Commands does what was ordered; the result, if any, is sent back as JSON.
	Commands func(ctx context.Context, c Command) (result any, err error)
	// Heartbeat is how often an idle agent says that it lives; zero means 5 s.
	Heartbeat time.Duration
	// Reached is when the repository was last reached, by Now; zero if that is not known. Nil says nothing of it.
	Reached func() time.Time
	Version string
	Log     *slog.Logger
	// Now is the clock for certificates; nil means time.Now.
	Now func() time.Time
}

// Client keeps an agent in touch with its hub.
type Client struct {
	cfg    Config
	notify chan struct{}
	joined chan struct{} // there is a new identity

	// kept is the identity that Keep has taken; only Run's goroutine uses it.
	kept []byte

	// replacing is held while the identity on disk is replaced.
	replacing sync.Mutex

	mu sync.Mutex
	// status is guarded by mu.
	status Status
}

// Status is how the connection to the hub stands.
type Status struct {
	Connected bool `json:"connected"`
	// Since is when it became so.
	Since time.Time `json:"since,omitzero"`
	// Acked is the last report that the hub has stored.
	Acked uint64 `json:"acked"`
	// Err is why there is no connection.
	Err error `json:"-"`
}

// New makes a Client; it does nothing before Run.
func New(cfg Config) (*Client, error) {
	switch {
	case cfg.Dir == "":
		return nil, errors.New("hub client: Dir is required")
	case cfg.Cluster == "":
		return nil, errors.New("hub client: Cluster is required")
	case cfg.Outbox == nil:
		return nil, errors.New("hub client: Outbox is required")
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = 5 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Client{cfg: cfg, notify: make(chan struct{}, 1), joined: make(chan struct{}, 1)}, nil
}

// Notify asks for a look at the outbox now. The store's Grew does the same by itself.
func (c *Client) Notify() {
	select {
	case c.notify <- struct{}{}:
	default:
	}
}

// Status tells how the connection stands.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

func (c *Client) setStatus(connected bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status.Connected != connected || c.status.Since.IsZero() {
		c.status.Since = c.cfg.Now()
	}
	c.status.Connected, c.status.Err = connected, err
}

func (c *Client) setAcked(seq uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status.Acked = seq
}

// Run keeps a stream open until ctx ends. It never gives up: a hub may come back,
// and a refused agent may be joined again.
func (c *Client) Run(ctx context.Context) error {
	wait, told := minWait, ""
	for {
		begin := time.Now()
		err := c.connect(ctx)
		if ctx.Err() != nil {
			c.setStatus(false, nil)
			return nil
		}
		c.setStatus(false, err)
		if errors.Is(err, errRenewed) {
			continue
		}
		if time.Since(begin) > lasting {
			wait = minWait
		}
		limit, before := maxWait, told
		told = ""
		switch k := api.KindOf(err); {
		case k != api.Forbidden && k != api.Stalled:
			c.cfg.Log.Warn("no connection to the hub", "error", err, "retry", wait)
		case errors.Is(err, ErrNoIdentity): // whoever lets the agent join knows why it has not
			limit = refusedWait
		default: // a human must act, and is told once
			limit, told = refusedWait, err.Error()
			if told != before {
				c.cfg.Log.Error("no connection to the hub", "error", err)
			}
		}
		// Half of the wait is random, so that a fleet does not come back all at once.
		pause := wait/2 + rand.N(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-c.joined:
			wait = minWait
			continue
		case <-time.After(pause):
		}
		wait = min(2*wait, limit)
	}
}

// errRenewed ends a stream because there is a new certificate to use, or one to be asked for.
var errRenewed = errors.New("the certificate was renewed")

// connect runs one connection from dial to end.
func (c *Client) connect(ctx context.Context) error {
	select {
	case <-c.joined: // it is the one that is read now
	default:
	}
	id, err := LoadIdentity(c.cfg.Dir)
	if err != nil {
		return &api.Error{Kind: api.Stalled, Reason: "NoIdentity", Err: err, Hint: "use flotilla join"}
	}
	if id.Cluster != c.cfg.Cluster {
		return &api.Error{
			Kind: api.Stalled, Reason: "WrongCluster",
			Err:  errors.New("the identity in " + c.cfg.Dir + " is that of cluster " + id.Cluster),
			Hint: "join again as " + c.cfg.Cluster,
		}
	}
	c.keep(ctx, id)
	hc := httpClient(id.mutual())
	defer hc.CloseIdleConnections()
	if now := c.cfg.Now(); now.After(id.renewAt()) && now.Before(id.NotAfter) {
		switch err := c.renew(ctx, hc, id); {
		case err == nil:
			return errRenewed
		case api.KindOf(err) == api.Forbidden:
			return err
		default: // there is time left to try again
			c.cfg.Log.Warn("certificate not renewed", "error", err, "expires", id.NotAfter)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := &link{
		Client: c, id: id, cancel: cancel,
		stream:  hubv1.NewAgentServiceClient(hc, id.URL).Connect(ctx),
		in:      make(chan *hubv1.HubMessage),
		results: make(chan *hubv1.CommandResult),
	}
	return l.run(ctx)
}

const keepWithin = 10 * time.Second

// keep hands an identity that is new to Keep. A failure is logged: there is the one on the disk.
func (c *Client) keep(ctx context.Context, id Identity) {
	if c.cfg.Keep == nil || bytes.Equal(c.kept, id.file) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, keepWithin)
	defer cancel()
	if err := c.cfg.Keep(ctx, id.file); err != nil {
		c.cfg.Log.Warn("the identity at the hub is on the agent's disk only", "error", err)
		return
	}
	c.kept = id.file
}

// reportMessage puts a report into its envelope.
func reportMessage(r api.Report) (*hubv1.Report, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return &hubv1.Report{Seq: r.Seq, Kind: r.Kind(), Payload: b}, nil
}
