package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
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

// Join trades a join token for an identity, and writes it to a directory.
// A refusal is an *api.Error of kind Forbidden that says why.
func Join(ctx context.Context, cfg JoinConfig) (Identity, error) {
	base, host, err := hubAddress(cfg.URL)
	if err != nil {
		return Identity{}, err
	}
	var conf *tls.Config
	switch {
	case cfg.Dir == "" || cfg.Token == "" || cfg.Cluster == "" || cfg.AgentID == "":
		return Identity{}, errors.New("join: Dir, Token, Cluster and AgentID are required")
	case cfg.CAFile != "":
		if conf, err = trusting(cfg.CAFile); err != nil {
			return Identity{}, err
		}
	case strings.HasPrefix(cfg.CAHash, "sha256:"):
		conf = pinned(cfg.CAHash, host)
	default:
		return Identity{}, errors.New("join: the hub's CA hash (sha256:…) or CA file is required")
	}
	hc := httpClient(conf)
	defer hc.CloseIdleConnections()
	key, err := pki.NewKey()
	if err != nil {
		return Identity{}, err
	}
	csr, err := pki.Request(key)
	if err != nil {
		return Identity{}, err
	}
	res, err := hubv1.NewEnrollmentServiceClient(hc, base).Join(ctx, connect.NewRequest(&hubv1.JoinRequest{
		Token: cfg.Token, Cluster: cfg.Cluster, AgentId: cfg.AgentID, Csr: csr, AgentVersion: cfg.Version,
	}))
	if err != nil {
		return Identity{}, fmt.Errorf("join %q: %w", base, clientError(err))
	}
	keyPEM, err := pki.MarshalKey(key)
	if err != nil {
		return Identity{}, err
	}
	if err := saveIdentity(cfg.Dir, base, keyPEM, res.Msg.GetCertificate(), res.Msg.GetCaBundle()); err != nil {
		return Identity{}, err
	}
	return LoadIdentity(cfg.Dir)
}

// renew replaces an identity by one with a new key and a new certificate.
func renew(ctx context.Context, hc *http.Client, id Identity, dir string) error {
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	csr, err := pki.Request(key)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	res, err := hubv1.NewAgentServiceClient(hc, id.URL).Renew(ctx, connect.NewRequest(&hubv1.RenewRequest{Csr: csr}))
	if err != nil {
		return fmt.Errorf("renew: %w", clientError(err))
	}
	keyPEM, err := pki.MarshalKey(key)
	if err != nil {
		return err
	}
	return saveIdentity(dir, id.URL, keyPEM, res.Msg.GetCertificate(), res.Msg.GetCaBundle())
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
	out := &api.Error{Kind: api.Transient, Reason: "HubUnreachable", Err: err}
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
