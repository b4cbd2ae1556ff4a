package git

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"sort"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
)

// indexed is what an index says of one object.
type indexed struct {
	hash plumbing.Hash
	crc  uint32
	off  int64
}

// indexPack names every object of a packfile, as git index-pack does.
// The pack must hold the bases of its own deltas.
//
// Memory is bounded by some 50 bytes for an object and a few objects' content:
// go-git's parser keeps up to 96 MB of content, which is more than half of what an agent may use.
func indexPack(f *os.File) ([]indexed, error) {
	x := indexer{file: f, waiting: map[plumbing.Hash][]int32{}}
	if err := x.scan(); err != nil {
		return nil, err
	}
	if err := x.resolve(); err != nil {
		return nil, err
	}
	return x.objects, nil
}

type indexer struct {
	file    *os.File
	pack    pack // for its readers
	objects []indexed
	kinds   []plumbing.ObjectType
	// child is the first delta on an object, and sibling the next delta on the same base; -1 ends.
	child, sibling []int32
	waiting        map[plumbing.Hash][]int32 // deltas by the hash of their base
	deltas         int                       // not yet resolved
}

// scan reads the pack once from end to end and hashes what is no delta.
func (x *indexer) scan() error {
	info, err := x.file.Stat()
	if err != nil {
		return err
	}
	x.pack = pack{name: x.file.Name(), file: x.file, size: info.Size()}
	if x.pack.size < packHeader+hashSize {
		return errors.New("pack is too short")
	}
	in := &countingReader{r: bufio.NewReaderSize(io.NewSectionReader(x.file, packHeader, x.pack.size-packHeader-hashSize), 64<<10), n: packHeader}
	count, err := readPackHeader(x.file)
	if err != nil {
		return err
	}
	var z io.ReadCloser
	buf := make([]byte, 32<<10)
	for range count {
		off := in.n
		e, err := x.pack.entry(off)
		if err != nil {
			return err
		}
		if _, err := in.discard(e.data - off); err != nil {
			return err
		}
		if z == nil {
			z, err = zlib.NewReader(in)
		} else {
			err = z.(zlib.Resetter).Reset(in, nil)
		}
		if err != nil {
			return fmt.Errorf("pack entry at %d: %w", off, err)
		}
		if err := x.add(off, e, z, buf); err != nil {
			return fmt.Errorf("pack entry at %d: %w", off, err)
		}
		if x.objects[len(x.objects)-1].crc, err = x.crc(off, in.n, buf); err != nil {
			return err
		}
	}
	if in.n != x.pack.size-hashSize {
		return errors.New("pack has bytes after its last object")
	}
	return nil
}

func readPackHeader(f *os.File) (count uint32, err error) {
	var h [packHeader]byte
	if _, err := f.ReadAt(h[:], 0); err != nil {
		return 0, err
	}
	if string(h[:4]) != "PACK" || binary.BigEndian.Uint32(h[4:]) != 2 {
		return 0, errors.New("is no pack of version 2")
	}
	return binary.BigEndian.Uint32(h[8:]), nil
}

// add takes in one object, whose content r gives.
func (x *indexer) add(off int64, e entry, r io.Reader, buf []byte) error {
	i := int32(len(x.objects))
	o := indexed{off: off}
	parent := int32(-1)
	sink := io.Discard
	var hasher plumbing.Hasher
	switch e.kind {
	case plumbing.OFSDeltaObject:
		at, ok := slices.BinarySearchFunc(x.objects, e.base, func(o indexed, off int64) int { return cmp.Compare(o.off, off) })
		if !ok {
			return errors.New("the base of the delta is no object")
		}
		parent = int32(at)
		x.deltas++
	case plumbing.REFDeltaObject:
		x.waiting[e.ref] = append(x.waiting[e.ref], i)
		x.deltas++
	default:
		hasher = plumbing.NewHasher(e.kind, e.size)
		sink = hasher
	}
	n, err := io.CopyBuffer(onlyWriter{sink}, r, buf)
	if err != nil {
		return err
	}
	if n != e.size {
		return fmt.Errorf("%d bytes, but %d were announced", n, e.size)
	}
	if hasher.Hash != nil {
		o.hash = hasher.Sum()
	}
	x.objects, x.kinds = append(x.objects, o), append(x.kinds, e.kind)
	x.child, x.sibling = append(x.child, -1), append(x.sibling, -1)
	if parent >= 0 {
		x.link(parent, i)
	}
	return nil
}

// onlyWriter hides ReaderFrom, so that the copy uses the caller's buffer.
type onlyWriter struct{ io.Writer }

func (x *indexer) link(parent, child int32) {
	x.sibling[child] = x.child[parent]
	x.child[parent] = child
}

func (x *indexer) crc(from, to int64, buf []byte) (uint32, error) {
	sum := crc32.NewIEEE()
	_, err := io.CopyBuffer(onlyWriter{sum}, io.NewSectionReader(x.file, from, to-from), buf)
	return sum.Sum32(), err
}

// resolve makes every delta's content once, bases first, and hashes it.
func (x *indexer) resolve() error {
	type work struct {
		i    int32
		base []byte
		kind plumbing.ObjectType
	}
	var stack []work
	for i := range x.objects {
		if x.kinds[i] == plumbing.OFSDeltaObject || x.kinds[i] == plumbing.REFDeltaObject {
			continue
		}
		x.adopt(int32(i))
		if x.child[i] < 0 {
			continue
		}
		content, err := x.content(int32(i))
		if err != nil {
			return err
		}
		for c := x.child[i]; c >= 0; c = x.sibling[c] {
			stack = append(stack, work{c, content, x.kinds[i]})
		}
		for len(stack) > 0 {
			w := stack[len(stack)-1]
			stack[len(stack)-1] = work{}
			stack = stack[:len(stack)-1]
			content, err := x.apply(w.i, w.base, w.kind)
			if err != nil {
				return err
			}
			for c := x.child[w.i]; c >= 0; c = x.sibling[c] {
				stack = append(stack, work{c, content, w.kind})
			}
		}
	}
	if x.deltas > 0 {
		return fmt.Errorf("the bases of %d deltas are missing", x.deltas)
	}
	return nil
}

// adopt links the deltas that waited for an object's hash to be known.
func (x *indexer) adopt(i int32) {
	h := x.objects[i].hash
	for _, c := range x.waiting[h] {
		x.link(i, c)
	}
	delete(x.waiting, h)
}

func (x *indexer) content(i int32) ([]byte, error) {
	e, err := x.pack.entry(x.objects[i].off)
	if err != nil {
		return nil, err
	}
	if e.size > maxInflate {
		return nil, errTooLarge
	}
	return x.pack.inflate(e.data, e.size)
}

func (x *indexer) apply(i int32, base []byte, kind plumbing.ObjectType) ([]byte, error) {
	delta, err := x.content(i)
	if err != nil {
		return nil, err
	}
	size, err := deltaTarget(delta)
	if err != nil {
		return nil, err
	}
	if size > maxInflate {
		return nil, errTooLarge
	}
	content, err := packfile.PatchDelta(base, delta)
	if err != nil {
		return nil, fmt.Errorf("pack entry at %d: %w", x.objects[i].off, err)
	}
	x.objects[i].hash = plumbing.ComputeHash(kind, content)
	x.deltas--
	x.adopt(i)
	return content, nil
}

// countingReader knows how far it has read.
// As an io.ByteReader it lets zlib stop exactly at the end of an object.
type countingReader struct {
	r *bufio.Reader
	n int64
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

func (c *countingReader) ReadByte() (byte, error) {
	b, err := c.r.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

func (c *countingReader) discard(n int64) (int, error) {
	d, err := c.r.Discard(int(n))
	c.n += int64(d)
	return d, err
}

// encodeIndex writes version 2 of git's index format for a pack with the given checksum.
func encodeIndex(objects []indexed, checksum []byte) []byte {
	sort.Slice(objects, func(i, j int) bool {
		if c := bytes.Compare(objects[i].hash[:], objects[j].hash[:]); c != 0 {
			return c < 0
		}
		return objects[i].off < objects[j].off
	})
	out := make([]byte, 0, idxNames+len(objects)*(hashSize+8)+2*hashSize)
	out = append(out, "\xfftOc\x00\x00\x00\x02"...)
	n := 0
	for first := range 256 {
		for n < len(objects) && int(objects[n].hash[0]) <= first {
			n++
		}
		out = binary.BigEndian.AppendUint32(out, uint32(n))
	}
	for _, o := range objects {
		out = append(out, o.hash[:]...)
	}
	for _, o := range objects {
		out = binary.BigEndian.AppendUint32(out, o.crc)
	}
	var large []int64
	for _, o := range objects {
		if o.off < 1<<31 {
			out = binary.BigEndian.AppendUint32(out, uint32(o.off))
			continue
		}
		out = binary.BigEndian.AppendUint32(out, 1<<31|uint32(len(large)))
		large = append(large, o.off)
	}
	for _, off := range large {
		out = binary.BigEndian.AppendUint64(out, uint64(off))
	}
	out = append(out, checksum...)
	sum := sha1.Sum(out)
	return append(out, sum[:]...)
}
