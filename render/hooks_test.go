package render_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The weight decides, whatever other moments a hook is for, too.
func TestHelm_hookOrder(t *testing.T) {
	hook := func(name, phases, weight string) string {
		return "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + ", annotations: {helm.sh/hook: \"" + phases + "\", helm.sh/hook-weight: \"" + weight + "\"}}\n"
	}
	out, err := renderFiles(t, chart("{helm: {chart: ./chart}}",
		"h/chart/templates/hooks.yaml", hook("last", "pre-install,pre-upgrade", "5")+hook("first", "pre-upgrade", "-5")+hook("tidy", "pre-delete", "0")+hook("bye", "post-delete,post-upgrade", "1"),
	), "one")
	if err != nil {
		t.Fatal(err)
	}
	h := bundle(t, out, "h")
	if h.Err != nil {
		t.Fatal(h.Err)
	}
	var got []string
	for _, k := range h.Hooks {
		got = append(got, k.Object.GetName())
	}
	if diff := cmp.Diff([]string{"first", "tidy", "bye", "last"}, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}
