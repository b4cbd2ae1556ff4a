package git

import (
	"bytes"
	"crypto/sha1"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
)

// FuzzPack feeds broken packs to everything that reads one: nothing may panic, hang or take more memory than its bounds.
func FuzzPack(f *testing.F) {
	repo := gitservertest.New(f)
	for _, content := range []string{"one", "one two three four five six seven eight nine ten", "one two three four five six seven eight nine tenn"} {
		repo.Commit(map[string]string{"a": content, "d/b": content})
	}
	repo.Git("repack", "-adfq")
	files, _ := filepath.Glob(filepath.Join(repo.Dir, "objects/pack/*.pack"))
	seed, err := os.ReadFile(files[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed[:len(seed)-hashSize])
	f.Add([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x01\x30x\x9c\x03\x00\x00\x00\x00\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		sum := sha1.Sum(data)
		name := filepath.Join(t.TempDir(), "pack")
		if err := os.WriteFile(name+".pack", append(data, sum[:]...), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(name + ".pack")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		objectsIn, err := indexPack(file)
		if err != nil {
			return
		}
		if err := os.WriteFile(name+".idx", encodeIndex(objectsIn, sum[:]), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := openPack(name, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer p.file.Close()
		// What was accepted is what it says it is.
		o := &objects{newStore(), []*pack{p}}
		for i := range p.count {
			h := plumbing.Hash(p.hashAt(i))
			got, err := p.read(p.offsetAt(i), maxInflate, o.store.bases)
			if err != nil {
				t.Fatalf("object %s: %v", h, err)
			}
			if plumbing.ComputeHash(got.kind, got.data) != h {
				t.Fatalf("object %s has other content", h)
			}
			if size, err := o.size(h); err != nil || size != int64(len(got.data)) {
				t.Fatalf("object %s: size %d, %v, want %d", h, size, err, len(got.data))
			}
		}
	})
}

func FuzzTree(f *testing.F) {
	hash := string(bytes.Repeat([]byte{7}, hashSize))
	f.Add([]byte("100644 a\x00" + hash + "40000 b\x00" + hash))
	f.Add([]byte("160000 ..\x00" + hash))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := parseTree(data)
		if err != nil {
			return
		}
		for i, e := range entries {
			if e.name == "" || e.name == "." || e.name == ".." || filepath.Base(e.name) != e.name {
				t.Errorf("name %q", e.name)
			}
			if i > 0 && entries[i-1].name >= e.name {
				t.Errorf("%q before %q", entries[i-1].name, e.name)
			}
		}
	})
}

func FuzzCredentials(f *testing.F) {
	f.Add([]byte("username=a\npassword=b"))
	f.Add([]byte("t0ken"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseCredentials(data)
		if err == nil && c.method() == nil {
			t.Error("credentials that send nothing")
		}
	})
}
