package client

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/flotilla-fleet/flotilla/hub/pki"
)

// The files of an identity. Key and certificate share a file, so that they always fit together.
const (
	identityFile = "identity.pem"
	caFile       = "ca.pem"
	hubFile      = "hub.json"
)

// Identity is how an agent shows who it is.
type Identity struct {
	// URL is the hub's address for agents.
	URL     string
	Cluster string
	AgentID string
	// NotBefore and NotAfter are the certificate's times.
	NotBefore, NotAfter time.Time

	certificate tls.Certificate
	roots       *x509.CertPool
}

// ErrNoIdentity is returned where nobody has joined yet.
var ErrNoIdentity = errors.New("this agent has not joined a hub")

// LoadIdentity reads what Join wrote.
func LoadIdentity(dir string) (Identity, error) {
	b, err := os.ReadFile(filepath.Join(dir, identityFile))
	if errors.Is(err, os.ErrNotExist) {
		return Identity{}, ErrNoIdentity
	}
	if err != nil {
		return Identity{}, fmt.Errorf("identity: %w", err)
	}
	cert, err := tls.X509KeyPair(b, b)
	if err != nil {
		return Identity{}, fmt.Errorf("identity %q: %w", filepath.Join(dir, identityFile), err)
	}
	who, err := pki.IdentityOf(cert.Leaf)
	if err != nil {
		return Identity{}, fmt.Errorf("identity: %w", err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil {
		return Identity{}, fmt.Errorf("identity: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return Identity{}, fmt.Errorf("identity: no certificate in %q", filepath.Join(dir, caFile))
	}
	var hub hubInfo
	if b, err = os.ReadFile(filepath.Join(dir, hubFile)); err != nil {
		return Identity{}, fmt.Errorf("identity: %w", err)
	}
	if err := json.Unmarshal(b, &hub); err != nil {
		return Identity{}, fmt.Errorf("identity %q: %w", filepath.Join(dir, hubFile), err)
	}
	return Identity{
		URL: hub.URL, Cluster: who.Cluster, AgentID: who.AgentID,
		NotBefore: who.NotBefore, NotAfter: who.NotAfter, certificate: cert, roots: roots,
	}, nil
}

// renewAt is two thirds into the certificate's life.
func (id Identity) renewAt() time.Time {
	issued := id.NotBefore.Add(pki.Skew)
	return issued.Add(id.NotAfter.Sub(issued) * 2 / 3)
}

type hubInfo struct {
	URL string `json:"url"`
}

// saveIdentity writes an identity so that a crash leaves the old one or the new one.
func saveIdentity(dir, url string, keyPEM, certPEM, caPEM []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	hub, err := json.Marshal(hubInfo{URL: url})
	if err != nil {
		return err
	}
	// The file that says "joined" comes last.
	for _, f := range []struct {
		name string
		data []byte
	}{{caFile, caPEM}, {hubFile, hub}, {identityFile, append(append([]byte{}, certPEM...), keyPEM...)}} {
		if err := writeFile(filepath.Join(dir, f.name), f.data); err != nil {
			return fmt.Errorf("identity: %w", err)
		}
	}
	return nil
}

// writeFile replaces a file as a whole, readable by its owner only.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// pinned is a TLS configuration that trusts exactly the CA with a hash:
// the hub sends its CA along, and it must have the hash and have signed the hub's certificate.
func pinned(hash, host string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The check below takes the place of the usual one, which knows no CA yet.
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection verifies
		VerifyConnection: func(cs tls.ConnectionState) error {
			for _, ca := range cs.PeerCertificates[1:] {
				if pki.Hash(ca) != hash {
					continue
				}
				roots := x509.NewCertPool()
				roots.AddCert(ca)
				_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: host})
				return err
			}
			return fmt.Errorf("the server at %q does not have the CA with the hash %s", host, hash)
		},
	}
}

// trusting is a TLS configuration that trusts the CA in a file.
func trusting(file string) (*tls.Config, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	if block, _ := pem.Decode(b); block == nil {
		return nil, fmt.Errorf("CA: %q holds no certificate", file)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(b)
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots}, nil
}

// mutual is the TLS configuration of a joined agent.
func (id Identity) mutual() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    id.roots,
		// Always shown, expired or not: the hub then says what is wrong with it.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &id.certificate, nil
		},
	}
}
