package store

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// The buckets; package comment says what is in them.
const (
	bucketMeta      = "meta"
	bucketStatus    = "status"
	bucketBundles   = "bundles"
	bucketInventory = "inventory"
	bucketEpisodes  = "episodes"
	bucketHeads     = "heads"
	bucketObjects   = "objects"
	bucketOpen      = "open"
	bucketClosed    = "closed"
	bucketOutbox    = "outbox"
)

var (
	keyAgent    = []byte("agent")
	keyCounters = []byte("counters")
	keyAging    = []byte("aging")
	keyStatus   = []byte("status")
)

func numberKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// numberOf reads the number that a key ends with.
func numberOf(k []byte) (uint64, error) {
	if len(k) < 8 {
		return 0, fmt.Errorf("%w: key %q", ErrDamaged, k)
	}
	return binary.BigEndian.Uint64(k[len(k)-8:]), nil
}

func closedKey(end time.Time, n uint64) []byte {
	// Times before 1970 sort as the oldest.
	return binary.BigEndian.AppendUint64(numberKey(uint64(max(0, end.UnixNano()))), n)
}

func objectPrefix(objectID string) []byte { return append([]byte(objectID), 0) }

func objectKey(objectID string, n uint64) []byte {
	return binary.BigEndian.AppendUint64(objectPrefix(objectID), n)
}

func outboxKey(seq uint64, subject string) []byte { return append(numberKey(seq), subject...) }

func parseOutboxKey(k []byte) (seq uint64, subject string, err error) {
	if len(k) <= 8 {
		return 0, "", fmt.Errorf("%w: key %q", ErrDamaged, k)
	}
	return binary.BigEndian.Uint64(k), string(k[8:]), nil
}

const (
	subjectStatus    = "status"
	subjectCompacted = "compacted"
	closedSuffix     = "/closed"
	openSuffix       = "/open"
)

// subjectOf is what a report is about. n is the number of its episode, if it has one.
func subjectOf(r api.Report, n uint64) string {
	switch {
	case r.Status != nil:
		return subjectStatus
	case r.Bundle != nil:
		return "bundle/" + r.Bundle.Name
	case r.RemovedBundle != "":
		return "bundle/" + r.RemovedBundle
	case r.Episode != nil && r.Episode.Open():
		return "episode/" + strconv.FormatUint(n, 10) + openSuffix
	case r.Episode != nil:
		return "episode/" + strconv.FormatUint(n, 10) + closedSuffix
	}
	return subjectCompacted
}

// topicOf is the subject without the episode's state: a newer report of a topic replaces an older.
func topicOf(subject string) (topic string, closed bool) {
	if t, ok := strings.CutSuffix(subject, closedSuffix); ok && strings.HasPrefix(subject, "episode/") {
		return t, true
	}
	if strings.HasPrefix(subject, "episode/") {
		return strings.TrimSuffix(subject, openSuffix), false
	}
	return subject, false
}
