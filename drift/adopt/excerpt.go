package adopt

import (
	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/api/fieldpath"
	"github.com/flotilla-fleet/flotilla/internal/yamledit"
)

// Excerpt puts fields where they stand in the manifest: what Git says of them, and what is live.
// Items of lists are there with the keys that tell them from the others. A value that was cut is there as text.
func Excerpt(fields []api.FieldDiff) (git, live map[string]any) {
	var a, b any = map[string]any{}, map[string]any{}
	for _, f := range fields {
		path := named(fieldpath.Parts(f.Path))
		if len(path) == 0 {
			continue
		}
		a, b = place(a, path, f.Desired), place(b, path, f.Live)
	}
	git, _ = a.(map[string]any)
	live, _ = b.(map[string]any)
	return git, live
}

// named makes fields of the items that are told by their number: an excerpt has not the others.
func named(path []fieldpath.Part) []fieldpath.Part {
	out := make([]fieldpath.Part, len(path))
	for i, p := range path {
		if n := yamledit.Guess(p.Name); p.Name != "" && i > 0 {
			if _, number := n.(int64); number {
				p = fieldpath.Part{Name: "[" + p.Name + "]"}
			}
		}
		out[i] = p
	}
	return out
}

// place puts one value into an excerpt; an absent one makes what is above it.
func place(root any, path []fieldpath.Part, text string) any {
	c := yamledit.Change{Path: path}
	if text == "" {
		item := path[len(path)-1].Name == ""
		if path = path[:len(path)-1]; len(path) == 0 {
			return root
		}
		// What is there already stays; what is not is there as empty.
		if _, there := fieldpath.Get(root, path); there {
			return root
		}
		c.Path, c.Value = path, map[string]any{}
		if last := path[len(path)-1]; item {
			c.Value = []any{}
		} else if last.Name == "" {
			c.Value = yamledit.Keyed(last)
		}
	} else if v, err := yamledit.ParseJSON(text); err == nil {
		c.Value = v
	} else {
		c.Value = text
	}
	next, err := yamledit.Set(root, c.Path, c)
	if err != nil {
		return root
	}
	return next
}
