package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/sandbox"
)

// Word is the one argument by which a program is told to be a worker, and to call Serve.
const Word = "render-worker"

// RemoteConfig is what a Remote is made of.
type RemoteConfig struct {
	// Command starts a worker: a program that calls Serve. Required.
	Command []string
	// Limits bound one bundle; what is zero is as in DefaultLimits.
	Limits sandbox.Limits
	// Idle is how long a worker is kept that has nothing to do. Zero means a few seconds.
	Idle time.Duration
	// Workers is how many may run at once. Zero means two.
	Workers int
}

// Remote has worker processes run the engines, under limits: what a bundle does to them ends its own rendering only.
// It starts no more workers than it may, and none before it is asked for something.
type Remote struct {
	pool   *sandbox.Pool
	limits sandbox.Limits
	codec  codec
}

// NewRemote returns a Remote, which the caller closes.
func NewRemote(cfg RemoteConfig) (*Remote, error) {
	c, err := newCodec()
	if err != nil {
		return nil, err
	}
	limits := withDefaults(cfg.Limits)
	pool, err := sandbox.New(sandbox.Config{Command: cfg.Command, Limits: limits, Idle: cfg.Idle, Size: cfg.Workers})
	return &Remote{pool, limits, c}, err
}

// Bounds says under which limits the engines run.
func (r *Remote) Bounds() string { return LimitsText(r.limits) }

// Close ends the workers, and what they are asked fails.
func (r *Remote) Close() { r.pool.Close() }

// Run is Local.Run, in a worker. An error whose reason is one of ReasonLimit and ReasonCrash comes again
// whenever the same is rendered.
func (r *Remote) Run(ctx context.Context, req Request, files Files) (Result, error) {
	message, err := r.codec.enc.Marshal(req)
	if err != nil {
		return Result{}, fmt.Errorf("ask for a rendering: %w", err)
	}
	said, err := r.pool.Do(ctx, sandbox.Request{Message: message, Processor: req.Time}, func(message []byte) []byte {
		var c call
		a := answer{Err: &failure{Text: "the call makes no sense"}}
		if files != nil && r.codec.dec.Unmarshal(message, &c) == nil {
			a = answerFrom(files, c)
		}
		out, err := r.codec.enc.Marshal(a)
		if err != nil { // no answer holds anything that cannot be written
			return nil
		}
		return out
	})
	if err != nil {
		return Result{Took: said.Processor}, ended(ctx, req, err)
	}
	var out reply
	if err := r.codec.dec.Unmarshal(said.Message, &out); err != nil {
		return Result{Took: said.Processor}, fmt.Errorf("read a rendering: %w", err)
	}
	result, err := out.result()
	result.Took = said.Processor
	return result, err
}

// Reasons of errors about bundles that end their rendering by what they do to it.
const (
	ReasonLimit = "RenderLimit"
	ReasonCrash = "RenderCrash"
	// ReasonTime is that of a bundle which takes more than Request.Time.
	ReasonTime = "RenderTime"
)

// ended tells why a worker sent no result.
func ended(ctx context.Context, req Request, err error) error {
	what, where, look := "the kustomization", "", "bases and components that come twice at each level, and replacements and patches that copy a value into itself"
	if req.Chart != nil {
		what, where = "the chart", req.Chart.Packed.Where
		look = "loops, and functions such as repeat, until and genPrivateKey, whose arguments come from values"
	} else {
		where = path.Join(req.Kustomization.Dir, "kustomization.yaml")
	}
	limit, ok := errors.AsType[*sandbox.LimitError](err)
	if ok && limit.Limit == "processor" {
		return &api.Error{Kind: api.Stalled, Reason: ReasonTime, File: where, Err: fmt.Errorf("%s %w to render", what, limit)}
	}
	if ok {
		return &api.Error{
			Kind: api.Stalled, Reason: ReasonLimit, File: where, Err: fmt.Errorf("%s %w to render", what, limit),
			Hint: "look for " + look + "; --render-limits of the agent raises the limit; it is tried again when it changes, or after an hour",
		}
	}
	if crash, ok := errors.AsType[*sandbox.CrashError](err); ok && !crash.Outside {
		return &api.Error{
			Kind: api.Stalled, Reason: ReasonCrash, File: where,
			Err: fmt.Errorf("%s cannot be rendered: %w", what, crash), Hint: "look for templates that include themselves, and for " + look + "; it is tried again when it changes, or after an hour",
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return &api.Error{Kind: api.Transient, Reason: "RenderWorker", File: where, Err: fmt.Errorf("%s cannot be rendered now: %w", what, err)}
}

// Serve does what Remote asks, until there is nothing more to do. The process does nothing else.
func Serve(in io.Reader, out io.Writer) error {
	c, err := newCodec()
	if err != nil {
		return err
	}
	return sandbox.Serve(in, out, func(message []byte, ask func([]byte) ([]byte, error)) []byte {
		var req Request
		err := c.dec.Unmarshal(message, &req)
		if err == nil && (req.Chart == nil) == (req.Kustomization == nil) {
			err = errors.New("a request is for one chart or one kustomization")
		}
		var result Result
		if err == nil {
			result, err = Local{}.Run(context.Background(), req, files{c, ask, map[call]answer{}}) // the process ends with whoever asks
		}
		message, err = c.enc.Marshal(replyOf(result, err))
		if err == nil {
			return message
		}
		message, err = c.enc.Marshal(reply{Err: failureOf(fmt.Errorf("send a rendering: %w", err))})
		if err != nil { // a text can be sent
			return nil
		}
		return message
	})
}
