package hub

import (
	"context"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/flotilla-fleet/flotilla/hub/proto/hubv1"
)

// Bounds of what is read before it is known who asks.
const (
	// maxHeaders bounds a request's headers.
	maxHeaders = 32 << 10
	// maxEnroll bounds a request for a certificate.
	maxEnroll = 32 << 10
	// maxBody bounds what people and scripts send.
	maxBody = 1 << 20
	// readTime is how long a whole request may take to arrive. A stream of reports has deadlines of its own.
	readTime = time.Minute
	// idleTime is how long a connection may stay on which nothing is asked.
	idleTime = 2 * time.Minute
	// maxStreams is how many requests an agent's connection carries at once; an agent needs two.
	maxStreams = 8
)

// How often things may happen that nobody vouches for.
const (
	// refusalsPerSecond and refusalBurst are how many refused requests of one address are answered with the reason.
	refusalsPerSecond, refusalBurst = 1, 20
	// linesPerSecond and lineBurst bound the lines that all refusals together write to the process's log.
	linesPerSecond, lineBurst = 1, 20
	// auditedPerHour is how many refusals of one join token that the hub gave out come into the audit log.
	auditedPerHour = 10
	// remembered is how many addresses, or tokens, a limit is kept for.
	remembered = 4096
)

// limits gives every key the same rate. It remembers the keys that were used last, at most two times size:
// a key that was forgotten begins anew.
type limits struct {
	every rate.Limit
	burst int
	size  int

	mu sync.Mutex
	// fresh holds the keys used since the last turn, stale those before; guarded by mu.
	fresh, stale map[string]*rate.Limiter
}

func newLimits(every rate.Limit, burst int) *limits {
	return &limits{every: every, burst: burst, size: remembered, fresh: map[string]*rate.Limiter{}}
}

// of is the limiter of a key.
func (l *limits) of(key string) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	lim := l.fresh[key]
	if lim == nil {
		if lim = l.stale[key]; lim == nil {
			lim = rate.NewLimiter(l.every, l.burst)
		}
		if len(l.fresh) >= l.size {
			l.fresh, l.stale = map[string]*rate.Limiter{}, l.fresh
		}
		l.fresh[key] = lim
	}
	return lim
}

// wait waits until a key may use n, which is not more than the burst.
func (l *limits) wait(ctx context.Context, key string, n int) error {
	return l.of(key).WaitN(ctx, min(n, l.burst))
}

// allow counts one use of a key, and reports whether it is within the key's rate.
func (l *limits) allow(key string, now time.Time) bool { return l.of(key).AllowN(now, 1) }

// sample lets a part of what happens through, and counts the rest.
type sample struct {
	limit *rate.Limiter

	mu sync.Mutex
	// left counts what was left out since the last that went through; guarded by mu.
	left int
}

// take reports whether this one goes through, and how many before it did not.
func (s *sample) take(now time.Time) (ok bool, left int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.limit.AllowN(now, 1) {
		s.left++
		return false, 0
	}
	left, s.left = s.left, 0
	return true, left
}

// site is the part of an address that one holder has: all of it in IPv4, the network of 64 bits in IPv6.
func site(remote string) string {
	a, err := netip.ParseAddr(remote)
	if err != nil || a.Unmap().Is4() {
		return remote
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return remote
	}
	return p.String()
}

// bounded keeps requests from being longer, or taking longer, than anything that is asked there.
// The stream of an agent is left out: its messages are bounded one by one, and only a certificate opens it.
func bounded(size int64, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == hubv1.AgentServiceConnectProcedure || r.Body == nil || r.Body == http.NoBody {
			next.ServeHTTP(w, r)
			return
		}
		// A connection that cannot have a deadline is no reason to refuse what comes over it.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTime))
		r.Body = http.MaxBytesReader(w, r.Body, size)
		next.ServeHTTP(w, r)
	})
}
