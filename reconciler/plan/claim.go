package plan

import (
	"cmp"
	"slices"
)

// Claimants sorts the bundles that declare one object, and the first of them has it: the bundle whose inventory holds it,
// else one of the platform before one of a tenant, and then the one whose name comes first.
// The owner is the bundle whose inventory holds the object; tenant returns a bundle's tenant, empty for the platform's.
func Claimants(bundles []string, owner string, tenant func(bundle string) string) []string {
	rank := func(bundle string) int {
		switch {
		case bundle == owner:
			return 0
		case tenant(bundle) == "":
			return 1
		}
		return 2
	}
	return slices.SortedFunc(slices.Values(bundles), func(a, b string) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
	})
}

// MayTake reports whether a bundle of one tenant may take an object over from a bundle of another: the platform from anybody,
// a tenant from itself alone. The platform is the empty one.
func MayTake(to, from string) bool { return to == "" || to == from }
