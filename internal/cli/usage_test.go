package cli

import (
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/flotilla-fleet/flotilla/api"
)

func TestParseSpan(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"0": 0, "90s": 90 * time.Second, "1h30m": 90 * time.Minute, "5d": 5 * day, "2w": 14 * day, "1d12h": 36 * time.Hour,
		"1w1d1h": 8*day + time.Hour, "0d": 0, "100ms": 100 * time.Millisecond,
	} {
		if got, err := parseSpan(text); err != nil || got != want {
			t.Errorf("%q is %v (%v), want %v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "d", "5", "5x", "-5d", "5d-1h", "-1h", "+1h", "1h5d", "1d1w", "1.5d", "5d5d", "5 d", "99999999999d", "2147483647w", "106751d24h", "d5", "٣d",
	} {
		if got, err := parseSpan(text); err == nil {
			t.Errorf("%q is %v, want an error", text, got)
		}
	}
}

func FuzzParseSpan(f *testing.F) {
	for _, text := range []string{"5d", "1w2d3h", "-1h", "106751d23h", "0.5h"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseSpan(text)
		if d < 0 || err != nil && d != 0 {
			t.Errorf("%q is %v (%v)", text, d, err)
		}
		if plain, plainErr := time.ParseDuration(text); plainErr == nil && plain >= 0 && !strings.HasPrefix(text, "+") && (err != nil || d != plain) {
			t.Errorf("%q is %v (%v), and Go's %v", text, d, err, plain)
		}
	})
}

// Where no cluster is asked, the kinds that every cluster has go by all their names, and others stay as they are.
func TestCommonly(t *testing.T) {
	for text, want := range map[string]string{
		"deploy/a/b": "Deployment/a/b", "Deployments/a/b": "Deployment/a/b", "DEPLOYMENT/a/b": "Deployment/a/b", "deployment.apps/a/b": "Deployment.apps/a/b", "deployment.v1.apps/a/b": "Deployment.apps/a/b", "cm.v1./a/b": "ConfigMap/a/b",
		"ns/a": "Namespace/a", "netpol/a/b": "NetworkPolicy/a/b", "ingresses/a/b": "Ingress/a/b", "endpoints/a/b": "Endpoints/a/b", "crd/x.y": "CustomResourceDefinition/x.y",
		"widget/a/b": "widget/a/b", "deploy.example.com/a/b": "deploy.example.com/a/b",
	} {
		n, err := parseObject(text)
		if err == nil {
			n, err = n.commonly()
		}
		if err != nil || len(n.refs) != 1 || n.refs[0].String() != want {
			t.Errorf("%s is %v (%v), want %s", text, n.refs, err, want)
		}
		if n.known != (text != "widget/a/b" && text != "deploy.example.com/a/b") {
			t.Errorf("%s is known: %v", text, n.known)
		}
	}
	for _, text := range []string{"deploy/a", "ns/a/b"} {
		n, err := parseObject(text)
		if err == nil {
			n, err = n.commonly()
		}
		if err == nil || !strings.Contains(err.Error(), "write ") {
			t.Errorf("%s is %v, want an error that says what to write", text, n.refs)
		}
	}
	for _, text := range []string{"", "deploy", "/", "a//b", "a/b/c/d", "deploy/a/", "/a/b"} {
		if n, err := parseObject(text); err == nil {
			t.Errorf("%q is %v", text, n.refs)
		}
	}
}

// A kind that nobody can look up is compared with what there is, in any case and number, with its group if it is given.
func TestNamedObject_is(t *testing.T) {
	widget := api.ObjectRef{Group: "example.com", Kind: "Widget", Namespace: "a", Name: "b"}
	for text, want := range map[string]bool{
		"Widget/a/b": true, "widget/a/b": true, "widgets/a/b": true, "WIDGETS/a/b": true, "widget.example.com/a/b": true,
		"widget.example.org/a/b": false, "widget/a/c": false, "widget/b": false, "gadget/a/b": false,
	} {
		n, err := parseObject(text)
		if err != nil {
			t.Fatal(err)
		}
		if n.is(widget) != want {
			t.Errorf("%s is %s: %v", text, widget, !want)
		}
	}
}

func TestChoose(t *testing.T) {
	deploy := api.ObjectRef{Group: "apps", Kind: "Deployment", Namespace: "a", Name: "b"}
	noGroup := deploy
	noGroup.Group = ""
	all := api.Suspensions{
		{Name: "everything", Scope: api.Scope{All: true}},
		{Name: "bundles", Scope: api.Scope{Bundles: []string{"a", "b"}}},
		{Name: "full", Scope: api.Scope{Objects: []api.ObjectRef{deploy}}},
		{Name: "short", Scope: api.Scope{Objects: []api.ObjectRef{noGroup}}},
		{Name: "unreadable"},
	}
	look := func(text string) (namedObject, error) {
		n, err := parseObject(text)
		if err != nil {
			return n, err
		}
		return n.commonly()
	}
	for _, tt := range []struct {
		names []string
		flags scopeFlags
		want  []string
	}{
		{[]string{"full", "full"}, scopeFlags{}, []string{"full"}},
		{[]string{"nope"}, scopeFlags{}, nil},
		{nil, scopeFlags{all: true}, []string{"everything", "bundles", "full", "short", "unreadable"}},
		{nil, scopeFlags{bundles: []string{"b", "a"}}, []string{"bundles"}},
		{nil, scopeFlags{bundles: []string{"a"}}, nil},
		{nil, scopeFlags{objects: []string{"deploy/a/b"}}, []string{"full", "short"}},
		{nil, scopeFlags{objects: []string{"deployments.apps/a/b"}}, []string{"full", "short"}},
		{nil, scopeFlags{objects: []string{"deploy/a/c"}}, nil},
	} {
		got, err := choose(all, tt.names, tt.flags, look)
		var names []string
		for _, s := range got {
			names = append(names, s.Name)
		}
		if diff := cmp.Diff(tt.want, names); diff != "" || (err == nil) != (tt.want != nil) {
			t.Errorf("%q %+v: %v %s", tt.names, tt.flags, err, diff)
		}
	}
}

// Every command ends with 64 at what is typed wrongly, and takes spans of time in every unit.
func TestUsage_ofEveryCommand(t *testing.T) {
	commands, spans := 0, 0
	var walk func(cmd *cobra.Command, words []string)
	walk = func(cmd *cobra.Command, words []string) {
		for _, sub := range cmd.Commands() {
			walk(sub, append(slices.Clone(words), sub.Name()))
		}
		if !cmd.Runnable() || cmd.Hidden {
			return
		}
		commands++
		code, stdout, stderr := run(t, append(words, "--no-such-flag")...)
		if code != 64 || stdout != "" || !strings.Contains(stderr, "has no flag --no-such-flag") || !strings.Contains(stderr, "--help") {
			t.Errorf("%v --no-such-flag: %d, %q, %q", words, code, stdout, stderr)
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Value.Type() != "duration" {
				return
			}
			spans++
			for _, span := range []string{"90s", "30m", "24h", "5d", "2w", "1d12h"} {
				if err := f.Value.Set(span); err != nil {
					t.Errorf("%v --%s %s: %v", words, f.Name, span, err)
				}
			}
			if code, stdout, stderr := run(t, append(words, "--"+f.Name, "5x")...); code != 64 || stdout != "" || !strings.Contains(stderr, `"5x"`) {
				t.Errorf("%v --%s 5x: %d, %q, %q", words, f.Name, code, stdout, stderr)
			}
		})
	}
	walk(newRoot(IO{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard}), nil)
	if commands < 20 || spans < 4 {
		t.Errorf("%d commands and %d spans were tried", commands, spans)
	}
}
