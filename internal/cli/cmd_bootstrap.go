package cli

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/mail"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/deploy"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/bootstrap"
	"github.com/flotilla-fleet/flotilla/internal/install"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
	"github.com/flotilla-fleet/flotilla/sources/git"
)

// bootstrapping is one run of flotilla bootstrap.
type bootstrapping struct {
	installation
	agent   agentFlags
	hub     hubFlags
	labels  map[string]string
	author  string
	upgrade bool
	noPush  bool
	// pushSSHKey is a file. Empty means that the agent's key may push.
	pushSSHKey string

	// objects are the bundle's as the commit that is pushed renders them, and steps what they change on the cluster.
	objects []*unstructured.Unstructured
	steps   []install.Step
}

func newBootstrap() *cobra.Command {
	b := bootstrapping{installation: installation{component: install.Agent, secret: map[string]any{}}}
	cmd := &cobra.Command{
		Use:   "bootstrap --cluster NAME --repo URL",
		Short: "Add a cluster to the repository, with an agent that manages itself",
		Long: `Add a cluster to the fleet repository, put an agent on the cluster of --kubeconfig, and wait
until it has applied everything.

What the repository lacks is pushed as one commit: clusters/NAME/cluster.yaml, and the bundle
flotilla/ that holds the agent itself, for all clusters. A file that is there is not changed.
The agent is installed as that commit says, and follows it from then on: a commit that changes
flotilla/ rolls the agent. Running it again adds what is missing, and nothing else.

The files of --credentials, --ssh-key, --age-key, --join and the like become a Secret on the cluster;
they are not written to Git. The agent only reads the repository; the credentials need the right to
push once, for this command, which --push-credentials or --push-ssh-key can give by itself.`,
		Example: `  flotilla bootstrap --cluster prod-eu --repo https://git.example.com/fleet.git --labels env=prod \
    --credentials git-credentials --hub https://hub.example.com
  flotilla bootstrap --cluster prod-eu --repo git@git.example.com:fleet.git \
    --ssh-key deploy-key --known-hosts known_hosts --push-ssh-key ~/.ssh/id_ed25519
  flotilla bootstrap --cluster prod-eu --repo https://git.example.com/fleet.git --no-push | git apply
  flotilla bootstrap --cluster prod-eu --repo https://git.example.com/fleet.git --upgrade`,
		Args: noArgs,
	}
	b.flags(cmd)
	b.agent.flags(cmd)
	b.hub.flags(cmd)
	f := cmd.Flags()
	f.StringToStringVar(&b.labels, "labels", nil, "labels of the cluster, which bundles select by, as KEY=VALUE,…")
	f.StringVar(&b.author, "author", "flotilla <flotilla@localhost>", "whom the commit names")
	pushCredentials := f.String("push-credentials", "", "file with credentials that may push (default: those of --credentials)")
	f.StringVar(&b.pushSSHKey, "push-ssh-key", "", "file with a private SSH key that may push (default: that of --ssh-key)")
	f.BoolVar(&b.upgrade, "upgrade", false, "replace the chart and the image in the repository by those of this version, for all clusters")
	f.BoolVar(&b.noPush, "no-push", false, "print the commit as a patch, and change nothing")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := b.agent.check(); err != nil {
			return err
		}
		if *pushCredentials == "" {
			*pushCredentials = b.agent.credentials
		}
		return b.run(cmd, *pushCredentials)
	}
	return cmd
}

func (b *bootstrapping) run(cmd *cobra.Command, credentials string) error {
	ctx, talk := cmd.Context(), errOf(cmd)
	by, err := mail.ParseAddress(b.author)
	if err != nil {
		return usageError{fmt.Errorf("--author %q is not NAME <ADDRESS>", b.author)}
	}
	var applier *agent.Target
	var facts api.ClusterFacts
	var before api.ClusterStatus
	if !b.noPush {
		if applier, facts, err = b.cluster(cmd); err != nil {
			return err
		}
		if before, err = agentReport(ctx, applier); err != nil {
			return err
		}
	}
	req, err := b.request(ctx)
	if err != nil {
		return err
	}
	src, done, err := b.source(credentials)
	if err != nil {
		return err
	}
	defer done()
	renderer, err := newRenderer(nil)
	if err != nil {
		return err
	}
	defer renderer.Close()
	var files map[string][]byte
	var head api.Snapshot
	made, err := src.Push(ctx, git.PushRequest{
		By: git.Author{Name: by.Name, Email: by.Address}, Dry: b.noPush,
		Decide: func(now api.Snapshot) (git.Change, error) {
			head = now
			files, err = bootstrap.Decide(now.Tree, req)
			return git.Change{Files: files, Message: b.message()}, err
		},
		Check: func(made api.Snapshot) error { return b.check(ctx, applier, renderer, made, facts) },
	})
	if err != nil {
		return err
	}
	if b.noPush {
		return patch(outOf(cmd), head, files)
	}
	stale := ""
	if len(files) > 0 {
		stale = before.AppliedRevision
		talk.Printf("pushed %.10s to %s: %d files\n", made.Revision, b.agent.branch, len(files))
	} else {
		talk.Println("the repository lacks nothing")
	}
	b.firstPass = func(p install.Progress, now api.ClusterStatus, bundles []api.BundleStatus) install.Progress {
		return install.FirstPass(p, now, bundles, stale)
	}
	return b.applyAfter(ctx, talk, applier, b.steps, before)
}

// cluster connects, and refuses a cluster on which no agent can be.
func (b *bootstrapping) cluster(cmd *cobra.Command) (*agent.Target, api.ClusterFacts, error) {
	applier, err := b.kube.applier(quiet(cmd))
	if err != nil {
		return nil, api.ClusterFacts{}, err
	}
	facts, err := applier.Facts(cmd.Context())
	return applier, facts, err
}

// request reads the files of the flags, and asks the hub to let the agent join.
func (b *bootstrapping) request(ctx context.Context) (bootstrap.Request, error) {
	req := bootstrap.Request{
		Cluster: b.agent.cluster, Labels: b.labels, Repo: b.agent.repo, Branch: b.agent.branch, Upgrade: b.upgrade, Variables: map[string]string{},
	}
	if err := req.Validate(); err != nil {
		return req, err
	}
	values, err := b.agent.mount(&b.installation)
	if err != nil {
		return req, err
	}
	if err := b.join(ctx, values); err != nil {
		return req, err
	}
	for value, variable := range map[string]string{
		"credentials": bootstrap.VarCredentials, "sshKey": bootstrap.VarSSHKey, "knownHosts": bootstrap.VarKnownHosts, "gitCA": bootstrap.VarGitCA, "chartCredentials": bootstrap.VarChartCredentials, "join": bootstrap.VarJoin,
	} {
		if file, ok := values[value].(string); ok {
			req.Variables[variable] = file
		}
	}
	if keys, ok := values["ageKeys"].([]any); ok {
		var names []string
		for _, k := range keys {
			names = append(names, fmt.Sprint(k))
		}
		req.Variables[bootstrap.VarAgeKeys] = strings.Join(names, ",")
	}
	if len(b.secret) > 0 {
		req.Variables[bootstrap.VarSecret] = agentSecret
	}
	if b.agent.rbac != "cluster-admin" {
		req.Variables[bootstrap.VarRBAC] = b.agent.rbac
	}
	if req.Values, err = b.moreValues(); err != nil {
		return req, err
	}
	req.Image, err = b.imageValue()
	return req, err
}

// join asks the hub for join material, before anything is written. A hub that does not answer ends the command.
func (b *bootstrapping) join(ctx context.Context, values map[string]any) error {
	c, err := b.hub.client()
	if err != nil || c == nil || b.agent.join != "" {
		return err
	}
	if b.noPush {
		values["join"] = "join"
		b.secret["join"] = ""
		return nil
	}
	var m agent.JoinMaterial
	if err := c.do(ctx, http.MethodPost, "/api/v1/join-tokens", nil, map[string]any{"cluster": b.agent.cluster}, &m); err != nil {
		return fmt.Errorf("cannot let the agent join the hub (nothing was changed; without --hub the agent works alone): %w", err)
	}
	data, err := json.Marshal(m)
	b.secret["join"], values["join"] = string(data), "join"
	return err
}

// source opens the repository.
func (b *bootstrapping) source(credentials string) (*git.Source, func(), error) {
	dir, err := os.MkdirTemp("", "flotilla-bootstrap-")
	if err != nil {
		return nil, nil, err
	}
	c := git.Config{URL: b.agent.repo, Ref: git.Ref{Branch: b.agent.branch}, Dir: dir, CredentialsFile: credentials, CAFile: b.agent.ca}
	if git.OverSSH(c.URL) {
		c.SSHKeys, c.KnownHosts = []string{cmp.Or(b.pushSSHKey, b.agent.sshKey)}, []string{b.agent.knownHosts}
	}
	src, err := git.New(c)
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return src, func() { _ = src.Close(); _ = os.RemoveAll(dir) }, nil
}

func (b *bootstrapping) message() string {
	if b.upgrade {
		return "Bring flotilla's agent to version " + version + "\n"
	}
	return "Add cluster " + b.agent.cluster + "\n"
}

// check renders the agent as a commit has it, and finds out whether it can be installed. It has no applier if nothing is to be.
func (b *bootstrapping) check(ctx context.Context, applier *agent.Target, r deploy.Renderer, made api.Snapshot, facts api.ClusterFacts) error {
	rendering, err := r.Render(ctx, made, b.agent.cluster, facts)
	if err != nil {
		return fmt.Errorf("cannot render the repository: %w", err)
	}
	i := slices.IndexFunc(rendering.Bundles, func(x api.RenderedBundle) bool { return x.Name == deploy.Bundle })
	if i < 0 {
		return &api.Error{
			Kind: api.Stalled, Reason: "NoAgentBundle", File: bootstrap.Dir + "/bundle.yaml",
			Err: fmt.Errorf("the bundle %q of the repository is not for cluster %q", deploy.Bundle, b.agent.cluster),
		}
	}
	if err := rendering.Bundles[i].Err; err != nil {
		return fmt.Errorf("cannot render the agent's bundle: %w", err)
	}
	b.objects = rendering.Bundles[i].Objects
	if applier == nil {
		return nil
	}
	b.steps, err = b.plan(ctx, applier)
	return err
}

// plan says what changes on the cluster. An agent that manages itself is left to itself: only its Secret is written.
func (b *bootstrapping) plan(ctx context.Context, applier *agent.Target) ([]install.Step, error) {
	live, err := applier.Live(ctx, b.component.Workload())
	if err != nil {
		return nil, err
	}
	objects := b.objects
	if install.Owner(live) == install.FleetRepository {
		if there := install.ClusterOf(live); there != b.agent.cluster {
			return nil, &api.Error{
				Kind: api.Forbidden, Reason: "OtherCluster",
				Err:  fmt.Errorf("cannot install the agent: the agent that is there looks after cluster %q, and not %q", there, b.agent.cluster),
				Hint: "check --context; to give the cluster another name, run flotilla uninstall agent first",
			}
		}
		objects = nil
	}
	if len(b.secret) > 0 {
		objects = append(slices.Clone(objects), secretObject(b.secret))
	}
	return install.Plan(ctx, applier, b.component, objects)
}

// agentSecret is the Secret that the agent mounts.
const agentSecret = "flotilla-agent"

// secretObject is what the chart would make of the files, which do not stand in Git.
func secretObject(files map[string]any) *unstructured.Unstructured {
	data := map[string]any{}
	for name, content := range files {
		data[name] = base64.StdEncoding.EncodeToString([]byte(fmt.Sprint(content)))
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": data,
		"metadata": map[string]any{
			"name": agentSecret, "namespace": api.SystemNamespace,
			"labels": map[string]any{"app.kubernetes.io/name": deploy.Bundle, "app.kubernetes.io/component": string(install.Agent)},
		},
	}}
}

// patch prints files as git apply takes them.
func patch(w *terminal.Printer, head api.Snapshot, files map[string][]byte) error {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		var old []byte
		if head.Tree != nil {
			old, _ = head.Tree.ReadFile(name)
		}
		from, to := "a/"+name, "b/"+name
		w.Printf("diff --git %s %s\n", from, to)
		switch {
		case old == nil:
			w.Printf("new file mode 100644\n")
			from = "/dev/null"
		case files[name] == nil:
			w.Printf("deleted file mode 100644\n")
			to = "/dev/null"
		}
		w.Printf("--- %s\n+++ %s\n", from, to)
		was, now := textLines(old), textLines(files[name])
		w.Printf("@@ -%s +%s @@\n", span(was), span(now))
		for _, l := range was {
			w.Printf("-%s\n", terminal.Laid(l))
		}
		for _, l := range now {
			w.Printf("+%s\n", terminal.Laid(l))
		}
	}
	return nil
}

// span is where lines stand in a patch that replaces a whole file.
func span(lines []string) string {
	if len(lines) == 0 {
		return "0,0"
	}
	return fmt.Sprintf("1,%d", len(lines))
}

// textLines are the lines of a file that ends with a line break.
func textLines(data []byte) []string {
	if len(data) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
}
