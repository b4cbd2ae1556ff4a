// Package suggest says what somebody may have meant by a name that does not exist.
// It knows names only: it asks no cluster, and never decides that a name is good.
package suggest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
)

// NoBundle says that a cluster has no such bundle, and which may be meant; the cluster is empty for the one at hand.
func NoBundle(name, cluster string, known []string) *api.Error {
	where := "this cluster"
	if cluster != "" {
		where = "cluster " + cluster
	}
	return &api.Error{
		Kind: api.Stalled, Reason: api.ReasonNoSuchBundle, Err: fmt.Errorf("there is no bundle %q on %s now", name, where),
		Hint: meant(name, known, "its bundles are"),
	}
}

// NoObject says that flotilla has no such object on the cluster at hand, and which may be meant.
func NoObject(object string, known []string) *api.Error {
	return &api.Error{
		Kind: api.Stalled, Reason: api.ReasonNoSuchObject, Err: fmt.Errorf("flotilla has no object %s on this cluster", object),
		Hint: meant(object, known, "known are"),
	}
}

// Objects are those that flotilla has on a cluster, in its inventory or as open drift, in order.
func Objects(inventory map[string][]api.InventoryEntry, open []api.Episode) []api.ObjectRef {
	var out []api.ObjectRef
	for _, entries := range inventory {
		for _, e := range entries {
			out = append(out, e.Object)
		}
	}
	for _, e := range open {
		out = append(out, e.Object)
	}
	slices.SortFunc(out, api.CompareRefs)
	return out
}

// meant names what is near, or else what there is.
func meant(word string, names []string, all string) string {
	if guess := Near(word, names); len(guess) > 0 {
		return "do you mean " + strings.Join(guess, " or ") + "?"
	}
	return all + ": " + Listed(names)
}

// Listed joins names for people, up to a bound.
func Listed(names []string) string {
	const most = 20
	switch n := len(names); {
	case n == 0:
		return "none"
	case n > most:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), n-most)
	}
	return strings.Join(names, ", ")
}

// Near returns those of names that may be meant by a word, the nearest first, three at most.
func Near(word string, names []string) []string {
	word = strings.ToLower(word)
	distance := map[string]int{}
	var out []string
	for _, name := range names {
		n := strings.ToLower(name)
		d := edits(word, n)
		if len(word) > 2 && (strings.HasPrefix(n, word) || strings.HasPrefix(word, n)) {
			d = min(d, 1)
		}
		if d <= max(1, len([]rune(word))/3) && !slices.Contains(out, name) {
			distance[name] = d
			out = append(out, name)
		}
	}
	slices.SortStableFunc(out, func(a, b string) int { return distance[a] - distance[b] })
	return out[:min(len(out), 3)]
}

// edits counts the letters to insert, to remove, to change or to swap with their neighbour to make one word the other.
func edits(a, b string) int {
	x, y := []rune(a), []rune(b)
	if len(x) > 100 || len(y) > 100 {
		return max(len(x), len(y)) // nobody mistypes so much
	}
	rows := make([][]int, len(x)+1)
	for i := range rows {
		rows[i] = make([]int, len(y)+1)
		rows[i][0] = i
	}
	for j := range y {
		rows[0][j+1] = j + 1
	}
	for i := range x {
		for j := range y {
			cost := 1
			if x[i] == y[j] {
				cost = 0
			}
			n := min(rows[i][j+1]+1, rows[i+1][j]+1, rows[i][j]+cost)
			if i > 0 && j > 0 && x[i] == y[j-1] && x[i-1] == y[j] {
				n = min(n, rows[i-1][j-1]+1)
			}
			rows[i+1][j+1] = n
		}
	}
	return rows[len(x)][len(y)]
}
