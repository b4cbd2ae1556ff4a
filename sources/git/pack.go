package git

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
)

// pack is one packfile with its index, open for reading.
// It never changes, and every method may be used by many goroutines at once.
//
//	pack-<checksum>.pack   "PACK" version count | entries | sha1 of all before
//	pack-<checksum>.idx    fan-out, sorted hashes, crc32s, offsets | pack's sha1 | own sha1
//
// The index is kept in memory as it is on disk: 28 bytes for an object.
type pack struct {
	id    uint64 // of this process; part of the keys of the delta cache
	name  string // path without extension
	file  *os.File
	size  int64
	index []byte
	count int
}

const (
	packHeader = 12
	idxHeader  = 8
	idxFanout  = 256 * 4
	idxNames   = idxHeader + idxFanout
	hashSize   = sha1.Size
	// maxDeltaDepth bounds a chain of deltas; git itself writes 50, and refuses 4095.
	maxDeltaDepth = 4095
	// maxInflate bounds what is inflated in memory at once, bases of deltas included.
	maxInflate = 64 << 20
)

var errNotFound = plumbing.ErrObjectNotFound

// openPack opens the pack whose files begin with name and checks both against their checksums.
func openPack(name string, id uint64) (_ *pack, err error) {
	f, err := os.Open(name + ".pack")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	p := &pack{id: id, name: name, file: f}
	if p.index, err = os.ReadFile(name + ".idx"); err != nil {
		return nil, err
	}
	if err := p.verifyIndex(); err != nil {
		return nil, fmt.Errorf("%s.idx: %w", name, err)
	}
	if err := p.verifyPack(); err != nil {
		return nil, fmt.Errorf("%s.pack: %w", name, err)
	}
	return p, nil
}

func (p *pack) verifyIndex() error {
	idx := p.index
	if len(idx) < idxNames+2*hashSize || string(idx[:idxHeader]) != "\xfftOc\x00\x00\x00\x02" {
		return errors.New("is no pack index")
	}
	body := len(idx) - hashSize
	if sum := sha1.Sum(idx[:body]); !bytes.Equal(sum[:], idx[body:]) {
		return errors.New("wrong checksum")
	}
	p.count = int(binary.BigEndian.Uint32(idx[idxHeader+255*4:]))
	if len(idx) < idxNames+p.count*(hashSize+8)+2*hashSize {
		return errors.New("is too short")
	}
	return nil
}

func (p *pack) verifyPack() error {
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	p.size = info.Size()
	if p.size < packHeader+hashSize {
		return errors.New("is too short")
	}
	sum := sha1.New()
	if _, err := io.Copy(sum, io.NewSectionReader(p.file, 0, p.size-hashSize)); err != nil {
		return err
	}
	want := make([]byte, hashSize)
	if _, err := p.file.ReadAt(want, p.size-hashSize); err != nil {
		return err
	}
	named := p.index[len(p.index)-2*hashSize : len(p.index)-hashSize]
	if !bytes.Equal(sum.Sum(nil), want) || !bytes.Equal(want, named) {
		return errors.New("wrong checksum")
	}
	return nil
}

// hashAt returns the i-th hash of the index.
func (p *pack) hashAt(i int) []byte {
	at := idxNames + i*hashSize
	return p.index[at : at+hashSize]
}

// checksum names the pack.
func (p *pack) checksum() string {
	return hex.EncodeToString(p.index[len(p.index)-2*hashSize : len(p.index)-hashSize])
}

// search returns the first position whose hash is not less than prefix.
func (p *pack) search(prefix []byte) int {
	lo, first := 0, int(prefix[0])
	if first > 0 {
		lo = int(binary.BigEndian.Uint32(p.index[idxHeader+(first-1)*4:]))
	}
	hi := int(binary.BigEndian.Uint32(p.index[idxHeader+first*4:]))
	lo, hi = min(lo, p.count), min(hi, p.count)
	return lo + sort.Search(max(hi-lo, 0), func(i int) bool { return bytes.Compare(p.hashAt(lo+i), prefix) >= 0 })
}

// offset finds where an object's entry begins.
func (p *pack) offset(h plumbing.Hash) (int64, bool) {
	i := p.search(h[:])
	if i >= p.count || !bytes.Equal(p.hashAt(i), h[:]) {
		return 0, false
	}
	return p.offsetAt(i), true
}

func (p *pack) offsetAt(i int) int64 {
	at := idxNames + p.count*(hashSize+4) + i*4
	off := binary.BigEndian.Uint32(p.index[at:])
	if off&(1<<31) == 0 {
		return int64(off)
	}
	at = idxNames + p.count*(hashSize+8) + int(off&^(1<<31))*8
	if at+8 > len(p.index)-2*hashSize {
		return -1
	}
	return int64(binary.BigEndian.Uint64(p.index[at:]))
}

// withPrefix lists the hashes that begin with hexadecimal digits.
func (p *pack) withPrefix(prefix string) []plumbing.Hash {
	low := plumbing.NewHash(prefix + strings.Repeat("0", 2*hashSize-len(prefix)))
	var found []plumbing.Hash
	for i := p.search(low[:]); i < p.count; i++ {
		h := plumbing.Hash(p.hashAt(i))
		if !strings.HasPrefix(h.String(), prefix) {
			break
		}
		found = append(found, h)
	}
	return found
}

// entry is the header of an object in a pack.
type entry struct {
	kind plumbing.ObjectType
	size int64 // of the content, or of the delta, when inflated
	data int64 // where the compressed bytes begin
	base int64 // OFSDelta: the offset of the base
	ref  plumbing.Hash
}

func (p *pack) entry(off int64) (entry, error) {
	if off < packHeader || off >= p.size-hashSize {
		return entry{}, fmt.Errorf("%s: offset %d is outside the pack", p.name, off)
	}
	var b [48]byte // the longest header: 10 bytes of size and 20 of hash
	n, err := p.file.ReadAt(b[:], off)
	if err != nil && !errors.Is(err, io.EOF) {
		return entry{}, err
	}
	e, used, ok := parseEntry(b[:n], off)
	if !ok {
		return entry{}, fmt.Errorf("%s: bad object header at %d", p.name, off)
	}
	e.data = off + int64(used)
	return e, nil
}

// parseEntry reads an object header, which stands at off in its pack.
func parseEntry(b []byte, off int64) (e entry, used int, ok bool) {
	next := func() byte {
		if used >= len(b) {
			used = len(b) + 1
			return 0
		}
		used++
		return b[used-1]
	}
	c := next()
	e.kind, e.size = plumbing.ObjectType(c>>4&7), int64(c&15)
	for shift := 4; c&0x80 != 0 && shift < 60; shift += 7 {
		c = next()
		e.size |= int64(c&0x7f) << shift
	}
	switch e.kind {
	case plumbing.CommitObject, plumbing.TreeObject, plumbing.BlobObject, plumbing.TagObject:
	case plumbing.OFSDeltaObject:
		c = next()
		back := int64(c & 0x7f)
		for c&0x80 != 0 && back < 1<<48 {
			c = next()
			back = (back+1)<<7 | int64(c&0x7f)
		}
		e.base = off - back
		if back <= 0 || e.base < packHeader {
			return e, used, false
		}
	case plumbing.REFDeltaObject:
		if used+hashSize > len(b) {
			return e, used, false
		}
		used += copy(e.ref[:], b[used:])
	default:
		return e, used, false
	}
	return e, used, used <= len(b) && e.size >= 0
}

// inflaters are reused: each holds some 40 KB.
var inflaters = sync.Pool{New: func() any { return new(inflater) }}

type inflater struct {
	in *bufio.Reader
	z  io.ReadCloser
}

// inflate reads exactly size bytes of what is compressed at an offset.
func (p *pack) inflate(at, size int64) ([]byte, error) {
	inf := inflaters.Get().(*inflater)
	defer inflaters.Put(inf)
	section := io.NewSectionReader(p.file, at, p.size-hashSize-at)
	if inf.in == nil {
		inf.in = bufio.NewReaderSize(section, 4096)
	} else {
		inf.in.Reset(section)
	}
	var err error
	if inf.z == nil {
		inf.z, err = zlib.NewReader(inf.in)
	} else {
		err = inf.z.(zlib.Resetter).Reset(inf.in, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: object at %d: %w", p.name, at, err)
	}
	out := make([]byte, size)
	if _, err = io.ReadFull(inf.z, out); err == nil {
		// Reading the end makes zlib compare its checksum.
		var one [1]byte
		if n, end := inf.z.Read(one[:]); n != 0 || !errors.Is(end, io.EOF) {
			err = fmt.Errorf("more than %d bytes, or damaged: %w", size, cmpErr(end))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: object at %d: %w", p.name, at, err)
	}
	return out, nil
}

func cmpErr(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// errTooLarge says that an object is above the limit that its reader set.
var errTooLarge = errors.New("object is too large")

// baseCache keeps objects that others are deltas of.
type baseCache interface {
	get(key baseKey) (object, bool)
	put(key baseKey, o object)
}

type baseKey struct {
	pack uint64
	off  int64
}

type object struct {
	kind plumbing.ObjectType
	data []byte // never changed
}

// size tells how large the object at an offset is, inflating no more than a delta's beginning.
func (p *pack) sizeOf(off int64) (int64, error) {
	e, err := p.entry(off)
	if err != nil {
		return 0, err
	}
	if e.kind != plumbing.OFSDeltaObject && e.kind != plumbing.REFDeltaObject {
		return e.size, nil
	}
	delta, err := p.inflate(e.data, e.size)
	if err != nil {
		return 0, err
	}
	return deltaTarget(delta)
}

// read returns the object at an offset, unless it is larger than limit.
func (p *pack) read(off, limit int64, bases baseCache) (object, error) {
	var deltas [][]byte
	var offsets []int64 // of the entries that the deltas make, outermost first
	var o object
	for {
		if cached, ok := bases.get(baseKey{p.id, off}); ok {
			o = cached
			if len(deltas) == 0 && int64(len(o.data)) > limit {
				return object{}, errTooLarge
			}
			break
		}
		e, err := p.entry(off)
		if err != nil {
			return object{}, err
		}
		isDelta := e.kind == plumbing.OFSDeltaObject || e.kind == plumbing.REFDeltaObject
		if e.size > maxInflate || !isDelta && len(deltas) == 0 && e.size > limit {
			return object{}, errTooLarge
		}
		data, err := p.inflate(e.data, e.size)
		if err != nil {
			return object{}, err
		}
		if !isDelta {
			o = object{e.kind, data}
			if len(deltas) > 0 {
				bases.put(baseKey{p.id, off}, o)
			}
			break
		}
		if len(deltas) >= maxDeltaDepth {
			return object{}, fmt.Errorf("%s: more than %d deltas on each other", p.name, maxDeltaDepth)
		}
		deltas, offsets = append(deltas, data), append(offsets, off)
		if off, err = p.baseOf(e); err != nil {
			return object{}, err
		}
	}
	for i, delta := range slices.Backward(deltas) {
		size, err := deltaTarget(delta)
		if err != nil {
			return object{}, err
		}
		if size > maxInflate || i == 0 && size > limit {
			return object{}, errTooLarge
		}
		data, err := packfile.PatchDelta(o.data, delta)
		if err != nil {
			return object{}, fmt.Errorf("%s: delta at %d: %w", p.name, offsets[i], err)
		}
		o = object{o.kind, data}
		if i > 0 {
			bases.put(baseKey{p.id, offsets[i]}, o)
		}
	}
	return o, nil
}

func (p *pack) baseOf(e entry) (int64, error) {
	if e.kind == plumbing.OFSDeltaObject {
		return e.base, nil
	}
	base, ok := p.offset(e.ref)
	if !ok {
		return 0, fmt.Errorf("%s: the base %s of a delta is missing", p.name, e.ref)
	}
	return base, nil
}

// deltaTarget reads from a delta's beginning how large its result is.
func deltaTarget(delta []byte) (int64, error) {
	_, rest, ok := leb128(delta)
	if ok {
		if size, _, ok := leb128(rest); ok {
			return size, nil
		}
	}
	return 0, errors.New("bad delta")
}

func leb128(b []byte) (n int64, rest []byte, ok bool) {
	for i, shift := 0, 0; i < len(b) && shift < 63; i, shift = i+1, shift+7 {
		n |= int64(b[i]&0x7f) << shift
		if b[i]&0x80 == 0 {
			return n, b[i+1:], n >= 0
		}
	}
	return 0, nil, false
}
