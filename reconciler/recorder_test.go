package reconciler

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
	Store
	fails        int
	transactions int
	stored       []string
}

func (f *failing) Commit(r Record) error {
	if f.fails > 0 {
		f.fails--
		return errors.New("no space left on device")
	}
	f.transactions++
	for _, e := range r.Episodes {
		f.stored = append(f.stored, e.ID+" "+string(e.Outcome))
	}
	return nil
}

// recorderOf is as much of a reconciler as its recorder needs.
func recorderOf(st Store) *Reconciler {
	r := &Reconciler{
		Config:  Config{Store: st, Log: slog.New(slog.DiscardHandler), Now: time.Now, Recorded: func() {}},
		bundles: map[string]*bundle{},
	}
	r.publish, r.recorder = newPublisher(r), newRecorder(r)
	return r
}

// What changes quickly is stored at once, and then together; who waits does not wait for that.
func TestRecorder_collects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &failing{}
		r := recorderOf(st)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			r.recorder.run(ctx)
			close(ended)
		}()
		record := func() *batch {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.recordLocked(nil)
		}
		record()
		synctest.Wait()
		if st.transactions != 1 {
			t.Errorf("%d transactions for the first change, want 1", st.transactions)
		}
		for range 10 {
			record()
			time.Sleep(recordSpacing / 20)
		}
		synctest.Wait()
		if st.transactions != 1 {
			t.Errorf("%d transactions half-way, want 1", st.transactions)
		}
		before := time.Now()
		if err := r.recorder.wait(record()); err != nil || st.transactions != 2 || !time.Now().Equal(before) {
			t.Errorf("who waits: %v after %v, %d transactions; want nil at once, 2", err, time.Since(before), st.transactions)
		}
		record()
		time.Sleep(recordSpacing)
		synctest.Wait()
		if st.transactions != 3 {
			t.Errorf("%d transactions at the end, want 3", st.transactions)
		}
		cancel()
		<-ended
	})
}

// An episode's end that could not be stored is stored later, and before what came after it.
func TestRecorder_keepsEpisodesOfAFailedTransaction(t *testing.T) {
	st := &failing{fails: 2}
	r := recorderOf(st)
	record := func(e api.Episode) error {
		r.mu.Lock()
		b := r.recordLocked(nil, e)
		r.mu.Unlock()
		return r.recorder.wait(b)
	}
	if err := record(api.Episode{ID: "1", Outcome: api.OutcomePending}); err == nil {
		t.Error("who waits is not told")
	}
	if err := record(api.Episode{ID: "1", Outcome: api.OutcomeCorrected}); err == nil {
		t.Error("who waits is not told")
	}
	if err := record(api.Episode{ID: "2", Outcome: api.OutcomePending}); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"1 pending", "1 corrected", "2 pending"}, st.stored); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}
