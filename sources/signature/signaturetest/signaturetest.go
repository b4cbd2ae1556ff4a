// Package signaturetest gives tests keys that sign as gpg and ssh-keygen do, made for the test and gone with it.
package signaturetest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // to make signatures that must be refused
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"golang.org/x/crypto/ssh"
)

// SSH is an SSH key.
type SSH struct {
	Signer ssh.Signer
	// Algorithm is what an RSA key signs with; empty means the key's own.
	Algorithm string
}

// NewSSH makes a key.
func NewSSH(t testing.TB) SSH {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return SSH{Signer: signer}
}

// Public is the line of a .pub file, without a comment.
func (k SSH) Public() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.Signer.PublicKey())))
}

// Sign signs for Git.
func (k SSH) Sign(payload []byte) string { return k.SignAs(payload, "git", "sha512") }

// SignAs signs for a namespace, with a hash.
func (k SSH) SignAs(payload []byte, namespace, hash string) string {
	var digest []byte
	switch hash {
	case "sha1":
		d := sha1.Sum(payload) //nolint:gosec // see above
		digest = d[:]
	case "sha256":
		d := sha256.Sum256(payload)
		digest = d[:]
	default:
		d := sha512.Sum512(payload)
		digest = d[:]
	}
	signed := append([]byte("SSHSIG"), ssh.Marshal(struct {
		Namespace, Reserved, Hash string
		Digest                    []byte
	}{namespace, "", hash, digest})...)
	var sig *ssh.Signature
	var err error
	if k.Algorithm != "" {
		sig, err = k.Signer.(ssh.AlgorithmSigner).SignWithAlgorithm(rand.Reader, signed, k.Algorithm)
	} else {
		sig, err = k.Signer.Sign(rand.Reader, signed)
	}
	if err != nil {
		panic(err) // a key of a test signs
	}
	blob := append([]byte("SSHSIG"), ssh.Marshal(struct {
		Version                   uint32
		Key                       []byte
		Namespace, Reserved, Hash string
		Signature                 []byte
	}{1, k.Signer.PublicKey().Marshal(), namespace, "", hash, ssh.Marshal(sig)})...)
	return "-----BEGIN SSH SIGNATURE-----\n" + base64.StdEncoding.EncodeToString(blob) + "\n-----END SSH SIGNATURE-----\n"
}

// PGP is an OpenPGP key.
type PGP struct{ Entity *openpgp.Entity }

// NewPGP makes a key that expires after a time; zero means never.
func NewPGP(t testing.TB, name string, life time.Duration) PGP {
	t.Helper()
	e, err := openpgp.NewEntity(name, "", strings.ToLower(strings.Fields(name)[0])+"@example.com", &packet.Config{
		Algorithm: packet.PubKeyAlgoEdDSA, KeyLifetimeSecs: uint32(life / time.Second),
	})
	if err != nil {
		t.Fatal(err)
	}
	return PGP{e}
}

// Public is the armored public key.
func (k PGP) Public() string {
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err == nil {
		err = k.Entity.Serialize(w)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err) // into memory
	}
	return b.String() + "\n"
}

// Sign signs.
func (k PGP) Sign(payload []byte) string {
	var b bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&b, k.Entity, bytes.NewReader(payload), nil); err != nil {
		panic(err) // a key of a test signs
	}
	return b.String() + "\n"
}
