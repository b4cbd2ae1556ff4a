package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/internal/cli"
	"github.com/flotilla-fleet/flotilla/internal/controlplane"
	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
)

// ahead is an agent that brought a cluster up to date and was stopped, so that nothing moves but by the test's hand.
type ahead struct {
	*agenttest.Rig
	t    *testing.T
	said bytes.Buffer
	// files are the repository's, as last committed
	files map[string]string
}

func newAhead(t *testing.T, files map[string]string, bundles ...string) *ahead {
	t.Helper()
	a := &ahead{Rig: agenttest.New(t, agenttest.Config{Files: files}), t: t, files: maps.Clone(files)}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: a.NS}}
	if _, err := a.Kube.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	a.Start()
	for _, b := range bundles {
		a.Ready("NS-"+b, "")
	}
	a.Stop()
	return a
}

// row is a line of the answer, with its fields as "path: live -> desired".
type row struct {
	Outcome, Action, Reason, HeldBy, Hook, Error string
	Fields                                       []string
}

// diff runs the command on the newest commit. Rows are by "Kind/name", those without an object by "bundle NAME" or "cluster".
func (a *ahead) diff(args ...string) (code int, rows map[string]row, talk string) {
	a.t.Helper()
	return a.diffOf(append([]string{"--repo", a.Repo.Dir, "--revision", "main"}, args...)...)
}

func (a *ahead) diffOf(args ...string) (code int, rows map[string]row, talk string) {
	a.t.Helper()
	code, out, talk := a.run(append([]string{"-o", "json"}, args...)...)
	var list []struct {
		Bundle, Action, Outcome, Hook, Reason, HeldBy, Error string
		Object                                               api.ObjectRef
		Fields                                               []api.FieldDiff
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		a.t.Fatalf("exit code %d, %v in %q, %s", code, err, out, talk)
	}
	rows = map[string]row{}
	for _, l := range list {
		key := l.Object.Kind + "/" + l.Object.Name
		switch {
		case l.Bundle == "":
			key = "cluster"
		case l.Object.Kind == "":
			key = "bundle " + l.Bundle
		}
		r := row{Outcome: l.Outcome, Action: l.Action, Reason: l.Reason, HeldBy: l.HeldBy, Hook: l.Hook, Error: l.Error}
		for _, f := range l.Fields {
			r.Fields = append(r.Fields, fmt.Sprintf("%s: %s -> %s", f.Path, f.Live, f.Desired))
		}
		if _, twice := rows[key]; twice {
			a.t.Errorf("%s is there twice: %s", key, out)
		}
		rows[key] = r
	}
	return code, rows, talk
}

// run runs flotilla diff on the test's cluster.
func (a *ahead) run(args ...string) (code int, stdout, stderr string) {
	a.t.Helper()
	var out, talk bytes.Buffer
	args = append([]string{"diff", "--cluster", "one", "--kubeconfig", a.Plane.Kubeconfig()}, args...)
	code = cli.Execute(a.t.Context(), args, cli.IO{In: strings.NewReader(""), Out: &out, Err: &talk})
	a.t.Logf("flotilla %s: %d\n%s%s", strings.Join(args, " "), code, out.String(), talk.String())
	a.said.WriteString(out.String() + talk.String())
	return code, out.String(), talk.String()
}

// commit changes the repository.
func (a *ahead) commit(files map[string]string) {
	a.t.Helper()
	maps.Copy(a.files, files)
	a.Commit(files)
}

func (a *ahead) edit(name, patch string) {
	a.t.Helper()
	if _, err := a.Kube.CoreV1().ConfigMaps(a.NS).Patch(a.t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		a.t.Fatal(err)
	}
}

// outcomes are the rows in short.
func outcomes(rows map[string]row) map[string]string {
	out := map[string]string{}
	for k, r := range rows {
		out[k] = r.Action + " " + r.Outcome
	}
	return out
}

func (a *ahead) expect(gotCode, wantCode int, rows map[string]row, want map[string]string) {
	a.t.Helper()
	if gotCode != wantCode {
		a.t.Errorf("exit code %d, want %d", gotCode, wantCode)
	}
	if diff := cmp.Diff(want, outcomes(rows)); diff != "" {
		a.t.Errorf("(-want +got):\n%s", diff)
	}
}

func bundleFile(name, spec string) string {
	return "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: NS-" + name + "}\nspec: {namespace: NS, " + spec + "}\n"
}

func settings(name, data string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + "}\ndata: {" + data + "}\n"
}

func TestDiff_changesAndWhatIsNone(t *testing.T) {
	const deployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {replicas: 2, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: main, image: "%s"}]}}}
`
	a := newAhead(t, map[string]string{
		"app/bundle.yaml":  bundleFile("app", "wait: false, drift: {ignore: [{target: {kind: 'Config*', name: ig*}, paths: [/data/theirs]}]}"),
		"app/same.yaml":    settings("same", "a: b"),
		"app/changed.yaml": settings("changed", "a: b"),
		"app/ignored.yaml": settings("ignored", "theirs: git, ours: git"),
		"app/off.yaml":     settings("off", "a: b"),
		"app/gone.yaml":    settings("gone", "a: b"),
		"app/leaves.yaml":  settings("leaves", "a: b"),
		"app/web.yaml":     fmt.Sprintf(deployment, "one"),
		"app/creds.yaml":   "apiVersion: v1\nkind: Secret\nmetadata: {name: creds}\nstringData: {password: " + marker + "-git}\n",
	}, "app")

	code, rows, talk := a.diff()
	a.expect(code, 0, rows, map[string]string{})
	if !strings.Contains(talk, "Nothing to do") {
		t.Errorf("it says %q", talk)
	}

	// What is none of a pass's business is no change.
	a.edit("off", `{"metadata":{"annotations":{"flotilla.dev/reconcile":"disabled"}},"data":{"a":"mine"}}`)
	a.edit("ignored", `{"data":{"theirs":"mine"}}`)
	_, err := a.Kube.AutoscalingV2().HorizontalPodAutoscalers(a.NS).Create(t.Context(), &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}, MaxReplicas: 5,
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.Kube.AppsV1().Deployments(a.NS).Patch(t.Context(), "web", types.MergePatchType, []byte(`{"spec":{"replicas":4}}`), metav1.PatchOptions{}, "scale")
	if err != nil {
		t.Fatal(err)
	}
	code, rows, _ = a.diff()
	a.expect(code, 0, rows, map[string]string{"ConfigMap/off": "skipped skipped"})

	// Then there are changes, by hand and in Git.
	if err := a.Kube.CoreV1().ConfigMaps(a.NS).Delete(t.Context(), "gone", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Kube.CoreV1().Secrets(a.NS).Patch(t.Context(), "creds", types.MergePatchType, []byte(`{"stringData":{"password":"`+marker+`-live"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	last := `{"apiVersion":"v1","kind":"Secret","data":{"password":"` + marker + `-before"}}`
	_, err = a.Client("kubectl-client-side-apply").CoreV1().Secrets(a.NS).Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "adopted", Annotations: map[string]string{corev1.LastAppliedConfigAnnotation: last}},
		StringData: map[string]string{"kept": "x", "surplus": marker},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a.commit(map[string]string{
		"app/changed.yaml": settings("changed", "a: c"),
		"app/ignored.yaml": settings("ignored", "theirs: git, ours: changed"),
		"app/web.yaml":     fmt.Sprintf(deployment, "two"),
		"app/new.yaml":     settings("new", "a: b"),
		"app/adopted.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: adopted}\nstringData: {kept: x}\n",
	})
	a.Delete("app/leaves.yaml")
	code, rows, _ = a.diff()
	a.expect(code, 1, rows, map[string]string{
		"ConfigMap/off": "skipped skipped", "ConfigMap/changed": "updated change", "ConfigMap/ignored": "updated change",
		"ConfigMap/gone": "created change", "ConfigMap/new": "created change", "ConfigMap/leaves": "pruned change",
		"Deployment/web": "updated change", "Secret/creds": "updated change", "Secret/adopted": "updated change",
	})
	for object, want := range map[string][]string{
		"ConfigMap/changed": {`/data/a: "b" -> "c"`},
		"ConfigMap/ignored": {`/data/ours: "git" -> "changed"`},
		"Deployment/web":    {`/spec/template/spec/containers/[name=main]/image: "one" -> "two"`},
		"Secret/creds":      {`/data/password: "(value B)" -> "(value A)"`},
	} {
		if diff := cmp.Diff(want, rows[object].Fields); diff != "" {
			t.Errorf("%s (-want +got):\n%s", object, diff)
		}
	}
	adopted := strings.Join(rows["Secret/adopted"].Fields, "\n")
	for _, want := range []string{`/data/surplus: "(value B)" -> `, `/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration: "(value B)" -> `} {
		if !strings.Contains(adopted+"\n", want+"\n") {
			t.Errorf("what the take-over removes, %q, is not in\n%s", want, adopted)
		}
	}
	if got := rows["ConfigMap/gone"].Reason; got != "missing on the cluster" {
		t.Errorf("the missing object: %q", got)
	}
	_, out, _ := a.run("--repo", a.Repo.Dir, "--revision", "main")
	for _, want := range []string{
		"= ConfigMap/NS/off  (bundle NS-app) skipped: flotilla.dev/reconcile: disabled on the live object\n",
		"~ ConfigMap/NS/changed  (bundle NS-app) updated: changed in Git\n    /data/a: \"b\" -> \"c\"\n",
		"- ConfigMap/NS/leaves  (bundle NS-app) pruned: left Git\n",
	} {
		if want = a.Text(want); !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if strings.Contains(adopted, "/type") {
		t.Errorf("a default that comes back is shown as removed:\n%s", adopted)
	}
	if at := markers.FindString(a.said.String()); at != "" {
		t.Errorf("a Secret's value got out: %s", at)
	}

	// The agent agrees: it does what was foretold, and then nothing is left to do.
	a.Start()
	revision := strings.TrimSpace(a.Repo.Git("rev-parse", "main"))
	a.Eventually("the revision is applied", func(ctx context.Context) error {
		b, err := a.Bundle(ctx, "NS-app")
		if err == nil && (b.AppliedRevision != revision || b.Phase != api.PhaseReady) {
			err = fmt.Errorf("%s at %s: %s", b.Phase, b.AppliedRevision, b.Message)
		}
		return err
	})
	// What drifted is corrected beside the pass.
	a.Eventually("the drift is corrected", func(ctx context.Context) error {
		if _, err := a.Kube.CoreV1().ConfigMaps(a.NS).Get(ctx, "gone", metav1.GetOptions{}); err != nil {
			return err
		}
		s, err := a.Kube.CoreV1().Secrets(a.NS).Get(ctx, "creds", metav1.GetOptions{})
		if err == nil && string(s.Data["password"]) != marker+"-git" {
			err = errors.New("the Secret is not as in Git")
		}
		return err
	})
	a.Stop()
	code, rows, _ = a.diff()
	a.expect(code, 0, rows, map[string]string{"ConfigMap/off": "skipped skipped"})
	live, err := a.Kube.CoreV1().Secrets(a.NS).Get(t.Context(), "adopted", metav1.GetOptions{})
	if err != nil || len(live.Data) != 1 || live.Annotations[corev1.LastAppliedConfigAnnotation] != "" {
		t.Errorf("the take-over left %d keys and the annotations %v (%v)", len(live.Data), live.Annotations, err)
	}
}

func TestDiff_reportMode(t *testing.T) {
	a := newAhead(t, map[string]string{
		"app/bundle.yaml":  bundleFile("app", "drift: {mode: report, extra: report}"),
		"app/drifted.yaml": settings("drifted", "a: b"),
		"app/gone.yaml":    settings("gone", "a: b"),
		"app/changed.yaml": settings("changed", "a: b"),
	}, "app")
	a.edit("drifted", `{"data":{"a":"mine"}}`)
	if err := a.Kube.CoreV1().ConfigMaps(a.NS).Delete(t.Context(), "gone", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	like, err := a.Kube.CoreV1().ConfigMaps(a.NS).Get(t.Context(), "changed", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	extra := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "extra", Labels: like.Labels}}
	if _, err := a.Kube.CoreV1().ConfigMaps(a.NS).Create(t.Context(), extra, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	code, rows, _ := a.diff()
	want := map[string]string{
		"ConfigMap/drifted": "unchanged reported", "ConfigMap/gone": "skipped reported", "ConfigMap/extra": "pruned reported",
	}
	a.expect(code, 0, rows, want)
	if diff := cmp.Diff([]string{`/data/a: "mine" -> "b"`}, rows["ConfigMap/drifted"].Fields); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	_, out, _ := a.run("--repo", a.Repo.Dir, "--revision", "main")
	if line := a.Text("* ConfigMap/NS/drifted  (bundle NS-app) drift, reported: differs from Git\n"); !strings.Contains(out, line) {
		t.Errorf("%q is not in\n%s", line, out)
	}

	// What Git changes is a change, also where drift is only reported.
	a.commit(map[string]string{"app/changed.yaml": settings("changed", "a: c")})
	code, rows, _ = a.diff()
	want["ConfigMap/changed"] = "updated change"
	a.expect(code, 1, rows, want)

	// Without commits to read, the two cannot be told apart, and that is said.
	dir := t.TempDir()
	a.files["clusters/one/cluster.yaml"] = "apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {name: one}\n"
	for name, text := range a.files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(a.Text(text)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	code, rows, talk := a.diffOf("--repo", dir)
	a.expect(code, 1, rows, map[string]string{
		"ConfigMap/drifted": "updated unclear", "ConfigMap/changed": "updated unclear", "ConfigMap/gone": "created change", "ConfigMap/extra": "pruned change",
	})
	if !strings.Contains(talk, "drift cannot be told from a change in Git") {
		t.Errorf("it says %q", talk)
	}
}

// An annotation on the cluster has drift reported as the policy does, and Git's changes are told from it.
func TestDiff_exempt(t *testing.T) {
	a := newAhead(t, map[string]string{
		"app/bundle.yaml": bundleFile("app", ""), "app/drifted.yaml": settings("drifted", "a: b"), "app/ignored.yaml": settings("ignored", "a: b"),
	}, "app")
	a.Start()
	a.edit("drifted", `{"metadata":{"annotations":{"flotilla.dev/drift":"report"}},"data":{"a":"mine"}}`)
	a.edit("ignored", `{"metadata":{"annotations":{"flotilla.dev/drift":"ignore"}},"data":{"a":"mine"}}`)
	a.Eventually("both are exempt", func(ctx context.Context) error {
		b, err := a.Bundle(ctx, "NS-app")
		if err == nil && len(b.Exempt) != 2 {
			err = fmt.Errorf("exempt are %q", b.Exempt)
		}
		return err
	})
	a.Stop()
	code, rows, _ := a.diff()
	a.expect(code, 0, rows, map[string]string{"ConfigMap/drifted": "unchanged reported"})
	a.commit(map[string]string{"app/ignored.yaml": settings("ignored", "a: c")})
	code, rows, _ = a.diff()
	a.expect(code, 1, rows, map[string]string{"ConfigMap/drifted": "unchanged reported", "ConfigMap/ignored": "updated change"})
}

// What others added is in the diff of a change only where the change takes it away.
func TestDiff_whatOthersAdded(t *testing.T) {
	for extra, want := range map[string]int{"report": 1, "remove": 2} {
		t.Run(extra, func(t *testing.T) {
			a := newAhead(t, map[string]string{"app/bundle.yaml": bundleFile("app", "drift: {extra: "+extra+"}"), "app/x.yaml": settings("x", "a: b")}, "app")
			a.Stop()
			a.edit("x", `{"data":{"added":"mine"}}`)
			a.commit(map[string]string{"app/x.yaml": settings("x", "a: c")})
			code, rows, _ := a.diff()
			a.expect(code, 1, rows, map[string]string{"ConfigMap/x": "updated change"})
			if got := rows["ConfigMap/x"].Fields; len(got) != want {
				t.Errorf("%+v", got)
			}
		})
	}
}

// A value that the API server would set anyway is nobody's addition, whoever claims it.
func TestDiff_defaultsThatSomebodyClaims(t *testing.T) {
	service := "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {selector: {app: s}, ports: [{port: 80}]}\n"
	a := newAhead(t, map[string]string{"app/bundle.yaml": bundleFile("app", "drift: {extra: report}"), "app/s.yaml": service}, "app")
	a.Stop()
	edit := func(patch string) {
		t.Helper()
		how := metav1.PatchOptions{FieldManager: "kubectl-edit"}
		if _, err := a.Kube.CoreV1().Services(a.NS).Patch(t.Context(), "s", types.MergePatchType, []byte(patch), how); err != nil {
			t.Fatal(err)
		}
	}
	edit(`{"spec":{"sessionAffinity":"ClientIP"}}`)
	code, rows, _ := a.diff()
	a.expect(code, 0, rows, map[string]string{"Service/s": "unchanged reported"})
	edit(`{"spec":{"sessionAffinity":"None","sessionAffinityConfig":null}}`)
	code, rows, _ = a.diff()
	a.expect(code, 0, rows, map[string]string{})
}

// The hooks of a bundle that leaves Git are those of what was applied, around what is pruned; a bundle that is renamed has none, and is upgraded.
func TestDiff_hooksOfARemoval(t *testing.T) {
	hook := func(name, phase string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + ", annotations: {helm.sh/hook: " + phase + "}}\n"
	}
	chart := map[string]string{
		"chart/bundle.yaml":         bundleFile("chart", "helm: {chart: ./}"),
		"chart/Chart.yaml":          "{apiVersion: v2, name: hooked, version: 1.0.0}\n",
		"chart/templates/main.yaml": settings("main", "a: b"),
		"chart/templates/bye.yaml":  hook("bye", "pre-delete"),
		"chart/templates/last.yaml": hook("last", "post-delete"),
		"chart/templates/only.yaml": hook("only", "post-install"),
		"chart/templates/up.yaml":   hook("up", "post-upgrade"),
		"other/bundle.yaml":         bundleFile("other", ""),
		"other/x.yaml":              settings("x", "a: b"),
	}
	a := newAhead(t, chart, "chart", "other")
	code, rows, _ := a.diff()
	a.expect(code, 0, rows, map[string]string{})

	a.commit(map[string]string{"chart/bundle.yaml": bundleFile("renamed", "helm: {chart: ./}")})
	if _, out, _ := a.run("--repo", a.Repo.Dir, "--revision", "main"); !strings.Contains(out, "/main ") || strings.Contains(out, "/bye ") || strings.Contains(out, "/last ") ||
		strings.Contains(out, "/only ") || !strings.Contains(out, "/up ") {
		t.Errorf("a bundle that is renamed:\n%s", out)
	}

	a.Delete("chart")
	code, rows, _ = a.diff()
	a.expect(code, 1, rows, map[string]string{"ConfigMap/bye": "created change", "ConfigMap/main": "pruned change", "ConfigMap/last": "created change"})
	if rows["ConfigMap/bye"].Hook != "pre-delete" || rows["ConfigMap/last"].Hook != "post-delete" {
		t.Errorf("the hooks: %+v", rows)
	}
	_, out, _ := a.run("--repo", a.Repo.Dir, "--revision", "main")
	if pre, main, post := strings.Index(out, "/bye "), strings.Index(out, "/main "), strings.Index(out, "/last "); pre < 0 || main < pre || post < main {
		t.Errorf("the steps are not in order:\n%s", out)
	}
}

func TestDiff_suspensionsAndHooks(t *testing.T) {
	a := newAhead(t, map[string]string{
		"app/bundle.yaml": bundleFile("app", "wait: false"),
		"app/held.yaml":   settings("held", "a: b"),
		"app/free.yaml":   settings("free", "a: b"),
		"app/leaves.yaml": settings("leaves", "a: b"),

		"chart/bundle.yaml":         bundleFile("chart", "dependsOn: [NS-app], helm: {chart: ./}"),
		"chart/Chart.yaml":          "{apiVersion: v2, name: hooked, version: 1.0.0}\n",
		"chart/templates/main.yaml": settings("main", "a: b"),
		"chart/templates/pre.yaml":  "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: pre, annotations: {helm.sh/hook: 'pre-install,pre-upgrade'}}\n",
		"chart/templates/post.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: post, annotations: {helm.sh/hook: post-upgrade}}\n",
	}, "app", "chart")
	code, rows, _ := a.diff()
	a.expect(code, 0, rows, map[string]string{})

	a.commit(map[string]string{"chart/templates/main.yaml": settings("main", "a: c")})
	code, rows, _ = a.diff()
	a.expect(code, 1, rows, map[string]string{"ConfigMap/pre": "created change", "ConfigMap/main": "updated change", "ConfigMap/post": "created change"})
	if rows["ConfigMap/pre"].Hook != "pre-upgrade" || rows["ConfigMap/post"].Hook != "post-upgrade" {
		t.Errorf("the hooks: %+v", rows)
	}
	_, out, _ := a.run("--repo", a.Repo.Dir, "--revision", "main")
	if pre, main, post := strings.Index(out, "/pre "), strings.Index(out, "/main "), strings.Index(out, "/post "); pre < 0 || main < pre || post < main {
		t.Errorf("the steps are not in order:\n%s", out)
	}

	suspend := func(scope api.Scope) {
		t.Helper()
		_, err := a.Applier.Suspend(t.Context(), api.Suspension{Name: a.NS, Scope: scope, Reason: "INC-1", Until: time.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = a.Applier.Resume(t.Context(), a.NS) })
	}
	resume := func() {
		t.Helper()
		if err := a.Applier.Resume(t.Context(), a.NS); err != nil {
			t.Fatal(err)
		}
	}
	a.edit("held", `{"data":{"a":"mine"}}`)
	a.edit("free", `{"data":{"a":"mine"}}`)
	a.Delete("app/leaves.yaml")
	a.commit(map[string]string{"chart/templates/main.yaml": settings("main", "a: b")})
	suspend(api.Scope{Objects: []api.ObjectRef{{Kind: "ConfigMap", Namespace: a.NS, Name: "held"}}})
	code, rows, _ = a.diff("--bundle", a.NS+"-app")
	a.expect(code, 1, rows, map[string]string{"ConfigMap/held": "updated held", "ConfigMap/free": "updated change", "ConfigMap/leaves": "pruned change"})
	if held := rows["ConfigMap/held"]; held.HeldBy != a.NS || len(held.Fields) != 1 {
		t.Errorf("what is held: %+v", held)
	}
	resume()
	suspend(api.Scope{Bundles: []string{a.NS + "-app"}})
	code, rows, _ = a.diff()
	a.expect(code, 0, rows, map[string]string{"ConfigMap/held": "updated held", "ConfigMap/free": "updated held", "ConfigMap/leaves": "pruned held"})
	_, out, _ = a.run("--repo", a.Repo.Dir, "--revision", "main")
	if line := a.Text(`= ConfigMap/NS/held  (bundle NS-app) held by "NS"; else updated: differs from Git`); !strings.Contains(out, line) {
		t.Errorf("%q is not in\n%s", line, out)
	}
	resume()

	// A suspension in Git holds everything.
	a.commit(map[string]string{"clusters/one/cluster.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {name: one}\n" +
		"spec: {suspend: {reason: INC-2, until: " + time.Now().Add(time.Hour).UTC().Format(time.RFC3339) + "}}\n"})
	code, rows, _ = a.diff()
	a.expect(code, 0, rows, map[string]string{"ConfigMap/held": "updated held", "ConfigMap/free": "updated held", "ConfigMap/leaves": "pruned held"})
	if by := rows["ConfigMap/free"].HeldBy; by != "git" {
		t.Errorf("held by %q, want git", by)
	}
}

// What a bundle with prune: false left behind is no business of a pass any more, nor of diff's.
func TestDiff_whatWasLeftBehind(t *testing.T) {
	a := newAhead(t, map[string]string{
		"kept/bundle.yaml": bundleFile("kept", "prune: false"), "kept/a.yaml": settings("kept", "a: b"),
		"good/bundle.yaml": bundleFile("good", ""), "good/a.yaml": settings("good", "a: b"),
	}, "kept", "good")
	a.Delete("kept")
	a.Start()
	a.Eventually("the bundle is forgotten", func(ctx context.Context) error {
		if b, err := a.Bundle(ctx, "NS-kept"); err == nil {
			return fmt.Errorf("it is %s", b.Phase)
		}
		return nil
	})
	a.Stop()
	code, rows, _ := a.diff()
	a.expect(code, 0, rows, map[string]string{"ConfigMap/kept": "skipped skipped"})
}

func TestDiff_brokenBundlesAndGuards(t *testing.T) {
	files := map[string]string{
		"ns/bundle.yaml": bundleFile("ns", ""), "ns/a.yaml": settings("ns", "a: b"), "ns/second.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: NS-second}\n",
		"kept/bundle.yaml": bundleFile("kept", "dependsOn: [NS-ns], prune: false"), "kept/a.yaml": settings("kept", "a: b"),
		"bad/bundle.yaml": bundleFile("bad", "dependsOn: [NS-ns]"), "bad/a.yaml": settings("bad", "a: b"),
		"good/bundle.yaml": bundleFile("good", "dependsOn: [NS-ns]"), "good/a.yaml": settings("good", "a: b"), "good/b.yaml": settings("leaves", "a: b"),
	}
	for i := range 8 {
		files[fmt.Sprintf("many/%d.yaml", i)] = settings(fmt.Sprint("many-", i), "a: b")
	}
	files["many/bundle.yaml"] = bundleFile("many", "dependsOn: [NS-ns]")
	a := newAhead(t, files, "ns", "kept", "bad", "good", "many")

	// A bundle that keeps what it holds keeps it when it goes.
	a.Delete("kept")
	code, rows, _ := a.diff()
	a.expect(code, 0, rows, map[string]string{"ConfigMap/kept": "skipped skipped"})

	// A protected kind is refused, and the rest goes on.
	a.Delete("ns/second.yaml")
	a.commit(map[string]string{"good/a.yaml": settings("good", "a: c")})
	code, rows, _ = a.diff()
	a.expect(code, 1, rows, map[string]string{
		"ConfigMap/kept": "skipped skipped", "ConfigMap/good": "updated change",
		"Namespace/" + a.NS + "-second": "pruned refused", "bundle " + a.NS + "-ns": "denied refused",
	})
	if e := rows["bundle "+a.NS+"-ns"].Error; !strings.Contains(e, "allowDelete: ["+a.NS+"-ns]") {
		t.Errorf("the guard says %q", e)
	}
	_, out, _ := a.run("--repo", a.Repo.Dir, "--revision", "main")
	if line := a.Text("x bundle NS-ns: a pass would refuse this: the pass would delete Namespace/NS-second"); !strings.Contains(out, line) {
		t.Errorf("%q is not in\n%s", line, out)
	}

	// So is a mass deletion, for the whole cluster.
	a.commit(map[string]string{"ns/second.yaml": files["ns/second.yaml"]})
	a.Delete("many")
	code, rows, _ = a.diff("--bundle", a.NS+"-good")
	a.expect(code, 1, rows, map[string]string{"cluster": "denied refused", "ConfigMap/good": "updated change"})
	if e := rows["cluster"].Error; !strings.Contains(e, "would delete 8 of") {
		t.Errorf("the guard says %q", e)
	}

	// A broken bundle is shown, and does not hide the others. What left Git may have moved into it.
	a.commit(map[string]string{"bad/bundle.yaml": bundleFile("bad", "nonsense: true")})
	a.Delete("good/b.yaml")
	code, rows, _ = a.diff("--bundle", a.NS+"-good")
	a.expect(code, 1, rows, map[string]string{"ConfigMap/good": "updated change", "ConfigMap/leaves": "pruned skipped"})
	code, rows, talk := a.diff()
	if code != 3 || rows["bundle "+a.NS+"-bad"].Outcome != "failed" || rows["ConfigMap/good"].Outcome != "change" || rows["ConfigMap/bad"].Outcome != "" {
		t.Errorf("exit code %d, rows %+v", code, rows)
	}
	if !strings.Contains(talk, "bad/bundle.yaml") || !strings.Contains(talk, "nonsense") {
		t.Errorf("it says %q", talk)
	}

	// An object that the API server would refuse fails, and only it.
	a.commit(map[string]string{
		"bad/bundle.yaml": files["bad/bundle.yaml"],
		"good/svc.yaml":   "apiVersion: v1\nkind: Service\nmetadata: {name: svc}\nspec: {ports: [{port: 99999}]}\n",
	})
	code, rows, _ = a.diff("--bundle", a.NS+"-good")
	if code != 3 || rows["Service/svc"].Outcome != "failed" || rows["ConfigMap/good"].Outcome != "change" || rows["ConfigMap/leaves"].Outcome != "skipped" {
		t.Errorf("exit code %d, rows %+v", code, rows)
	}
	if code, _, talk := a.run("--repo", a.Repo.Dir, "--revision", "main", "--bundle", "none"); code != 3 || !strings.Contains(talk, `bundle "none" is not on cluster`) {
		t.Errorf("exit code %d, %s", code, talk)
	}
}

// A cluster that never had an agent holds nothing of ours, so all that Git says is new.
func TestDiff_newCluster(t *testing.T) {
	rig := agenttest.New(t, agenttest.Config{Plane: controlplanetest.New(t, controlplane.Config{}), Files: map[string]string{
		"app/bundle.yaml": bundleFile("app", ""), "app/ns.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: NS}\n", "app/a.yaml": settings("a", "a: b"),
		"app/crd.yaml": "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: things.NS.example.com}\n" +
			"spec: {group: NS.example.com, scope: Namespaced, names: {kind: Thing, plural: things}, versions: [{name: v1, served: true, storage: true, " +
			"schema: {openAPIV3Schema: {type: object}}}]}\n",
		"app/thing.yaml":    "apiVersion: NS.example.com/v1\nkind: Thing\nmetadata: {name: thing}\n",
		"other/bundle.yaml": bundleFile("other", ""), "other/a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: lost, namespace: NS-nowhere}\n",
	}})
	a := &ahead{Rig: rig, t: t}
	code, rows, _ := a.diff()
	a.expect(code, 4, rows, map[string]string{
		"Namespace/" + a.NS: "created change", "ConfigMap/a": "created change", "Thing/thing": "created change",
		"CustomResourceDefinition/things." + a.NS + ".example.com": "created change", "ConfigMap/lost": "failed failed",
	})
	if e := rows["ConfigMap/lost"].Error; !strings.Contains(e, "other/a.yaml") || !strings.Contains(e, a.NS+"-nowhere") {
		t.Errorf("the object without a namespace: %q", e)
	}
}

// definition is a CRD with a version for each list of the fields below the spec; "v1: a, b" are strings.
func definition(plural, kind string, versions ...string) string {
	out := "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: " + plural + ".NS.example.com}\n" +
		"spec:\n  group: NS.example.com\n  scope: Namespaced\n  names: {kind: " + kind + ", plural: " + plural + "}\n  versions:\n"
	for i, v := range versions {
		name, fields, _ := strings.Cut(v, ": ")
		out += fmt.Sprintf("  - {name: %s, served: true, storage: %v, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {", name, i == 0)
		for f := range strings.SplitSeq(fields, ", ") {
			out += f + ": {type: string}, "
		}
		out += "}}}}}}\n"
	}
	return out
}

func instance(kind, version, name, spec string) string {
	return fmt.Sprintf("apiVersion: NS.example.com/%s\nkind: %s\nmetadata: {name: %s, namespace: NS}\nspec: {%s}\n", version, kind, name, spec)
}

// A commit that changes a CRD and what is made of it is shown as what it is: a pass has no trouble with it.
func TestDiff_definitionChangesToo(t *testing.T) {
	a := newAhead(t, map[string]string{
		"crd/bundle.yaml": bundleFile("crd", ""), "crd/things.yaml": definition("things", "Thing", "v1: a"), "crd/boxes.yaml": definition("boxes", "Box", "v1: a, b"),
		"app/bundle.yaml": bundleFile("app", "dependsOn: [NS-crd]"), "app/thing.yaml": instance("Thing", "v1", "thing", "a: one"), "app/same.yaml": instance("Thing", "v1", "same", "a: one"),
		"app/box.yaml": instance("Box", "v1", "box", "a: one"), "app/same-box.yaml": instance("Box", "v1", "same-box", "a: one"),
	}, "crd", "app")
	// What the CRD of Git does not know either is refused by a pass as well.
	a.commit(map[string]string{"app/thing.yaml": instance("Thing", "v1", "thing", "a: one, b: two")})
	if code, rows, _ := a.diff(); code != 3 || rows["Thing/thing"].Outcome != "failed" {
		t.Errorf("exit code %d, %+v", code, rows)
	}
	revision := a.Commit(map[string]string{
		"crd/things.yaml": definition("things", "Thing", "v1: a, b"), "app/new.yaml": instance("Thing", "v1", "new", "b: two"),
		"crd/boxes.yaml": definition("boxes", "Box", "v1: a, b", "v2: a, b"), "app/box.yaml": instance("Box", "v2", "box", "a: one, b: two"),
		"app/same-box.yaml": instance("Box", "v2", "same-box", "a: one"), "app/new-box.yaml": instance("Box", "v2", "new-box", "a: one"),
	})
	code, rows, _ := a.diff()
	a.expect(code, 1, rows, map[string]string{
		"CustomResourceDefinition/things." + a.NS + ".example.com": "updated change", "CustomResourceDefinition/boxes." + a.NS + ".example.com": "updated change",
		"Thing/thing": "updated change", "Thing/new": "created change", "Box/box": "updated change", "Box/new-box": "created change",
	})
	for _, key := range []string{"Thing/thing", "Box/box"} {
		if got := strings.Join(rows[key].Fields, ", "); got != `/spec/b:  -> "two"` {
			t.Errorf("%s: fields %s", key, got)
		}
	}
	for _, key := range []string{"Thing/thing", "Thing/new", "Box/box", "Box/new-box"} {
		if !strings.Contains(rows[key].Reason, "its CRD changes too") {
			t.Errorf("%s: %q", key, rows[key].Reason)
		}
	}
	a.Start()
	a.Ready("NS-app", revision)
	a.Stop()
	if code, rows, _ := a.diff(); code != 0 || len(rows) > 0 {
		t.Errorf("after the pass: %d, %+v", code, rows)
	}
}

// A Job that ended and was cleaned up is not missing; one that Git changed is made again.
func TestDiff_jobThatWasCleanedUp(t *testing.T) {
	job := func(image string) string {
		return "apiVersion: batch/v1\nkind: Job\nmetadata: {name: once}\nspec: {ttlSecondsAfterFinished: 0, template: {spec: {restartPolicy: Never, containers: [{name: main, image: " + image + "}]}}}\n"
	}
	a := newAhead(t, map[string]string{"app/bundle.yaml": bundleFile("app", ""), "app/job.yaml": job("one")}, "app")
	a.Eventually("the Job is gone", func(ctx context.Context) error {
		if _, err := a.Kube.BatchV1().Jobs(a.NS).Get(ctx, "once", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return errors.Join(errors.New("it is there"), err)
		}
		return nil
	})
	code, rows, _ := a.diff()
	a.expect(code, 0, rows, map[string]string{})
	a.commit(map[string]string{"app/job.yaml": job("two")})
	code, rows, _ = a.diff()
	a.expect(code, 1, rows, map[string]string{"Job/once": "created change"})
}

// What admission made of an immutable field as the object was created is no difference.
func TestDiff_immutableAndChangedByAdmission(t *testing.T) {
	job := func(name, annotations string) string {
		return "apiVersion: batch/v1\nkind: Job\nmetadata: {name: " + name + ", annotations: {" + annotations + "}}\nspec: {template: {spec: {restartPolicy: Never, containers: [{name: main, image: one}]}}}\n"
	}
	policy := `apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: NS-mirror}
spec:
  failurePolicy: Fail
  reinvocationPolicy: Never
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NS}}
    resourceRules: [{apiGroups: [batch], apiVersions: [v1], operations: [CREATE], resources: [jobs]}]
  mutations:
  - {patchType: JSONPatch, jsonPatch: {expression: '[JSONPatch{op: "replace", path: "/spec/template/spec/containers/0/image", value: "mirror/one"}]'}}
---
{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingAdmissionPolicyBinding, metadata: {name: NS-mirror}, spec: {policyName: NS-mirror}}
`
	a := newAhead(t, map[string]string{"p/bundle.yaml": bundleFile("p", ""), "p/policy.yaml": policy}, "p")
	a.Eventually("the policy works", func(ctx context.Context) error {
		j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "probe"}}
		j.Spec.Template.Spec = corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "main", Image: "one"}}}
		j, err := a.Kube.BatchV1().Jobs(a.NS).Create(ctx, j, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil && j.Spec.Template.Spec.Containers[0].Image != "mirror/one" {
			err = errors.New("it does not yet")
		}
		return err
	})
	a.Start()
	a.Ready("NS-app", a.Commit(map[string]string{
		"app/bundle.yaml": bundleFile("app", ""), "app/kept.yaml": job("kept", ""), "app/forced.yaml": job("forced", "flotilla.dev/force: enabled"),
	}))
	a.Stop()
	code, rows, _ := a.diff()
	a.expect(code, 0, rows, map[string]string{})
}
