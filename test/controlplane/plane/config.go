package plane

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
)

// A Mode says how much of a control plane runs.
type Mode int

const (
	// Full runs everything: controllers work, pods are scheduled and become ready.
	Full Mode = iota
	// Minimal runs etcd and the API server: objects are stored and admitted, and nothing acts on them.
	Minimal
)

// A Config says what to run.
type Config struct {
	Dir        string    // everything the control plane writes; required
	Executable string    // program whose subcommands are the components; required
	Kwok       string    // the kwok program; required in mode Full
	Kubeconfig string    // where to write the administrator's kubeconfig; empty means DIR/kubeconfig
	Name       string    // name of the cluster in the kubeconfig; required
	Mode       Mode      // zero is Full
	Nodes      int       // simulated nodes; zero means none, and pods stay pending
	Port       int       // of the API server; zero means a free one, kept in DIR
	Fsync      bool      // whether etcd waits for the disk
	Control    io.Reader // lines "kill NAME" and "start NAME"; its end stops the control plane; nil means none
	Out        io.Writer // answers: "ready PATH", "killed NAME", "started NAME", "error TEXT"; required
	Err        io.Writer // notes for a human; required
}

func (c *Config) complete() error {
	switch {
	case c.Dir == "":
		return errors.New("--dir is required")
	case c.Executable == "":
		return errors.New("Executable is required")
	case c.Name == "":
		return errors.New("--name must not be empty")
	case c.Out == nil || c.Err == nil:
		return errors.New("Out and Err are required")
	case c.Nodes < 0:
		return fmt.Errorf("--nodes is %d, and cannot be negative", c.Nodes)
	case c.Mode == Full && c.Kwok == "":
		return errors.New("Kwok is required")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return err
	}
	c.Dir = dir
	if c.Mode == Minimal {
		c.Nodes = 0
	}
	if c.Kubeconfig == "" {
		c.Kubeconfig = c.path("kubeconfig")
	}
	c.Kubeconfig, err = filepath.Abs(c.Kubeconfig)
	return err
}

func (c *Config) path(elem ...string) string {
	return filepath.Join(append([]string{c.Dir}, elem...)...)
}
