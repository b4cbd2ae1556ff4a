package signature_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"golang.org/x/crypto/ssh"

	"github.com/flotilla-fleet/flotilla/sources/signature"
	"github.com/flotilla-fleet/flotilla/sources/signature/signaturetest"
)

func TestSSHSignatures(t *testing.T) {
	t.Parallel()
	key := signaturetest.NewSSH(t)
	payload := []byte("tree x\n")
	now := time.Now()
	keys := &signature.Keys{}
	if err := keys.Add("one", []byte("# people\n\n"+key.Public()+" ann@example.com\n")); err != nil {
		t.Fatal(err)
	}
	if who, err := keys.Verify(payload, key.Sign(payload), now); err != nil || who != "ann@example.com, SSH "+ssh.FingerprintSHA256(key.Signer.PublicKey()) {
		t.Errorf("signed by %q, %v", who, err)
	}
	for name, test := range map[string]struct {
		sig  string
		want error
		text string
	}{
		"for a file":    {key.SignAs(payload, "file", "sha512"), signature.ErrNotValid, `for "file", and not for "git"`},
		"a weak hash":   {key.SignAs(payload, "git", "sha1"), signature.ErrNotValid, `hash "sha1"`},
		"other bytes":   {key.Sign([]byte("tree y\n")), signature.ErrNotValid, "did not sign this"},
		"another key":   {signaturetest.NewSSH(t).Sign(payload), signature.ErrUnknownKey, "SHA256:"},
		"not base64":    {"-----BEGIN SSH SIGNATURE-----\n!\n-----END SSH SIGNATURE-----", signature.ErrNotValid, "base64"},
		"cut off":       {key.Sign(payload)[:80], signature.ErrNotValid, "no end"},
		"something":     {"-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----", signature.ErrNotValid, "version 1"},
		"none":          {" \n", signature.ErrNone, "not signed"},
		"X.509":         {"-----BEGIN SIGNED MESSAGE-----\nAAAA", signature.ErrNotValid, "neither an OpenPGP nor an SSH"},
		"far too large": {"-----BEGIN SSH SIGNATURE-----\n" + strings.Repeat("A", 1<<20), signature.ErrNotValid, "larger"},
	} {
		if who, err := keys.Verify(payload, test.sig, now); !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: signed by %q, error %v", name, who, err)
		}
	}
}

// TestSSHSignatureOfRSA: with SHA-1 it can be forged, and with SHA-2 it is good.
func TestSSHSignatureOfRSA(t *testing.T) {
	t.Parallel()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	key := signaturetest.SSH{Signer: signer}
	keys := &signature.Keys{}
	if err := keys.Add("rsa", []byte(key.Public())); err != nil {
		t.Fatal(err)
	}
	for algorithm, good := range map[string]bool{ssh.KeyAlgoRSA: false, ssh.KeyAlgoRSASHA512: true} {
		key.Algorithm = algorithm
		_, err := keys.Verify([]byte("x"), key.Sign([]byte("x")), time.Now())
		if (err == nil) != good {
			t.Errorf("%s: %v", algorithm, err)
		}
	}
}

func TestSSHKeysOfATime(t *testing.T) {
	t.Parallel()
	key := signaturetest.NewSSH(t)
	keys := &signature.Keys{}
	if err := keys.Add("x", []byte(`"ann@example.com,a b" namespaces="file,git",valid-after="20200101",valid-before="20210101" `+key.Public())); err != nil {
		t.Fatal(err)
	}
	for at, good := range map[string]bool{"2019-12-31": false, "2020-06-01": true, "2021-01-01": false} {
		when, err := time.Parse(time.DateOnly, at)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := keys.Verify([]byte("x"), key.Sign([]byte("x")), when); (err == nil) != good {
			t.Errorf("at %s: %v", at, err)
		}
	}
}

func TestOpenPGPSignatures(t *testing.T) {
	t.Parallel()
	ann := signaturetest.NewPGP(t, "Ann Example", 0)
	payload := []byte("tree x\n")
	now := time.Now()
	keys := &signature.Keys{}
	bob := signaturetest.NewPGP(t, "Bob", 0)
	if err := keys.Add("both", []byte(bob.Public()+"\n"+ann.Public())); err != nil || keys.Len() != 2 {
		t.Fatalf("%d keys, %v", keys.Len(), err)
	}
	if who, err := keys.Verify(payload, ann.Sign(payload), now); err != nil || !strings.HasPrefix(who, "Ann Example") {
		t.Errorf("signed by %q, %v", who, err)
	}
	weak := &packet.Config{DefaultHash: crypto.SHA1}
	var sha1 bytes.Buffer
	_ = openpgp.ArmoredDetachSign(&sha1, ann.Entity, bytes.NewReader(payload), weak)
	for name, test := range map[string]struct {
		sig  string
		want error
	}{
		"another key": {signaturetest.NewPGP(t, "Eve", 0).Sign(payload), signature.ErrUnknownKey},
		"other bytes": {ann.Sign([]byte("tree y\n")), signature.ErrNotValid},
		"no armor":    {"-----BEGIN PGP SIGNATURE-----\n\n!", signature.ErrNotValid},
		"two":         {twice(t, ann.Sign(payload)), signature.ErrNotValid},
	} {
		if who, err := keys.Verify(payload, test.sig, now); !errors.Is(err, test.want) {
			t.Errorf("%s: signed by %q, %v", name, who, err)
		}
	}
	if sha1.Len() > 0 {
		if _, err := keys.Verify(payload, sha1.String(), now); err == nil && strings.Contains(sha1.String(), "SHA1") {
			t.Error("a signature with SHA-1 counts")
		}
	}
}

// twice puts a signature two times into one armor.
func twice(t *testing.T, armored string) string {
	t.Helper()
	block, err := armor.Decode(strings.NewReader(armored))
	if err != nil {
		t.Fatal(err)
	}
	var raw bytes.Buffer
	if _, err := raw.ReadFrom(block.Body); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w, err := armor.Encode(&out, "PGP SIGNATURE", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(append(raw.Bytes(), raw.Bytes()...))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestOpenPGPClockThatIsAhead: a commit of somebody whose clock is ahead is taken, and one of tomorrow is not.
func TestOpenPGPClockThatIsAhead(t *testing.T) {
	t.Parallel()
	key := signaturetest.NewPGP(t, "Ann", 0)
	keys := &signature.Keys{}
	if err := keys.Add("x", []byte(key.Public())); err != nil {
		t.Fatal(err)
	}
	sig := key.Sign([]byte("x"))
	for behind, good := range map[time.Duration]bool{time.Second: true, 10 * time.Minute: true, 24 * time.Hour: false} {
		if _, err := keys.Verify([]byte("x"), sig, time.Now().Add(-behind)); (err == nil) != good {
			t.Errorf("with a clock that is %s behind: %v", behind, err)
		}
	}
}

func TestOpenPGPKeyThatExpired(t *testing.T) {
	t.Parallel()
	key := signaturetest.NewPGP(t, "Ann", time.Hour)
	keys := &signature.Keys{}
	if err := keys.Add("x", []byte(key.Public())); err != nil {
		t.Fatal(err)
	}
	sig := key.Sign([]byte("x"))
	if _, err := keys.Verify([]byte("x"), sig, time.Now()); err != nil {
		t.Errorf("while it is valid: %v", err)
	}
	if _, err := keys.Verify([]byte("x"), sig, time.Now().Add(2*time.Hour)); !errors.Is(err, signature.ErrNotValid) {
		t.Errorf("when it has expired: %v", err)
	}
}

func TestBadKeys(t *testing.T) {
	t.Parallel()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	secret := base64.StdEncoding.EncodeToString(block.Bytes)
	good := signaturetest.NewSSH(t).Public()
	for text, data := range map[string]string{
		"hold a private key":                      "-----BEGIN OPENSSH PRIVATE KEY-----\n" + secret + "\n-----END OPENSSH PRIVATE KEY-----\n",
		"neither an armored":                      "# nothing\n",
		"line 2: is no SSH":                       good + "\nssh-ed25519 AAAA\n",
		`option "cert-authority" is not one of`:   "a cert-authority " + good,
		`namespaces "file", and not`:              `a namespaces="file" ` + good,
		`"tomorrow" is not a time`:                `a valid-before="tomorrow" ` + good,
		"an OpenPGP key has no end":               "-----BEGIN PGP PUBLIC KEY BLOCK-----\nAAAA",
		"larger than 4 MiB":                       strings.Repeat(" ", signature.MaxKeyFile+1),
		"line 1: is no SSH public key, such as a": "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIAWzCFqmJP6UklBA4xdtTDvvQNIy1ZA27NhgTPFk2WIr",
	} {
		err := (&signature.Keys{}).Add("keys", []byte(data))
		if err == nil || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), secret[:40]) {
			t.Errorf("want %q: %v", text, err)
		}
	}
}

// FuzzVerify: whatever a server sends as signature, and whatever is in a file of keys, ends in an error.
func FuzzVerify(f *testing.F) {
	f.Add("-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----", "x ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAWzCFqmJP6UklBA4xdtTDvvQNIy1ZA27NhgTPFk2WIr")
	f.Add("-----BEGIN PGP SIGNATURE-----\n\nwsBc\n-----END PGP SIGNATURE-----", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----")
	f.Fuzz(func(t *testing.T, sig, keys string) {
		k := &signature.Keys{}
		_ = k.Add("keys", []byte(keys))
		if who, err := k.Verify([]byte("payload"), sig, time.Unix(1_700_000_000, 0)); err == nil {
			t.Errorf("%q counts as signed by %q", sig, who)
		}
	})
}
