// Package sops reads files that SOPS encrypted for age.
//
// It promises: plain bytes exist in memory only; a file whose MAC does not match is refused;
// no other key source than the configured age identities is ever asked
// (no cloud, no agent, no default file in a home directory, no environment);
// errors name the file, the recipients and where it can be told the field, and never a value.
package sops

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"filippo.io/age"
	sopslib "github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/aes"
	sopsage "github.com/getsops/sops/v3/age"
	"github.com/getsops/sops/v3/cmd/sops/common"
	"github.com/getsops/sops/v3/cmd/sops/formats"
	"github.com/getsops/sops/v3/config"
	"github.com/getsops/sops/v3/keys"
	"github.com/getsops/sops/v3/keyservice"
	"google.golang.org/grpc"

	"github.com/flotilla-fleet/flotilla/api"
)

// Names of the environment variables that SOPS users know.
// This package does not read them: a command may pass what they hold in Config.
const (
	EnvKeyFile = "SOPS_AGE_KEY_FILE"
	EnvKey     = "SOPS_AGE_KEY"
)

// Config says where the age identities are.
type Config struct {
	// Files hold identities (AGE-SECRET-KEY-1…), one a line, with # comments: FILE, or NAME=FILE for those of that name.
	// They are read again when they change.
	Files []string
	// Later lets Open succeed where a file cannot be read yet: it is read as soon as it can; see Problem.
	Later bool
	// Identities are given directly, in the same format.
	Identities []string
}

// Keyring holds age identities. It is safe for concurrent use. A nil Keyring holds none.
type Keyring struct {
	cfg   Config
	files []keyFile

	mu         sync.RWMutex
	identities []identity
	print      string
	stamps     []stamp
	problem    error // why the last Refresh kept the old identities
}

// identity is a secret key, with the name of the file that it is from; empty for one without a name.
type identity struct {
	name string
	age  age.Identity
}

type keyFile struct{ name, path string }

// fileOf takes NAME=FILE apart. What is not written like a name is part of the file's.
func fileOf(s string) keyFile {
	if name, file, ok := strings.Cut(s, "="); ok && api.ValidName(name) {
		return keyFile{name, file}
	}
	return keyFile{path: s}
}

// Keys are some of a Keyring's identities. The zero value is none.
type Keys struct {
	ring *Keyring
	// owner is in messages: whose keys these are.
	owner string
	// has reports whether the identities of a name belong to them.
	has func(name string) bool
}

// Only returns the identities of some names. The owner is named in errors.
func (k *Keyring) Only(owner string, names ...string) Keys {
	return Keys{k, owner, func(name string) bool { return name != "" && slices.Contains(names, name) }}
}

// Except returns the identities without a name, and those of all other names.
func (k *Keyring) Except(names ...string) Keys {
	return Keys{k, "", func(name string) bool { return name == "" || !slices.Contains(names, name) }}
}

func (k Keys) identities() sopsage.ParsedIdentities {
	if k.ring == nil || k.has == nil {
		return nil
	}
	k.ring.mu.RLock()
	defer k.ring.mu.RUnlock()
	var out sopsage.ParsedIdentities
	for _, id := range k.ring.identities {
		if k.has(id.name) {
			out = append(out, id.age)
		}
	}
	return out
}

// Fingerprint changes when the Keyring's does.
func (k Keys) Fingerprint() string { return k.ring.Fingerprint() }

type stamp struct {
	mod  time.Time
	size int64
}

// Open reads the identities. A file that is missing or holds anything but identities is an error, unless it may come later.
func Open(cfg Config) (*Keyring, error) {
	k := &Keyring{cfg: cfg}
	for _, f := range cfg.Files {
		k.files = append(k.files, fileOf(f))
	}
	if err := k.load(); err != nil {
		if !cfg.Later {
			return nil, err
		}
		k.problem = err
	}
	return k, nil
}

// Problem is why the files could not be read the last time; nil if they could.
func (k *Keyring) Problem() error {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.problem
}

// Refresh reads the files again if they changed.
// If they cannot be read, the identities stay as they were, and later errors say so.
func (k *Keyring) Refresh() {
	if k == nil || len(k.cfg.Files) == 0 {
		return
	}
	now, err := k.stat()
	k.mu.RLock()
	same := err == nil && slices.Equal(now, k.stamps)
	k.mu.RUnlock()
	if same {
		return
	}
	if err == nil {
		err = k.load()
	}
	k.mu.Lock()
	k.problem = err
	k.mu.Unlock()
}

func (k *Keyring) stat() ([]stamp, error) {
	out := make([]stamp, 0, len(k.files))
	for _, f := range k.files {
		st, err := os.Stat(f.path)
		if err != nil {
			return nil, fmt.Errorf("age key file: %w", err)
		}
		out = append(out, stamp{st.ModTime(), st.Size()})
	}
	return out, nil
}

func (k *Keyring) load() error {
	stamps, err := k.stat()
	if err != nil {
		return err
	}
	var ids []identity
	var public []string
	add := func(name, where string, text []byte) error {
		parsed, err := age.ParseIdentities(bytes.NewReader(text))
		if err != nil {
			// The parser's words may quote the line, which is a secret.
			return fmt.Errorf("%s does not hold age identities, one a line (AGE-SECRET-KEY-1…)", where)
		}
		for _, id := range parsed {
			ids = append(ids, identity{name, id})
			public = append(public, name+"="+publicOf(id))
		}
		return nil
	}
	for _, f := range k.files {
		text, err := os.ReadFile(f.path)
		if err != nil {
			return fmt.Errorf("age key file: %w", err)
		}
		if err := add(f.name, fmt.Sprintf("age key file %q", f.path), text); err != nil {
			return err
		}
	}
	for _, text := range k.cfg.Identities {
		if err := add("", "an age key", []byte(text)); err != nil {
			return err
		}
	}
	slices.Sort(public)
	sum := sha256.Sum256([]byte(strings.Join(public, "\n")))
	k.mu.Lock()
	defer k.mu.Unlock()
	k.identities, k.print, k.stamps = ids, hex.EncodeToString(sum[:]), stamps
	return nil
}

func publicOf(id age.Identity) string {
	switch x := id.(type) {
	case *age.X25519Identity:
		return x.Recipient().String()
	case *age.HybridIdentity:
		return x.Recipient().String()
	}
	return fmt.Sprintf("%T", id)
}

// Fingerprint changes when the identities do. It tells nothing about the secret parts.
func (k *Keyring) Fingerprint() string {
	if k == nil {
		return ""
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.print
}

// Encrypted reports whether SOPS wrote the data, whatever the file's name. It is cheap for plain files.
func Encrypted(name string, data []byte) bool {
	_, ok := formatOf(name, data)
	return ok
}

// named are the parts of file names that say in which format SOPS wrote, as in config.yaml.enc.
var named = map[string]formats.Format{
	"yaml": formats.Yaml, "yml": formats.Yaml, "json": formats.Json, "env": formats.Dotenv, "ini": formats.Ini,
}

// formatOf finds the format in which SOPS wrote the data: the first that has SOPS's metadata where that format keeps it.
// The name only says which is tried first.
func formatOf(name string, data []byte) (formats.Format, bool) {
	if !bytes.Contains(data, []byte("sops")) || !bytes.Contains(data, []byte("ENC[")) {
		return 0, false
	}
	var candidates []formats.Format
	for _, part := range slices.Backward(strings.Split(path.Base(name), ".")) {
		if f, ok := named[strings.ToLower(part)]; ok {
			candidates = append(candidates, f)
			break
		}
	}
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		if binary(data) {
			candidates = append(candidates, formats.Binary)
		}
		candidates = append(candidates, formats.Json)
	}
	for _, f := range append(candidates, formats.Yaml, formats.Dotenv, formats.Ini) {
		tree, err := storeOf(f).LoadEncryptedFile(data)
		if err == nil && len(tree.Metadata.KeyGroups) > 0 && tree.Metadata.MessageAuthenticationCode != "" {
			return f, true
		}
	}
	return 0, false
}

// binary reports whether the data is what SOPS makes of a file of no format: JSON with the whole file as one value.
func binary(data []byte) bool {
	var m map[string]json.RawMessage
	if json.Unmarshal(data, &m) != nil || len(m) != 2 {
		return false
	}
	var text string
	return m["sops"] != nil && json.Unmarshal(m["data"], &text) == nil
}

func storeOf(f formats.Format) common.Store {
	return common.StoreForFormat(f, config.NewStoresConfig())
}

// Decrypt returns the plain bytes of a file that is Encrypted.
func (k Keys) Decrypt(name string, data []byte) ([]byte, error) {
	format, ok := formatOf(name, data)
	store := storeOf(format)
	tree, err := store.LoadEncryptedFile(data)
	if err != nil || !ok {
		return nil, k.fail(name, "sops", "NotDecrypted", errors.New("the sops metadata cannot be read"), "")
	}
	svc := &ageOnly{identities: k.identities()}
	key, err := tree.Metadata.GetDataKeyWithKeyServices([]keyservice.KeyServiceClient{svc}, []string{"age"})
	if err != nil {
		return nil, k.noKey(name, tree.Metadata, svc)
	}
	cipher := &tracker{Cipher: aes.NewCipher()}
	mac, err := tree.Decrypt(key, cipher)
	if err != nil {
		return nil, k.fail(name, cipher.at, "NotDecrypted", errors.New("a value cannot be decrypted: the file was changed after it was encrypted"), "edit it with sops")
	}
	want, err := cipher.Decrypt(tree.Metadata.MessageAuthenticationCode, key, tree.Metadata.LastModified.Format(time.RFC3339))
	if err != nil || want != mac {
		return nil, k.fail(name, "sops.mac", "NotDecrypted", errors.New("the sops MAC does not match: the file was changed after it was encrypted"), "edit it with sops")
	}
	plain, err := store.EmitPlainFile(tree.Branches)
	if err != nil {
		return nil, k.fail(name, "", "NotDecrypted", errors.New("the decrypted values cannot be written in the file's format"), "")
	}
	return plain, nil
}

// tracker is a cipher that remembers the field that it failed on.
type tracker struct {
	sopslib.Cipher
	at string
}

// Decrypt implements sops.Cipher. The additional data is the field's path, each key followed by a colon.
func (t *tracker) Decrypt(ciphertext string, key []byte, additionalData string) (any, error) {
	plain, err := t.Cipher.Decrypt(ciphertext, key, additionalData)
	if err != nil {
		t.at = strings.ReplaceAll(strings.TrimSuffix(additionalData, ":"), ":", ".")
	}
	return plain, err
}

// noKey says that none of n identities decrypts a file that was encrypted for recipients.
func (k Keys) noKey(name string, m sopslib.Metadata, svc *ageOnly) error {
	to, n := strings.Join(recipients(m), ", "), len(svc.identities)
	err, hint := fmt.Errorf("encrypted with sops for %s, and none of the %d age keys is one of these", to, n), ""
	opened := 0
	for _, group := range m.KeyGroups {
		if slices.ContainsFunc(group, svc.opens) {
			opened++
		}
	}
	switch {
	case k.owner != "":
		err = fmt.Errorf("encrypted with sops for %s, and none of the %d age keys of %s is one of these", to, n, k.owner)
		hint = "a tenant's files are decrypted with the keys that fleet.yaml names for it: give the agent or the command --age-key NAME=FILE"
	case n == 0:
		err = fmt.Errorf("encrypted with sops for %s, and there is no age key", to)
		hint = "give the agent or the command an age key file"
	}
	if opened > 0 { // but not enough
		err = fmt.Errorf("encrypted with sops for %d groups of keys, of which %d are needed together (the Shamir threshold), and the %d age keys open %d",
			len(m.KeyGroups), cmp.Or(m.ShamirThreshold, len(m.KeyGroups)), n, opened)
		hint = "the groups are for " + to
	}
	return k.fail(name, "", "NoKey", err, hint)
}

func (k Keys) fail(name, field, reason string, err error, hint string) error {
	if k.ring != nil {
		k.ring.mu.RLock()
		defer k.ring.mu.RUnlock()
		if problem := k.ring.problem; problem != nil {
			hint = strings.TrimPrefix(hint+"; the key files cannot be read: "+problem.Error(), "; ")
		}
	}
	return &api.Error{Kind: api.Stalled, Reason: reason, File: name, Field: field, Err: err, Hint: hint}
}

func recipients(m sopslib.Metadata) []string {
	var out []string
	for _, g := range m.KeyGroups {
		for _, key := range g {
			out = append(out, key.ToString())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// ageOnly answers SOPS's questions for the data key with age identities, and refuses every other kind of key.
type ageOnly struct{ identities sopsage.ParsedIdentities }

var errNoKey = errors.New("no key for it")

// opens reports whether one of the identities is that of a key.
func (a *ageOnly) opens(key keys.MasterKey) bool {
	k := keyservice.KeyFromMasterKey(key)
	_, err := a.Decrypt(context.Background(), &keyservice.DecryptRequest{Key: &k, Ciphertext: key.EncryptedDataKey()})
	return err == nil
}

// Decrypt implements keyservice.KeyServiceClient.
func (a *ageOnly) Decrypt(_ context.Context, in *keyservice.DecryptRequest, _ ...grpc.CallOption) (*keyservice.DecryptResponse, error) {
	k, ok := in.GetKey().GetKeyType().(*keyservice.Key_AgeKey)
	if !ok || len(a.identities) == 0 { // without identities SOPS would look for some itself
		return nil, errNoKey
	}
	mk := &sopsage.MasterKey{Recipient: k.AgeKey.GetRecipient(), EncryptedKey: string(in.GetCiphertext())}
	a.identities.ApplyToMasterKey(mk)
	plain, err := mk.Decrypt()
	if err != nil {
		return nil, errNoKey
	}
	return &keyservice.DecryptResponse{Plaintext: plain}, nil
}

// Encrypt implements keyservice.KeyServiceClient: this package never encrypts.
func (a *ageOnly) Encrypt(context.Context, *keyservice.EncryptRequest, ...grpc.CallOption) (*keyservice.EncryptResponse, error) {
	return nil, errNoKey
}
