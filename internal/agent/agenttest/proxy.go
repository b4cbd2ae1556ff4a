package agenttest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// Proxy stands between an agent and its API server.
// It keeps a list of the requests, and spoils those that a test chooses.
type Proxy struct {
	// URL is its address, without TLS and credentials.
	URL string

	forward *httputil.ReverseProxy
	server  *httptest.Server

	mu       sync.Mutex
	spoil    func(*http.Request) *Fault
	requests []Request
}

// Request is one request of the agent.
type Request struct {
	Method, Path string
	At           time.Time
}

// Fault is what happens to a request instead of an answer.
type Fault struct {
	// Late says that the API server does what it is asked, and only the answer is spoilt.
	Late bool
	// Wait is how long nothing happens first.
	Wait time.Duration
	// Status is the code of the answer. Zero means that the connection breaks without one.
	Status int
}

// newProxy starts a proxy to the API server that rc reaches.
func newProxy(t testing.TB, rc *rest.Config) *Proxy {
	t.Helper()
	target, err := url.Parse(rc.Host)
	if err != nil {
		t.Fatal(err)
	}
	transport, err := rest.TransportFor(rc)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{forward: &httputil.ReverseProxy{
		Rewrite:   func(pr *httputil.ProxyRequest) { pr.SetURL(target) },
		Transport: transport,
		// An API server that is not there looks to the agent like a connection that broke.
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		FlushInterval: -1,
	}}
	s := httptest.NewServer(p)
	p.URL, p.server = s.URL, s
	t.Cleanup(func() {
		s.CloseClientConnections() // watches do not end by themselves
		s.Close()
	})
	return p
}

// Spoil has a function choose which requests are spoilt, and how; nil, or an answer of nil, spoils nothing.
func (p *Proxy) Spoil(choose func(*http.Request) *Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spoil = choose
}

// Break closes all connections, and with them all watches.
func (p *Proxy) Break() { p.server.CloseClientConnections() }

// Requests returns the requests since the last call, watches left out.
func (p *Proxy) Requests() []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.requests
	p.requests = nil
	return out
}

// IsWatch reports whether a request opens a watch.
func IsWatch(req *http.Request) bool {
	w := req.URL.Query().Get("watch")
	return w == "1" || w == "true"
}

// IsWrite reports whether a request can change anything.
func IsWrite(req *http.Request) bool {
	return req.Method != http.MethodGet && req.URL.Query().Get("dryRun") == ""
}

func (p *Proxy) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	p.mu.Lock()
	var f *Fault
	if p.spoil != nil {
		f = p.spoil(req)
	}
	if !IsWatch(req) {
		p.requests = append(p.requests, Request{req.Method, req.URL.Path, time.Now()})
	}
	p.mu.Unlock()
	if f == nil {
		p.forward.ServeHTTP(w, req)
		return
	}
	late := f.Late && !IsWatch(req)
	if !late {
		_, _ = io.Copy(io.Discard, req.Body) // that the client is gone shows only once all of it was read
	}
	select {
	case <-time.After(f.Wait):
	case <-req.Context().Done():
		panic(http.ErrAbortHandler)
	}
	if late {
		p.forward.ServeHTTP(nowhere{http.Header{}}, req)
	}
	if f.Status == 0 {
		panic(http.ErrAbortHandler)
	}
	answer(w, f.Status)
}

// nowhere swallows an answer.
type nowhere struct{ header http.Header }

func (n nowhere) Header() http.Header         { return n.header }
func (n nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (n nowhere) WriteHeader(int)             {}

// reasons: status code -> how the API server calls it
var reasons = map[int]metav1.StatusReason{
	http.StatusForbidden:           metav1.StatusReasonForbidden,
	http.StatusConflict:            metav1.StatusReasonConflict,
	http.StatusTooManyRequests:     metav1.StatusReasonTooManyRequests,
	http.StatusInternalServerError: metav1.StatusReasonInternalError,
	http.StatusServiceUnavailable:  metav1.StatusReasonServiceUnavailable,
	http.StatusGatewayTimeout:      metav1.StatusReasonTimeout,
}

// answer answers as the API server would.
func answer(w http.ResponseWriter, code int) {
	st := metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure,
		Code: int32(code), Reason: reasons[code], Message: fmt.Sprintf("made up: %d", code),
	}
	if code == http.StatusInternalServerError {
		st.Details = &metav1.StatusDetails{Causes: []metav1.StatusCause{{Message: "made up"}}}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(st)
}

// Quiet fails unless nothing but the lease was asked for since the last call of Requests.
func (p *Proxy) Quiet() error {
	var errs []error
	for _, q := range p.Requests() {
		if !strings.Contains(q.Path, "/leases/") {
			errs = append(errs, fmt.Errorf("%s %s %s", q.At.Format("15:04:05.000"), q.Method, q.Path))
		}
	}
	return errors.Join(errs...)
}
