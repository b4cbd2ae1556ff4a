package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/client"
	"github.com/flotilla-fleet/flotilla/internal/suggest"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
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
	bad := func(err error) (JoinMaterial, error) {
		return JoinMaterial{}, &api.Error{Kind: api.Stalled, Reason: "BadJoinFile", File: file, Err: err, Hint: "make one with flotilla join"}
	}
	b, err := os.ReadFile(file)
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return bad(e.Err)
	}
	if err != nil {
		return bad(err)
	}
	var m JoinMaterial
	if err := json.Unmarshal(b, &m); err != nil || m.URL == "" || m.Token == "" || m.CAHash == "" {
		return bad(errors.New("this is no join material: it needs url, token and caHash"))
	}
	if err := m.config().Validate(); err != nil {
		return bad(err)
	}
	return m, nil
}

func (m JoinMaterial) config() client.JoinConfig {
	return client.JoinConfig{URL: m.URL, Token: m.Token, CAHash: m.CAHash}
}

// IdentityDir is where an agent's identity at the hub lies below its directory.
func IdentityDir(dir string) string { return filepath.Join(dir, "identity") }

// checkJoin refuses a join file that makes no sense: that is a mistake in the configuration.
// Whether one that is not there is missed, hub says: it may have been removed after it had been used.
func (c Config) checkJoin() error {
	if c.JoinFile == "" {
		return nil
	}
	_, err := ReadJoinFile(c.JoinFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// hub makes the client of the hub, without asking the hub anything: the cluster must not wait for it.
// It returns nil if there is no hub. It is to be called while the Lease is held, and before the store makes a report.
func (a *Agent) hub(ctx context.Context) (*client.Client, error) {
	dir := IdentityDir(a.cfg.Dir)
	_, err := client.LoadIdentity(dir)
	if errors.Is(err, client.ErrNoIdentity) && a.restoreIdentity(ctx, dir) {
		err = nil
	}
	if errors.Is(err, client.ErrNoIdentity) {
		if a.cfg.JoinFile == "" {
			a.cfg.Log.Info("no hub: drift is kept in the store, and shown by the BundleDeployments")
			return nil, nil //nolint:nilnil // no hub is a choice, not an error
		}
		if _, err := ReadJoinFile(a.cfg.JoinFile); err != nil {
			return nil, err
		}
	}
	return client.New(client.Config{
		Dir: dir, Cluster: a.cfg.Cluster, Outbox: a.store, Commands: a.command, Keep: a.target.KeepIdentity, Reached: a.reconciler.Reached,
		Version: a.cfg.Version, Log: a.cfg.Log.With("component", "hub-client"), Now: a.now,
	})
}

// The identity that the cluster keeps is asked for so often, and not for longer: the Lease is not answered for meanwhile.
const (
	restoreTries  = 3
	restoreWithin = 10 * time.Second
)

// restoreIdentity puts the identity that the cluster keeps where the disk has none. The agent is then the same at the hub.
func (a *Agent) restoreIdentity(ctx context.Context, dir string) bool {
	ctx, cancel := context.WithTimeout(ctx, restoreWithin)
	defer cancel()
	kept, err := a.target.Identity(ctx)
	for try := 1; err != nil && try < restoreTries && kube.Pause(ctx, time.Second) == nil; try++ {
		kept, err = a.target.Identity(ctx)
	}
	if err == nil && kept == nil {
		return false
	}
	if err == nil {
		err = client.RestoreIdentity(dir, a.cfg.Cluster, kept, a.store.Adopt)
	}
	if err != nil {
		a.cfg.Log.Warn("the identity at the hub that the cluster keeps cannot be used", "error", err)
		return false
	}
	a.cfg.Log.Info("the identity at the hub is that which the cluster kept", "agent", a.store.AgentID())
	return true
}

const (
	// joinLook is how often the join file is looked at.
	joinLook = 5 * time.Second
	// A hub that cannot be reached is soon asked again. One that refused is not: it notes every attempt.
	joinWait, joinWaitMax       = time.Second, time.Minute
	refusedWait, refusedWaitMax = time.Minute, 15 * time.Minute
)

// joiner joins the hub with the join file, and joins anew when there is another one.
type joiner struct {
	*Agent
	client *client.Client

	// tried is what was tried last; before next it is not tried again. wait is how long that is.
	tried JoinMaterial
	next  time.Time
	wait  time.Duration
	// told is the last error that a human must mend: it is logged once.
	told string
}

// keepJoined looks at the join file until ctx ends. Whatever the hub says, the agent goes on.
func (a *Agent) keepJoined(ctx context.Context, c *client.Client) error {
	j := &joiner{Agent: a, client: c}
	for {
		pause := joinLook
		if due := j.look(ctx); !due.IsZero() {
			pause = min(pause, time.Until(due))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// look joins the hub if that is needed and due. It returns when the next attempt is due, zero for none.
func (j *joiner) look(ctx context.Context) time.Time {
	m, err := ReadJoinFile(j.cfg.JoinFile)
	switch {
	case errors.Is(err, fs.ErrNotExist): // removed after it was used, or about to be replaced
		return time.Time{}
	case err != nil:
		j.tell(err)
		return time.Time{}
	case j.joinedWith(m):
		j.told = ""
		return time.Time{}
	}
	if m != j.tried {
		j.tried, j.next, j.wait, j.told = m, time.Time{}, 0, ""
	}
	if time.Now().Before(j.next) {
		return j.next
	}
	err = j.client.Join(ctx, m.config())
	switch k := api.KindOf(err); {
	case err == nil:
		j.cfg.Log.Info("joined the hub", "hub", m.URL)
		return time.Time{}
	case ctx.Err() != nil:
		return time.Time{}
	case k == api.Forbidden || k == api.Stalled:
		j.wait = min(max(2*j.wait, refusedWait), refusedWaitMax)
		j.tell(err)
	default:
		j.wait = min(max(2*j.wait, joinWait), joinWaitMax)
		j.cfg.Log.Warn("cannot join the hub yet", "error", err, "retry", j.wait)
	}
	j.next = time.Now().Add(j.wait)
	return j.next
}

// joinedWith says whether the identity on disk is this agent's and comes from the join material.
// That of a store that was lost is another agent's.
func (j *joiner) joinedWith(m JoinMaterial) bool {
	id, err := client.LoadIdentity(IdentityDir(j.cfg.Dir))
	return err == nil && id.Joined == m.config().Digest() && id.Cluster == j.cfg.Cluster && id.AgentID == j.store.AgentID()
}

// tell logs an error that lasts until somebody acts.
func (j *joiner) tell(err error) {
	if s := err.Error(); s != j.told {
		j.told = s
		j.cfg.Log.Error("cannot join the hub; the cluster is kept as Git says all the same", "file", j.cfg.JoinFile, "error", err)
	}
}

// command does what somebody ordered through the hub.
func (a *Agent) command(ctx context.Context, c client.Command) (any, error) {
	// A hub that was taken over may order anything.
	switch c.Kind {
	case client.CommandSync:
		if c.Name != "" && !api.ValidName(c.Name) {
			return nil, &api.Error{Kind: api.Stalled, Reason: api.ReasonImpossibleName, Err: fmt.Errorf("no bundle can have the name %.100q", c.Name)}
		}
		return nil, a.reconciler.Sync(c.Name)
	case client.CommandSuspend:
		s := *c.Suspension
		s.Actor = c.Actor
		if err := s.Validate(a.now(), a.reconciler.SuspendMax()); err != nil {
			return nil, &api.Error{Kind: api.Stalled, Reason: api.ReasonBadSuspension, Err: err}
		}
		if err := a.mustHave(ctx, s.Scope); err != nil && !c.Force {
			return nil, err
		}
		return a.target.Suspend(ctx, s)
	case client.CommandResume:
		return a.resume(ctx, c.Name)
	default:
		return nil, &api.Error{Kind: api.Stalled, Reason: "UnknownCommand", Err: fmt.Errorf("this agent does not know the command %q", c.Kind)}
	}
}

// mustHave refuses a scope that names what the cluster does not have: a suspension of a mistyped name holds nothing.
// Where it cannot be looked up, the scope is taken as it is: breaking glass must not depend on that.
func (a *Agent) mustHave(ctx context.Context, scope api.Scope) error {
	if scope.All {
		return nil
	}
	inventory, err := a.target.Inventory(ctx)
	if err != nil {
		a.cfg.Log.Warn("cannot look up what a suspension names: it is taken as it is", "scope", scope.String(), "error", err)
		return nil
	}
	// Of a bundle that has nothing yet, or an object that is missing now, the agent knows all the same.
	statuses, err := a.target.BundleStatuses(ctx)
	if err != nil {
		return nil //nolint:nilerr // as above
	}
	open, err := a.store.OpenEpisodes()
	if err != nil {
		return err
	}
	return missing(scope, inventory, statuses, open)
}

// missing is an error about the first thing of a scope that is nowhere among what a cluster has.
func missing(scope api.Scope, inventory map[string][]api.InventoryEntry, statuses []api.BundleStatus, open []api.Episode) error {
	const ask = "; \"force\": true suspends it all the same, for when it comes"
	bundles := slices.Collect(maps.Keys(inventory))
	for _, b := range statuses {
		bundles = append(bundles, b.Name)
	}
	slices.Sort(bundles)
	bundles = slices.Compact(bundles)
	for _, name := range scope.Bundles {
		if !slices.Contains(bundles, name) {
			e := suggest.NoBundle(name, "", bundles)
			e.Hint += ask
			return e
		}
	}
	objects := suggest.Objects(inventory, open)
	for _, want := range scope.Objects {
		one := api.Scope{Objects: []api.ObjectRef{want}}
		if slices.ContainsFunc(objects, func(o api.ObjectRef) bool { return one.Covers("", o) }) {
			continue
		}
		e := suggest.NoObject(want.String(), alike(want, objects))
		e.Hint += ask
		return e
	}
	return nil
}

// alike are the objects of the same kind as one, or all if there are none.
func alike(want api.ObjectRef, objects []api.ObjectRef) []string {
	var same, all []string
	for _, o := range objects {
		all = append(all, o.String())
		if strings.EqualFold(o.Kind, want.Kind) {
			same = append(same, o.String())
		}
	}
	if len(same) > 0 {
		all = same
	}
	return slices.Compact(all)
}

// resumed is what ended by a command.
type resumed struct {
	Names []string `json:"resumed"`
}

// resume ends one suspension, or all. One that is not there is an error: whoever mistypes a name must not believe that it ended.
func (a *Agent) resume(ctx context.Context, name string) (resumed, error) {
	if name != "" {
		if err := api.CheckSuspensionName(name); err != nil {
			return resumed{}, err
		}
	}
	all, err := a.target.Suspensions(ctx)
	if err != nil && len(all) == 0 { // one that cannot be understood is among them, and ends too
		return resumed{}, err
	}
	out := resumed{Names: []string{}}
	var errs []error
	for _, s := range all {
		if name != "" && s.Name != name {
			continue
		}
		if err := a.target.Resume(ctx, s.Name); err != nil {
			errs = append(errs, err)
			continue
		}
		out.Names = append(out.Names, s.Name)
	}
	if name != "" && len(out.Names)+len(errs) == 0 {
		return out, noSuspension(name, all)
	}
	return out, errors.Join(errs...)
}

// noSuspension says which suspensions there are instead.
func noSuspension(name string, all api.Suspensions) error {
	e := &api.Error{Kind: api.Stalled, Reason: api.ReasonNoSuchSuspension, Err: fmt.Errorf("there is no suspension %q", name), Hint: "nothing is suspended on this cluster by an object"}
	if name == api.GitSuspension {
		e.Hint = "the suspension in Git ends when spec.suspend is taken out of cluster.yaml, or at its end"
		return e
	}
	for i, s := range all {
		switch i {
		case 0:
			e.Hint = "there are: " + s.Name
		case 20:
			e.Hint += fmt.Sprintf(" and %d more", len(all)-i)
			return e
		default:
			e.Hint += ", " + s.Name
		}
	}
	return e
}
