// Package pki is the hub's own certificate authority.
// It makes the authority, the hub's server certificate and the agents' client certificates,
// and reads an agent's identity back from its certificate.
// It keeps nothing: keys and certificates are given in and out, and the time is injected.
package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"strings"
	"time"
)

const (
	caLife     = 10 * 365 * 24 * time.Hour
	serverLife = 90 * 24 * time.Hour
	// Skew is how far certificates reach into the past, for clocks that run behind.
	Skew = 5 * time.Minute
	// scheme is that of the URI in a client certificate: flotilla://cluster/agent.
	scheme = "flotilla"
)

// Authority signs certificates.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Identity is who an agent's certificate says it is.
type Identity struct {
	Cluster string
	AgentID string
	// Serial is the certificate's number in hex.
	Serial    string
	NotBefore time.Time
	NotAfter  time.Time
}

// NewAuthority makes an authority with a new key, valid for ten years.
func NewAuthority(now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "flotilla hub CA"},
		NotBefore:             now.Add(-Skew),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign the CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Authority{cert: cert, key: key}, nil
}

// ParseAuthority reads what Marshal wrote.
func ParseAuthority(certPEM, keyPEM []byte) (*Authority, error) {
	cert, err := ParseCertificate(certPEM)
	if err != nil {
		return nil, fmt.Errorf("CA certificate: %w", err)
	}
	key, err := ParseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("CA key: %w", err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("the CA's key does not belong to its certificate")
	}
	return &Authority{cert: cert, key: key}, nil
}

// Marshal returns the certificate and the key in PEM.
func (a *Authority) Marshal() (certPEM, keyPEM []byte, err error) {
	keyPEM, err = MarshalKey(a.key)
	return a.CertificatePEM(), keyPEM, err
}

// CertificatePEM is what agents must trust.
func (a *Authority) CertificatePEM() []byte { return certificatePEM(a.cert.Raw) }

// Hash identifies the authority in join material.
func (a *Authority) Hash() string { return Hash(a.cert) }

// Hash identifies a CA certificate: "sha256:" and the hex digest of its public key.
func Hash(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Server makes a server certificate for the hosts: names and IP addresses.
// The chain includes the CA, so that an agent that knows only its hash can check it.
func (a *Authority) Server(hosts []string, now time.Time) (*tls.Certificate, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "flotilla hub"},
		NotBefore:   now.Add(-Skew),
		NotAfter:    now.Add(serverLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	der, err := a.sign(tmpl, &key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("sign the server certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// Client signs an agent's certificate request. Only the request's public key is used.
func (a *Authority) Client(csrDER []byte, cluster, agentID string, now time.Time, life time.Duration) (certPEM []byte, id Identity, err error) {
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		return nil, Identity{}, fmt.Errorf("certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, Identity{}, fmt.Errorf("certificate request: %w", err)
	}
	tmpl := &x509.Certificate{
		Subject:     pkix.Name{CommonName: cluster, Organization: []string{"flotilla agents"}},
		URIs:        []*url.URL{{Scheme: scheme, Host: cluster, Path: "/" + agentID}},
		NotBefore:   now.Add(-Skew),
		NotAfter:    now.Add(life),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := a.sign(tmpl, csr.PublicKey)
	if err != nil {
		return nil, Identity{}, fmt.Errorf("sign the client certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, Identity{}, err
	}
	id, err = IdentityOf(leaf)
	return certificatePEM(der), id, err
}

// Verify checks that this authority signed a client certificate, and returns whose it is.
// It does not look at the certificate's times: the caller refuses those with its own words.
func (a *Authority) Verify(cert *x509.Certificate) (Identity, error) {
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	_, err := cert.Verify(x509.VerifyOptions{
		Roots:       roots,
		CurrentTime: cert.NotBefore.Add(time.Second),
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return Identity{}, err
	}
	return IdentityOf(cert)
}

// IdentityOf reads a client certificate without checking who signed it.
func IdentityOf(cert *x509.Certificate) (Identity, error) {
	for _, u := range cert.URIs {
		if u.Scheme == scheme {
			return Identity{
				Cluster: u.Host, AgentID: strings.TrimPrefix(u.Path, "/"),
				Serial: cert.SerialNumber.Text(16), NotBefore: cert.NotBefore, NotAfter: cert.NotAfter,
			}, nil
		}
	}
	return Identity{}, errors.New("the certificate names no cluster")
}

func (a *Authority) sign(tmpl *x509.Certificate, pub any) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	tmpl.SerialNumber = serial
	return x509.CreateCertificate(rand.Reader, tmpl, a.cert, pub, a.key)
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
}

// NewKey makes a key for a certificate.
func NewKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// Request makes a certificate request in DER.
func Request(key *ecdsa.PrivateKey) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "flotilla agent"},
	}, key)
}

// MarshalKey writes a key in PEM.
func MarshalKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseKey reads what MarshalKey wrote.
func ParseKey(keyPEM []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("a %T is not an ECDSA key", k)
	}
	return key, nil
}

// ParseCertificate reads the first certificate of a PEM file.
func ParseCertificate(certPEM []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(bytes.TrimSpace(certPEM))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no certificate in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
