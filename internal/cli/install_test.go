package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub"
	"github.com/flotilla-fleet/flotilla/hub/hubtest"
	"github.com/flotilla-fleet/flotilla/hub/view"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/internal/cli"
	"github.com/flotilla-fleet/flotilla/internal/controlplane"
	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
)

// installed is a cluster to install on. Its nodes are simulated: the Pod of the agent becomes ready without running,
// and the test runs the agent in its place, with the token of the Pod's service account and nothing else.
type installed struct {
	t       *testing.T
	admin   *rest.Config
	config  string // kubeconfig
	kube    kubernetes.Interface
	any     dynamic.Interface
	repo    *gitservertest.Repository
	values  string // file
	commits int
	// credentials are the repository's, in the place of those in the Pod's Secret.
	credentials string
	join        string // file with join material, in the place of the one in the Pod's Secret
}

func newInstalled(t *testing.T) *installed {
	t.Helper()
	plane := controlplanetest.New(t, controlplane.Config{})
	i := &installed{t: t, admin: controlplanetest.RESTConfigOf(t, plane), config: plane.Kubeconfig(), repo: gitservertest.New(t)}
	var err error
	if i.kube, err = kubernetes.NewForConfig(i.admin); err != nil {
		t.Fatal(err)
	}
	if i.any, err = dynamic.NewForConfig(i.admin); err != nil {
		t.Fatal(err)
	}
	// There is nobody who would provide a volume.
	i.values = filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(i.values, []byte("agent: {persistence: {enabled: false}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return i
}

// on has what fails until the end of a subtest fail that one.
func (i *installed) on(t *testing.T) {
	outer := i.t
	i.t = t
	t.Cleanup(func() { i.t = outer })
}

// run runs a command on the cluster. It may be called from any goroutine.
func (i *installed) run(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, talk bytes.Buffer
	code = cli.Execute(ctx, append(args, "--kubeconfig", i.config), cli.IO{In: strings.NewReader(""), Out: &out, Err: &talk})
	return code, out.String(), talk.String()
}

func (i *installed) must(args ...string) (stdout, stderr string) {
	i.t.Helper()
	code, out, talk := i.run(i.t.Context(), args...)
	if code != 0 {
		i.t.Fatalf("flotilla %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, talk)
	}
	return out, talk
}

func (i *installed) refuses(code int, says string, args ...string) {
	i.t.Helper()
	got, out, talk := i.run(i.t.Context(), args...)
	if got != code || !strings.Contains(talk, says) {
		i.t.Errorf("flotilla %s: exit code %d, want %d with %q\n%s%s", strings.Join(args, " "), got, code, says, out, talk)
	}
}

func (i *installed) eventually(what string, ask func(ctx context.Context) error) {
	i.t.Helper()
	agenttest.Eventually(i.t, 90*time.Second, what, ask)
}

// pod waits for the agent's Pod as its controller made it, which the restricted Pod Security level lets pass.
func (i *installed) pod() corev1.Pod {
	i.t.Helper()
	var pod corev1.Pod
	i.eventually("the agent's Pod", func(ctx context.Context) error {
		pods, err := i.kube.CoreV1().Pods(api.SystemNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=agent"})
		if err != nil {
			return err
		}
		if len(pods.Items) != 1 {
			return fmt.Errorf("%d Pods", len(pods.Items))
		}
		pod = pods.Items[0]
		return nil
	})
	return pod
}

// agent runs an agent in place of the Pod, with an empty directory, until the Deployment is gone or stop is called.
func (i *installed) agent() (ended <-chan error, stop func()) {
	i.t.Helper()
	pod := i.pod()
	token, err := i.kube.CoreV1().ServiceAccounts(api.SystemNamespace).CreateToken(i.t.Context(), pod.Spec.ServiceAccountName,
		&authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		i.t.Fatal(err)
	}
	cfg := agent.Config{
		REST: &rest.Config{Host: i.admin.Host, BearerToken: token.Status.Token, TLSClientConfig: rest.TLSClientConfig{CAData: i.admin.CAData, CAFile: i.admin.CAFile}, QPS: -1},
		Dir:  i.t.TempDir(), Poll: 200 * time.Millisecond, Log: slog.New(slog.NewTextHandler(i.t.Output(), nil)),
	}
	for _, arg := range pod.Spec.Containers[0].Args {
		name, value, _ := strings.Cut(arg, "=")
		switch name {
		case "--cluster":
			cfg.Cluster = value
		case "--repo":
			cfg.Source.URL = value
		case "--branch":
			cfg.Source.Ref.Branch = value
		case "--credentials":
			cfg.Source.CredentialsFile = i.credentials
		case "--join":
			cfg.JoinFile = i.join
		}
	}
	a, err := agent.New(cfg)
	if err != nil {
		i.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(i.t.Context())
	done, gone := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(gone)
		done <- errors.Join(a.Run(ctx), a.Close())
	}()
	// A Pod ends with its Deployment.
	go func() {
		for ctx.Err() == nil {
			if _, err := i.kube.AppsV1().Deployments(api.SystemNamespace).Get(ctx, "flotilla-agent", metav1.GetOptions{}); apierrors.IsNotFound(err) {
				cancel()
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	stop = func() {
		cancel()
		<-gone
	}
	i.t.Cleanup(stop)
	return done, stop
}

// objects lists what is on the cluster, but for what the cluster itself makes and drops all the time.
func (i *installed) objects() map[string]bool {
	i.t.Helper()
	lists, err := i.kube.Discovery().ServerPreferredResources()
	if err != nil {
		i.t.Fatal(err)
	}
	out := map[string]bool{}
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			i.t.Fatal(err)
		}
		for _, r := range l.APIResources {
			if !slices.Contains(r.Verbs, "list") || strings.Contains(r.Name, "/") || slices.Contains([]string{"events", "leases", "componentstatuses", "endpoints"}, r.Name) {
				continue
			}
			all, err := i.any.Resource(gv.WithResource(r.Name)).List(i.t.Context(), metav1.ListOptions{})
			if apierrors.IsNotFound(err) { // discovery is a moment behind
				continue
			}
			if err != nil {
				i.t.Fatalf("list %s: %v", r.Name, err)
			}
			for _, o := range all.Items {
				out[r.Name+"."+gv.Group+" "+o.GetNamespace()+"/"+o.GetName()] = true
			}
		}
	}
	return out
}

// Install, work, and leave: in both modes the agent has the rights that the chart gives its service account, and no others.
func TestInstall(t *testing.T) {
	i := newInstalled(t)
	ctx := t.Context()
	for _, ns := range []string{"app", "other"} {
		if _, err := i.kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	i.eventually("the namespaces' own objects", func(ctx context.Context) error {
		_, err1 := i.kube.CoreV1().ServiceAccounts("other").Get(ctx, "default", metav1.GetOptions{})
		_, err2 := i.kube.CoreV1().ConfigMaps("other").Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		_, err3 := i.kube.CoreV1().ConfigMaps("app").Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return errors.Join(err1, err2, err3)
	})
	i.deployer("app")
	i.repo.Commit(map[string]string{
		"clusters/one/cluster.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {name: one}\n",
		"app/bundle.yaml":           "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: app}\nspec: {namespace: app, serviceAccount: {namespace: app, name: deployer}}\n",
		"app/config.yaml":           "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: red}\n",
	})
	before := i.objects()
	install := []string{"install", "agent", "--wait", "60s", "--cluster", "one", "--repo", i.repo.Dir, "--image", "example.com/flotilla:test", "--values", i.values}

	t.Run("a dry run writes nothing", func(t *testing.T) {
		out, _ := i.must(append(install, "--dry-run")...)
		if !strings.Contains(out, "+ Deployment.apps/flotilla-system/flotilla-agent created") {
			t.Errorf("it says\n%s", out)
		}
		if diff := changes(before, i.objects()); diff != "" {
			t.Errorf("something changed:\n%s", diff)
		}
	})
	for _, mode := range []string{"cluster-admin", "impersonate-only"} {
		t.Run(mode, func(t *testing.T) { i.cycle(t, mode, before, append(install, "--rbac", mode)) })
	}
	t.Run("hub", func(t *testing.T) { i.hub(t, before) })
}

// The hub comes and goes beside nobody. Its volume stays unless that is said.
func (i *installed) hub(t *testing.T, before map[string]bool) {
	i.on(t)
	install := []string{"install", "hub", "--host", "hub.example.com", "--image", "example.com/flotilla:test", "--wait", "0"}
	i.must(install...)
	i.eventually("its Pod passes the restricted Pod Security level", func(ctx context.Context) error {
		_, err := i.kube.CoreV1().Pods(api.SystemNamespace).Get(ctx, "flotilla-hub-0", metav1.GetOptions{})
		return err
	})
	if out, _ := i.must(append(install, "--dry-run")...); strings.Contains(out, "+ ") || strings.Contains(out, "~ ") {
		t.Errorf("again it would change something:\n%s", out)
	}
	if _, talk := i.must("uninstall", "hub", "--yes"); !strings.Contains(talk, "it holds the hub's volume") {
		t.Errorf("uninstall says\n%s", talk)
	}
	if _, err := i.kube.CoreV1().PersistentVolumeClaims(api.SystemNamespace).Get(t.Context(), "data-flotilla-hub-0", metav1.GetOptions{}); err != nil {
		t.Errorf("the volume: %v", err)
	}
	i.must("uninstall", "hub", "--delete-data", "--yes")
	i.eventually("nothing of flotilla's is left", func(context.Context) error {
		if diff := changes(before, i.objects()); diff != "" {
			return fmt.Errorf("\n%s", diff)
		}
		return nil
	})
}

// deployer makes the service account of a bundle, which may write in its namespace.
func (i *installed) deployer(ns string) {
	i.t.Helper()
	ctx := i.t.Context()
	if _, err := i.kube.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "deployer"}}, metav1.CreateOptions{}); err != nil {
		i.t.Fatal(err)
	}
	if _, err := i.kube.RbacV1().RoleBindings(ns).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "deployer"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: "deployer", Namespace: ns}},
	}, metav1.CreateOptions{}); err != nil {
		i.t.Fatal(err)
	}
}

// cycle installs an agent, has it work, and uninstalls it.
func (i *installed) cycle(t *testing.T, mode string, before map[string]bool, install []string) {
	i.on(t)
	ctx := t.Context()
	type result struct {
		code int
		talk string
	}
	finished := make(chan result, 1)
	h := hubtest.Start(t, hub.Config{})
	install = append(install, "--join", i.material(h))
	go func() {
		code, out, talk := i.run(ctx, install...)
		finished <- result{code, out + talk}
	}()
	first, stop := i.agent()
	if r := <-finished; r.code != 0 || !strings.Contains(r.talk, "The agent is ready") {
		t.Fatalf("install: exit code %d\n%s", r.code, r.talk)
	}
	ns, err := i.kube.CoreV1().Namespaces().Get(ctx, api.SystemNamespace, metav1.GetOptions{})
	if err != nil || ns.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
		t.Errorf("the namespace is %v (%v)", ns.Labels, err)
	}
	i.shown(h)
	// The Pod goes with its disk: the next one is the same agent at the hub, though the token is used up.
	stop()
	if err := <-first; err != nil {
		t.Errorf("the first agent ended with %v", err)
	}
	ended, _ := i.agent()
	i.shown(h)
	i.onlyTheAgent()
	// An edit is seen and corrected.
	if _, err := i.kube.CoreV1().ConfigMaps("app").Patch(ctx, "settings", "application/merge-patch+json", []byte(`{"data":{"colour":"blue"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	i.eventually("the drift is corrected", func(ctx context.Context) error {
		m, err := i.kube.CoreV1().ConfigMaps("app").Get(ctx, "settings", metav1.GetOptions{})
		if err == nil && m.Data["colour"] != "red" {
			err = fmt.Errorf("it is %v", m.Data)
		}
		return err
	})
	if mode == "impersonate-only" {
		i.denied(t)
	}
	t.Run("again", func(t *testing.T) {
		i.on(t)
		if _, talk := i.must(install...); strings.Contains(talk, "+ ") || strings.Contains(talk, "~ ") {
			t.Errorf("it changed something:\n%s", talk)
		}
	})
	t.Run("refused", func(t *testing.T) {
		i.on(t)
		i.refused(install)
	})

	if _, talk := i.must("uninstall", "agent", "--yes"); !strings.Contains(talk, "stay as they are") {
		t.Errorf("uninstall says\n%s", talk)
	}
	if err := <-ended; err != nil {
		t.Errorf("the agent ended with %v", err)
	}
	m, err := i.kube.CoreV1().ConfigMaps("app").Get(ctx, "settings", metav1.GetOptions{})
	if err != nil || len(m.Labels) != 0 || m.Data["colour"] != "red" {
		t.Errorf("the workload is %v with labels %v (%v)", m.Data, m.Labels, err)
	}
	if err := i.kube.CoreV1().ConfigMaps("app").Delete(ctx, "settings", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	i.eventually("nothing of flotilla's is left", func(context.Context) error {
		if diff := changes(before, i.objects()); diff != "" {
			return fmt.Errorf("\n%s", diff)
		}
		return nil
	})
}

// material makes join material for one agent, and returns its file.
func (i *installed) material(h *hubtest.Hub) string {
	i.t.Helper()
	m, err := h.CreateJoinToken(i.t.Context(), hub.JoinTokenRequest{Cluster: "one"})
	if err != nil {
		i.t.Fatal(err)
	}
	b, err := json.Marshal(agent.JoinMaterial{URL: m.URL, Token: m.Token, CAHash: m.CAHash})
	if err != nil {
		i.t.Fatal(err)
	}
	i.join = filepath.Join(i.t.TempDir(), "join.json")
	if err := os.WriteFile(i.join, b, 0o600); err != nil {
		i.t.Fatal(err)
	}
	return i.join
}

// shown commits something, and waits until the hub hears of that from the agent.
func (i *installed) shown(h *hubtest.Hub) {
	i.t.Helper()
	i.commits++
	revision := i.repo.Commit(map[string]string{"notes.txt": fmt.Sprint(i.commits)})
	i.eventually("the hub shows the cluster", func(context.Context) error {
		cs := hubtest.Get[view.List[view.Cluster]](h, "/api/v1/clusters").Items
		if len(cs) != 1 || !cs[0].Connected || cs[0].AppliedRevision != revision {
			return fmt.Errorf("clusters are %+v, want one at %q", cs, revision)
		}
		return nil
	})
}

// onlyTheAgent checks who may read and write the identity at the hub.
func (i *installed) onlyTheAgent() {
	i.t.Helper()
	ctx := i.t.Context()
	as := func(user string) kubernetes.Interface {
		cfg := rest.CopyConfig(i.admin)
		cfg.Impersonate.UserName = user
		c, err := kubernetes.NewForConfig(cfg)
		if err != nil {
			i.t.Fatal(err)
		}
		return c
	}
	own := as("system:serviceaccount:" + api.SystemNamespace + ":flotilla-agent").CoreV1().Secrets(api.SystemNamespace)
	s, err := own.Get(ctx, "flotilla-agent-identity", metav1.GetOptions{})
	if err != nil || len(s.Data["identity.pem"]) == 0 {
		i.t.Errorf("the identity has %d bytes for the agent (%v)", len(s.Data["identity.pem"]), err)
	}
	for _, user := range []string{"system:serviceaccount:app:deployer", "system:serviceaccount:" + api.SystemNamespace + ":default", "somebody"} {
		if _, err := as(user).CoreV1().Secrets(api.SystemNamespace).Get(ctx, "flotilla-agent-identity", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
			i.t.Errorf("%s may read the identity (%v)", user, err)
		}
	}
}

// denied checks that the agent may not write by itself.
func (i *installed) denied(t *testing.T) {
	i.repo.Commit(map[string]string{
		"other/bundle.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: other}\nspec: {namespace: other}\n",
		"other/config.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: red}\n",
	})
	i.eventually("the bundle without an account is denied", func(ctx context.Context) error {
		_, out, talk := i.run(ctx, "status", "-o", "json")
		var got struct{ Bundles []api.BundleStatus }
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			return fmt.Errorf("%w: %s", err, talk)
		}
		for _, b := range got.Bundles {
			if b.Name == "other" && b.Error != nil && b.Error.Kind == api.Forbidden {
				return nil
			}
		}
		return fmt.Errorf("it is %+v", got.Bundles)
	})
	if _, err := i.kube.CoreV1().ConfigMaps("other").Get(t.Context(), "settings", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("it was written (%v)", err)
	}
	i.repo.Do(gitserver.Commit{Delete: []string{"other"}})
}

// refused tries what an installation refuses, with what it says.
func (i *installed) refused(install []string) {
	other := slices.Clone(install)
	other[slices.Index(other, "one")] = "two"
	i.refuses(6, `looks after cluster "one", and not "two"`, other...)
	// Another tool's installation is that tool's.
	deployments := i.kube.AppsV1().Deployments(api.SystemNamespace)
	label := func(value string) {
		patch := fmt.Sprintf(`{"metadata":{"labels":{"app.kubernetes.io/managed-by":%s}}}`, value)
		if _, err := deployments.Patch(i.t.Context(), "flotilla-agent", "application/merge-patch+json", []byte(patch), metav1.PatchOptions{}); err != nil {
			i.t.Fatal(err)
		}
	}
	label(`"Helm"`)
	i.refuses(6, "is managed by Helm", install...)
	i.refuses(6, "is managed by Helm", "uninstall", "agent", "--yes")
	label("null")
	i.refuses(3, "nothing was uninstalled", "uninstall", "agent")
	i.refuses(64, "--cluster and --repo are needed", "install", "agent")
	i.refuses(64, "has no tag", append(install, "--image", "example.com:5000/flotilla")...)

	// Whoever has no rights is told which.
	admin := i.config
	defer func() { i.config = admin }()
	i.config = i.nobody()
	i.refuses(6, "create ClusterRoleBinding.rbac.authorization.k8s.io", install...)
}

// nobody is the kubeconfig of somebody without rights.
func (i *installed) nobody() string {
	i.t.Helper()
	token, err := i.kube.CoreV1().ServiceAccounts("app").CreateToken(i.t.Context(), "deployer", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		i.t.Fatal(err)
	}
	file := filepath.Join(i.t.TempDir(), "kubeconfig")
	if err := controlplanetest.WriteKubeconfig(file, i.admin, token.Status.Token); err != nil {
		i.t.Fatal(err)
	}
	return file
}

// changes lists what came and what went.
func changes(before, after map[string]bool) string {
	var b strings.Builder
	for _, id := range slices.Sorted(maps.Keys(after)) {
		if !before[id] {
			fmt.Fprintln(&b, "+", id)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(before)) {
		if !after[id] {
			fmt.Fprintln(&b, "-", id)
		}
	}
	return b.String()
}

// What is printed is what is installed, and no value of a Secret is in it unless that is asked for.
func TestInstallPrint(t *testing.T) {
	credentials := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(credentials, []byte("https://bot:"+marker+"@git.example.com\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	print := func(more ...string) string {
		t.Helper()
		var out, talk bytes.Buffer
		args := append([]string{
			"install", "agent", "--print", "--cluster", "one", "--repo", "https://git.example.com/fleet.git",
			"--credentials", credentials, "--age-key", "team-a=" + credentials, "--image", "example.com/flotilla@sha256:" + strings.Repeat("0", 64),
		}, more...)
		if code := cli.Execute(t.Context(), args, cli.IO{Out: &out, Err: &talk}); code != 0 {
			t.Fatalf("exit code %d: %s", code, talk.String())
		}
		return out.String()
	}
	out := print()
	for _, want := range []string{
		"name: bundledeployments.flotilla.dev", "image: example.com/flotilla@sha256:000", "--credentials=/etc/flotilla/credentials",
		"--age-key=team-a=/etc/flotilla/age-0.txt", "credentials: (hidden)",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	out = print("--repo", "git@git.example.com:fleet.git", "--ssh-key", credentials, "--known-hosts", credentials)
	for _, want := range []string{"--ssh-key=/etc/flotilla/sshKey", "--known-hosts=/etc/flotilla/knownHosts", "sshKey: (hidden)"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	if markers.MatchString(out) {
		t.Error("the credentials were printed")
	}
	if !markers.MatchString(print("--show-secrets")) {
		t.Error("the credentials were asked for, and are not there")
	}
}
