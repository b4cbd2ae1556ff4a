package hub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/web"
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
		c, found, err := h.auth.identify(r)
		switch {
		case errors.Is(err, errWait):
			h.tooMany(w, err)
		case err != nil && !errors.Is(err, errWrong) && !errors.Is(err, errNoBearer):
			h.fail(w, r, err)
		case err != nil, !found:
			h.unauthorized(w, r, err)
		case c.cookie && !declared(r):
			writeError(w, http.StatusForbidden, &api.Error{
				Kind: api.Forbidden, Reason: "NoOrigin",
				Err:  errors.New("a browser's session changes something only for the hub's own pages, and the request does not say that it comes from one"),
				Hint: "scripts send the Authorization header",
			})
		case c.Role < rt.who && c.cookie && !forScripts(r):
			h.pages.Denied(w, r, fmt.Sprintf("The token %q is for a %s, and this page needs one for an %s.", c.Name, c.Role, rt.who))
		case c.Role < rt.who:
			writeError(w, http.StatusForbidden, &api.Error{
				Kind: api.Forbidden, Reason: "Forbidden",
				Err: fmt.Errorf("token %q is for a %s, and this needs %s", c.Name, c.Role, rt.who),
			})
		default:
			vouch(r.Context())
			ctx := context.WithValue(r.Context(), actorKey{}, c.Name)
			if c.Role >= Admin {
				ctx = web.ForAdmin(ctx)
			}
			rt.handle(w, r.WithContext(context.WithValue(ctx, remoteKey{}, h.auth.address(r))))
		}
	})
}

// declared is whether a request either changes nothing, or says where it comes from.
// Where it says so, http.CrossOriginProtection has let it pass.
func declared(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return true
	}
	return r.Header.Get("Sec-Fetch-Site") != "" || r.Header.Get("Origin") != ""
}

// tooMany tells an address that sends wrong tokens to wait.
func (h *Hub) tooMany(w http.ResponseWriter, err error) {
	w.Header().Set("Retry-After", "60")
	writeError(w, http.StatusTooManyRequests, &api.Error{Kind: api.Forbidden, Reason: "TooManyFailures", Err: err})
}

// tokenInURL trades ?token= on a page for a session, once, and takes it out of the address.
// A link on another site's page gets no session for the token in it:
// whoever follows it would act in the name of its author from then on.
func (h *Hub) tokenInURL(w http.ResponseWriter, r *http.Request) bool {
	q := r.URL.Query()
	value := q.Get("token")
	if value == "" || r.Method != http.MethodGet || strings.HasPrefix(r.URL.Path, "/api/") {
		return false
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "cross-site" && site != "same-site" {
		tok, err := h.auth.check(r, value)
		if err != nil {
			h.unauthorized(w, r, err)
			return true
		}
		if err := h.auth.newSession(w, r, tok); err != nil {
			h.fail(w, r, err)
			return true
		}
	}
	q.Del("token")
	u := url.URL{Path: r.URL.Path, RawQuery: q.Encode()}
	w.Header().Set("Referrer-Policy", "no-referrer")
	http.Redirect(w, r, u.String(), http.StatusSeeOther)
	return true
}

// unauthorized sends people to the login form, and scripts an error.
func (h *Hub) unauthorized(w http.ResponseWriter, r *http.Request, err error) {
	if !forScripts(r) && r.Method == http.MethodGet && r.Header.Get("Authorization") == "" {
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

// forScripts is whether an address answers with something else than a page.
func forScripts(r *http.Request) bool {
	return strings.HasPrefix(r.URL.Path, "/api/") || r.URL.Path == "/metrics" || r.URL.Path == "/events"
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
	if err := h.auth.newSession(w, r, tok); err != nil {
		h.fail(w, r, err)
		return
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// postLogout ends the session: its cookie opens nothing any more, wherever it has gone.
func (h *Hub) postLogout(w http.ResponseWriter, r *http.Request) {
	if err := h.auth.endSession(r); err != nil {
		h.fail(w, r, err)
		return
	}
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
