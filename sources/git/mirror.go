package git

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

// mirror is the bare repository on disk. Only one process and one Source may use a directory.
//
//	HEAD, config, refs/heads/<branch>   so that git itself can read the mirror; never read back
//	objects/pack/pack-<sha1>.{pack,idx} what was fetched; no loose objects
//	objects/pack/tmp-*                  a fetch that is under way, or was killed
//	flotilla.json                       state: what the mirror is of, and the last good revision
//	damaged/                            what was set aside when the mirror was found damaged, for a look
//
// A fetch writes the pack, then its index, then the state; each is synced and moved into place whole.
// So after a crash at any moment the state names a revision that is there.
type mirror struct {
	dir   string
	state state
	// fullBytes is how much may come after a complete clone before wantsFull asks for another.
	fullBytes int64
}

// state is flotilla.json.
type state struct {
	Version int    `json:"version"`
	URL     string `json:"url"` // without credentials
	// Follows is the Ref that is followed, as its String; a branch is its name. Ref is the full name of what it led to.
	Follows string `json:"branch"`
	Ref     string `json:"ref,omitempty"`
	// Revision is the last good commit of it.
	Revision string `json:"revision"`
	// Verified is what was last verified, whatever was followed then; nil where nothing was.
	Verified *verified `json:"verified,omitempty"`
	// Fetched is when that commit was found to be the newest.
	Fetched time.Time `json:"fetched"`
	// Full is the checksum of the pack that the last complete clone gave.
	Full string `json:"full,omitempty"`
}

const (
	stateVersion = 1
	stateFile    = "flotilla.json"
	// maxPacks is how many packs a mirror may have before the small ones are joined.
	maxPacks = 40
	// fullFactor and defaultFullBytes say when the mirror is cloned afresh to be compact again:
	// what came after the last complete clone is larger than it by the factor, and than the bytes.
	fullFactor       = 3
	defaultFullBytes = 64 << 20
)

var packIDs atomic.Uint64

func (m *mirror) packDir() string { return filepath.Join(m.dir, "objects", "pack") }

// openMirror makes the directory, or reads what an earlier process left.
// It returns the packs that are whole. The error tells what is damaged, which is no reason to stop.
func openMirror(dir, url, follows string) (m *mirror, packs []*pack, damage, err error) {
	m = &mirror{dir: dir, fullBytes: defaultFullBytes}
	for _, d := range []string{m.packDir(), filepath.Join(dir, "refs", "heads")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, nil, nil, err
		}
	}
	if err := m.sweep(); err != nil {
		return nil, nil, nil, err
	}
	if damage := m.readState(); damage != nil {
		return m, nil, damage, nil
	}
	if m.state.URL != url || follows != "" && m.state.Follows != follows {
		if m.state.URL != url {
			// Another repository: nothing of it is of use.
			if err := m.clear(); err != nil {
				return nil, nil, nil, err
			}
		}
		// The packs of another branch of the same repository spare most of the transfer.
		old := m.state
		m.state = state{Version: stateVersion, URL: url, Follows: follows, Full: old.Full}
		if old.URL == url {
			m.state.Verified = old.Verified
		}
	}
	packs, damage = m.openPacks()
	return m, packs, damage, nil
}

// readState returns an error if there is a state that cannot be used.
func (m *mirror) readState() error {
	data, err := os.ReadFile(filepath.Join(m.dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("%s: %w", stateFile, err)
	}
	if s.Version != stateVersion {
		return fmt.Errorf("%s: version %d is not %d", stateFile, s.Version, stateVersion)
	}
	if s.Revision != "" && !plumbing.IsHash(s.Revision) {
		return fmt.Errorf("%s: revision %q is no commit", stateFile, s.Revision)
	}
	m.state = s
	return nil
}

// sweep removes what an interrupted fetch left: temporary files, and packs without an index.
func (m *mirror) sweep() error {
	entries, err := os.ReadDir(m.packDir())
	if err != nil {
		return err
	}
	var problems []error
	for _, e := range entries {
		name := e.Name()
		whole := false
		if base, ok := strings.CutSuffix(name, ".pack"); ok {
			_, err := os.Stat(filepath.Join(m.packDir(), base+".idx"))
			whole = err == nil
		} else if base, ok := strings.CutSuffix(name, ".idx"); ok {
			_, err := os.Stat(filepath.Join(m.packDir(), base+".pack"))
			whole = err == nil
		}
		if !whole || strings.HasPrefix(name, "tmp-") {
			problems = append(problems, os.RemoveAll(filepath.Join(m.packDir(), name)))
		}
	}
	return errors.Join(problems...)
}

func (m *mirror) openPacks() ([]*pack, error) {
	names, err := filepath.Glob(filepath.Join(m.packDir(), "pack-*.idx"))
	if err != nil {
		return nil, err
	}
	var packs []*pack
	var damage error
	for _, name := range names {
		p, err := openPack(strings.TrimSuffix(name, ".idx"), packIDs.Add(1))
		if err != nil {
			damage = errors.Join(damage, err)
			continue
		}
		packs = append(packs, p)
	}
	// The largest first: most objects are there.
	slices.SortFunc(packs, func(a, b *pack) int { return int(min(max(b.size-a.size, -1), 1)) })
	return packs, damage
}

// setAside moves all packs to damaged/, where the last ones that were set aside give way.
// The state stays, to tell the last good revision.
func (m *mirror) setAside() error {
	aside := filepath.Join(m.dir, "damaged")
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(m.dir, "objects"), aside); err != nil {
		return err
	}
	return os.MkdirAll(m.packDir(), 0o700)
}

// clear removes all packs and the state.
func (m *mirror) clear() error {
	return errors.Join(
		os.RemoveAll(filepath.Join(m.dir, stateFile)),
		os.RemoveAll(m.packDir()),
		os.MkdirAll(m.packDir(), 0o700),
	)
}

// tempPack makes a file for a pack that is about to come.
func (m *mirror) tempPack() (*os.File, error) {
	return os.CreateTemp(m.packDir(), "tmp-pack-*")
}

// install indexes a packfile, moves both into place and opens them.
// The temporary file is closed, and gone at the end in any case.
func (m *mirror) install(f *os.File) (_ *pack, err error) {
	defer func() {
		err = errors.Join(err, f.Close())
		if rm := os.Remove(f.Name()); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
			err = errors.Join(err, rm)
		}
	}()
	objects, err := indexPack(f)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	checksum := make([]byte, hashSize)
	if _, err := f.ReadAt(checksum, info.Size()-hashSize); err != nil {
		return nil, err
	}
	return m.place(f, objects, checksum)
}

// place moves a pack and its index to where packs live, and opens and verifies them.
func (m *mirror) place(f *os.File, objects []indexed, checksum []byte) (*pack, error) {
	if err := f.Sync(); err != nil {
		return nil, err
	}
	name := filepath.Join(m.packDir(), fmt.Sprintf("pack-%x", checksum))
	if err := os.Rename(f.Name(), name+".pack"); err != nil {
		return nil, err
	}
	if err := writeFile(name+".idx", encodeIndex(objects, checksum)); err != nil {
		return nil, errors.Join(err, os.Remove(name+".pack"))
	}
	p, err := openPack(name, packIDs.Add(1))
	if err != nil {
		return nil, errors.Join(err, os.Remove(name+".idx"), os.Remove(name+".pack"))
	}
	return p, nil
}

// keepOnly deletes all packs but these. Who has the others open reads on.
func (m *mirror) keepOnly(packs []*pack) error {
	entries, err := os.ReadDir(m.packDir())
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, p := range packs {
		keep[filepath.Base(p.name)+".pack"] = true
		keep[filepath.Base(p.name)+".idx"] = true
	}
	var problems []error
	for _, e := range entries {
		if !keep[e.Name()] {
			problems = append(problems, os.RemoveAll(filepath.Join(m.packDir(), e.Name())))
		}
	}
	return errors.Join(problems...)
}

// save makes a revision the last good one.
func (m *mirror) save(s state) error {
	s.Version = stateVersion
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(m.dir, stateFile), append(data, '\n')); err != nil {
		return err
	}
	m.state = s
	return m.describe()
}

// describe writes what git needs to read the mirror. Only a branch gets a name in it; of anything else HEAD has the commit.
func (m *mirror) describe() error {
	files := map[string]string{
		"HEAD":   m.state.Revision + "\n",
		"config": "[core]\n\trepositoryformatversion = 0\n\tbare = true\n",
	}
	if branch, ok := strings.CutPrefix(m.state.Ref, "refs/heads/"); ok && validRefName(m.state.Ref) {
		ref := "refs/heads/" + branch
		files["HEAD"], files[filepath.FromSlash(ref)] = "ref: "+ref+"\n", m.state.Revision+"\n"
	}
	for name, content := range files {
		file := filepath.Join(m.dir, name)
		if old, err := os.ReadFile(file); err == nil && string(old) == content {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		if err := writeFile(file, []byte(content)); err != nil {
			return err
		}
	}
	return nil
}

// writeFile replaces a file by a whole, synced one.
func writeFile(name string, data []byte) (err error) {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, "tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	// Some file systems refuse to sync a directory; the rename is atomic there all the same.
	_ = d.Sync()
	return d.Close()
}
