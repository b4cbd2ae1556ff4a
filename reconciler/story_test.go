package reconciler

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// answer has the applies of one bundle fail with an error of that kind, and all others succeed.
func answer(bundle string, kind api.ErrorKind) func(string, string) error {
	return func(name, _ string) error {
		if name != bundle {
			return nil
		}
		return &api.Error{Kind: kind, Reason: "Refused", Err: errors.New("no")}
	}
}

// What happens to a bundle whose last try failed, and how soon it is tried again: within a poll of the repository, or not at all.
func TestStory_whatEndsAWait(t *testing.T) {
	const soon = DefaultPoll + time.Second
	tests := map[string]struct {
		kind    api.ErrorKind
		happens func(*yard)
		again   bool
	}{
		"denied, nothing":                   {api.Forbidden, func(*yard) {}, false},
		"denied, a commit elsewhere":        {api.Forbidden, func(y *yard) { y.says("c", "two"); y.commit() }, true},
		"denied, a commit of it":            {api.Forbidden, func(y *yard) { y.says("a", "two"); y.commit() }, true},
		"denied, an order":                  {api.Forbidden, func(y *yard) { _ = y.r.Sync("a") }, true},
		"denied, an order to another":       {api.Forbidden, func(y *yard) { _ = y.r.Sync("b") }, false},
		"denied, a suspension elsewhere":    {api.Forbidden, func(y *yard) { y.r.SetSuspensions(nil) }, true},
		"stalled, nothing":                  {api.Stalled, func(*yard) {}, false},
		"stalled, a commit elsewhere":       {api.Stalled, func(y *yard) { y.says("c", "two"); y.commit() }, false},
		"stalled, a commit of it":           {api.Stalled, func(y *yard) { y.says("a", "two"); y.commit() }, true},
		"stalled, what it depends on moves": {api.Stalled, func(y *yard) { y.says("b", "two"); y.commit() }, true},
		"stalled, an order":                 {api.Stalled, func(y *yard) { _ = y.r.Sync("") }, true},
		"stalled, it leaves Git":            {api.Stalled, func(y *yard) { y.says("a", ""); y.commit() }, true},
		"denied, it leaves Git":             {api.Forbidden, func(y *yard) { y.says("a", ""); y.commit() }, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			inYard(t, 0, func(y *yard) {
				y.says("a", "zero", "b")
				y.says("b", "one")
				y.says("c", "one")
				y.commit()
				y.start()
				y.goes(answer("a", tt.kind))
				y.says("a", "one", "b")
				y.commit()
				y.pass(time.Minute) // and the second try of what is denied
				before := len(y.taken("a"))
				if before < 2 {
					t.Fatalf("it was tried %d times", before)
				}
				tt.happens(y)
				y.pass(soon)
				if got := len(y.taken("a")) - before; got > 0 != tt.again {
					t.Errorf("it was tried %d times, want again: %t", got, tt.again)
				}
			})
		})
	}
}

// A bundle that leaves Git in a long backoff is gone at once, and one whose removal waits is tried at the next commit.
func TestStory_aRemovalDoesNotOutwaitACommit(t *testing.T) {
	inYard(t, 0, func(y *yard) {
		y.says("a", "one")
		y.says("b", "one")
		y.commit()
		y.start()
		y.goes(answer("a", api.Forbidden))
		y.says("a", "two")
		y.commit()
		y.pass(time.Minute)
		y.says("a", "")
		y.commit()
		y.pass(time.Minute) // its removal was denied twice, and waits five minutes
		y.goes(func(string, string) error { return nil })
		y.pass(time.Minute)
		if n := len(y.live); n != 2 {
			t.Fatalf("%d objects are there", n)
		}
		y.says("b", "two")
		y.commit()
		y.pass(DefaultPoll + time.Second)
		if _, there := y.r.bundles["a"]; there || len(y.live) != 1 {
			t.Errorf("the commit did not end the wait: %v", y.live)
		}
	})
}

// Bundles that take long to fail, and are tried again and again, do not come before one that has something new to apply,
// although there are more of them than may be applied at once, and their names are first.
func TestStory_retriesComeAfterWhatIsNew(t *testing.T) {
	const many, workers = 40, 4
	inYard(t, workers, func(y *yard) {
		for i := range many {
			y.says(fmt.Sprint("bad", i), "one")
		}
		y.says("z", "one")
		y.commit()
		y.goes(func(bundle, _ string) error {
			if bundle == "z" {
				return nil
			}
			time.Sleep(5 * time.Second)
			return &api.Error{Kind: api.Transient, Err: errors.New("no")}
		})
		y.start()
		y.pass(3 * time.Minute)
		if n := len(y.taken("bad39")); n < 2 {
			t.Fatalf("it was tried %d times", n)
		}
		y.says("z", "two")
		y.commit()
		before := time.Now()
		y.pass(30 * time.Second)
		all := y.taken("z")
		last := all[len(all)-1]
		if took := last.at.Sub(before); last.digest != "two" || took > DefaultPoll+5*time.Second {
			t.Errorf("%s came after %s", last.digest, took)
		}
	})
}

// Bundles that do not answer give their places to others after a while, though there is one worker.
func TestStory_slowBundlesHoldUpNobody(t *testing.T) {
	inYard(t, 1, func(y *yard) {
		for i := range 3 {
			y.says(fmt.Sprint("hang", i), "one")
		}
		y.says("z", "one")
		y.commit()
		y.goes(func(bundle, _ string) error {
			if bundle != "z" {
				time.Sleep(time.Hour)
			}
			return nil
		})
		began := time.Now()
		y.start()
		y.pass(time.Minute)
		all := y.taken("z")
		if len(all) != 1 || all[0].at.Sub(began) > 3*slowAfter+time.Second {
			t.Errorf("z was applied %d times: %v", len(all), all)
		}
	})
}

// What fails is tried ever less often, and nothing else is done more often for that.
func TestStory_aBackoffGrows(t *testing.T) {
	inYard(t, 0, func(y *yard) {
		y.says("a", "one")
		y.says("b", "one")
		y.commit()
		y.goes(answer("a", api.Transient))
		y.start()
		y.pass(time.Minute)
		// The waits are 1 s, 2 s, 4 s, and so on, or down to half of that: six or seven tries fit into a minute.
		if n := len(y.taken("a")); n < 6 || n > 7 {
			t.Errorf("it was tried %d times in a minute", n)
		}
		y.pass(59 * time.Minute)
		// 1 s, 2 s, … 256 s are at most nine tries in 511 s, and from then on two and a half to five minutes lie between two.
		if n := len(y.taken("a")); n < 18 || n > 36 {
			t.Errorf("it was tried %d times in an hour", n)
		}
		if n := len(y.taken("b")); n != 1 {
			t.Errorf("its neighbour was applied %d times", n)
		}
	})
}
