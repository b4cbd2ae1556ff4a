package store

import (
	"slices"

	"github.com/flotilla-fleet/flotilla/api"
)

// waiting is a report in the outbox, as its key tells.
type waiting struct {
	seq     uint64
	subject string
	topic   string
	size    int64
	closed  bool // of an episode that has ended
	gone    bool
}

// compact makes room when the outbox is over its limits: it keeps only the newest report
// of each topic, and if that is not enough, drops those of closed episodes, the oldest first.
// One report of kind Compacted takes the place of the last that went, and tells what is gone.
func (w *writer) compact() error {
	if !w.over(1, 1) || w.count.OutboxReports <= w.held() {
		return nil
	}
	all, err := w.waiting()
	if err != nil {
		return err
	}
	told, err := w.merge(all)
	if err != nil {
		return err
	}
	w.count.OutboxReports++ // the one that tells
	// Below the limit by some, so that the next commit does not have to do this again.
	if w.over(7, 8) {
		for i := range all {
			if e := &all[i]; !e.gone && e.closed && w.over(3, 4) {
				w.remove(e)
				told.Episodes++
				w.count.LostEpisodes++
			}
		}
	}
	w.count.OutboxReports--
	if err := w.replace(all, told); err != nil {
		return err
	}
	// If it is still so full, all that is left is what is so now.
	hold := 0
	if w.over(7, 8) {
		hold = w.count.OutboxReports + max(16, w.limits.OutboxReports/8)
	}
	w.tx.OnCommit(func() { w.hold(hold) })
	return nil
}

// over reports whether the outbox is above a part of a limit.
func (w *writer) over(num, den int) bool {
	return w.count.OutboxReports*den > w.limits.OutboxReports*num ||
		w.count.OutboxBytes*int64(den) > w.limits.OutboxBytes*int64(num)
}

func (s *Store) held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.compactOver
}

func (s *Store) hold(reports int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compactOver = reports
}

func (w *writer) waiting() ([]waiting, error) {
	var all []waiting
	err := w.outbox.Keys(nil, func(k []byte, size int) error {
		seq, subject, err := parseOutboxKey(k)
		topic, closed := topicOf(subject)
		all = append(all, waiting{seq: seq, subject: subject, topic: topic, closed: closed, size: int64(size)})
		return err
	})
	return all, err
}

// remove takes a report out of the counts; replace deletes it.
func (w *writer) remove(e *waiting) {
	e.gone = true
	w.count.OutboxReports--
	w.count.OutboxBytes -= e.size
}

// merge removes what is superseded, and takes over what earlier compactions told.
func (w *writer) merge(all []waiting) (told api.Compacted, err error) {
	seen := map[string]bool{}
	for i := range slices.Backward(all) {
		e := &all[i]
		switch {
		case e.subject == subjectCompacted:
			var r api.Report
			if _, err := w.outbox.Load(outboxKey(e.seq, e.subject), &r); err != nil {
				return told, err
			}
			if r.Compacted != nil {
				told.From, told.Episodes = r.Compacted.From, told.Episodes+r.Compacted.Episodes
			}
			w.remove(e)
		case seen[e.topic]:
			w.remove(e)
			w.count.MergedReports++
		}
		seen[e.topic] = true
	}
	return told, nil
}

// replace deletes what was removed, and tells it.
func (w *writer) replace(all []waiting, told api.Compacted) error {
	for _, e := range all {
		if !e.gone {
			continue
		}
		if told.From == 0 || e.seq < told.From {
			told.From = e.seq
		}
		told.To = e.seq
		if err := w.outbox.Delete(outboxKey(e.seq, e.subject)); err != nil {
			return err
		}
	}
	if told.To == 0 {
		return nil
	}
	return w.putReport(api.Report{Seq: told.To, At: w.at, Compacted: &told}, subjectCompacted)
}
