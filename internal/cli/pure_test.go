package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
)

func TestTableFits(t *testing.T) {
	tab := table{head: []string{"ID", "PATH", "WHO"}, least: []int{0, 10, 6}}
	tab.add("prod-eu-k7qa-42", "/spec/template/spec/containers/[name=app]/resources/limits/memory/ü", "someone-with-a-long-name")
	tab.add("short", "", "x")
	var b strings.Builder
	tab.print(terminal.To(&b), 50)
	for line := range strings.Lines(b.String()) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 50 {
			t.Errorf("%d wide: %s", n, line)
		}
	}
	if !strings.Contains(b.String(), "prod-eu-k7qa-42") || !strings.Contains(b.String(), "memory/ü") {
		t.Errorf("what matters was cut:\n%s", b.String())
	}
	b.Reset()
	tab.print(terminal.To(&b), 0)
	if !strings.Contains(b.String(), "/spec/template/spec/containers/[name=app]/resources/limits/memory/ü") {
		t.Errorf("the wide table is cut:\n%s", b.String())
	}
}

func TestParseSince(t *testing.T) {
	now := time.Date(2030, 1, 31, 10, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"": {}, "90m": now.Add(-90 * time.Minute), "7d": now.AddDate(0, 0, -7), "2030-01-30T00:00:00Z": now.Add(-34 * time.Hour),
	} {
		if got, err := parseSince(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q is %v (%v), want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"yesterday", "-1h", "-3d", "7", "2030-13-01"} {
		if got, err := parseSince(text, now); err == nil {
			t.Errorf("%q is %v, want an error", text, got)
		}
	}
}

func TestRuleByManager(t *testing.T) {
	e := api.Episode{
		Object: api.ObjectRef{Kind: "ConfigMap", Namespace: "a", Name: "b"}, By: api.Attribution{Manager: "x"},
		Fields: []api.FieldDiff{
			{Path: "/data/a", By: api.Attribution{Manager: "x"}},
			{Path: "/data/b", By: api.Attribution{Manager: "x"}},
			{Path: "/data/c"},
			{Path: "/data/d", By: api.Attribution{Manager: "y"}},
		},
	}
	got, err := ruleFor(e, byManager)
	if err != nil {
		t.Fatal(err)
	}
	want := api.IgnoreRule{Target: api.IgnoreTarget{Kind: "ConfigMap", Namespace: "a", Name: "b"}, Paths: []string{"/data/c"}, Managers: []string{"x", "y"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	e.FieldsOmitted = 1
	if _, err := ruleFor(e, byPath); err == nil {
		t.Error("a rule that cannot end the drift was printed")
	}
}

func TestOverlaps(t *testing.T) {
	all, a, b := api.Scope{All: true}, api.Scope{Bundles: []string{"a"}}, api.Scope{Bundles: []string{"b"}}
	o := api.Scope{Objects: []api.ObjectRef{{Kind: "X", Name: "x"}}}
	p := api.Scope{Objects: []api.ObjectRef{{Kind: "X", Name: "y"}}}
	for _, tt := range []struct {
		x, y api.Scope
		want bool
	}{{all, a, true}, {a, a, true}, {a, b, false}, {o, o, true}, {o, p, false}, {a, o, true}} {
		if got := overlaps(tt.x, tt.y); got != tt.want {
			t.Errorf("%s and %s: %v", tt.x, tt.y, got)
		}
	}
}

// A table is cut to fit a terminal, and never for a program that reads it.
func TestDriftTable_fits(t *testing.T) {
	episodes := []api.Episode{{
		ID: "staging-eu-kmhn-1", Cluster: "staging-eu", Class: api.ClassChanged, Onset: time.Now(), Outcome: api.OutcomeReported,
		Object: api.ObjectRef{Group: "policy", Kind: "PodDisruptionBudget", Namespace: "podinfo", Name: "a-rather-long-name-of-an-object"},
		Fields: []api.FieldDiff{{Path: "/spec/template/spec/containers/[name=app]/image", Desired: "nginx:1", Live: "nginx:2"}},
	}}
	show := func(fits room) string {
		var b strings.Builder
		driftTable(terminal.To(&b), episodes, fits)
		return b.String()
	}
	cut := show(room{width: 80})
	for line := range strings.Lines(cut) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
			t.Errorf("%d characters: %s", n, line)
		}
	}
	if !strings.Contains(cut, "…") || !strings.Contains(cut, "staging-eu-kmhn-1") {
		t.Errorf("on a terminal:\n%s", cut)
	}
	if read := show(room{width: widthOf(terminal.To(&strings.Builder{}))}); strings.Contains(read, "…") || !strings.Contains(read, episodes[0].Fields[0].Path) {
		t.Errorf("to a program:\n%s", read)
	}
	if wide := show(room{wide: true}); !strings.Contains(wide, "nginx:1 → nginx:2") || !strings.Contains(wide, "PodDisruptionBudget.policy/podinfo") {
		t.Errorf("wide:\n%s", wide)
	}
}

func TestShellWord(t *testing.T) {
	for word, want := range map[string]string{
		"demo/clusters/prod-us/kubeconfig": "demo/clusters/prod-us/kubeconfig",
		"/tmp/my demo":                     "'/tmp/my demo'",
		"it's":                             `'it'\''s'`,
		"$HOME":                            "'$HOME'",
		"":                                 "''",
	} {
		if got := shellWord(word); got != want {
			t.Errorf("%q becomes %s, want %s", word, got, want)
		}
	}
}

// Each time that a drift began is told, with what it was then.
func TestHistoryTellsEarlierRounds(t *testing.T) {
	at := func(minute int) time.Time { return time.Date(2026, 11, 21, 10, minute, 0, 0, time.UTC) }
	field := func(live string) []api.FieldDiff {
		return []api.FieldDiff{{Path: "/data/key", Class: api.ClassChanged, Desired: `"git"`, Live: live}}
	}
	e := api.Episode{
		ID: "one-abcd-1", Cluster: "one", Class: api.ClassChanged, Onset: at(1), LastSeen: at(9), End: at(9), Reopened: at(8), Count: 5,
		Outcome: api.OutcomeCorrected, By: api.Attribution{Manager: "second"}, Fields: field(`"new"`),
		Rounds: []api.Round{{
			Began: at(1), Ended: at(2), Class: api.ClassChanged, By: api.Attribution{Manager: "first"}, Outcome: api.OutcomeResolved, Fields: field(`"old"`),
		}},
	}
	var got []string
	for _, h := range ofEpisodes([]api.Episode{e}) {
		got = append(got, strings.TrimSpace(h.At.Format("15:04")+" "+h.What+" "+h.By+": "+h.Message))
	}
	want := []string{
		"10:01 drifted first: changed /data/key", "10:02 resolved : changed /data/key",
		"10:08 drifted second: changed /data/key (3 earlier times are not listed)", "10:09 corrected : changed /data/key",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	var b strings.Builder
	showEpisode(terminal.To(&b), e, 120)
	for _, want := range []string{"begun 5 times", "BEFORE", `"old"`, "first", "resolved", "3 earlier times are not kept"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
}

func TestBundleTable_warnings(t *testing.T) {
	var out bytes.Buffer
	err := (output{format: "table"}).print(&out, nil, func(w *terminal.Printer) {
		bundleTable(w, []api.BundleStatus{{Name: "web", Warnings: []string{"web/x.yaml:7: the annotation argocd.argoproj.io/sync-wave has no effect"}}})
	})
	if want := "\nWARNING web: web/x.yaml:7: the annotation argocd.argoproj.io/sync-wave has no effect\n"; err != nil || !strings.HasSuffix(out.String(), want) {
		t.Errorf("%v\n%s", err, out.String())
	}
}
