package git

import (
	"bufio"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
)

// Every fetch adds one pack. To look for an object means to look into all of them,
// so from maxPacks on the small ones are joined into one.

// joinable returns the packs to join, and those to keep:
// the smallest are joined until the next one is larger than all of them together.
// So a byte is copied a number of times that grows with the logarithm of the mirror's size only.
func joinable(packs []*pack) (join, keep []*pack) {
	if len(packs) <= maxPacks {
		return nil, packs
	}
	sorted := slices.Clone(packs)
	slices.SortFunc(sorted, func(a, b *pack) int { return int(min(max(a.size-b.size, -1), 1)) })
	total, n := int64(0), 0
	for n < len(sorted) && (n < maxPacks/2 || sorted[n].size <= total) {
		total += sorted[n].size
		n++
	}
	return sorted[:n], sorted[n:]
}

// join writes one pack that has the entries of several, byte for byte:
// deltas refer to their bases by distance or by hash, and both stay right.
// An object that several packs have is there several times, which git tolerates.
func (m *mirror) join(packs []*pack) (_ *pack, err error) {
	f, err := m.tempPack()
	if err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if rm := os.Remove(f.Name()); rm != nil && !errors.Is(rm, os.ErrNotExist) {
			err = errors.Join(err, rm)
		}
	}()
	var objects []indexed
	for _, p := range packs {
		objects = slices.Grow(objects, p.count)
	}
	sum := sha1.New()
	buffered := bufio.NewWriterSize(f, 256<<10)
	w := io.MultiWriter(buffered, sum)
	total := 0
	for _, p := range packs {
		total += p.count
	}
	header := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), uint32(total))
	if _, err := w.Write(header); err != nil {
		return nil, err
	}
	at := int64(packHeader)
	for _, p := range packs {
		for i := range p.count {
			objects = append(objects, indexed{hash: plumbing.Hash(p.hashAt(i)), crc: p.crcAt(i), off: p.offsetAt(i) - packHeader + at})
		}
		end := p.size - hashSize
		if _, err := io.Copy(w, io.NewSectionReader(p.file, packHeader, end-packHeader)); err != nil {
			return nil, err
		}
		at += end - packHeader
	}
	checksum := sum.Sum(nil)
	if _, err := buffered.Write(checksum); err != nil {
		return nil, err
	}
	if err := buffered.Flush(); err != nil {
		return nil, err
	}
	return m.place(f, objects, checksum)
}

// crcAt returns the checksum of the i-th object's entry.
func (p *pack) crcAt(i int) uint32 {
	return binary.BigEndian.Uint32(p.index[idxNames+p.count*hashSize+i*4:])
}

// wantsFull reports whether so much came after the last complete clone
// that a new one would make the mirror much smaller.
func (m *mirror) wantsFull(packs []*pack) bool {
	var base, rest int64
	for _, p := range packs {
		if p.checksum() == m.state.Full {
			base = p.size
		} else {
			rest += p.size
		}
	}
	return rest > m.fullBytes && rest > base*fullFactor
}
