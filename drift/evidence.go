package drift

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"sort"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	paths "github.com/flotilla-fleet/flotilla/api/fieldpath"
)

// EvidenceOf is what is stored of a live object before it is corrected. It is nil for an absent object.
func EvidenceOf(live *unstructured.Unstructured) *api.Evidence { return evidenceOf(live, nil) }

// evidenceOf is EvidenceOf that rather leaves out other fields than those at the given places.
func evidenceOf(live *unstructured.Unstructured, matter []trail) *api.Evidence {
	if live == nil {
		return nil
	}
	e := &api.Evidence{ResourceVersion: live.GetResourceVersion(), Generation: live.GetGeneration()}
	o := live.DeepCopy()
	fields, _, _ := unstructured.NestedFieldNoCopy(o.Object, "metadata", "managedFields")
	e.ManagedFields = text(fit(fields, api.MaxEvidenceBytes, nil))
	unstructured.RemoveNestedField(o.Object, "metadata", "managedFields")
	maskObject(o)
	e.Live = text(fit(o.Object, api.MaxEvidenceBytes, matter))
	return e
}

// evidence is what is stored of the live object, with the editor's name as episodes may show it.
func (in Input) evidence(diffs []difference) *api.Evidence {
	live, name := in.Live, annotations(in.Live)[api.AnnotationLastEditor]
	if in.Person != nil && name != "" {
		live = live.DeepCopy()
		a := live.GetAnnotations()
		if a[api.AnnotationLastEditor] = in.Person(name); a[api.AnnotationLastEditor] == "" {
			delete(a, api.AnnotationLastEditor)
		}
		live.SetAnnotations(a)
	}
	matter := []trail{{paths.Field("apiVersion")}, {paths.Field("kind")}}
	for _, key := range []string{"name", "namespace", "uid"} {
		matter = append(matter, trail{paths.Field("metadata"), paths.Field(key)})
	}
	for _, d := range diffs {
		matter = append(matter, d.path)
	}
	return evidenceOf(live, matter)
}

// omittedKey is the key, in a map, of the note on what was left out of it.
const omittedKey = "…"

// omission is the note that stands in place of what was left out: how much, and a digest to know it by.
func omission(what string, of any) string {
	s := text(of)
	return fmt.Sprintf("(omitted: %s%d bytes, sha256:%x)", what, len(s), sha256.Sum256([]byte(s)))
}

func counted(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s, ", n, what)
}

// noteBytes is room for an omission, quoted and with its key.
const noteBytes = 160

// fit is a JSON value of at most so many bytes. What matters comes first, then what is small;
// whatever is left out has a note in its place. Less than noteBytes is not to be had.
func fit(v any, room int, matter []trail) any {
	if len(text(v)) <= room {
		return v
	}
	switch v := v.(type) {
	case map[string]any:
		return fitMap(v, room, matter)
	case []any:
		return fitList(v, room, matter)
	case string:
		return fitString(v, room)
	}
	return omission("", v)
}

// part is one value of a map or list.
type part struct {
	key    string // or
	index  int
	value  any
	size   int // with its key and comma
	matter []trail
	first  bool
}

// leastShare is the part of a large value that is worth keeping.
const leastShare = 1 << 10

// fitParts gives each part its share of the room: all of it to what is small, and what is then left
// to the large ones in equal shares, or as many as fit. What matters leaves a quarter to the others. It returns what is kept and what is left out.
func fitParts(parts []part, room int) (kept, out []part) {
	room -= noteBytes + len("{}")
	slices.SortStableFunc(parts, func(a, b part) int {
		if a.first != b.first {
			if a.first {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.size, b.size)
	})
	others := 0
	for _, p := range parts {
		if !p.first {
			others += p.size
		}
	}
	for i, p := range parts {
		alike := slices.IndexFunc(parts[i:], func(o part) bool { return o.first != p.first })
		if alike < 0 {
			alike = len(parts) - i
		}
		free := room
		if p.first {
			free -= min(others, room/4)
		}
		share := min(free, max(free/alike, leastShare))
		overhead := p.size - len(text(p.value))
		switch {
		case p.size <= share:
		case share-overhead < noteBytes:
			out = append(out, p)
			continue
		default:
			p.value = fit(p.value, share-overhead, p.matter)
			p.size = overhead + len(text(p.value))
		}
		room -= p.size
		kept = append(kept, p)
	}
	return kept, out
}

func fitMap(m map[string]any, room int, matter []trail) any {
	var parts []part
	for _, k := range slices.Sorted(maps.Keys(m)) {
		p := part{key: k, value: m[k], size: len(text(k)) + len(text(m[k])) + len(":,")}
		p.matter, p.first = within(matter, func(s step) bool { return s.Elem.FieldName != nil && *s.Elem.FieldName == k })
		parts = append(parts, p)
	}
	kept, out := fitParts(parts, room)
	fitted, rest := map[string]any{}, map[string]any{}
	for _, p := range kept {
		fitted[p.key] = p.value
	}
	for _, p := range out {
		rest[p.key] = p.value
	}
	if len(rest) > 0 {
		fitted[omittedKey] = omission(counted(len(rest), "field"), rest)
	}
	return fitted
}

func fitList(l []any, room int, matter []trail) any {
	var parts []part
	for i, item := range l {
		p := part{index: i, value: item, size: len(text(item)) + len(",")}
		p.matter, p.first = within(matter, func(s step) bool {
			return s.Elem.FieldName == nil && (paths.IsItem(s.Elem, item) || s.Elem.Index != nil && *s.Elem.Index == i)
		})
		parts = append(parts, p)
	}
	kept, out := fitParts(parts, room)
	byPlace := func(a, b part) int { return a.index - b.index }
	slices.SortFunc(kept, byPlace)
	slices.SortFunc(out, byPlace)
	var fitted, rest []any
	for _, p := range kept {
		fitted = append(fitted, p.value)
	}
	for _, p := range out {
		rest = append(rest, p.value)
	}
	if len(rest) > 0 {
		fitted = append(fitted, omission(counted(len(rest), "item"), rest))
	}
	return fitted
}

// within are the trails that lead through a part, from there on. It reports whether there are any.
func within(matter []trail, through func(step) bool) (rest []trail, any bool) {
	for _, t := range matter {
		if len(t) > 0 && through(t[0]) {
			rest, any = append(rest, t[1:]), true
		}
	}
	return rest, any
}

// fitString keeps the beginning of a string.
func fitString(s string, room int) any {
	note := omission("", s)
	cut := func(n int) string {
		for n > 0 && !utf8.RuneStart(s[n]) {
			n--
		}
		return s[:n] + "…" + note
	}
	// JSON writes some characters longer, so that only trying tells how many fit.
	tooMany := sort.Search(min(len(s), room), func(n int) bool { return len(text(cut(n))) > room })
	if tooMany == 0 {
		return note
	}
	return cut(tooMany - 1)
}
