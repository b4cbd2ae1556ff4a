package watch_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"sync"

	"k8s.io/apimachinery/pkg/api/errors"
)

// expiring stands between a client and a real API server.
// breakAll ends all watches; the next watch of each that tries to go on where it was gets a 410.
type expiring struct {
	mu     sync.Mutex
	open   []*endable
	refuse bool
	count  int
}

func (e *expiring) wrap(rt http.RoundTripper) http.RoundTripper {
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		q := r.URL.Query()
		if q.Get("watch") == "" {
			return rt.RoundTrip(r)
		}
		e.mu.Lock()
		refuse := e.refuse && q.Get("sendInitialEvents") == "" && q.Get("resourceVersion") != ""
		if refuse {
			e.count++
			e.refuse = false
		}
		e.mu.Unlock()
		if refuse {
			return gone(r), nil
		}
		res, err := rt.RoundTrip(r)
		if err == nil {
			b := &endable{rc: res.Body, end: make(chan struct{})}
			res.Body = b
			e.mu.Lock()
			e.open = append(e.open, b)
			e.mu.Unlock()
		}
		return res, err
	})
}

func (e *expiring) breakAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refuse = true
	for _, b := range e.open {
		close(b.end)
	}
	e.open = nil
}

// endable is a stream that can be ended as a server ends it.
type endable struct {
	rc  io.ReadCloser
	end chan struct{}
}

func (b *endable) Read(p []byte) (int, error) {
	type result struct {
		n   int
		err error
	}
	buf, read := make([]byte, len(p)), make(chan result, 1)
	go func() {
		n, err := b.rc.Read(buf)
		read <- result{n, err}
	}()
	select {
	case r := <-read:
		return copy(p, buf[:r.n]), r.err
	case <-b.end:
		return 0, io.EOF
	}
}

func (b *endable) Close() error { return b.rc.Close() }

func (e *expiring) expired() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.count
}

func gone(r *http.Request) *http.Response {
	status := errors.NewResourceExpired("too old resource version").Status()
	status.Kind, status.APIVersion = "Status", "v1"
	body, _ := json.Marshal(status)
	return &http.Response{
		StatusCode: http.StatusGone, Status: "410 Gone", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(body)), Request: r,
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
