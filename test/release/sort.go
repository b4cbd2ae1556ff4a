package main

import (
	"cmp"
	"maps"
	"slices"
)

func sorted(m map[string][]byte) []string { return slices.Sorted(maps.Keys(m)) }

func sortEntries(all []entry) {
	slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(a.name, b.name) })
}
