package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/deploy"
	"github.com/flotilla-fleet/flotilla/drift/persons"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/install"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
)

// removal is what the two uninstall commands have in common.
type removal struct {
	component install.Component
	kube      kube
	yes       bool
	// objects: the agent's bundles are deleted, too. data: the hub's volume is.
	objects, data bool
}

func newUninstall() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "uninstall agent|hub",
		Short: "Take the agent or the hub off a cluster",
		Long: `Take the agent or the hub off a cluster. What bundles own stays, and is nobody's afterwards,
unless --delete-objects is given.`,
		Example: `  flotilla uninstall agent --kubeconfig prod-eu.kubeconfig
  flotilla uninstall hub --delete-data`,
		Args: noSubcommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newUninstallAgent(), newUninstallHub())
	return cmd
}

func newUninstallAgent() *cobra.Command {
	r := removal{component: install.Agent}
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Take the agent off a cluster",
		Long: `Take the agent off the cluster of --kubeconfig: its Pod, rights, definitions, policies and namespace.

What its bundles own stays as it is, without flotilla's labels. With --delete-objects it is deleted,
after all of it was shown: namespaces, volumes and all that stands in them, too.
An agent that runs somewhere else has to be stopped first.`,
		Example: `  flotilla uninstall agent --kubeconfig prod-eu.kubeconfig
  flotilla uninstall agent --delete-objects --yes`,
		Args: noArgs,
	}
	r.kube.flags(cmd)
	cmd.Flags().BoolVar(&r.objects, "delete-objects", false, "delete what the agent's bundles own, too")
	cmd.Flags().BoolVarP(&r.yes, "yes", "y", false, "do not ask")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return r.run(cmd) }
	return cmd
}

func newUninstallHub() *cobra.Command {
	r := removal{component: install.Hub}
	cmd := &cobra.Command{
		Use:   "hub",
		Short: "Take the hub off a cluster",
		Long: `Take the hub off the cluster of --kubeconfig. Its volume, with the history of the fleet and
the authority that agents trust, stays, unless --delete-data is given. Agents go on without it.`,
		Example: `  flotilla uninstall hub`,
		Args:    noArgs,
	}
	r.kube.flags(cmd)
	cmd.Flags().BoolVar(&r.data, "delete-data", false, "delete the hub's volume, too")
	cmd.Flags().BoolVarP(&r.yes, "yes", "y", false, "do not ask")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return r.run(cmd) }
	return cmd
}

func (r removal) run(cmd *cobra.Command) error {
	ctx, talk := cmd.Context(), errOf(cmd)
	applier, err := r.kube.applier(quiet(cmd))
	if err != nil {
		return err
	}
	live, err := applier.Live(ctx, r.component.Workload())
	if err != nil {
		return err
	}
	tool := install.Owner(live)
	itself := r.component == install.Agent && tool == install.FleetRepository
	if tool != "" && !itself {
		return &api.Error{
			Kind: api.Forbidden, Reason: "InstalledByOther",
			Err:  fmt.Errorf("cannot uninstall the %s: %s is managed by %s, which would put it back", r.component, r.component.Workload(), tool),
			Hint: "take it out there first",
		}
	}
	owned := map[string][]api.InventoryEntry{}
	if r.component == install.Agent {
		if owned, err = install.Inventory(ctx, applier); err != nil {
			return err
		}
		if err := r.suspended(ctx, applier); err != nil {
			return err
		}
	}
	own := map[string][]api.InventoryEntry{}
	if itself {
		own[deploy.Bundle] = owned[deploy.Bundle]
		delete(owned, deploy.Bundle)
	}
	r.tell(talk, live, owned)
	if !r.yes {
		if err := agree(cmd.InOrStdin(), talk); err != nil {
			return err
		}
	}
	renderer, err := newRenderer(nil)
	if err != nil {
		return err
	}
	defer renderer.Close()
	objects, err := deploy.Everything(ctx, renderer, string(r.component))
	if err != nil {
		return err
	}
	if r.component == install.Hub {
		return r.hub(ctx, talk, applier, objects)
	}
	if itself {
		if err := hush(ctx, applier); err != nil {
			return err
		}
	}
	return r.agent(ctx, talk, applier, objects, owned, own)
}

// hushWithin is how long an agent has to see that its own bundle is suspended.
const hushWithin = time.Minute

// hush keeps an agent that manages itself from putting back what is taken away.
func hush(ctx context.Context, applier *agent.Target) error {
	s, err := applier.Suspend(ctx, api.Suspension{
		Scope: api.Scope{Bundles: []string{deploy.Bundle}}, Reason: "flotilla uninstall agent", Until: time.Now().Add(time.Hour),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, hushWithin)
	defer cancel()
	for {
		life, err := applier.Life(ctx)
		if err == nil && !life.Works() {
			return nil // nobody who would put anything back
		}
		bundles, err := applier.BundleStatuses(ctx)
		if slices.ContainsFunc(bundles, func(b api.BundleStatus) bool { return b.Name == deploy.Bundle && b.Suspended == s.Name }) {
			return nil
		}
		select {
		case <-ctx.Done():
			// Nobody uninstalls now, so the agent looks after its own bundle again.
			ended := applier.Resume(context.WithoutCancel(ctx), s.Name)
			return errors.Join(err, ended, &api.Error{
				Kind: api.Waiting, Reason: "AgentBusy", Err: errors.New("cannot uninstall the agent: it does not take notice of the suspension of its own bundle, and would put back what goes"),
				Hint: "see flotilla status, or end it with: kubectl -n " + api.SystemNamespace + " scale deployment/flotilla-agent --replicas=0",
			})
		case <-time.After(installPoll):
		}
	}
}

// suspended refuses to delete what a suspension holds.
func (r removal) suspended(ctx context.Context, applier *agent.Target) error {
	if !r.objects {
		return nil
	}
	set, err := applier.Suspensions(ctx)
	if e, ok := errors.AsType[*api.Error](err); ok && e.Reason == "KindMissing" {
		return nil
	}
	if err != nil || len(set) == 0 {
		return err
	}
	return &api.Error{
		Kind: api.Forbidden, Reason: "Suspended", Err: fmt.Errorf("cannot delete objects: the suspension %q holds (%s)", set[0].Name, set[0].Reason),
		Hint: "end it with: flotilla resume " + set[0].Name,
	}
}

// tell says what goes and what stays.
func (r removal) tell(w *terminal.Printer, live *unstructured.Unstructured, owned map[string][]api.InventoryEntry) {
	if live == nil {
		w.Printf("There is no %s here that flotilla install made; what it may have left goes.\n", r.component)
	}
	total := 0
	for _, bundle := range slices.Sorted(maps.Keys(owned)) {
		total += len(owned[bundle])
		if r.objects {
			for _, e := range owned[bundle] {
				w.Printf("- %s  (bundle %s)\n", e.Object, bundle)
			}
		}
	}
	switch {
	case r.objects:
		w.Printf("%d objects of %d bundles are deleted, with all that stands in them.\n", total, len(owned))
	case r.component == install.Agent:
		w.Printf("%d objects of %d bundles stay as they are, and nobody looks after them any more.\n", total, len(owned))
	case r.data:
		w.Println("The hub's volume is deleted: the history of the fleet, and the authority that agents trust.")
	default:
		w.Println("The hub's volume stays: a hub that is installed again finds the fleet as it was.")
	}
}

// agree asks.
func agree(in io.Reader, talk *terminal.Printer) error {
	talk.Printf("Go on? [y/N] ")
	line, err := bufio.NewReader(in).ReadString('\n')
	answer := strings.ToLower(strings.TrimSpace(line))
	if answer == "y" || answer == "yes" {
		return nil
	}
	e := &api.Error{Kind: api.Stalled, Reason: "NotConfirmed", Err: errors.New("nothing was uninstalled")}
	if err != nil && line == "" {
		e.Hint = "give --yes in scripts"
	}
	return e
}

// takeoverWithin is how long an agent has to end: its Pod's grace period, and the time for a challenge.
const takeoverWithin = time.Minute

func (r removal) agent(ctx context.Context, talk *terminal.Printer, applier *agent.Target, objects []*unstructured.Unstructured, owned, own map[string][]api.InventoryEntry) error {
	if err := applier.RemoveOwn(ctx, []*unstructured.Unstructured{named(r.component.Workload())}); err != nil {
		return err
	}
	if err := r.takeover(ctx, applier); err != nil {
		return err
	}
	talk.Println("the agent has ended")
	what := install.Leave
	if r.objects {
		what = install.Delete
	}
	if err := install.Disown(ctx, applier, owned, what, func(bundle string, n int) {
		talk.Printf("bundle %s: %d objects let go\n", bundle, n)
	}); err != nil {
		return err
	}
	// What the agent's own bundle has goes with the rest of the installation.
	if err := install.Disown(ctx, applier, own, install.Leave, func(string, int) {}); err != nil {
		return err
	}
	made, err := agentsOwn()
	if err != nil {
		return err
	}
	return r.household(ctx, talk, applier, slices.Concat(made, objects))
}

// takeover waits for the agent's end, on a cluster on which there was one.
func (r removal) takeover(ctx context.Context, applier *agent.Target) error {
	lease, err := applier.Live(ctx, cluster.LeaseRef())
	if err != nil || lease == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, takeoverWithin)
	defer cancel()
	return install.Takeover(ctx, applier, time.Second)
}

// agentsOwn are the objects that an agent makes beside its bundles'.
func agentsOwn() ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	for _, crd := range cluster.CRDs() {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(crd, &o.Object); err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	out = append(out, persons.StampPolicy("", "")...)
	return append(out, named(cluster.ReportRef()), named(cluster.LeaseRef())), nil
}

// named is an object of which only the name counts: it is to be deleted.
func named(ref api.ObjectRef) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{}}
	o.SetGroupVersionKind(ref.GVK())
	o.SetNamespace(ref.Namespace)
	o.SetName(ref.Name)
	return o
}

func (r removal) hub(ctx context.Context, talk *terminal.Printer, applier *agent.Target, objects []*unstructured.Unstructured) error {
	if r.data {
		claim := named(api.ObjectRef{Version: "v1", Kind: "PersistentVolumeClaim", Namespace: api.SystemNamespace, Name: "data-flotilla-hub-0"})
		objects = append([]*unstructured.Unstructured{claim}, objects...)
	}
	return r.household(ctx, talk, applier, objects)
}

// household deletes flotilla's own objects, and the namespace if nothing else of flotilla's is in it.
func (r removal) household(ctx context.Context, talk *terminal.Printer, applier *agent.Target, objects []*unstructured.Unstructured) error {
	keep, err := r.namespaceStays(ctx, applier)
	if err != nil {
		return err
	}
	var namespaces, rest []*unstructured.Unstructured
	for _, o := range objects {
		if o.GetKind() == "Namespace" {
			namespaces = append(namespaces, o)
		} else {
			rest = append(rest, o)
		}
	}
	if err := applier.RemoveOwn(ctx, rest); err != nil {
		return err
	}
	if keep != "" {
		talk.Printf("the namespace %s stays: %s\n", api.SystemNamespace, keep)
	} else if err := applier.RemoveOwn(ctx, namespaces); err != nil {
		return err
	}
	talk.Printf("the %s is gone\n", r.component)
	return nil
}

// namespaceStays says why flotilla's namespace is kept; empty if it goes.
func (r removal) namespaceStays(ctx context.Context, applier *agent.Target) (string, error) {
	other := install.Hub
	if r.component == install.Hub {
		other = install.Agent
		if !r.data {
			return "it holds the hub's volume", nil
		}
	}
	live, err := applier.Live(ctx, other.Workload())
	if err != nil || live == nil {
		return "", err
	}
	return fmt.Sprintf("the %s is there", other), nil
}
