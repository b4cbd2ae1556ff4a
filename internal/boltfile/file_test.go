package boltfile_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/internal/boltfile"
	"github.com/flotilla-fleet/flotilla/internal/boltfile/boltfiletest"
)

func migrations(n int) []boltfile.Migration {
	var out []boltfile.Migration
	for i := range n {
		out = append(out, boltfile.Migration{
			Name: fmt.Sprintf("step %d", i+1),
			Apply: func(tx *boltfile.Tx) error {
				if err := tx.CreateBucket("things"); err != nil {
					return err
				}
				return tx.Bucket("things").Put(fmt.Appendf(nil, "migrated-%d", i+1), []byte("yes"))
			},
		})
	}
	return out
}

func config(path string, versions int) boltfile.Config {
	return boltfile.Config{Path: path, Kind: "test store", Migrations: migrations(versions), LockTimeout: 50 * time.Millisecond}
}

func open(t testing.TB, cfg boltfile.Config) *boltfile.File {
	t.Helper()
	f, err := boltfile.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func closeAndCheck(t testing.TB, f *boltfile.File) {
	t.Helper()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	boltfiletest.Check(t, f.Path())
}

func put(f *boltfile.File, key, value string) error {
	return f.Update(func(tx *boltfile.Tx) error { return tx.Bucket("things").Put([]byte(key), []byte(value)) })
}

func get(t testing.TB, f *boltfile.File, key string) string {
	t.Helper()
	var out string
	err := f.View(func(tx *boltfile.Tx) error {
		v, err := tx.Bucket("things").Get([]byte(key))
		out = string(v)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestOpen_migratesOldAndRefusesNew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "dir", "s.db")
	f := open(t, config(path, 1))
	if err := put(f, "mine", "kept"); err != nil {
		t.Fatal(err)
	}
	closeAndCheck(t, f)

	f = open(t, config(path, 3))
	for _, key := range []string{"migrated-1", "migrated-2", "migrated-3"} {
		if got := get(t, f, key); got != "yes" {
			t.Errorf("%s = %q", key, got)
		}
	}
	if got := get(t, f, "mine"); got != "kept" {
		t.Errorf("after the migration, mine = %q", got)
	}
	closeAndCheck(t, f)

	_, err := boltfile.Open(config(path, 2))
	if !errors.Is(err, boltfile.ErrNewer) {
		t.Fatalf("opened by an older program: %v", err)
	}
	for _, want := range []string{path, "version 3", `"step 3"`, "up to 2"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not name %q", err, want)
		}
	}
}

// A migration that only adds lets the programs of the version before go on with the file, there and back.
func TestOpen_goesBackWhereTheFileSaysSo(t *testing.T) {
	additive := func(versions int) boltfile.Config {
		cfg := config("", versions)
		for i := range cfg.Migrations[1:] {
			cfg.Migrations[i+1].OpensFrom = i + 1
		}
		return cfg
	}
	path := filepath.Join(t.TempDir(), "s.db")
	for step, versions := range []int{1, 2, 1, 2, 3, 2, 3} {
		cfg := additive(versions)
		cfg.Path = path
		f := open(t, cfg)
		if err := put(f, fmt.Sprintf("step-%d", step), "kept"); err != nil {
			t.Fatal(err)
		}
		for before := range step {
			if got := get(t, f, fmt.Sprintf("step-%d", before)); got != "kept" {
				t.Errorf("in step %d, that of step %d is %q", step, before, got)
			}
		}
		closeAndCheck(t, f)
	}
	cfg := additive(1)
	cfg.Path = path
	if _, err := boltfile.Open(cfg); !errors.Is(err, boltfile.ErrNewer) || !strings.Contains(err.Error(), "that know version 2") {
		t.Errorf("opened by a program of two versions before: %v", err)
	}
}

func TestOpen_failedMigrationLeavesOldVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	closeAndCheck(t, open(t, config(path, 1)))
	cfg := config(path, 2)
	boom := errors.New("boom")
	good := cfg.Migrations[1].Apply
	cfg.Migrations[1].Apply = func(tx *boltfile.Tx) error { return errors.Join(good(tx), boom) }
	if _, err := boltfile.Open(cfg); !errors.Is(err, boom) {
		t.Fatalf("error %v", err)
	}
	f := open(t, config(path, 1))
	if got := get(t, f, "migrated-2"); got != "" {
		t.Errorf("half a migration was kept: %q", got)
	}
	closeAndCheck(t, f)
}

func TestOpen_doesNotWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	f := open(t, config(path, 2))
	for i := range 100 {
		if err := put(f, fmt.Sprint(i), strings.Repeat("x", 500)); err != nil {
			t.Fatal(err)
		}
	}
	closeAndCheck(t, f)
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-time.Hour).Truncate(time.Second)
	if err := os.Chtimes(path, past, past); err != nil {
		t.Fatal(err)
	}
	f = open(t, config(path, 2))
	// Storing what is there already is no write either.
	if err := put(f, "7", strings.Repeat("x", 500)); err != nil {
		t.Fatal(err)
	}
	closeAndCheck(t, f)
	now, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(old, now) || !info.ModTime().Equal(past) {
		t.Errorf("opening wrote to the file")
	}
}

func TestOpen_lockedNamesFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	f := open(t, config(path, 1))
	_, err := boltfile.Open(config(path, 1))
	if !errors.Is(err, boltfile.ErrLocked) || !strings.Contains(err.Error(), path) {
		t.Errorf("second open: %v", err)
	}
	if err := put(f, "still", "works"); err != nil {
		t.Error(err)
	}
	closeAndCheck(t, f)
	closeAndCheck(t, open(t, config(path, 1)))
}

func TestOpen_otherKind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	closeAndCheck(t, open(t, config(path, 1)))
	cfg := config(path, 1)
	cfg.Kind = "other store"
	if _, err := boltfile.Open(cfg); !errors.Is(err, boltfile.ErrForeign) {
		t.Errorf("error %v", err)
	}
}

func TestOpen_damaged(t *testing.T) {
	data := goodFile(t, 500)
	for name, damage := range map[string]func([]byte) []byte{
		"text":           func([]byte) []byte { return []byte("this is no database") },
		"zeros":          func(b []byte) []byte { return make([]byte, len(b)) },
		"both headers":   func(b []byte) []byte { clear(b[:2*os.Getpagesize()]); return b },
		"half":           func(b []byte) []byte { return b[:len(b)/os.Getpagesize()/2*os.Getpagesize()] },
		"one page left":  func(b []byte) []byte { return b[:os.Getpagesize()] },
		"pages replaced": func(b []byte) []byte { fill(b[2*os.Getpagesize():], 0xff); return b },
		"pages cleared":  func(b []byte) []byte { clear(b[2*os.Getpagesize():]); return b },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s.db")
			if err := os.WriteFile(path, damage(bytes.Clone(data)), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := boltfile.Open(config(path, 1))
			if !errors.Is(err, boltfile.ErrDamaged) || !strings.Contains(err.Error(), path) {
				t.Fatalf("error %v", err)
			}
			at := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
			for _, want := range []string{path + ".damaged-20260506T070809Z", path + ".damaged-20260506T070809Z-2"} {
				aside, err := boltfile.SetAside(path, at)
				if err != nil || aside != want {
					t.Fatalf("set aside as %q, %v; want %q", aside, err, want)
				}
				closeAndCheck(t, open(t, config(path, 1)))
			}
		})
	}
}

// TestOpen_damagedBranch breaks one branch page of a tree, one entry at a time.
func TestOpen_damagedBranch(t *testing.T) {
	data := goodFile(t, 500)
	size := os.Getpagesize()
	ne := binary.NativeEndian
	at := 0
	for off := 2 * size; off < len(data); off += size {
		// One that is in use: its children's numbers are in the file.
		if ne.Uint64(data[off:]) == uint64(off/size) && ne.Uint16(data[off+8:]) == 1 && ne.Uint16(data[off+10:]) > 5 {
			at = off
		}
	}
	if at == 0 {
		t.Fatal("the file has no branch page")
	}
	// An entry is its key's position and size, and its child's page.
	entry := func(b []byte, i int) []byte { return b[at+16+i*16:] }
	for _, tt := range []struct {
		name   string
		damage func(b []byte)
		want   string
	}{
		{"child is the page itself", func(b []byte) { ne.PutUint64(entry(b, 2)[8:], uint64(at/size)) }, "used twice"},
		{"child of another", func(b []byte) { copy(entry(b, 2)[8:16], entry(b, 1)[8:16]) }, ""},
		{"children swapped", func(b []byte) {
			one, two := ne.Uint64(entry(b, 1)[8:]), ne.Uint64(entry(b, 2)[8:])
			ne.PutUint64(entry(b, 1)[8:], two)
			ne.PutUint64(entry(b, 2)[8:], one)
		}, "out of order"},
		{"child is a header", func(b []byte) { ne.PutUint64(entry(b, 2)[8:], 1) }, "page 1 of"},
		{"child behind the end", func(b []byte) { ne.PutUint64(entry(b, 2)[8:], 1<<40) }, "page 1099511627776 of"},
		{"key too long", func(b []byte) { ne.PutUint32(entry(b, 2)[4:], 1<<30) }, "bytes at"},
		{"key of no bytes", func(b []byte) { ne.PutUint32(entry(b, 2)[4:], 0) }, "out of order"},
		{"no entries", func(b []byte) { ne.PutUint16(b[at+10:], 0) }, "empty"},
		{"one entry lost", func(b []byte) { ne.PutUint16(b[at+10:], ne.Uint16(b[at+10:])-1) }, "neither free nor used"},
		{"too many entries", func(b []byte) { ne.PutUint16(b[at+10:], 0xffff) }, ""},
		{"another kind", func(b []byte) { ne.PutUint16(b[at+8:], 16) }, "of kind 16"},
		{"another number", func(b []byte) { ne.PutUint64(b[at:], 3) }, "calls itself 3"},
		{"too large", func(b []byte) { ne.PutUint32(b[at+12:], 1<<31) }, "overflows"},
		{"over its neighbours", func(b []byte) { ne.PutUint32(b[at+12:], 3) }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bad := bytes.Clone(data)
			tt.damage(bad)
			path := filepath.Join(t.TempDir(), "s.db")
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := boltfile.Open(config(path, 1))
			if !errors.Is(err, boltfile.ErrDamaged) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// goodFile is a file with a number of keys.
func goodFile(t testing.TB, keys int) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "good.db")
	f := open(t, config(path, 1))
	for i := range keys {
		if err := put(f, fmt.Sprintf("key-%04d", i), strings.Repeat(fmt.Sprint(i%10), 200)); err != nil {
			t.Fatal(err)
		}
	}
	closeAndCheck(t, f)
	// It must be found sound, and be what the others are made from.
	closeAndCheck(t, open(t, config(path, 1)))
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func fill(b []byte, v byte) {
	for i := range b {
		b[i] = v
	}
}

func TestUpdate_sharesTransactions(t *testing.T) {
	f := open(t, config(filepath.Join(t.TempDir(), "s.db"), 1))
	defer closeAndCheck(t, f)
	// The first holds the writer until all others wait: they must then be written as one group.
	const n = 50
	entered, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		err := f.Update(func(tx *boltfile.Tx) error {
			close(entered)
			<-release
			return tx.Bucket("things").Put([]byte("first"), []byte("1"))
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-entered
	bad := errors.New("bad")
	var commits atomic.Int64
	for i := range n {
		wg.Go(func() {
			err := f.Update(func(tx *boltfile.Tx) error {
				if err := tx.Bucket("things").Put(fmt.Appendf(nil, "k%d", i), []byte("v")); err != nil {
					return err
				}
				switch i {
				case 10:
					return bad
				case 20:
					panic("a bug")
				}
				tx.OnCommit(func() { commits.Add(1) })
				return nil
			})
			switch {
			case i == 10 && !errors.Is(err, bad), i == 20 && (err == nil || !strings.Contains(err.Error(), "a bug")):
				t.Errorf("update %d: error %v", i, err)
			case i != 10 && i != 20 && err != nil:
				t.Errorf("update %d: %v", i, err)
			}
		})
	}
	for f.Waiting() < n {
		time.Sleep(time.Millisecond)
	}
	before := f.Transactions()
	close(release)
	wg.Wait()
	if got := f.Transactions() - before; got > 2 {
		t.Errorf("%d updates took %d transactions", n, got)
	}
	if got := commits.Load(); got != n-2 {
		t.Errorf("%d updates were told that they are written, want %d", got, n-2)
	}
	for i := range n {
		want := "v"
		if i == 10 || i == 20 {
			want = ""
		}
		if got := get(t, f, fmt.Sprintf("k%d", i)); got != want {
			t.Errorf("k%d = %q, want %q", i, got, want)
		}
	}
}

func TestBucket_walks(t *testing.T) {
	f := open(t, config(filepath.Join(t.TempDir(), "s.db"), 1))
	defer closeAndCheck(t, f)
	for _, k := range []string{"a", "c", "e", "g"} {
		if err := put(f, k, "v"+k); err != nil {
			t.Fatal(err)
		}
	}
	err := f.View(func(tx *boltfile.Tx) error {
		b := tx.Bucket("things")
		for _, tt := range []struct {
			walk func(from []byte, fn func(k, v []byte) error) error
			from string
			want string
		}{
			{b.Ascend, "", "acegm"},
			{b.Ascend, "c", "cegm"},
			{b.Ascend, "d", "egm"},
			{b.Ascend, "z", ""},
			{b.Descend, "", "mgeca"},
			{b.Descend, "c", "a"},
			{b.Descend, "d", "ca"},
			{b.Descend, "z", "mgeca"},
			{b.Descend, "a", ""},
		} {
			var got string
			var from []byte
			if tt.from != "" {
				from = []byte(tt.from)
			}
			err := tt.walk(from, func(k, _ []byte) error { got += string(k[:1]); return nil })
			if err != nil || got != tt.want {
				t.Errorf("from %q: %q, want %q (%v)", tt.from, got, tt.want, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// FuzzOpen flips bytes of a good file. Open must find it damaged, or it must read
// and write without a crash, and every value must be one that was stored.
func FuzzOpen(f *testing.F) {
	data := goodFile(f, 150)
	for i := range 64 {
		f.Add(uint32(i*997+i), byte(1<<(i%8)), uint32(i*7919), byte(0xff))
	}
	for page := range 20 {
		for off := range 16 { // the headers of pages
			f.Add(uint32(page*os.Getpagesize()+off), byte(0x81), uint32(0), byte(0))
		}
	}
	f.Fuzz(func(t *testing.T, at1 uint32, x1 byte, at2 uint32, x2 byte) {
		bad := bytes.Clone(data)
		bad[int(at1)%len(bad)] ^= x1
		bad[int(at2)%len(bad)] ^= x2
		path := filepath.Join(t.TempDir(), "s.db")
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := boltfile.Open(config(path, 1))
		if err != nil {
			if !errors.Is(err, boltfile.ErrDamaged) && !errors.Is(err, boltfile.ErrForeign) {
				t.Fatalf("error of no kind: %v", err)
			}
			return
		}
		defer s.Close()
		err = s.View(func(tx *boltfile.Tx) error {
			return tx.Bucket("things").Ascend(nil, func(k, v []byte) error {
				var n int
				if string(k) == "migrated-1" {
					return nil
				}
				if _, err := fmt.Sscanf(string(k), "key-%d", &n); err != nil || string(v) != strings.Repeat(fmt.Sprint(n%10), 200) {
					t.Fatalf("read %q = %q, which was never stored", k, v)
				}
				return nil
			})
		})
		if err != nil {
			if !errors.Is(err, boltfile.ErrDamaged) {
				t.Fatalf("error of no kind: %v", err)
			}
			return
		}
		for i := range 20 {
			if err := put(s, fmt.Sprintf("more-%d", i), strings.Repeat("m", 1000)); err != nil {
				t.Fatal(err)
			}
		}
	})
}
