// Package sopstest encrypts files for tests, as the sops command does.
package sopstest

import (
	"fmt"
	"path"
	"time"

	"filippo.io/age"
	sopslib "github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/aes"
	sopsage "github.com/getsops/sops/v3/age"
	"github.com/getsops/sops/v3/cmd/sops/common"
	"github.com/getsops/sops/v3/cmd/sops/formats"
	"github.com/getsops/sops/v3/config"
)

// Key returns a new age identity and its recipient.
func Key() (identity, recipient string, err error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return "", "", err
	}
	return id.String(), id.Recipient().String(), nil
}

// Encrypt encrypts a file of that name for a recipient.
// Only the keys that match the pattern are encrypted; an empty pattern means all.
func Encrypt(recipient, name, pattern string, plain []byte) ([]byte, error) {
	return EncryptShared([]string{recipient}, 0, name, pattern, plain)
}

// EncryptShared is Encrypt for groups of one recipient each, of which a number are needed together.
func EncryptShared(recipients []string, threshold int, name, pattern string, plain []byte) ([]byte, error) {
	store := common.StoreForFormat(formats.FormatForPath(path.Base(name)), config.NewStoresConfig())
	branches, err := store.LoadPlainFile(plain)
	if err != nil {
		return nil, err
	}
	var groups []sopslib.KeyGroup
	for _, r := range recipients {
		key, err := sopsage.MasterKeyFromRecipient(r)
		if err != nil {
			return nil, err
		}
		groups = append(groups, sopslib.KeyGroup{key})
	}
	tree := sopslib.Tree{
		Branches: branches,
		Metadata: sopslib.Metadata{
			KeyGroups: groups, ShamirThreshold: threshold, EncryptedRegex: pattern, Version: "3.13.3",
		},
	}
	if pattern == "" {
		tree.Metadata.UnencryptedSuffix = sopslib.DefaultUnencryptedSuffix
	}
	dataKey, errs := tree.GenerateDataKey()
	if len(errs) > 0 {
		return nil, fmt.Errorf("make a data key: %v", errs)
	}
	cipher := aes.NewCipher()
	mac, err := tree.Encrypt(dataKey, cipher)
	if err != nil {
		return nil, err
	}
	tree.Metadata.LastModified = time.Now().UTC()
	tree.Metadata.MessageAuthenticationCode, err = cipher.Encrypt(mac, dataKey, tree.Metadata.LastModified.Format(time.RFC3339))
	if err != nil {
		return nil, err
	}
	return store.EmitEncryptedFile(tree)
}
