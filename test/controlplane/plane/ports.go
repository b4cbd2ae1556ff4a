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
	for _, port := range []*int{&p.APIServer, &p.Etcd} {
		if *port == 0 {
			if *port, err = freePort(ctx); err != nil {
				return p, err
			}
		} else if err := tryPort(ctx, *port); err != nil {
			return p, fmt.Errorf("port %d is needed, and not free: %w", *port, err)
		}
	}
	data, err = json.Marshal(p)
	if err != nil {
		return p, err
	}
	return p, os.WriteFile(path, append(data, '\n'), 0o600)
}

func freePort(ctx context.Context) (int, error) {
	var err error
	for range 100 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		if err = tryPort(ctx, port); err == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}

func tryPort(ctx context.Context, port int) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return l.Close()
}
