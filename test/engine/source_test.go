package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

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
		Change: func(c *agent.Config) { c.CredentialsFile = credentials },
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
	kept := func() {
		t.Helper()
		r.value(edit(), "one")
		r.Stop()
		name := edit()
		r.Start()
		r.value(name, "one")
		r.same(y)
	}

	t.Log("the branch is deleted")
	r.Repo.Git("branch", "--move", "main", "elsewhere")
	r.Refused("main")
	kept()
	r.Refused("main")
	r.Repo.Git("branch", "--move", "elsewhere", "main")
	r.Applied(r.Commit(files{"a/n1.yaml": configMap("n1", "one")}))
	r.value("n1", "one")

	t.Log("the password is wrong")
	write("secret-2")
	r.Refused("")
	kept()
	r.Refused("")
	write("secret-1")
	r.Applied(r.Commit(files{"a/n2.yaml": configMap("n2", "one")}))

	t.Log("the server is down")
	server.Stop()
	r.Refused("")
	kept()
	server.Restart()
	r.Applied(r.Commit(files{"a/n3.yaml": configMap("n3", "one")}))

	t.Log("the commit cannot be read")
	r.Commit(files{"fleet.yaml": "kind: [\n"})
	r.Refused("fleet.yaml")
	kept()
	r.Refused("fleet.yaml")
	r.Applied(r.Commit(files{"fleet.yaml": fleet("")}))
	r.same(y)
}
