package record

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
)

// failing is a store that fails as often as it is told to.
type failing struct {
	fails        int
	transactions []Transaction
	stored       []string
}

func (f *failing) Commit(t Transaction) error {
	if f.fails > 0 {
		f.fails--
		return errors.New("no space left on device")
	}
	f.transactions = append(f.transactions, t)
	for _, e := range t.Episodes {
		f.stored = append(f.stored, e.ID+" "+string(e.Outcome))
	}
	return nil
}

// over is a recorder over a store, of bundles that are all there.
func over(st Store) *Recorder {
	read := func(choose func() []string) (api.ClusterStatus, []api.BundleRecord) {
		var out []api.BundleRecord
		for _, name := range choose() {
			out = append(out, api.BundleRecord{Status: api.BundleStatus{Name: name}})
		}
		return api.ClusterStatus{}, out
	}
	return New(Config{Store: st, Read: read, Log: slog.New(slog.DiscardHandler), Stored: func() {}})
}

// What changes quickly is stored at once, and then together; who waits does not wait for that.
func TestRecorder_collects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &failing{}
		r := over(st)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			r.Run(ctx)
			close(ended)
		}()
		r.Note("")
		synctest.Wait()
		if len(st.transactions) != 1 {
			t.Errorf("%d transactions for the first change, want 1", len(st.transactions))
		}
		for range 10 {
			r.Note("")
			time.Sleep(Spacing / 20)
		}
		synctest.Wait()
		if len(st.transactions) != 1 {
			t.Errorf("%d transactions half-way, want 1", len(st.transactions))
		}
		before := time.Now()
		if err := r.Wait(r.Note("")); err != nil || len(st.transactions) != 2 || !time.Now().Equal(before) {
			t.Errorf("who waits: %v after %v, %d transactions; want nil at once, 2", err, time.Since(before), len(st.transactions))
		}
		r.Note("")
		time.Sleep(Spacing)
		synctest.Wait()
		if len(st.transactions) != 3 {
			t.Errorf("%d transactions at the end, want 3", len(st.transactions))
		}
		cancel()
		<-ended
	})
}

// An episode's end that could not be stored is stored later, and before what came after it.
func TestRecorder_keepsEpisodesOfAFailedTransaction(t *testing.T) {
	st := &failing{fails: 2}
	r := over(st)
	record := func(e api.Episode) error { return r.Wait(r.Note("", e)) }
	if err := record(api.Episode{ID: "1", Outcome: api.OutcomePending}); err == nil {
		t.Error("who waits is not told")
	}
	if err := record(api.Episode{ID: "1", Outcome: api.OutcomeCorrected}); err == nil || r.Failure() == nil {
		t.Error("who waits is not told")
	}
	if err := record(api.Episode{ID: "2", Outcome: api.OutcomePending}); err != nil || r.Failure() != nil {
		t.Error(err, r.Failure())
	}
	if diff := cmp.Diff([]string{"1 pending", "1 corrected", "2 pending"}, st.stored); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

// The last word about a bundle counts: that it is there, or that it is no more. A transaction that failed does not change it.
func TestRecorder_theLastWordAboutABundle(t *testing.T) {
	for name, c := range map[string]struct {
		say             func(*Recorder)
		bundles, remove int
	}{
		"removed":                                 {func(r *Recorder) { r.Note("a"); r.Removed("a") }, 0, 1},
		"back again":                              {func(r *Recorder) { r.Removed("a"); r.Note("a") }, 1, 0},
		"removed after a failed transaction":      {func(r *Recorder) { _ = r.Wait(r.Note("a")); r.Removed("a") }, 0, 1},
		"back again after a failed transaction":   {func(r *Recorder) { r.Removed("a"); _ = r.Flush(); r.Note("a") }, 1, 0},
		"unchanged after a failed transaction":    {func(r *Recorder) { _ = r.Wait(r.Note("a")) }, 1, 0},
		"still removed after a failed one":        {func(r *Recorder) { r.Removed("a"); _ = r.Flush() }, 0, 1},
		"nothing is stored of what never changed": {func(r *Recorder) { _ = r.Flush() }, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			st := &failing{}
			r := over(st)
			st.fails = 1
			c.say(r)
			st.fails = 0
			if err := r.Flush(); err != nil {
				t.Fatal(err)
			}
			bundles, removed := 0, 0
			for _, x := range st.transactions {
				bundles += len(x.Bundles)
				removed += len(x.RemovedBundles)
			}
			if bundles != c.bundles || removed != c.remove {
				t.Errorf("%d bundles stored and %d removed, want %d and %d", bundles, removed, c.bundles, c.remove)
			}
		})
	}
}

// Who notes and who stores do not stand in each other's way, also where there is nothing to store.
func TestRecorder_atTheSameTime(t *testing.T) {
	st := &failing{}
	r := over(st)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 1000 {
			r.Note("a", api.Episode{ID: "1"})
		}
	}()
	for storing := true; storing; {
		select {
		case <-done:
			storing = false
		default:
		}
		if err := r.Flush(); err != nil {
			t.Error(err)
		}
	}
	if len(st.stored) != 1000 {
		t.Errorf("%d episodes stored", len(st.stored))
	}
}

// A change that is noted while the state is read goes into the next transaction.
func TestRecorder_aNoteWhileItReads(t *testing.T) {
	st := &failing{}
	r := over(st)
	read := r.Read
	r.Read = func(choose func() []string) (api.ClusterStatus, []api.BundleRecord) {
		status, out := read(choose)
		r.Read = read
		r.Note("b", api.Episode{ID: "2"})
		return status, out
	}
	if err := r.Wait(r.Note("a", api.Episode{ID: "1"})); err != nil {
		t.Fatal(err)
	}
	if len(st.transactions) != 1 || len(st.stored) != 1 {
		t.Errorf("%d transactions, episodes %v, want what was noted first alone", len(st.transactions), st.stored)
	}
	if err := r.Flush(); err != nil || len(st.transactions) != 2 || len(st.stored) != 2 {
		t.Errorf("%v, %d transactions, episodes %v", err, len(st.transactions), st.stored)
	}
}
