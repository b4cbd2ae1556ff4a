package plane

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const lifetime = 10 * 365 * 24 * time.Hour

// An identity is one client or server certificate.
type identity struct {
	name   string // of the files
	common string
	group  string
	usage  x509.ExtKeyUsage
}

var identities = []identity{
	{name: "apiserver", common: "kube-apiserver", usage: x509.ExtKeyUsageServerAuth},
	{name: "admin", common: "admin", group: "system:masters", usage: x509.ExtKeyUsageClientAuth},
	// One identity for all controllers instead of one service account for each saves a second at every start.
	{name: "controller-manager", common: "system:kube-controller-manager", group: "system:masters", usage: x509.ExtKeyUsageClientAuth},
	{name: "scheduler", common: "system:kube-scheduler", usage: x509.ExtKeyUsageClientAuth},
	{name: "kwok", common: "kwok", group: "system:masters", usage: x509.ExtKeyUsageClientAuth},
	{name: "front-proxy", common: "front-proxy", usage: x509.ExtKeyUsageClientAuth},
}

// ensurePKI makes all certificates at once, unless the directory is there already.
func ensurePKI(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// A directory that exists is complete: it is filled under another name.
	tmp := dir + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return err
	}
	if err := writePKI(tmp); err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	return os.Rename(tmp, dir)
}

func writePKI(dir string) error {
	caKey, err := writeKey(dir, "ca")
	if err != nil {
		return err
	}
	ca := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "controlplane"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(lifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	if err := writeCertificate(dir, "ca", ca, ca, caKey.Public(), caKey); err != nil {
		return err
	}
	for i, id := range identities {
		key, err := writeKey(dir, id.name)
		if err != nil {
			return err
		}
		cert := id.template(int64(i) + 2)
		if err := writeCertificate(dir, id.name, cert, ca, key.Public(), caKey); err != nil {
			return err
		}
	}
	return writeServiceAccountKey(dir)
}

func (id identity) template(serial int64) *x509.Certificate {
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: id.common},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(lifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{id.usage},
	}
	if id.group != "" {
		cert.Subject.Organization = []string{id.group}
	}
	if id.usage == x509.ExtKeyUsageServerAuth {
		cert.DNSNames = []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"}
		cert.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), serviceRangeFirst}
	}
	return cert
}

// The API server wants the public half of the service-account key in a file of its own.
func writeServiceAccountKey(dir string) error {
	key, err := writeKey(dir, "service-account")
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	return writePEM(filepath.Join(dir, "service-account.pub"), "PUBLIC KEY", der)
}

func writeKey(dir, name string) (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writePEM(filepath.Join(dir, name+".key"), "EC PRIVATE KEY", der)
}

func writeCertificate(dir, name string, cert, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) error {
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, public, signer)
	if err != nil {
		return fmt.Errorf("sign %q: %w", name, err)
	}
	return writePEM(filepath.Join(dir, name+".crt"), "CERTIFICATE", der)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
