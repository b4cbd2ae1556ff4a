package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"golang.org/x/crypto/ssh"
)

const (
	// maxAdvertisement bounds what a server may say that it has: some 800,000 refs.
	maxAdvertisement = 64 << 20
	// maxPreamble bounds what comes before a pack.
	maxPreamble = 1 << 20
	// maxComplaint bounds what is kept of a server's words.
	maxComplaint = 512
)

var errTooMuch = errors.New("the server sends more than it may")

// capped ends with an error where a server sends more than it may.
type capped struct {
	r    io.Reader
	left int64
	over bool // the server tried to send more; errors of go-git do not always keep their cause
}

func (c *capped) allow(n int64) { c.left = n }

func (c *capped) Read(b []byte) (int, error) {
	if c.left <= 0 {
		c.over = true
		return 0, errTooMuch
	}
	if int64(len(b)) > c.left {
		b = b[:c.left]
	}
	n, err := c.r.Read(b)
	c.left -= int64(n)
	return n, err
}

// stream is one run of git-upload-pack or git-receive-pack at the other end of an SSH connection.
type stream struct {
	session *ssh.Session
	program string
	in      io.WriteCloser
	out     *capped
	said    *complaint
	stop    func() bool
}

var (
	_ transport.UploadPackSession  = (*stream)(nil)
	_ transport.ReceivePackSession = (*stream)(nil)
)

// newStream starts one of Git's programs. When ctx ends, the connection does.
func newStream(ctx context.Context, client *ssh.Client, program, path string) (*stream, error) {
	stop := context.AfterFunc(ctx, func() { _ = client.Close() })
	fail := func(err error) (*stream, error) { stop(); return nil, err }
	session, err := client.NewSession()
	if err != nil {
		return fail(err)
	}
	s := &stream{session: session, program: program, said: &complaint{}, stop: stop}
	session.Stderr = s.said
	if s.in, err = session.StdinPipe(); err != nil {
		return fail(errors.Join(err, session.Close()))
	}
	out, err := session.StdoutPipe()
	if err != nil {
		return fail(errors.Join(err, session.Close()))
	}
	s.out = &capped{r: out}
	if err := session.Start(program + " " + quote(path)); err != nil {
		return fail(errors.Join(err, session.Close()))
	}
	return s, nil
}

// AdvertisedReferences is not used: it cannot be ended.
func (s *stream) AdvertisedReferences() (*packp.AdvRefs, error) {
	return nil, errors.ErrUnsupported
}

// AdvertisedReferencesContext reads what the server has.
func (s *stream) AdvertisedReferencesContext(context.Context) (*packp.AdvRefs, error) {
	s.out.allow(maxAdvertisement)
	adv := packp.NewAdvRefs()
	err := adv.Decode(s.out)
	switch {
	case err == nil && s.program == transport.ReceivePackServiceName: // a repository without a commit can be pushed to
	case errors.Is(err, packp.ErrEmptyAdvRefs), err == nil && adv.IsEmpty():
		return nil, transport.ErrEmptyRemoteRepository
	case err != nil:
		return nil, s.because(err)
	}
	transport.FilterUnsupportedCapabilities(adv.Capabilities)
	return adv, nil
}

// UploadPack asks for a pack.
func (s *stream) UploadPack(_ context.Context, req *packp.UploadPackRequest) (*packp.UploadPackResponse, error) {
	if err := req.Validate(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := req.UploadRequest.Encode(&b); err != nil {
		return nil, err
	}
	if err := req.UploadHaves.Encode(&b, false); err != nil {
		return nil, err
	}
	if err := pktline.NewEncoder(&b).EncodeString("done\n"); err != nil {
		return nil, err
	}
	if _, err := s.in.Write(b.Bytes()); err != nil {
		return nil, s.because(err)
	}
	s.out.allow(maxPreamble)
	res := packp.NewUploadPackResponse(req)
	if err := res.Decode(io.NopCloser(s.out)); err != nil {
		return nil, s.because(err)
	}
	s.out.allow(maxStream)
	return res, nil
}

// ReceivePack sends commits, and returns what became of them.
func (s *stream) ReceivePack(_ context.Context, req *packp.ReferenceUpdateRequest) (*packp.ReportStatus, error) {
	if err := req.Encode(s.in); err != nil {
		return nil, s.because(err)
	}
	if err := s.in.Close(); err != nil {
		return nil, s.because(err)
	}
	s.out.allow(maxPreamble)
	if !req.Capabilities.Supports(capability.ReportStatus) {
		return nil, s.session.Wait()
	}
	var in io.Reader = s.out
	switch {
	case req.Capabilities.Supports(capability.Sideband64k):
		in = sideband.NewDemuxer(sideband.Sideband64k, s.out)
	case req.Capabilities.Supports(capability.Sideband):
		in = sideband.NewDemuxer(sideband.Sideband, s.out)
	}
	report := packp.NewReportStatus()
	if err := report.Decode(in); err != nil {
		return nil, s.because(err)
	}
	return report, report.Error()
}

// Close ends the conversation. The connection stays.
func (s *stream) Close() error {
	s.stop()
	return s.session.Close()
}

// complained is a server that ended the conversation with words.
type complained struct {
	words string
	err   error
}

func (c *complained) Error() string { return fmt.Sprintf("the server says %q", c.words) }
func (c *complained) Unwrap() error { return c.err }

// because adds what the server said, if it ended the conversation.
func (s *stream) because(err error) error {
	if line, ok := errors.AsType[*pktline.ErrorLine](err); ok {
		return &complained{tidyWords(line.Text), err}
	}
	if !isEnd(err) && !errors.Is(err, packp.ErrEmptyInput) {
		return err
	}
	_ = s.session.Wait() // for the rest of its words; it is told in them, if at all, why it ended
	if words := s.said.text(); words != "" {
		return &complained{words, err}
	}
	return err
}

func isEnd(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// complaint keeps the beginning of what a server writes to standard error.
type complaint struct {
	mu   sync.Mutex
	kept []byte
}

func (c *complaint) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = append(c.kept, b[:min(len(b), maxComplaint-len(c.kept))]...)
	return len(b), nil
}

func (c *complaint) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return tidyWords(string(c.kept))
}

// tidyWords makes one short line of what a server says.
func tidyWords(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	if len(s) > maxComplaint {
		s = strings.ToValidUTF8(s[:maxComplaint], "")
	}
	return s
}
