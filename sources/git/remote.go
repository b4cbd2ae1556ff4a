package git

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/file"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/httpclient"
	"github.com/flotilla-fleet/flotilla/internal/redact"
)

// maxPackBytes bounds what one fetch may bring.
const maxPackBytes = 2 << 30

// remote speaks Git's upload-pack protocol with one repository.
// It is used by one goroutine at a time.
type remote struct {
	endpoint        transport.Endpoint
	shown           string // the address without credentials
	own             credentials
	credentialsFile string
	caFile          string
	timeout         time.Duration
	client          *httpclient.Client
	log             *slog.Logger
}

func newRemote(config Config) (*remote, error) {
	bad := func(err error) error {
		return &api.Error{Kind: api.Stalled, Reason: "BadSourceURL", Err: fmt.Errorf("source URL %q: %w", redact.URL(config.URL), err)}
	}
	r := &remote{
		shown: redact.URL(config.URL), credentialsFile: config.CredentialsFile, caFile: config.CAFile,
		client: httpclient.New(config.CAFile), timeout: config.Timeout, log: config.Log,
	}
	if !strings.Contains(config.URL, "://") {
		if host, _, ok := strings.Cut(config.URL, ":"); ok && !strings.ContainsAny(host, `/\.`) || strings.Contains(config.URL, "@") && ok {
			return nil, bad(errors.New("is neither an http(s) or file URL nor a path; SSH is not supported"))
		}
		path, err := filepath.Abs(config.URL)
		if err != nil {
			return nil, bad(err)
		}
		r.endpoint = transport.Endpoint{Protocol: "file", Path: path}
		return r, nil
	}
	u, err := url.Parse(config.URL)
	if err != nil {
		if parse, ok := errors.AsType[*url.Error](err); ok {
			err = parse.Err // its text repeats the address
		}
		return nil, bad(err)
	}
	switch u.Scheme {
	case "file":
		if u.Host != "" && u.Host != "localhost" || !filepath.IsAbs(u.Path) {
			return nil, bad(errors.New("must be file:///path"))
		}
		r.endpoint = transport.Endpoint{Protocol: "file", Path: u.Path}
	case "http", "https":
		if u.Host == "" {
			return nil, bad(errors.New("has no host"))
		}
		r.own = urlCredentials(u)
		u.User = nil
		ep, err := transport.NewEndpoint(u.String())
		if err != nil {
			return nil, bad(err)
		}
		r.endpoint = *ep
	default:
		return nil, bad(fmt.Errorf("scheme %q is not one of http, https, file", u.Scheme))
	}
	return r, nil
}

// advertisement is what a server says it has.
type advertisement struct {
	refs   map[string]plumbing.Hash // full names; tags are those of their commits
	head   string                   // the branch that HEAD names, if the server tells
	any    bool                     // any commit may be asked for by its hash
	packed *packp.AdvRefs
}

// branches lists branch names, sorted.
func (a advertisement) branches() []string {
	var out []string
	for name := range a.refs {
		if b, ok := strings.CutPrefix(name, "refs/heads/"); ok {
			out = append(out, b)
		}
	}
	slices.Sort(out)
	return out
}

// session is one conversation.
type session struct {
	r       *remote
	up      transport.UploadPackSession
	secrets []string
	watch   *watchdog
	adv     advertisement
	verb    string // what is done, for errors: "fetch from"
}

// talk connects, reads what the server has, and lets then use it.
// The context that then gets ends when the server is silent for too long.
func (r *remote) talk(ctx context.Context, then func(context.Context, *session) error) error {
	c := r.own
	if r.credentialsFile != "" {
		var err error
		if c, err = readCredentials(r.credentialsFile, r.log); err != nil {
			return err
		}
	}
	t, auth, err := r.transport(c)
	if err != nil {
		return err
	}
	s := &session{r: r, secrets: c.secrets(), verb: "fetch from"}
	s.watch, ctx = newWatchdog(ctx, r.timeout)
	defer s.watch.stop()
	ep := r.endpoint
	if s.up, err = t.NewUploadPackSession(&ep, auth); err != nil {
		return s.classify(ctx, err)
	}
	// What the end of a conversation says no longer matters: what was needed has been read.
	defer func() { _ = s.up.Close() }()
	packed, err := s.up.AdvertisedReferencesContext(ctx)
	if err == nil {
		err = s.advertised(packed)
	}
	if err != nil {
		return s.classify(ctx, err)
	}
	s.watch.pause()
	return then(ctx, s)
}

// transport makes the client; auth is a true nil where there are no credentials.
func (r *remote) transport(c credentials) (transport.Transport, transport.AuthMethod, error) {
	if r.endpoint.Protocol == "file" {
		return file.DefaultClient, nil, nil
	}
	client, err := r.client.Get()
	if err != nil {
		return nil, nil, &api.Error{Kind: api.Stalled, Reason: "BadCAFile", Err: fmt.Errorf("CA file %q: %w", r.caFile, unwrapPath(err))}
	}
	if m := c.method(); m != nil {
		return githttp.NewClient(client), m, nil
	}
	return githttp.NewClient(client), nil, nil
}

func (s *session) advertised(packed *packp.AdvRefs) error {
	refs, err := packed.AllReferences()
	if err != nil {
		return err
	}
	s.adv = advertisement{refs: map[string]plumbing.Hash{}, packed: packed}
	for name, ref := range refs {
		switch {
		case ref.Type() == plumbing.HashReference:
			s.adv.refs[name.String()] = ref.Hash()
		case name == plumbing.HEAD:
			s.adv.head = ref.Target().Short()
		}
	}
	maps.Copy(s.adv.refs, packed.Peeled)
	s.adv.any = packed.Capabilities.Supports(capability.AllowReachableSHA1InWant)
	return nil
}

// download writes to w a pack with everything that want needs and haves lack.
func (s *session) download(ctx context.Context, w io.Writer, want plumbing.Hash, haves []plumbing.Hash) error {
	req := packp.NewUploadPackRequestFromCapabilities(s.adv.packed.Capabilities)
	if s.adv.packed.Capabilities.Supports(capability.NoProgress) {
		if err := req.Capabilities.Set(capability.NoProgress); err != nil {
			return err
		}
	}
	req.Wants, req.Haves = []plumbing.Hash{want}, haves
	s.watch.heard()
	defer s.watch.pause()
	res, err := s.up.UploadPack(ctx, req)
	if err != nil {
		return s.classify(ctx, err)
	}
	defer func() { _ = res.Close() }()
	var in io.Reader = res
	switch {
	case req.Capabilities.Supports(capability.Sideband64k):
		in = sideband.NewDemuxer(sideband.Sideband64k, res)
	case req.Capabilities.Supports(capability.Sideband):
		in = sideband.NewDemuxer(sideband.Sideband, res)
	}
	n, err := io.Copy(w, io.LimitReader(&watched{in, s.watch}, maxPackBytes+1))
	var disk *os.PathError
	switch {
	case errors.As(err, &disk):
		return &api.Error{Kind: api.Transient, Reason: "MirrorWriteFailed", Err: err}
	case err != nil:
		return s.classify(ctx, err)
	case n > maxPackBytes:
		return &api.Error{Kind: api.Stalled, Reason: "RepositoryTooLarge", Err: fmt.Errorf("fetch from %s: more than %d MiB", s.r.shown, maxPackBytes>>20)}
	}
	return nil
}

// classify turns what happened on the way into an error of a kind, without secrets.
func (s *session) classify(ctx context.Context, err error) error {
	e := &api.Error{Kind: api.Transient, Reason: "SourceUnreachable"}
	cause := err
	switch end := context.Cause(ctx); {
	case errors.Is(end, errSilent):
		cause = fmt.Errorf("the server said nothing for %s", s.r.timeout)
	case end != nil:
		cause = end
	}
	switch {
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrInvalidAuthMethod):
		e.Kind, e.Reason, cause = api.Forbidden, "AuthenticationFailed", errors.New("the server asks for other credentials")
		if s.r.credentialsFile == "" && s.r.own == (credentials{}) {
			cause = errors.New("the server asks for credentials, and none are configured")
		}
	case errors.Is(err, transport.ErrAuthorizationFailed):
		e.Kind, e.Reason, cause = api.Forbidden, "AccessDenied", errors.New("the credentials do not give access to the repository")
	case errors.Is(err, transport.ErrRepositoryNotFound):
		e.Kind, e.Reason, cause = api.Stalled, "RepositoryNotFound", errors.New("there is no such repository")
		e.Hint = "some servers answer this way where credentials are missing"
		if s.r.endpoint.Protocol == "file" {
			e.Hint = ""
		}
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		e.Kind, e.Reason, cause = api.Stalled, "EmptyRepository", errors.New("the repository has no commit yet")
	case httpclient.CertificateProblem(err):
		e.Kind, e.Reason = api.Stalled, "CertificateInvalid"
	case errors.Is(err, exec.ErrNotFound):
		e.Kind, e.Reason = api.Stalled, "GitNotInstalled"
		cause = errors.New("paths and file URLs need the git command, which was not found")
	}
	e.Err = redact.Error(fmt.Errorf("%s %s: %w", s.verb, s.r.shown, cause), s.secrets...)
	return e
}
