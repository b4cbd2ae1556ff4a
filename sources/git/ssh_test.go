package git_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
	"github.com/flotilla-fleet/flotilla/sources/git"
)

// sshKey is a key and the file that holds it.
type sshKey struct {
	file   string
	signer ssh.Signer
}

func newSSHKey(t testing.TB, passphrase string) sshKey {
	t.Helper()
	k := sshKey{file: filepath.Join(t.TempDir(), "key")}
	k.write(t, passphrase)
	return k
}

// write makes another key of it.
func (k *sshKey) write(t testing.TB, passphrase string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(k.file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	if k.signer, err = ssh.NewSignerFromKey(private); err != nil {
		t.Fatal(err)
	}
}

func (k sshKey) is(other ssh.PublicKey) bool {
	return string(k.signer.PublicKey().Marshal()) == string(other.Marshal())
}

// sshFleet is a repository behind SSH.
type sshFleet struct {
	*gitservertest.Repository
	server *gitserver.SSHServer
	host   sshKey
	url    string

	mu    sync.Mutex
	admit sshKey
}

func newSSHFleet(t testing.TB, admit sshKey) *sshFleet {
	t.Helper()
	f := &sshFleet{Repository: gitservertest.New(t), host: newSSHKey(t, ""), admit: admit}
	var err error
	f.server, err = gitserver.ServeSSH(t.Context(), gitserver.SSHConfig{
		Root: filepath.Dir(f.Dir), HostKey: f.host.signer,
		Admit: func(user string, key ssh.PublicKey) bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return user == "git" && f.admit.is(key)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.server.Close(); err != nil {
			t.Error(err)
		}
	})
	f.url = "ssh://git@" + f.server.Addr() + "/" + filepath.Base(f.Dir)
	return f
}

// line is a line of known_hosts for a server.
func line(addr string, key sshKey) string {
	host, port, _ := net.SplitHostPort(addr)
	return fmt.Sprintf("[%s]:%s %s", host, port, ssh.MarshalAuthorizedKey(key.signer.PublicKey()))
}

func writeFile(t testing.TB, file, content string) string {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestSSH(t *testing.T) {
	t.Parallel()
	key := newSSHKey(t, "")
	f := newSSHFleet(t, key)
	first := f.Commit(map[string]string{"a": "1"})
	hosts := writeFile(t, filepath.Join(t.TempDir(), "known_hosts"), line(f.server.Addr(), f.host))
	s := open(t, git.Config{URL: f.url, Ref: git.Ref{Branch: "main"}, SSHKeys: []string{key.file}, KnownHosts: []string{hosts}})
	if got := fetch(t, s); got.Revision != first || read(t, got, "a") != "1" {
		t.Errorf("snapshot is %+v", got)
	}
	for i := range 3 {
		want := f.Commit(map[string]string{"a": fmt.Sprint(i + 2)})
		if changed, err := s.Changed(t.Context()); !changed || err != nil {
			t.Errorf("after a push Changed = %v, %v", changed, err)
		}
		if got := fetch(t, s); got.Revision != want {
			t.Errorf("snapshot is %+v, want %s", got, want)
		}
	}
	if n := f.server.Connections(); n != 1 {
		t.Errorf("%d connections for one conversation after another", n)
	}
	f.server.Disconnect()
	if want := f.Commit(map[string]string{"a": "x"}); fetch(t, s).Revision != want {
		t.Error("not followed after the server cut the connection")
	}

	// The key is rotated while the source runs, at the server and in its file.
	f.mu.Lock()
	key.write(t, "")
	f.admit = key
	f.mu.Unlock()
	if want := f.Commit(map[string]string{"a": "y"}); fetch(t, s).Revision != want {
		t.Error("not followed after the key was rotated")
	}
}

func TestSSHPush(t *testing.T) {
	t.Parallel()
	key := newSSHKey(t, "")
	f := newSSHFleet(t, key)
	hosts := writeFile(t, filepath.Join(t.TempDir(), "known_hosts"), line(f.server.Addr(), f.host))
	s := open(t, git.Config{URL: f.url, Ref: git.Ref{Branch: "main"}, SSHKeys: []string{newSSHKey(t, "").file, key.file}, KnownHosts: []string{hosts}})
	for _, content := range []string{"into an empty repository", "onto a commit"} {
		made, err := s.Push(t.Context(), write(map[string]string{"a": content}))
		if err != nil {
			t.Fatal(err)
		}
		if got := fetch(t, s); got.Revision != made.Revision || f.Git("rev-parse", "main") != made.Revision || read(t, got, "a") != content {
			t.Errorf("pushed %s, and there is %+v", made.Revision, got)
		}
	}
	f.Git("config", "receive.denyNonFastForwards", "true")
	f.Git("config", "transfer.hideRefs", "refs/heads/main")
	if _, err := s.Push(t.Context(), write(map[string]string{"a": "refused"})); err == nil {
		t.Error("pushed to a hidden branch")
	}
}

func TestSSHRefusals(t *testing.T) {
	t.Parallel()
	key, locked := newSSHKey(t, ""), newSSHKey(t, "s3cret passphrase")
	f := newSSHFleet(t, key)
	f.Commit(map[string]string{"a": "1"})
	dir := t.TempDir()
	good := writeFile(t, filepath.Join(dir, "good"), line(f.server.Addr(), f.host))
	other := writeFile(t, filepath.Join(dir, "other"), line("10.0.0.1:22", f.host))
	changed := writeFile(t, filepath.Join(dir, "changed"), line(f.server.Addr(), newSSHKey(t, "")))
	broken := writeFile(t, filepath.Join(dir, "broken"), "what is this\n")
	putty := writeFile(t, filepath.Join(dir, "ppk"), "PuTTY-User-Key-File-3: ssh-ed25519\n")
	public := writeFile(t, filepath.Join(dir, "pub"), string(ssh.MarshalAuthorizedKey(key.signer.PublicKey())))
	wrong := writeFile(t, filepath.Join(dir, "wrong"), "passphrase=wr0ng\n")
	right := writeFile(t, filepath.Join(dir, "right"), "passphrase=s3cret passphrase\n")
	revoked := writeFile(t, filepath.Join(dir, "revoked"), "@revoked "+line(f.server.Addr(), f.host))
	for name, test := range map[string]struct {
		keys, hosts  []string
		credentials  string
		url          string
		kind         api.ErrorKind
		reason, text string
	}{
		"no key":           {nil, []string{good}, "", "", api.Stalled, "NoSSHKey", "there is no SSH key"},
		"no known_hosts":   {[]string{key.file}, nil, "", "", api.Stalled, "NoKnownHosts", "ssh-keyscan"},
		"unknown host":     {[]string{key.file}, []string{other}, "", "", api.Stalled, "UnknownHostKey", ssh.FingerprintSHA256(f.host.signer.PublicKey())},
		"another host key": {[]string{key.file}, []string{changed}, "", "", api.Stalled, "HostKeyChanged", "somebody may be in between"},
		"revoked host key": {[]string{key.file}, []string{revoked}, "", "", api.Stalled, "UnknownHostKey", "revoked"},
		"bad known_hosts":  {[]string{key.file}, []string{broken}, "", "", api.Stalled, "BadKnownHosts", "HOST TYPE KEY"},
		"another key":      {[]string{newSSHKey(t, "").file}, []string{good}, "", "", api.Forbidden, "AuthenticationFailed", "does not take SSH key"},
		"two other keys":   {[]string{newSSHKey(t, "").file, newSSHKey(t, "").file}, []string{good}, "", "", api.Forbidden, "AuthenticationFailed", "none of 2 SSH keys"},
		"no passphrase":    {[]string{locked.file}, []string{good}, "", "", api.Stalled, "BadSSHKey", "needs a passphrase"},
		"wrong passphrase": {[]string{locked.file}, []string{good}, wrong, "", api.Stalled, "BadSSHKey", "the passphrase is wrong"},
		"right passphrase": {[]string{locked.file}, []string{good}, right, "", api.Forbidden, "AuthenticationFailed", "does not take SSH key"},
		"PuTTY":            {[]string{putty}, []string{good}, "", "", api.Stalled, "BadSSHKey", "puttygen"},
		"public key":       {[]string{public}, []string{good}, "", "", api.Stalled, "BadSSHKey", "is the public key"},
		"missing key":      {[]string{dir + "/none"}, []string{good}, "", "", api.Stalled, "BadSSHKey", "no such file"},
		"no repository":    {[]string{key.file}, []string{good}, "", "/none", api.Stalled, "RepositoryNotFound", "no such repository"},
	} {
		t.Run(name, func(t *testing.T) {
			url := f.url
			if test.url != "" {
				url = "ssh://git@" + f.server.Addr() + test.url
			}
			_, err := open(t, git.Config{URL: url, Ref: git.Ref{Branch: "main"}, SSHKeys: test.keys, KnownHosts: test.hosts, CredentialsFile: test.credentials}).Fetch(t.Context())
			if test.reason == "RepositoryNotFound" && err != nil && strings.Contains(err.Error(), "the server says") {
				return // in the server's own words
			}
			wantError(t, err, test.kind, test.reason, test.text)
			for _, secret := range []string{"s3cret", "wr0ng"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the passphrase is in %q", err)
				}
			}
		})
	}
}

// TestSSHKeysAreTriedInTurn: a key may be known to the server, and be another repository's.
func TestSSHKeysAreTriedInTurn(t *testing.T) {
	t.Parallel()
	stranger, other, mine := newSSHKey(t, ""), newSSHKey(t, ""), newSSHKey(t, "")
	repo := gitservertest.New(t)
	want := repo.Commit(map[string]string{"a": "1"})
	host := newSSHKey(t, "")
	server, err := gitserver.ServeSSH(t.Context(), gitserver.SSHConfig{
		Root: filepath.Dir(repo.Dir), HostKey: host.signer,
		Admit:  func(_ string, key ssh.PublicKey) bool { return other.is(key) || mine.is(key) },
		Access: func(key ssh.PublicKey, _ string) bool { return mine.is(key) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	// As a Secret is mounted: one directory with all of it.
	secret := t.TempDir()
	for name, k := range map[string]sshKey{"identity": stranger, "identity-b": other, "identity-c": mine} {
		data, err := os.ReadFile(k.file)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(secret, name), string(data))
	}
	writeFile(t, filepath.Join(secret, "known_hosts"), line(server.Addr(), host))
	if err := os.Mkdir(filepath.Join(secret, "..data"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, git.Config{URL: "ssh://git@" + server.Addr() + "/" + filepath.Base(repo.Dir), CredentialsFile: secret})
	if got := fetch(t, s); got.Revision != want {
		t.Errorf("snapshot is %+v", got)
	}
	if err := os.Remove(filepath.Join(secret, "identity-c")); err != nil {
		t.Fatal(err)
	}
	_, err = s.Fetch(t.Context())
	wantError(t, err, api.Stalled, "RepositoryRefused", "no access to it")
	writeFile(t, filepath.Join(secret, "pasword"), "typo")
	_, err = s.Fetch(t.Context())
	wantError(t, err, api.Stalled, "BadCredentialsFile", `holds "pasword"`)
}

// TestSSHServersThatMisbehave: whatever answers at the port, or does not, is waited for as long as Timeout says.
func TestSSHServersThatMisbehave(t *testing.T) {
	t.Parallel()
	key := newSSHKey(t, "")
	hosts := writeFile(t, filepath.Join(t.TempDir(), "known_hosts"), line("127.0.0.1:1", key))
	for name, answer := range map[string]func(net.Conn){
		"silent":         func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
		"talks for ever": func(c net.Conn) { talk(c, "hello\r\n") },
		"one long line":  func(c net.Conn) { talk(c, "SSH-2.0-") },
		"no SSH":         func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") },
		"ends":           func(net.Conn) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var lc net.ListenConfig
			l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var serving sync.WaitGroup
			serving.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					serving.Go(func() { defer c.Close(); answer(c) })
				}
			})
			s := open(t, git.Config{
				URL: "ssh://git@" + l.Addr().String() + "/x", Ref: git.Ref{Branch: "main"}, SSHKeys: []string{key.file}, KnownHosts: []string{hosts},
				Timeout: 300 * time.Millisecond,
			})
			begin := time.Now()
			_, err = s.Fetch(t.Context())
			wantError(t, err, api.Transient, "SourceUnreachable", "fetch from ssh://")
			if d := time.Since(begin); d > 30*time.Second {
				t.Errorf("waited %s", d)
			}
			_ = l.Close()
			serving.Wait()
		})
	}
}

// talk says the same until nobody listens.
func talk(c net.Conn, words string) {
	for {
		if _, err := io.WriteString(c, words); err != nil {
			return
		}
	}
}
