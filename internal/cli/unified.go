package cli

import (
	"fmt"
	"slices"
	"strings"
)

// contextLines is how many equal lines a diff shows around a difference.
const contextLines = 3

// maxDiffLines bounds what is compared line by line; beyond, all is shown as replaced.
const maxDiffLines = 4000

// unified is the difference between two texts as diff -u writes it; empty if there is none.
func unified(fromName, toName, from, to string) string {
	a, b := lines(from), lines(to)
	ops := lineOps(a, b)
	var out strings.Builder
	for i := 0; i < len(ops); {
		if ops[i].sign == ' ' {
			i++
			continue
		}
		begin := max(0, i-contextLines)
		end, equal := i, 0
		for j := i; j < len(ops) && equal <= 2*contextLines; j++ {
			if ops[j].sign == ' ' {
				equal++
				continue
			}
			end, equal = j+1, 0
		}
		end = min(len(ops), end+contextLines)
		if out.Len() == 0 {
			fmt.Fprintf(&out, "--- %s\n+++ %s\n", fromName, toName)
		}
		hunk(&out, ops[begin:end])
		i = end
	}
	return out.String()
}

type lineOp struct {
	sign byte // ' ', '-' or '+'
	text string
	// a and b are the lines' numbers on either side, from 1.
	a, b int
}

func hunk(w *strings.Builder, ops []lineOp) {
	var na, nb int
	for _, o := range ops {
		if o.sign != '+' {
			na++
		}
		if o.sign != '-' {
			nb++
		}
	}
	a, b := ops[0].a, ops[0].b
	if na == 0 {
		a--
	}
	if nb == 0 {
		b--
	}
	fmt.Fprintf(w, "@@ -%d,%d +%d,%d @@\n", a, na, b, nb)
	for _, o := range ops {
		fmt.Fprintf(w, "%c%s\n", o.sign, o.text)
	}
}

func lines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(s, "\n"), "\n")
}

// lineOps tells how a becomes b, by their longest common subsequence.
func lineOps(a, b []string) []lineOp {
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	x, y := a[head:len(a)-tail], b[head:len(b)-tail]
	common := commonTable(x, y)
	var out []lineOp
	i, j := 0, 0
	put := func(sign byte, text string) { out = append(out, lineOp{sign, text, i + 1, j + 1}) }
	step := func(sign byte, text string) {
		put(sign, text)
		if sign != '+' {
			i++
		}
		if sign != '-' {
			j++
		}
	}
	for _, l := range a[:head] {
		step(' ', l)
	}
	for p, q := 0, 0; p < len(x) || q < len(y); {
		switch {
		case p < len(x) && q < len(y) && x[p] == y[q]:
			step(' ', x[p])
			p, q = p+1, q+1
		case q == len(y) || (p < len(x) && common(p+1, q) >= common(p, q+1)):
			step('-', x[p])
			p++
		default:
			step('+', y[q])
			q++
		}
	}
	for _, l := range a[len(a)-tail:] {
		step(' ', l)
	}
	return out
}

// commonTable answers how many lines x[p:] and y[q:] have in common.
func commonTable(x, y []string) func(p, q int) int {
	if len(x) > maxDiffLines || len(y) > maxDiffLines {
		return func(int, int) int { return 0 }
	}
	w := len(y) + 1
	t := make([]int32, (len(x)+1)*w)
	for p, lx := range slices.Backward(x) {
		for q, ly := range slices.Backward(y) {
			if lx == ly {
				t[p*w+q] = t[(p+1)*w+q+1] + 1
			} else {
				t[p*w+q] = max(t[(p+1)*w+q], t[p*w+q+1])
			}
		}
	}
	return func(p, q int) int { return int(t[p*w+q]) }
}
