package cli_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/api"
)

// What only deleting and creating anew would change is told as that, where it is allowed, and as a failure where it is not.
// Telling deletes nothing.
func TestDiff_recreates(t *testing.T) {
	job := func(image, annotations string) string {
		return fmt.Sprintf("apiVersion: batch/v1\nkind: Job\nmetadata: {name: job, annotations: {%s}}\n"+
			"spec: {template: {spec: {restartPolicy: Never, containers: [{name: m, image: %q}]}}}\n", annotations, image)
	}
	a := newAhead(t, map[string]string{"app/bundle.yaml": bundleFile("app", ""), "app/job.yaml": job("one", "")}, "app")
	uid := func() types.UID {
		t.Helper()
		j, err := a.Kube.BatchV1().Jobs(a.NS).Get(t.Context(), "job", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return j.UID
	}
	before := uid()
	a.commit(map[string]string{"app/job.yaml": job("two", "")})
	code, rows, _ := a.diff()
	a.expect(code, 3, rows, map[string]string{"Job/job": "failed failed"})
	if e := rows["Job/job"].Error; !strings.Contains(e, "spec.template") || !strings.Contains(e, api.AnnotationForce) || !strings.Contains(e, "app/job.yaml") {
		t.Errorf("the error is %q", e)
	}
	a.commit(map[string]string{"app/job.yaml": job("two", "flotilla.dev/force: enabled")})
	code, rows, _ = a.diff()
	a.expect(code, 1, rows, map[string]string{"Job/job": "recreated change"})
	if why := rows["Job/job"].Reason; !strings.Contains(why, "immutable spec.template") || !strings.Contains(why, api.AnnotationForce) {
		t.Errorf("the reason is %q", why)
	}
	if now := uid(); now != before {
		t.Errorf("diff recreated the Job: %s, and was %s", now, before)
	}

	a.Start()
	a.Eventually("the agent has recreated it", func(context.Context) error {
		if now := uid(); now == before {
			return fmt.Errorf("it is still %s", now)
		}
		return nil
	})
	a.Ready("NS-app", strings.TrimSpace(a.Repo.Git("rev-parse", "main")))
	a.Stop()
	code, rows, _ = a.diff()
	a.expect(code, 0, rows, map[string]string{})
}
