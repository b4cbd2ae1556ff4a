package plan

import (
	"slices"

	"github.com/flotilla-fleet/flotilla/api/fieldpath"
)

// LeavesEmpty reports whether a desired object has a map without anything in it, such as securityContext: {}.
func LeavesEmpty(desired map[string]any) bool {
	for key, v := range desired {
		if key != "metadata" && holdsEmpty(v) {
			return true
		}
	}
	return false
}

func holdsEmpty(v any) bool {
	switch x := v.(type) {
	case map[string]any:
		if len(x) == 0 {
			return true
		}
		for _, part := range x {
			if holdsEmpty(part) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(x, holdsEmpty)
	}
	return false
}

// Emptied reports whether an object lacks a map that was sent empty. Where an apply takes our last field out of a map, the
// API server takes the map away as well, although it is in what was sent: a second apply of the same puts it there.
// The items of lists are matched by name, else by their place; of an item that cannot be found nothing is known.
func Emptied(sent, answer map[string]any) bool {
	for key, v := range sent {
		if key != "metadata" && emptied(v, answer[key]) {
			return true
		}
	}
	return false
}

func emptied(sent, answer any) bool {
	switch x := sent.(type) {
	case map[string]any:
		if answer == nil {
			return len(x) == 0
		}
		have, _ := answer.(map[string]any)
		for key, v := range x {
			if emptied(v, have[key]) {
				return true
			}
		}
	case []any:
		have, _ := answer.([]any)
		for i, item := range x {
			if j := counterpart(item, i, have); j >= 0 && !fieldpath.Hollow(have[j]) && emptied(item, have[j]) {
				return true
			}
		}
	}
	return false
}
