package boltfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// The parts of bbolt's file format that the check reads. Numbers are in the machine's order.
//
//	page:   id u64 | kind u16 | count u16 | overflow u32 | …
//	meta:   magic u32 | version u32 | page size u32 | flags u32 | root u64 | sequence u64 |
//	        freelist u64 | pages u64 | transaction u64 | FNV-1a of all that u64
//	branch: count × (position u32 | key size u32 | page u64), keys
//	leaf:   count × (flags u32 | position u32 | key size u32 | value size u32), keys and values
//	bucket: (a leaf's value with flag 1) root u64 | sequence u64 | the page itself if root is 0
const (
	kindBranch   = 0x01
	kindLeaf     = 0x02
	kindFreelist = 0x10

	pageHeader  = 16
	elementSize = 16
	metaSize    = 64
	bucketSize  = 16
	bucketFlag  = 1

	magic       = 0xED0CDAED
	boltVersion = 2
	noFreelist  = ^uint64(0)
	maxDepth    = 64
	maxPages    = 1 << 32
)

type boltMeta struct {
	pageSize                    uint64
	root, freelist, pages, txid uint64
}

// checkFile reads the structure of a bbolt file: that every page is where it should be,
// used exactly once, and holds sorted keys within its bounds. It does not read the values.
// bbolt trusts all of this, and a file that breaks it crashes the process.
func checkFile(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return nil // a new one
	}
	return checkStructure(f, info.Size())
}

func checkStructure(r io.ReaderAt, size int64) error {
	m, ok := newestMeta(r)
	if !ok {
		return fmt.Errorf("%w: no valid header", ErrDamaged)
	}
	if m.pages < 3 || m.pages > maxPages || int64(m.pages*m.pageSize) > size {
		return fmt.Errorf("%w: it should have %d pages of %d bytes, and has %d bytes", ErrDamaged, m.pages, m.pageSize, size)
	}
	c := &checker{r: r, meta: m, used: make([]bool, m.pages)}
	c.used[0], c.used[1] = true, true
	if err := c.tree(m.root, nil, nil, 0); err != nil {
		return fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	if err := c.freelist(); err != nil {
		return fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	return nil
}

// newestMeta finds the header that bbolt would use.
func newestMeta(r io.ReaderAt) (boltMeta, bool) {
	m, ok := readMeta(r, 0)
	if ok {
		if n, ok := readMeta(r, int64(m.pageSize)); ok && n.pageSize == m.pageSize && n.txid > m.txid {
			return n, true
		}
		return m, true
	}
	for size := int64(1024); size <= 1<<16; size <<= 1 {
		if m, ok := readMeta(r, size); ok && int64(m.pageSize) == size {
			return m, true
		}
	}
	return boltMeta{}, false
}

func readMeta(r io.ReaderAt, off int64) (boltMeta, bool) {
	b := make([]byte, metaSize)
	if _, err := r.ReadAt(b, off+pageHeader); err != nil {
		return boltMeta{}, false
	}
	h := fnv.New64a()
	h.Write(b[:metaSize-8])
	n := binary.NativeEndian
	m := boltMeta{
		pageSize: uint64(n.Uint32(b[8:])), root: n.Uint64(b[16:]),
		freelist: n.Uint64(b[32:]), pages: n.Uint64(b[40:]), txid: n.Uint64(b[48:]),
	}
	ok := n.Uint32(b) == magic && n.Uint32(b[4:]) == boltVersion && n.Uint64(b[56:]) == h.Sum64() &&
		m.pageSize >= 1024 && m.pageSize <= 1<<16
	return m, ok
}

type checker struct {
	r    io.ReaderAt
	meta boltMeta
	used []bool // page → is part of something
}

// page is one page with those that it overflows into; body is its first part.
type page struct {
	name  string
	r     io.ReaderAt
	off   int64 // of the page in r
	size  uint64
	kind  uint16
	count int
	body  []byte
}

// claim reads a page's beginning and marks all its pages as used.
func (c *checker) claim(id uint64) (page, error) {
	if id < 2 || id >= c.meta.pages {
		return page{}, fmt.Errorf("page %d of %d", id, c.meta.pages)
	}
	p := page{name: fmt.Sprintf("page %d", id), r: c.r, off: int64(id * c.meta.pageSize), body: make([]byte, c.meta.pageSize)}
	if _, err := c.r.ReadAt(p.body, p.off); err != nil {
		return page{}, fmt.Errorf("%s: %v", p.name, err)
	}
	n := binary.NativeEndian
	if got := n.Uint64(p.body); got != id {
		return page{}, fmt.Errorf("%s calls itself %d", p.name, got)
	}
	p.kind, p.count = n.Uint16(p.body[8:]), int(n.Uint16(p.body[10:]))
	overflow := uint64(n.Uint32(p.body[12:]))
	if id+overflow >= c.meta.pages {
		return page{}, fmt.Errorf("%s overflows by %d of %d pages", p.name, overflow, c.meta.pages)
	}
	for i := id; i <= id+overflow; i++ {
		if c.used[i] {
			return page{}, fmt.Errorf("page %d is used twice", i)
		}
		c.used[i] = true
	}
	p.size = (overflow + 1) * c.meta.pageSize
	return p, nil
}

// bytes returns a part of the page.
func (p page) bytes(off, size uint64) ([]byte, error) {
	if off > p.size || size > p.size-off {
		return nil, fmt.Errorf("%s: %d bytes at %d of %d", p.name, size, off, p.size)
	}
	if off+size <= uint64(len(p.body)) {
		return p.body[off : off+size], nil
	}
	b := make([]byte, size)
	if _, err := p.r.ReadAt(b, p.off+int64(off)); err != nil {
		return nil, fmt.Errorf("%s: %v", p.name, err)
	}
	return b, nil
}

// element is a branch's or leaf's entry.
type element struct {
	key   []byte
	child uint64 // page, in a branch
	value []byte // only of a bucket, in a leaf
}

func (p page) element(i int) (element, error) {
	at := uint64(pageHeader + i*elementSize)
	b, err := p.bytes(at, elementSize)
	if err != nil {
		return element{}, err
	}
	n := binary.NativeEndian
	if p.kind == kindBranch {
		e := element{child: n.Uint64(b[8:])}
		e.key, err = p.bytes(at+uint64(n.Uint32(b)), uint64(n.Uint32(b[4:])))
		return e, err
	}
	flags, pos := n.Uint32(b), at+uint64(n.Uint32(b[4:]))
	ksize, vsize := uint64(n.Uint32(b[8:])), uint64(n.Uint32(b[12:]))
	if pos > p.size || ksize+vsize > p.size-pos {
		return element{}, fmt.Errorf("%s: entry %d reaches beyond its end", p.name, i)
	}
	var e element
	if e.key, err = p.bytes(pos, ksize); err != nil || flags == 0 {
		return e, err
	}
	if flags != bucketFlag || vsize < bucketSize {
		return element{}, fmt.Errorf("%s: entry %d has flags %d and %d bytes", p.name, i, flags, vsize)
	}
	e.value, err = p.bytes(pos+ksize, vsize)
	return e, err
}

// tree checks a page and all below it. Its keys are at least low and below high, where those are set.
func (c *checker) tree(id uint64, low, high []byte, depth int) error {
	p, err := c.claim(id)
	if err != nil {
		return err
	}
	if p.kind != kindBranch && p.kind != kindLeaf || depth > maxDepth {
		return fmt.Errorf("%s at depth %d is of kind %d", p.name, depth, p.kind)
	}
	return c.entries(p, low, high, depth)
}

func (c *checker) entries(p page, low, high []byte, depth int) error {
	if p.count == 0 && (p.kind == kindBranch || depth > 0) {
		return fmt.Errorf("%s is empty", p.name)
	}
	es := make([]element, p.count)
	for i := range es {
		var err error
		if es[i], err = p.element(i); err != nil {
			return err
		}
		switch k := es[i].key; {
		case len(k) == 0,
			i == 0 && low != nil && bytes.Compare(k, low) < 0,
			i > 0 && bytes.Compare(k, es[i-1].key) <= 0,
			high != nil && bytes.Compare(k, high) >= 0:
			return fmt.Errorf("%s: key %d is out of order", p.name, i)
		}
	}
	for i, e := range es {
		var err error
		switch {
		case p.kind == kindBranch && i+1 < len(es):
			err = c.tree(e.child, e.key, es[i+1].key, depth+1)
		case p.kind == kindBranch:
			err = c.tree(e.child, e.key, high, depth+1)
		case e.value != nil:
			err = c.bucket(p, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bucket checks what a bucket's entry leads to: a tree of its own, or a small page inside the value.
func (c *checker) bucket(in page, e element) error {
	n := binary.NativeEndian
	if root := n.Uint64(e.value); root != 0 {
		return c.tree(root, nil, nil, 0)
	}
	p := page{name: fmt.Sprintf("%s: bucket %q", in.name, e.key), body: e.value[bucketSize:]}
	p.size = uint64(len(p.body))
	head, err := p.bytes(0, pageHeader)
	if err != nil {
		return err
	}
	p.kind, p.count = n.Uint16(head[8:]), int(n.Uint16(head[10:]))
	if p.kind != kindLeaf {
		return fmt.Errorf("%s is of kind %d", p.name, p.kind)
	}
	return c.entries(p, nil, nil, 0)
}

// freelist checks that every page is either used or free.
func (c *checker) freelist() error {
	if c.meta.freelist == noFreelist {
		return nil
	}
	p, err := c.claim(c.meta.freelist)
	if err != nil {
		return err
	}
	if p.kind != kindFreelist {
		return fmt.Errorf("%s is of kind %d, and should be the list of free pages", p.name, p.kind)
	}
	n := binary.NativeEndian
	at, count := uint64(pageHeader), uint64(p.count)
	if count == 0xFFFF {
		b, err := p.bytes(at, 8)
		if err != nil {
			return err
		}
		at, count = at+8, n.Uint64(b)
	}
	if count > c.meta.pages {
		return fmt.Errorf("%s lists %d free pages of %d", p.name, count, c.meta.pages)
	}
	ids, err := p.bytes(at, count*8)
	if err != nil {
		return err
	}
	for ; len(ids) > 0; ids = ids[8:] {
		id := n.Uint64(ids)
		if id >= c.meta.pages || c.used[id] {
			return fmt.Errorf("page %d is free and used", id)
		}
		c.used[id] = true
	}
	for id, used := range c.used {
		if !used {
			return fmt.Errorf("page %d is neither free nor used", id)
		}
	}
	return nil
}
