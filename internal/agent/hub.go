package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/client"
)

// JoinMaterial is what a hub gives out for one agent to join it, as the join file holds it.
type JoinMaterial struct {
	// URL is where agents connect.
	URL   string `json:"url"`
	Token string `json:"token"`
	// CAHash pins the hub's certificate authority: "sha256:…".
	CAHash string `json:"caHash"`
}

// ReadJoinFile reads join material from a file. The token never stands in an error.
func ReadJoinFile(file string) (JoinMaterial, error) {
	var m JoinMaterial
	b, err := os.ReadFile(file)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil || m.URL == "" || m.Token == "" {
		return m, &api.Error{
			Kind: api.Stalled, Reason: "BadJoinFile", File: file,
			Err: errors.New("this is no join material: it needs url, token and caHash"), Hint: "make one with POST /api/v1/join-tokens at the hub",
		}
	}
	return m, nil
}

// IdentityDir is where an agent's identity at the hub lies below its directory.
func IdentityDir(dir string) string { return filepath.Join(dir, "identity") }

// join makes the client of the hub. An agent that has joined before does not need its join file again.
// It returns nil if there is no hub.
func (a *Agent) join(ctx context.Context) (*client.Client, error) {
	dir := IdentityDir(a.cfg.Dir)
	_, err := client.LoadIdentity(dir)
	switch {
	case err == nil:
	case a.cfg.JoinFile == "" && errors.Is(err, client.ErrNoIdentity):
		a.cfg.Log.Info("no hub: drift is kept in the store, and shown by the BundleDeployments")
		return nil, nil //nolint:nilnil // no hub is a choice, not an error
	case a.cfg.JoinFile == "":
		return nil, err
	default:
		if err := a.enroll(ctx, dir); err != nil {
			return nil, err
		}
	}
	return client.New(client.Config{
		Dir: dir, Cluster: a.cfg.Cluster, Outbox: a.store, Commands: a.command,
		Version: a.cfg.Version, Log: a.cfg.Log.With("component", "hub-client"), Now: a.now,
	})
}

// enroll joins the hub, and keeps trying while the hub cannot be reached.
func (a *Agent) enroll(ctx context.Context, dir string) error {
	m, err := ReadJoinFile(a.cfg.JoinFile)
	if err != nil {
		return err
	}
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		_, err := client.Join(ctx, client.JoinConfig{
			URL: m.URL, Token: m.Token, CAHash: m.CAHash, Cluster: a.cfg.Cluster,
			AgentID: a.store.AgentID(), Version: a.cfg.Version, Dir: dir,
		})
		if err == nil {
			a.cfg.Log.Info("joined the hub", "hub", m.URL)
			return nil
		}
		if k := api.KindOf(err); k == api.Forbidden || k == api.Stalled || ctx.Err() != nil {
			return err
		}
		a.cfg.Log.Warn("join", "error", err, "retry", wait)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// command does what somebody ordered through the hub.
func (a *Agent) command(ctx context.Context, c client.Command) (any, error) {
	switch c.Kind {
	case client.CommandSync:
		return nil, a.reconciler.Sync(c.Name)
	case client.CommandSuspend:
		s := *c.Suspension
		s.Actor = c.Actor
		if err := s.Validate(a.now(), a.reconciler.SuspendMax()); err != nil {
			return nil, &api.Error{Kind: api.Stalled, Reason: "BadSuspension", Err: err}
		}
		return a.applier.Suspend(ctx, s)
	case client.CommandResume:
		return nil, a.resume(ctx, c.Name)
	default:
		return nil, &api.Error{Kind: api.Stalled, Reason: "UnknownCommand", Err: fmt.Errorf("this agent does not know the command %q", c.Kind)}
	}
}

// resume ends one suspension, or all.
func (a *Agent) resume(ctx context.Context, name string) error {
	if name != "" {
		return a.applier.Resume(ctx, name)
	}
	all, err := a.applier.Suspensions(ctx)
	if err != nil && len(all) == 0 { // one that cannot be understood is among them, and ends too
		return err
	}
	var errs []error
	for _, s := range all {
		errs = append(errs, a.applier.Resume(ctx, s.Name))
	}
	return errors.Join(errs...)
}
