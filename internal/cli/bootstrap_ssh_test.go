package cli_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/flotilla-fleet/flotilla/internal/cli"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
)

// sshKey makes a key pair, and a file of its private half.
func sshKey(t *testing.T, dir, name string) (ssh.Signer, string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return signer, file
}

// A repository over SSH is read with the key that may push, and the agent gets the key that may only read.
func TestBootstrapOverSSH(t *testing.T) {
	t.Parallel()
	repo, dir := gitservertest.New(t), t.TempDir()
	repo.Commit(map[string]string{"fleet.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nmetadata: {name: test}\n"})
	host, _ := sshKey(t, dir, "host")
	mine, pushKey := sshKey(t, dir, "push")
	_, deployKey := sshKey(t, dir, "deploy")
	server, err := gitserver.ServeSSH(t.Context(), gitserver.SSHConfig{
		Root: filepath.Dir(repo.Dir), HostKey: host,
		Admit: func(_ string, key ssh.PublicKey) bool { return bytes.Equal(key.Marshal(), mine.PublicKey().Marshal()) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	known := filepath.Join(dir, "known_hosts")
	if err := os.WriteFile(known, []byte(knownhosts.Line([]string{server.Addr()}, host.PublicKey())+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	url := "ssh://git@" + server.Addr() + "/" + filepath.Base(repo.Dir)
	run := func(more ...string) (code int, out, talk string) {
		var o, e bytes.Buffer
		args := append([]string{"bootstrap", "--no-push", "--cluster", "one", "--repo", url, "--image", "example.com/flotilla:test"}, more...)
		code = cli.Execute(t.Context(), args, cli.IO{Out: &o, Err: &e})
		return code, o.String(), e.String()
	}
	for name, test := range map[string]struct {
		flags []string
		code  int
		says  string
	}{
		"no keys":                             {nil, 64, "--ssh-key and --known-hosts are needed"},
		"no server's key":                     {[]string{"--ssh-key", deployKey}, 64, "--ssh-key and --known-hosts are needed"},
		"a key that the server does not know": {[]string{"--ssh-key", deployKey, "--known-hosts", known}, 6, "does not take SSH key"},
	} {
		if code, _, talk := run(test.flags...); code != test.code || !strings.Contains(talk, test.says) {
			t.Errorf("%s: exit code %d, want %d: %s", name, code, test.code, talk)
		}
	}
	code, out, talk := run("--ssh-key", deployKey, "--known-hosts", known, "--push-ssh-key", pushKey)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, talk)
	}
	for _, want := range []string{"flotilla_ssh_key: sshKey", "flotilla_known_hosts: knownHosts", "repo: \"" + url + "\""} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	if strings.Contains(out, "PRIVATE KEY") {
		t.Error("a private key would be written to Git")
	}
}
