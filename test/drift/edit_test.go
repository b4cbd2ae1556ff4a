package drift

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
)

// Declared fields are restored, of several objects at once, and each episode says what and who.
// A status in the manifest is no drift, and what nobody declared is left alone.
func TestEditsAreCorrected(t *testing.T) {
	r := start(t, marked(files{
		"app/bundle.yaml": bundle(""), "app/web.yaml": deployment, "app/svc.yaml": service, "app/cm.yaml": configMap("settings", "one"),
		"app/ext.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: ext, namespace: NS}\nspec: {type: ExternalName, externalName: one.example.com}\n",
	}))
	r.edit("deploy/web", `{"spec":{"replicas":4}}`)
	r.is("deploy/web", "spec.replicas", "1")
	r.editAs("kubectl-set", "deploy/web", `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"web:2"}]`)
	r.is("deploy/web", "spec.template.spec.containers.0.image", "web:1")
	r.editAs("kubectl-label", "svc/ext", `{"metadata":{"labels":{"mine":"yes"},"annotations":{"mine":"yes"}}}`)
	r.edit("svc/ext", `{"spec":{"externalName":"two.example.com"}}`)
	r.edit("cm/settings", `{"data":{"key":"two","other":"stays"}}`)
	r.is("svc/ext", "spec.externalName", "one.example.com")
	r.is("cm/settings", "data.key", "one")
	r.editAs("kubectl-annotate", "deploy/web", `{"metadata":{"annotations":{"example.com/owner":null,"mine":"yes"},"labels":{"tier":"back"}}}`)
	r.is("deploy/web", "metadata.annotations.example|com/owner", "team-a")
	r.is("deploy/web", "metadata.labels.tier", "front")
	old := r.get("svc/web")
	r.remove("svc/web")
	r.back("svc/web", old)
	r.settle()
	r.ended()
	r.drifted(0)
	for object, path := range map[string]string{
		"svc/ext": "metadata.labels.mine", "deploy/web": "metadata.annotations.mine",
	} {
		r.stays(object, path, "yes")
	}
	r.stays("cm/settings", "data.other", "stays")
	const web = "deploy/web changed corrected: "
	r.want(
		web+`/spec/replicas 1 -> 4 by kubectl-edit`,
		web+`/spec/template/spec/containers/[name=web]/image "web:1" -> "web:2" by kubectl-set`,
		web+`/metadata/labels/tier "front" -> "back" by kubectl-annotate; /metadata/annotations/example.com~1owner "team-a" -> `,
		`svc/ext changed corrected: /spec/externalName "one.example.com" -> "two.example.com" by kubectl-edit`,
		`cm/settings changed corrected: /data/key "one" -> "two" by kubectl-edit`,
		`svc/web missing corrected`,
		r.markLine(),
	)
}

// The log names the episode from its first line on, so that it can be looked up.
func TestLogNamesTheEpisode(t *testing.T) {
	var log buffer
	r := newRig(t, agenttest.Config{
		Files:  marked(files{"app/bundle.yaml": bundle(""), "app/cm.yaml": configMap("settings", "one")}),
		Change: func(c *agent.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) },
	})
	r.Start()
	r.Ready("NS-app", "")
	r.edit("cm/settings", `{"data":{"key":"two"}}`)
	r.is("cm/settings", "data.key", "one")
	r.settle()
	for _, e := range r.closed() {
		if e.Object.Name == "settings" && !strings.Contains(string(log.Bytes()), "msg=drift component=reconciler bundle="+r.Text("NS-app")+" object=/ConfigMap/"+r.NS+"/settings class=changed episode="+e.ID+" ") {
			t.Errorf("episode %s is not in the log:\n%s", e.ID, string(log.Bytes()))
		}
	}
}

// markLine is the episode that settle leaves behind.
func (r *rig) markLine() string {
	r.t.Helper()
	for _, e := range r.closed() {
		if e.Object.Name == "mark" {
			return fmt.Sprintf(`cm/mark changed corrected: /data/key "mark" -> %s by kubectl-edit`, e.Fields[0].Live)
		}
	}
	r.t.Fatal("the mark was not seen")
	return ""
}

// A deleted namespace comes back, with all that was in it.
func TestDeletedNamespaceComesBack(t *testing.T) {
	r := start(t, files{
		"app/bundle.yaml": bundle("namespace: NS-x"), "app/ns.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: NS-x}\n",
		"app/cm.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {key: one}\n",
	})
	before := r.get("ns/NS-x")
	r.remove("ns/NS-x")
	r.back("ns/NS-x", before)
	r.Eventually("the ConfigMap in it is back", func(ctx context.Context) error {
		_, err := r.Kube.CoreV1().ConfigMaps(r.NS+"-x").Get(ctx, "settings", metav1.GetOptions{})
		return err
	})
	r.Ready("NS-app", "")
	r.ended()
	classes := map[string]api.Class{}
	for _, e := range r.closed() {
		classes[e.Object.Kind] = e.Class
		if e.Open() {
			t.Errorf("%s is still open: %s %s", e.Object, e.Outcome, e.Error)
		}
	}
	if classes["Namespace"] != api.ClassMissing || classes["ConfigMap"] != api.ClassMissing {
		t.Errorf("classes are %v", classes)
	}
}

// Our label taken off by hand is put back, and the object does not count as deleted.
func TestStrippedLabelIsPutBack(t *testing.T) {
	r := start(t, files{"app/bundle.yaml": bundle(""), "app/cm.yaml": configMap("settings", "one")})
	before := r.get("cm/settings")
	r.editAs("kubectl-label", "cm/settings", `{"metadata":{"labels":{"applyset.kubernetes.io/part-of":null}}}`)
	r.is("cm/settings", "metadata.labels.applyset|kubernetes|io/part-of", before.GetLabels()[api.LabelPartOf])
	if r.get("cm/settings").GetUID() != before.GetUID() {
		t.Error("the object was made anew")
	}
	r.ended()
	r.drifted(0)
	r.want(fmt.Sprintf("cm/settings removed corrected: /metadata/labels/applyset.kubernetes.io~1part-of %q -> ", before.GetLabels()[api.LabelPartOf]))
}

// Ports of a Service are items of a list with a key of two fields.
func TestServicePorts(t *testing.T) {
	r := start(t, files{"app/bundle.yaml": bundle(""), "app/svc.yaml": service})
	ip := fmt.Sprint(at(r.get("svc/web"), "spec.clusterIP"))
	r.edit("svc/web", `[{"op":"replace","path":"/spec/ports/0/targetPort","value":9090}]`)
	r.is("svc/web", "spec.ports.0.targetPort", "8080")
	r.edit("svc/web", `[{"op":"remove","path":"/spec/ports/2"}]`)
	r.Eventually("the removed port is back", func(ctx context.Context) error {
		svc, err := r.tryGet(ctx, "svc/web")
		if err == nil && len(at(svc, "spec.ports").([]any)) != 3 {
			err = errors.New("it is not")
		}
		return err
	})
	// The new port has the name of ours, and names are unique: ours cannot come back beside it.
	r.edit("svc/web", `[{"op":"replace","path":"/spec/ports/0/port","value":81}]`)
	e := r.open("svc/web", outcome(api.OutcomeFailed))
	if len(e.Fields) != 1 || e.Fields[0].Path != "/spec/ports/[port=80,protocol=TCP]" || !strings.Contains(e.Error, "Duplicate value") {
		t.Errorf("episode is %+v", e)
	}
	r.stays("svc/web", "spec.ports.0.port", "81")
	if !strings.Contains(e.Error, "kubectl-edit") || !strings.Contains(e.Error, "flotilla.dev/force: enabled") {
		t.Errorf("the error does not tell the way out: %s", e.Error)
	}
	r.Eventually("the status says why it is not corrected", func(ctx context.Context) error {
		b, err := r.Bundle(ctx, "NS-app")
		if err == nil && (len(b.Uncorrected) != 1 || !strings.Contains(b.Uncorrected[0], "Service/"+r.NS+"/web: ") || !strings.Contains(b.Uncorrected[0], "Duplicate value")) {
			err = fmt.Errorf("it says %q", b.Uncorrected)
		}
		return err
	})
	// An order on the live object is obeyed at once. It goes with all else that kubectl added.
	r.edit("svc/web", `{"metadata":{"annotations":{"flotilla.dev/force":"enabled"}}}`)
	r.is("svc/web", "spec.ports.0.port", "80")
	r.edit("svc/web", `[{"op":"replace","path":"/spec/ports/0/port","value":81}]`)
	r.open("svc/web", outcome(api.OutcomeFailed))
	// What others added may go where the policy says so; then ours fits.
	r.Commit(files{"app/bundle.yaml": bundle("drift: {extra: remove}")})
	r.is("svc/web", "spec.ports.0.port", "80")
	r.drifted(0)
	r.stays("svc/web", "spec.clusterIP", ip)
}

// An object that asks to be forced gets its port back, without being made anew, though others' stands in its place.
func TestServicePortsAreForced(t *testing.T) {
	forced := strings.Replace(service, "metadata: {", "metadata: {annotations: {flotilla.dev/force: enabled}, ", 1)
	r := start(t, files{"app/bundle.yaml": bundle(""), "app/svc.yaml": forced})
	before := r.get("svc/web")
	r.edit("svc/web", `[{"op":"replace","path":"/spec/ports/0/port","value":81},{"op":"add","path":"/metadata/labels/note","value":"mine"}]`)
	r.is("svc/web", "spec.ports.0.port", "80")
	r.ended()
	r.drifted(0)
	r.want("svc/web removed corrected: /spec/ports/[port=80,protocol=TCP] {\"name\":\"http\",\"port\":80,\"protocol\":\"TCP\",\"targetPort\":8080} -> ")
	now := r.get("svc/web")
	if now.GetUID() != before.GetUID() || len(at(now, "spec.ports").([]any)) != 3 {
		t.Errorf("it is %s with %v, was %s", now.GetUID(), at(now, "spec.ports"), before.GetUID())
	}

	// So does a commit that comes upon such a port.
	r.Stop()
	r.edit("svc/web", `[{"op":"replace","path":"/spec/ports/0/port","value":81}]`)
	revision := r.Commit(files{"app/svc.yaml": strings.Replace(forced, "annotations: {", "annotations: {n: two, ", 1)})
	r.Start()
	r.Ready("NS-app", revision)
	r.is("svc/web", "spec.ports.0.port", "80")
	r.Stop()
	es := r.Episodes()
	if last := es[0]; last.Class != api.ClassRemoved || last.Outcome != api.OutcomeCorrected || last.Evidence == nil ||
		!strings.Contains(last.Evidence.ManagedFields, "kubectl-edit") {
		t.Errorf("of what the commit wrote over is kept: %+v", last)
	}
	r.Start()

	// The port of a node is one that no other Service can have, not even in a dry run.
	node := strings.Replace(forced, "spec:\n", "spec:\n  type: NodePort\n", 1)
	node = strings.Replace(node, "port: 80,", "port: 80, nodePort: 30987,", 1)
	r.Ready("NS-app", r.Commit(files{"app/svc.yaml": node}))
	r.edit("svc/web", `[{"op":"replace","path":"/spec/ports/0/port","value":81}]`)
	r.is("svc/web", "spec.ports.0.port", "80")
	r.drifted(0)
	if n := r.metric("flotilla_objects_unknown"); n != 0 {
		t.Errorf("%v objects are unknown", n)
	}
	r.Ready("NS-app", r.Commit(files{"app/svc.yaml": forced}))

	// A refusal that has nothing to do with what others added takes nothing of theirs away.
	r.edit("svc/web", `{"metadata":{"annotations":{"note":"mine"}}}`)
	r.Commit(files{"app/svc.yaml": strings.Replace(forced, "port: 80,", "port: 99999,", 1)})
	r.Failed("NS-app", "99999")
	r.Ready("NS-app", r.Commit(files{"app/svc.yaml": forced}))
	if r.get("svc/web").GetAnnotations()["note"] != "mine" {
		t.Error("what others added was taken away for nothing")
	}
}

// What the server fills in is never fought over, and survives commits.
func TestServerFilledFieldsAreStable(t *testing.T) {
	np := "apiVersion: v1\nkind: Service\nmetadata: {name: np, namespace: NS, annotations: {n: %q}}\nspec: {type: NodePort, selector: {app: web}, ports: [{port: 80}]}\n"
	role := "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: NS-agg, annotations: {n: %q}}\naggregationRule: {clusterRoleSelectors: [{matchLabels: {agg: NS}}]}\nrules: []\n" +
		"---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: NS-part, labels: {agg: NS}}\nrules: [{apiGroups: [\"\"], resources: [pods], verbs: [get]}]\n"
	hook := "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingWebhookConfiguration\nmetadata: {name: NS-hook, annotations: {n: %q}}\n" +
		"webhooks: [{name: a.example.com, admissionReviewVersions: [v1], sideEffects: None, failurePolicy: Ignore, rules: [{apiGroups: [example.com], apiVersions: [v1], operations: [CREATE], resources: [things]}], clientConfig: {url: \"https://127.0.0.1:1/\", caBundle: Cg==}}]\n"
	all := func(n string) files {
		return marked(files{
			"app/bundle.yaml": bundle(""), "app/np.yaml": fmt.Sprintf(np, n), "app/role.yaml": fmt.Sprintf(role, n), "app/hook.yaml": fmt.Sprintf(hook, n),
		})
	}
	r := start(t, all("1"))
	r.is("role/NS-agg", "rules.0.resources.0", "pods")
	r.editAs("cainjector", "webhook/NS-hook", `[{"op":"replace","path":"/webhooks/0/clientConfig/caBundle","value":"CABUNDLE"}]`)
	port, ip := fmt.Sprint(at(r.get("svc/np"), "spec.ports.0.nodePort")), fmt.Sprint(at(r.get("svc/np"), "spec.clusterIP"))
	r.settle()
	r.Ready("NS-app", r.Commit(all("2")))
	r.is("svc/np", "metadata.annotations.n", "2")
	r.is("webhook/NS-hook", "metadata.annotations.n", "2")
	r.stays("svc/np", "spec.ports.0.nodePort", port)
	r.stays("svc/np", "spec.clusterIP", ip)
	r.stays("webhook/NS-hook", "webhooks.0.clientConfig.caBundle", caBundle)
	r.stays("role/NS-agg", "rules.0.resources.0", "pods")
	r.settle()
	r.ended()
	r.want(r.markLine())
}
