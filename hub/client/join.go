package client

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/pki"
	"github.com/flotilla-fleet/flotilla/hub/proto/hubv1"
)

// JoinConfig is what an agent joins a hub with.
type JoinConfig struct {
	// URL is the hub's address for agents, such as https://hub:7443.
	URL   string
	Token string
	// CAHash ("sha256:…") or CAFile says which hub to trust. One is required.
	CAHash string
	CAFile string
	// Cluster is the cluster's name, AgentID that of the agent's store.
	Cluster string
	AgentID string
	Version string
	// Dir is where the identity is written.
	Dir string
}

// Validate says what is wrong with the address and the pin of a hub, as far as it can be known without asking the hub.
func (cfg JoinConfig) Validate() error {
	if _, _, err := hubAddress(cfg.URL); err != nil {
		return err
	}
	if cfg.CAFile == "" && !strings.HasPrefix(cfg.CAHash, "sha256:") {
		return errors.New("join: the hub's CA hash (sha256:…) or CA file is required")
	}
	return nil
}

// Digest tells join material apart without giving the token away, which is random and long.
func (cfg JoinConfig) Digest() string {
	sum := sha256.Sum256([]byte(cfg.URL + "\x00" + cfg.Token + "\x00" + cfg.CAHash + "\x00" + cfg.CAFile))
	return hex.EncodeToString(sum[:])
}

// Join trades a join token for an identity, and writes it to a directory, in the place of one that is there.
// A refusal is an *api.Error of kind Forbidden that says why. It is not for a directory whose Client runs: use its Join.
func Join(ctx context.Context, cfg JoinConfig) (Identity, error) {
	id, err := enroll(ctx, cfg)
	if err == nil {
		err = saveIdentity(cfg.Dir, id)
	}
	return id, err
}

// Join joins anew while the Client runs, which then uses the new identity at once. The old one stays until there is a new one.
// Of cfg, the fields about the agent need not be set.
func (c *Client) Join(ctx context.Context, cfg JoinConfig) error {
	cfg.Dir, cfg.Cluster, cfg.AgentID, cfg.Version = c.cfg.Dir, c.cfg.Cluster, c.cfg.Outbox.AgentID(), c.cfg.Version
	id, err := enroll(ctx, cfg)
	if err != nil {
		return err
	}
	c.replacing.Lock()
	defer c.replacing.Unlock()
	if err := saveIdentity(cfg.Dir, id); err != nil {
		return err
	}
	select {
	case c.joined <- struct{}{}:
	default:
	}
	return nil
}

// joinAgain is the hint of refusals that only a new token ends.
const joinAgain = "join again with a new token; see flotilla join --help"

// enroll asks the hub for an identity.
func enroll(ctx context.Context, cfg JoinConfig) (Identity, error) {
	if cfg.Dir == "" || cfg.Token == "" || cfg.Cluster == "" || cfg.AgentID == "" {
		return Identity{}, errors.New("join: Dir, Token, Cluster and AgentID are required")
	}
	if err := cfg.Validate(); err != nil {
		return Identity{}, err
	}
	base, host, err := hubAddress(cfg.URL)
	if err != nil {
		return Identity{}, err
	}
	conf := pinned(cfg.CAHash, host)
	if cfg.CAFile != "" {
		if conf, err = trusting(cfg.CAFile); err != nil {
			return Identity{}, err
		}
	}
	hc := httpClient(conf)
	defer hc.CloseIdleConnections()
	key, csr, err := request()
	if err != nil {
		return Identity{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	res, err := hubv1.NewEnrollmentServiceClient(hc, base).Join(ctx, connect.NewRequest(&hubv1.JoinRequest{
		Token: cfg.Token, Cluster: cfg.Cluster, AgentId: cfg.AgentID, Csr: csr, AgentVersion: cfg.Version,
	}))
	if err != nil {
		err = clientError(err)
		if e, ok := errors.AsType[*api.Error](err); ok && e.Kind == api.Forbidden && e.Hint == "" {
			e.Hint = joinAgain
		}
		return Identity{}, fmt.Errorf("join %q: %w", base, err)
	}
	return newIdentity(hubInfo{URL: base, CA: string(res.Msg.GetCaBundle()), Joined: cfg.Digest()}, key, res.Msg.GetCertificate())
}

// renew replaces an identity by one with a new key and a new certificate.
func (c *Client) renew(ctx context.Context, hc *http.Client, id Identity) error {
	key, csr, err := request()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	res, err := hubv1.NewAgentServiceClient(hc, id.URL).Renew(ctx, connect.NewRequest(&hubv1.RenewRequest{Csr: csr}))
	if err != nil {
		return fmt.Errorf("renew: %w", clientError(err))
	}
	hub := id.hub
	hub.CA = string(res.Msg.GetCaBundle())
	fresh, err := newIdentity(hub, key, res.Msg.GetCertificate())
	if err != nil {
		return err
	}
	c.replacing.Lock()
	defer c.replacing.Unlock()
	if now, err := LoadIdentity(c.cfg.Dir); err == nil && !bytes.Equal(now.file, id.file) {
		return nil // the agent has joined anew meanwhile
	}
	return saveIdentity(c.cfg.Dir, fresh)
}

// request makes a key and the request of a certificate for it.
func request() (*ecdsa.PrivateKey, []byte, error) {
	key, err := pki.NewKey()
	if err != nil {
		return nil, nil, err
	}
	csr, err := pki.Request(key)
	return key, csr, err
}

func hubAddress(raw string) (base, host string, err error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return "", "", fmt.Errorf("join: %q is not an address such as https://hub:7443", raw)
	}
	return "https://" + u.Host, u.Hostname(), nil
}

// httpClient speaks HTTP/2 over one connection, and notices when it is dead.
func httpClient(conf *tls.Config) *http.Client {
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	return &http.Client{Transport: &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: answerTimeout}).DialContext,
		TLSClientConfig:     conf,
		TLSHandshakeTimeout: answerTimeout,
		Protocols:           &protocols,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 10 * time.Second},
	}}
}

// clientError turns a refusal by the hub into an *api.Error, and anything else into a transient one.
func clientError(err error) error {
	if err == nil {
		return nil
	}
	if own, ok := errors.AsType[*api.Error](err); ok { // of the check of the pin
		return own
	}
	out := &api.Error{Kind: api.Transient, Reason: "HubUnreachable", Err: err}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		out.Kind, out.Reason, out.Hint = api.Forbidden, "UnknownHub", "if the hub was begun anew, "+joinAgain
		return out
	}
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return out
	}
	switch ce.Code() {
	case connect.CodePermissionDenied, connect.CodeUnauthenticated:
		out.Kind, out.Reason = api.Forbidden, "Refused"
		out.Err = errors.New(ce.Message())
	case connect.CodeInvalidArgument, connect.CodeUnimplemented:
		out.Kind, out.Reason = api.Stalled, "Refused"
		out.Err = errors.New(ce.Message())
	default:
		return out
	}
	for _, d := range ce.Details() {
		v, err := d.Value()
		if err != nil {
			continue
		}
		if r, ok := v.(*hubv1.Refusal); ok {
			out.Reason, out.Hint = r.GetReason(), r.GetHint()
		}
	}
	return out
}
