package apply_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
)

// A map that Git leaves empty is there, empty, once the last of what Git had in it has gone: with one commit, and nothing drifts after it.
func TestMapThatGitEmpties(t *testing.T) {
	t.Parallel()
	const pod = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: NS}, spec: {replicas: 0, selector: {matchLabels: {app: web}}, ` +
		`template: {metadata: {labels: {app: web}}, spec: {POD, containers: [{name: web, image: "web:1", CONTAINER}]}}}}`
	full := strings.NewReplacer("POD", `securityContext: {runAsUser: 7}, volumes: [{name: tmp, emptyDir: {medium: Memory}}]`, "CONTAINER", `securityContext: {runAsUser: 7}`).Replace(pod)
	empty := strings.NewReplacer("POD", `securityContext: {}, volumes: [{name: tmp, emptyDir: {}}]`, "CONTAINER", `securityContext: {}`).Replace(pod)
	for name, unseen := range map[string]bool{"as it was left": true, "after a look": false} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			res := r.Apply(t.Context(), apply.Request{Bundle: r.rendered(full)})
			if res.Err != nil {
				t.Fatal(res.Err)
			}
			if !unseen {
				for i := range res.Inventory {
					res.Inventory[i].ResourceVersion = ""
				}
			}
			b := r.rendered(empty)
			if res = r.Apply(t.Context(), apply.Request{Bundle: b, Inventory: res.Inventory}); res.Err != nil {
				t.Fatal(res.Err)
			}
			spec := valueAt(r.get("Deployment", "web").Object, "spec", "template", "spec")
			for _, at := range [][]string{{"securityContext"}, {"volumes", "0", "emptyDir"}, {"containers", "0", "securityContext"}} {
				if diff := cmp.Diff(map[string]any{}, valueAt(spec, at...)); diff != "" {
					t.Errorf("%v: %s", at, diff)
				}
			}
			ins := r.Inspect(t.Context(), b, b.Objects[0])
			if ins.Err != nil {
				t.Fatal(ins.Err)
			}
			found := drift.Compare(drift.Input{Desired: ins.Desired, Live: ins.Live, DryRun: ins.DryRun, Spec: api.Drift{Extra: api.ExtraReport}})
			if len(found.Fields) > 0 {
				t.Errorf("after the commit %v drifts", found.Fields)
			}
		})
	}
}
