package client

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/pki"
)

// identityFile holds an identity: key, certificate and what is known of the hub share a file, so that they always fit together.
const identityFile = "identity.pem"

// hubBlock is the type of the PEM block that holds a hubInfo.
const hubBlock = "FLOTILLA HUB"

// Identity is how an agent shows who it is.
type Identity struct {
	// URL is the hub's address for agents.
	URL     string
	Cluster string
	AgentID string
	// NotBefore and NotAfter are the certificate's times.
	NotBefore, NotAfter time.Time
	// Joined is the digest of what the agent joined with; see JoinConfig.Digest.
	Joined string

	hub         hubInfo
	certificate tls.Certificate
	roots       *x509.CertPool
	// file is what is written.
	file []byte
}

// ErrNoIdentity is returned where nobody has joined yet.
var ErrNoIdentity = errors.New("this agent has not joined a hub")

// LoadIdentity reads what Join wrote.
func LoadIdentity(dir string) (Identity, error) {
	file := filepath.Join(dir, identityFile)
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return Identity{}, ErrNoIdentity
	}
	if err != nil {
		return Identity{}, fmt.Errorf("identity: %w", err)
	}
	id, err := parseIdentity(b)
	if err != nil {
		return Identity{}, fmt.Errorf("identity %q: %w", file, err)
	}
	return id, nil
}

func parseIdentity(file []byte) (Identity, error) {
	cert, err := tls.X509KeyPair(file, file)
	if err != nil {
		return Identity{}, err
	}
	who, err := pki.IdentityOf(cert.Leaf)
	if err != nil {
		return Identity{}, err
	}
	var hub hubInfo
	for block, rest := pem.Decode(file); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != hubBlock {
			continue
		}
		if err := json.Unmarshal(block.Bytes, &hub); err != nil {
			return Identity{}, fmt.Errorf("the hub: %w", err)
		}
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(hub.CA)) {
		return Identity{}, errors.New("the hub's authority is missing")
	}
	return Identity{
		URL: hub.URL, Cluster: who.Cluster, AgentID: who.AgentID, NotBefore: who.NotBefore, NotAfter: who.NotAfter,
		Joined: hub.Joined, hub: hub, certificate: cert, roots: roots, file: file,
	}, nil
}

// renewAt is two thirds into the certificate's life.
func (id Identity) renewAt() time.Time {
	issued := id.NotBefore.Add(pki.Skew)
	return issued.Add(id.NotAfter.Sub(issued) * 2 / 3)
}

// hubInfo is what an agent knows of its hub.
type hubInfo struct {
	URL string `json:"url"`
	// CA is the authority's certificate in PEM.
	CA     string `json:"ca"`
	Joined string `json:"joined"`
}

// newIdentity puts together what the hub has issued, and refuses what does not fit together.
func newIdentity(hub hubInfo, key *ecdsa.PrivateKey, certPEM []byte) (Identity, error) {
	keyPEM, err := pki.MarshalKey(key)
	if err != nil {
		return Identity{}, err
	}
	about, err := json.Marshal(hub)
	if err != nil {
		return Identity{}, err
	}
	id, err := parseIdentity(slices.Concat(certPEM, keyPEM, pem.EncodeToMemory(&pem.Block{Type: hubBlock, Bytes: about})))
	if err != nil {
		return Identity{}, fmt.Errorf("what the hub issued is no identity: %w", err)
	}
	return id, nil
}

// RestoreIdentity writes an identity that Config.Keep was given, of the agent of a cluster, after adopt has agreed to the agent's ID.
// It is refused if it is none, or another cluster's. The error does not quote it.
func RestoreIdentity(dir, cluster string, file []byte, adopt func(agentID string) error) error {
	id, err := parseIdentity(file)
	if err != nil {
		return fmt.Errorf("what is kept is no identity: %w", err)
	}
	if id.Cluster != cluster {
		return fmt.Errorf("what is kept is the identity of cluster %q", id.Cluster)
	}
	if err := adopt(id.AgentID); err != nil {
		return err
	}
	return saveIdentity(dir, id)
}

// saveIdentity writes an identity so that a crash leaves the old one or the new one.
func saveIdentity(dir string, id Identity) error {
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = writeFile(filepath.Join(dir, identityFile), id.file)
	}
	if err != nil {
		return fmt.Errorf("identity: %w", err)
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
			return &api.Error{
				Kind: api.Forbidden, Reason: "UnknownHub", Hint: "if the hub was begun anew, " + joinAgain,
				Err: fmt.Errorf("the server at %q does not have the CA with the hash %s", host, hash),
			}
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
