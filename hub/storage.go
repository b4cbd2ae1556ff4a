package hub

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/intake"
	"github.com/flotilla-fleet/flotilla/hub/pki"
	"github.com/flotilla-fleet/flotilla/hub/store"
)

// Store is what the hub keeps. hub/store satisfies it with one file;
// nothing here has that shape, so that another database can take its place.
// The methods are those of store.Store, and are described there.
type Store interface {
	Close() error
	Health() store.Health
	Probe(ctx context.Context) error
	Counters(ctx context.Context) (store.Counters, error)
	Backup(ctx context.Context, begin func(size int64) (io.Writer, error)) error

	Apply(ctx context.Context, cluster, agentID string, reports []api.Report) (ack uint64, err error)
	ReplaceSnapshot(ctx context.Context, cluster, agentID string, seq uint64, state api.State) error
	Note(ctx context.Context, cluster string, omitted []intake.Omission) error
	LeftOut(ctx context.Context, cluster string) (store.LeftOut, error)
	Position(ctx context.Context, cluster string) (agentID string, seq uint64, err error)
	Seen(ctx context.Context, at map[string]time.Time) error
	AddCluster(ctx context.Context, name string) error
	RemoveCluster(ctx context.Context, name string) error

	Clusters(ctx context.Context) ([]string, error)
	Cluster(ctx context.Context, name string) (store.Cluster, bool, error)
	Summary(ctx context.Context, name string) (store.Cluster, bool, error)
	Drift(ctx context.Context, f store.DriftFilter) (page []api.Episode, total int, err error)
	Episode(ctx context.Context, id string) (api.Episode, bool, error)
	History(ctx context.Context, f store.HistoryFilter) ([]api.Applied, error)

	CreateJoinToken(ctx context.Context, t store.JoinToken, secret string) (store.JoinToken, error)
	CheckJoinToken(ctx context.Context, secret, cluster string, at time.Time) (store.JoinToken, error)
	UseJoinToken(ctx context.Context, secret, cluster string, at time.Time) (store.JoinToken, error)
	JoinTokens(ctx context.Context) ([]store.JoinToken, error)
	DeleteJoinToken(ctx context.Context, id string) (bool, error)
	AddCertificate(ctx context.Context, c store.Certificate) error
	Certificate(ctx context.Context, serial string) (store.Certificate, bool, error)
	Certificates(ctx context.Context, cluster string) ([]store.Certificate, error)
	RevokeCluster(ctx context.Context, cluster string, at time.Time, reason string) (int, error)
	CA(ctx context.Context) (certPEM, keyPEM []byte, err error)
	SetCA(ctx context.Context, certPEM, keyPEM []byte) error

	AddSession(ctx context.Context, secret string, n store.Session) (store.Session, error)
	Session(ctx context.Context, secret string) (store.Session, bool, error)
	Sessions(ctx context.Context) ([]store.Session, error)
	EndSession(ctx context.Context, secret string) (bool, error)
	EndSessions(ctx context.Context, match func(store.Session) bool) (int, error)

	Audit(ctx context.Context, e store.AuditEntry) error
	AuditLog(ctx context.Context, f store.AuditFilter) ([]store.AuditEntry, error)
	AuditDropped(ctx context.Context) ([]store.AuditShare, error)
}

var _ Store = (*store.Store)(nil)

// authority reads the CA from the store, or makes it at the first start.
func (h *Hub) authority(ctx context.Context) (*pki.Authority, error) {
	certPEM, keyPEM, err := h.store.CA(ctx)
	if err != nil {
		return nil, err
	}
	if certPEM != nil {
		return pki.ParseAuthority(certPEM, keyPEM)
	}
	a, err := pki.NewAuthority(h.now())
	if err != nil {
		return nil, err
	}
	if certPEM, keyPEM, err = a.Marshal(); err != nil {
		return nil, err
	}
	return a, h.store.SetCA(ctx, certPEM, keyPEM)
}

// holder is the agent that has a cluster: one with a certificate that is neither over nor revoked.
func (h *Hub) holder(ctx context.Context, cluster string) (string, error) {
	cs, err := h.store.Certificates(ctx, cluster)
	if err != nil {
		return "", err
	}
	now := h.now()
	for _, c := range cs {
		if c.Revoked.IsZero() && now.Before(c.NotAfter) {
			return c.AgentID, nil
		}
	}
	return "", nil
}

func (h *Hub) saveCertificate(ctx context.Context, id pki.Identity) error {
	return h.store.AddCertificate(ctx, store.Certificate{
		Serial: id.Serial, Cluster: id.Cluster, AgentID: id.AgentID,
		NotBefore: id.NotBefore, NotAfter: id.NotAfter,
	})
}

// Revoke takes back all certificates of a cluster and ends its agent's stream at once.
// It returns how many certificates there were.
func (h *Hub) Revoke(ctx context.Context, cluster, reason string) (int, error) {
	h.joining.Lock()
	defer h.joining.Unlock()
	n, err := h.store.RevokeCluster(ctx, cluster, h.now(), reason)
	if err != nil {
		return 0, err
	}
	if s := h.sessions.get(cluster); s != nil {
		s.end(revoked(cluster, reason))
	}
	h.changed(cluster)
	return n, nil
}

// Forget removes a cluster that is gone, with its episodes. Its certificates are revoked first.
func (h *Hub) Forget(ctx context.Context, cluster, reason string) error {
	if _, err := h.Revoke(ctx, cluster, reason); err != nil {
		return err
	}
	if s := h.sessions.get(cluster); s != nil {
		select {
		case <-s.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer h.changed(cluster)
	if err := h.store.RemoveCluster(ctx, cluster); err != nil {
		return err
	}
	h.fleet.forget(cluster)
	return nil
}

// Bounds and defaults of join tokens.
const (
	defaultJoinLife = time.Hour
	maxJoinLife     = 30 * 24 * time.Hour
)

// JoinTokenRequest says what a join token is good for.
type JoinTokenRequest struct {
	// Cluster is the only cluster that may join with it; empty means any.
	Cluster string `json:"cluster,omitempty"`
	// Life is how long it is good; zero means one hour.
	Life api.Duration `json:"life,omitempty"`
	// MaxUses is how often; zero means once.
	MaxUses int `json:"maxUses,omitempty"`
}

// JoinMaterial is all that an agent needs to join.
type JoinMaterial struct {
	// URL is where agents connect, Hub where people and scripts do.
	URL     string    `json:"url"`
	Hub     string    `json:"hub"`
	Token   string    `json:"token"`
	CAHash  string    `json:"caHash"`
	ID      string    `json:"id"`
	Cluster string    `json:"cluster,omitempty"`
	Expires time.Time `json:"expires"`
	MaxUses int       `json:"maxUses"`
}

// CreateJoinToken makes a join token. Only its hash is kept: this is the only time it is seen.
func (h *Hub) CreateJoinToken(ctx context.Context, req JoinTokenRequest) (JoinMaterial, error) {
	life := time.Duration(req.Life)
	if life == 0 {
		life = defaultJoinLife
	}
	switch {
	case req.Cluster != "" && !api.ValidName(req.Cluster):
		return JoinMaterial{}, bad(fmt.Errorf("%q is not a cluster's name", req.Cluster))
	case life > maxJoinLife:
		return JoinMaterial{}, bad(fmt.Errorf("a join token lives at most %s", maxJoinLife))
	case req.MaxUses < 0:
		return JoinMaterial{}, bad(errors.New("maxUses is negative"))
	}
	secret := "flj-" + rand.Text()
	now := h.now()
	t, err := h.store.CreateJoinToken(ctx, store.JoinToken{
		Cluster: req.Cluster, Created: now, CreatedBy: actor(ctx), Expires: now.Add(life), MaxUses: max(1, req.MaxUses),
	}, secret)
	if err != nil {
		return JoinMaterial{}, err
	}
	return JoinMaterial{
		URL: h.AgentURL(), Hub: h.PublicURL(), Token: secret, CAHash: h.ca.Hash(),
		ID: t.ID, Cluster: t.Cluster, Expires: t.Expires, MaxUses: t.MaxUses,
	}, nil
}

func bad(err error) error { return &api.Error{Kind: api.Stalled, Reason: "BadRequest", Err: err} }

// audit notes what somebody did or tried, where the action and the cluster say it all.
func (h *Hub) audit(ctx context.Context, who, action, cluster string, result error) {
	h.record(ctx, store.AuditEntry{Actor: who, Action: action, Cluster: cluster}, result)
}

// act is an entry of whoever a request was let in for.
func act(ctx context.Context, action, cluster string) store.AuditEntry {
	return store.AuditEntry{Actor: actor(ctx), Action: action, Cluster: cluster}
}

// record adds address and result to an entry and writes it to the audit log. A log that cannot be written
// must not stop what it tells of: it is told to the process's log instead.
func (h *Hub) record(ctx context.Context, e store.AuditEntry, result error) {
	e.Remote, e.Result = remote(ctx), "ok"
	if result != nil {
		e.Result = result.Error()
	}
	if err := h.store.Audit(context.WithoutCancel(ctx), e); err != nil {
		h.log.Error("audit entry not written", "action", e.Action, "cluster", e.Cluster, "actor", e.Actor, "error", err)
	}
}
