package kube

import (
	"net/http"
	"testing"
	"time"
)

// A clock that is set while nobody talks to the server is noticed.
func TestServerClock_countsOnByItself(t *testing.T) {
	jump := time.Duration(0)
	c := &serverClock{now: func() time.Time { return time.Now().Add(jump) }}
	if c.Skew() != 0 {
		t.Errorf("%v before anything was said", c.Skew())
	}
	answer := c.wrap(roundTripper(func(*http.Request) (*http.Response, error) {
		h := http.Header{}
		h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
		return &http.Response{Header: h}, nil
	}))
	resp, err := answer.RoundTrip(nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body != nil {
		_ = resp.Body.Close()
	}
	for _, jump = range []time.Duration{0, time.Hour, -time.Hour, 2 * time.Second} {
		want := -jump
		if jump.Abs() <= maxQuietSkew {
			want = 0
		}
		if got := c.Skew(); (got - want).Abs() > 2*time.Second {
			t.Errorf("after a jump of %v the skew is %v", jump, got)
		}
	}
}
