package hub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/flotilla-fleet/flotilla/hub/pki"
	"github.com/flotilla-fleet/flotilla/hub/proto/hubv1"
	"github.com/flotilla-fleet/flotilla/hub/store"
	"github.com/flotilla-fleet/flotilla/hub/web"
)

// Defaults of Config.
const (
	DefaultAgentAddr       = ":7443"
	DefaultHTTPAddr        = "127.0.0.1:7080"
	DefaultUnknownAfter    = 20 * time.Second
	DefaultCertificateLife = 30 * 24 * time.Hour
)

const (
	// maxMessage bounds one message of an agent, and maxReports the reports in it.
	maxMessage = 16 << 20
	maxReports = 2000
	// seenEvery is how often "last seen" is written down.
	seenEvery = 10 * time.Second
	// shutdown is how long requests may take to end when the hub stops.
	shutdown = 5 * time.Second
)

// Config is what a hub is made from.
type Config struct {
	// DataDir holds the store, and so the CA's key; it is created, for the owner only.
	DataDir string
	// AgentAddr is where agents connect, with TLS; empty means DefaultAgentAddr.
	AgentAddr string
	// HTTPAddr is for people and scripts; empty means DefaultHTTPAddr.
	HTTPAddr string
	// HTTPCertFile and HTTPKeyFile turn on TLS there. Both or none.
	HTTPCertFile string
	HTTPKeyFile  string
	// Hosts are the names and IP addresses that agents may dial, the best known first; localhost and
	// the machine's name are always among them.
	Hosts []string
	// AdvertiseURL is the address of AgentAddr that join material names, with https. PublicURL is that of HTTPAddr
	// as people and scripts reach it, which pages, hints and JSON show. Empty means: the first of Hosts,
	// else the address that is listened on, else the machine's name; with the listener's port.
	AdvertiseURL string
	PublicURL    string
	// Tokens let people and scripts in. Without any, they are read from TokensFile.
	Tokens []Token
	// TokensFile has the form that ParseTokens reads. Without one, an admin token is made at the first start
	// and kept in DataDir/admin-token. Either file is read again when it changes, as HTTPCertFile and HTTPKeyFile are.
	TokensFile string
	// TrustedProxies are the addresses whose X-Forwarded-For and X-Forwarded-Proto are believed.
	TrustedProxies []netip.Prefix
	// UnknownAfter is how long a cluster may be silent before it is Unknown; zero means the default.
	UnknownAfter time.Duration
	// CertificateLife is how long an agent's certificate lasts; zero means the default.
	CertificateLife time.Duration
	Version         string
	// Log is required to see anything; nil logs nothing.
	Log *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Monotonic is a clock that only goes forward, from wherever it likes; nil means that of Now.
	// It tells how long a cluster was silent.
	Monotonic func() time.Duration
}

// Hub is a running, or about to run, hub.
type Hub struct {
	cfg      Config
	log      *slog.Logger
	now      func() time.Time
	mono     func() time.Duration
	started  time.Time // by now, where mono began
	store    Store
	closers  []io.Closer
	ca       *pki.Authority
	auth     *authenticator
	sessions *sessions
	events   *broker
	fleet    *fleet
	metrics  *metrics
	pages    *web.Pages

	agentLn, httpLn net.Listener
	// strangers limits what is refused by address, and renewals what an agent asks of its certificate by cluster.
	strangers, renewals *limits
	// spent limits what the audit log tells of one join token that is refused.
	spent *limits
	// hellos limits how often an agent connects, and intake how much it sends, both by cluster.
	hellos, intake *limits
	// refusals is which refusals come into the process's log.
	refusals sample
	// files may change while the hub runs; httpCert is that of the listener for people, if it has one.
	files    []*watched
	httpCert *keyPair
	// joining makes the check for a second agent and the new certificate one step.
	joining  sync.Mutex
	stopping chan struct{}
	stopOnce sync.Once

	certMu sync.Mutex
	// cert is the server certificate for agents; guarded by certMu.
	cert *tls.Certificate
}

// New opens the store, makes the CA at the first start, and listens on both addresses.
// Nothing is served before Run.
func New(cfg Config) (*Hub, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	h := &Hub{
		cfg: cfg, log: cfg.Log, now: cfg.Now, started: cfg.Now(),
		sessions: &sessions{live: map[string]*session{}}, events: newBroker(), fleet: newFleet(),
		stopping:  make(chan struct{}),
		strangers: newLimits(refusalsPerSecond, refusalBurst),
		spent:     newLimits(rate.Every(time.Hour/auditedPerHour), auditedPerHour),
		renewals:  newLimits(rate.Every(renewalEvery(cfg.CertificateLife)), renewalBurst),
		hellos:    newLimits(rate.Every(connectEvery), connectBurst),
		intake:    newLimits(reportRate, reportBurst),
		refusals:  sample{limit: rate.NewLimiter(linesPerSecond, lineBurst)},
	}
	began := cfg.Monotonic()
	h.mono = func() time.Duration { return cfg.Monotonic() - began }
	if err := h.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("hub: %w", err), h.Close())
	}
	return h, nil
}

// Validate reports what New would refuse without looking at any file.
func (c Config) Validate() error { return c.complete() }

func (c *Config) complete() error {
	if c.DataDir == "" {
		return errors.New("DataDir is required")
	}
	if (c.HTTPCertFile == "") != (c.HTTPKeyFile == "") {
		return errors.New("HTTPCertFile and HTTPKeyFile belong together")
	}
	if c.AgentAddr == "" {
		c.AgentAddr = DefaultAgentAddr
	}
	if c.HTTPAddr == "" {
		c.HTTPAddr = DefaultHTTPAddr
	}
	if c.UnknownAfter == 0 {
		c.UnknownAfter = DefaultUnknownAfter
	}
	if c.CertificateLife == 0 {
		c.CertificateLife = DefaultCertificateLife
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Monotonic == nil { // times that time.Now gives are compared by the machine's monotonic clock
		begin, now := c.Now(), c.Now
		c.Monotonic = func() time.Duration { return now().Sub(begin) }
	}
	var err error
	if c.AdvertiseURL, err = checkAddress(c.AdvertiseURL, "https"); err != nil {
		return fmt.Errorf("AdvertiseURL: %w", err)
	}
	if c.PublicURL, err = checkAddress(c.PublicURL, "https", "http"); err != nil {
		return fmt.Errorf("PublicURL: %w", err)
	}
	for _, t := range c.Tokens {
		if err := t.validate(); err != nil {
			return err
		}
	}
	return nil
}

// open acquires, in order, what Close releases in reverse.
func (h *Hub) open() error {
	st, err := store.Open(store.Config{Path: filepath.Join(h.cfg.DataDir, "hub.db"), Now: h.cfg.Now})
	if err != nil {
		return err
	}
	h.store = st
	h.closers = append(h.closers, st)
	ctx := context.Background() // a short start-up step; Run has the caller's context
	if h.ca, err = h.authority(ctx); err != nil {
		return err
	}
	h.metrics = newMetrics(
		func() float64 { return float64(h.sessions.count()) },
		func() float64 { return float64(h.events.count()) },
		func() store.Counters {
			c, err := h.store.Counters(context.Background())
			if err != nil {
				h.log.Error("counters of the store", "error", err)
			}
			return c
		})
	h.auth = &authenticator{sessions: h.store, proxies: h.cfg.TrustedProxies, now: h.now, log: h.log, wrong: h.metrics.wrong.Inc}
	if err := h.openFiles(ctx); err != nil {
		return err
	}
	if err := h.load(ctx); err != nil {
		return err
	}
	if h.agentLn, err = (&net.ListenConfig{}).Listen(ctx, "tcp", h.cfg.AgentAddr); err != nil {
		return err
	}
	h.closers = append(h.closers, h.agentLn)
	if h.httpLn, err = (&net.ListenConfig{}).Listen(ctx, "tcp", h.cfg.HTTPAddr); err != nil {
		return err
	}
	h.closers = append(h.closers, h.httpLn)
	h.pages, err = web.New(web.Config{
		Source: h, Mark: h.events.mark, Now: h.now, Log: h.log, Version: h.cfg.Version,
		URL: h.PublicURL(), Trouble: h.trouble,
	})
	return err
}

// openFiles reads the files that may change while the hub runs, for the first time.
func (h *Hub) openFiles(ctx context.Context) error {
	if h.cfg.HTTPCertFile != "" {
		h.httpCert = &keyPair{}
		h.watch(h.httpCert.use, h.cfg.HTTPCertFile, h.cfg.HTTPKeyFile)
	}
	if len(h.cfg.Tokens) > 0 {
		h.auth.setKeys(ctx, h.cfg.Tokens)
	} else {
		file, parse := h.cfg.tokenSource()
		if h.cfg.TokensFile == "" {
			if err := makeAdminToken(file); err != nil {
				return err
			}
		}
		h.watch(func(ctx context.Context, contents [][]byte) error {
			tokens, err := parse(contents[0])
			if err == nil {
				h.auth.setKeys(ctx, tokens)
			}
			return err
		}, file)
	}
	for _, w := range h.files {
		if err := w.start(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (h *Hub) watch(use func(context.Context, [][]byte) error, files ...string) {
	broken := h.metrics.broken.WithLabelValues(files[0])
	h.files = append(h.files, &watched{files: files, use: use, log: h.log, broken: func(b bool) {
		broken.Set(0)
		if b {
			broken.Set(1)
		}
	}})
}

// Run serves until ctx ends, then lets requests finish.
func (h *Hub) Run(ctx context.Context) error {
	agents := h.agentServer()
	people := h.peopleServer()
	g, ctx := errgroup.WithContext(ctx)
	// No proxy stands between agents and the hub.
	agentLn, httpLn := crowdListener{h.agentLn, newCrowd(nil, h.crowded)}, crowdListener{h.httpLn, newCrowd(h.cfg.TrustedProxies, h.crowded)}
	g.Go(func() error { return served("agents", agents.ServeTLS(agentLn, "", "")) })
	g.Go(func() error {
		if h.httpCert != nil {
			return served("http", people.ServeTLS(httpLn, "", ""))
		}
		return served("http", people.Serve(httpLn))
	})
	g.Go(func() error { return h.tick(ctx) })
	g.Go(func() error { return watchFiles(ctx, h.files) })
	g.Go(func() error {
		<-ctx.Done()
		h.stop()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdown)
		defer cancel()
		err := errors.Join(agents.Shutdown(end), people.Shutdown(end))
		if errors.Is(err, context.DeadlineExceeded) {
			err = errors.Join(agents.Close(), people.Close())
		}
		return errors.Join(err, h.saveSeen(end))
	})
	h.log.Info("hub serves", "agents", h.AgentAddr(), "http", h.URL(), "advertised", h.AgentURL(), "public", h.PublicURL())
	return g.Wait()
}

// crowded counts a connection that had to go for a newer one, and tells of some of them.
func (h *Hub) crowded(site string) {
	h.metrics.refusals.WithLabelValues(reasonTooManyConnections).Inc()
	if ok, left := h.refusals.take(h.now()); ok {
		h.log.Warn("connection closed: too many from one address on which nobody has shown who they are", "remote", site, "most", strangersPerSite, "not_logged", left)
	}
}

func served(what string, err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", what, err)
}

// stop ends all streams.
func (h *Hub) stop() {
	h.stopOnce.Do(func() {
		close(h.stopping)
		h.sessions.stop()
	})
}

// Close releases the store and the listeners. Call it after Run has returned, or instead of Run.
func (h *Hub) Close() error {
	h.stop()
	var errs []error
	for _, v := range slices.Backward(h.closers) {
		if err := v.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	h.closers = nil
	return errors.Join(errs...)
}

// tick does what time alone causes.
func (h *Hub) tick(ctx context.Context) error {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	seen := time.NewTicker(seenEvery)
	defer seen.Stop()
	writable := true
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-seen.C:
			err = errors.Join(h.saveSeen(ctx), h.probe(ctx))
		case <-second.C:
			writable = h.tellHealth(writable)
			err = h.watchStates(ctx)
			if n := h.auth.failures.silenced(h.now()); n > 0 {
				h.log.Warn("wrong tokens were refused without a line of their own", "count", n)
			}
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrNotWritten) {
			h.log.Error("store not usable", "error", err)
		}
	}
}

func (h *Hub) agentServer() *http.Server {
	mux := http.NewServeMux()
	// A message that unpacks to many times its size would pass the bound on what is read.
	plain := connect.WithCompression("gzip", nil, nil)
	mux.Handle(hubv1.NewEnrollmentServiceHandler(enrollment{h}, connect.WithReadMaxBytes(maxEnroll), plain))
	mux.Handle(hubv1.NewAgentServiceHandler(agents{h}, connect.WithReadMaxBytes(maxMessage), plain))
	return &http.Server{
		Handler:           withConn(bounded(maxEnroll, mux)),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       idleTime,
		ConnContext:       withGuest,
		MaxHeaderBytes:    maxHeaders,
		ErrorLog:          slog.NewLogLogger(h.log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second, MaxConcurrentStreams: maxStreams,
		},
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS13,
			NextProtos: []string{"h2"},
			// Asked for, and checked in identify: a refusal in the handshake could not say why.
			ClientAuth:     tls.RequestClientCert,
			GetCertificate: h.serverCertificate,
		},
	}
}

func (h *Hub) peopleServer() *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	var encryption *tls.Config
	if h.httpCert != nil {
		encryption = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: h.httpCert.get}
	}
	return &http.Server{
		Handler:           bounded(maxBody, h.handler()),
		TLSConfig:         encryption,
		Protocols:         &protocols,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       idleTime,
		ConnContext:       withGuest,
		MaxHeaderBytes:    maxHeaders,
		ErrorLog:          slog.NewLogLogger(h.log.Handler(), slog.LevelDebug),
	}
}

// serverCertificate makes the certificate for agents, and a new one after two thirds of its life.
func (h *Hub) serverCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	h.certMu.Lock()
	defer h.certMu.Unlock()
	now := h.now()
	if c := h.cert; c != nil {
		life := c.Leaf.NotAfter.Sub(c.Leaf.NotBefore)
		if now.Before(c.Leaf.NotBefore.Add(life*2/3)) && !now.Before(c.Leaf.NotBefore) {
			return c, nil
		}
	}
	hosts := append([]string{"localhost", "127.0.0.1", "::1"}, h.cfg.Hosts...)
	if name := hostname(); name != "" {
		hosts = append(hosts, name)
	}
	// Agents dial what join material names.
	if u, err := url.Parse(h.AgentURL()); err == nil && !slices.Contains(hosts, u.Hostname()) {
		hosts = append(hosts, u.Hostname())
	}
	c, err := h.ca.Server(hosts, now)
	if err != nil {
		return nil, err
	}
	h.cert = c
	return c, nil
}

// AgentAddr is where agents are served, as host:port.
func (h *Hub) AgentAddr() string { return h.agentLn.Addr().String() }

// HTTPAddr is where people and scripts are served, as host:port.
func (h *Hub) HTTPAddr() string { return h.httpLn.Addr().String() }

// URL is the dashboard's address on this machine.
func (h *Hub) URL() string { return h.scheme() + dialable(h.HTTPAddr()) }

func (h *Hub) scheme() string {
	if h.cfg.HTTPCertFile != "" {
		return "https://"
	}
	return "http://"
}

// PublicURL is the dashboard's address as others reach it.
func (h *Hub) PublicURL() string {
	if h.cfg.PublicURL != "" {
		return h.cfg.PublicURL
	}
	return h.scheme() + publicAddress(h.HTTPAddr(), h.cfg.Hosts, hostname())
}

// AgentURL is the address in join material.
func (h *Hub) AgentURL() string {
	if h.cfg.AdvertiseURL != "" {
		return h.cfg.AdvertiseURL
	}
	return "https://" + publicAddress(h.AgentAddr(), h.cfg.Hosts, hostname())
}

// CAHash identifies the hub's CA in join material.
func (h *Hub) CAHash() string { return h.ca.Hash() }

// CAPEM is the hub's CA certificate.
func (h *Hub) CAPEM() []byte { return h.ca.CertificatePEM() }

// Token is the value of the first token of the highest role: what a demo prints.
func (h *Hub) Token() string {
	var best Token
	for _, t := range *h.auth.keys.Load() {
		if t.Role > best.Role {
			best = t
		}
	}
	return best.Value
}
