package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
)

// The two tenants have a namespace each, and share the test's own with the platform.
const tenants = `apiVersion: flotilla.dev/v1alpha1
kind: Fleet
spec:
  tenants:
  - {name: a, path: teams/a, serviceAccount: {namespace: NS-a, name: deployer}, namespaces: [NS-a, NS]}
  - {name: b, path: teams/b, serviceAccount: {namespace: NS-b, name: deployer}, namespaces: [NS-b, NS]}
`

// mayHave gives a tenant's account what it needs in a namespace.
func mayHave(tenant, namespace string) string {
	return strings.NewReplacer("TENANT", "NS-"+tenant, "NAMESPACE", namespace).Replace(`---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: TENANT, namespace: NAMESPACE}
rules: [{apiGroups: ["", rbac.authorization.k8s.io, NS.example.com], resources: [configmaps, secrets, roles, rolebindings, things], verbs: [get, list, watch, create, update, patch, delete]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: TENANT, namespace: NAMESPACE}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: TENANT}
subjects: [{kind: ServiceAccount, name: deployer, namespace: TENANT}]
`)
}

func platformOf(tenant string) string {
	return strings.ReplaceAll(`---
apiVersion: v1
kind: Namespace
metadata: {name: NS-TENANT}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: deployer, namespace: NS-TENANT}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: policy, namespace: NS-TENANT}
data: {key: platform}
`, "TENANT", tenant) + mayHave(tenant, "NS-"+tenant) + mayHave(tenant, "NS")
}

func mapIn(namespace, name, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: %s}\ndata: {key: %q}\n", name, namespace, value)
}

// town is a platform team and two tenants on a real control plane.
type town struct{ *rig }

func newTown(t *testing.T) town {
	t.Helper()
	return newTownWith(t, nil)
}

// newTownWith is newTown with a change of how the agent is configured.
func newTownWith(t *testing.T, change func(*agent.Config)) town {
	t.Helper()
	fs := files{
		"fleet.yaml":           tenants,
		"platform/bundle.yaml": bundle("platform", ""), "platform/a.yaml": platformOf("a"), "platform/b.yaml": platformOf("b"),
		"teams/a/app/bundle.yaml": bundle("a-app", ""), "teams/a/app/x.yaml": mapIn("NS-a", "x", "one"),
		"teams/b/app/bundle.yaml": bundle("b-app", ""), "teams/b/app/x.yaml": mapIn("NS-b", "x", "one"), "teams/b/app/shared.yaml": mapIn("NS", "shared", "b"),
	}
	town := town{newRig(t, agenttest.Config{Files: fs, Change: change})}
	town.Start()
	for _, b := range []string{"platform", "a-app", "b-app"} {
		town.Ready("NS-"+b, "")
	}
	return town
}

// is waits until a ConfigMap has a value, and returns its UID.
func (r town) is(namespace, name, want string) (uid string) {
	r.t.Helper()
	r.Eventually(fmt.Sprintf("%s/%s is %q", namespace, name, want), func(ctx context.Context) error {
		m, err := r.Kube.CoreV1().ConfigMaps(r.Text(namespace)).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if m.Data["key"] != want {
			return fmt.Errorf("it is %q", m.Data["key"])
		}
		uid = string(m.UID)
		return nil
	})
	return uid
}

func (r town) isGone(namespace, name string) {
	r.t.Helper()
	r.Eventually(fmt.Sprintf("%s/%s is gone", namespace, name), func(ctx context.Context) error {
		_, err := r.Kube.CoreV1().ConfigMaps(r.Text(namespace)).Get(ctx, name, metav1.GetOptions{})
		return isGone(err)
	})
}

// A tenant is applied as its account, so the API server has the last word.
func TestTenancy_rights(t *testing.T) {
	r := newTown(t)
	for _, tt := range []struct{ name, file, words string }{
		{"a namespace that is the tenant's by fleet.yaml, and not by RBAC", strings.ReplaceAll(mapIn("NS-c", "x", "one"), "NS-c", "NS"), ""},
		{
			"more rights than its own",
			"apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: more, namespace: NS-a}\n" +
				"roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}\nsubjects: [{kind: ServiceAccount, name: deployer, namespace: NS-a}]\n",
			"attempting to grant RBAC permissions not currently held",
		},
		{"a kind that its account may not have", "apiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: NS-a}\nspec: {ports: [{port: 80}]}\n", `User "system:serviceaccount:NS-a:deployer" cannot patch resource "services"`},
	} {
		revision := r.Commit(files{"teams/a/app/y.yaml": tt.file, "teams/b/app/x.yaml": mapIn("NS-b", "x", tt.name)})
		if tt.words == "" {
			r.Ready("NS-a-app", revision)
		} else {
			r.Failed("NS-a-app", tt.words)
		}
		r.is("NS-b", "x", tt.name)
		r.Ready("NS-b-app", revision)
	}

	// Only the cluster knows that a kind has no namespace: an apply refuses it before anything of the bundle is written.
	o := &unstructured.Unstructured{}
	decode(t, strings.Replace(r.Text(crd), "scope: Namespaced", "scope: Cluster", 1), o)
	if _, err := r.Dynamic.Resource(crds).Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.Dynamic.Resource(crds).Delete(context.WithoutCancel(t.Context()), o.GetName(), metav1.DeleteOptions{})
	})
	r.Commit(files{"teams/a/app/y.yaml": strings.Replace(thing("one", "a"), "namespace: NS", "namespace: NS-a", 1), "teams/a/app/x.yaml": mapIn("NS-a", "x", "two")})
	r.Failed("NS-a-app", `tenant "a" may not have Thing.NS.example.com/one: the kind has no namespace, and kinds.allow does not name it`)
	r.is("NS-a", "x", "one")
	if _, err := r.Dynamic.Resource(r.things()).Get(t.Context(), "one", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the Thing was written: %v", err)
	}
}

// Who had an object first goes on, and the second alone fails.
func TestTenancy_objects(t *testing.T) {
	r := newTown(t)
	uid := r.is("NS", "shared", "b")
	// A tenant declares what another tenant has, and what the platform has in the tenant's own namespace.
	revision := r.Commit(files{
		"teams/a/more/bundle.yaml": bundle("a-more", ""), "teams/a/more/shared.yaml": mapIn("NS", "shared", "a"), "teams/a/more/y.yaml": mapIn("NS-a", "y", "one"),
		"teams/a/other/bundle.yaml": bundle("a-other", ""), "teams/a/other/policy.yaml": mapIn("NS-a", "policy", "a"),
		"teams/b/app/shared.yaml": mapIn("NS", "shared", "b2"),
	})
	r.Failed("NS-a-more", "teams/a/more/shared.yaml", `ConfigMap/NS/shared is declared by bundle "NS-b-app", too, which has it`)
	r.Failed("NS-a-other", "teams/a/other/policy.yaml", `ConfigMap/NS-a/policy is declared by bundle "NS-platform", too, which has it`)
	r.Ready("NS-b-app", revision)
	for _, b := range []string{"NS-platform", "NS-a-app"} {
		r.Ready(b, "")
	}
	r.is("NS-a", "y", "one") // the rest of the bundle
	r.is("NS-a", "policy", "platform")
	if now := r.is("NS", "shared", "b2"); now != uid {
		t.Error("the object of b was made anew")
	}
	// It stays so after a restart, and after the store is lost.
	r.Stop()
	r.DropLease()
	r.Config.Dir = t.TempDir()
	r.Start()
	revision = r.Commit(files{"teams/b/app/shared.yaml": mapIn("NS", "shared", "b3")})
	r.Ready("NS-b-app", revision)
	r.is("NS", "shared", "b3")
	r.Failed("NS-a-more", "which has it")
	// What one gives up is deleted. The other makes its own, and takes over nothing that was in it.
	r.Delete("teams/b/app/shared.yaml")
	r.Eventually("the object of b is gone", func(ctx context.Context) error {
		m, err := r.Kube.CoreV1().ConfigMaps(r.NS).Get(ctx, "shared", metav1.GetOptions{})
		if err == nil && string(m.UID) == uid {
			return errors.New("it is still there")
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
	r.Sync()
	if now := r.is("NS", "shared", "a"); now == uid {
		t.Error("tenant a took over the object of b")
	}
	r.Ready("NS-a-more", "")
	// What a tenant has, the platform may take.
	r.Do(gitserver.Commit{Delete: []string{"teams/a/app/x.yaml"}, Write: files{
		"platform/x.yaml": mapIn("NS-a", "x", "platform"), "teams/a/app/z.yaml": mapIn("NS-a", "z", "one"),
	}})
	r.is("NS-a", "x", "platform")
	r.is("NS-a", "z", "one")
}

// What one tenant breaks stops that tenant: what it has stays, and the others go on, with what they delete as well.
func TestTenancy_broken(t *testing.T) {
	r := newTown(t)
	steps := []struct {
		name   string
		change files
		words  []string
	}{
		{"no YAML", files{"teams/a/bad/bundle.yaml": "{{{"}, []string{"teams/a/bad/bundle.yaml"}},
		{"the name of another's bundle", files{"teams/a/bad/bundle.yaml": bundle("b-app", ""), "teams/a/bad/x.yaml": mapIn("NS-a", "bad", "one")}, []string{`bundle "NS-b-app" is also in teams/b/app/bundle.yaml`}},
		{"the name of the platform's bundle", files{"teams/a/bad/bundle.yaml": bundle("platform", ""), "teams/a/bad/x.yaml": mapIn("NS-a", "bad", "one")}, []string{`bundle "NS-platform" is also in platform/bundle.yaml`}},
	}
	for _, step := range steps {
		r.Commit(files{"teams/b/app/y.yaml": mapIn("NS-b", "y", step.name)})
		r.is("NS-b", "y", step.name)
		// In one commit the bundle of a leaves Git, as far as can be told, and b changes one thing and deletes another.
		write := maps.Clone(step.change)
		write["teams/b/app/x.yaml"] = mapIn("NS-b", "x", step.name)
		revision := r.Do(gitserver.Commit{Write: write, Delete: []string{"teams/a/app", "teams/b/app/y.yaml"}})
		r.Failed("NS-a-app", step.words...)
		r.is("NS-b", "x", step.name)
		r.isGone("NS-b", "y")
		r.Ready("NS-b-app", revision)
		r.Ready("NS-platform", "")
		r.is("NS-a", "x", "one")
		revision = r.Do(gitserver.Commit{
			Delete: []string{"teams/a/bad"}, Write: files{"teams/a/app/bundle.yaml": bundle("a-app", ""), "teams/a/app/x.yaml": mapIn("NS-a", "x", "one")},
		})
		r.Ready("NS-a-app", revision)
	}
	// A tenant that deletes too much at once is stopped alone.
	many := files{}
	for i := range 30 {
		many[fmt.Sprintf("teams/a/many/%d.yaml", i)] = mapIn("NS-a", fmt.Sprintf("m%d", i), "one")
	}
	many["teams/a/many/bundle.yaml"] = bundle("a-many", "")
	r.Ready("NS-a-many", r.Commit(many))
	revision := r.Do(gitserver.Commit{Delete: []string{"teams/a/many"}, Write: files{"teams/b/app/x.yaml": mapIn("NS-b", "x", "last")}})
	r.Failed("NS-a-many", "the pass would delete 30 of")
	r.is("NS-b", "x", "last")
	r.Ready("NS-b-app", revision)
	r.is("NS-a", "m0", "one")
	// A restart changes nothing of it.
	r.Stop()
	r.Start()
	r.Failed("NS-a-many", "the pass would delete 30 of")
	r.is("NS-a", "m29", "one")
	r.Commit(files{"fleet.yaml": tenants + "  guards: {allowDelete: [NS-a-many]}\n"})
	r.isGone("NS-a", "m0")
	r.isGone("NS-a", "m29")
}

// A tenant's charts take what it may have of rendering time, and others go on. What was applied of it stays.
func TestTenancy_renderingTime(t *testing.T) {
	// On a loaded machine it takes its time until a worker has had three seconds of a processor.
	r := newTownWith(t, func(c *agent.Config) { c.Limits.Time = time.Hour })
	r.Commit(with(files{"fleet.yaml": strings.Replace(tenants, "namespaces: [NS-a, NS]}", "namespaces: [NS-a, NS], quotas: {renderingTime: 3s}}", 1)},
		under("teams/a/", hostile("a-chart", mapIn("NS-a", "from-chart", "one")))))
	r.is("NS-a", "from-chart", "one")
	revision := r.Commit(with(files{"teams/b/app/x.yaml": mapIn("NS-b", "x", "two"), "teams/a/app/x.yaml": mapIn("NS-a", "x", "two")},
		under("teams/a/", hostile("a-chart", endless))))
	r.Failed("NS-a-chart", "takes more than", `to render: tenant "a" may take 3s`, "raise quotas.renderingTime in fleet.yaml")
	r.is("NS-b", "x", "two")
	r.is("NS-a", "x", "two")
	r.is("NS-a", "from-chart", "one")
	r.Ready("NS-b-app", revision)
	r.Ready("NS-a-app", revision)
	// What was measured decides after a restart, too, where the revision that was applied is rendered beside it.
	r.Stop()
	before := measured(t, r.Config.Dir)
	r.Start()
	r.Ready("NS-b-app", r.Commit(files{"teams/b/app/x.yaml": mapIn("NS-b", "x", "three")}))
	r.Failed("NS-a-chart", `tenant "a" may take 3s`)
	if after := measured(t, r.Config.Dir); after != before || !strings.Contains(before, `"Over":true`) || !strings.Contains(before, `"Over":false`) {
		t.Errorf("something was measured once more after a restart:\n%s\n%s", before, after)
	}
}

// measured is what an agent remembers of renderings.
func measured(t *testing.T, dir string) string {
	t.Helper()
	var all []byte
	names, err := filepath.Glob(dir + "/refused/*.json")
	for _, name := range names {
		var text []byte
		if text, err = os.ReadFile(name); err != nil {
			break
		}
		all = append(all, text...)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(all)
}

// under moves files to a directory.
func under(dir string, fs files) files {
	out := files{}
	for name, text := range fs {
		out[dir+name] = text
	}
	return out
}

var suspensions = schema.GroupVersionResource{Group: api.Group, Version: api.Version, Resource: "suspensions"}

// The roles for people in docs/tenancy.md do what they say.
func TestTenancy_suspensionsOfPeople(t *testing.T) {
	r := start(t, files{"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one")})
	r.Ready("NS-a", "")
	text, err := os.ReadFile("../../docs/tenancy.md")
	if err != nil {
		t.Fatal(err)
	}
	applied := map[string]bool{}
	apply := func(gvr schema.GroupVersionResource, doc string) {
		o := &unstructured.Unstructured{}
		decode(t, doc, o)
		if _, err := r.Dynamic.Resource(gvr).Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
			t.Fatalf("%s: %v", o.GetKind(), err)
		}
		applied[o.GetKind()] = true
		t.Cleanup(func() {
			_ = r.Dynamic.Resource(gvr).Delete(context.WithoutCancel(t.Context()), o.GetName(), metav1.DeleteOptions{})
		})
	}
	rbac := schema.GroupVersion{Group: "rbac.authorization.k8s.io", Version: "v1"}
	admission := schema.GroupVersion{Group: "admissionregistration.k8s.io", Version: "v1"}
	resources := map[string]schema.GroupVersionResource{
		"ClusterRole":               rbac.WithResource("clusterroles"),
		"ValidatingAdmissionPolicy": admission.WithResource("validatingadmissionpolicies"), "ValidatingAdmissionPolicyBinding": admission.WithResource("validatingadmissionpolicybindings"),
	}
	for _, block := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```").FindAllStringSubmatch(string(text), -1) {
		for doc := range strings.SplitSeq(block[1], "---\n") {
			if m := regexp.MustCompile(`(?m)^kind: (\S+)$`).FindStringSubmatch(doc); m != nil && resources[m[1]].Resource != "" {
				apply(resources[m[1]], doc)
			}
		}
	}
	if len(applied) != 3 {
		t.Fatalf("the page has %v", applied)
	}
	apply(rbac.WithResource("clusterrolebindings"), "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: "+r.NS+"-people}\n"+
		"roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: flotilla-suspend}\n"+
		"subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: shop}, {apiGroup: rbac.authorization.k8s.io, kind: User, name: oncall}]\n")

	as := func(user string, groups ...string) dynamic.ResourceInterface {
		rc := rest.CopyConfig(controlplanetest.RESTConfigOf(t, r.Plane))
		rc.Impersonate, rc.QPS = rest.ImpersonationConfig{UserName: user, Groups: groups}, -1
		c, err := dynamic.NewForConfig(rc)
		if err != nil {
			t.Fatal(err)
		}
		return c.Resource(suspensions)
	}
	suspension := func(name, scope string) *unstructured.Unstructured {
		o := &unstructured.Unstructured{}
		decode(t, "apiVersion: flotilla.dev/v1alpha1\nkind: Suspension\nmetadata: {name: "+r.NS+"-"+name+"}\nspec: {reason: r, until: 2030-01-31T10:00:00Z, scope: "+scope+"}\n", o)
		return o
	}
	create := func(c dynamic.ResourceInterface, name, scope string) error {
		_, err := c.Create(t.Context(), suspension(name, scope), metav1.CreateOptions{})
		return err
	}
	team, oncall, stranger := as("alice", "shop"), as("oncall"), as("mallory")
	r.Eventually("the rights are known", func(context.Context) error {
		err := create(oncall, "everything", "{all: true}")
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
	r.Eventually("the policy is in force", func(context.Context) error {
		err := create(team, "probe", "{all: true}")
		if err == nil || apierrors.IsAlreadyExists(err) {
			_ = oncall.Delete(t.Context(), r.NS+"-probe", metav1.DeleteOptions{})
			return errors.New("everything may be suspended")
		}
		return denied(err)
	})
	for _, scope := range []string{"{all: true}", "{bundles: [shop-web, platform]}", "{objects: [{kind: ConfigMap, namespace: x, name: z}]}"} {
		if err := denied(create(team, "theirs", scope)); err != nil {
			t.Errorf("a suspension of %s: %v", scope, err)
		}
	}
	if err := create(team, "own", "{bundles: [shop-web]}"); err != nil {
		t.Errorf("a suspension of the team's own bundle: %v", err)
	}
	if err := denied(team.Delete(t.Context(), r.NS+"-everything", metav1.DeleteOptions{})); err != nil {
		t.Errorf("the deletion of another's suspension: %v", err)
	}
	patch := []byte(`{"spec":{"scope":{"all":null,"bundles":["shop-web"]}}}`)
	if _, err := team.Patch(t.Context(), r.NS+"-everything", "application/merge-patch+json", patch, metav1.PatchOptions{}); denied(err) != nil {
		t.Errorf("a change of another's suspension: %v", err)
	}
	if err := team.Delete(t.Context(), r.NS+"-own", metav1.DeleteOptions{}); err != nil {
		t.Errorf("the deletion of the team's own: %v", err)
	}
	if err := create(stranger, "mine", "{bundles: [shop-web]}"); !apierrors.IsForbidden(err) {
		t.Errorf("somebody without a role: %v", err)
	}
}

// denied turns the answer of the policy in docs/tenancy.md into nil.
func denied(err error) error {
	if err != nil && strings.Contains(err.Error(), "the team shop may suspend its own bundles") {
		return nil
	}
	return fmt.Errorf("it is not denied by the policy: %w", cmp.Or(err, errors.New("it was done")))
}
