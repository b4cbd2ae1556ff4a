package signature

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// namespace is what Git signs for; a signature for anything else is not one of a commit.
const namespace = "git"

// sshKey is one line of a file of keys.
type sshKey struct {
	key           ssh.PublicKey
	name          string // the principals or the comment
	after, before time.Time
}

func (k *Keys) addSSH(data []byte) error {
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, err := parseSSH(line)
		if err != nil {
			return fmt.Errorf("line %d: %w", i+1, err)
		}
		k.ssh = append(k.ssh, key)
	}
	return nil
}

// parseSSH reads "TYPE KEY [COMMENT]", or a line of an allowed signers file: "PRINCIPALS [OPTIONS] TYPE KEY [COMMENT]".
func parseSSH(line string) (sshKey, error) {
	none := errors.New("is no SSH public key, such as a line of a .pub file")
	words := split(line, " \t")
	at := slices.IndexFunc(words, func(w string) bool { return isKeyType(w) })
	if at < 0 || at+1 >= len(words) || at > 2 {
		return sshKey{}, none
	}
	blob, err := base64.StdEncoding.DecodeString(words[at+1])
	if err != nil {
		return sshKey{}, none
	}
	pub, err := ssh.ParsePublicKey(blob)
	if err != nil || pub.Type() != words[at] || pub.Type() == "ssh-dss" {
		return sshKey{}, none
	}
	if _, isCertificate := pub.(*ssh.Certificate); isCertificate {
		return sshKey{}, errors.New("is a certificate; give the plain key")
	}
	out := sshKey{key: pub, name: strings.Join(words[at+2:], " ")}
	if at > 0 {
		out.name = strings.Trim(words[0], `"`)
	}
	if at == 2 {
		err = out.options(words[1])
	}
	return out, err
}

func isKeyType(word string) bool {
	return strings.HasPrefix(word, "ssh-") || strings.HasPrefix(word, "ecdsa-") || strings.HasPrefix(word, "sk-")
}

// split cuts at any of the separators outside of double quotes, and drops what is empty.
func split(s, separators string) []string {
	var out []string
	quoted, begin := false, 0
	for i := range len(s) + 1 {
		if i < len(s) && s[i] == '"' {
			quoted = !quoted
		}
		if i == len(s) || !quoted && strings.IndexByte(separators, s[i]) >= 0 {
			if i > begin {
				out = append(out, s[begin:i])
			}
			begin = i + 1
		}
	}
	return out
}

// options reads those of an allowed signers file. What it does not know may restrict the key, so it is an error.
func (k *sshKey) options(list string) error {
	for _, option := range split(list, ",") {
		name, value, _ := strings.Cut(option, "=")
		value = strings.Trim(value, `"`)
		var err error
		switch strings.ToLower(name) {
		case "namespaces":
			if !slices.Contains(strings.Split(value, ","), namespace) {
				return fmt.Errorf("the key is for the namespaces %q, and not for %q", value, namespace)
			}
		case "valid-after":
			k.after, err = parseTime(value)
		case "valid-before":
			k.before, err = parseTime(value)
		default:
			return fmt.Errorf("option %q is not one of namespaces, valid-after, valid-before", name)
		}
		if err != nil {
			return fmt.Errorf("option %s: %w", name, err)
		}
	}
	return nil
}

// parseTime reads YYYYMMDD or YYYYMMDDHHMM[SS], in UTC with or without a Z.
func parseTime(s string) (time.Time, error) {
	for _, layout := range []string{"20060102", "200601021504", "20060102150405"} {
		if t, err := time.Parse(layout, strings.TrimSuffix(s, "Z")); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time such as 20301231", s)
}

// sshSignature is the blob of an armored signature, as OpenSSH's PROTOCOL.sshsig has it.
type sshSignature struct {
	Version   uint32
	PublicKey []byte
	Namespace string
	Reserved  string
	Hash      string
	Signature []byte
}

// sshSigned is what is really signed.
type sshSigned struct {
	Namespace string
	Reserved  string
	Hash      string
	Digest    []byte
}

var sshMagic = []byte("SSHSIG")

func (k *Keys) verifySSH(payload []byte, armored string, at time.Time) (string, error) {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrNotValid}, args...)...)
	}
	body, ok := strings.CutSuffix(strings.TrimPrefix(armored, sshBegin), sshEnd)
	if !ok {
		return "", bad("it has no end")
	}
	raw, err := base64.StdEncoding.DecodeString(strings.NewReplacer("\n", "", "\r", "", " ", "").Replace(body))
	if err != nil {
		return "", bad("it is not base64")
	}
	blob, ok := bytes.CutPrefix(raw, sshMagic)
	var s sshSignature
	if !ok || ssh.Unmarshal(blob, &s) != nil || s.Version != 1 {
		return "", bad("it is no SSH signature of version 1")
	}
	pub, err := ssh.ParsePublicKey(s.PublicKey)
	if err != nil {
		return "", bad("its key cannot be read")
	}
	fingerprint := "SSH " + ssh.FingerprintSHA256(pub)
	i := slices.IndexFunc(k.ssh, func(known sshKey) bool { return bytes.Equal(known.key.Marshal(), pub.Marshal()) })
	if i < 0 {
		return "", fmt.Errorf("%w: %s", ErrUnknownKey, fingerprint)
	}
	known := k.ssh[i]
	if s.Namespace != namespace {
		return "", bad("%s made it for %q, and not for %q", fingerprint, s.Namespace, namespace)
	}
	digest := digestOf(s.Hash, payload)
	if digest == nil {
		return "", bad("it uses the hash %q, and not sha256 or sha512", s.Hash)
	}
	var sig ssh.Signature
	if ssh.Unmarshal(s.Signature, &sig) != nil || sig.Format == ssh.KeyAlgoRSA {
		return "", bad("%s used an algorithm that can be forged, or that is not known", fingerprint)
	}
	signed := append(slices.Clone(sshMagic), ssh.Marshal(sshSigned{s.Namespace, s.Reserved, s.Hash, digest})...)
	if err := known.key.Verify(signed, &sig); err != nil {
		return "", bad("%s did not sign this", fingerprint)
	}
	switch {
	case !known.after.IsZero() && at.Before(known.after):
		return "", bad("%s is not valid before %s", fingerprint, known.after.Format(time.DateOnly))
	case !known.before.IsZero() && !at.Before(known.before):
		return "", bad("%s is not valid since %s", fingerprint, known.before.Format(time.DateOnly))
	}
	if known.name == "" {
		return fingerprint, nil
	}
	return known.name + ", " + fingerprint, nil
}

func digestOf(hash string, payload []byte) []byte {
	switch hash {
	case "sha256":
		d := sha256.Sum256(payload)
		return d[:]
	case "sha512":
		d := sha512.Sum512(payload)
		return d[:]
	}
	return nil
}
