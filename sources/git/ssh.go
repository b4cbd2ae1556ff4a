package git

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"

	"github.com/flotilla-fleet/flotilla/api"
)

const (
	// maxSSHKeys bounds the keys that are tried.
	maxSSHKeys = 20
	// connectionLife is how long a connection is used for one conversation after another: a key that the server
	// no longer takes is noticed after that.
	connectionLife = 10 * time.Minute
	defaultSSHUser = "git"
)

// sshAccess is what a connection is made with.
type sshAccess struct {
	user, addr, proxy string
	key               ssh.Signer
	keyFile           string
	hosts             *knownhosts.HostKeyDB
	hostFiles         []string
	// made is a digest of all of it.
	made string
}

// sshConn is a connection that waits for the next conversation.
type sshConn struct {
	client *ssh.Client
	made   string
	born   time.Time
}

func (c *sshConn) close() {
	if c != nil {
		_ = c.client.Close() // the server may have closed it
	}
}

func sshError(kind api.ErrorKind, reason, hint, format string, args ...any) *api.Error {
	return &api.Error{Kind: kind, Reason: reason, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// sshAccesses reads keys and known hosts: one access for each key, the one that worked last first.
func (r *remote) sshAccesses(a access) ([]sshAccess, error) {
	files := a.keys
	switch {
	case len(files) == 0:
		return nil, sshError(api.Stalled, "NoSSHKey", "give it with --ssh-key FILE, or as identity in the directory of --credentials",
			"cannot reach %s: there is no SSH key", r.shown)
	case len(files) > maxSSHKeys:
		return nil, sshError(api.Stalled, "BadSSHKey", "", "cannot reach %s: more than %d SSH keys", r.shown, maxSSHKeys)
	case len(a.knownHosts) == 0:
		return nil, sshError(api.Stalled, "NoKnownHosts", "ssh-keyscan prints a server's keys; compare them with what its operator publishes, and give the file with --known-hosts",
			"cannot trust %s: there is no known_hosts file", r.shown)
	}
	sum := sha256.New()
	for _, f := range a.knownHosts {
		data, err := readSmall(f)
		if err != nil {
			return nil, sshError(api.Stalled, "BadKnownHosts", "", "known_hosts %q: %w", f, err)
		}
		sum.Write(data)
	}
	hosts, err := knownhosts.NewDB(a.knownHosts...)
	if err != nil {
		return nil, sshError(api.Stalled, "BadKnownHosts", "each line is: HOST TYPE KEY, as ssh-keyscan prints it",
			"known_hosts %q cannot be read: %v", a.knownHosts, err)
	}
	base := sshAccess{user: a.username, addr: r.sshAddr, proxy: a.proxy, hosts: hosts, hostFiles: a.knownHosts}
	if base.user == "" {
		base.user = defaultSSHUser
	}
	fmt.Fprintf(sum, "\x00%s\x00%s\x00%s", base.user, base.addr, base.proxy)
	var out []sshAccess
	for _, f := range files {
		access := base
		if access.key, err = readSSHKey(f, a.passphrase); err != nil {
			return nil, err
		}
		access.keyFile = f
		access.made = hex.EncodeToString(sum.Sum(access.key.PublicKey().Marshal()))
		out = append(out, access)
	}
	slices.SortStableFunc(out, func(x, y sshAccess) int { return r.preferred(y) - r.preferred(x) })
	return out, nil
}

// preferred is 1 for the key that worked last.
func (r *remote) preferred(a sshAccess) int {
	if r.conn != nil && r.conn.made == a.made {
		return 1
	}
	return 0
}

// readSSHKey reads a private key. No error holds anything of it.
func readSSHKey(file, passphrase string) (ssh.Signer, error) {
	bad := func(hint, format string, args ...any) error {
		return sshError(api.Stalled, "BadSSHKey", hint, "SSH key %q: "+format, append([]any{file}, args...)...)
	}
	data, err := readSmall(file)
	if err != nil {
		return nil, bad("", "%w", err)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if _, locked := errors.AsType[*ssh.PassphraseMissingError](err); locked {
		if passphrase == "" {
			return nil, bad("write it as passphrase=… into the file of --credentials, or into a file passphrase of its directory", "needs a passphrase, and none is given")
		}
		signer, err = ssh.ParsePrivateKeyWithPassphrase(data, []byte(passphrase))
		if errors.Is(err, x509.IncorrectPasswordError) {
			return nil, bad("", "the passphrase is wrong")
		}
	}
	switch {
	case err == nil:
		return signer, nil
	case bytes.HasPrefix(data, []byte("PuTTY")):
		return nil, bad("convert it with puttygen KEY -O private-openssh-new", "is in the format of PuTTY")
	case bytes.HasPrefix(data, []byte("ssh-")):
		return nil, bad("give the file without .pub", "is the public key")
	}
	return nil, bad("", "is not a private key in a format of OpenSSH, or PEM")
}

// sshSession begins a conversation over the connection that there is, or over a new one.
func (r *remote) sshSession(ctx context.Context, a sshAccess, program string) (*stream, error) {
	if c := r.conn; c != nil && c.made == a.made && time.Since(c.born) < connectionLife {
		if s, err := newStream(ctx, c.client, program, r.endpoint.Path); err == nil {
			return s, nil
		}
	}
	r.conn.close()
	r.conn = nil
	client, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	s, err := newStream(ctx, client, program, r.endpoint.Path)
	if err != nil {
		_ = client.Close()
		return nil, err
	}
	r.conn = &sshConn{client, a.made, time.Now()}
	return s, nil
}

// dial connects, checks the server's key and shows ours. All of it ends with ctx.
func (a sshAccess) dial(ctx context.Context) (*ssh.Client, error) {
	conn, err := dialVia(ctx, a.proxy, a.addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var refused *api.Error // why the server's key is not trusted
	trusted := false
	check := a.hosts.HostKeyCallback()
	config := &ssh.ClientConfig{
		User: a.user, Auth: []ssh.AuthMethod{ssh.PublicKeys(a.key)}, ClientVersion: "SSH-2.0-flotilla",
		HostKeyAlgorithms: a.hosts.HostKeyAlgorithms(a.addr),
		HostKeyCallback: func(host string, at net.Addr, key ssh.PublicKey) error {
			err := check(host, at, key)
			if refused = a.untrusted(key, err); refused != nil {
				return refused
			}
			trusted = true
			return nil
		},
	}
	c, channels, requests, err := ssh.NewClientConn(conn, a.addr, config)
	if err == nil {
		return ssh.NewClient(c, channels, requests), nil
	}
	_ = conn.Close()
	var network net.Error
	switch {
	case refused != nil:
		return nil, refused
	case ctx.Err() != nil || errors.As(err, &network) || isEnd(err):
		return nil, err
	case trusted:
		return nil, sshError(api.Forbidden, reasonAuthentication, "add the public key of it to the repository's deploy keys",
			"the server does not take SSH key %q (%s %s) for user %q", a.keyFile, a.key.PublicKey().Type(), ssh.FingerprintSHA256(a.key.PublicKey()), a.user)
	}
	return nil, err
}

// untrusted says why a server's key is not trusted; nil if it is.
func (a sshAccess) untrusted(key ssh.PublicKey, err error) *api.Error {
	if err == nil {
		return nil
	}
	name := fmt.Sprintf("%s key %s", key.Type(), ssh.FingerprintSHA256(key))
	host := knownhosts.Normalize(a.addr)
	switch {
	case knownhosts.IsHostKeyChanged(err):
		return sshError(api.Stalled, "HostKeyChanged", "somebody may be in between; if its operator says that the key is new, replace the old line",
			"cannot trust SSH server %q: its %s is another than known_hosts %q has for it", host, name, a.hostFiles)
	case knownhosts.IsHostUnknown(err):
		return sshError(api.Stalled, "UnknownHostKey", "compare the fingerprint with what its operator publishes, and add the line that ssh-keyscan prints",
			"cannot trust SSH server %q: its %s is not in known_hosts %q", host, name, a.hostFiles)
	}
	return sshError(api.Stalled, "UnknownHostKey", "", "cannot trust SSH server %q: its %s: %v", host, name, err)
}

// quote makes one word of a path for the shell at the other end.
func quote(path string) string { return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'" }

// DefaultKnownHosts are OpenSSH's files for the user who runs the program, where they are there.
func DefaultKnownHosts() []string {
	files := []string{"/etc/ssh/ssh_known_hosts"}
	if home, err := os.UserHomeDir(); err == nil {
		files = append([]string{home + "/.ssh/known_hosts"}, files...)
	}
	return existing(files)
}

// DefaultSSHKeys are OpenSSH's keys of the user who runs the program.
func DefaultSSHKeys() []string {
	home, err := os.UserHomeDir()
	if err != nil {
		return nil
	}
	return existing([]string{home + "/.ssh/id_ed25519", home + "/.ssh/id_ecdsa", home + "/.ssh/id_rsa"})
}

func existing(files []string) []string {
	return slices.DeleteFunc(files, func(f string) bool {
		info, err := os.Stat(f)
		return err != nil || !info.Mode().IsRegular()
	})
}
