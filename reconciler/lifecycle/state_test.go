package lifecycle

import (
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// after plays events, all at one time.
func after(s State, events ...Event) State {
	for _, e := range events {
		s, _ = Next(s, start, e)
	}
	return s
}

// The phases in the order of the tables below, each with a way there. D, R, B, S, H and Y stand for them.
const letters = "DRBSHY"

func inPhase(p Phase) State {
	s := after(State{}, Rendered{"one"})
	if p != Due {
		s = after(s, Placed{}, Began{})
	}
	switch p {
	case BackingOff:
		s = after(s, Failed{Kind: api.Transient})
	case Stalled:
		s = after(s, Failed{Kind: api.Stalled})
	case Held:
		s = after(s, HeldBack{Active: true})
	case Synced:
		s = after(s, Succeeded{Timeout: time.Minute})
	case Due, Running:
	}
	return s
}

// Every event in every phase: the phase that follows, and what a run under way leads to when it succeeds after the event.
func TestNext(t *testing.T) {
	kept := Sorted{Kept: 1, Undeclared: true}
	tests := map[string]struct {
		events  []Event
		follows string // by phase, in the order of letters
		success string // after the event came in the middle of the run
	}{
		"rendered as before":            {[]Event{Rendered{"one"}}, "DRBSHY", "Y"},
		"rendered otherwise":            {[]Event{Rendered{"two"}}, "DRDDDD", "D"},
		"rendered otherwise and back":   {[]Event{Rendered{"two"}, Rendered{"one"}}, "DRDDDD", "Y"},
		"cannot be rendered":            {[]Event{Unrenderable{}}, "DRDDDD", "D"},
		"removed":                       {[]Event{RemovedFromGit{}}, "DRDDDD", "D"},
		"removed and back":              {[]Event{RemovedFromGit{}, Rendered{"one"}}, "DRDDDD", "Y"},
		"adopted, no commit":            {[]Event{Adopted{}}, "DRBSHY", "Y"},
		"adopted, a commit":             {[]Event{Adopted{Commit: true}}, "DRDSHY", "Y"},
		"adopted, a guard lifted":       {[]Event{Adopted{Allowed: true}}, "DRDSHY", "Y"},
		"adopted, all known":            {[]Event{Adopted{Whole: true}}, "DRBSHY", "Y"},
		"adopted, kept":                 {[]Event{kept, Adopted{}}, "DRBSHD", "Y"},
		"adopted, kept, all known":      {[]Event{kept, Adopted{Whole: true}}, "DRDDDD", "D"},
		"adopted, undeclared":           {[]Event{Sorted{Undeclared: true}, Adopted{Whole: true}}, "DRBSHD", "Y"},
		"ordered":                       {[]Event{Ordered{}}, "DRDDDD", "D"},
		"overwritten":                   {[]Event{Overwritten{}}, "DRBSHD", "D"},
		"unsettled":                     {[]Event{Unsettled{}}, "DRBSHD", "D"},
		"a refused object changed":      {[]Event{ObjectChanged{}}, "DRDDDY", "Y"},
		"reopened":                      {[]Event{Reopened{}}, "DRDDHY", "Y"},
		"suspensions changed":           {[]Event{SuspensionsChanged{}}, "DRDDDY", "Y"},
		"recalled":                      {[]Event{Recalled{Digest: "one"}}, "DRBSHY", "Y"},
		"placed":                        {[]Event{Placed{}}, "RRBSHY", "Y"},
		"began":                         {[]Event{Began{}}, "DRBSHY", "Y"},
		"sorted":                        {[]Event{kept}, "DRBSHY", "Y"},
		"succeeded":                     {[]Event{Succeeded{}}, "DYBSHY", "Y"},
		"failed: stalled":               {[]Event{Failed{Kind: api.Stalled}}, "DSBSHY", "S"},
		"failed: waiting":               {[]Event{Failed{Kind: api.Waiting}}, "DBBSHY", "B"},
		"failed: denied":                {[]Event{Failed{Kind: api.Forbidden}}, "DBBSHY", "B"},
		"failed: transient":             {[]Event{Failed{Kind: api.Transient}}, "DBBSHY", "B"},
		"failed: internal":              {[]Event{Failed{Kind: api.Internal}}, "DBBSHY", "B"},
		"held back":                     {[]Event{HeldBack{Active: true}}, "DHBSHY", "H"},
		"held back, and that is over":   {[]Event{HeldBack{}}, "DDBSHY", "D"},
		"stopped":                       {[]Event{Stopped{}}, "DDBSHY", "D"},
		"healthy":                       {[]Event{Healthy{}}, "DRBSHY", "Y"},
		"unhealthy":                     {[]Event{Unhealthy{time.Minute}}, "DRBSHY", "Y"},
		"excused":                       {[]Event{Excused{}}, "DRBSHY", "Y"},
		"overdue":                       {[]Event{Overdue{}}, "DRBSHY", "Y"},
		"ordered, and failed: stalled":  {[]Event{Ordered{}, Failed{Kind: api.Stalled}}, "DDDDDD", "D"},
		"changed, and failed: stalled":  {[]Event{Rendered{"two"}, Failed{Kind: api.Stalled}}, "DDDDDD", "D"},
		"changed, and held back":        {[]Event{Rendered{"two"}, HeldBack{Active: true}}, "DDDDDD", "D"},
		"reopened, and failed: stalled": {[]Event{Reopened{}, Failed{Kind: api.Stalled}}, "DBDDHY", "B"},
	}
	for name, tt := range tests {
		for p := range Phase(len(letters)) {
			if got := letters[after(inPhase(p), tt.events...).Phase]; got != tt.follows[p] {
				t.Errorf("%s, in %c: %c, want %c", name, letters[p], got, tt.follows[p])
			}
		}
		if got := letters[after(after(inPhase(Running), tt.events...), Succeeded{}).Phase]; string(got) != tt.success {
			t.Errorf("%s in the middle of a run that succeeds: %c, want %s", name, got, tt.success)
		}
	}
}

// What Git says decides whether there is anything to run.
func TestWait(t *testing.T) {
	tests := map[string]struct {
		s    State
		want time.Duration
	}{
		"nothing is known":       {State{}, Never},
		"declared":               {inPhase(Due), 0},
		"running":                {inPhase(Running), Never},
		"backing off":            {inPhase(BackingOff), retryFirst / 2},
		"stalled":                {inPhase(Stalled), Never},
		"held":                   {inPhase(Held), Never},
		"synced":                 {inPhase(Synced), Never},
		"cannot be rendered":     {after(inPhase(Synced), Unrenderable{}), Never},
		"broken, and ordered":    {after(State{}, Unrenderable{}, Ordered{}), Never},
		"unread, and ordered":    {after(State{}, Ordered{}), Never},
		"mended":                 {after(inPhase(Synced), Unrenderable{}, Rendered{"one"}), 0},
		"removed":                {after(inPhase(Synced), RemovedFromGit{}), 0},
		"recalled":               {after(State{}, Recalled{Digest: "one"}, Rendered{"one"}), Never},
		"recalled, changed":      {after(State{}, Recalled{Digest: "one"}, Rendered{"two"}), 0},
		"recalled, removed":      {after(State{}, Recalled{Digest: "one"}, RemovedFromGit{}), 0},
		"ordered, then recalled": {after(State{}, Ordered{}, Recalled{Digest: "one"}, Rendered{"one"}), 0},
		"removal backs off":      {after(State{}, RemovedFromGit{}, Placed{}, Began{}, Failed{Kind: api.Transient}, RemovedFromGit{}), retryFirst / 2},
		"removal is stalled":     {after(State{}, RemovedFromGit{}, Placed{}, Began{}, Failed{Kind: api.Stalled}), Never},
	}
	for name, tt := range tests {
		if got := tt.s.Wait(start); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
	if got := inPhase(BackingOff).Wait(start.Add(time.Hour)); got != 0 {
		t.Errorf("the backoff is over, and it waits %v", got)
	}
}

// A removal that waits five minutes does not outwait a new commit, and neither does a bundle that is removed while it waits.
func TestNext_removalAfterALongBackoff(t *testing.T) {
	s := after(State{}, Rendered{"one"})
	for range 12 {
		s, _ = Next(s, start.Add(24*time.Hour), Placed{})
		s = after(s, Began{}, Failed{Kind: api.Transient})
		s.Until = start.Add(RetryLongest)
	}
	if s.Phase != BackingOff {
		t.Fatal(s)
	}
	gone := after(s, RemovedFromGit{}, Adopted{})
	if gone.Wait(start) != 0 || gone.Attempt != 0 {
		t.Errorf("removed in a backoff, it waits %v, after %d failures", gone.Wait(start), gone.Attempt)
	}
	again := after(gone, Placed{}, Began{}, Failed{Kind: api.Transient}, RemovedFromGit{})
	if again.Phase != BackingOff {
		t.Fatal(again)
	}
	if got := after(again, Adopted{Commit: true}).Wait(start); got != 0 {
		t.Errorf("a commit comes, and the removal waits %v", got)
	}
}

// A run reads what Git says, and its marks, when it begins, and not when it is given its place.
func TestBegan(t *testing.T) {
	placed := after(State{}, Rendered{"one"}, Placed{})
	s := after(placed, Rendered{"two"}, Ordered{}, Unsettled{}, Began{})
	if s.Force || after(s, Succeeded{}).Phase != Synced {
		t.Errorf("what came before it began is done twice: %+v", s)
	}
	if s := after(placed, Unrenderable{}, Began{}); s.Phase == Running || s.Wait(start) != Never {
		t.Errorf("what cannot be rendered is run: %+v", s)
	}
	if s := after(placed, RemovedFromGit{}, Began{}); s.Phase != Running || after(s, Succeeded{}).Phase != Synced {
		t.Errorf("the removal is not run: %+v", s)
	}
	if s := after(State{}, Rendered{"one"}, Overwritten{}, Placed{}); !s.Force {
		t.Error("the mark is gone before the run could read it")
	}
}

// A bundle that was reopened is tried once more after another refusal, and then no more.
func TestReopened(t *testing.T) {
	refused := func(s State) State {
		s, _ = Next(s, start.Add(time.Hour), Placed{})
		return after(s, Began{}, Failed{Kind: api.Stalled})
	}
	s := refused(after(State{}, Rendered{"one"}))
	s = after(s, Reopened{})
	if !s.RetryRefused || s.Wait(start) != 0 {
		t.Fatalf("not tried: %+v", s)
	}
	s = refused(s)
	if s.Wait(start) != retryFirst || !s.RetryRefused {
		t.Fatalf("not tried once more: %+v", s)
	}
	if s = refused(s); s.Phase != Stalled {
		t.Errorf("tried for ever: %+v", s)
	}
	if fine := after(State{}, Rendered{"one"}, Reopened{}); fine.RetryRefused || fine.Grace {
		t.Error("it has not failed, and is reopened")
	}
	broken := after(State{}, Unrenderable{}, Reopened{}, Rendered{"one"})
	if !broken.Grace {
		t.Error("what changed while it could not be rendered is forgotten")
	}
}

// The time to become healthy runs from the apply, or from when it was last healthy, and never while nobody may help.
func TestDeadline(t *testing.T) {
	s := inPhase(Synced) // with a minute
	later := start.Add(40 * time.Second)
	s, _ = Next(s, later, Unhealthy{time.Minute})
	if got := s.Patience(later); got != 20*time.Second {
		t.Errorf("%v left, want 20s", got)
	}
	if early := after(s, Overdue{}); early.TimedOut {
		t.Error("it is overdue before its time")
	}
	late, _ := Next(s, start.Add(time.Minute), Overdue{})
	if !late.TimedOut || late.Patience(start.Add(time.Hour)) != Never {
		t.Errorf("not overdue: %+v", late)
	}
	if again := after(late, Healthy{}); again.TimedOut || again.Patience(start) != Never {
		t.Errorf("healthy, and overdue: %+v", again)
	}
	if held := after(s, Excused{}); held.Patience(start) != Never {
		t.Errorf("a suspension does not stop the time: %+v", held)
	}
	if fresh := after(late, Rendered{"two"}); fresh.TimedOut || fresh.Patience(start) != Never {
		t.Errorf("the time of another revision counts: %+v", fresh)
	}
	if gone := after(State{}, RemovedFromGit{}, Unhealthy{time.Minute}); gone.Patience(start) != Never {
		t.Errorf("a removal waits for health: %+v", gone)
	}
	if run := after(s, Ordered{}, Placed{}); run.Patience(start.Add(time.Hour)) != Never {
		t.Errorf("the time runs while it is applied: %+v", run)
	}
}

// Each kind of error is tried again in its own time.
func TestDelay(t *testing.T) {
	tests := []struct {
		name        string
		kind        api.ErrorKind
		after       time.Duration
		attempt     int
		least, most time.Duration // 0 and 0: not again
	}{
		{"stalled", api.Stalled, 0, 1, 0, 0},
		{"denied, at first", api.Forbidden, 0, 1, retryFirst, retryFirst * 9 / 8},
		{"denied", api.Forbidden, 0, 2, RetryLongest, RetryLongest},
		{"transient, at first", api.Transient, 0, 1, time.Second / 2, time.Second},
		{"transient, fourth", api.Transient, 0, 4, 4 * time.Second, 8 * time.Second},
		{"transient, for long", api.Transient, 0, 100, RetryLongest / 2, RetryLongest},
		{"internal", api.Internal, 0, 2, time.Second, 2 * time.Second},
		{"unknown", "", 0, 2, time.Second, 2 * time.Second},
		{"waiting", api.Waiting, 0, 1, retryWaiting, retryWaiting * 9 / 8},
		{"waiting as it says", api.Waiting, 8 * time.Second, 1, 8 * time.Second, 9 * time.Second},
		{"waiting for long", api.Waiting, 0, 1000, retryWaitingLongest, retryWaitingLongest * 9 / 8},
		{"waiting longer than that", api.Waiting, time.Hour, 1000, time.Hour, time.Hour * 9 / 8},
	}
	for _, tt := range tests {
		least, again := Delay(tt.kind, tt.after, tt.attempt, 0)
		most, _ := Delay(tt.kind, tt.after, tt.attempt, 1)
		if again != (tt.most > 0) || least != tt.least || most != tt.most {
			t.Errorf("%s: %v to %v, %v, want %v to %v", tt.name, least, most, again, tt.least, tt.most)
		}
	}
}
