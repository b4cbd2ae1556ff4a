package hub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
)

type actorKey struct{}

// actor is the name of the token that a request was let in with.
func actor(ctx context.Context) string {
	name, _ := ctx.Value(actorKey{}).(string)
	return name
}

// guard lets a request through to its route if its token may.
func (h *Hub) guard(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rt.who == anyone {
			rt.handle(w, r)
			return
		}
		if h.tokenInURL(w, r) {
			return
		}
		tok, found, err := h.auth.identify(r)
		switch {
		case errors.Is(err, errWait):
			w.Header().Set("Retry-After", "60")
			writeError(w, http.StatusTooManyRequests, &api.Error{Kind: api.Forbidden, Reason: "TooManyFailures", Err: err})
		case err != nil, !found:
			h.unauthorized(w, r, err)
		case tok.Role < rt.who:
			writeError(w, http.StatusForbidden, &api.Error{
				Kind: api.Forbidden, Reason: "Forbidden",
				Err: fmt.Errorf("token %q is for a %s, and this needs %s", tok.Name, tok.Role, rt.who),
			})
		default:
			ctx := context.WithValue(r.Context(), actorKey{}, tok.Name)
			rt.handle(w, r.WithContext(context.WithValue(ctx, remoteKey{}, remoteIP(r))))
		}
	})
}

// tokenInURL trades ?token= on a page for a session, once, and takes it out of the address.
func (h *Hub) tokenInURL(w http.ResponseWriter, r *http.Request) bool {
	q := r.URL.Query()
	value := q.Get("token")
	if value == "" || r.Method != http.MethodGet || strings.HasPrefix(r.URL.Path, "/api/") {
		return false
	}
	tok, err := h.auth.check(r, value)
	if err != nil {
		h.unauthorized(w, r, err)
		return true
	}
	session, end := h.auth.newSession(tok)
	h.auth.setCookie(w, r, session, end)
	q.Del("token")
	u := url.URL{Path: r.URL.Path, RawQuery: q.Encode()}
	w.Header().Set("Referrer-Policy", "no-referrer")
	http.Redirect(w, r, u.String(), http.StatusSeeOther)
	return true
}

// unauthorized sends people to the login form, and scripts an error.
func (h *Hub) unauthorized(w http.ResponseWriter, r *http.Request, err error) {
	script := strings.HasPrefix(r.URL.Path, "/api/") || r.URL.Path == "/metrics" || r.URL.Path == "/events"
	if !script && r.Method == http.MethodGet && r.Header.Get("Authorization") == "" {
		if r.Header.Get("HX-Request") != "" {
			w.Header().Set("HX-Redirect", "/login")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		u := "/login?next=" + url.QueryEscape(r.URL.RequestURI())
		if err != nil {
			u = "/login?wrong=1"
		}
		http.Redirect(w, r, u, http.StatusSeeOther)
		return
	}
	if err == nil {
		err = errors.New("a bearer token is needed")
	}
	w.Header().Set("WWW-Authenticate", `Bearer realm="flotilla"`)
	writeError(w, http.StatusUnauthorized, &api.Error{
		Kind: api.Forbidden, Reason: "Unauthorized", Err: err,
		Hint: `send "Authorization: Bearer TOKEN" with a token that the hub was started with`,
	})
}

func (h *Hub) getLogin(w http.ResponseWriter, r *http.Request) {
	problem := ""
	if r.URL.Query().Get("wrong") != "" {
		problem = "That token is wrong."
	}
	h.pages.Login(w, http.StatusOK, next(r.URL.Query().Get("next")), problem)
}

func (h *Hub) postLogin(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<14)
	to := next(r.PostFormValue("next"))
	tok, err := h.auth.check(r, strings.TrimSpace(r.PostFormValue("token")))
	if err != nil {
		status, problem := http.StatusUnauthorized, "That token is wrong."
		if errors.Is(err, errWait) {
			status, problem = http.StatusTooManyRequests, "Too many wrong tokens. Wait a minute."
		}
		h.pages.Login(w, status, to, problem)
		return
	}
	session, end := h.auth.newSession(tok)
	h.auth.setCookie(w, r, session, end)
	http.Redirect(w, r, to, http.StatusSeeOther)
}

func (h *Hub) postLogout(w http.ResponseWriter, r *http.Request) {
	h.auth.setCookie(w, r, "", h.now().AddDate(-1, 0, 0))
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// next keeps only a path of this site.
func next(to string) string {
	u, err := url.Parse(to)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(u.Path, "/") ||
		strings.HasPrefix(to, "//") || strings.Contains(to, `\`) {
		return "/"
	}
	return u.RequestURI()
}

// secure sets the headers that keep pages to themselves: nothing from elsewhere is loaded or run.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hd := w.Header()
		hd.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "+
			"font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		hd.Set("X-Content-Type-Options", "nosniff")
		hd.Set("X-Frame-Options", "DENY")
		hd.Set("Referrer-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}
