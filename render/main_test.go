package render_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/flotilla-fleet/flotilla/internal/sandbox"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/engine"
)

// workers run the engines of all tests here: what a worker sends must be what an engine says.
var workers *engine.Remote

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == engine.Word {
		if err := engine.Serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	command, err := sandbox.Self(engine.Word)
	if err == nil {
		workers, err = engine.NewRemote(engine.RemoteConfig{Command: command})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	workers.Close()
	os.Exit(code)
}

// counting counts the charts that are rendered.
type counting struct {
	render.Engine
	charts int
}

func (c *counting) Run(ctx context.Context, req engine.Request, files engine.Files) (engine.Result, error) {
	if req.Chart != nil {
		c.charts++
	}
	return c.Engine.Run(ctx, req, files)
}
