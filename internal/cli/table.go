package cli

import (
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/flotilla-fleet/flotilla/internal/terminal"
)

// room is what there is for a table.
type room struct {
	// wide asks for all columns, and for words that are not shortened.
	wide bool
	// width is how wide the table may be; 0 is as wide as it is.
	width int
}

// leastWidth is how wide a table may be on the narrowest terminal: less would leave nothing to read.
const leastWidth = 80

// widthOf is the width of a terminal, and 0 for what a program reads: there nothing is cut.
func widthOf(w *terminal.Printer) int {
	f, ok := w.Under().(*os.File)
	if !ok {
		return 0
	}
	n, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return max(n, leastWidth)
}

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
func (t *table) print(w *terminal.Printer, width int) {
	all := append([][]string{t.head}, t.rows...)
	for i, r := range all {
		all[i] = make([]string, len(r))
		for j, c := range r {
			all[i][j] = terminal.Line(c)
		}
	}
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
		w.Println(strings.TrimRight(line.String(), " "))
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
