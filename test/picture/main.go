// Command picture makes the README's picture of the dashboard from a demo that runs: it is what a newcomer sees.
//
//	make demo       # in another terminal
//	make picture
//
// It scales podinfo on one cluster by hand while its correction is suspended, so that there is drift to see, and gives it up again.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/chromedp/chromedp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/flotilla-fleet/flotilla/internal/cli"
	"github.com/flotilla-fleet/flotilla/internal/demo"
	"github.com/flotilla-fleet/flotilla/test/browser"
)

func main() {
	demoFile := flag.String("demo", "demo-data/demo.json", "the file of a demo that runs")
	out := flag.String("out", "docs/dashboard.png", "where the picture goes")
	flag.Parse()
	if err := run(context.Background(), *demoFile, *out); err != nil {
		fmt.Fprintln(os.Stderr, "picture:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, demoFile, out string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	data, err := os.ReadFile(demoFile)
	if err != nil {
		return fmt.Errorf("%w; run make demo first", err)
	}
	var d demo.File
	if err := json.Unmarshal(data, &d); err != nil {
		return fmt.Errorf("%s: %w", demoFile, err)
	}
	kubeconfig := d.Clusters[len(d.Clusters)-1].Kubeconfig
	if err := flotilla(ctx, "suspend", "--kubeconfig", kubeconfig, "--bundle", "podinfo", "--for", "10m", "--reason", "INC-4711: load test"); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, flotilla(context.WithoutCancel(ctx), "resume", "--kubeconfig", kubeconfig, "--all", "--yes"))
	}()
	if err := scale(ctx, kubeconfig); err != nil {
		return err
	}
	return picture(ctx, d.Hub, out)
}

// flotilla runs a command.
func flotilla(ctx context.Context, args ...string) error {
	if code := cli.Execute(ctx, args, cli.IO{In: os.Stdin, Out: os.Stderr, Err: os.Stderr}); code != 0 {
		return fmt.Errorf("flotilla %s: exit code %d", args[0], code)
	}
	return nil
}

// scale changes the replicas of podinfo by hand.
func scale(ctx context.Context, kubeconfig string) error {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	cfg.UserAgent = "kubectl-edit/picture"
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	_, err = client.AppsV1().Deployments("podinfo").Patch(ctx, "podinfo", types.MergePatchType, []byte(`{"spec":{"replicas":5}}`), metav1.PatchOptions{})
	return err
}

// picture waits until the dashboard shows the drift, and writes what it shows.
func picture(ctx context.Context, hub demo.Hub, out string) error {
	dir, err := os.MkdirTemp("", "picture-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, end, err := browser.Open(ctx, dir, time.Minute)
	if err != nil {
		return err
	}
	defer end()
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(1280, 640), chromedp.Navigate(hub.URL+"/?token="+hub.Token)); err != nil {
		return err
	}
	for {
		drifts, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`document.body.innerText.includes("INC-4711")`))
		if err != nil {
			return err
		}
		if drifts {
			break
		}
		if err := chromedp.Do(ctx, chromedp.Navigate(hub.URL+"/")); err != nil {
			return err
		}
		time.Sleep(500 * time.Millisecond)
	}
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Clean(out), png, 0o644)
}
