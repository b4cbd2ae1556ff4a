package hub

import (
	"sync"
	"time"
)

const (
	// failuresPerMinute is how many wrong tokens one address may send before it is told to wait.
	failuresPerMinute = 20
	// failureLines is how many lines of a minute's log wrong tokens may take.
	failureLines = 20
	// failureAddresses is how many addresses are told apart; the others of a minute count as one.
	failureAddresses = 10_000
)

// failures counts wrong tokens by address and minute.
// It never stands in the way of a right token: many people may share an address.
type failures struct {
	mu     sync.Mutex
	minute int64
	// address, or network of an IPv6 address → wrong tokens in the minute
	count map[string]int
	// lines is how many were worth a line in the minute, silent how many were not.
	lines, silent int
}

// verdict is what to do about one more wrong token.
type verdict struct {
	// wait: the address has sent too many.
	wait bool
	// tell: it is worth a line in the log.
	tell bool
}

// add counts a wrong token.
func (f *failures) add(from string, now time.Time) verdict {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turnLocked(now)
	key := site(from)
	if _, known := f.count[key]; !known && len(f.count) >= failureAddresses {
		key = ""
	}
	f.count[key]++
	n := f.count[key]
	v := verdict{wait: n > failuresPerMinute, tell: n == 1 || n == failuresPerMinute+1}
	if v.tell = v.tell && f.lines < failureLines; v.tell {
		f.lines++
	} else {
		f.silent++
	}
	return v
}

// silenced returns how many wrong tokens had no line in a minute that is over, once.
func (f *failures) silenced(now time.Time) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Unix()/60 == f.minute {
		return 0
	}
	n := f.silent
	f.silent = 0
	return n
}

func (f *failures) turnLocked(now time.Time) {
	if m := now.Unix() / 60; m != f.minute || f.count == nil {
		f.minute, f.count, f.lines = m, map[string]int{}, 0
	}
}
