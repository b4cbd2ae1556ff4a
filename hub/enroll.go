package hub

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"time"

	"connectrpc.com/connect"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/pki"
	"github.com/flotilla-fleet/flotilla/hub/proto/hubv1"
	"github.com/flotilla-fleet/flotilla/hub/store"
)

var validAgentID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// enrollment lets agents in.
type enrollment struct{ *Hub }

// Join trades a join token for a certificate.
func (h enrollment) Join(ctx context.Context, req *connect.Request[hubv1.JoinRequest]) (*connect.Response[hubv1.JoinResponse], error) {
	m := req.Msg
	res, err := h.admit(ctx, m)
	if err != nil {
		h.auditSpent(ctx, m, err)
		return nil, wireError(h.turnAway(ctx, "join", err))
	}
	h.record(ctx, store.AuditEntry{
		Actor: "agent " + m.GetAgentId(), Action: "join", Cluster: m.GetCluster(), Name: m.GetAgentId(),
		Scope: "join token " + store.TokenID(m.GetToken()), Until: h.now().Add(h.cfg.CertificateLife),
	}, nil)
	h.log.Info("agent joined", "cluster", m.GetCluster(), "agent", m.GetAgentId())
	h.changed(m.GetCluster())
	return connect.NewResponse(res), nil
}

// Bounds of what stands in a request to join.
const (
	maxToken   = 256
	maxCSR     = 8 << 10
	maxVersion = 64
)

// admit looks at the token before anything else: nobody without one learns which clusters there are,
// has a signature verified, or holds up others.
func (h enrollment) admit(ctx context.Context, m *hubv1.JoinRequest) (*hubv1.JoinResponse, error) {
	switch {
	case !api.ValidName(m.GetCluster()):
		return nil, refused(reasonBadRequest, "", "%s is not a cluster's name", quoted(m.GetCluster()))
	case !validAgentID.MatchString(m.GetAgentId()):
		return nil, refused(reasonBadRequest, "", "%s is not an agent's id", quoted(m.GetAgentId()))
	case len(m.GetToken()) > maxToken:
		return nil, refused(reasonBadRequest, "", "the token has %d bytes, and may have %d", len(m.GetToken()), maxToken)
	case len(m.GetCsr()) > maxCSR:
		return nil, refused(reasonBadRequest, "", "the certificate request has %d bytes, and may have %d", len(m.GetCsr()), maxCSR)
	case len(m.GetAgentVersion()) > maxVersion:
		return nil, refused(reasonBadRequest, "", "the agent's version has %d bytes, and may have %d", len(m.GetAgentVersion()), maxVersion)
	}
	if _, err := h.store.CheckJoinToken(ctx, m.GetToken(), m.GetCluster(), h.now()); err != nil {
		return nil, err
	}
	h.joining.Lock()
	defer h.joining.Unlock()
	return h.join(ctx, m)
}

// join runs under the lock joining: two agents must not both find the cluster free.
func (h enrollment) join(ctx context.Context, m *hubv1.JoinRequest) (*hubv1.JoinResponse, error) {
	now := h.now()
	cert, id, err := h.ca.Client(m.GetCsr(), m.GetCluster(), m.GetAgentId(), now, h.cfg.CertificateLife)
	if err != nil {
		return nil, refused(reasonBadRequest, "", "%w", err)
	}
	if err := h.checkHolder(ctx, m.GetCluster(), m.GetAgentId()); err != nil {
		return nil, err
	}
	if _, err := h.store.UseJoinToken(ctx, m.GetToken(), m.GetCluster(), now); err != nil {
		return nil, err
	}
	if err := h.store.AddCluster(ctx, m.GetCluster()); err != nil {
		return nil, err
	}
	if err := h.saveCertificate(ctx, id); err != nil {
		return nil, err
	}
	return &hubv1.JoinResponse{Certificate: cert, CaBundle: h.ca.CertificatePEM()}, nil
}

// turnAway counts a refusal, and tells some of them to the process's log: whoever is refused has not said who they are.
// An address that is refused too often is only told so.
func (h *Hub) turnAway(ctx context.Context, action string, err error) error {
	if !h.metrics.refused(err) { // the hub's own trouble
		h.log.Warn("request failed", "what", action, "remote", remote(ctx), "error", err)
		return err
	}
	now := h.now()
	if ok, left := h.refusals.take(now); ok {
		h.log.Warn("request refused", "what", action, "remote", remote(ctx), "error", err, "not_logged", left)
	}
	if !h.strangers.allow(site(remote(ctx)), now) {
		return &api.Error{
			Kind: api.Waiting, Reason: reasonTooMany, After: time.Minute,
			Err: errors.New("too many refused requests came from this address: wait a minute"),
		}
	}
	return err
}

// auditSpent notes some of the refusals of a token that the hub did give out: it is in wrong hands, or was used twice.
// What is refused without such a token is not in the audit log at all.
func (h *Hub) auditSpent(ctx context.Context, m *hubv1.JoinRequest, err error) {
	e, ok := errors.AsType[*api.Error](err)
	if !ok || e.Kind != api.Forbidden || errors.Is(err, store.ErrTokenUnknown) || e.Reason == reasonBadRequest {
		return
	}
	if h.spent.allow(store.TokenID(m.GetToken()), h.now()) {
		// The token is all that is proven: an actor that the caller names would have a share of the log for every name.
		token := "join token " + store.TokenID(m.GetToken())
		h.record(ctx, store.AuditEntry{Actor: token, Action: "join", Cluster: m.GetCluster(), Name: m.GetAgentId()}, err)
	}
}

// checkHolder refuses a second agent for a cluster.
func (h *Hub) checkHolder(ctx context.Context, cluster, agentID string) error {
	holder, err := h.holder(ctx, cluster)
	if err != nil {
		return err
	}
	if holder != "" && holder != agentID {
		return secondAgent(cluster, holder)
	}
	return nil
}

// How often an agent may have its certificate renewed: an honest one does it once in two thirds of its life,
// and tries again where it could not keep the new one.
const renewalBurst = 10

func renewalEvery(life time.Duration) time.Duration {
	if life == 0 {
		life = DefaultCertificateLife
	}
	return min(time.Hour, life/10)
}

// Renew trades a new key for a new certificate of the same agent.
func (h agents) Renew(ctx context.Context, req *connect.Request[hubv1.RenewRequest]) (*connect.Response[hubv1.RenewResponse], error) {
	id, err := h.identify(ctx)
	if err != nil {
		return nil, wireError(h.turnAway(ctx, "renewal", err))
	}
	now := h.now()
	if !h.renewals.allow(id.Cluster, now) {
		return nil, wireError(&api.Error{
			Kind: api.Waiting, Reason: reasonTooMany, After: time.Minute,
			Err: fmt.Errorf("cluster %q asks for too many certificates", id.Cluster),
		})
	}
	cert, fresh, err := h.ca.Client(req.Msg.GetCsr(), id.Cluster, id.AgentID, now, h.cfg.CertificateLife)
	if err != nil {
		return nil, wireError(refused(reasonBadRequest, "", "%w", err))
	}
	if err := h.saveCertificate(ctx, fresh); err != nil {
		return nil, wireError(err)
	}
	h.audit(ctx, "agent "+id.AgentID, "renew", id.Cluster, nil)
	return connect.NewResponse(&hubv1.RenewResponse{Certificate: cert, CaBundle: h.ca.CertificatePEM()}), nil
}

type connKey struct{}

// conn is what a handler must know of the HTTP request beneath it.
type conn struct {
	tls *tls.ConnectionState
	rc  *http.ResponseController
}

type remoteKey struct{}

// remote is the address that a request came from.
func remote(ctx context.Context) string {
	a, _ := ctx.Value(remoteKey{}).(string)
	return a
}

// withConn hands the TLS state and the deadlines of a request to the Connect handlers.
func withConn(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := conn{tls: r.TLS, rc: http.NewResponseController(w)}
		ctx := context.WithValue(r.Context(), connKey{}, c)
		next.ServeHTTP(w, r.WithContext(context.WithValue(ctx, remoteKey{}, remoteIP(r))))
	})
}

// identify is the one gate for agents: the certificate must be ours, in time, and not revoked.
// It is done here and not in the TLS handshake, so that a refusal can say why.
func (h *Hub) identify(ctx context.Context) (pki.Identity, error) {
	c, _ := ctx.Value(connKey{}).(conn)
	if c.tls == nil || len(c.tls.PeerCertificates) == 0 {
		return pki.Identity{}, refused(reasonNoCertificate, "join first", "the request came without a client certificate")
	}
	return h.verify(ctx, c.tls.PeerCertificates[0])
}

func (h *Hub) verify(ctx context.Context, cert *x509.Certificate) (pki.Identity, error) {
	id, err := h.ca.Verify(cert)
	if err != nil {
		return pki.Identity{}, refused(reasonNotOurs, "join this hub with a new token",
			"the certificate was not issued by this hub: %w", err)
	}
	if !h.now().Before(id.NotAfter) {
		return pki.Identity{}, expired(id)
	}
	rec, found, err := h.store.Certificate(ctx, id.Serial)
	switch {
	case err != nil:
		return pki.Identity{}, fmt.Errorf("look up certificate %q: %w", id.Serial, err)
	case !found:
		return pki.Identity{}, refused(reasonNotOurs, "join again with a new token", "this hub does not know the certificate")
	case !rec.Revoked.IsZero():
		return pki.Identity{}, revoked(id.Cluster, rec.Reason)
	}
	return id, nil
}
