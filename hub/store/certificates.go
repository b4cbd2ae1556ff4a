package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/flotilla-fleet/flotilla/internal/boltfile"
)

// Certificate is one that the hub has issued to an agent.
type Certificate struct {
	// Serial is the certificate's number in hex.
	Serial    string    `json:"serial"`
	Cluster   string    `json:"cluster"`
	AgentID   string    `json:"agentID"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	// Revoked is zero while it is good; Reason says why it was revoked.
	Revoked time.Time `json:"revoked,omitzero"`
	Reason  string    `json:"reason,omitempty"`
}

// keepExpired is how long a certificate is kept after its end.
const keepExpired = 30 * 24 * time.Hour

// ErrNoCertificate says that no certificate with the serial was issued.
var ErrNoCertificate = errors.New("no such certificate")

// AddCertificate stores a certificate before it is given out.
// Those that ended long ago are forgotten.
func (s *Store) AddCertificate(ctx context.Context, c Certificate) error {
	if c.Serial == "" || c.Cluster == "" {
		return fmt.Errorf("certificate %q of cluster %q needs both", c.Serial, c.Cluster)
	}
	return s.update(ctx, func(tx *boltfile.Tx) error {
		b := tx.Bucket(bucketCerts)
		old, err := s.certificates(b, func(o Certificate) bool { return s.now().Sub(o.NotAfter) > keepExpired })
		if err != nil {
			return err
		}
		for _, o := range old {
			if err := b.Delete([]byte(o.Serial)); err != nil {
				return err
			}
		}
		if b.Has([]byte(c.Serial)) {
			return fmt.Errorf("certificate %q was issued before", c.Serial)
		}
		return b.Save([]byte(c.Serial), c)
	})
}

func (s *Store) certificates(b *boltfile.Bucket, match func(Certificate) bool) (out []Certificate, err error) {
	err = b.Ascend(nil, func(k, v []byte) error {
		var c Certificate
		if err := b.Decode(k, v, &c); err != nil {
			return err
		}
		if match(c) {
			out = append(out, c)
		}
		return nil
	})
	return out, err
}

// Certificate returns the certificate with a serial, and whether it was issued.
func (s *Store) Certificate(ctx context.Context, serial string) (c Certificate, ok bool, err error) {
	if serial == "" {
		return c, false, nil
	}
	err = s.view(ctx, func(tx *boltfile.Tx) error {
		ok, err = tx.Bucket(bucketCerts).Load([]byte(serial), &c)
		return err
	})
	return c, ok, err
}

// Certificates returns those of a cluster, or all if it is empty; the oldest first.
func (s *Store) Certificates(ctx context.Context, cluster string) (out []Certificate, err error) {
	err = s.view(ctx, func(tx *boltfile.Tx) error {
		out, err = s.certificates(tx.Bucket(bucketCerts), func(c Certificate) bool {
			return cluster == "" || c.Cluster == cluster
		})
		return err
	})
	slices.SortStableFunc(out, func(a, b Certificate) int { return a.NotBefore.Compare(b.NotBefore) })
	return out, err
}

// RevokeCertificate revokes one certificate; one that was revoked keeps its first reason.
func (s *Store) RevokeCertificate(ctx context.Context, serial string, at time.Time, reason string) error {
	n, err := s.revoke(ctx, at, reason, func(c Certificate) bool { return c.Serial == serial })
	if err == nil && n == 0 {
		return fmt.Errorf("%w: %q", ErrNoCertificate, serial)
	}
	return err
}

// RevokeCluster revokes all certificates of a cluster, and returns how many there are.
func (s *Store) RevokeCluster(ctx context.Context, cluster string, at time.Time, reason string) (int, error) {
	return s.revoke(ctx, at, reason, func(c Certificate) bool { return c.Cluster == cluster })
}

func (s *Store) revoke(ctx context.Context, at time.Time, reason string, match func(Certificate) bool) (n int, err error) {
	err = s.update(ctx, func(tx *boltfile.Tx) error {
		b := tx.Bucket(bucketCerts)
		cs, err := s.certificates(b, match)
		if err != nil {
			return err
		}
		n = len(cs)
		for _, c := range cs {
			if !c.Revoked.IsZero() {
				continue
			}
			c.Revoked, c.Reason = at.UTC(), reason
			if err := b.Save([]byte(c.Serial), c); err != nil {
				return err
			}
		}
		return nil
	})
	return n, err
}
