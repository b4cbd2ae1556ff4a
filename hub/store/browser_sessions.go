package store

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/flotilla-fleet/flotilla/internal/boltfile"
)

// Session is what a browser was given for a token. The secret in its cookie is never stored.
type Session struct {
	// ID names the session in lists; it is made by AddSession.
	ID string `json:"id"`
	// Token is the name of the token that it was given for.
	Token string `json:"token"`
	// Fingerprint is that of the token itself: a session holds only as long as the token is good.
	Fingerprint string    `json:"fingerprint,omitempty"`
	Created     time.Time `json:"created"`
	Ends        time.Time `json:"ends"`
	// Remote is the address that it was given to.
	Remote string `json:"remote,omitempty"`
}

// sessionsPerToken is how many sessions of one token are kept: the oldest give way.
const sessionsPerToken = 1000

// AddSession stores a session and returns it with its ID. Those that have ended are forgotten.
func (s *Store) AddSession(ctx context.Context, secret string, n Session) (Session, error) {
	if err := checkToken(secret); err != nil {
		return n, err
	}
	key := hashToken(secret)
	n.ID = string(key[:12])
	return n, s.update(ctx, func(tx *boltfile.Tx) error {
		b := tx.Bucket(bucketSessions)
		all, err := sessions(b)
		if err != nil {
			return err
		}
		same := 0
		for _, o := range slices.Backward(all) { // the newest first
			if o.Token == n.Token {
				same++
			}
			if !s.now().Before(o.Ends) || o.Token == n.Token && same >= sessionsPerToken {
				if err := b.Delete(o.key); err != nil {
					return err
				}
			}
		}
		return b.Save(key, n)
	})
}

// Session returns the session with a secret, and whether there is one that has not ended.
func (s *Store) Session(ctx context.Context, secret string) (n Session, found bool, err error) {
	err = s.view(ctx, func(tx *boltfile.Tx) error {
		found, err = tx.Bucket(bucketSessions).Load(hashToken(secret), &n)
		return err
	})
	return n, found && s.now().Before(n.Ends), err
}

// Sessions returns all sessions that have not ended, oldest first.
func (s *Store) Sessions(ctx context.Context) (out []Session, err error) {
	err = s.view(ctx, func(tx *boltfile.Tx) error {
		all, err := sessions(tx.Bucket(bucketSessions))
		for _, o := range all {
			if s.now().Before(o.Ends) {
				out = append(out, o.Session)
			}
		}
		return err
	})
	return out, err
}

// EndSession ends the session with a secret, and reports whether there was one.
func (s *Store) EndSession(ctx context.Context, secret string) (bool, error) {
	id := string(hashToken(secret)[:12])
	n, err := s.EndSessions(ctx, func(o Session) bool { return o.ID == id })
	return n > 0, err
}

// EndSessions ends the sessions that match, and returns how many there were.
func (s *Store) EndSessions(ctx context.Context, match func(Session) bool) (n int, err error) {
	err = s.update(ctx, func(tx *boltfile.Tx) error {
		n = 0
		b := tx.Bucket(bucketSessions)
		all, err := sessions(b)
		if err != nil {
			return err
		}
		for _, o := range all {
			if !match(o.Session) {
				continue
			}
			if err := b.Delete(o.key); err != nil {
				return err
			}
			if s.now().Before(o.Ends) {
				n++
			}
		}
		return nil
	})
	return n, err
}

type keyedSession struct {
	Session
	key []byte
}

// sessions reads a bucket, oldest first.
func sessions(b *boltfile.Bucket) (out []keyedSession, err error) {
	err = b.Ascend(nil, func(k, v []byte) error {
		o := keyedSession{key: slices.Clone(k)}
		err := b.Decode(k, v, &o.Session)
		out = append(out, o)
		return err
	})
	slices.SortFunc(out, func(x, y keyedSession) int {
		return cmp.Or(x.Created.Compare(y.Created), cmp.Compare(x.ID, y.ID))
	})
	return out, err
}
