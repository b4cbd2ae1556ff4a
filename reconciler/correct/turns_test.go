package correct

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// An apply waits for the comparisons under way, later ones wait for it, and none is forgotten.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTurns()
		if !x.compare("a", "1") || !x.compare("a", "2") || !x.compare("b", "3") {
			t.Fatal("a comparison is deferred although nothing is applied")
		}
		began := false
		go func() {
			x.begin("a")
			began = true
		}()
		synctest.Wait()
		if began || x.compare("a", "4") {
			t.Error("an apply and a comparison are under way at the same time, or the apply does not go first")
		}
		x.done("a")
		synctest.Wait()
		if began {
			t.Error("an apply begins while an object is compared")
		}
		x.done("a")
		synctest.Wait()
		if !began || x.compare("a", "5") || x.compare("a", "4") {
			t.Error("the apply does not begin, or an object is compared meanwhile")
		}
		if got := x.end("a"); !slices.Equal(got, []string{"4", "5"}) {
			t.Errorf("deferred were %v", got)
		}
		if !x.compare("a", "4") {
			t.Error("an object is deferred after the apply has ended")
		}
		x.done("a")
		x.done("b")
		if len(x.of) != 0 {
			t.Errorf("kept are %v", x.of)
		}
	})
}

// An ID is worked on by one worker, comes again if it was added meanwhile, and as early as somebody asked for.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, start := newQueue(), time.Now()
		q.add("a", start)
		q.add("a", start.Add(time.Second))
		if id, since, _ := q.get(); id != "a" || !since.Equal(start) {
			t.Errorf("%s since %v", id, since)
		}
		q.add("a", start.Add(time.Second))
		q.addAfter("b", time.Minute)
		q.addAfter("b", time.Hour)
		q.addAfter("b", time.Second)
		if id, since, _ := q.get(); id != "b" || time.Since(start) != time.Second || !since.Equal(time.Now()) {
			t.Errorf("%s after %v", id, time.Since(start))
		}
		q.done("a", time.Now())
		if id, _, _ := q.get(); id != "a" {
			t.Errorf("%s, want what was added while it was worked on", id)
		}
		q.done("a", time.Now())
		q.done("b", time.Now())
		q.addAfter("c", time.Second)
		ended := make(chan bool)
		go func() {
			_, _, ok := q.get()
			ended <- ok
		}()
		synctest.Wait()
		q.close()
		if <-ended {
			t.Error("a closed queue gives work")
		}
	})
}
