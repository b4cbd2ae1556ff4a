package hub

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flotilla-fleet/flotilla/hub/store"
)

const (
	sessionCookie = "flotilla_session"
	// hostPrefix has browsers take a cookie only over TLS, from the host itself, for all its paths:
	// no neighbouring host, and nobody who can answer without TLS, sets it in the hub's place.
	hostPrefix  = "__Host-"
	sessionLife = 12 * time.Hour
)

// cookieName is what the session's cookie is called in requests like this one.
func (a *authenticator) cookieName(r *http.Request) string {
	if a.encrypted(r) {
		return hostPrefix + sessionCookie
	}
	return sessionCookie
}

// authenticator decides who a request comes from.
type authenticator struct {
	// keys are the tokens that are good now; they are replaced as a whole.
	keys     atomic.Pointer[keyring]
	sessions Store
	// proxies may say where a request came from.
	proxies  []netip.Prefix
	now      func() time.Time
	log      *slog.Logger
	failures failures
	// wrong counts every wrong token.
	wrong func()
	// ended rings when a token or a session has ended.
	ended bell
}

// caller is who a request comes from.
type caller struct {
	Token
	// cookie is whether a session let it in. A browser sends that by itself, also for another site's page.
	cookie bool
}

// Why a request is not let in.
var (
	errWait     = errors.New("the token is wrong, and too many wrong ones came from this address: wait a minute")
	errWrong    = errors.New("the token is wrong")
	errNoBearer = errors.New(`the Authorization header must be "Bearer TOKEN"`)
)

// identify returns who a request comes from, by its header or its session.
// found is false when it carries neither; a wrong token is an error.
func (a *authenticator) identify(r *http.Request) (c caller, found bool, err error) {
	value, cookie, err := a.credential(r)
	switch {
	case err != nil || value == "":
		return caller{}, false, err
	case cookie:
		tok, found, err := a.session(r.Context(), value)
		return caller{Token: tok, cookie: true}, found, err
	}
	tok, err := a.check(r, value)
	return caller{Token: tok}, err == nil, err
}

// credential is what a request carries: a token, or the secret of a session.
func (a *authenticator) credential(r *http.Request) (value string, cookie bool, err error) {
	if h := r.Header.Get("Authorization"); h != "" {
		value, ok := strings.CutPrefix(h, "Bearer ")
		if !ok || value == "" {
			return "", false, errNoBearer
		}
		return value, false, nil
	}
	if c, err := r.Cookie(a.cookieName(r)); err == nil {
		return c.Value, true, nil
	}
	return "", false, nil
}

// holds is whether what let a request in is still good.
func (a *authenticator) holds(r *http.Request) bool {
	value, cookie, err := a.credential(r)
	if err != nil {
		return false
	}
	found := false
	if cookie {
		_, found, err = a.session(r.Context(), value)
		// A store that does not answer ends nothing.
		return found || err != nil
	}
	_, found = a.keys.Load().holder(value)
	return found
}

// check finds the token with a value. A right one is never refused, whatever else came from its address.
func (a *authenticator) check(r *http.Request, value string) (Token, error) {
	if tok, ok := a.keys.Load().holder(value); ok {
		return tok, nil
	}
	a.wrong()
	from := a.address(r)
	v := a.failures.add(from, a.now())
	if v.tell {
		a.log.Warn("a wrong token was refused", "remote", from, "method", r.Method, "wait", v.wait)
	}
	if v.wait {
		return Token{}, errWait
	}
	return Token{}, errWrong
}

// newSession gives a browser a session for a token, and ends the one that it had.
func (a *authenticator) newSession(w http.ResponseWriter, r *http.Request, t Token) error {
	if err := a.endSession(r); err != nil {
		return err
	}
	secret := rand.Text()
	s, err := a.sessions.AddSession(r.Context(), secret, store.Session{
		Token: t.Name, Fingerprint: t.fingerprint(), Created: a.now().UTC(), Ends: a.now().Add(sessionLife).UTC(), Remote: a.address(r),
	})
	if err != nil {
		return err
	}
	a.setCookie(w, r, secret, s.Ends)
	a.log.Info("a session has begun", "token", t.Name, "session", s.ID, "remote", s.Remote)
	return nil
}

// session returns the token of a session that has not ended.
func (a *authenticator) session(ctx context.Context, secret string) (Token, bool, error) {
	s, found, err := a.sessions.Session(ctx, secret)
	if err != nil || !found {
		return Token{}, false, err
	}
	t, found := a.keys.Load().withFingerprint(s.Fingerprint)
	return t, found, nil
}

// endSession ends the session that a request carries, if any.
func (a *authenticator) endSession(r *http.Request) error {
	c, err := r.Cookie(a.cookieName(r))
	if err != nil || c.Value == "" {
		return nil //nolint:nilerr // no cookie is no session
	}
	found, err := a.sessions.EndSession(r.Context(), c.Value)
	if found {
		a.ended.ring()
	}
	return err
}

// setKeys replaces the tokens. Sessions of those that are gone end for good, also if such a token comes back.
func (a *authenticator) setKeys(ctx context.Context, tokens []Token) {
	keys := keyring(tokens)
	a.keys.Store(&keys)
	n, err := a.sessions.EndSessions(ctx, func(s store.Session) bool {
		_, good := keys.withFingerprint(s.Fingerprint)
		return !good
	})
	if n > 0 {
		a.log.Info("sessions have ended with their tokens", "count", n)
	}
	if err != nil { // they let nobody in all the same, for their tokens are gone
		a.log.Error("sessions not ended with their tokens", "error", err)
	}
	if len(keys) == 0 {
		a.log.Warn("there is no token, so nobody is let in")
	}
	a.ended.ring()
}

func (a *authenticator) setCookie(w http.ResponseWriter, r *http.Request, value string, end time.Time) {
	// Lax: a link in a chat shows the page to whoever is logged in. Requests that change something
	// are kept from other sites by what browsers say of their origin; see Hub.handler and Hub.guard.
	http.SetCookie(w, &http.Cookie{
		Name: a.cookieName(r), Value: value, Path: "/", Expires: end,
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: a.encrypted(r),
	})
}

// bell wakes all who wait for it.
type bell struct {
	mu sync.Mutex
	ch chan struct{}
}

// heard is closed at the next ring.
func (b *bell) heard() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
