package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/flotilla-fleet/flotilla/test/browser"
)

// A drift appears on the dashboard without reloading, with its field, both values and who it was: a mark that a reload would wipe is still there.
func TestBrowser_driftAppearsWithoutReloading(t *testing.T) {
	suspend(t, "prod-eu", "--bundle", "podinfo", "--for", "10m", "--reason", "INC-3")
	want, err := replicas(t.Context(), kube(t, "prod-eu"))
	if err != nil {
		t.Fatal(err)
	}
	ctx := browser.Start(t, 2*patience)
	if err := chromedp.Do(ctx, chromedp.Navigate(world.file.Hub.URL+"/c/prod-eu?token="+world.file.Hub.Token)); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`window.notReloaded = true`)); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	scale(t, "prod-eu", want+7, "kubectl-apply")
	shown := fmt.Sprintf(`["/spec/replicas", "%d → %d", "kubectl-apply"].every((w) => document.body.innerText.includes(w))`, want, want+7)
	if _, err := chromedp.Run(ctx, chromedp.Poll[bool](shown,
		chromedp.WithPollingInterval(20*time.Millisecond), chromedp.WithPollingTimeout(patience))); err != nil {
		t.Fatal(err)
	}
	promised(t, "the drift is on the page with field, both values and manager", begun, shownWithin)
	still, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`window.notReloaded === true`))
	if err != nil {
		t.Fatal(err)
	}
	if !still {
		t.Fatal("the page was reloaded")
	}
}
