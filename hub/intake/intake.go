package intake

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// Why something was left out, or changed.
const (
	// Unreadable: a report is no JSON, or too large to be read.
	Unreadable = "Unreadable"
	// BadName: a name or a word that no cluster, object or flotilla has.
	BadName = "BadName"
	// BadTime: a time that has not come yet, or an end before its beginning. The time was moved.
	BadTime = "BadTime"
	// TooLong: a text was cut.
	TooLong = "TooLong"
	// TooMany: items beyond what a list, or a cluster, may have.
	TooMany = "TooMany"
)

// Omission is one thing that was not taken, or not as it was sent.
type Omission struct {
	Reason string
	// What says in a few words what it was.
	What string
}

// LeftOut sums up the omissions of one reason, as the hub keeps and shows them.
type LeftOut struct {
	Reason string `json:"reason"`
	// Count is how many there were since First, Last the newest of them, and Example what it was.
	Count   uint64    `json:"count"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Example string    `json:"example"`
}

// Sum adds omissions to what was left out before, in the order of their reasons.
func Sum(sums []LeftOut, at time.Time, omitted []Omission) []LeftOut {
	out := append([]LeftOut{}, sums...)
	for _, o := range omitted {
		i := 0
		for i < len(out) && out[i].Reason < o.Reason {
			i++
		}
		if i == len(out) || out[i].Reason != o.Reason {
			out = append(out[:i], append([]LeftOut{{Reason: o.Reason, First: at}}, out[i:]...)...)
		}
		out[i].Count++
		out[i].Last, out[i].Example = at, o.What
	}
	return out
}

// Bounds of one report.
const (
	// MaxReport bounds a report's bytes. An honest one has at most about 1.5 MB: the evidence of a large object.
	MaxReport = 4 << 20
	// maxParts bounds the values in a report. JSON such as [{},{},{}] takes a hundred times its size once it is read.
	maxParts = 50_000
)

// Decode reads a report.
func Decode(payload []byte) (api.Report, error) {
	if len(payload) > MaxReport {
		return api.Report{}, fmt.Errorf("a report of %d bytes: it may have %d", len(payload), MaxReport)
	}
	if parts(payload) > maxParts {
		return api.Report{}, fmt.Errorf("a report of more than %d values", maxParts)
	}
	var r api.Report
	if err := json.Unmarshal(payload, &r); err != nil {
		return api.Report{}, fmt.Errorf("a report that is no JSON: %w", err)
	}
	return r, nil
}

// parts counts the values in JSON, roughly, and never fewer than there are.
func parts(b []byte) int {
	n, quoted := 1, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ',' || c == '{' || c == '['):
			n++
		}
	}
	return n
}

// Nothing is the report that stands for one that was not taken: its number is used, and it says nothing.
func Nothing(seq, from uint64) api.Report {
	return api.Report{Seq: seq, From: from, Compacted: &api.Compacted{From: seq, To: seq}}
}

// Take returns what a hub takes of a report at now, and what it does not. A report that says nothing that could be
// taken becomes Nothing. Reports that are not well formed are returned as they are: see api.Report.Validate.
func Take(r api.Report, now time.Time) (api.Report, []Omission) {
	if r.Validate() != nil && (r.Episode == nil || badEpisodeID(r)) {
		return r, nil
	}
	t := &taker{now: now}
	ok := true
	switch {
	case r.Status != nil:
		st := *r.Status
		t.status(&st)
		r.Status = &st
	case r.Bundle != nil:
		b := *r.Bundle
		ok = t.bundle(&b)
		r.Bundle = &b
	case r.RemovedBundle != "":
		ok = t.need(api.ValidName(r.RemovedBundle), BadName, "a removed bundle is called %s", show(r.RemovedBundle))
	case r.Episode != nil:
		e := *r.Episode
		ok = t.episode(&e)
		r.Episode = &e
	case r.Compacted != nil:
		c := *r.Compacted
		c.Episodes = number(c.Episodes)
		r.Compacted = &c
	}
	if !ok {
		r = Nothing(r.Seq, r.From)
	}
	return r, t.omitted
}

// badEpisodeID reports whether anything but the episode's ID is wrong with a report: of that, only the report is lost.
func badEpisodeID(r api.Report) bool {
	e := *r.Episode
	e.ID = api.EpisodeID{Cluster: "c", Store: "s", Seq: 1}.String()
	r.Episode = &e
	return r.Validate() != nil
}

// maxOmissions bounds what is told of one report.
const maxOmissions = 20

// taker goes through one report.
type taker struct {
	now     time.Time
	omitted []Omission
}

func (t *taker) omit(reason, format string, args ...any) {
	if len(t.omitted) < maxOmissions {
		t.omitted = append(t.omitted, Omission{reason, fmt.Sprintf(format, args...)})
	}
}

// need omits what is not good.
func (t *taker) need(good bool, reason, format string, args ...any) bool {
	if !good {
		t.omit(reason, format, args...)
	}
	return good
}

// text cuts a text to a length.
func (t *taker) text(s *string, most int, what string) {
	if len(*s) <= most {
		return
	}
	t.omit(TooLong, "%s of %d bytes: it may have %d", what, len(*s), most)
	*s = strings.ToValidUTF8((*s)[:most-len("…")], "") + "…"
}

// name empties a name that is none.
func (t *taker) name(s *string, good func(string) bool, what string) {
	if *s != "" && !good(*s) {
		t.omit(BadName, "%s %s", what, show(*s))
		*s = ""
	}
}

// Times before this are no times of a cluster; they would not fit into the store's keys, either.
var epoch = time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)

// Tolerance is how far an agent's clock may be ahead of the hub's.
const Tolerance = 2 * time.Minute

// past moves a time that has not come yet, or never was, to one that can be. A time that is not set stays so.
func (t *taker) past(at *time.Time, what string) {
	switch {
	case at.IsZero():
	case at.After(t.now.Add(Tolerance)):
		t.omit(BadTime, "%s %s is %s ahead of the hub's clock", what, at.UTC().Format(time.RFC3339), at.Sub(t.now).Round(time.Second))
		*at = t.now
	case at.Before(epoch):
		t.omit(BadTime, "%s %s", what, at.UTC().Format(time.RFC3339))
		*at = epoch
	}
}

// first returns at most n items.
func first[T any](t *taker, items []T, n int, what string) []T {
	if len(items) <= n {
		return items
	}
	t.omit(TooMany, "%d %s: there may be %d", len(items), what, n)
	return items[:n:n]
}

// number bounds a count, so that no sum of them overflows.
func number(n int) int { return min(max(n, 0), 10_000_000) }

// show is what was sent, as far as a message has room for it.
func show(s string) string {
	const most = 60
	if len(s) <= most {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprintf("%q… (%d bytes)", s[:most], len(s))
}

// Result bounds an agent's answer to a command.
func Result(payload []byte) error {
	switch {
	case len(payload) > 256<<10:
		return fmt.Errorf("an answer of %d bytes: it may have %d", len(payload), 256<<10)
	case len(payload) > 0 && !json.Valid(payload):
		return errors.New("an answer that is no JSON")
	}
	return nil
}
