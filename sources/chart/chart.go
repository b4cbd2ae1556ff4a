// Package chart fetches packaged Helm charts from Helm's HTTP repositories, from OCI registries, and from addresses of single files.
//
// It promises that a version, once fetched, stays the same bytes and needs no network:
// archives are kept on disk by their SHA-256 digest, and what a version means is remembered.
// So a version must be exact; a range would make the same commit mean different things.
// What a repository says of a chart's digest is checked.
//
// It never unpacks or renders a chart, never reads the configuration of Helm or Docker on this machine,
// and shows a host's credentials to that host only.
package chart

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/httpclient"
	"github.com/flotilla-fleet/flotilla/internal/redact"
)

// Config says where charts are kept and how servers are talked to.
type Config struct {
	// Dir is the directory of the cache; it is created. Required.
	Dir string
	// CredentialsFile is in the format of Docker's config.json (auths), read at every download.
	// It serves Helm repositories of a host as well as registries. Empty means no credentials.
	CredentialsFile string
	// CAFile holds certificates in PEM form that are trusted besides the system's.
	CAFile string
	// PlainHTTP names registries (host:port) that are spoken to without TLS. Those of this machine always are.
	PlainHTTP []string
	// Timeout bounds one download. Zero means DefaultTimeout.
	Timeout time.Duration
	// MaxCacheBytes bounds the archives that are kept. Zero means DefaultMaxCacheBytes.
	MaxCacheBytes int64
	// Log may be nil.
	Log *slog.Logger
}

// Defaults and bounds.
const (
	DefaultTimeout       = 2 * time.Minute
	DefaultMaxCacheBytes = 256 << 20
	// MaxArchiveBytes is the largest chart that is fetched.
	MaxArchiveBytes = 20 << 20
	maxIndexBytes   = 64 << 20
	maxManifest     = 1 << 20
)

// Fetcher fetches charts. It is safe for concurrent use.
type Fetcher struct {
	config Config
	client *httpclient.Client
	cache  *cache

	mu   sync.Mutex
	busy map[string]chan struct{} // chart -> closed when its download has ended
}

// New makes the cache's directory.
func New(config Config) (*Fetcher, error) {
	if config.Dir == "" {
		return nil, errors.New("chart fetcher: Dir is needed")
	}
	if config.Timeout <= 0 {
		config.Timeout = DefaultTimeout
	}
	if config.MaxCacheBytes <= 0 {
		config.MaxCacheBytes = DefaultMaxCacheBytes
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	c, err := openCache(config.Dir, config.MaxCacheBytes)
	if err != nil {
		return nil, err
	}
	return &Fetcher{config: config, client: httpclient.New(), cache: c, busy: map[string]chan struct{}{}}, nil
}

var (
	exactVersion = regexp.MustCompile(`^v?[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)
	exactDigest  = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// request is one chart that is wanted.
type request struct {
	repo    *url.URL // http(s) repository, or oci registry and path with the chart's name
	name    string
	version string
	key     string
}

func (r request) oci() bool { return r.repo.Scheme == "oci" }

// file reports whether the name is that of a file, whose version is its digest, or empty.
func (r request) file() bool {
	return !r.oci() && strings.HasSuffix(r.name, ".tgz") && (r.version == "" || exactDigest.MatchString(r.version))
}

// String is for people.
func (r request) String() string {
	if r.oci() {
		return redact.URL(r.repo.String())
	}
	return r.name + " of " + redact.URL(r.repo.String())
}

// Fetch returns a packaged chart and its digest, "sha256:" and hexadecimal digits.
// The repository is an http(s):// address with a name,
// or oci:// in either: oci://registry/path with a name, or nothing with oci://registry/path/name.
// A name that ends with .tgz is a file there; its version is the digest that it must have, or empty: then what is fetched first stays.
func (f *Fetcher) Fetch(ctx context.Context, repo, name, version string) (archive []byte, digest string, err error) {
	r, err := parse(repo, name, version)
	if err != nil {
		return nil, "", err
	}
	for {
		mine, wait := f.claim(r.key)
		if mine {
			break
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, "", &api.Error{Kind: api.Transient, Reason: "ChartNotFetched", Err: fmt.Errorf("fetch chart %s: %w", r, context.Cause(ctx))}
		}
	}
	defer f.release(r.key)
	// Whoever held the claim before may just have put it there.
	if archive, digest, ok := f.cache.get(r.key); ok {
		return archive, digest, nil
	}
	ctx, cancel := context.WithTimeout(ctx, f.config.Timeout)
	defer cancel()
	archive, digest, err = f.download(ctx, r)
	if err != nil {
		return nil, "", err
	}
	if err := f.cache.put(r.key, r.String(), r.version, archive, digest); err != nil {
		// The chart is there all the same; the next render asks again.
		f.config.Log.Warn("keeping a chart", "chart", r.String(), "version", r.version, "error", err)
	}
	return archive, digest, nil
}

// Close closes idle connections.
func (f *Fetcher) Close() error {
	f.client.Close()
	return nil
}

// claim lets one caller download a chart; the others get what to wait for.
func (f *Fetcher) claim(key string) (mine bool, wait <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if done, ok := f.busy[key]; ok {
		return false, done
	}
	f.busy[key] = make(chan struct{})
	return true, nil
}

func (f *Fetcher) release(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.busy[key])
	delete(f.busy, key)
}

func parse(repo, name, version string) (request, error) {
	bad := func(reason, field, format string, args ...any) (request, error) {
		return request{}, &api.Error{Kind: api.Stalled, Reason: reason, Field: field, Err: fmt.Errorf(format, args...)}
	}
	address := repo
	if strings.HasPrefix(name, "oci://") && repo == "" {
		address = name
	}
	u, err := url.Parse(address)
	if err != nil {
		return bad("BadChartSource", "spec.helm.repo", "%q is no URL", redact.URL(address))
	}
	r := request{repo: u, name: name, version: version}
	switch u.Scheme {
	case "oci":
		if address == repo && name != "" {
			u = u.JoinPath(name)
		}
		r.repo, r.name = u, u.Path[strings.LastIndex(u.Path, "/")+1:]
		if u.Host == "" || strings.Trim(u.Path, "/") == "" {
			return bad("BadChartSource", "spec.helm.chart", "%q is not oci://registry/path/name", redact.URL(u.String()))
		}
	case "http", "https":
		if u.Host == "" || name == "" {
			return bad("BadChartSource", "spec.helm.repo", "%q needs a host, and a chart's name", redact.URL(address))
		}
	default:
		return bad("BadChartSource", "spec.helm.repo", "%q is neither http(s):// nor oci://", redact.URL(address))
	}
	if !r.file() && !exactVersion.MatchString(version) && (u.Scheme != "oci" || !exactDigest.MatchString(version)) {
		return bad("VersionNotPinned", "spec.helm.version",
			"%q is not an exact version such as 1.2.3: a range would make one commit mean different charts over time", version)
	}
	shown := *u
	shown.User = nil
	r.key = strings.TrimSuffix(shown.String(), "/") + " " + r.name + " " + version
	return r, nil
}

func (f *Fetcher) download(ctx context.Context, r request) ([]byte, string, error) {
	client, err := f.client.Get(httpclient.Config{CAFile: f.config.CAFile})
	if err != nil {
		return nil, "", &api.Error{Kind: api.Stalled, Reason: "BadCAFile", Err: err}
	}
	creds, err := f.credentials(r)
	if err != nil {
		return nil, "", err
	}
	d := downloader{client: client, credentials: creds, request: r}
	if r.oci() {
		return d.fromRegistry(ctx, f.plain(r.repo.Host))
	}
	if r.file() {
		return d.fromAddress(ctx)
	}
	return d.fromRepository(ctx, f.cache)
}

// plain reports whether a registry is spoken to without TLS.
func (f *Fetcher) plain(host string) bool {
	name := (&url.URL{Host: host}).Hostname()
	if name == "localhost" || name == "127.0.0.1" || name == "::1" {
		return true
	}
	return slices.Contains(f.config.PlainHTTP, host)
}

// downloader fetches one chart.
type downloader struct {
	client      *http.Client
	credentials credentials
	request     request
}

// failed gives an error its kind.
func (d downloader) failed(err error) error {
	if _, ok := errors.AsType[*api.Error](err); ok {
		return err
	}
	out := &api.Error{Kind: api.Transient, Reason: "ChartNotFetched"}
	if httpclient.CertificateProblem(err) {
		out.Kind, out.Reason = api.Stalled, "CertificateInvalid"
	}
	out.Err = redact.Error(fmt.Errorf("fetch chart %s: %w", d.request, err), d.credentials.secrets()...)
	return out
}

// status turns an HTTP status that is not success into an error; what is what was asked for.
func (d downloader) status(code int, what string) error {
	e := &api.Error{Kind: api.Transient, Reason: "ChartNotFetched"}
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden:
		e.Kind, e.Reason = api.Forbidden, "AuthenticationFailed"
		e.Err = fmt.Errorf("fetch chart %s: the server refuses the credentials (%d)", d.request, code)
		if len(d.credentials) == 0 {
			e.Err = fmt.Errorf("fetch chart %s: the server asks for credentials, and none are configured for it (%d)", d.request, code)
		}
		return e
	case http.StatusNotFound, http.StatusGone:
		e.Kind, e.Reason = api.Stalled, "ChartNotFound"
	}
	e.Err = fmt.Errorf("fetch chart %s: %s: the server answers %d %s", d.request, what, code, http.StatusText(code))
	return e
}

func tooLarge(r request, what string, limit int64) error {
	return &api.Error{Kind: api.Stalled, Reason: "ChartTooLarge", Err: fmt.Errorf("fetch chart %s: %s is larger than %d MiB", r, what, limit>>20)}
}

// credentials reads the file anew, so that a rotated secret is used at once.
func (f *Fetcher) credentials(r request) (credentials, error) {
	creds := credentials{}
	if f.config.CredentialsFile != "" {
		data, err := os.ReadFile(f.config.CredentialsFile)
		if err == nil {
			creds, err = parseCredentials(data)
		}
		if err != nil {
			if p, ok := errors.AsType[*os.PathError](err); ok {
				err = p.Err
			}
			return nil, &api.Error{Kind: api.Stalled, Reason: "BadCredentialsFile", Err: fmt.Errorf("credentials file %q: %w", f.config.CredentialsFile, err)}
		}
	}
	if u := r.repo.User; u != nil {
		password, _ := u.Password()
		creds[r.repo.Host] = login{u.Username(), password}
	}
	return creds, nil
}
