package engine

import (
	"context"
	"errors"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
)

// A chart whose first installation fails partway is still installed, not upgraded, by the commit that mends it.
func TestHooks_ofAnInstallationThatIsMended(t *testing.T) {
	chart := func(port string) files {
		fs := hookedChart("one")
		fs["a/templates/only.yaml"] = annotated("install-only", "one", "helm.sh/hook: post-install")
		fs["a/templates/up.yaml"] = annotated("upgrade-only", "one", "helm.sh/hook: post-upgrade")
		fs["a/templates/web.yaml"] = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: NS}\nspec: {ports: [{port: " + port + "}]}\n"
		return fs
	}
	r := start(t, chart("99999"))
	r.Failed("NS-a", "Service/NS/web")
	pre := r.get("h1-pre")
	r.Sync() // another try of the same thing
	r.Failed("NS-a", "Service/NS/web")
	r.same(pre)
	r.Ready("NS-a", r.Commit(chart("80")))
	if m := r.get("install-only"); m.Data["key"] != "one" {
		t.Errorf("the hook of the installation: %v", m.Data)
	}
	if _, err := r.Kube.CoreV1().ConfigMaps(r.NS).Get(t.Context(), "upgrade-only", metav1.GetOptions{}); err == nil {
		t.Error("the installation was taken for an upgrade")
	}
}

// What somebody else put under a hook's name is neither deleted nor written over, and the bundle says so.
func TestHooks_leaveWhatIsNoHook(t *testing.T) {
	r := newRig(t, agenttest.Config{Files: hookedChart("one")})
	theirs := r.create("h1-pre", "theirs", nil, nil)
	r.Start()
	r.Failed("NS-a", "ConfigMap/NS/h1-pre")
	r.same(theirs)
	r.remove("h1-pre")
	r.Sync()
	r.Eventually("the chart is installed once the name is free", func(ctx context.Context) error {
		return errors.Join(r.hasValue(ctx, "h1-pre", "one"), r.hasValue(ctx, "main", "one"))
	})
}
