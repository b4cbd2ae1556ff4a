package check

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
)

// order says that findings with a reason are meant, and why.
type order struct {
	reason Reason
	why    string
}

// cannotIgnore are findings that stay, whatever anybody says.
var cannotIgnore = []Reason{BadFleetFile, TenantDenied, CannotRender, BadIgnore}

// readOrder reads REASON: WHY.
func readOrder(text string) (order, error) {
	name, why, _ := strings.Cut(text, ":")
	o := order{Reason(strings.TrimSpace(name)), strings.TrimSpace(why)}
	switch {
	case !slices.ContainsFunc(Reasons(), func(a About) bool { return a.Reason == o.reason }):
		return o, fmt.Errorf("cannot ignore %q: there is no such reason", o.reason)
	case slices.Contains(cannotIgnore, o.reason):
		return o, fmt.Errorf("cannot ignore %s: it stays a finding", o.reason)
	case o.why == "":
		return o, fmt.Errorf("cannot ignore %s: there is no word of why, behind a colon", o.reason)
	}
	return o, nil
}

// annotated are the orders that stand beside an object, by bundle and object.
type annotated map[string][]string

func (r *run) annotations() annotated {
	out := annotated{}
	for _, key := range slices.Sorted(maps.Keys(r.bundles)) {
		b := r.bundles[key]
		for _, i := range b.items {
			if text := i.object.GetAnnotations()[api.AnnotationCheckIgnore]; text != "" {
				key := b.name + "\x00" + i.ref.ID()
				for line := range strings.Lines(text) {
					if line = strings.TrimSpace(line); line != "" && !slices.Contains(out[key], line) {
						out[key] = append(out[key], line)
					}
				}
			}
		}
	}
	return out
}

// comment is an order in a file.
var comment = regexp.MustCompile(`#\s*flotilla:ignore\b\s*(.*)$`)

// ignore marks what is meant, and adds findings for orders that cannot be followed.
func ignore(found []Finding, beside annotated, where *places) []Finding {
	bad := newCollector()
	for i := range found {
		f := &found[i]
		if f.Object != nil {
			for _, text := range beside[f.Bundle+"\x00"+f.Object.ID()] {
				o, err := readOrder(text)
				f.obey(o, err, bad, Finding{Bundle: f.Bundle, File: f.File, Object: f.Object, Field: "metadata.annotations"})
			}
		}
		lines := where.file(f.File).lines()
		for _, n := range near(lines, f.Line) {
			if m := comment.FindStringSubmatch(lines[n]); m != nil {
				o, err := readOrder(m[1])
				f.obey(o, err, bad, Finding{File: f.File, Line: n + 1})
			}
		}
	}
	wrong := bad.all()
	for i := range wrong {
		if wrong[i].Line == 0 {
			wrong[i].Line = where.line(wrong[i])
		}
	}
	return append(found, wrong...)
}

// obey follows an order, if it is about the finding. At says where it stands.
func (f *Finding) obey(o order, err error, bad *collector, at Finding) {
	switch {
	case err != nil:
		at.Reason, at.Message = BadIgnore, err.Error()
		bad.add(at, "")
	case o.reason == f.Reason && f.Ignored == "":
		f.Ignored = o.why
	}
}

// near are the lines whose comments are about a line: itself, the comments directly above, and those with which the file begins.
func near(lines []string, line int) []int {
	isComment := func(n int) bool { return strings.HasPrefix(strings.TrimSpace(lines[n]), "#") }
	var out []int
	for n := 0; n < len(lines) && isComment(n); n++ {
		out = append(out, n)
	}
	if line < 1 || line > len(lines) {
		return out
	}
	if !slices.Contains(out, line-1) {
		out = append(out, line-1)
	}
	for n := line - 2; n >= 0 && isComment(n) && !slices.Contains(out, n); n-- {
		out = append(out, n)
	}
	return out
}
