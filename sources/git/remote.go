package git

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
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

// maxStream bounds what one conversation may bring: a pack, and what goes around it.
const maxStream = maxPackBytes + maxPackBytes/8

// maxConversation bounds how long one conversation may take, however slowly a server sends.
const maxConversation = time.Hour

// reasonAuthentication is the reason of an error that other credentials may mend.
const reasonAuthentication = "AuthenticationFailed"

// remote speaks Git's upload-pack protocol with one repository.
// It is used by one goroutine at a time.
type remote struct {
	config   Config
	endpoint transport.Endpoint
	shown    string // the address without credentials
	sshAddr  string // host:port
	own      credentials
	client   *httpclient.Client
	conn     *sshConn // nil where there is none
	token    appToken
	log      *slog.Logger
}

func newRemote(config Config) (*remote, error) {
	r := &remote{config: config, shown: redact.URL(config.URL), client: httpclient.New(), log: config.Log}
	if err := r.parse(config.URL); err != nil {
		return nil, &api.Error{Kind: api.Stalled, Reason: "BadSourceURL", Err: fmt.Errorf("source URL %q: %w", r.shown, err)}
	}
	return r, nil
}

// parse reads the address.
func (r *remote) parse(raw string) error {
	if !strings.Contains(raw, "://") {
		if user, host, path, ok := scpLike(raw); ok {
			return r.overSSH(user, host, "", path)
		}
		path, err := filepath.Abs(raw)
		r.endpoint = transport.Endpoint{Protocol: "file", Path: path}
		return err
	}
	u, err := url.Parse(raw)
	if err != nil {
		if parse, ok := errors.AsType[*url.Error](err); ok {
			err = parse.Err // its text repeats the address
		}
		return err
	}
	switch u.Scheme {
	case "file":
		if u.Host != "" && u.Host != "localhost" || !filepath.IsAbs(u.Path) {
			return errors.New("must be file:///path")
		}
		r.endpoint = transport.Endpoint{Protocol: "file", Path: u.Path}
	case "http", "https":
		if u.Host == "" {
			return errors.New("has no host")
		}
		r.own = urlCredentials(u)
		u.User = nil
		ep, err := transport.NewEndpoint(u.String())
		if err != nil {
			return err
		}
		r.endpoint = *ep
	case "ssh":
		if _, ok := u.User.Password(); ok {
			return errors.New("has a password; over SSH there are only keys")
		}
		return r.overSSH(u.User.Username(), u.Hostname(), u.Port(), u.Path)
	default:
		return fmt.Errorf("scheme %q is not one of https, http, ssh, file", u.Scheme)
	}
	return nil
}

// OverSSH reports whether an address leads to an SSH server.
func OverSSH(address string) bool {
	if strings.Contains(address, "://") {
		return strings.HasPrefix(address, "ssh://")
	}
	_, _, _, ok := scpLike(address)
	return ok
}

// scpLike reads the short form [USER@]HOST:PATH of an SSH address. A path of this machine has a slash or a dot first,
// or no colon.
func scpLike(raw string) (user, host, path string, ok bool) {
	before, path, ok := strings.Cut(raw, ":")
	if !ok || strings.ContainsAny(before, `/\`) || path == "" {
		return "", "", "", false
	}
	user, host, withUser := strings.Cut(before, "@")
	if !withUser {
		user, host = "", before
	}
	return user, host, path, host != ""
}

// overSSH notes the address of a repository behind SSH.
func (r *remote) overSSH(user, host, port, path string) error {
	if strings.HasPrefix(path, "/~") { // ssh://host/~user/path
		path = path[1:]
	}
	switch {
	case host == "":
		return errors.New("has no host")
	case path == "" || path == "/":
		return errors.New("has no path")
	case strings.HasPrefix(path, "-") || strings.ContainsAny(path, "\x00\r\n"):
		return errors.New("has a path that is none of a repository")
	}
	if port == "" {
		port = "22"
	}
	r.own.username, r.sshAddr = user, net.JoinHostPort(host, port)
	r.endpoint = transport.Endpoint{Protocol: "ssh", Path: path}
	return nil
}

// close ends connections.
func (r *remote) close() {
	r.client.Close()
	r.conn.close()
}

// advertisement is what a server says it has.
type advertisement struct {
	refs   map[string]plumbing.Hash // full names; tags are those of their commits
	tags   map[string]plumbing.Hash // full names of annotated tags, and these themselves
	head   string                   // the branch that HEAD names, if the server tells
	any    bool                     // any commit may be asked for by its hash
	packed *packp.AdvRefs
}

// names lists the refs below a prefix without it, sorted.
func (a advertisement) names(prefix string) []string {
	var out []string
	for name := range a.refs {
		if b, ok := strings.CutPrefix(name, prefix); ok {
			out = append(out, b)
		}
	}
	slices.Sort(out)
	return out
}

// gives reports whether a commit can be asked for.
func (a advertisement) gives(h plumbing.Hash) bool {
	if a.any {
		return true
	}
	for _, known := range a.refs {
		if known == h {
			return true
		}
	}
	return false
}

// session is one conversation.
type session struct {
	r       *remote
	up      transport.UploadPackSession
	body    *capped // of an answer over HTTP; nil otherwise
	secrets []string
	given   bool // there are credentials
	watch   *watchdog
	adv     advertisement
	verb    string // what is done, for errors: "fetch from"
}

// talk connects, reads what the server has, and lets then use it.
// The context that then gets ends when the server is silent for too long.
func (r *remote) talk(ctx context.Context, then func(context.Context, *session) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, maxConversation, errSlow)
	defer cancel()
	a, err := r.access(ctx)
	if err != nil {
		return err
	}
	if r.endpoint.Protocol != "ssh" {
		return r.converse(ctx, a, r.session(a), then)
	}
	return r.eachKey(a, func(access sshAccess) error {
		return r.converse(ctx, a, func(ctx context.Context, _ *session) (transport.UploadPackSession, error) {
			return r.sshSession(ctx, access, transport.UploadPackServiceName)
		}, then)
	})
}

// eachKey does something with one SSH key after another, until one of them is not refused:
// a key of one repository may be known to the server, and not give access to another.
func (r *remote) eachKey(a access, do func(sshAccess) error) error {
	accesses, err := r.sshAccesses(a)
	if err != nil {
		return err
	}
	for _, access := range accesses {
		err = do(access)
		if _, refused := errors.AsType[*otherKeyError](err); !refused {
			return err
		}
	}
	if e, ok := errors.AsType[*api.Error](err); ok && len(accesses) > 1 {
		e.Err = fmt.Errorf("none of %d SSH keys gives access, the last: %w", len(accesses), e.Err)
	}
	return err
}

// otherKeyError marks an error that another SSH key may mend.
type otherKeyError struct{ error }

func (e *otherKeyError) Unwrap() error { return e.error }

// opener begins a conversation.
type opener func(context.Context, *session) (transport.UploadPackSession, error)

func (r *remote) converse(ctx context.Context, a access, open opener, then func(context.Context, *session) error) error {
	s := &session{r: r, secrets: a.secrets(), given: a.method() != nil, verb: "fetch from"}
	s.watch, ctx = newWatchdog(ctx, r.config.Timeout)
	defer s.watch.stop()
	var err error
	if s.up, err = open(ctx, s); err != nil {
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

// session begins a conversation over HTTP, or with a repository of this machine.
func (r *remote) session(a access) opener {
	return func(_ context.Context, s *session) (transport.UploadPackSession, error) {
		ep := r.endpoint
		if ep.Protocol == "file" {
			return file.DefaultClient.NewUploadPackSession(&ep, nil)
		}
		t, auth, err := r.overHTTP(s, a)
		if err != nil {
			return nil, err
		}
		return t.NewUploadPackSession(&ep, auth)
	}
}

// overHTTP makes the client of a conversation, whose answers are bounded; auth is a true nil where there are no credentials.
func (r *remote) overHTTP(s *session, a access) (t transport.Transport, auth transport.AuthMethod, err error) {
	client, err := r.client.Get(a.http)
	if err != nil {
		return nil, nil, badFile(err)
	}
	bounded := *client
	bounded.Transport = roundTrip(func(req *http.Request) (*http.Response, error) {
		res, err := client.Transport.RoundTrip(req)
		if err == nil {
			s.body = &capped{r: res.Body, left: maxPreamble}
			if strings.HasSuffix(req.URL.Path, "/info/refs") {
				s.body.allow(maxAdvertisement)
			}
			res.Body = body{s.body, res.Body}
		}
		return res, err
	})
	if m := a.method(); m != nil {
		auth = m
	}
	return githttp.NewClient(&bounded), auth, nil
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

type body struct {
	io.Reader
	io.Closer
}

// advertised takes up what the server has. A name that Git would refuse is left out: it may become the name of a file.
func (s *session) advertised(packed *packp.AdvRefs) error {
	refs, err := packed.AllReferences()
	if err != nil {
		return err
	}
	s.adv = advertisement{refs: map[string]plumbing.Hash{}, tags: map[string]plumbing.Hash{}, packed: packed}
	for name, ref := range refs {
		switch {
		case name == plumbing.HEAD && ref.Type() == plumbing.SymbolicReference:
			s.adv.head = ref.Target().Short()
		case ref.Type() == plumbing.HashReference && (name == plumbing.HEAD || validRefName(name.String())):
			s.adv.refs[name.String()] = ref.Hash()
		}
	}
	for name, commit := range packed.Peeled {
		if object, ok := s.adv.refs[name]; ok {
			s.adv.tags[name], s.adv.refs[name] = object, commit
		}
	}
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
	if s.body != nil {
		s.body.allow(maxStream)
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
	if e, ok := errors.AsType[*api.Error](err); ok {
		return s.named(e)
	}
	e := &api.Error{Kind: api.Transient, Reason: "SourceUnreachable", Err: err}
	switch end := context.Cause(ctx); {
	case errors.Is(end, errSilent):
		e.Err = fmt.Errorf("the server said nothing for %s", s.r.config.Timeout)
	case end != nil:
		e.Err = end
	}
	var said *complained
	switch {
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrInvalidAuthMethod):
		e.Kind, e.Reason, e.Err = api.Forbidden, reasonAuthentication, errors.New("the server asks for other credentials")
		s.r.token = appToken{} // it may have been revoked
		if !s.given {
			e.Err = errors.New("the server asks for credentials, and none are configured")
		}
	case errors.Is(err, transport.ErrAuthorizationFailed):
		e.Kind, e.Reason, e.Err = api.Forbidden, "AccessDenied", errors.New("the credentials do not give access to the repository")
	case errors.As(err, &said):
		e.Kind, e.Reason, e.Err = api.Stalled, "RepositoryRefused", said
	case errors.Is(err, transport.ErrRepositoryNotFound):
		e.Kind, e.Reason, e.Err = api.Stalled, "RepositoryNotFound", errors.New("there is no such repository")
		if s.r.endpoint.Protocol != "file" {
			e.Hint = "some servers answer this way where credentials are missing"
		}
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		e.Kind, e.Reason, e.Err = api.Stalled, "EmptyRepository", errors.New("the repository has no commit yet")
	case errors.Is(err, errTooMuch), s.body != nil && s.body.over:
		e.Kind, e.Reason = api.Stalled, "RepositoryTooLarge"
	case httpclient.CertificateProblem(err):
		e.Kind, e.Reason = api.Stalled, "CertificateInvalid"
	case httpclient.Alert(err):
		e.Kind, e.Reason = api.Forbidden, reasonAuthentication
		e.Hint = "the server may want a client certificate: --git-cert-file and --git-key-file"
	case errors.Is(err, exec.ErrNotFound):
		e.Kind, e.Reason = api.Stalled, "GitNotInstalled"
		e.Err = errors.New("paths and file URLs need the git command, which was not found")
	}
	return s.named(e)
}

// named says in an error of whom it is, and takes secrets out of it.
func (s *session) named(e *api.Error) error {
	e.Err = redact.Error(fmt.Errorf("%s %s: %w", s.verb, s.r.shown, e.Err), s.secrets...)
	if s.r.endpoint.Protocol == "ssh" && (e.Reason == reasonAuthentication || e.Reason == "RepositoryRefused" || e.Reason == "RepositoryNotFound") {
		return &otherKeyError{e}
	}
	return e
}
