package hub

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Role is what a token's holder may do. Each role includes the ones before it.
type Role int

// The roles.
const (
	// anyone needs no token; it is for routes only.
	anyone Role = iota
	// Viewer may read.
	Viewer
	// Operator may also suspend, resume and sync.
	Operator
	// Admin may also make join tokens, revoke certificates and end sessions.
	Admin
)

// String is the role in a word.
func (r Role) String() string {
	return [...]string{"anyone", "viewer", "operator", "admin"}[r]
}

// Token lets a human or a script in.
type Token struct {
	// Name is what the audit log says of its holder.
	Name  string
	Value string
	Role  Role
}

const (
	// minToken is the shortest token in characters: a shorter one could be found by trying.
	minToken = 16
	// maxTokenName bounds the name of a token in bytes.
	maxTokenName = 64
)

// ParseTokens reads a tokens file: a line NAME ROLE TOKEN for each holder, where empty lines and lines
// that begin with # count for nothing. One name may have several tokens, so that one can be replaced by another.
// An empty file is no error: it lets nobody in. No token, nor any word that may be one, stands in an error.
func ParseTokens(content []byte) ([]Token, error) {
	roles := map[string]Role{"viewer": Viewer, "operator": Operator, "admin": Admin}
	tokens := []Token{}
	lines := bufio.NewScanner(bytes.NewReader(content))
	n := 1
	for ; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		words := strings.Fields(text)
		if len(words) != 3 {
			return nil, fmt.Errorf("line %d: a line is NAME ROLE TOKEN, and this has %d words", n, len(words))
		}
		role, ok := roles[words[1]]
		if !ok {
			return nil, fmt.Errorf("line %d: the second word is not one of the roles viewer, operator, admin", n)
		}
		t := Token{Name: words[0], Role: role, Value: words[2]}
		if err := t.validate(); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if i := slices.IndexFunc(tokens, func(o Token) bool { return o.Value == t.Value }); i >= 0 {
			return nil, fmt.Errorf("line %d: %q has the token of %q: the audit log could not tell them apart", n, t.Name, tokens[i].Name)
		}
		tokens = append(tokens, t)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", n, err)
	}
	return tokens, nil
}

func (t Token) validate() error {
	switch {
	case t.Name == "":
		return errors.New("a token has no name")
	case len(t.Name) > maxTokenName || !utf8.ValidString(t.Name) || strings.ContainsFunc(t.Name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("the name of a token is at most %d printable characters", maxTokenName)
	case len(t.Value) < minToken:
		return fmt.Errorf("the token of %q is shorter than %d characters", t.Name, minToken)
	case t.Role < Viewer || t.Role > Admin:
		return fmt.Errorf("the token of %q has no role", t.Name)
	}
	return nil
}

// fingerprint tells tokens apart without giving one away.
func (t Token) fingerprint() string {
	sum := sha256.Sum256([]byte("session\x00" + t.Name + "\x00" + t.Value))
	return hex.EncodeToString(sum[:8])
}

// keyring is the tokens that are good now.
type keyring []Token

// holder finds the token with a value, in a time that does not depend on the value.
func (k keyring) holder(value string) (found Token, ok bool) {
	given := sha256.Sum256([]byte(value))
	for _, t := range k {
		want := sha256.Sum256([]byte(t.Value))
		if subtle.ConstantTimeCompare(given[:], want[:]) == 1 {
			found, ok = t, true
		}
	}
	return found, ok
}

func (k keyring) withFingerprint(print string) (Token, bool) {
	for _, t := range k {
		if t.fingerprint() == print {
			return t, true
		}
	}
	return Token{}, false
}

// tokenSource is the file that tokens come from, and how it is read.
func (c Config) tokenSource() (file string, parse func([]byte) ([]Token, error)) {
	if c.TokensFile != "" {
		return c.TokensFile, ParseTokens
	}
	return filepath.Join(c.DataDir, adminTokenFile), func(b []byte) ([]Token, error) {
		t := Token{Name: "admin", Value: strings.TrimSpace(string(b)), Role: Admin}
		return []Token{t}, t.validate()
	}
}

const adminTokenFile = "admin-token"

// makeAdminToken makes the token of a hub that was given none, at its first start.
func makeAdminToken(file string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("admin token: %w", err)
	}
	_, err = f.WriteString(rand.Text() + "\n")
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("admin token: %w", err)
	}
	return nil
}
