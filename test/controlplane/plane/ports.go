package plane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
)

type ports struct {
	APIServer int `json:"apiServer"`
	Etcd      int `json:"etcd"`
}

// Below the range from which Linux takes the local ports of outgoing connections,
// so that a port is still free when the control plane is started again.
const (
	firstPort = 12000
	lastPort  = 32000
)

// loadPorts returns the ports of an existing directory, or picks free ones and records them.
func loadPorts(ctx context.Context, path string, apiServer int) (ports, error) {
	var p ports
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return p, err
	default:
		if err := json.Unmarshal(data, &p); err != nil {
			return p, fmt.Errorf("read %q: %w", path, err)
		}
	}
	if apiServer != 0 {
		p.APIServer = apiServer
	}
	// Both are held until both are known: they must not be the same one.
	for _, port := range []*int{&p.APIServer, &p.Etcd} {
		l, err := hold(ctx, *port)
		if err != nil {
			return p, err
		}
		defer l.Close()
		*port = l.Addr().(*net.TCPAddr).Port
	}
	data, err = json.Marshal(p)
	if err != nil {
		return p, err
	}
	return p, os.WriteFile(path, append(data, '\n'), 0o600)
}

// hold listens on a port, or on any free one if it is zero.
func hold(ctx context.Context, port int) (net.Listener, error) {
	if port != 0 {
		l, err := listen(ctx, port)
		if err != nil {
			return nil, fmt.Errorf("port %d is needed, and not free: %w", port, err)
		}
		return l, nil
	}
	var err error
	for range 100 {
		var l net.Listener
		if l, err = listen(ctx, firstPort+rand.IntN(lastPort-firstPort)); err == nil {
			return l, nil
		}
	}
	return nil, fmt.Errorf("find a free port: %w", err)
}

func listen(ctx context.Context, port int) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}
