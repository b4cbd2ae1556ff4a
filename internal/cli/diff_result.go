package cli

import (
	_ "embed"
	"fmt"
	"html/template"
	"slices"
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/redact"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
	"github.com/flotilla-fleet/flotilla/render/compare"
)

// printResult prints what differs between two revisions.
func printResult(out *terminal.Printer, format string, r compare.Result, names ends) error {
	p := page{Result: r, From: names.from, To: names.to}
	switch format {
	case "json":
		return data(out, terminal.JSON, struct {
			From string `json:"from"`
			To   string `json:"to"`
			compare.Result
		}{names.from, names.to, r})
	case "yaml":
		return data(out, terminal.YAML, r)
	case "markdown":
		out.Printf("%s", terminal.Laid(p.markdown()))
		return nil
	case "html":
		return diffPage.Execute(out, p)
	}
	p.text(out)
	return nil
}

// page is a result as people read it.
type page struct {
	compare.Result
	From, To string
}

// Headline is the summary in one sentence.
func (p page) Headline() string {
	s := p.Summary
	if len(p.Bundles) == 0 {
		return fmt.Sprintf("Nothing changes on %s.", countOf(s.Clusters, "cluster"))
	}
	var counts []string
	for _, c := range []struct {
		n    int
		what string
	}{{s.Created, "created"}, {s.Changed, "changed"}, {s.Deleted, "deleted"}, {s.Moved, "moved between bundles"}, {s.Released, "left on the cluster"}} {
		if c.n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	objects := "no objects"
	if len(counts) > 0 {
		objects = "objects: " + strings.Join(counts, ", ")
	}
	return fmt.Sprintf("%d of %s, %s; %s.", s.Affected, countOf(s.Clusters, "cluster"), countOf(s.Bundles, "bundle"), objects)
}

func countOf(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Where names clusters.
func (p page) Where(clusters []string) string { return clustersText(clusters, p.Summary.Clusters) }

// part is a bundle's variants of one sort.
type part struct {
	Bundle string
	compare.Variant
}

// Routine are the variants in which nothing but versions change; Rest are the others.
func (p page) Routine() []part { return p.parts(true) }
func (p page) Rest() []part    { return p.parts(false) }

func (p page) parts(routine bool) []part {
	var out []part
	for _, b := range p.Bundles {
		for _, v := range b.Variants {
			if v.Routine == routine {
				out = append(out, part{b.Bundle, v})
			}
		}
	}
	return out
}

// Title says what happens to the bundle, and where.
func (p page) Title(v part) string {
	title := fmt.Sprintf("%s: %s on %s", v.Bundle, v.Kind, p.Where(v.Clusters))
	if v.Outlier {
		title += " (unlike the others)"
	}
	return title
}

// Versions lists the changes of a routine variant, each once.
func (part) Versions(v part) []string {
	var out []string
	for _, f := range slices.Concat(fieldsIn(v.Objects), v.Settings) {
		if strings.HasSuffix(f.Path, "/image") || f.Path == "/helm/version" {
			if line := fmt.Sprintf("%s → %s", unquoted(f.Before), unquoted(f.After)); !slices.Contains(out, line) {
				out = append(out, line)
			}
		}
	}
	return out
}

func fieldsIn(objects []compare.Object) []compare.Field {
	var out []compare.Field
	for _, o := range objects {
		out = append(out, o.Fields...)
	}
	return out
}

func unquoted(s string) string { return strings.Trim(s, `"`) }

// Line is a danger in one line.
func (p page) Line(d compare.Danger) string {
	what := d.Detail
	if d.Object.Kind != "" {
		what = d.Object.String() + ": " + what
	}
	if d.Bundle != "" {
		what = "bundle " + d.Bundle + ": " + what
	}
	return redact.Text(what) + " (" + p.Where(d.Clusters) + ")"
}

// ObjectLine is what happens to an object.
func (page) ObjectLine(o compare.Object) string {
	line := string(o.Kind) + " " + o.Object.String()
	if o.Kind == compare.Moved {
		line += ", the other bundle is " + o.Other
	}
	if o.Kind == compare.Released {
		line += ": it leaves Git and stays on the cluster"
	}
	return line
}

// shown is how much of a value people see; JSON has all of it.
const shown = 160

// FieldLine is a field before and after.
func (page) FieldLine(f compare.Field) string {
	path := f.Path
	if path == "" {
		path = "/"
	}
	return fmt.Sprintf("%s: %s → %s", path, absent(cut(f.Before)), absent(cut(f.After)))
}

func cut(s string) string {
	runes := []rune(redact.Text(s))
	if len(runes) <= shown {
		return string(runes)
	}
	return string(runes[:shown]) + "…"
}

func (p page) text(out *terminal.Printer) {
	out.Printf("%s → %s: %s\n", p.From, p.To, p.Headline())
	for _, name := range p.Joined {
		out.Printf("cluster %s joins\n", name)
	}
	for _, name := range p.Left {
		out.Printf("cluster %s leaves\n", name)
	}
	if len(p.Dangers) > 0 {
		out.Printf("\nDANGERS\n")
		for _, d := range p.Dangers {
			out.Printf("  %-17s %s\n", string(d.Reason), terminal.Line(p.Line(d)))
		}
	}
	for _, v := range p.Rest() {
		out.Printf("\n%s\n", terminal.Line(p.Title(v)))
		p.variant(out, v)
	}
	if routine := p.Routine(); len(routine) > 0 {
		out.Printf("\nROUTINE\n")
		for _, v := range routine {
			out.Printf("  %s on %s: %s\n", v.Bundle, p.Where(v.Clusters), terminal.Line(strings.Join(v.Versions(v), ", ")))
		}
	}
}

func (p page) variant(out *terminal.Printer, v part) {
	if v.Error != "" {
		out.Printf("  %s\n", terminal.Line(redact.Text(v.Error)))
	}
	for _, f := range v.Settings {
		out.Printf("  bundle's own settings %s\n", terminal.Line(p.FieldLine(f)))
	}
	for _, o := range v.Objects {
		out.Printf("  %s\n", terminal.Line(p.ObjectLine(o)))
		for _, f := range o.Fields {
			out.Printf("      %s\n", terminal.Line(p.FieldLine(f)))
		}
	}
}

// Marker stands first in the markdown, so that whoever posts it finds the comment to update.
const Marker = "<!-- flotilla diff -->"

// commentLimit is somewhat less than what GitHub takes for a comment, 65,536 characters.
const commentLimit = 60_000

// markdown is for a comment on a pull request.
func (p page) markdown() string {
	var b strings.Builder
	out := terminal.To(&b)
	out.Printf("%s\n### flotilla: %s → %s\n\n%s\n", Marker, code(p.From), code(p.To), p.Headline())
	if names := slices.Concat(p.Joined, p.Left); len(names) > 0 {
		out.Printf("\nClusters that join: %d, that leave: %d (%s)\n", len(p.Joined), len(p.Left), someOf(names))
	}
	if len(p.Dangers) > 0 {
		b.WriteString("\n#### Dangers\n\n| reason | what | clusters |\n| --- | --- | --- |\n")
		for _, d := range p.Dangers {
			what := d.Detail
			if d.Object != (api.ObjectRef{}) {
				what = d.Object.String() + ": " + what
			}
			if d.Bundle != "" {
				what = d.Bundle + ": " + what
			}
			out.Printf("| **%s** | %s | %s |\n", d.Reason, cell(what), cell(p.Where(d.Clusters)))
		}
	}
	left := 0
	for _, v := range p.Rest() {
		var one strings.Builder
		terminal.To(&one).Printf("\n<details><summary>%s</summary>\n\n", template.HTMLEscapeString(terminal.Line(p.Title(v))))
		one.WriteString(fence(p.plain(v)))
		one.WriteString("\n</details>\n")
		if b.Len()+one.Len() > commentLimit {
			left++
			continue
		}
		b.WriteString(one.String())
	}
	if left > 0 {
		out.Printf("\n%d more changes do not fit into a comment: see the job's log.\n", left)
	}
	if routine := p.Routine(); len(routine) > 0 {
		b.WriteString("\n#### Routine\n\n")
		for i, v := range routine {
			line := fmt.Sprintf("- %s on %s: %s\n", cell(v.Bundle), cell(p.Where(v.Clusters)), cell(strings.Join(v.Versions(v), ", ")))
			if b.Len()+len(line) > commentLimit+2_000 {
				out.Printf("- and %d more\n", len(routine)-i)
				break
			}
			b.WriteString(line)
		}
	}
	return b.String()
}

func (p page) plain(v part) string {
	var b strings.Builder
	p.variant(terminal.To(&b), v)
	return b.String()
}

// fence puts a text where nothing in it is markdown: between more backquotes than it holds in a row.
func fence(text string) string {
	ticks := "```"
	for strings.Contains(text, ticks) {
		ticks += "`"
	}
	return ticks + "diff\n" + text + ticks + "\n"
}

// code is a word that nothing in it ends.
func code(s string) string { return "`" + strings.ReplaceAll(terminal.Line(s), "`", "'") + "`" }

var markdownEscape = strings.NewReplacer(
	"|", `\|`, "<", "&lt;", ">", "&gt;", "`", "\\`", "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`, "@", "@\u200b", "#", `\#`, "\\", `\\`,
)

// cell is a text in a table: no markup, no mention of anybody.
func cell(s string) string { return markdownEscape.Replace(terminal.Line(cut(s))) }

//go:embed diff.html.tmpl
var diffTemplate string

// diffPage escapes whatever is put into it.
var diffPage = template.Must(template.New("diff").Parse(diffTemplate))
