package git

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/sources/signature"
)

// TestRealSignatures reads what git made with gpg and with ssh-keygen: testdata/signed/make.sh.
func TestRealSignatures(t *testing.T) {
	t.Parallel()
	load := func(name string) []byte {
		t.Helper()
		data, err := os.ReadFile(filepath.Join("testdata", "signed", name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	trusted := func(names ...string) *signature.Keys {
		t.Helper()
		k := &signature.Keys{}
		for _, n := range names {
			if err := k.Add(n, load(n)); err != nil {
				t.Fatal(err)
			}
		}
		return k
	}
	split := func(raw []byte, name string) (payload []byte, sig string) {
		t.Helper()
		if strings.HasSuffix(name, ".tag") {
			return splitTag(raw)
		}
		payload, sig, err := splitCommit(raw)
		if err != nil {
			t.Fatal(err)
		}
		return payload, sig
	}
	now := time.Unix(1_796_080_000, 0) // an hour after they were made, whatever the clock says
	for name, want := range map[string]struct{ keys, other, who string }{
		"pgp.commit": {"keys.asc", "allowed_signers", "Ann Example <ann@example.com>, OpenPGP "},
		"pgp.tag":    {"keys.asc", "allowed_signers", "Ann Example <ann@example.com>, OpenPGP "},
		"ssh.commit": {"allowed_signers", "keys.asc", "bob@example.com, SSH SHA256:"},
		"ssh.tag":    {"allowed_signers", "keys.asc", "bob@example.com, SSH SHA256:"},
	} {
		raw := load(name)
		payload, sig := split(raw, name)
		for _, keys := range []*signature.Keys{trusted(want.keys), trusted(want.other, want.keys)} {
			if who, err := keys.Verify(payload, sig, now); err != nil || !strings.HasPrefix(who, want.who) {
				t.Errorf("%s: signed by %q, %v", name, who, err)
			}
		}
		if _, err := trusted(want.other).Verify(payload, sig, now); !errors.Is(err, signature.ErrUnknownKey) {
			t.Errorf("%s with other keys: %v", name, err)
		}
		if _, err := trusted(want.keys).Verify(payload, "", now); !errors.Is(err, signature.ErrNone) {
			t.Errorf("%s without its signature: %v", name, err)
		}
		// Whatever byte of what was signed is another one, it no longer counts.
		for i := 0; i < len(payload); i += 7 {
			forged := append([]byte{}, payload...)
			forged[i] ^= 1
			if who, err := trusted(want.keys).Verify(forged, sig, now); !errors.Is(err, signature.ErrNotValid) {
				t.Fatalf("%s with another byte %d: signed by %q, %v", name, i, who, err)
			}
		}
	}
}

func TestSplitCommit(t *testing.T) {
	t.Parallel()
	const head = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor a\n"
	for name, test := range map[string]struct{ raw, payload, sig, err string }{
		"unsigned":        {head + "\nmessage\n", head + "\nmessage\n", "", ""},
		"signed":          {head + "gpgsig one\n two\n \n three\nencoding x\n\nmessage\n", head + "encoding x\n\nmessage\n", "one\ntwo\n\nthree\n", ""},
		"last header":     {head + "gpgsig one\n two\n\nmessage\n", head + "\nmessage\n", "one\ntwo\n", ""},
		"in the message":  {head + "\ngpgsig one\n", head + "\ngpgsig one\n", "", ""},
		"in a merged tag": {head + "mergetag object\n gpgsig x\n\nm", head + "mergetag object\n gpgsig x\n\nm", "", ""},
		"two":             {head + "gpgsig one\nauthor x\ngpgsig two\n\nm", "", "", "more than one signature"},
		"another hash":    {head + "gpgsig-sha256 one\n\nm", "", "", "another kind of hash"},
	} {
		payload, sig, err := splitCommit([]byte(test.raw))
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: error %v", name, err)
			}
			continue
		}
		if err != nil || string(payload) != test.payload || sig != test.sig {
			t.Errorf("%s: payload %q, signature %q, %v", name, payload, sig, err)
		}
	}
}

func TestValidRefName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"refs/heads/main": true, "refs/heads/feature/a-b_c": true, "refs/tags/v1.2.3": true, "refs/heads/größe": true,
		"": false, "refs/heads/../../../etc/x": false, "refs/heads/a..b": false, "refs/heads/.git": false, "/refs/heads/a": false,
		"refs/heads/a/": false, "refs/heads/a.lock": false, "refs/heads/a b": false, "refs/heads/a\x1b[2K": false, "refs/heads/a~1": false,
		"refs/heads/a\\b": false, "refs/heads/" + strings.Repeat("a", 2000): false,
	} {
		if got := validRefName(name); got != want {
			t.Errorf("validRefName(%q) = %v", name, got)
		}
	}
}
