package hub

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

func TestLimits(t *testing.T) {
	l := newLimits(1, 3)
	at := time.Unix(1_800_000_000, 0)
	within := func(key string, n int) (ok int) {
		for range n {
			if l.allow(key, at) {
				ok++
			}
		}
		return ok
	}
	if got := within("a", 10); got != 3 {
		t.Errorf("%d of 10 at once, want 3", got)
	}
	if got := within("b", 10); got != 3 {
		t.Errorf("another key: %d of 10, want 3", got)
	}
	at = at.Add(2 * time.Second)
	if got := within("a", 10); got != 2 {
		t.Errorf("after 2 s: %d of 10, want 2", got)
	}
	// However many keys there are, memory is bounded, and a key in use is not forgotten.
	for i := range 10 * remembered {
		l.allow(fmt.Sprint(i), at)
		if within("a", 1) != 0 {
			t.Fatalf("after %d other keys, the rate of a key in use was forgotten", i)
		}
	}
	if n := len(l.fresh) + len(l.stale); n > 2*remembered {
		t.Errorf("%d keys are remembered, and %d may be", n, 2*remembered)
	}
}

func TestSample(t *testing.T) {
	s := sample{limit: rate.NewLimiter(1, 2)}
	at := time.Unix(1_800_000_000, 0)
	taken := 0
	for range 10 {
		if ok, _ := s.take(at); ok {
			taken++
		}
	}
	if ok, left := s.take(at.Add(time.Second)); taken != 2 || !ok || left != 8 {
		t.Errorf("took %d, then %v with %d left out; want 2, and then one that tells of 8", taken, ok, left)
	}
}

func TestSite(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "2001:db8:1:2::9": "2001:db8:1:2::/64",
		"fe80::1%eth0": "fe80::/64", "::ffff:192.0.2.7": "::ffff:192.0.2.7", "": "", "pipe": "pipe",
	} {
		if got := site(in); got != want {
			t.Errorf("site(%q) is %q, want %q", in, got, want)
		}
	}
}
