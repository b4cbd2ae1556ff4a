package agent

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift"
)

// persons says what episodes call the people who change objects, as the fleet file wants it.
type persons struct {
	// key makes pseudonyms that cannot be found out by trying names. It never leaves the agent's directory.
	key     []byte
	changed chan struct{}

	mu sync.Mutex
	// mode is empty until a revision was adopted: then nobody is named, and the policy is left as it is.
	mode api.Persons
}

// newPersons reads the key from the agent's directory, or makes it.
func newPersons(dir string) (*persons, error) {
	p := &persons{changed: make(chan struct{}, 1)}
	file := filepath.Join(dir, "persons.key")
	key, err := os.ReadFile(file)
	switch {
	case err == nil && len(key) == sha256.Size:
	case err == nil, errors.Is(err, fs.ErrNotExist):
		key = make([]byte, sha256.Size)
		_, _ = rand.Read(key) // it never fails
		if err := os.WriteFile(file, key, 0o600); err != nil {
			return nil, err
		}
	default:
		return nil, err
	}
	p.key = key
	return p, nil
}

// adopt takes the setting of a fleet file.
func (p *persons) adopt(spec api.FleetSpec) {
	mode := spec.Persons
	if mode == "" {
		mode = api.PersonsOff
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode == mode {
		return
	}
	p.mode = mode
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

func (p *persons) wanted() api.Persons {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode
}

// name is what an episode calls a user; empty for nothing.
func (p *persons) name(user string) string {
	switch p.wanted() {
	case api.PersonsName:
		return user
	case api.PersonsHash:
		mac := hmac.New(sha256.New, p.key)
		mac.Write([]byte(user))
		return "person-" + hex.EncodeToString(mac.Sum(nil)[:8])
	default:
		return ""
	}
}

// stamp keeps the admission policy that stamps names on the cluster where it is wanted, and off where not.
func (a *Agent) stamp(ctx context.Context) error {
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	wait := time.Second
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.persons.changed:
			wait = time.Second
		case <-retry.C:
		}
		mode := a.persons.wanted()
		err := a.setStamp(ctx, mode)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			a.cfg.Log.Info("persons", "mode", mode)
			retry.Stop()
		default:
			a.cfg.Log.Warn("persons", "mode", mode, "error", err, "retry", wait)
			retry.Reset(wait)
			wait = min(2*wait, 5*time.Minute)
		}
	}
}

func (a *Agent) setStamp(ctx context.Context, mode api.Persons) error {
	if mode == api.PersonsOff {
		return a.applier.RemoveOwn(ctx, drift.StampPolicy(""))
	}
	user, err := a.applier.User(ctx)
	if err != nil {
		return err
	}
	if err := a.applier.EnsureOwn(ctx, drift.StampPolicy(user)); err != nil {
		return fmt.Errorf("the admission policy that names persons (it needs Kubernetes 1.36): %w", err)
	}
	return nil
}
