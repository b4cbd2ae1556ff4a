package chart

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// cache keeps charts on disk. Losing it, or any file of it, costs a download.
//
//	blobs/<sha256>       archives
//	charts/<sha256>.json what a chart of a version is, by the hash of its name: {chart, version, digest}
//	indexes/<sha256>     index.yaml of HTTP repositories, for a few minutes
type cache struct {
	dir   string
	limit int64

	mu sync.Mutex // held while files are added or removed
}

type record struct {
	Key     string `json:"key"`
	Chart   string `json:"chart"`
	Version string `json:"version"`
	Digest  string `json:"digest"`
}

func openCache(dir string, limit int64) (*cache, error) {
	for _, d := range []string{"blobs", "charts", "indexes"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, err
		}
		// What a process that was killed left.
		left, err := filepath.Glob(filepath.Join(dir, d, "tmp-*"))
		if err != nil {
			return nil, err
		}
		for _, name := range left {
			if err := os.Remove(name); err != nil {
				return nil, err
			}
		}
	}
	return &cache{dir: dir, limit: limit}, nil
}

func (c *cache) path(kind, key string) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(c.dir, kind, hex.EncodeToString(sum[:]))
}

func (c *cache) blob(digest string) string {
	return filepath.Join(c.dir, "blobs", digest[len("sha256:"):])
}

// get returns an archive whose bytes still have the digest that they came with.
func (c *cache) get(key string) (archive []byte, digest string, ok bool) {
	data, err := os.ReadFile(c.path("charts", key) + ".json")
	if err != nil {
		return nil, "", false
	}
	var r record
	if json.Unmarshal(data, &r) != nil || r.Key != key || !exactDigest.MatchString(r.Digest) {
		return nil, "", false
	}
	archive, err = os.ReadFile(c.blob(r.Digest))
	if err != nil {
		return nil, "", false
	}
	if sum := sha256.Sum256(archive); "sha256:"+hex.EncodeToString(sum[:]) != r.Digest {
		return nil, "", false
	}
	// The time of use decides what goes when room is needed.
	now := time.Now()
	_ = os.Chtimes(c.blob(r.Digest), now, now)
	return archive, r.Digest, true
}

func (c *cache) put(key, chart, version string, archive []byte, digest string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.writeLocked(c.blob(digest), archive); err != nil {
		return err
	}
	data, err := json.Marshal(record{key, chart, version, digest})
	if err != nil {
		return err
	}
	if err := c.writeLocked(c.path("charts", key)+".json", data); err != nil {
		return err
	}
	return c.shrinkLocked(filepath.Base(c.blob(digest)))
}

// index returns a repository's index that is not older than age.
func (c *cache) index(key string, age time.Duration) ([]byte, bool) {
	name := c.path("indexes", key)
	info, err := os.Stat(name)
	if err != nil || time.Since(info.ModTime()) > age {
		return nil, false
	}
	data, err := os.ReadFile(name)
	return data, err == nil
}

// putIndex keeps an index, and forgets those that are too old to be of use.
func (c *cache) putIndex(key string, data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	entries, err := os.ReadDir(filepath.Join(c.dir, "indexes"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > indexAge {
			_ = os.Remove(filepath.Join(c.dir, "indexes", e.Name()))
		}
	}
	return c.writeLocked(c.path("indexes", key), data)
}

// shrinkLocked removes the archives used least recently until the rest fits; keep stays.
func (c *cache) shrinkLocked(keep string) error {
	entries, err := os.ReadDir(filepath.Join(c.dir, "blobs"))
	if err != nil {
		return err
	}
	var infos []fs.FileInfo
	var total int64
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			infos = append(infos, info)
			total += info.Size()
		}
	}
	slices.SortFunc(infos, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	var problems []error
	for _, info := range infos {
		if total <= c.limit {
			break
		}
		if info.Name() == keep {
			continue
		}
		problems = append(problems, os.Remove(filepath.Join(c.dir, "blobs", info.Name())))
		total -= info.Size()
	}
	return errors.Join(problems...)
}

// writeLocked replaces a file whole. A crash may lose it, which get notices.
func (c *cache) writeLocked(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "tmp-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
