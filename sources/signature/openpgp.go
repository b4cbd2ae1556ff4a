package signature

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// goodHashes are those that nobody makes collisions of.
var goodHashes = []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512, crypto.SHA3_256, crypto.SHA3_512}

// maxClockSkew is how far the clock of whoever signs may be ahead of ours.
const maxClockSkew = 15 * time.Minute

func (k *Keys) addPGP(data []byte) error {
	rest := data
	for {
		begin := bytes.Index(rest, []byte(pgpKey))
		if begin < 0 {
			return nil
		}
		rest = rest[begin:]
		end := bytes.Index(rest, []byte(pgpKeyEnd))
		if end < 0 {
			return errors.New("an OpenPGP key has no end")
		}
		end += len(pgpKeyEnd)
		list, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(rest[:end]))
		if err != nil {
			return fmt.Errorf("an OpenPGP key cannot be read: %v", err)
		}
		k.pgp = append(k.pgp, list...)
		rest = rest[end:]
	}
}

func (k *Keys) verifyPGP(payload []byte, armored string, at time.Time) (string, error) {
	block, err := armor.Decode(strings.NewReader(armored))
	if err != nil {
		return "", fmt.Errorf("%w: its armor cannot be read: %v", ErrNotValid, err)
	}
	raw, err := io.ReadAll(io.LimitReader(block.Body, maxSignature))
	if err != nil {
		return "", fmt.Errorf("%w: its armor cannot be read: %v", ErrNotValid, err)
	}
	sig, err := readPGP(raw)
	if err != nil {
		return "", err
	}
	// A signature of a machine whose clock is ahead of ours is no forgery.
	if sig.CreationTime.After(at) && sig.CreationTime.Sub(at) <= maxClockSkew {
		at = sig.CreationTime
	}
	config := &packet.Config{Time: func() time.Time { return at }}
	entity, err := openpgp.CheckDetachedSignatureAndHash(k.pgp, bytes.NewReader(payload), bytes.NewReader(raw), []crypto.Hash{sig.Hash}, config)
	switch {
	case err == nil:
		return pgpName(entity), nil
	case errors.Is(err, pgperrors.ErrUnknownIssuer):
		return "", fmt.Errorf("%w: OpenPGP key %016X", ErrUnknownKey, *sig.IssuerKeyId)
	}
	return "", fmt.Errorf("%w: OpenPGP key %016X: %v", ErrNotValid, *sig.IssuerKeyId, err)
}

// readPGP reads what must be one signature packet: which of several would count is nothing to be guessed.
func readPGP(raw []byte) (*packet.Signature, error) {
	packets := packet.NewReader(bytes.NewReader(raw))
	p, err := packets.Next()
	if err != nil {
		return nil, fmt.Errorf("%w: it cannot be read: %v", ErrNotValid, err)
	}
	sig, ok := p.(*packet.Signature)
	if !ok || sig.IssuerKeyId == nil {
		return nil, fmt.Errorf("%w: it is no OpenPGP signature that names its key", ErrNotValid)
	}
	if _, err := packets.Next(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it holds more than one signature", ErrNotValid)
	}
	if !slices.Contains(goodHashes, sig.Hash) {
		return nil, fmt.Errorf("%w: it uses the hash %s, which can be forged", ErrNotValid, sig.Hash)
	}
	return sig, nil
}

// pgpName is the key's main identity and its fingerprint.
func pgpName(e *openpgp.Entity) string {
	fingerprint := fmt.Sprintf("OpenPGP %X", e.PrimaryKey.Fingerprint)
	if id := e.PrimaryIdentity(); id != nil && id.Name != "" {
		return id.Name + ", " + fingerprint
	}
	return fingerprint
}
