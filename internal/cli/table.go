package cli

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// tableWidth is how wide a table may be: what fits where people look at it.
const tableWidth = 100

// table is rows of cells that are made to fit.
type table struct {
	head []string
	rows [][]string
	// least is, for each column, how short it may be made; 0 is never.
	least []int
}

func (t *table) add(cells ...string) {
	for i, c := range cells {
		cells[i] = strings.Join(strings.Fields(c), " ")
		if cells[i] == "" {
			cells[i] = "-"
		}
	}
	t.rows = append(t.rows, cells)
}

const gap = "  "

// print writes the table, at most width wide if the columns that may be shortened allow it; 0 is as wide as it is.
func (t *table) print(w io.Writer, width int) {
	all := append([][]string{t.head}, t.rows...)
	widths := make([]int, len(t.head))
	for _, r := range all {
		for i, c := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	if width > 0 {
		t.shrink(widths, width)
	}
	for _, r := range all {
		var line strings.Builder
		for i, c := range r {
			c = shorten(c, widths[i])
			line.WriteString(c)
			if i < len(r)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c)) + gap)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

// shrink takes from the widest column that can give, until all fit.
func (t *table) shrink(widths []int, width int) {
	total := len(gap) * (len(widths) - 1)
	for _, n := range widths {
		total += n
	}
	for ; total > width; total-- {
		widest := -1
		for i, n := range widths {
			if i < len(t.least) && t.least[i] > 0 && n > t.least[i] && (widest < 0 || n > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		widths[widest]--
	}
}

// shorten cuts the middle out of a text that is longer than n characters: of paths and images the end says most.
func shorten(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	if n < 2 {
		return "…"
	}
	front := (n - 1) / 3
	return string(r[:front]) + "…" + string(r[len(r)-(n-1-front):])
}
