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
	uid := func(ctx context.Context) (types.UID, error) {
		j, err := a.Kube.BatchV1().Jobs(a.NS).Get(ctx, "job", metav1.GetOptions{})
		return j.GetUID(), err
	}
	before, err := uid(t.Context())
	if err != nil {
		t.Fatal(err)
	}
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
	if now, err := uid(t.Context()); err != nil || now != before {
		t.Errorf("diff recreated the Job: %s (%v), and was %s", now, err, before)
	}

	a.Start()
	a.Eventually("the agent has recreated it", func(ctx context.Context) error {
		now, err := uid(ctx) // none, between the deletion and the creation
		if err == nil && now == before {
			err = fmt.Errorf("it is still %s", now)
		}
		return err
	})
	a.Ready("NS-app", strings.TrimSpace(a.Repo.Git("rev-parse", "main")))
	a.Stop()
	code, rows, _ = a.diff()
	a.expect(code, 0, rows, map[string]string{})
}
