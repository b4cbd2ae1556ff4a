// Package browser starts a real browser for a test.
//
// It promises that a test either has a browser or fails, with the command that installs one; it never skips.
// It takes the browsers that test/install-chromium is content with, and no others.
package browser

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// names are the browsers that will do, the best first; test/install-chromium has the same.
var names = []string{"chromium", "chromium-browser", "google-chrome"}

// find returns the path of the first browser that is there.
func find(names []string) (string, error) {
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("none of %s is on the PATH: run test/install-chromium", strings.Join(names, ", "))
}

// Start starts a headless browser. It ends with the test, or after the timeout.
func Start(t *testing.T, timeout time.Duration) context.Context {
	t.Helper()
	ctx, end, err := Open(t.Context(), t.TempDir(), timeout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	return ctx
}

// Open is Start for a program: the browser keeps its profile in an empty directory, and ends with the function that Open returns.
func Open(ctx context.Context, dir string, timeout time.Duration) (context.Context, func(), error) {
	path, err := find(names)
	if err != nil {
		return nil, nil, err
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(dir),
		chromedp.WSURLReadTimeout(timeout), // or a slow start would fail sooner
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
	)
	ctx, endProcess := chromedp.NewExecAllocator(ctx, opts...)
	ctx, endTab := chromedp.NewContext(ctx)
	ctx, endTime := context.WithTimeout(ctx, timeout)
	return ctx, func() { endTime(); endTab(); endProcess() }, nil
}
