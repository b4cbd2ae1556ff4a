package chart_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"helm.sh/helm/v3/pkg/chart/loader"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/sources/chart"
)

// pack makes a chart's archive.
func pack(t *testing.T, name, version string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, f := range []struct{ name, content string }{
		{"Chart.yaml", fmt.Sprintf("apiVersion: v2\nname: %s\nversion: %s\n", name, version)},
		{"templates/cm.yaml", "kind: ConfigMap\n"},
	} {
		if err := w.WriteHeader(&tar.Header{Name: name + "/" + f.name, Mode: 0o644, Size: int64(len(f.content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// counting counts requests.
type counting struct {
	http.Handler
	n atomic.Int64
}

func (c *counting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.n.Add(1)
	c.Handler.ServeHTTP(w, r)
}

func serve(t *testing.T, h http.Handler) (*httptest.Server, *counting) {
	t.Helper()
	c := &counting{Handler: h}
	s := httptest.NewServer(c)
	t.Cleanup(s.Close)
	return s, c
}

func fetcher(t *testing.T, config chart.Config) *chart.Fetcher {
	t.Helper()
	if config.Dir == "" {
		config.Dir = t.TempDir()
	}
	f, err := chart.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func wantError(t *testing.T, err error, kind api.ErrorKind, reason, text string) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Kind != kind || e.Reason != reason || !strings.Contains(err.Error(), text) {
		t.Fatalf("error is %#v: %v, want %s %s with %q", e, err, kind, reason, text)
	}
}

// repository is a Helm HTTP repository with one chart, under /charts.
func repository(t *testing.T, archive []byte, digest, user, password string) http.Handler {
	t.Helper()
	mux := http.NewServeMux()
	index := `apiVersion: v1
entries:
  other:
  - name: other
    version: 9.9.9
    urls: [other-9.9.9.tgz]
  podinfo:
  - apiVersion: v2
    name: podinfo
    version: 1.2.3
    description: |
      several lines

      of text
    digest: ` + digest + `
    urls:
    - files/podinfo-1.2.3.tgz
  - name: podinfo
    version: v1.0.0
    urls: [https://elsewhere.invalid/podinfo-1.0.0.tgz]
  zother:
  - name: zother
    version: 1.0.0
    urls: [ftp://example.com/x]
generated: "2026-01-01T00:00:00Z"
`
	mux.HandleFunc("GET /charts/index.yaml", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, index) })
	mux.HandleFunc("GET /charts/files/podinfo-1.2.3.tgz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(archive) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); user != "" && (u != user || p != password) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func TestRepository(t *testing.T) {
	archive := pack(t, "podinfo", "1.2.3")
	server, requests := serve(t, repository(t, archive, strings.TrimPrefix(digestOf(archive), "sha256:"), "", ""))
	config := chart.Config{Dir: t.TempDir()}
	f := fetcher(t, config)
	for _, repo := range []string{server.URL + "/charts", server.URL + "/charts/"} {
		got, digest, err := f.Fetch(t.Context(), repo, "podinfo", "1.2.3")
		if err != nil || !bytes.Equal(got, archive) || digest != digestOf(archive) {
			t.Fatalf("Fetch = %d bytes, %s, %v", len(got), digest, err)
		}
	}
	if c, err := loader.LoadArchive(bytes.NewReader(archive)); err != nil || c.Name() != "podinfo" {
		t.Errorf("Helm does not load the archive: %v", err)
	}
	if n := requests.n.Load(); n != 2 {
		t.Errorf("%d requests, want one for the index and one for the archive", n)
	}
	for _, test := range []struct {
		name, version string
		kind          api.ErrorKind
		reason, text  string
	}{
		{"podinfo", "1.2.4", api.Stalled, "ChartNotFound", `no version "1.2.4"; it has ["1.2.3" "v1.0.0"]`},
		{"podinf", "1.2.3", api.Stalled, "ChartNotFound", "no chart podinf"},
		{"podinfo", "1.0.0", api.Transient, "ChartNotFetched", "elsewhere.invalid"},
		{"other", "9.9.9", api.Stalled, "ChartNotFound", "the archive: the server answers 404"},
		{"zother", "1.0.0", api.Stalled, "BadChartIndex", "ftp://example.com/x"},
		{"podinfo", "^1.2.0", api.Stalled, "VersionNotPinned", `"^1.2.0" is not an exact version`},
		{"podinfo", "", api.Stalled, "VersionNotPinned", "is not an exact version"},
		{"", "1.2.3", api.Stalled, "BadChartSource", "needs a host, and a chart's name"},
	} {
		_, _, err := f.Fetch(t.Context(), server.URL+"/charts", test.name, test.version)
		wantError(t, err, test.kind, test.reason, test.text)
	}
	_, _, err := f.Fetch(t.Context(), server.URL+"/nothing", "podinfo", "1.2.3")
	wantError(t, err, api.Stalled, "ChartNotFound", "index.yaml: the server answers 404")

	// From now on without the server: what was fetched is there, after a restart too.
	server.Close()
	f = fetcher(t, config)
	if got, _, err := f.Fetch(t.Context(), server.URL+"/charts", "podinfo", "1.2.3"); err != nil || !bytes.Equal(got, archive) {
		t.Errorf("from the cache: %d bytes, %v", len(got), err)
	}
	_, _, err = f.Fetch(t.Context(), server.URL+"/more", "podinfo", "1.2.3")
	wantError(t, err, api.Transient, "ChartNotFetched", "connection refused")
	// A damaged archive is no archive.
	blob := filepath.Join(config.Dir, "blobs", strings.TrimPrefix(digestOf(archive), "sha256:"))
	if err := os.WriteFile(blob, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err = f.Fetch(t.Context(), server.URL+"/charts", "podinfo", "1.2.3")
	wantError(t, err, api.Transient, "ChartNotFetched", "connection refused")
}

func TestRepositoryWithAnotherDigest(t *testing.T) {
	archive := pack(t, "podinfo", "1.2.3")
	server, _ := serve(t, repository(t, archive, strings.Repeat("0", 64), "", ""))
	_, _, err := fetcher(t, chart.Config{}).Fetch(t.Context(), server.URL+"/charts", "podinfo", "1.2.3")
	wantError(t, err, api.Stalled, "ChartDigestMismatch", digestOf(archive)[7:])
}

// A chart that is a file at an address: with the limits, credentials and cache that repositories have.
func TestAddress(t *testing.T) {
	archive := pack(t, "podinfo", "1.2.3")
	mux := http.NewServeMux()
	mux.HandleFunc("GET /files/podinfo-1.2.3.tgz", func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != "ann" || p != "pw" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = w.Write(archive)
	})
	mux.HandleFunc("GET /files/page.tgz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>log in</html>") })
	mux.HandleFunc("GET /files/large.tgz", func(w http.ResponseWriter, _ *http.Request) {
		for range chart.MaxArchiveBytes>>20 + 1 {
			_, _ = w.Write(make([]byte, 1<<20))
		}
	})
	server, requests := serve(t, mux)
	config := chart.Config{Dir: t.TempDir(), CredentialsFile: login(t, server, "pw")}
	f := fetcher(t, config)
	for _, version := range []string{"", digestOf(archive), digestOf(archive)} {
		got, digest, err := f.Fetch(t.Context(), server.URL+"/files", "podinfo-1.2.3.tgz", version)
		if err != nil || !bytes.Equal(got, archive) || digest != digestOf(archive) {
			t.Fatalf("Fetch = %d bytes, %s, %v", len(got), digest, err)
		}
	}
	if n := requests.n.Load(); n != 2 {
		t.Errorf("%d requests, want one for each way to ask", n)
	}
	for _, test := range []struct {
		name, version string
		kind          api.ErrorKind
		reason, text  string
	}{
		{"podinfo-1.2.3.tgz", "sha256:" + strings.Repeat("0", 64), api.Stalled, "ChartDigestMismatch", "it has the digest " + digestOf(archive)},
		{"podinfo-1.2.3.tgz", "sha256:0", api.Stalled, "VersionNotPinned", "is not an exact version"},
		{"podinfo-1.2.4.tgz", "", api.Stalled, "ChartNotFound", "the server answers 404"},
		{"page.tgz", "", api.Stalled, "NotAChart", "no packed chart"},
		{"large.tgz", "", api.Stalled, "ChartTooLarge", "larger than 20 MiB"},
	} {
		_, _, err := f.Fetch(t.Context(), server.URL+"/files", test.name, test.version)
		wantError(t, err, test.kind, test.reason, test.text)
	}
	_, _, err := fetcher(t, chart.Config{CredentialsFile: login(t, server, "wrong")}).Fetch(t.Context(), server.URL+"/files", "podinfo-1.2.3.tgz", "")
	wantError(t, err, api.Forbidden, "AuthenticationFailed", "refuses the credentials")
	// From now on without the server.
	server.Close()
	if got, _, err := fetcher(t, config).Fetch(t.Context(), server.URL+"/files", "podinfo-1.2.3.tgz", ""); err != nil || !bytes.Equal(got, archive) {
		t.Errorf("from the cache: %d bytes, %v", len(got), err)
	}
}

func TestCredentials(t *testing.T) {
	archive := pack(t, "podinfo", "1.2.3")
	const secret = "s3cret"
	server, _ := serve(t, repository(t, archive, "", "ann", secret))
	host := strings.TrimPrefix(server.URL, "http://")
	file := filepath.Join(t.TempDir(), "config.json")
	f := fetcher(t, chart.Config{CredentialsFile: file})
	try := func(content string) error {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := f.Fetch(t.Context(), server.URL+"/charts", "podinfo", "1.2.3")
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("the secret is in %q", err)
		}
		return err
	}
	_, _, err := f.Fetch(t.Context(), server.URL+"/charts", "podinfo", "1.2.3")
	wantError(t, err, api.Stalled, "BadCredentialsFile", "no such file")
	wantError(t, try(`{}`), api.Forbidden, "AuthenticationFailed", "none are configured")
	wantError(t, try(`{"auths":{"other.example":{"username":"ann","password":"`+secret+`"}}}`), api.Forbidden, "AuthenticationFailed", "")
	wantError(t, try(`{"auths":{"`+host+`":{"username":"ann","password":"no"}}}`), api.Forbidden, "AuthenticationFailed", "refuses the credentials")
	wantError(t, try(`{"auths":{"`+host+`":{}}}`), api.Stalled, "BadCredentialsFile", "credential helpers are not supported")
	wantError(t, try(`{"auths":{"`+host+`":{"auth":"`+secret+`!"}}}`), api.Stalled, "BadCredentialsFile", "base64")
	wantError(t, try(secret), api.Stalled, "BadCredentialsFile", "is not JSON")
	if err := try(`{"auths":{"https://` + host + `/v1/":{"auth":"YW5uOnMzY3JldA=="}}}`); err != nil {
		t.Error(err)
	}
	// In the address, into a cache that has nothing yet.
	inURL := strings.Replace(server.URL, "://", "://ann:"+secret+"@", 1) + "/charts"
	if _, _, err := fetcher(t, chart.Config{}).Fetch(t.Context(), inURL, "podinfo", "1.2.3"); err != nil {
		t.Error(err)
	}
}

// registry is an OCI registry with one chart at team/podinfo; its token service wants ann's password.
func registry(t *testing.T, archive []byte, tag, mediaType string) http.Handler {
	t.Helper()
	config := []byte(`{"name":"podinfo"}`)
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": map[string]any{"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": digestOf(config), "size": len(config)},
		"layers": []any{map[string]any{"mediaType": mediaType, "digest": digestOf(archive), "size": len(archive)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /token", func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != "ann" || p != "pw" || r.FormValue("scope") != "repository:team/podinfo:pull" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, `{"token":"t0ken"}`)
	})
	mux.HandleFunc("GET /v2/team/podinfo/manifests/{ref}", func(w http.ResponseWriter, r *http.Request) {
		if ref := r.PathValue("ref"); ref != tag && ref != digestOf(manifest) {
			http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`, http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Docker-Content-Digest", digestOf(manifest))
		_, _ = w.Write(manifest)
	})
	mux.HandleFunc("GET /v2/team/podinfo/blobs/{digest}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("digest") != digestOf(archive) {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write(archive)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/token" && r.Header.Get("Authorization") != "Bearer t0ken" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="test",scope="repository:team/podinfo:pull"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func login(t *testing.T, server *httptest.Server, password string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.json")
	content := `{"auths":{"` + strings.TrimPrefix(server.URL, "http://") + `":{"username":"ann","password":"` + password + `"}}}`
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestRegistry(t *testing.T) {
	archive := pack(t, "podinfo", "1.2.3+build")
	server, requests := serve(t, registry(t, archive, "1.2.3_build", "application/vnd.cncf.helm.chart.content.v1.tar+gzip"))
	address := strings.Replace(server.URL, "http://", "oci://", 1)
	f := fetcher(t, chart.Config{CredentialsFile: login(t, server, "pw")})
	for range 2 {
		got, digest, err := f.Fetch(t.Context(), address+"/team", "podinfo", "1.2.3+build")
		if err != nil || !bytes.Equal(got, archive) || digest != digestOf(archive) {
			t.Fatalf("Fetch = %d bytes, %s, %v", len(got), digest, err)
		}
	}
	before := requests.n.Load()
	// The same chart by its whole address: the cache has it.
	if _, _, err := f.Fetch(t.Context(), "", address+"/team/podinfo", "1.2.3+build"); err != nil || requests.n.Load() != before {
		t.Errorf("by the whole address: %v, %d more requests", err, requests.n.Load()-before)
	}
	_, _, err := f.Fetch(t.Context(), address+"/team", "podinfo", "9.9.9")
	wantError(t, err, api.Stalled, "ChartNotFound", "version 9.9.9: the server answers 404")
	_, _, err = f.Fetch(t.Context(), address+"/team", "podinfo", "1.x")
	wantError(t, err, api.Stalled, "VersionNotPinned", `"1.x"`)
	_, _, err = f.Fetch(t.Context(), address, "", "1.2.3")
	wantError(t, err, api.Stalled, "BadChartSource", "is not oci://registry/path/name")
	_, _, err = fetcher(t, chart.Config{CredentialsFile: login(t, server, "wrong")}).Fetch(t.Context(), address+"/team", "podinfo", "1.2.3+build")
	wantError(t, err, api.Forbidden, "AuthenticationFailed", "refuses the credentials")
	_, _, err = fetcher(t, chart.Config{}).Fetch(t.Context(), address+"/team", "podinfo", "1.2.3+build")
	wantError(t, err, api.Forbidden, "AuthenticationFailed", "none are configured")
	server.Close()
	_, _, err = fetcher(t, chart.Config{}).Fetch(t.Context(), address+"/team", "podinfo", "1.2.3+build")
	wantError(t, err, api.Transient, "ChartNotFetched", "connection refused")
}

func TestRegistryWithSomethingElse(t *testing.T) {
	server, _ := serve(t, registry(t, []byte("an image"), "1.0.0", "application/vnd.oci.image.layer.v1.tar+gzip"))
	f := fetcher(t, chart.Config{CredentialsFile: login(t, server, "pw")})
	_, _, err := f.Fetch(t.Context(), strings.Replace(server.URL, "http://", "oci://", 1)+"/team", "podinfo", "1.0.0")
	wantError(t, err, api.Stalled, "NotAChart", "is no Helm chart")
}

func TestManyAskForOneChart(t *testing.T) {
	archive := pack(t, "podinfo", "1.2.3")
	server, requests := serve(t, repository(t, archive, "", "", ""))
	f := fetcher(t, chart.Config{})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, _, err := f.Fetch(t.Context(), server.URL+"/charts", "podinfo", "1.2.3"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := requests.n.Load(); n != 2 {
		t.Errorf("%d requests", n)
	}
}

func TestCancel(t *testing.T) {
	asked := make(chan struct{})
	server, _ := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	_, _, err := fetcher(t, chart.Config{}).Fetch(ctx, server.URL, "podinfo", "1.2.3")
	wantError(t, err, api.Transient, "ChartNotFetched", "context canceled")
}

func TestCacheIsBounded(t *testing.T) {
	archive := pack(t, "podinfo", "1.2.3")
	server, _ := serve(t, repository(t, archive, "", "", ""))
	dir := t.TempDir()
	old := filepath.Join(dir, "blobs", strings.Repeat("a", 64))
	if err := os.MkdirAll(filepath.Dir(old), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(old, make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	f := fetcher(t, chart.Config{Dir: dir, MaxCacheBytes: 1000})
	if _, _, err := f.Fetch(t.Context(), server.URL+"/charts", "podinfo", "1.2.3"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old archive is still there: %v", err)
	}
	left, _ := os.ReadDir(filepath.Join(dir, "blobs"))
	if len(left) != 1 || left[0].Name() != digestOf(archive)[7:] {
		t.Errorf("left are %v", left)
	}
}
