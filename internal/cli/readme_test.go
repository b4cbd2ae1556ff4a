package cli_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/flotilla-fleet/flotilla/internal/cli"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
)

// commandsOf are the commands in the first console block below a heading of README.md.
func commandsOf(t *testing.T, heading string) (out [][]string) {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, below, found := strings.Cut(string(text), "\n"+heading+"\n")
	_, block, console := strings.Cut(below, "```console\n")
	block, _, closed := strings.Cut(block, "```")
	if !found || !console || !closed {
		t.Fatalf("README.md has no console block below %q", heading)
	}
	for line := range strings.Lines(block) {
		if command, ok := strings.CutPrefix(line, "$ flotilla "); ok {
			out = append(out, strings.Fields(command))
		}
	}
	return out
}

// The three commands of README.md do what it says: with an empty repository behind a password, and a cluster that has nothing.
// The test gives the repository's address, an image, and a name to the author of the commits.
func TestReadme_onYourClusters(t *testing.T) {
	commands := commandsOf(t, "## On your clusters")
	if len(commands) != 3 || commands[0][0] != "bootstrap" || commands[1][0] != "status" || commands[2][0] != "diff" {
		t.Fatalf("README.md has the commands %q, want bootstrap, status and diff", commands)
	}
	i := newInstalled(t)
	server := gitservertest.NewServer(t, gitserver.Config{Username: "flotilla", Password: "a-password-of-git"})
	i.repo = server.Repository("fleet")
	work := t.TempDir()
	write := func(name string, text []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(work, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("git-credentials", []byte("username=flotilla\npassword=a-password-of-git\n"))
	i.credentials = filepath.Join(work, "git-credentials")
	kubeconfig, err := os.ReadFile(i.config)
	if err != nil {
		t.Fatal(err)
	}
	write("prod-eu.kubeconfig", kubeconfig)
	t.Chdir(work)
	t.Setenv("KUBECONFIG", i.config)
	run := func(args ...string) (code int, out, talk string) {
		var stdout, stderr bytes.Buffer
		code = cli.Execute(t.Context(), args, cli.IO{In: strings.NewReader(""), Out: &stdout, Err: &stderr})
		return code, stdout.String(), stderr.String()
	}

	bootstrap := slices.Clone(commands[0])
	at := slices.Index(bootstrap, "https://git.example.com/fleet.git")
	if at < 0 {
		t.Fatalf("the first command names another repository: %q", bootstrap)
	}
	bootstrap[at] = i.repo.URL
	bootstrap = append(bootstrap, "--image", "example.com/flotilla:test", "--values", i.values, "--wait", "3m")
	type result struct {
		code      int
		out, talk string
	}
	finished := make(chan result, 1)
	go func() {
		code, out, talk := run(bootstrap...)
		finished <- result{code, out, talk}
	}()
	i.agent()
	if r := <-finished; r.code != 0 || !strings.Contains(r.talk+r.out, "The agent is ready") {
		t.Fatalf("flotilla %q: exit code %d\n%s%s", bootstrap, r.code, r.out, r.talk)
	}

	if code, out, talk := run(commands[1]...); code != 0 || !strings.Contains(out, "prod-eu") {
		t.Errorf("flotilla %q: exit code %d\n%s%s", commands[1], code, out, talk)
	}

	// The last is for a branch in a clone.
	git := func(args ...string) {
		t.Helper()
		if _, err := gitserver.Git(t.Context(), work, args...); err != nil {
			t.Fatal(err)
		}
	}
	git("clone", "-q", "file://"+i.repo.Dir, "clone")
	t.Chdir("clone")
	bundle := "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: app}\nspec: {namespace: app}\n"
	for name, text := range map[string]string{"app/bundle.yaml": bundle, "app/config.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\n"} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	work = filepath.Join(work, "clone")
	git("checkout", "-q", "-b", "change")
	git("add", "--all")
	git("-c", "user.name=somebody", "-c", "user.email=somebody@example.com", "commit", "-q", "-m", "add an app")
	if code, out, talk := run(commands[2]...); code != 1 || !strings.Contains(out, "prod-eu") || !strings.Contains(out, "ConfigMap/app/settings") {
		t.Errorf("flotilla %q: exit code %d\n%s%s", commands[2], code, out, talk)
	}
}
