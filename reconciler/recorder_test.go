package reconciler

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
)

// failing is a store that fails as often as it is told to.
type failing struct {
	Store
	fails  int
	stored []string
}

func (f *failing) Commit(r Record) error {
	if f.fails > 0 {
		f.fails--
		return errors.New("no space left on device")
	}
	for _, e := range r.Episodes {
		f.stored = append(f.stored, e.ID+" "+string(e.Outcome))
	}
	return nil
}

// An episode's end that could not be stored is stored later, and before what came after it.
func TestRecorder_keepsEpisodesOfAFailedTransaction(t *testing.T) {
	st := &failing{fails: 2}
	r := &Reconciler{
		Config:  Config{Store: st, Log: slog.New(slog.DiscardHandler), Now: time.Now, Recorded: func() {}},
		bundles: map[string]*bundle{},
	}
	r.publish, r.recorder = newPublisher(r), newRecorder(r)
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
