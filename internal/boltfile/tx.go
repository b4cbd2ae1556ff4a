package boltfile

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"

	bolt "go.etcd.io/bbolt"
)

// Tx is a transaction.
type Tx struct {
	tx    *bolt.Tx
	dirty bool
	after []func()
}

// OnCommit has fn called once the changes are on the disk,
// in the order of the transactions and before Update returns.
func (t *Tx) OnCommit(fn func()) { t.after = append(t.after, fn) }

func (t *Tx) committed() {
	for _, fn := range t.after {
		fn()
	}
}

// Bucket returns a bucket, nil if there is none of the name.
func (t *Tx) Bucket(name string) *Bucket {
	b := t.tx.Bucket([]byte(name))
	if b == nil {
		return nil
	}
	return &Bucket{tx: t, b: b, name: name}
}

// Bucket is a sorted map of keys to values with checksums.
// What it returns is valid within the transaction only, and not to be changed.
type Bucket struct {
	tx   *Tx
	b    *bolt.Bucket
	name string
}

const sumSize = 4

func sum(key, value []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli) // made once, by the library
	return crc32.Update(crc32.Checksum(key, table), table, value)
}

// open takes the checksum off a stored value.
func (b *Bucket) open(key, stored []byte) ([]byte, error) {
	n := len(stored) - sumSize
	if n < 0 || binary.BigEndian.Uint32(stored[n:]) != sum(key, stored[:n]) {
		return nil, fmt.Errorf("%w: the value of %q in %s", ErrDamaged, key, b.name)
	}
	return stored[:n:n], nil
}

// Get returns a value, nil if the key is not there; a value without bytes is not nil.
func (b *Bucket) Get(key []byte) ([]byte, error) {
	stored := b.b.Get(key)
	if stored == nil {
		return nil, nil
	}
	return b.open(key, stored)
}

// Has reports whether a key is there.
func (b *Bucket) Has(key []byte) bool { return b.b.Get(key) != nil }

// Put stores a value, unless it is there already.
func (b *Bucket) Put(key, value []byte) error {
	stored := make([]byte, len(value)+sumSize)
	copy(stored, value)
	binary.BigEndian.PutUint32(stored[len(value):], sum(key, value))
	if bytes.Equal(b.b.Get(key), stored) {
		return nil
	}
	b.tx.dirty = true
	return b.b.Put(key, stored)
}

// Delete removes a key, if it is there.
func (b *Bucket) Delete(key []byte) error {
	if b.b.Get(key) == nil {
		return nil
	}
	b.tx.dirty = true
	return b.b.Delete(key)
}

// Load decodes a value from JSON into v. It reports whether the key is there.
func (b *Bucket) Load(key []byte, v any) (bool, error) {
	data, err := b.Get(key)
	if data == nil || err != nil {
		return false, err
	}
	return true, b.Decode(key, data, v)
}

// Decode decodes a value that Get or a walk has given.
func (b *Bucket) Decode(key, data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%w: the value of %q in %s: %v", ErrDamaged, key, b.name, err)
	}
	return nil
}

// Save stores v as JSON.
func (b *Bucket) Save(key []byte, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Put(key, data)
}

// Sequence is the bucket's counter.
func (b *Bucket) Sequence() uint64 { return b.b.Sequence() }

// SetSequence sets the bucket's counter.
func (b *Bucket) SetSequence(n uint64) error {
	if b.b.Sequence() == n {
		return nil
	}
	b.tx.dirty = true
	return b.b.SetSequence(n)
}

// ErrStop ends a walk without an error.
var ErrStop = errors.New("stop")

// Ascend calls fn for every key from the given one on (nil: the first), in order.
// fn must not change the bucket.
func (b *Bucket) Ascend(from []byte, fn func(k, v []byte) error) error {
	c := b.b.Cursor()
	k, v := c.Seek(from)
	return b.walk(k, v, c.Next, fn)
}

// Descend calls fn for every key before the given one (nil: all), from the last to the first.
// fn must not change the bucket.
func (b *Bucket) Descend(before []byte, fn func(k, v []byte) error) error {
	c := b.b.Cursor()
	var k, v []byte
	switch before {
	case nil:
		k, v = c.Last()
	default:
		if k, _ = c.Seek(before); k == nil {
			k, v = c.Last()
		} else {
			k, v = c.Prev()
		}
	}
	return b.walk(k, v, c.Prev, fn)
}

func (b *Bucket) walk(k, v []byte, next func() ([]byte, []byte), fn func(k, v []byte) error) error {
	for ; k != nil; k, v = next() {
		data, err := b.open(k, v)
		if err != nil {
			return err
		}
		if err := fn(k, data); err != nil {
			if errors.Is(err, ErrStop) {
				return nil
			}
			return err
		}
	}
	return nil
}

// Keys is Ascend without reading the values.
func (b *Bucket) Keys(from []byte, fn func(k []byte, size int) error) error {
	c := b.b.Cursor()
	for k, v := c.Seek(from); k != nil; k, v = c.Next() {
		if err := fn(k, max(0, len(v)-sumSize)); err != nil {
			if errors.Is(err, ErrStop) {
				return nil
			}
			return err
		}
	}
	return nil
}

// Verify reads every value of every bucket and checks its checksum.
func (t *Tx) Verify() error {
	return t.tx.ForEach(func(name []byte, _ *bolt.Bucket) error {
		return t.Bucket(string(name)).Ascend(nil, func(_, _ []byte) error { return nil })
	})
}
