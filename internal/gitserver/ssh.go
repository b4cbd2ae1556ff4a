package gitserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
)

// SSHConfig says what an SSHServer serves, and to whom.
type SSHConfig struct {
	// Root is the directory of the bare repositories. Required.
	Root string
	// Addr is where to listen. Empty means a free port of 127.0.0.1.
	Addr string
	// HostKey is the server's key. Required.
	HostKey ssh.Signer
	// Admit says whether a key may come in, and Access whether it gives access to a repository, named by its path.
	// A nil Access gives it to all.
	Admit  func(user string, key ssh.PublicKey) bool
	Access func(key ssh.PublicKey, repository string) bool
}

// SSHServer serves git-upload-pack and git-receive-pack of bare repositories over SSH, and nothing else: no shell.
type SSHServer struct {
	config SSHConfig
	server *ssh.ServerConfig
	listen net.Listener

	mu    sync.Mutex
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

// keyOf is the name of a connection's key in its permissions.
const keyOf = "key"

// ServeSSH listens, and serves until Close.
func ServeSSH(ctx context.Context, config SSHConfig) (*SSHServer, error) {
	if config.Root == "" || config.HostKey == nil || config.Admit == nil {
		return nil, errors.New("gitserver: Root, HostKey and Admit are needed")
	}
	addr := config.Addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &SSHServer{config: config, listen: l, conns: map[net.Conn]bool{}}
	s.server = &ssh.ServerConfig{PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if !config.Admit(c.User(), key) {
			return nil, errors.New("unknown key")
		}
		return &ssh.Permissions{Extensions: map[string]string{keyOf: string(key.Marshal())}}, nil
	}}
	s.server.AddHostKey(config.HostKey)
	s.wg.Go(s.accept)
	return s, nil
}

// Addr is host:port.
func (s *SSHServer) Addr() string { return s.listen.Addr().String() }

// Close cuts every connection and waits until nothing runs any more.
func (s *SSHServer) Close() error {
	err := s.listen.Close()
	s.Disconnect()
	s.wg.Wait()
	return err
}

// Disconnect cuts every connection that is there.
func (s *SSHServer) Disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
}

// Connections is how many there are.
func (s *SSHServer) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func (s *SSHServer) accept() {
	for {
		c, err := s.listen.Accept()
		if err != nil {
			return // closed
		}
		s.mu.Lock()
		s.conns[c] = true
		s.mu.Unlock()
		s.wg.Go(func() {
			s.serve(c)
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.conns, c)
		})
	}
}

func (s *SSHServer) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	conn, channels, requests, err := ssh.NewServerConn(c, s.server)
	if err != nil {
		return
	}
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { ssh.DiscardRequests(requests) })
	for offered := range channels {
		if offered.ChannelType() != "session" {
			_ = offered.Reject(ssh.UnknownChannelType, "only sessions")
			continue
		}
		channel, asked, err := offered.Accept()
		if err != nil {
			return
		}
		running.Go(func() { s.session(conn, channel, asked) })
	}
}

func (s *SSHServer) session(conn *ssh.ServerConn, channel ssh.Channel, asked <-chan *ssh.Request) {
	defer func() { _ = channel.Close() }()
	for req := range asked {
		if req.Type != "exec" {
			_ = req.Reply(req.Type == "env", nil)
			continue
		}
		var command struct{ Line string }
		if ssh.Unmarshal(req.Payload, &command) != nil {
			return
		}
		_ = req.Reply(true, nil)
		code := uint32(0)
		if err := s.run(conn, channel, command.Line); err != nil {
			fmt.Fprintf(channel.Stderr(), "%v\n", err)
			code = 128
		}
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{code}))
		return
	}
}

// run runs one of Git's two programs on a repository below the root.
func (s *SSHServer) run(conn *ssh.ServerConn, channel ssh.Channel, line string) error {
	program, argument, _ := strings.Cut(line, " ")
	if program != "git-upload-pack" && program != "git-receive-pack" {
		return errors.New("only git may come in here")
	}
	repository := path.Clean("/" + strings.Trim(argument, "'"))
	key, err := ssh.ParsePublicKey([]byte(conn.Permissions.Extensions[keyOf]))
	if err != nil {
		return err
	}
	if s.config.Access != nil && !s.config.Access(key, strings.Trim(argument, "'")) {
		return errors.New("repository not found, or no access to it")
	}
	cmd := exec.Command("git", strings.TrimPrefix(program, "git-"), filepath.Join(s.config.Root, filepath.FromSlash(repository))) //nolint:noctx // it ends with the connection
	cmd.Env = Environment()
	cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(in, channel) // ends with the channel
		_ = in.Close()
	}()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	return nil
}
