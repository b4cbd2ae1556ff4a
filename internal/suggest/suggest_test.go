package suggest_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/flotilla-fleet/flotilla/internal/suggest"
)

func TestNear(t *testing.T) {
	names := []string{"podinfo", "podinfo-canary", "monitoring", "ingress", "web", "ConfigMap/app/settings"}
	for word, want := range map[string][]string{
		"podnfo": {"podinfo"}, "PODINFO": {"podinfo", "podinfo-canary"}, "pod": {"podinfo", "podinfo-canary"}, "wbe": {"web"}, "we": {"web"},
		"nothing": nil, "": nil, "x": nil, "ConfigMap/app/setings": {"ConfigMap/app/settings"}, strings.Repeat("x", 1<<20): nil,
	} {
		if got := suggest.Near(word, names); !slices.Equal(got, want) {
			t.Errorf("near %.40q are %q, want %q", word, got, want)
		}
	}
}
