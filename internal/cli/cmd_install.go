package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/deploy"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/install"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
	"github.com/flotilla-fleet/flotilla/sources/git"
)

// installation is what the two install commands have in common.
type installation struct {
	component install.Component
	kube      kube
	image     string
	values    string // file
	printOnly bool
	show      bool
	dryRun    bool
	wait      time.Duration

	// secret holds the files that the component mounts: name → content.
	secret map[string]any
	// firstPass judges more of an agent's progress; nil for nothing more.
	firstPass func(p install.Progress, now api.ClusterStatus, bundles []api.BundleStatus) install.Progress
}

func (i *installation) flags(cmd *cobra.Command) {
	i.kube.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&i.image, "image", "", "image to run, as REPOSITORY:TAG or REPOSITORY@DIGEST (default: the one of this version)")
	f.StringVar(&i.values, "values", "", "file with more values of the chart; see deploy/chart/values.yaml")
	spanVar(f, &i.wait, "wait", 5*time.Minute, "how long to wait until it is ready; 0 does not wait")
}

// printFlags are those of a command that can do less than install.
func (i *installation) printFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&i.printOnly, "print", false, "print the manifests for Git, Terraform or Cluster API, and install nothing")
	f.BoolVar(&i.show, "show-secrets", false, "with --print: print the values of Secrets")
	f.BoolVar(&i.dryRun, "dry-run", false, "say what would change on the cluster, and install nothing")
}

func newInstall() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "install agent|hub",
		Short: "Put an agent or the hub on a cluster",
		Long: `Put an agent or the hub on a cluster, with the chart that is built into this program.
Running it again changes what differs, and nothing else.`,
		Example: `  flotilla install agent --cluster prod-eu --repo https://git.example.com/fleet.git
  flotilla install hub --host hub.example.com`,
		Args: noSubcommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newInstallAgent(), newInstallHub())
	return cmd
}

// noSubcommand refuses a word that is no subcommand.
func noSubcommand(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s: there is no %q\nsee %q", cmd.CommandPath(), args[0], cmd.CommandPath()+" --help")}
	}
	return nil
}

// agentFlags are what an agent is installed with.
type agentFlags struct {
	cluster, repo, branch, rbac   string
	credentials, ca, charts, join string
	sshKey, knownHosts            string
	keys                          []string
}

func (a *agentFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&a.cluster, "cluster", "", "the cluster's name in the fleet repository (required)")
	f.StringVar(&a.repo, "repo", "", "address of the fleet repository (required)")
	f.StringVar(&a.branch, "branch", "main", "branch to follow")
	f.StringVar(&a.rbac, "rbac", "cluster-admin", "the agent's rights: cluster-admin or impersonate-only")
	f.StringVar(&a.credentials, "credentials", "", "file with the repository's credentials")
	f.StringVar(&a.sshKey, "ssh-key", "", "file with a private SSH key for the repository, without a passphrase: a deploy key that may read")
	f.StringVar(&a.knownHosts, "known-hosts", "", "file with the keys of the repository's SSH server, as ssh-keyscan prints them")
	f.StringVar(&a.ca, "git-ca-file", "", "certificate authorities to trust for the repository")
	f.StringVar(&a.charts, "chart-credentials", "", "file with the credentials of chart repositories and registries, like Docker's config.json")
	f.StringVar(&a.join, "join", "", "file with a hub's join material; see flotilla join --help")
	f.StringArrayVar(&a.keys, "age-key", nil, "file with age identities that decrypt Secrets, or NAME=FILE for those of a tenant; may be given more than once")
	complete(cmd, "rbac", "cluster-admin", "impersonate-only")
}

// check refuses flags without which there is no agent.
func (a *agentFlags) check() error {
	if a.cluster == "" || a.repo == "" {
		return usageError{errors.New("--cluster and --repo are needed: what the fleet repository calls this cluster, and where it is")}
	}
	if git.OverSSH(a.repo) && (a.sshKey == "" || a.knownHosts == "") {
		return usageError{errors.New("--ssh-key and --known-hosts are needed for a repository over SSH: the agent has no files of OpenSSH to look into\n" +
			"ssh-keyscan HOST prints what belongs into the file of --known-hosts; compare it with what the server's owner publishes")}
	}
	return nil
}

// mount puts the files into the agent's Secret, and returns the values of the chart that name them there.
func (a *agentFlags) mount(in *installation) (map[string]any, error) {
	values := map[string]any{}
	for value, file := range map[string]string{
		"credentials": a.credentials, "sshKey": a.sshKey, "knownHosts": a.knownHosts, "gitCA": a.ca, "chartCredentials": a.charts, "join": a.join,
	} {
		if err := in.mount(values, value, value, file); err != nil {
			return nil, err
		}
	}
	var mounted []any
	for n, key := range a.keys {
		name, file, tenant := strings.Cut(key, "=")
		if !tenant {
			name, file = "", key
		}
		as := fmt.Sprintf("age-%d.txt", n)
		if err := in.mount(map[string]any{}, "", as, file); err != nil {
			return nil, err
		}
		if tenant {
			as = name + "=" + as
		}
		mounted = append(mounted, as)
	}
	if mounted != nil {
		values["ageKeys"] = mounted
	}
	return values, nil
}

func newInstallAgent() *cobra.Command {
	in := installation{component: install.Agent, secret: map[string]any{}}
	var a agentFlags
	cmd := &cobra.Command{
		Use:   "agent --cluster NAME --repo URL",
		Short: "Put the agent on a cluster, and wait until it has applied the repository",
		Long: `Put the agent on the cluster of --kubeconfig: its namespace, rights, and one Pod.
What is there already and owned by another tool is refused, and nothing is written before
all of it is known to be possible.

The files of --credentials, --ssh-key, --age-key, --join and the like become a Secret that only the agent mounts.

With --rbac impersonate-only the agent may read everything, write its own objects, and act as
service accounts; a bundle without spec.serviceAccount is then denied.`,
		Example: `  flotilla install agent --cluster prod-eu --repo https://git.example.com/fleet.git \
    --credentials git-credentials --age-key age.txt --join join.json
  flotilla install agent --cluster prod-eu --repo https://git.example.com/fleet.git --print > agent.yaml`,
		Args: noArgs,
	}
	in.flags(cmd)
	in.printFlags(cmd)
	a.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := a.check(); err != nil {
			return err
		}
		values, err := a.mount(&in)
		if err != nil {
			return err
		}
		values["enabled"] = true
		values["cluster"], values["repo"], values["branch"], values["rbac"] = a.cluster, a.repo, a.branch, a.rbac
		return in.run(cmd, values)
	}
	return cmd
}

func newInstallHub() *cobra.Command {
	in := installation{component: install.Hub, secret: map[string]any{}}
	hub := map[string]any{"enabled": true}
	var hosts []string
	var advertise, tokens, cert, key string
	cmd := &cobra.Command{
		Use:   "hub --host NAME",
		Short: "Put the hub on a cluster",
		Long: `Put the hub on the cluster of --kubeconfig: one Pod with a volume, and a Service of type ClusterIP.
How agents and people reach that Service from outside is the cluster's own affair: a load balancer
(--values with hub.service.type: LoadBalancer), or a TCP route that leaves TLS alone.`,
		Example: `  flotilla install hub --host hub.example.com --tokens-file tokens
  flotilla install hub --host hub.example.com --print > hub.yaml`,
		Args: noArgs,
	}
	in.flags(cmd)
	in.printFlags(cmd)
	f := cmd.Flags()
	f.StringSliceVar(&hosts, "host", nil, "names and addresses that agents dial the hub by (required)")
	f.StringVar(&advertise, "advertise", "", "address that join material names (default: the first --host, port 7443)")
	f.StringVar(&tokens, "tokens-file", "", "file with a line NAME ROLE TOKEN for each holder; without it the hub makes an admin token")
	f.StringVar(&cert, "tls-cert", "", "certificate for people and scripts")
	f.StringVar(&key, "tls-key", "", "key of --tls-cert")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if len(hosts) == 0 {
			return usageError{errors.New("--host is needed: the name by which agents dial the hub")}
		}
		if (cert == "") != (key == "") {
			return usageError{errors.New("--tls-cert and --tls-key belong together")}
		}
		names := make([]any, len(hosts))
		for i, h := range hosts {
			names[i] = h
		}
		hub["hosts"], hub["advertise"] = names, advertise
		for value, file := range map[string]string{"tokens": tokens, "tlsCert": cert, "tlsKey": key} {
			if err := in.mount(hub, value, value, file); err != nil {
				return err
			}
		}
		return in.run(cmd, hub)
	}
	return cmd
}

// mount has a local file stand in the component's Secret, and a value name it. An empty file name means none.
func (i *installation) mount(values map[string]any, value, as, file string) error {
	if file == "" {
		return nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return usageError{err}
	}
	i.secret[as] = string(data)
	values[value] = as
	return nil
}

// run installs the component with what the flags say of it.
func (i *installation) run(cmd *cobra.Command, component map[string]any) error {
	ctx := cmd.Context()
	if len(i.secret) > 0 {
		component["secret"] = map[string]any{"data": i.secret}
	}
	values, err := i.chartValues(component)
	if err != nil {
		return err
	}
	renderer, err := newRenderer(nil)
	if err != nil {
		return err
	}
	defer renderer.Close()
	if i.printOnly {
		objects, err := deploy.Render(ctx, renderer, values, api.ClusterFacts{})
		if err != nil {
			return err
		}
		return i.print(outOf(cmd), objects)
	}
	applier, err := i.kube.applier(quiet(cmd))
	if err != nil {
		return err
	}
	facts, err := applier.Facts(ctx)
	if err != nil {
		return err
	}
	objects, err := deploy.Render(ctx, renderer, values, facts)
	if err != nil {
		return err
	}
	steps, err := install.Plan(ctx, applier, i.component, objects)
	if err != nil {
		return err
	}
	if i.dryRun {
		printSteps(outOf(cmd), steps)
		return nil
	}
	return i.apply(ctx, errOf(cmd), applier, steps)
}

// chartValues are the flags' over those of --values.
func (i *installation) chartValues(component map[string]any) (map[string]any, error) {
	values, err := i.moreValues()
	if err != nil {
		return nil, err
	}
	image, err := i.imageValue()
	if err != nil {
		return nil, err
	}
	overlay(values, map[string]any{"image": image, string(i.component): component})
	return values, nil
}

// moreValues are those of --values.
func (i *installation) moreValues() (map[string]any, error) {
	values := map[string]any{}
	if i.values == "" {
		return values, nil
	}
	data, err := os.ReadFile(i.values)
	if err != nil {
		return nil, usageError{err}
	}
	if err := yaml.Unmarshal(data, &values); err != nil {
		return nil, &api.Error{Kind: api.Stalled, Reason: "BadValues", File: i.values, Err: err}
	}
	return values, nil
}

// imageValue is what the chart is told of the image: what --image says, or that it is of this version.
func (i *installation) imageValue() (map[string]any, error) {
	image := map[string]any{}
	switch repository, digest, pinned := strings.Cut(i.image, "@"); {
	case pinned:
		image["repository"], image["digest"] = repository, digest
	case i.image != "":
		tag := strings.LastIndex(i.image, ":")
		if tag < strings.LastIndex(i.image, "/") || tag < 0 {
			return nil, usageError{fmt.Errorf("--image %q has no tag: write REPOSITORY:TAG or REPOSITORY@DIGEST", i.image)}
		}
		image["repository"], image["tag"] = i.image[:tag], i.image[tag+1:]
	case version != "dev":
		image["tag"] = version
	}
	return image, nil
}

// overlay puts src over dst, map by map.
func overlay(dst, src map[string]any) {
	for k, v := range src {
		below, ok1 := dst[k].(map[string]any)
		over, ok2 := v.(map[string]any)
		if ok1 && ok2 {
			overlay(below, over)
			continue
		}
		dst[k] = v
	}
}

// print writes the definitions and the chart's objects as YAML.
func (i *installation) print(w *terminal.Printer, objects []*unstructured.Unstructured) error {
	if i.component == install.Agent {
		for _, crd := range cluster.CRDs() {
			w.Printf("---\n%s", terminal.Laid(crd))
		}
	}
	for _, o := range objects {
		doc, err := terminal.YAML(masked(o.Object, maskOf(i.show)))
		if err != nil {
			return err
		}
		w.Printf("---\n%s", terminal.Laid(doc))
	}
	return nil
}

// signs stand before an object that something was, or would be, done to.
var stepSigns = map[api.Action]string{api.Created: "+", api.Updated: "~", api.Unchanged: "="}

func printSteps(w *terminal.Printer, steps []install.Step) {
	for _, s := range steps {
		printStep(w, s)
	}
}

func printStep(w *terminal.Printer, s install.Step) {
	w.Printf("%s %s %s\n", stepSigns[s.Action], s.Object, s.Action)
}

func (i *installation) apply(ctx context.Context, talk *terminal.Printer, applier *agent.Target, steps []install.Step) error {
	before, err := agentReport(ctx, applier)
	if err != nil {
		return err
	}
	return i.applyAfter(ctx, talk, applier, steps, before)
}

// applyAfter is apply, where before is what an agent had reported before anything was changed for it.
func (i *installation) applyAfter(ctx context.Context, talk *terminal.Printer, applier *agent.Target, steps []install.Step, before api.ClusterStatus) error {
	if err := install.Apply(ctx, applier, i.component, steps, func(s install.Step) { printStep(talk, s) }); err != nil {
		return err
	}
	unchanged := !slices.ContainsFunc(steps, func(s install.Step) bool {
		return s.Object.ID() == i.component.Workload().ID() && s.Action != api.Unchanged
	})
	if i.wait == 0 {
		return nil
	}
	return i.await(ctx, talk, applier, before, unchanged)
}

// agentReport is what the agent last told on the cluster; zero if it never told anything.
func agentReport(ctx context.Context, applier *agent.Target) (api.ClusterStatus, error) {
	live, err := applier.Live(ctx, cluster.ReportRef())
	if err != nil || live == nil {
		return api.ClusterStatus{}, err
	}
	report, err := applier.Report(ctx)
	return report.Status, err
}

// installPoll is how often an installation is looked at while somebody waits for it.
const installPoll = time.Second

// await tells how the component comes up, a line for each change, until it is ready or the time is up.
func (i *installation) await(ctx context.Context, talk *terminal.Printer, applier *agent.Target, before api.ClusterStatus, unchanged bool) error {
	end := time.Now().Add(i.wait)
	said := ""
	for {
		p, err := i.progress(ctx, applier, before, unchanged)
		if err != nil {
			return err
		}
		if p.Says != said {
			said = p.Says
			talk.Printf("  %s\n", said)
		}
		if p.Ready {
			talk.Printf("The %s is ready. Next: %s\n", i.component, i.next())
			return nil
		}
		if time.Now().After(end) {
			return &api.Error{
				Kind: api.Waiting, Reason: "NotReady", Err: fmt.Errorf("the %s is installed, and not ready after %s: %s", i.component, i.wait, said),
				Hint: "see: " + i.next() + "; kubectl -n " + api.SystemNamespace + " describe pods; kubectl -n " + api.SystemNamespace + " logs " +
					strings.ToLower(i.component.Workload().Kind) + "/" + i.component.Workload().Name,
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(installPoll):
		}
	}
}

func (i *installation) progress(ctx context.Context, applier *agent.Target, before api.ClusterStatus, unchanged bool) (install.Progress, error) {
	workload, err := applier.Live(ctx, i.component.Workload())
	if err != nil || i.component == install.Hub {
		return install.HubProgress(workload), err
	}
	now, err := agentReport(ctx, applier)
	if err != nil || now.Cluster == "" {
		return install.AgentProgress(workload, before, now, nil, unchanged), err
	}
	bundles, err := applier.BundleStatuses(ctx)
	p := install.AgentProgress(workload, before, now, bundles, unchanged)
	if i.firstPass != nil {
		p = i.firstPass(p, now, bundles)
	}
	return p, err
}

// next is the command that follows an installation.
func (i *installation) next() string {
	on := ""
	if i.kube.kubeconfig != "" {
		on += " --kubeconfig " + shellWord(filepath.Clean(i.kube.kubeconfig))
	}
	if i.kube.context != "" {
		on += " --context " + shellWord(i.kube.context)
	}
	if i.component == install.Hub {
		return "kubectl -n " + api.SystemNamespace + " get service flotilla-hub, and flotilla join --help"
	}
	return "flotilla status" + on
}
