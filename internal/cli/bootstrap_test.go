package cli_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
)

// A cluster is added to a repository with one command; its agent manages itself from then on, until it is taken away.
func TestBootstrap(t *testing.T) {
	i := newInstalled(t)
	ctx := t.Context()
	before := i.objects()
	head := i.repo.Commit(map[string]string{"fleet.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nmetadata: {name: test}\n"})
	credentials := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(credentials, []byte(marker+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bootstrap := []string{
		"bootstrap", "--cluster", "one", "--repo", i.repo.Dir, "--labels", "env=prod", "--image", "example.com/flotilla:test",
		"--rbac", "impersonate-only", "--push-credentials", credentials, "--chart-credentials", credentials, "--wait", "60s",
	}
	untouched := func(t *testing.T) {
		t.Helper()
		if now := i.repo.Git("rev-parse", "main"); now != head {
			t.Errorf("something was pushed: %s", now)
		}
		if diff := changes(before, i.objects()); diff != "" {
			t.Errorf("something changed on the cluster:\n%s", diff)
		}
	}
	first := append(bootstrap, "--values", i.values)
	t.Run("no push", func(t *testing.T) {
		i.on(t)
		out, _ := i.must(append(first, "--no-push")...)
		work := t.TempDir()
		i.repo.Git("worktree", "add", "--detach", work, "main")
		defer i.repo.Git("worktree", "remove", "--force", work)
		file := filepath.Join(t.TempDir(), "patch")
		if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := gitserver.Git(ctx, work, "apply", file); err != nil {
			t.Fatal(err)
		}
		cluster, err := os.ReadFile(filepath.Join(work, "clusters/one/cluster.yaml"))
		if err != nil || !strings.Contains(string(cluster), "env: prod") {
			t.Errorf("the patch makes the cluster %s (%v)", cluster, err)
		}
		untouched(t)
	})
	t.Run("refused", func(t *testing.T) {
		i.on(t)
		silent, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		at := silent.Addr().String()
		_ = silent.Close()
		t.Setenv("FLOTILLA_TOKEN", "0123456789abcdef")
		i.refuses(5, "cannot let the agent join the hub (nothing was changed", append(first, "--hub", "http://"+at)...)
		i.refuses(64, "is not NAME <ADDRESS>", append(first, "--author", "nobody")...)
		i.refuses(3, "has credentials in it", "bootstrap", "--cluster", "one", "--repo", "https://bot:"+marker+"@git.example.com/fleet.git")
		i.refuses(64, "--cluster and --repo are needed", "bootstrap", "--cluster", "one")
		untouched(t)
	})

	type result struct {
		code int
		talk string
	}
	finished := make(chan result, 1)
	go func() {
		code, out, talk := i.run(ctx, first...)
		finished <- result{code, out + talk}
	}()
	ended, _ := i.agent()
	if r := <-finished; r.code != 0 || !strings.Contains(r.talk, "The agent is ready") || !strings.Contains(r.talk, "pushed ") {
		t.Fatalf("bootstrap: exit code %d\n%s", r.code, r.talk)
	}
	if markers.MatchString(i.repo.Git("grep", "-h", "", "main")) {
		t.Error("the credentials are in Git")
	}
	deployments := i.kube.AppsV1().Deployments(api.SystemNamespace)
	d, err := deployments.Get(ctx, "flotilla-agent", metav1.GetOptions{})
	if err != nil || d.Labels[api.LabelPartOf] == "" {
		t.Fatalf("the Deployment belongs to no bundle: %v (%v)", d.Labels, err)
	}

	t.Run("it manages itself", func(t *testing.T) {
		i.on(t)
		patch := `{"spec":{"template":{"spec":{"containers":[{"name":"agent","image":"example.com/other:test"}]}}}}`
		if _, err := deployments.Patch(ctx, "flotilla-agent", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		i.eventually("the edit of its own Deployment is corrected", func(ctx context.Context) error {
			d, err := deployments.Get(ctx, "flotilla-agent", metav1.GetOptions{})
			if err == nil && d.Spec.Template.Spec.Containers[0].Image != "example.com/flotilla:test" {
				err = fmt.Errorf("it is %s", d.Spec.Template.Spec.Containers[0].Image)
			}
			return err
		})
	})
	t.Run("again", func(t *testing.T) {
		i.on(t)
		now := i.repo.Git("rev-parse", "main")
		if _, talk := i.must(bootstrap...); !strings.Contains(talk, "the repository lacks nothing") || strings.Contains(talk, "~ ") || strings.Contains(talk, "+ ") {
			t.Errorf("it says\n%s", talk)
		}
		if i.repo.Git("rev-parse", "main") != now {
			t.Error("it pushed")
		}
		i.refuses(3, "--values would not be used", first...)
		i.refuses(3, `metadata.labels: env: "dev"`, append(bootstrap, "--labels", "env=dev")...)
		i.refuses(6, "is managed by a fleet repository", "install", "agent", "--cluster", "one", "--repo", i.repo.Dir)
	})
	t.Run("an upgrade", func(t *testing.T) {
		i.on(t)
		i.repo.Commit(map[string]string{"flotilla/chart/templates/old.yaml": ""})
		up := append(bootstrap, "--upgrade", "--image", "example.com/flotilla:next")
		i.must(up...)
		if got := i.repo.Git("diff", "--name-only", "main~1", "main"); got != "flotilla/chart/templates/old.yaml\nflotilla/image.yaml" {
			t.Errorf("the upgrade changes %q", got)
		}
		i.eventually("the Deployment has the new image", func(ctx context.Context) error {
			d, err := deployments.Get(ctx, "flotilla-agent", metav1.GetOptions{})
			if err == nil && d.Spec.Template.Spec.Containers[0].Image != "example.com/flotilla:next" {
				err = fmt.Errorf("it is %s", d.Spec.Template.Spec.Containers[0].Image)
			}
			return err
		})
	})

	if _, talk := i.must("uninstall", "agent", "--yes"); !strings.Contains(talk, "0 objects of 0 bundles stay") {
		t.Errorf("uninstall says\n%s", talk)
	}
	if err := <-ended; err != nil {
		t.Errorf("the agent ended with %v", err)
	}
	i.eventually("nothing of flotilla's is left", func(context.Context) error {
		if diff := changes(before, i.objects()); diff != "" {
			return fmt.Errorf("\n%s", diff)
		}
		return nil
	})
}
