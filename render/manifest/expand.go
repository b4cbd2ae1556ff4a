package manifest

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/fluxcd/pkg/envsubst/parse"
)

// Bounds of one ${…}, and of what # and % compare: nobody waits for a pattern of a megabyte.
const (
	maxExpression = 4 << 10
	maxTrimmed    = 4 << 10
	maxPattern    = 256
)

// Expand replaces every ${…} in s, in the grammar of github.com/fluxcd/pkg/envsubst; $${ stands for a literal ${.
// Values are taken as they are: a ${ in a value is not looked at again.
//
// It differs from that library where the library would hide a mistake: a variable without a value and without a default
// is an error; a default is looked at only where it is used; ${name:?why} is an error that says why;
// and ${name:+text}, which shells and the library read differently, is refused.
func (v Variables) Expand(s string) (string, error) {
	out, _, err := (&expansion{vars: v}).text(s)
	return out, err
}

// expansion expands one string.
type expansion struct {
	vars Variables
	// cost is what patterns took, in bytes of text that would have taken as long.
	cost int
	// body is the first line of the expression that is being expanded, for errors.
	body string
}

// text expands a string. Whole reports whether it is nothing but one ${…}.
func (x *expansion) text(s string) (out string, whole bool, err error) {
	if !strings.Contains(s, "${") {
		return s, false, nil
	}
	var b strings.Builder
	for rest := s; ; {
		i := strings.Index(rest, "${")
		if i < 0 {
			b.WriteString(rest)
			return b.String(), whole, nil
		}
		before := strings.TrimRight(rest[:i+1], "$")
		dollars := i + 1 - len(before)
		b.WriteString(before)
		b.WriteString(strings.Repeat("$", dollars/2)) // $$ is a dollar
		if dollars%2 == 0 {
			b.WriteByte('{')
			rest = rest[i+2:]
			continue
		}
		expr, behind, closed := cutExpression(rest[i:])
		x.body = firstLine(rest[i+2:])
		if !closed {
			return "", false, x.malformed("a ${ is not closed (write $${ for a literal ${)")
		}
		x.body = firstLine(expr[2 : len(expr)-1])
		value, err := x.expression(expr)
		if err != nil {
			return "", false, err
		}
		if b.Len()+len(value) > maxText {
			return "", false, tooLong()
		}
		b.WriteString(value)
		whole = len(expr) == len(s)
		rest = behind
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func (x *expansion) malformed(format string, args ...any) error {
	return MalformedError{x.body, fmt.Sprintf(format, args...)}
}

func tooLong() error { return fmt.Errorf("its variables expand to more than %d MB", maxText>>20) }

// cutExpression cuts the ${…} off that s begins with, and those within it.
func cutExpression(s string) (expr, rest string, closed bool) {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch {
		case strings.HasPrefix(s[i:], "${"):
			depth++
			i++
		case s[i] == '}':
			if depth--; depth == 0 {
				return s[:i+1], s[i+1:], true
			}
		}
	}
	return s, "", false
}

func (x *expansion) expression(expr string) (string, error) {
	if len(expr) > maxExpression {
		return "", x.malformed("a ${…} is longer than %d bytes", maxExpression)
	}
	tree, err := parse.Parse(expr)
	if err == nil {
		if fn, ok := tree.Root.(*parse.FuncNode); ok {
			return x.call(fn)
		}
	}
	return "", x.malformed("a ${…} is neither ${name} nor ${name:-default} nor another form that flotilla knows (write $${ for a literal ${)")
}

// join expands the parts of an argument.
func (x *expansion) join(parts []parse.Node) (string, error) {
	var b strings.Builder
	for _, p := range parts {
		var text string
		var err error
		switch n := p.(type) {
		case *parse.TextNode:
			text = n.Value
		case *parse.ListNode:
			text, err = x.join(n.Nodes)
		case *parse.FuncNode:
			text, err = x.call(n)
		}
		if err != nil {
			return "", err
		}
		if b.Len()+len(text) > maxText {
			return "", tooLong()
		}
		b.WriteString(text)
	}
	return b.String(), nil
}

// call expands one ${…}.
func (x *expansion) call(fn *parse.FuncNode) (string, error) {
	value, set := x.vars[fn.Param]
	switch fn.Name {
	case ":-", ":=", "=":
		if value != "" {
			return value, nil
		}
		return x.join(fn.Args)
	case ":?":
		if value != "" {
			return value, nil
		}
		why, err := x.join(fn.Args)
		if err != nil {
			return "", err
		}
		return "", UnsetError{Name: fn.Param, Why: why, Required: true}
	case ":+":
		return "", x.malformed("${name:+text} is not supported: shells and Flux read it differently")
	}
	if !set {
		return "", UnsetError{Name: fn.Param}
	}
	args := make([]string, len(fn.Args))
	for i, a := range fn.Args {
		var err error
		if args[i], err = x.join([]parse.Node{a}); err != nil {
			return "", err
		}
	}
	return x.apply(fn.Name, value, args)
}

// apply does what an operator says with a value.
func (x *expansion) apply(operator, value string, args []string) (string, error) {
	switch operator {
	case "":
		return value, nil
	case ",", "^":
		return caseFirst(operator, value), nil
	case ",,":
		return strings.ToLower(value), nil
	case "^^":
		return strings.ToUpper(value), nil
	case ":":
		return x.substring(value, args)
	case "/", "//", "/#", "/%":
		return x.replace(operator, value, args)
	case "#":
		if len(args) == 0 {
			return strconv.Itoa(utf8.RuneCountInString(value)), nil
		}
	}
	return x.trim(operator, value, args)
}

func caseFirst(operator, value string) string {
	first, size := utf8.DecodeRuneInString(value)
	switch {
	case size == 0:
		return ""
	case operator == ",":
		return string(unicode.ToLower(first)) + value[size:]
	default:
		return string(unicode.ToUpper(first)) + value[size:]
	}
}

// substring counts characters. A negative offset counts from the end, and so does a negative length.
func (x *expansion) substring(value string, args []string) (string, error) {
	numbers := make([]int, len(args))
	for i, a := range args {
		n, err := strconv.Atoi(strings.TrimSpace(a))
		if err != nil || n > maxText || n < -maxText {
			return "", x.malformed("${name:offset:length} needs numbers")
		}
		numbers[i] = n
	}
	runes := []rune(value)
	from, to := numbers[0], len(runes)
	if from < 0 {
		from = max(0, len(runes)+from)
	}
	if len(numbers) > 1 {
		if to = from + numbers[1]; numbers[1] < 0 {
			to = len(runes) + numbers[1]
		}
	}
	from, to = min(from, len(runes)), min(to, len(runes))
	return string(runes[from:max(from, to)]), nil
}

func (x *expansion) replace(operator, value string, args []string) (string, error) {
	old, with := args[0], ""
	if len(args) > 1 {
		with = args[1]
	}
	switch operator {
	case "/":
		return strings.Replace(value, old, with, 1), nil
	case "/#":
		if rest, ok := strings.CutPrefix(value, old); ok {
			return with + rest, nil
		}
	case "/%":
		if rest, ok := strings.CutSuffix(value, old); ok {
			return rest + with, nil
		}
	default:
		if len(value)+strings.Count(value, old)*len(with) > maxText {
			return "", tooLong()
		}
		return strings.ReplaceAll(value, old, with), nil
	}
	return value, nil
}

// trim takes the shortest (#, %) or longest (##, %%) part off the beginning or the end that a pattern matches.
func (x *expansion) trim(operator, value string, args []string) (string, error) {
	pattern := args[0]
	if len(value) > maxTrimmed || len(pattern) > maxPattern {
		return "", x.malformed("${name%spattern} is for values of %d bytes and patterns of %d", operator, maxTrimmed, maxPattern)
	}
	x.cost += len(value) * len(pattern) / 16
	var expr string
	switch glob := expressionOf(pattern, "*"); operator {
	case "#":
		expr = `^` + expressionOf(pattern, "*?") + `((?s:.*))$`
	case "##":
		expr = `^` + glob + `((?s:.*?))$`
	case "%":
		expr = `^((?s:.*))` + glob + `$`
	default:
		expr = `^((?s:.*?))` + glob + `$`
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return "", x.malformed("the pattern of a ${name%spattern} cannot be read", operator)
	}
	if m := re.FindStringSubmatch(value); m != nil {
		return m[1], nil
	}
	return value, nil
}

// expressionOf turns a shell's pattern into a regular expression, in which stars take as much or as little as they can.
func expressionOf(pattern, star string) string {
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; c {
		case '*':
			b.WriteString("(?s:." + star + ")")
		case '?':
			b.WriteString("(?s:.)")
		case '[':
			end := strings.IndexByte(pattern[i:], ']')
			if end < 2 {
				b.WriteString("[") // which does not compile
				break
			}
			b.WriteString(classOf(pattern[i+1 : i+end]))
			i += end
		case '\\':
			if i++; i < len(pattern) {
				b.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
			}
		default:
			_, size := utf8.DecodeRuneInString(pattern[i:])
			b.WriteString(regexp.QuoteMeta(pattern[i : i+size]))
			i += size - 1
		}
	}
	return b.String()
}

// classOf turns what stands between the brackets of a pattern into a class of characters.
func classOf(set string) string {
	negated := ""
	if strings.HasPrefix(set, "^") || strings.HasPrefix(set, "!") {
		negated, set = "^", set[1:]
	}
	return "[" + negated + strings.NewReplacer(`\`, `\\`, `[`, `\[`, `^`, `\^`).Replace(set) + "]"
}
