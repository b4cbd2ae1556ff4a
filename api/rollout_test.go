package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/flotilla-fleet/flotilla/api"
)

const rollout = `apiVersion: flotilla.dev/v1alpha1
kind: Rollout
metadata: {name: platform}
spec:
  bundles: [ingress, podinfo]
  waves:
  - {name: canary, clusterSelector: {matchLabels: {env: staging}}, soak: 30m}
  - {name: eu, after: [canary], clusterSelector: {matchLabels: {region: eu}}, maxParallel: 25%, maxFailures: 2, soak: 2h, approve: true}
  - {name: us, after: [canary], clusters: [us-1, us-2], maxParallel: 2}
  - {name: rest, clusterSelector: {}}
  deadline: 15m
  unreachable: skip
  onFailure: return
  paused: a reason
  windows:
  - {kind: allow, schedule: 0 22 * * MON-FRI, duration: 8h, timeZone: Europe/Berlin, clusterSelector: {matchLabels: {region: eu}}, reason: night}
  - {kind: deny, schedule: "FREQ=YEARLY;BYMONTH=12;BYMONTHDAY=15", duration: 504h}
  freeze: {reason: audit, until: 2026-12-31T00:00:00Z}
`

func TestDecodeRollout(t *testing.T) {
	r, err := api.DecodeRollout("rollout.yaml", []byte(rollout))
	if err != nil {
		t.Fatal(err)
	}
	s := r.Spec
	var before []string
	for i := range s.Waves {
		before = append(before, fmt.Sprint(s.Before(i)))
	}
	if got, want := strings.Join(before, " "), "[] [0] [0] [2]"; got != want {
		t.Errorf("the waves come after %s, want %s", got, want)
	}
	for _, tt := range []struct {
		name   string
		labels map[string]string
		want   int
	}{
		{"a", map[string]string{"env": "staging", "region": "eu"}, 0},
		{"a", map[string]string{"region": "eu"}, 1},
		{"us-2", nil, 2},
		{"us-3", nil, 3},
	} {
		if got := s.WaveOf(tt.name, tt.labels); got != tt.want {
			t.Errorf("cluster %s %v is in wave %d, want %d", tt.name, tt.labels, got, tt.want)
		}
	}
	if got := (api.RolloutSpec{Waves: s.Waves[:3]}).WaveOf("us-3", nil); got != -1 {
		t.Errorf("a cluster that no wave chooses is in wave %d", got)
	}
	if !s.Takes(api.Meta{Name: "ingress"}) || s.Takes(api.Meta{Name: "other"}) {
		t.Error("the wrong bundles")
	}
	// What the hub keeps comes back as it was.
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var back api.RolloutSpec
	if err := json.Unmarshal(text, &back); err != nil || !reflect.DeepEqual(s, back) {
		t.Errorf("%s\n%+v\n%+v: %v", text, s, back, err)
	}
}

// Every mistake is told with the file, the line and the field.
func TestDecodeRollout_mistakes(t *testing.T) {
	const head = "apiVersion: flotilla.dev/v1alpha1\nkind: Rollout\nmetadata: {name: a}\nspec:\n"
	const bundles = head + "  bundles: [a]\n"
	const wave = bundles + "  waves: [{name: a, clusters: [one]}]\n"
	window := func(more string) string { return wave + "  windows:\n  - {kind: deny, duration: 1h, " + more + "}\n" }
	for _, tt := range []struct {
		text, field string
		line        int
		says        string
	}{
		{strings.Replace(rollout, "platform", "Platform", 1), "metadata.name", 3, "not a name"},
		{wave + "  pause: x\n", "spec.pause", 7, "unknown field"},
		{bundles + "  waves:\n  - {name: a, clusters: [one], soack: 1h}\n", "spec.waves.0.soack", 7, "unknown field"},
		{strings.Replace(wave, "Rollout", "Bundle", 1), "kind", 2, "must hold"},
		{head + "  waves: [{name: a, clusters: [one]}]\n", "spec.bundles", 4, "needs bundles"},
		{head + "  bundles: []\n", "spec.bundles", 5, "needs bundles"},
		{head + "  bundles:\n", "spec.bundles", 5, "nothing is below it"},
		{bundles + "  bundleSelector: {}\n", "spec.bundleSelector", 6, "cannot both"},
		{head + "  bundles: [a, b, a]\n", "spec.bundles.2", 5, "twice"},
		{head + "  bundles: [A]\n", "spec.bundles.0", 5, "not a bundle's name"},
		{head + "  bundleSelector: {matchExpressions: [{key: a, operator: Like}]}\n", "spec.bundleSelector", 5, "Like"},
		{bundles, "spec.waves", 4, "at least one wave"},
		{bundles + "  waves:\n  - {name: a, clusters: [one]}\n  - {name: a, clusters: [two]}\n", "spec.waves.1.name", 8, "also in line 7"},
		{bundles + "  waves:\n  - {clusters: [one]}\n", "spec.waves.0.name", 7, "not a name"},
		{bundles + "  waves:\n  - {name: a}\n", "spec.waves.0", 7, "needs a clusterSelector"},
		{bundles + "  waves:\n  - {name: a, clusters: [a], clusterSelector: {}}\n", "spec.waves.0.clusters", 7, "cannot both"},
		{bundles + "  waves:\n  - {name: a, clusters: []}\n", "spec.waves.0", 7, "needs a clusterSelector"},
		{bundles + "  waves:\n  - {name: a, clusterSelector: }\n", "spec.waves.0.clusterSelector", 7, "nothing is below it"},
		{bundles + "  waves:\n  - {name: a, clusters: [a, a]}\n", "spec.waves.0.clusters.1", 7, "twice"},
		{bundles + "  waves:\n  - {name: a, clusters: [a/b]}\n", "spec.waves.0.clusters.0", 7, "not a cluster's name"},
		{bundles + "  waves:\n  - {name: a, clusterSelector: {matchExpressions: [{key: a, operator: Like}]}}\n", "spec.waves.0.clusterSelector", 7, "Like"},
		{bundles + "  waves:\n  - {name: a, clusters: [one], after: [b]}\n", "spec.waves.0.after.0", 7, `no wave "b"`},
		{bundles + "  waves:\n  - {name: a, clusters: [one], after: [a]}\n", "spec.waves.0.after.0", 7, "after itself"},
		{bundles + "  waves:\n  - {name: a, clusters: [one], after: [b, b]}\n  - {name: b, clusters: [two], after: []}\n", "spec.waves.0.after.1", 7, "twice"},
		{bundles + "  waves:\n  - {name: a, clusters: [one], after: [b]}\n  - {name: b, clusters: [two], after: [a]}\n", "spec.waves.0.after", 7, "a after b after a"},
		// The second wave follows the first, which waits for it.
		{bundles + "  waves:\n  - {name: a, clusters: [one], after: [b]}\n  - {name: b, clusters: [two]}\n", "spec.waves.0.after", 7, "a after b after a"},
		{bundles + "  waves:\n  - {name: a, clusters: [one], maxParallel: 0}\n", "spec.waves.0.maxParallel", 7, "never release"},
		{bundles + "  waves:\n  - {name: a, clusters: [one], maxParallel: 0%}\n", "spec.waves.0.maxParallel", 7, "never release"},
		{bundles + "  waves:\n  - {name: a, clusters: [one], maxParallel: 101%}\n", "", 7, "neither a number"},
		{bundles + "  waves:\n  - {name: a, clusters: [one], maxFailures: -1}\n", "", 7, "neither a number"},
		{bundles + "  waves:\n  - {name: a, clusters: [one], maxFailures: [1]}\n", "", 7, "neither a number"},
		{bundles + "  waves:\n  - {name: a, clusters: [one], maxFailures: 2.5}\n", "", 7, "neither a number"},
		{bundles + "  waves:\n  - {name: a, clusters: [one], soak: 30}\n", "", 7, "not a duration"},
		{bundles + "  waves:\n  - {name: a, clusters: [one], soak: 1000h}\n", "spec.waves.0.soak", 7, "longer"},
		{wave + "  deadline: -5m\n", "", 7, "negative"},
		{wave + "  deadline: 1000h\n", "spec.deadline", 7, "longer"},
		{wave + "  unreachable: ignore\n", "spec.unreachable", 7, "skip, wait, fail"},
		{wave + "  onFailure: rollback\n", "spec.onFailure", 7, "halt, return"},
		{wave + "  paused:\n", "spec.paused", 7, "nothing is below it"},
		{wave + "  freeze: {until: 2026-12-31T00:00:00Z}\n", "spec.freeze.reason", 7, "needs a reason"},
		{wave + "  freeze: {reason: x}\n", "spec.freeze.until", 7, "needs an end"},
		{wave + "  windows:\n  - {kind: maybe, duration: 1h, schedule: 0 0 * * *}\n", "spec.windows.0.kind", 8, "allow, deny"},
		{wave + "  windows:\n  - {kind: deny, schedule: 0 0 * * *}\n", "spec.windows.0.duration", 8, "not between"},
		{window("schedule: 0 25 * * *"), "spec.windows.0.schedule", 8, "no schedule"},
		{window("schedule: 0 0 * *"), "spec.windows.0.schedule", 8, "neither five fields"},
		{window("schedule: '@daily'"), "spec.windows.0.schedule", 8, "neither five fields"},
		{window("schedule: TZ=UTC 0 * * *"), "spec.windows.0.schedule", 8, "neither five fields"},
		{window("schedule: 0 0 30 2 *"), "spec.windows.0.schedule", 8, "never comes"},
		{window("schedule: FREQ=HOURLY"), "spec.windows.0.schedule", 8, "CronJob"},
		{window("schedule: FREQ=WEEKLY;INTERVAL=2"), "spec.windows.0.schedule", 8, "DTSTART"},
		{window("schedule: 'FREQ=DAILY;DTSTART=20260101T000000Z'"), "spec.windows.0.schedule", 8, "no part of the rule"},
		{window("schedule: 'FREQ=DAILY;BYHOUR=1,2,3,4,5'"), "spec.windows.0.schedule", 8, "times a day"},
		{window("schedule: FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30"), "spec.windows.0.schedule", 8, "never comes"},
		{window("schedule: FREQ=DAILY;BYDAY=XX"), "spec.windows.0.schedule", 8, "no RRULE"},
		{window("schedule: FREQ=DAILY;INTERVAL=-1"), "spec.windows.0.schedule", 8, "not negative"},
		{window("schedule: 0 0 * * *, timeZone: Europe/Berlinn"), "spec.windows.0.timeZone", 8, "no time zone"},
		{window("schedule: 0 0 * * *, timeZone: Local"), "spec.windows.0.timeZone", 8, "no time zone"},
		{window("schedule: 0 0 * * *, timeZone: ../../etc/passwd"), "spec.windows.0.timeZone", 8, "no time zone"},
		{window("schedule: 0 0 * * *, clusterSelector: {matchExpressions: [{key: a, operator: Like}]}"), "spec.windows.0.clusterSelector", 8, "Like"},
	} {
		_, err := api.DecodeRollout("x/rollout.yaml", []byte(tt.text))
		var e *api.Error
		if !errors.As(err, &e) || e.File != "x/rollout.yaml" || e.Field != tt.field || e.Line != tt.line || !strings.Contains(e.Err.Error(), tt.says) {
			t.Errorf("%q: got %v, want %d: %s: %s", tt.text[len(head):], err, tt.line, tt.field, tt.says)
		}
	}
}

// A share rounds up for failures, and down, but to one at least, for parallelism.
func TestWave_rounding(t *testing.T) {
	share := func(n int) *api.Amount { return &api.Amount{Number: n, Percent: true} }
	for _, tt := range []struct {
		amount             *api.Amount
		n                  int
		parallel, failures int
	}{
		{nil, 7, 7, 0},
		{nil, 0, 1, 0},
		{&api.Amount{Number: 3}, 7, 3, 3},
		{share(25), 7, 1, 2},
		{share(25), 8, 2, 2},
		{share(10), 5, 1, 1},
		{share(99), 100, 99, 99},
		{share(100), 3, 3, 3},
		{share(1), 0, 1, 0},
	} {
		w := api.Wave{MaxParallel: tt.amount, MaxFailures: tt.amount}
		if p, f := w.Parallel(tt.n), w.Failures(tt.n); p != tt.parallel || f != tt.failures {
			t.Errorf("%v of %d: %d in parallel and %d failures, want %d and %d", tt.amount, tt.n, p, f, tt.parallel, tt.failures)
		}
	}
}

func TestCheckRollouts(t *testing.T) {
	file := func(name, rolloutName, choice string) api.RolloutFile {
		text := "apiVersion: flotilla.dev/v1alpha1\nkind: Rollout\nmetadata: {name: " + rolloutName + "}\nspec:\n  " + choice + "\n  waves: [{name: a, clusterSelector: {}}]\n"
		r, err := api.DecodeRollout(name, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return api.RolloutFile{File: name, Data: []byte(text), Rollout: r}
	}
	bundles := []api.Meta{{Name: "a", Labels: map[string]string{"tier": "x"}}, {Name: "b"}}
	for _, tt := range []struct {
		name  string
		files []api.RolloutFile
		want  string
	}{
		{"none", nil, ""},
		{"two", []api.RolloutFile{file("x.yaml", "x", "bundles: [a]"), file("y.yaml", "y", "bundles: [b]")}, ""},
		{"one name", []api.RolloutFile{file("x.yaml", "x", "bundles: [a]"), file("y.yaml", "x", "bundles: [b]")}, `y.yaml:3: metadata.name: rollout "x" is also in x.yaml`},
		{"one bundle", []api.RolloutFile{file("x.yaml", "x", "bundles: [a]"), file("y.yaml", "y", "bundles: [b, a]")}, `y.yaml:5: spec.bundles.1: bundle "a" is also in rollout "x" of x.yaml: it can move with one of them only`},
		{"one bundle, selected", []api.RolloutFile{file("x.yaml", "x", "bundles: [a]"), file("y.yaml", "y", "bundleSelector: {matchLabels: {tier: x}}")}, `y.yaml:5: spec.bundleSelector: bundle "a" is also in rollout "x" of x.yaml: it can move with one of them only`},
		{"no such bundle", []api.RolloutFile{file("x.yaml", "x", "bundles: [a, c]")}, `x.yaml:5: spec.bundles.1: there is no bundle "c"`},
	} {
		got := ""
		if err := api.CheckRollouts(tt.files, bundles); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestRolloutContent(t *testing.T) {
	seen := map[string]bool{}
	for _, digests := range []map[string]string{nil, {"a": "1"}, {"a": "2"}, {"b": "1"}, {"a": "1", "b": "1"}} {
		seen[api.RolloutContent(digests)] = true
	}
	if len(seen) != 5 || seen[""] {
		t.Errorf("contents are not told apart: %v", seen)
	}
	if api.RolloutContent(nil) != api.RolloutContent(map[string]string{}) {
		t.Error("two contents of nothing")
	}
}
