package e2e

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// browser starts a headless Chromium that is logged in at the hub.
func browser(t *testing.T) context.Context {
	t.Helper()
	exe, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v; install it with: apt-get install -y chromium", err)
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(exe), chromedp.NoSandbox,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true))
	alloc, cancel := chromedp.NewExecAllocator(t.Context(), opts...)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 2*patience)
	t.Cleanup(cancel)
	return ctx
}

// A drift appears on the dashboard without reloading: a mark that a reload would wipe is still there.
func TestBrowser_driftAppearsWithoutReloading(t *testing.T) {
	c := cluster(t, "prod-eu")
	flotilla(t, "suspend", "--kubeconfig", c.Kubeconfig, "--bundle", "podinfo", "--for", "10m", "--reason", "INC-3")
	t.Cleanup(func() {
		// t.Context has ended here.
		_ = exec.Command(world.binary, "resume", "--kubeconfig", c.Kubeconfig, "--all", "--yes").Run()
	})
	want, err := replicas(t.Context(), t, "prod-eu")
	if err != nil {
		t.Fatal(err)
	}
	ctx := browser(t)
	if err := chromedp.Do(ctx, chromedp.Navigate(world.file.Hub.URL+"/c/prod-eu?token="+world.file.Hub.Token)); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`window.notReloaded = true`)); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	scale(t, "prod-eu", want+7, "kubectl-apply")
	if _, err := chromedp.Run(ctx, chromedp.Poll[bool](`document.body.innerText.includes("/spec/replicas")`,
		chromedp.WithPollingInterval(20*time.Millisecond), chromedp.WithPollingTimeout(patience))); err != nil {
		t.Fatal(err)
	}
	still, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`window.notReloaded === true`))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the drift was on the page after %d ms", time.Since(begun).Milliseconds())
	if !still {
		t.Fatal("the page was reloaded")
	}
}
