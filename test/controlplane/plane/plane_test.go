package plane

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoadPorts_sameAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ports.json")
	first, err := loadPorts(t.Context(), path, 0)
	if err != nil {
		t.Fatal(err)
	}
	if first.APIServer == 0 || first.Etcd == 0 || first.APIServer == first.Etcd {
		t.Errorf("got %+v", first)
	}
	second, err := loadPorts(t.Context(), path, 0)
	if err != nil {
		t.Fatal(err)
	}
	if first != second {
		t.Errorf("got %+v, then %+v", first, second)
	}
}

func TestLoadPorts_busyPortIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ports.json")
	first, err := loadPorts(t.Context(), path, 0)
	if err != nil {
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", first.Etcd))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = loadPorts(t.Context(), path, 0)
	if want := fmt.Sprintf("port %d is needed, and not free", first.Etcd); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q in it", err, want)
	}
}

func TestEnsurePKI(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	// What an interrupted first attempt leaves behind is no obstacle.
	if err := os.MkdirAll(filepath.Join(dir+".new", "half"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := ensurePKI(dir); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	for _, id := range identities {
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, id.name+".crt"), filepath.Join(dir, id.name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		opts := x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{id.usage}}
		if id.usage == x509.ExtKeyUsageServerAuth {
			opts.DNSName = "127.0.0.1"
		}
		if _, err := pair.Leaf.Verify(opts); err != nil {
			t.Errorf("%s: %v", id.name, err)
		}
	}

	if err := ensurePKI(dir); err != nil {
		t.Fatal(err)
	}
	again, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if string(again) != string(ca) {
		t.Error("the second start has another CA")
	}
}

func TestConfig_complete(t *testing.T) {
	valid := Config{Dir: "x", Executable: "x", Kwok: "x", Name: "x", Out: os.Stdout, Err: os.Stderr}
	for want, change := range map[string]func(*Config){
		"--dir is required":       func(c *Config) { c.Dir = "" },
		"Executable is required":  func(c *Config) { c.Executable = "" },
		"--name must not be":      func(c *Config) { c.Name = "" },
		"Out and Err are":         func(c *Config) { c.Out = nil },
		"--nodes is -1":           func(c *Config) { c.Nodes = -1 },
		"Kwok is required":        func(c *Config) { c.Kwok = "" },
		"<nil>":                   func(*Config) {},
		"<nil> for minimal plane": func(c *Config) { c.Kwok, c.Mode = "", Minimal },
	} {
		cfg := valid
		change(&cfg)
		want, _, _ = strings.Cut(want, " for ")
		if err := fmt.Sprint(cfg.complete()); !strings.HasPrefix(err, want) {
			t.Errorf("got %q, want %q", err, want)
		}
	}
}
