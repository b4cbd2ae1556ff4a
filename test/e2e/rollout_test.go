package e2e

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/flotilla-fleet/flotilla/hub/view"
)

const prodOverlay = "apps/podinfo/overlays/prod/kustomization.yaml"

// image returns podinfo's image on a cluster.
func image(ctx context.Context, cluster kubernetes.Interface) (string, error) {
	d, err := cluster.AppsV1().Deployments("podinfo").Get(ctx, "podinfo", metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	return d.Spec.Template.Spec.Containers[0].Image, nil
}

// onRevision asks that the hub shows a cluster ready at a revision.
func onRevision(cluster, revision string) func(context.Context) error {
	return func(ctx context.Context) error {
		var c view.Cluster
		if err := hubGet(ctx, "/api/v1/clusters/"+cluster, &c); err != nil {
			return err
		}
		if c.AppliedRevision != revision || !c.Ready {
			return fmt.Errorf("%s is at %q, ready %t, want %q: %s", cluster, c.AppliedRevision, c.Ready, revision, c.Reason)
		}
		return nil
	}
}

func TestRollout_prodOnly(t *testing.T) {
	before, err := image(t.Context(), kube(t, "staging-eu"))
	if err != nil {
		t.Fatal(err)
	}
	text := readRepo(t, prodOverlay)
	changed := regexp.MustCompile(`newTag: .*`).ReplaceAllString(text, "newTag: 6.99.0")
	if changed == text {
		t.Fatalf("%s names no newTag", prodOverlay)
	}
	revision := push(t, "Roll out podinfo 6.99.0 to production", map[string]string{prodOverlay: changed})
	pushed := time.Now()
	for _, name := range []string{"prod-eu", "prod-us"} {
		k := kube(t, name)
		eventually(t, name+" runs the new image", func(ctx context.Context) error {
			got, err := image(ctx, k)
			if err == nil && !strings.HasSuffix(got, ":6.99.0") {
				err = fmt.Errorf("%s runs %s", name, got)
			}
			return err
		})
	}
	promised(t, "both production clusters run the new image", pushed, liveWithin)
	for _, c := range world.file.Clusters {
		eventually(t, "the hub shows "+c.Name+" at the new revision", onRevision(c.Name, revision))
	}
	promised(t, "the hub shows the new revision everywhere", pushed, liveWithin)
	told(t, "prod-eu", "Applied", "BundleDeployment", "podinfo")
	if after, err := image(t.Context(), kube(t, "staging-eu")); err != nil || after != before {
		t.Fatalf("staging-eu went from %s to %s (%v), and should not have moved", before, after, err)
	}
}

// A mistake in Git fails its bundle, says where it is, prunes nothing, and goes away with the next commit.
func TestRollout_badFileKeepsTheLastGoodState(t *testing.T) {
	good := readRepo(t, "apps/podinfo/bundle.yaml")
	bad := strings.Replace(good, "spec:", "spec:\n  nonsense: true", 1)
	push(t, "Break podinfo", map[string]string{"apps/podinfo/bundle.yaml": bad})
	eventually(t, "the hub names file and field", func(ctx context.Context) error {
		var c view.ClusterDetail
		if err := hubGet(ctx, "/api/v1/clusters/prod-eu", &c); err != nil {
			return err
		}
		if c.Error == nil || c.Error.File != "apps/podinfo/bundle.yaml" || c.Error.Line == 0 || c.Error.Field != "spec.nonsense" {
			return fmt.Errorf("error is %+v", c.Error)
		}
		return nil
	})
	if _, err := image(t.Context(), kube(t, "prod-eu")); err != nil {
		t.Fatalf("podinfo must still be there: %v", err)
	}
	told(t, "prod-eu", "Failed", "BundleDeployment", "podinfo")
	revision := push(t, "Mend podinfo", map[string]string{"apps/podinfo/bundle.yaml": good})
	eventually(t, "prod-eu is mended", onRevision("prod-eu", revision))
}
