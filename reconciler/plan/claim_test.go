package plan

import (
	"slices"
	"strings"
	"testing"
)

func TestClaimants(t *testing.T) {
	tenant := func(bundle string) string { // "x-y" is bundle y of tenant x
		before, _, of := strings.Cut(bundle, "-")
		if !of {
			return ""
		}
		return before
	}
	for _, tt := range []struct{ bundles, owner, want string }{
		{"b a", "", "a b"},
		{"b a", "b", "b a"},
		{"a-x z", "", "z a-x"},
		{"a-x z", "a-x", "a-x z"},
		{"b-x a-y", "", "a-y b-x"},
		{"b-x a-y", "gone", "a-y b-x"},
		{"c-z b-x z a", "b-x", "b-x a z c-z"},
	} {
		in := strings.Fields(tt.bundles)
		if got := strings.Join(Claimants(in, tt.owner, tenant), " "); got != tt.want {
			t.Errorf("%s of %s: %s, want %s", tt.bundles, tt.owner, got, tt.want)
		}
		slices.Reverse(in)
		if got := strings.Join(Claimants(in, tt.owner, tenant), " "); got != tt.want {
			t.Errorf("the order counts: %s of %s: %s", tt.bundles, tt.owner, got)
		}
	}
}

func TestMayTake(t *testing.T) {
	for _, tt := range []struct {
		to, from string
		want     bool
	}{{"", "", true}, {"", "a", true}, {"a", "a", true}, {"a", "b", false}, {"a", "", false}} {
		if got := MayTake(tt.to, tt.from); got != tt.want {
			t.Errorf("%q from %q: %v", tt.to, tt.from, got)
		}
	}
}
