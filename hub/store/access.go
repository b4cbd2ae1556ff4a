package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/flotilla-fleet/flotilla/internal/boltfile"
)

// Why a token is refused, for errors.Is. They come as an api.Error of kind denied.
var (
	ErrTokenUnknown = errors.New("the token is not known")
	ErrTokenExpired = errors.New("the token has expired")
	ErrTokenUsed    = errors.New("the token was used as often as it may be")
	ErrTokenCluster = errors.New("the token is for another cluster")
)

// JoinToken lets agents join. The token itself is never stored.
type JoinToken struct {
	// ID names the token in lists; it is made by CreateJoinToken.
	ID string `json:"id"`
	// Cluster is the only cluster that may join with it; empty means any.
	Cluster   string    `json:"cluster,omitempty"`
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"createdBy,omitempty"`
	Expires   time.Time `json:"expires"`
	// MaxUses is how often it may be used; zero means any number of times.
	MaxUses int `json:"maxUses,omitempty"`
	Uses    int `json:"uses"`
}

// hashToken is how tokens are stored. They are random and long, so one hash is enough.
func hashToken(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return hex.AppendEncode(nil, sum[:])
}

// TokenID is the ID that a token has in lists.
func TokenID(secret string) string { return string(hashToken(secret)[:tokenIDSize]) }

// tokenIDSize is how much of a token's hash names it.
const tokenIDSize = 12

// minToken is the shortest token accepted: shorter ones could be guessed from their hash.
const minToken = 16

func checkToken(secret string) error {
	if len(secret) < minToken {
		return fmt.Errorf("a token of %d bytes is too short: it needs %d", len(secret), minToken)
	}
	return nil
}

// CreateJoinToken stores a token and returns it with its ID.
func (s *Store) CreateJoinToken(ctx context.Context, t JoinToken, secret string) (JoinToken, error) {
	if t.Expires.IsZero() {
		return t, errors.New("a join token needs an end")
	}
	err := create(ctx, s, bucketJoin, secret, &t, &t.ID)
	return t, err
}

func create(ctx context.Context, s *Store, bucket, secret string, token any, id *string) error {
	if err := checkToken(secret); err != nil {
		return err
	}
	hash := hashToken(secret)
	*id = string(hash[:tokenIDSize])
	return s.update(ctx, func(tx *boltfile.Tx) error {
		return tx.Bucket(bucket).Save(hash, token)
	})
}

// CheckJoinToken returns a token if it could be used for a cluster, or refuses it with the reason.
func (s *Store) CheckJoinToken(ctx context.Context, secret, cluster string, at time.Time) (t JoinToken, err error) {
	err = s.view(ctx, func(tx *boltfile.Tx) error {
		t, err = usable(tx.Bucket(bucketJoin), hashToken(secret), cluster, at)
		return err
	})
	return t, err
}

// UseJoinToken is CheckJoinToken, and counts one use.
func (s *Store) UseJoinToken(ctx context.Context, secret, cluster string, at time.Time) (t JoinToken, err error) {
	hash := hashToken(secret)
	err = s.update(ctx, func(tx *boltfile.Tx) error {
		b := tx.Bucket(bucketJoin)
		if t, err = usable(b, hash, cluster, at); err != nil {
			return err
		}
		t.Uses++
		return b.Save(hash, t)
	})
	return t, err
}

func usable(b *boltfile.Bucket, hash []byte, cluster string, at time.Time) (JoinToken, error) {
	var t JoinToken
	ok, err := b.Load(hash, &t)
	switch {
	case err != nil:
	case !ok:
		err = denied("TokenUnknown", ErrTokenUnknown)
	case !at.Before(t.Expires):
		err = denied("TokenExpired", ErrTokenExpired)
	case t.Cluster != "" && t.Cluster != cluster:
		err = denied("TokenCluster", ErrTokenCluster)
	case t.MaxUses > 0 && t.Uses >= t.MaxUses:
		err = denied("TokenUsed", ErrTokenUsed)
	}
	if err != nil {
		return JoinToken{}, err
	}
	return t, nil
}

// JoinTokens returns all join tokens, oldest first.
func (s *Store) JoinTokens(ctx context.Context) ([]JoinToken, error) {
	return list(ctx, s, bucketJoin, func(a, b JoinToken) int { return a.Created.Compare(b.Created) })
}

// list returns the values of a bucket, sorted.
func list[T any](ctx context.Context, s *Store, bucket string, compare func(a, b T) int) (out []T, err error) {
	err = s.view(ctx, func(tx *boltfile.Tx) error {
		b := tx.Bucket(bucket)
		return b.Ascend(nil, func(k, v []byte) error {
			var t T
			err := b.Decode(k, v, &t)
			out = append(out, t)
			return err
		})
	})
	slices.SortStableFunc(out, compare)
	return out, err
}

// DeleteJoinToken removes a token by its ID, and reports whether there was one.
func (s *Store) DeleteJoinToken(ctx context.Context, id string) (bool, error) {
	return s.deleteToken(ctx, bucketJoin, id)
}

func (s *Store) deleteToken(ctx context.Context, bucket, id string) (found bool, err error) {
	err = s.update(ctx, func(tx *boltfile.Tx) error {
		found = false
		b := tx.Bucket(bucket)
		var key []byte
		err := b.Keys(nil, func(k []byte, _ int) error {
			if len(k) >= tokenIDSize && string(k[:tokenIDSize]) == id {
				key, found = slices.Clone(k), true
				return boltfile.ErrStop
			}
			return nil
		})
		if err != nil || !found {
			return err
		}
		return b.Delete(key)
	})
	return found, err
}

var (
	keyCACert = []byte("ca.crt")
	keyCAKey  = []byte("ca.key")
)

// SetCA stores the authority's certificate and key in PEM.
func (s *Store) SetCA(ctx context.Context, certPEM, keyPEM []byte) error {
	return s.update(ctx, func(tx *boltfile.Tx) error {
		if err := tx.Bucket(bucketKeys).Put(keyCACert, certPEM); err != nil {
			return err
		}
		return tx.Bucket(bucketKeys).Put(keyCAKey, keyPEM)
	})
}

// CA returns the authority's certificate and key in PEM, nil before SetCA.
func (s *Store) CA(ctx context.Context) (certPEM, keyPEM []byte, err error) {
	err = s.view(ctx, func(tx *boltfile.Tx) error {
		cert, err := tx.Bucket(bucketKeys).Get(keyCACert)
		if err != nil {
			return err
		}
		key, err := tx.Bucket(bucketKeys).Get(keyCAKey)
		certPEM, keyPEM = slices.Clone(cert), slices.Clone(key)
		return err
	})
	return certPEM, keyPEM, err
}
