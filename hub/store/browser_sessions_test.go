package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/hub/store"
)

func TestSessions(t *testing.T) {
	cfg := config(t)
	now := t0
	cfg.Now = func() time.Time { return now }
	s := open2(t, cfg)
	ctx := t.Context()
	add := func(secret, token string, life time.Duration) store.Session {
		t.Helper()
		n, err := s.AddSession(ctx, secret, store.Session{Token: token, Fingerprint: "of " + token, Created: now, Ends: now.Add(life)})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	has := func(s *store.Store, secret string) bool {
		t.Helper()
		_, found, err := s.Session(ctx, secret)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	const one, two, three = "secret-of-one-browser", "secret-of-two-browsers", "secret-of-three-browsers"
	add(one, "ann", time.Hour)
	add(two, "ann", 2*time.Hour)
	kept := add(three, "bob", 2*time.Hour)
	if _, err := s.AddSession(ctx, "short", store.Session{}); err == nil {
		t.Error("a secret that can be guessed is taken")
	}
	if found, err := s.EndSession(ctx, "secret-of-no-browser"); found || err != nil {
		t.Errorf("ended what is not there: %v, %v", found, err)
	}
	now = now.Add(time.Hour)
	if has(s, one) || !has(s, two) {
		t.Error("a session does not end when it should")
	}
	if found, err := s.EndSession(ctx, two); !found || err != nil {
		t.Errorf("end: %v, %v", found, err)
	}
	if has(s, two) || has(s, "") || has(s, kept.ID) {
		t.Error("a session is found that has ended, or by something else than its secret")
	}
	twice(t, cfg, s, func(t *testing.T, s *store.Store) {
		all, err := s.Sessions(t.Context())
		if err != nil || len(all) != 1 || all[0] != kept {
			t.Errorf("sessions %+v, %v, want only %+v", all, err, kept)
		}
	})
}

// One token's sessions have a bound of their own, and take nothing from another's.
func TestSessions_bounded(t *testing.T) {
	cfg := config(t)
	now := t0
	cfg.Now = func() time.Time { return now }
	s := open(t, cfg)
	ctx := t.Context()
	add := func(secret, token string) {
		t.Helper()
		if _, err := s.AddSession(ctx, secret, store.Session{Token: token, Created: now, Ends: now.Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Millisecond)
	}
	add("secret-of-anns-browser", "ann")
	for i := range 1010 {
		add(fmt.Sprintf("secret-of-bobs-browser-%d", i), "bob")
	}
	for secret, want := range map[string]bool{
		"secret-of-anns-browser": true, "secret-of-bobs-browser-9": false, "secret-of-bobs-browser-10": true, "secret-of-bobs-browser-1009": true,
	} {
		if _, found, err := s.Session(ctx, secret); found != want || err != nil {
			t.Errorf("%s: %v, want %v, %v", secret, found, want, err)
		}
	}
}
