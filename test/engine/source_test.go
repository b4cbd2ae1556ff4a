package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
)

func TestSource_failsAfterSuccess(t *testing.T) {
	server := gitservertest.NewServer(t, gitserver.Config{Username: "fleet", Password: "secret-1"})
	credentials := filepath.Join(t.TempDir(), "credentials")
	write := func(password string) {
		t.Helper()
		if err := os.WriteFile(credentials, []byte("username=fleet\npassword="+password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("secret-1")
	r := newRig(t, agenttest.Config{
		Repo:   server.Repository("fleet"),
		Files:  with(files{"a/bundle.yaml": bundle("a", ""), "a/y.yaml": configMap("y", "one")}, many("a", 8)),
		Change: func(c *agent.Config) { c.Source.CredentialsFile = credentials },
	})
	r.Start()
	r.Ready("NS-a", "")
	y := r.get("y")
	// While the source is broken the last good state is kept and corrected, also across a restart.
	edits := 0
	edit := func() string {
		t.Helper()
		name := fmt.Sprintf("a-%d", edits) // another one each time: a fight over the same would be something else
		edits++
		r.patch(name, `{"data":{"key":"edited"}}`)
		return name
	}
	var started time.Time
	// refused waits for an error of the cluster that the agent tells which runs now.
	refused := func(kind api.ErrorKind, reason, file, word string) {
		t.Helper()
		r.Eventually("the refusal is known", func(ctx context.Context) error {
			report, err := r.Applier.Report(ctx)
			if err != nil {
				return err
			}
			if !report.Status.Started.After(started) {
				return errors.New("the report is still the old agent's")
			}
			if e := report.Status.Error; e == nil || e.Kind != kind || e.Reason != reason || e.File != file || !strings.Contains(e.Message, word) {
				return fmt.Errorf("the error is %+v", e)
			}
			return nil
		})
	}
	kept := func() {
		t.Helper()
		r.value(edit(), "one")
		r.Stop()
		report, err := r.Applier.Report(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		started = report.Status.Started
		name := edit()
		r.Start()
		r.value(name, "one")
		r.same(y)
	}
	missing := func(name string) {
		t.Helper()
		if _, err := r.Kube.CoreV1().ConfigMaps(r.NS).Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("%s came past what is broken: %v", name, err)
		}
	}

	t.Log("the branch is deleted")
	head := r.Commit(files{"README.md": "x"})
	r.Applied(head)
	r.Repo.Git("branch", "--move", "main", "elsewhere")
	refused(api.Stalled, "FetchFailed", "", "main")
	kept()
	refused(api.Stalled, "FetchFailed", "", "main")
	r.Repo.Git("branch", "--move", "elsewhere", "main")
	r.Applied(head) // the error ends with what it was about, although there is nothing new
	r.Applied(r.Commit(files{"a/n1.yaml": configMap("n1", "one")}))
	r.value("n1", "one")

	t.Log("the password is wrong")
	write("secret-2")
	refused(api.Forbidden, "FetchFailed", "", "credentials")
	revision := r.Commit(files{"a/n2.yaml": configMap("n2", "one")})
	kept()
	refused(api.Forbidden, "FetchFailed", "", "credentials")
	missing("n2")
	write("secret-1")
	r.Applied(revision)
	r.value("n2", "one")

	t.Log("the server is down")
	server.Stop()
	refused(api.Transient, "FetchFailed", "", "")
	revision = r.Commit(files{"a/n3.yaml": configMap("n3", "one")})
	kept()
	refused(api.Transient, "FetchFailed", "", "")
	missing("n3")
	server.Restart()
	r.Applied(revision)
	r.value("n3", "one")

	t.Log("the commit cannot be read")
	r.Commit(files{"fleet.yaml": "kind: [\n"})
	refused(api.Stalled, "BadFleetFile", "fleet.yaml", "fleet.yaml")
	kept()
	refused(api.Stalled, "BadFleetFile", "fleet.yaml", "fleet.yaml")
	r.Applied(r.Commit(files{"fleet.yaml": fleet("")}))
	r.same(y)
}
