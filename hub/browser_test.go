package hub_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/flotilla-fleet/flotilla/api"
	agentstore "github.com/flotilla-fleet/flotilla/drift/store"
	"github.com/flotilla-fleet/flotilla/hub"
	"github.com/flotilla-fleet/flotilla/hub/hubtest"
	"github.com/flotilla-fleet/flotilla/test/browser"
)

func open(ctx context.Context, t *testing.T, url string) {
	t.Helper()
	if err := chromedp.Do(ctx, chromedp.Navigate(url)); err != nil {
		t.Fatalf("open %s: %v", url, err)
	}
}

// script runs a statement in the page.
func script(ctx context.Context, t *testing.T, js string) {
	t.Helper()
	if _, err := chromedp.Run(ctx, chromedp.Evaluate[bool](js+"; true")); err != nil {
		t.Fatalf("%s: %v", js, err)
	}
}

// shows waits until an expression is true in the page.
func shows(ctx context.Context, t *testing.T, what, expr string) {
	t.Helper()
	var last error
	hubtest.Eventually(t, what, func() bool {
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool](expr))
		if last = err; err != nil {
			t.Log(last)
		}
		return err == nil && ok
	})
}

func TestBrowserSeesDriftWithoutReloading(t *testing.T) {
	h := hubtest.Start(t, hub.Config{})
	a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
	a.MustJoin(h)
	a.Run()
	a.Commit(hubtest.Status("prod-eu", rev1))
	a.Commit(agentstore.Batch{Bundles: []api.BundleRecord{{Status: api.BundleStatus{Name: "podinfo", Phase: api.PhaseReady, Objects: 1, ReadyObjects: 1}}}})
	hubtest.Eventually(t, "connected", func() bool { return a.Client.Status().Acked == 2 })

	ctx := browser.Start(t, 5*time.Minute)
	open(ctx, t, h.PageURL("/"))
	shows(ctx, t, "the cluster is ready", `document.querySelector("#row-prod-eu .state.ready") !== null`)
	shows(ctx, t, "the page is live", `document.querySelector("#stream:not([hidden]):not(.off)") !== null`)
	// What a reload would lose: a mark, the focus, what was typed.
	script(ctx, t, `window.mark = "kept"; document.querySelector("#find").focus(); document.querySelector("#find").value = "prod"`)

	e := drift(a, "podinfo")
	begin := time.Now()
	a.Commit(agentstore.Batch{Episodes: []api.Episode{e}})
	shows(ctx, t, "the drift on the fleet's page",
		`document.querySelector("#row-prod-eu .state.drifted") !== null && document.querySelector("#open-drift").textContent === "1"`)
	t.Logf("from the agent's store to the screen: %s", time.Since(begin))
	shows(ctx, t, "nothing was lost",
		`window.mark === "kept" && document.activeElement.id === "find" && document.activeElement.value === "prod"`)

	open(ctx, t, h.URL()+"/drift/"+e.ID)
	shows(ctx, t, "field, both values and who", `["/spec/replicas", "2", "5", "kubectl-edit"].every((w) => document.querySelector("table.fields").innerText.includes(w))`)
	script(ctx, t, `document.querySelector("#evidence-live").open = true; window.mark = "kept"`)
	e.End, e.Outcome = time.Now(), api.OutcomeCorrected
	a.Commit(agentstore.Batch{Episodes: []api.Episode{e}})
	shows(ctx, t, "it is closed, on the same page",
		`document.querySelector(".head .state.ready") !== null && window.mark === "kept" && document.querySelector("#evidence-live").open`)

	h.Stop()
	shows(ctx, t, "the banner", `!document.querySelector("#stale").hidden`)
	h.Restart()
	shows(ctx, t, "live again", `document.querySelector("#stale").hidden && window.mark === "kept"`)
}

// known is a hub that has heard of a cluster, and its agent.
func known(t *testing.T) (*hubtest.Hub, *hubtest.Agent) {
	t.Helper()
	h := hubtest.Start(t, hub.Config{})
	a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
	a.MustJoin(h)
	a.Run()
	a.Commit(hubtest.Status("prod-eu", rev1))
	hubtest.Eventually(t, "connected", func() bool { return a.Client.Status().Acked == 1 })
	return h, a
}

// What changes between the making of a page and the moment its browser listens is on it all the same.
func TestBrowserMissesNothingBeforeItListens(t *testing.T) {
	h, a := known(t)

	// Of all tabs one listens, which holds a lock. A tab that is not a page of the hub's has it until the test lets go.
	holder := browser.Start(t, 5*time.Minute)
	open(holder, t, h.URL()+"/healthz")
	script(holder, t, `navigator.locks.request("flotilla-events", () => new Promise((r) => { window.release = r }))`)
	shows(holder, t, "it has the lock", `window.release !== undefined`)
	ctx, cancel := chromedp.NewContext(holder)
	t.Cleanup(cancel)
	open(ctx, t, h.PageURL("/"))
	shows(ctx, t, "the cluster is there", `document.querySelector("#row-prod-eu .state.ready, #row-prod-eu .state.progressing") !== null`)
	a.Commit(agentstore.Batch{Episodes: []api.Episode{drift(a, "podinfo")}})
	hubtest.Eventually(t, "the drift is at the hub", func() bool { return a.Client.Status().Acked == 2 })
	shows(ctx, t, "it is not on the page, which does not listen", `document.querySelector("#row-prod-eu .state.drifted") === null`)
	script(holder, t, `window.release()`)
	shows(ctx, t, "it is on the page", `document.querySelector("#row-prod-eu .state.drifted") !== null`)
}

// A page that could not be fetched again is, as soon as it can be.
func TestBrowserTriesAgain(t *testing.T) {
	h, a := known(t)
	ctx := browser.Start(t, 5*time.Minute)
	open(ctx, t, h.PageURL("/"))
	shows(ctx, t, "the page is live", `document.querySelector("#stream:not([hidden]):not(.off)") !== null`)
	// The stream holds, and requests for the page fail, until all that is to be told of the change has been told.
	script(ctx, t, `window.sound = window.fetch; window.failed = 0; window.fetch = () => { window.failed++; return Promise.reject(new TypeError("no network")); }`)
	a.Commit(agentstore.Batch{Episodes: []api.Episode{drift(a, "podinfo")}})
	shows(ctx, t, "a request has failed", `window.failed > 0`)
	time.Sleep(3 * time.Second)
	script(ctx, t, `window.fetch = window.sound`)
	shows(ctx, t, "the drift is on the page", `document.querySelector("#row-prod-eu .state.drifted") !== null`)
}

// A link in a chat leads to its page, and not to the login form, when one is logged in.
// Logging out ends that: in this tab, and for whoever has kept the cookie.
func TestBrowserLinkFromAChatAndLogout(t *testing.T) {
	h, _ := known(t)
	// Another name of this machine is another site to a browser.
	chat := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<a id="link" href="%[1]s/c/prod-eu">look</a>
			<form id="evil" method="post" action="%[1]s/logout"></form>
			<form id="worse" method="post" action="%[1]s/api/v1/join-tokens"></form>`, h.URL())
	}))
	t.Cleanup(chat.Close)
	chatURL := strings.Replace(chat.URL, "127.0.0.1", "localhost", 1)

	ctx := browser.Start(t, 5*time.Minute)
	open(ctx, t, h.PageURL("/"))
	shows(ctx, t, "logged in", `document.querySelector("#row-prod-eu") !== null`)

	open(ctx, t, chatURL)
	script(ctx, t, `document.querySelector("#link").click()`)
	shows(ctx, t, "the link's page", `location.pathname === "/c/prod-eu" && document.querySelector("#live").innerText.includes("prod-eu")`)

	// A page of the chat's acts in nobody's name.
	for _, form := range []string{"#evil", "#worse"} {
		open(ctx, t, chatURL)
		script(ctx, t, `document.querySelector("`+form+`").submit()`)
		shows(ctx, t, "the refusal of "+form, `document.body.innerText.includes("cross-origin")`)
	}
	if ts := hubtest.Get[struct{ Items []any }](h, "/api/v1/join-tokens"); len(ts.Items) != 1 {
		t.Errorf("there are %d join tokens, and the agent used the only one", len(ts.Items))
	}

	open(ctx, t, h.URL()+"/")
	shows(ctx, t, "still logged in, and live", `document.querySelector("#stream:not([hidden]):not(.off)") !== null`)
	sessions := func() int { return len(hubtest.Get[struct{ Items []any }](h, "/api/v1/sessions").Items) }
	if n := sessions(); n != 1 {
		t.Errorf("%d sessions, and one browser", n)
	}
	// Another tab is open, on the same page.
	other, cancel := chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	open(other, t, h.URL()+"/drift")
	shows(other, t, "the other tab", `location.pathname === "/drift"`)
	script(ctx, t, `document.querySelector("form[action='/logout'] button").click()`)
	shows(ctx, t, "the login form", `location.pathname === "/login"`)
	open(other, t, h.URL()+"/drift")
	shows(other, t, "the login form in the other tab", `location.pathname === "/login"`)
	if n := sessions(); n != 0 {
		t.Errorf("%d sessions after logging out", n)
	}
}

// A tab whose session an admin has ended asks for a token by itself.
func TestBrowserSessionEndedByAdmin(t *testing.T) {
	h, _ := known(t)
	ctx := browser.Start(t, 5*time.Minute)
	open(ctx, t, h.PageURL("/"))
	shows(ctx, t, "the page is live", `document.querySelector("#stream:not([hidden]):not(.off)") !== null`)
	if status, body := h.Do(http.MethodDelete, "/api/v1/sessions?token=test", ""); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	shows(ctx, t, "the login form", `location.pathname === "/login"`)
}
