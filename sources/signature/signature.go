// Package signature checks who signed a commit or a tag: detached OpenPGP and SSH signatures over bytes,
// by keys that the operator of the cluster named.
//
// It promises that a signature counts only if one of these keys made it over exactly these bytes, with a hash that
// nobody forges, while the key was valid. It reads no file, asks no server and no key server, and holds no private key.
package signature

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
)

const (
	pgpKey     = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
	pgpKeyEnd  = "-----END PGP PUBLIC KEY BLOCK-----"
	pgpPrivate = "-----BEGIN PGP PRIVATE KEY BLOCK-----"
	pgpBegin   = "-----BEGIN PGP SIGNATURE-----"
	sshBegin   = "-----BEGIN SSH SIGNATURE-----"
	sshEnd     = "-----END SSH SIGNATURE-----"
)

// Bounds of what is read.
const (
	// MaxKeys is how many keys may be trusted.
	MaxKeys = 1000
	// MaxKeyFile is the largest file of keys, in bytes.
	MaxKeyFile = 4 << 20
	// maxSignature is the largest signature.
	maxSignature = 64 << 10
)

// Reasons for which a signature does not count, for errors.Is.
var (
	// ErrNone: there is no signature.
	ErrNone = errors.New("is not signed")
	// ErrUnknownKey: none of the trusted keys made it.
	ErrUnknownKey = errors.New("is signed by a key that is not trusted")
	// ErrNotValid: a trusted key is named, and the signature is not that key's over these bytes, or not of a valid time.
	ErrNotValid = errors.New("has a signature that is not valid")
)

// Keys are the public keys that are trusted. The zero value trusts none.
type Keys struct {
	pgp openpgp.EntityList
	ssh []sshKey
}

// Len is how many keys there are.
func (k *Keys) Len() int { return len(k.pgp) + len(k.ssh) }

// Add trusts the keys of a file: armored OpenPGP public keys (gpg --export --armor), or lines of SSH public keys,
// as in authorized_keys or in the file of gpg.ssh.allowedSignersFile. name is for errors.
func (k *Keys) Add(name string, data []byte) error {
	bad := func(err error) error { return fmt.Errorf("keys %q: %w", name, err) }
	before := k.Len()
	switch {
	case len(data) > MaxKeyFile:
		return bad(fmt.Errorf("are larger than %d MiB", MaxKeyFile>>20))
	case bytes.Contains(data, []byte(pgpPrivate)), bytes.Contains(data, []byte("PRIVATE KEY-----")):
		return bad(errors.New("hold a private key; give public keys: gpg --export --armor KEY, or the .pub file of an SSH key"))
	case bytes.Contains(data, []byte(pgpKey)):
		if err := k.addPGP(data); err != nil {
			return bad(err)
		}
	default:
		if err := k.addSSH(data); err != nil {
			return bad(err)
		}
	}
	switch n := k.Len(); {
	case n == before:
		return bad(errors.New("hold neither an armored OpenPGP public key nor a line with an SSH public key"))
	case n > MaxKeys:
		return bad(fmt.Errorf("make more than %d keys", MaxKeys))
	}
	return nil
}

// Verify checks a detached armored signature over payload with the keys as they are valid at a time.
// It returns who signed, for people. An error is one of ErrNone, ErrUnknownKey and ErrNotValid, with the particulars.
func (k *Keys) Verify(payload []byte, armored string, at time.Time) (signer string, err error) {
	armored = strings.TrimSpace(armored)
	switch {
	case armored == "":
		return "", ErrNone
	case len(armored) > maxSignature:
		return "", fmt.Errorf("%w: it is larger than %d KiB", ErrNotValid, maxSignature>>10)
	case strings.HasPrefix(armored, pgpBegin):
		return k.verifyPGP(payload, armored, at)
	case strings.HasPrefix(armored, sshBegin):
		return k.verifySSH(payload, armored, at)
	}
	return "", fmt.Errorf("%w: it is neither an OpenPGP nor an SSH signature", ErrNotValid)
}
