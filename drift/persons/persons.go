package persons

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/flotilla-fleet/flotilla/api"
)

// Persons says what episodes call the people who change objects, as the fleet file wants it.
type Persons struct {
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

// New reads the key from the agent's directory, or makes it.
func New(dir string) (*Persons, error) {
	p := &Persons{changed: make(chan struct{}, 1), markFile: filepath.Join(dir, "persons.mark")}
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

// Adopt takes the setting of a fleet file.
func (p *Persons) Adopt(spec api.FleetSpec) {
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

func (p *Persons) wanted() api.Persons {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode
}

// Name says which stamps prove who made a change (none if the mark is empty), and what an episode calls a user;
// empty for nothing.
func (p *Persons) Name() (mark string, call func(user string) string) {
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

func (p *Persons) pseudonym(user string) string {
	mac := hmac.New(sha256.New, p.key)
	mac.Write([]byte(user))
	return "person-" + hex.EncodeToString(mac.Sum(nil)[:8])
}

// inForce notes which policy is in force; the empty mark is none.
func (p *Persons) inForce(mark string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mark = mark
}

// lastMark is that of the policy that was put in force and not taken away since; empty if there is none.
func (p *Persons) lastMark() (string, error) {
	mark, err := os.ReadFile(p.markFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(mark), err
}

// newMark makes a mark that no stamp carries yet.
func (p *Persons) newMark() (string, error) {
	mark := rand.Text()
	return mark, os.WriteFile(p.markFile, []byte(mark), 0o600)
}

// forgetMark has the next policy make another mark.
func (p *Persons) forgetMark() error {
	p.inForce("")
	if err := os.Remove(p.markFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
