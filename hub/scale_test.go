package hub_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub"
	"github.com/flotilla-fleet/flotilla/hub/hubtest"
	"github.com/flotilla-fleet/flotilla/hub/pki"
	"github.com/flotilla-fleet/flotilla/hub/proto/hubv1"
	"github.com/flotilla-fleet/flotilla/hub/view"
)

// bareAgent speaks the protocol without a store of its own.
type bareAgent struct {
	cluster string
	hc      *http.Client
	stream  *connect.BidiStreamForClient[hubv1.AgentMessage, hubv1.HubMessage]
	seq     uint64
	// leftOut is whether the hub has told that it did not take everything.
	leftOut bool
}

func joinBare(ctx context.Context, h *hubtest.Hub, cluster, token string) (*bareAgent, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(h.CAPEM())
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	client := func(certs ...tls.Certificate) *http.Client {
		return &http.Client{Transport: &http.Transport{
			Protocols:       &protocols,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: certs},
		}}
	}
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	csr, err := pki.Request(key)
	if err != nil {
		return nil, err
	}
	hc := client()
	defer hc.CloseIdleConnections()
	res, err := hubv1.NewEnrollmentServiceClient(hc, h.AgentURL()).Join(ctx, connect.NewRequest(&hubv1.JoinRequest{
		Token: token, Cluster: cluster, AgentId: "agent-" + cluster, Csr: csr,
	}))
	if err != nil {
		return nil, err
	}
	keyPEM, err := pki.MarshalKey(key)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(res.Msg.GetCertificate(), keyPEM)
	if err != nil {
		return nil, err
	}
	a := &bareAgent{cluster: cluster, hc: client(cert)}
	a.stream = hubv1.NewAgentServiceClient(a.hc, h.AgentURL()).Connect(ctx)
	if err := a.stream.Send(&hubv1.AgentMessage{Body: &hubv1.AgentMessage_Hello{Hello: &hubv1.Hello{
		Cluster: cluster, AgentId: "agent-" + cluster, Checksum: api.State{}.Checksum(),
	}}}); err != nil {
		return nil, err
	}
	m, err := a.stream.Receive()
	if err == nil && m.GetWelcome() == nil {
		err = fmt.Errorf("no welcome: %v", m)
	}
	return a, err
}

// report sends a batch and waits for its acknowledgement; what the hub tells meanwhile of what it left out is noted.
func (a *bareAgent) report(reports ...api.Report) error {
	b := &hubv1.Batch{}
	for _, r := range reports {
		a.seq++
		r.Seq, r.At = a.seq, time.Now()
		p, err := json.Marshal(r)
		if err != nil {
			return err
		}
		b.Reports = append(b.Reports, &hubv1.Report{Seq: r.Seq, Kind: r.Kind(), Payload: p})
	}
	if err := a.stream.Send(&hubv1.AgentMessage{Body: &hubv1.AgentMessage_Batch{Batch: b}}); err != nil {
		return err
	}
	return a.acknowledged(a.seq)
}

func (a *bareAgent) acknowledged(seq uint64) error {
	for {
		m, err := a.stream.Receive()
		switch {
		case err != nil:
			return err
		case m.GetLeftOut() != nil:
			a.leftOut = true
		case m.GetAck().GetSeq() == seq:
			return nil
		default:
			return fmt.Errorf("cluster %s: %v instead of an acknowledgement of %d", a.cluster, m, seq)
		}
	}
}

// BenchmarkThousandClusters measures a thousand connected agents that each report a change,
// all at once, and the fleet's page afterwards.
func BenchmarkThousandClusters(b *testing.B) {
	const n = 1000
	h := hubtest.Start(b, hub.Config{})
	ctx, cancel := context.WithCancel(b.Context())
	b.Cleanup(cancel)
	m, err := h.CreateJoinToken(ctx, hub.JoinTokenRequest{MaxUses: n})
	if err != nil {
		b.Fatal(err)
	}
	as := make([]*bareAgent, n)
	begin := time.Now()
	each(b, n, func(i int) (err error) {
		as[i], err = joinBare(ctx, h, fmt.Sprintf("c%04d", i), m.Token)
		return err
	})
	b.ReportMetric(time.Since(begin).Seconds(), "s/join-1000")
	round := func(rev string) {
		each(b, n, func(i int) error {
			st := hubtest.Status(as[i].cluster, rev).Status
			reports := []api.Report{{Status: st}}
			for j := range 10 {
				reports = append(reports, api.Report{Bundle: &api.BundleStatus{
					Name: fmt.Sprintf("b%d", j), Phase: api.PhaseReady, AppliedRevision: rev, DesiredRevision: rev, Objects: 4, ReadyObjects: 4,
				}})
			}
			return as[i].report(reports...)
		})
	}
	for i := 0; b.Loop(); i++ {
		round(fmt.Sprintf("%040d", i))
	}
	begin = time.Now()
	if l := hubtest.Get[view.List[view.Cluster]](h, "/api/v1/clusters"); l.Fleet.States[view.StateReady] != n {
		b.Errorf("%+v", l.Fleet)
	}
	b.ReportMetric(time.Since(begin).Seconds(), "s/first-list")
	begin = time.Now()
	h.Do(http.MethodGet, "/", "")
	b.ReportMetric(time.Since(begin).Seconds(), "s/page")
}

// each runs f for all numbers below n, a hundred at a time.
func each(b *testing.B, n int, f func(i int) error) {
	b.Helper()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 100)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := f(i); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
}
