package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/hub/view"
	"github.com/flotilla-fleet/flotilla/internal/agent"
)

func (d *demo) startHub(ctx context.Context) error {
	people, err := d.port(ctx, "hub")
	if err != nil {
		return err
	}
	agents, err := d.port(ctx, "hub-agents")
	if err != nil {
		return err
	}
	dir := d.path("hub")
	d.hubRun = d.start("hub", "hub", "--dir", dir, "--listen", people, "--agent-listen", agents,
		"--host", "127.0.0.1", "--advertise", "https://"+agents)
	d.hub.URL = "http://" + people
	if err := await(ctx, d.hubRun, func() error { return probe(ctx, d.hub.URL+"/healthz") }); err != nil {
		return err
	}
	token, err := os.ReadFile(filepath.Join(dir, "admin-token"))
	d.hub.Token = strings.TrimSpace(string(token))
	return err
}

// startAgents lets each agent join the hub, the first time, and runs it.
func (d *demo) startAgents(ctx context.Context) error {
	for i, name := range d.names {
		args := []string{
			"agent", "--cluster", name, "--kubeconfig", d.planes[i].Kubeconfig(),
			"--repo", d.repo.URL, "--dir", d.path("agents", name, "data"),
			"--age-key", filepath.Join(d.path("example"), "demo-age-key.txt"),
			"--poll", "1s",
		}
		join := d.path("agents", name, "join.json")
		if _, err := os.Stat(join); err != nil {
			if err := d.makeJoinFile(ctx, name, join); err != nil {
				return err
			}
		}
		d.runs = append(d.runs, d.start("agent-"+name, append(args, "--join", join)...))
	}
	return nil
}

// makeJoinFile asks the hub for what an agent needs to join, as an operator would.
func (d *demo) makeJoinFile(ctx context.Context, cluster, file string) error {
	var material agent.JoinMaterial
	if err := d.ask(ctx, http.MethodPost, "/api/v1/join-tokens", map[string]string{"cluster": cluster}, &material); err != nil {
		return err
	}
	b, err := json.Marshal(material)
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}

// awaitReady waits until every cluster matches Git, and says how far it is.
func (d *demo) awaitReady(ctx context.Context) error {
	last, changed := "", time.Now()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for {
		var list view.List[view.Cluster]
		err := d.ask(ctx, http.MethodGet, "/api/v1/clusters", nil, &list)
		ready, line := 0, ""
		for _, c := range list.Items {
			if c.Ready {
				ready++
			}
			line += fmt.Sprintf("  %s %d/%d", c.Name, c.ReadyBundles, c.Bundles)
		}
		if err == nil && ready == len(d.names) {
			return nil
		}
		if line != last {
			last, changed = line, time.Now()
			d.say.Printf("    bundles ready:%s\n", line)
		}
		if time.Since(changed) > 2*time.Minute {
			return fmt.Errorf("nothing has moved for two minutes: %s", d.troubles(list.Items, err))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", ctx.Err(), d.troubles(list.Items, err))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// troubles says what keeps clusters from being ready.
func (d *demo) troubles(cs []view.Cluster, err error) string {
	var out []string
	if err != nil {
		out = append(out, err.Error())
	}
	for _, c := range cs {
		if !c.Ready {
			out = append(out, fmt.Sprintf("%s: %s", c.Name, c.Reason))
			if c.Error != nil {
				out = append(out, c.Error.Message)
			}
		}
	}
	for _, p := range d.runs {
		if err := p.lastError(); err != nil {
			out = append(out, err.Error())
		}
	}
	return strings.Join(out, "; ")
}

// ask calls the hub's JSON API.
func (d *demo) ask(ctx context.Context, method, path string, body, into any) error {
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		payload = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, d.hub.URL+path, payload)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+d.hub.Token)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		return fmt.Errorf("the hub answers %s %s with %s: %s", method, path, res.Status, b)
	}
	return json.Unmarshal(b, into)
}
