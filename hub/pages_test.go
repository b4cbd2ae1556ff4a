package hub_test

import (
	"flag"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/hub"
	"github.com/flotilla-fleet/flotilla/hub/hubtest"
	"github.com/flotilla-fleet/flotilla/hub/view"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var seedTime = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

// seeded is a hub with n clusters whose clock stands still.
func seeded(t *testing.T, n int) *hubtest.Hub {
	t.Helper()
	dir := t.TempDir()
	if err := hubtest.Seed(dir, n, seedTime); err != nil {
		t.Fatal(err)
	}
	return hubtest.Start(t, hub.Config{DataDir: dir, Version: "v0", Now: func() time.Time { return seedTime }})
}

func TestPagesGolden(t *testing.T) {
	h := seeded(t, 3)
	for name, path := range map[string]string{
		"fleet": "/", "cluster": "/c/staging-eu", "exempt": "/c/prod-us", "drift": "/drift", "episode": "/drift/prod-eu-k7qa-1",
		"filtered": "/?q=env%3Dprod&state=ready&sort=-name",
	} {
		t.Run(name, func(t *testing.T) {
			status, body := h.Do(http.MethodGet, path, "")
			if status != http.StatusOK {
				t.Fatalf("%d %s", status, body)
			}
			body = []byte(strings.ReplaceAll(string(body), h.URL(), "HUB"))
			body = regexp.MustCompile(`data-mark="[A-Z2-7]+\.\d+"`).ReplaceAll(body, []byte(`data-mark="MARK"`))
			got := regexp.MustCompile(`\n\s*\n+`).ReplaceAllString(string(body), "\n")
			file := filepath.Join("testdata", name+".html")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("differs from %s (rewrite it with -update):\n%s", file, d)
			}
		})
	}
}

func TestPagesSayWhatMatters(t *testing.T) {
	h := seeded(t, 500)
	for path, want := range map[string][]string{
		"/":                                 {"500 clusters", "9 failed", "9 unknown", `class="tiles dense"`, "1–50 of 500"},
		"/?page=99":                         {"451–500 of 500"},
		"/?q=prod-eu":                       {"1–42 of 42", "“prod-eu”"},
		"/?q=nothing-like-that":             {"No cluster matches"},
		"/?group=env":                       {"env=prod", "env=staging"},
		"/c/staging-sa-16":                  {"infrastructure/monitoring/bundle.yaml:14", "retention_days", "1 change"},
		"/drift?state=closed&class=missing": {"corrected", "the object is gone"},
		"/drift?cluster=prod-ap-01":         {"No drift is open", "kubectl edit"},
	} {
		status, body := h.Do(http.MethodGet, path, "")
		if status != http.StatusOK {
			t.Errorf("%s: %d", path, status)
		}
		for _, w := range want {
			if !strings.Contains(string(body), w) {
				t.Errorf("%s does not say %q", path, w)
			}
		}
		if len(body) > 200_000 {
			t.Errorf("%s is %d bytes", path, len(body))
		}
	}
	for path, want := range map[string]int{
		"/c/nobody": 404, "/drift/nobody-x-1": 404, "/nowhere": 404, "/?sort=luck": 400, "/?state=odd": 400, "/?page=-1": 400,
		"/api/v1/clusters/nobody": 404, "/api/v1/drift/nobody": 404, "/api/v1/clusters?state=odd": 400, "/api/v1/nothing": 404,
		"/api/v1/drift?since=yesterday": 400,
	} {
		if status, body := h.Do(http.MethodGet, path, ""); status != want {
			t.Errorf("%s: %d, want %d: %s", path, status, want, body)
		}
	}
}

func TestPagesAndAPIAgree(t *testing.T) {
	h := seeded(t, 500)
	l := hubtest.Get[view.List[view.Cluster]](h, "/api/v1/clusters")
	if len(l.Items) != 500 || l.Fleet == nil || l.Fleet.States[view.StateFailed] != 9 {
		t.Errorf("%d clusters, fleet %+v", len(l.Items), l.Fleet)
	}
	if s := l.Items[0].State; s != view.StateFailed {
		t.Errorf("the first cluster is %s: the most urgent must come first", s)
	}
	d := hubtest.Get[episodes](h, "/api/v1/drift?state=open&size=10&page=2")
	if d.Total != 35 || len(d.Items) != 10 || d.Pages != 4 {
		t.Errorf("%d of %d episodes, %d pages", len(d.Items), d.Total, d.Pages)
	}
}

func TestWhoMay(t *testing.T) {
	// Wrong tokens are counted by the minute: this one does not end.
	now := time.Now()
	h := hubtest.Start(t, hub.Config{Now: func() time.Time { return now }, Tokens: []hub.Token{
		{Name: "viewer", Value: "token-of-a-viewer", Role: hub.Viewer},
		{Name: "operator", Value: "token-of-an-operator", Role: hub.Operator},
		{Name: "admin", Value: hubtest.Token, Role: hub.Admin},
	}})
	const none, viewer, operator = "", "token-of-a-viewer", "token-of-an-operator"
	for _, c := range []struct {
		token, verb, path string
		want              int
	}{
		{none, "GET", "/healthz", 200},
		{none, "GET", "/login", 200},
		{none, "GET", "/static/app.css", 200},
		{none, "GET", "/", 303},
		{none, "GET", "/drift", 303},
		{none, "GET", "/events", 401},
		{none, "GET", "/metrics", 401},
		{none, "GET", "/api/v1/clusters", 401},
		{"a-token-that-is-wrong", "GET", "/api/v1/clusters", 401},
		{"a-token-that-is-wrong", "GET", "/", 401},
		{viewer, "GET", "/", 200},
		{viewer, "GET", "/metrics", 200},
		{viewer, "GET", "/api/v1/clusters", 200},
		{viewer, "POST", "/api/v1/clusters/x/sync", 403},
		{operator, "POST", "/api/v1/clusters/x/sync", 404},
		{operator, "POST", "/api/v1/join-tokens", 403},
		{operator, "POST", "/api/v1/clusters/x/revoke", 403},
		{operator, "GET", "/api/v1/audit", 403},
		{hubtest.Token, "POST", "/api/v1/join-tokens", 200},
		{hubtest.Token, "PUT", "/api/v1/clusters", 405},
	} {
		if got, body := h.DoAs(c.token, c.verb, c.path, ""); got != c.want {
			t.Errorf("%s %s with %q: %d, want %d: %s", c.verb, c.path, c.token, got, c.want, body)
		}
	}
	for range 30 {
		h.DoAs("a-token-that-is-wrong", "GET", "/api/v1/clusters", "")
	}
	if got, _ := h.DoAs("a-token-that-is-wrong", "GET", "/api/v1/clusters", ""); got != http.StatusTooManyRequests {
		t.Errorf("after many wrong tokens: %d, want 429", got)
	}
}

func TestSessions(t *testing.T) {
	h := hubtest.Start(t, hub.Config{})
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	hc := &http.Client{Jar: jar}
	t.Cleanup(hc.CloseIdleConnections)
	get := func(path string) (*http.Response, string) {
		t.Helper()
		res, err := hc.Get(h.URL() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, string(b)
	}
	if res, _ := get("/drift"); res.Request.URL.Path != "/login" || res.Request.URL.Query().Get("next") != "/drift" {
		t.Errorf("without a session: %s", res.Request.URL)
	}
	login := func(token, next string) *http.Response {
		t.Helper()
		res, err := hc.PostForm(h.URL()+"/login", url.Values{"token": {token}, "next": {next}})
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res
	}
	if res := login("wrong", "/"); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("wrong token: %d", res.StatusCode)
	}
	for _, evil := range []string{"//evil.example", "https://evil.example/", `/\evil.example`, "javascript:alert(1)"} {
		if res := login(hubtest.Token, evil); res.Request.URL.Host != strings.TrimPrefix(h.URL(), "http://") || res.Request.URL.Path != "/" {
			t.Errorf("next=%q leads to %s", evil, res.Request.URL)
		}
	}
	if res := login(hubtest.Token, "/drift"); res.Request.URL.Path != "/drift" || res.StatusCode != 200 {
		t.Errorf("login leads to %s, %d", res.Request.URL, res.StatusCode)
	}
	res, _ := get("/")
	if csp := res.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
		t.Errorf("CSP %q", csp)
	}
	// The session outlives the hub, but not a request of another site.
	h.Stop()
	h.Restart()
	if res, _ := get("/"); res.Request.URL.Path != "/" {
		t.Errorf("after a restart: %s", res.Request.URL)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.URL()+"/api/v1/join-tokens", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Origin", "https://evil.example")
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	if res, err = hc.Do(req); err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusForbidden {
		t.Errorf("another site's request: %d", res.StatusCode)
	}
	if _, err := hc.PostForm(h.URL()+"/logout", nil); err != nil {
		t.Fatal(err)
	}
	if res, _ := get("/"); res.Request.URL.Path != "/login" {
		t.Errorf("after logging out: %s", res.Request.URL)
	}
	// A token in the address is traded for a session, and leaves the address.
	if res, _ := get("/drift?state=all&token=" + hubtest.Token); res.Request.URL.RequestURI() != "/drift?state=all" {
		t.Errorf("token in the address: %s", res.Request.URL)
	}
}

// No list ends without a word: next leads from page to page, through everything that there is.
func TestListsAreWhole(t *testing.T) {
	h := seeded(t, 50)
	type row struct{ Name, ID string }
	for path, want := range map[string]int{"/api/v1/clusters?size=7": 50, "/api/v1/clusters?size=7&sort=name&state=ready": 0, "/api/v1/drift?size=9": 0, "/api/v1/history?size=33": 0} {
		names, items := map[string]bool{}, 0
		for next := path; next != ""; {
			l := hubtest.Get[struct {
				Items []row
				Total *int
				Next  string
			}](h, next)
			if l.Total != nil {
				want = *l.Total
			}
			for _, i := range l.Items {
				names[i.Name+i.ID] = true
			}
			if items += len(l.Items); l.Next == next {
				t.Fatalf("%s leads to itself", next)
			}
			next = l.Next
		}
		if want == 0 { // what is too long to be counted
			want = len(hubtest.Get[struct{ Items []row }](h, "/api/v1/history?size=1000").Items)
		} else if len(names) != want {
			t.Errorf("%s: %d different items of %d", path, len(names), want)
		}
		if items != want || items < 10 {
			t.Errorf("%s: %d items of %d", path, items, want)
		}
	}
}

// The front page of a large fleet does not grow with it. Whoever needs a look has a tile, and it is said how many have none.
func TestFleetPage_isBounded(t *testing.T) {
	h := seeded(t, 1100)
	failed := hubtest.Get[view.List[view.Cluster]](h, "/api/v1/clusters?state=failed,drifted")
	for _, path := range []string{"/", "/?sort=-name", "/?group=env"} {
		status, body := h.Do(http.MethodGet, path, "")
		page := string(body)
		if n := strings.Count(page, `id="tile-`); status != http.StatusOK || n != 1000 || !strings.Contains(page, "100 clusters more") || !strings.Contains(page, "1–50 of 1100") {
			t.Errorf("%s: %d, %d tiles", path, status, n)
		}
		for _, c := range failed.Items {
			if !strings.Contains(page, `id="tile-`+c.Name+`"`) {
				t.Errorf("%s: %s is %s, and has no tile", path, c.Name, c.State)
			}
		}
	}
	if status, body := h.Do(http.MethodGet, "/?state=failed", ""); status != http.StatusOK || strings.Contains(string(body), "more have no tile") {
		t.Errorf("a part of the fleet: %d", status)
	}
}
