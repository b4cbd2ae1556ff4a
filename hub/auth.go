package hub

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Role is what a token's holder may do. Each role includes the ones before it.
type Role int

// The roles.
const (
	// anyone needs no token; it is for routes only.
	anyone Role = iota
	// Viewer may read.
	Viewer
	// Operator may also suspend, resume and sync.
	Operator
	// Admin may also make join tokens and revoke certificates.
	Admin
)

// String is the role in a word.
func (r Role) String() string {
	return [...]string{"anyone", "viewer", "operator", "admin"}[r]
}

// Token lets a human or a script in.
type Token struct {
	// Name is what the audit log says of its holder.
	Name  string
	Value string
	Role  Role
}

const (
	sessionCookie = "flotilla_session"
	sessionLife   = 12 * time.Hour
	// failuresPerMinute is how many wrong tokens one address may send before it has to wait.
	failuresPerMinute = 20
)

// authenticator decides who a request comes from.
type authenticator struct {
	tokens []Token
	// secret signs sessions. It is derived from the CA's key, so sessions survive a restart.
	secret   []byte
	now      func() time.Time
	failures limiter
}

// errWait is returned to an address that sent too many wrong tokens.
var errWait = errors.New("too many wrong tokens from this address: wait a minute")

// identify returns the token that the request carries, by header or by session.
// found is false when it carries none; a wrong one is an error.
func (a *authenticator) identify(r *http.Request) (tok Token, found bool, err error) {
	if h := r.Header.Get("Authorization"); h != "" {
		value, ok := strings.CutPrefix(h, "Bearer ")
		if !ok {
			return Token{}, false, errors.New(`the Authorization header must be "Bearer TOKEN"`)
		}
		tok, err = a.check(r, value)
		return tok, err == nil, err
	}
	if c, err := r.Cookie(sessionCookie); err == nil {
		if tok, ok := a.session(c.Value); ok {
			return tok, true, nil
		}
	}
	return Token{}, false, nil
}

// check finds the token with a value, in a time that does not depend on the value.
func (a *authenticator) check(r *http.Request, value string) (Token, error) {
	from := remoteIP(r)
	if !a.failures.allowed(from, a.now()) {
		return Token{}, errWait
	}
	given := sha256.Sum256([]byte(value))
	var found *Token
	for i := range a.tokens {
		want := sha256.Sum256([]byte(a.tokens[i].Value))
		if subtle.ConstantTimeCompare(given[:], want[:]) == 1 {
			found = &a.tokens[i]
		}
	}
	if found == nil {
		a.failures.add(from, a.now())
		return Token{}, errors.New("the token is wrong")
	}
	return *found, nil
}

// newSession makes a cookie's value for a token: its fingerprint, an end, and a signature.
func (a *authenticator) newSession(t Token) (value string, end time.Time) {
	end = a.now().Add(sessionLife)
	body := fingerprint(t) + "." + strconv.FormatInt(end.Unix(), 10)
	return body + "." + a.sign(body), end
}

func (a *authenticator) session(value string) (Token, bool) {
	i := strings.LastIndexByte(value, '.')
	if i < 0 || !hmac.Equal([]byte(a.sign(value[:i])), []byte(value[i+1:])) {
		return Token{}, false
	}
	print, unix, _ := strings.Cut(value[:i], ".")
	end, err := strconv.ParseInt(unix, 10, 64)
	if err != nil || !a.now().Before(time.Unix(end, 0)) {
		return Token{}, false
	}
	for _, t := range a.tokens {
		if fingerprint(t) == print {
			return t, true
		}
	}
	return Token{}, false
}

func (a *authenticator) sign(body string) string {
	mac := hmac.New(sha256.New, a.secret)
	mac.Write([]byte(body))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// fingerprint tells tokens apart without giving one away.
func fingerprint(t Token) string {
	sum := sha256.Sum256([]byte("session\x00" + t.Name + "\x00" + t.Value))
	return hex.EncodeToString(sum[:8])
}

func (a *authenticator) setCookie(w http.ResponseWriter, r *http.Request, value string, end time.Time) {
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie, Value: value, Path: "/", Expires: end,
		HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil,
	})
}

func remoteIP(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// limiter counts failures per address and minute.
type limiter struct {
	mu     sync.Mutex
	minute int64
	// address -> failures in the minute
	count map[string]int
}

func (l *limiter) allowed(from string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turnLocked(now)
	return l.count[from] < failuresPerMinute
}

func (l *limiter) add(from string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turnLocked(now)
	l.count[from]++
}

func (l *limiter) turnLocked(now time.Time) {
	if m := now.Unix() / 60; m != l.minute || l.count == nil {
		l.minute, l.count = m, map[string]int{}
	}
}

func validateTokens(tokens []Token) error {
	for i, t := range tokens {
		switch {
		case t.Name == "":
			return fmt.Errorf("token %d has no name", i)
		case len(t.Value) < 16:
			return fmt.Errorf("token %q is shorter than 16 characters", t.Name)
		case t.Role < Viewer || t.Role > Admin:
			return fmt.Errorf("token %q has no role", t.Name)
		}
	}
	return nil
}
