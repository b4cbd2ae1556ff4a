// Package etcd runs one etcd member inside this process.
// It promises data that survive a kill of the process; without Fsync they need not survive a power failure.
// It listens on the loopback interface only and never forms a cluster.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/wal"
)

// A Config says where the member keeps its data and where it listens.
type Config struct {
	Dir   string // directory of the data; required
	Port  int    // client port; required
	Fsync bool   // wait for the disk at every write; false is several times faster
}

// Each control plane would otherwise reserve two segments of 64 MB.
const segmentBytes = 8 << 20

// Run serves until ctx ends, and returns once the data are closed.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Dir == "" || cfg.Port == 0 {
		return errors.New("etcd: Dir and Port are required")
	}
	wal.SegmentSizeBytes = segmentBytes
	server, err := embed.StartEtcd(embedConfig(cfg))
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	defer server.Close()
	select {
	case <-ctx.Done():
		return nil
	case err := <-server.Err():
		return fmt.Errorf("serve etcd: %w", err)
	case <-server.Server.StopNotify():
		return errors.New("etcd stopped by itself")
	}
}

func embedConfig(cfg Config) *embed.Config {
	ec := embed.NewConfig()
	ec.Name = "controlplane"
	ec.Dir = cfg.Dir
	ec.UnsafeNoFsync = !cfg.Fsync
	ec.LogLevel = "warn"
	ec.LogOutputs = []string{"stderr"}
	client := loopback(cfg.Port)
	ec.ListenClientUrls, ec.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	// A lone member is never called by a peer: any free port will do.
	// The advertised address must stay the same over restarts.
	ec.ListenPeerUrls, ec.AdvertisePeerUrls = []url.URL{loopback(0)}, []url.URL{loopback(cfg.Port)}
	ec.InitialCluster = ec.InitialClusterFromName(ec.Name)
	return ec
}

func loopback(port int) url.URL {
	return url.URL{Scheme: "http", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
}
