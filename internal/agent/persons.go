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

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift"
)

// persons says what episodes call the people who change objects, as the fleet file wants it.
type persons struct {
	// key makes pseudonyms that cannot be found out by trying names. It never leaves the agent's directory.
	key []byte
	// markFile holds the mark of the policy from when it is put in force until it is taken away.
	markFile string
	changed  chan struct{}

	mu sync.Mutex
	// mode is empty until a revision was adopted: then nobody is named, and the policy is left as it is.
	mode api.Persons
	// mark is of the policy that is in force; empty while none is known to be.
	mark string
}

// newPersons reads the key from the agent's directory, or makes it.
func newPersons(dir string) (*persons, error) {
	p := &persons{changed: make(chan struct{}, 1), markFile: filepath.Join(dir, "persons.mark")}
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

// name says which stamps prove who made a change (none if the mark is empty), and what an episode calls a user;
// empty for nothing.
func (p *persons) name() (mark string, call func(user string) string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.mode {
	case api.PersonsName:
		return p.mark, func(user string) string { return user }
	case api.PersonsHash:
		return p.mark, p.pseudonym
	default:
		return "", func(string) string { return "" }
	}
}

func (p *persons) pseudonym(user string) string {
	mac := hmac.New(sha256.New, p.key)
	mac.Write([]byte(user))
	return "person-" + hex.EncodeToString(mac.Sum(nil)[:8])
}

// inForce notes which policy is in force; the empty mark is none.
func (p *persons) inForce(mark string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mark = mark
}

// lastMark is that of the policy that was put in force and not taken away since; empty if there is none.
func (p *persons) lastMark() (string, error) {
	mark, err := os.ReadFile(p.markFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(mark), err
}

// newMark makes a mark that no stamp carries yet.
func (p *persons) newMark() (string, error) {
	mark := rand.Text()
	return mark, os.WriteFile(p.markFile, []byte(mark), 0o600)
}

// forgetMark has the next policy make another mark.
func (p *persons) forgetMark() error {
	p.inForce("")
	if err := os.Remove(p.markFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// stampCheck is how often it is looked whether the policy that stamps names still stands.
const stampCheck = 5 * time.Minute

// stamp keeps the admission policy that stamps names on the cluster where it is wanted, and off where not.
func (a *Agent) stamp(ctx context.Context) error {
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	wait := time.Second
	var done api.Persons
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
			if done != mode {
				a.cfg.Log.Info("persons", "mode", mode)
			}
			done, wait = mode, time.Second
			retry.Reset(stampCheck)
		default:
			a.cfg.Log.Warn("persons", "mode", mode, "error", err, "retry", wait)
			retry.Reset(wait)
			wait = min(2*wait, 5*time.Minute)
		}
	}
}

// setStamp puts the policy in force or takes it away. A person is named only by a policy that is known to stand.
func (a *Agent) setStamp(ctx context.Context, mode api.Persons) error {
	if mode == api.PersonsOff {
		// The mark goes first: what happens from now on is not stamped, and must not look as if it were.
		if err := a.persons.forgetMark(); err != nil {
			return err
		}
		return a.applier.RemoveOwn(ctx, drift.StampPolicy("", ""))
	}
	user, err := a.applier.User(ctx)
	if err != nil {
		return err
	}
	mark, err := a.persons.lastMark()
	if err != nil {
		return err
	}
	stands, err := a.stands(ctx, drift.StampPolicy(user, mark))
	if err != nil {
		return needs136(err)
	}
	if mark == "" || !stands {
		a.persons.inForce("")
		// Somebody may have changed objects without a stamp: those of before prove nothing any more.
		if mark, err = a.persons.newMark(); err != nil {
			return err
		}
	}
	if err := a.applier.EnsureOwn(ctx, drift.StampPolicy(user, mark)); err != nil {
		return needs136(err)
	}
	a.persons.inForce(mark)
	return nil
}

func needs136(err error) error {
	return fmt.Errorf("the admission policy that names persons (it needs Kubernetes 1.36): %w", err)
}

// stands reports whether all objects are on the cluster as they were written.
func (a *Agent) stands(ctx context.Context, objs []*unstructured.Unstructured) (bool, error) {
	for _, o := range objs {
		in := a.applier.Inspect(ctx, api.RenderedBundle{}, o)
		if in.Err != nil {
			return false, in.Err
		}
		if in.Live == nil || !equality.Semantic.DeepEqual(in.Live.Object["spec"], in.DryRun.Object["spec"]) {
			return false, nil
		}
	}
	return true, nil
}
