package hub

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// lookEvery is how often files that may change are looked at.
// A change counts when two looks found the same, so that a file that is being written is left alone.
const lookEvery = 400 * time.Millisecond

// maxFile bounds a file of tokens, certificates or a key in bytes.
const maxFile = 1 << 20

// watched is files that belong together and may change while the hub runs: what was good stays in use
// until what is new is good as well.
type watched struct {
	files []string
	// use takes the contents, in the order of files, or refuses them all.
	use func(ctx context.Context, contents [][]byte) error
	log *slog.Logger
	// broken says how the files stand, for the metrics.
	broken func(bool)

	// used is what is in use; seen is what the last look found, told what was refused, empty for nothing.
	used, seen, told string
}

// start reads the files for the first time: then a mistake is an error, for a human to mend.
func (w *watched) start(ctx context.Context) error {
	contents, err := w.read()
	if err != nil {
		return &api.Error{Kind: api.Stalled, Reason: "BadFile", Err: err}
	}
	if err := w.use(ctx, contents); err != nil {
		return &api.Error{Kind: api.Stalled, Reason: "BadFile", File: w.files[0], Err: err}
	}
	w.used = found(contents)
	w.seen = w.used
	return nil
}

// look takes what has changed. What is broken is told once, and again when it is broken in another way.
func (w *watched) look(ctx context.Context) {
	contents, err := w.read()
	now := found(contents)
	if err != nil {
		now = err.Error()
	}
	settled := now == w.seen
	w.seen = now
	switch {
	case !settled || now == w.told || now == w.used && w.told == "":
		return
	case now == w.used:
		w.told = "" // somebody has put back what was good
		w.broken(false)
		return
	}
	if err == nil {
		if err = w.use(ctx, contents); err == nil {
			w.used, w.told = now, ""
			w.broken(false)
			w.log.Info("a changed file is in use", "files", w.files)
			return
		}
		err = w.at(err)
	}
	w.told = now
	w.broken(true)
	w.log.Error("a changed file cannot be used: what it said before holds", "error", err)
}

// found tells contents apart from other ones, and from errors.
func found(contents [][]byte) string { return "\x00" + string(bytes.Join(contents, []byte{0})) }

func (w *watched) at(err error) error {
	return fmt.Errorf("%s: %w", w.files[0], err)
}

func (w *watched) read() (contents [][]byte, err error) {
	for _, file := range w.files {
		b, err := readBounded(file)
		if err != nil {
			return nil, err
		}
		contents = append(contents, b)
	}
	return contents, nil
}

func readBounded(file string) (b []byte, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if b, err = io.ReadAll(io.LimitReader(f, maxFile+1)); err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", file, maxFile)
	}
	return b, err
}

// watchFiles looks at the files until ctx ends.
func watchFiles(ctx context.Context, ws []*watched) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			for _, w := range ws {
				w.look(ctx)
			}
		}
	}
}

// keyPair is a certificate with its key, which may be replaced.
type keyPair struct {
	cert atomic.Pointer[tls.Certificate]
}

func (p *keyPair) use(_ context.Context, contents [][]byte) error {
	c, err := tls.X509KeyPair(contents[0], contents[1])
	if err != nil {
		return fmt.Errorf("certificate and key: %w", err)
	}
	p.cert.Store(&c)
	return nil
}

func (p *keyPair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.cert.Load(), nil }
