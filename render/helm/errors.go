package helm

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/manifest"
)

func failed(file string, err error) *api.Error {
	return &api.Error{Kind: api.Stalled, Reason: "HelmFailed", File: file, Err: err}
}

// schemaError shows what values.schema.json refuses, one line a value, with its path.
// Its Field is that of the first, from the values of the chart on.
func schemaError(where, name string, err error) error {
	var lines []string
	field, within := "", ""
	for l := range strings.SplitSeq(err.Error(), "\n") {
		if !strings.HasPrefix(l, " ") && !strings.HasPrefix(l, "-") && strings.HasSuffix(l, ":") && !strings.Contains(l, " ") {
			if within = strings.TrimSuffix(l, ":"); within == name {
				within = ""
			}
			continue
		}
		l = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(l), "- "))
		if l == "" || strings.HasPrefix(l, "values don't meet the specifications") {
			continue
		}
		if within != "" {
			l = "subchart " + within + ": " + l
		}
		lines = append(lines, l)
		if m := schemaPath.FindStringSubmatch(l); m != nil && field == "" {
			field = "values" + strings.ReplaceAll(strings.TrimRight("/"+within, "/")+m[1], "/", ".")
			if key := schemaKey.FindStringSubmatch(m[2]); key != nil {
				field += "." + key[1]
			}
		}
	}
	e := failed(path.Join(where, "values.schema.json"), errors.New(strings.Join(lines, "; ")))
	e.Reason, e.Field = "BadValues", field
	return e
}

var (
	schemaPath = regexp.MustCompile(`at '(/[^']*|)': ([^\n]*)`)
	schemaKey  = regexp.MustCompile(`^(?:missing propert(?:y|ies)|additional properties) '([^']+)'`)
)

// loadError finds file, line and field in Helm's words about a chart that does not load.
func loadError(where string, files []*loader.BufferedFile, err error) *api.Error {
	msg := err.Error()
	e := failed(where, err)
	if m := notLoaded.FindStringSubmatch(msg); m != nil {
		e.File, msg = path.Join(where, m[1]), m[2]
		if m := yamlLine.FindStringSubmatch(msg); m != nil {
			e.Line, _ = strconv.Atoi(m[1])
			msg = m[2]
		}
		e.Err = errors.New(msg)
	}
	if m := metadataField.FindStringSubmatch(msg); m != nil {
		e.File, e.Field = path.Join(where, "Chart.yaml"), m[1]
		var raw []*chart.File
		for _, f := range files {
			raw = append(raw, &chart.File{Name: f.Name, Data: f.Data})
		}
		e.Line = max(1, chartLine(raw, m[1]))
	}
	return e
}

// chartLine finds a field in Chart.yaml; 0 if it is not there.
func chartLine(files []*chart.File, field string) int {
	for _, f := range files {
		if f.Name != "Chart.yaml" {
			continue
		}
		docs, err := manifest.Parse(f.Name, f.Data)
		if err != nil || len(docs) == 0 {
			return 0
		}
		if n := manifest.Get(docs[0].Node, field); n != nil {
			return n.Line
		}
	}
	return 0
}

var (
	notLoaded     = regexp.MustCompile(`cannot load (\S+): (?:error converting YAML to JSON: |error unmarshaling JSON: )?(.*)`)
	yamlLine      = regexp.MustCompile(`yaml: line (\d+): (.*)`)
	metadataField = regexp.MustCompile(`chart\.metadata\.(\w+)`)
)

var (
	// templateAt is where Helm is in a template: the chain of includes has several, the innermost last.
	templateAt = regexp.MustCompile(`([^\s():]+/(?:templates|charts)/[^\s():]+):(\d+)(?::\d+)?`)
	// evaluating is what it was about, and the reason.
	evaluating = regexp.MustCompile(`^.* at <(.*?)>: (.*)$`)
	// valueRef is a use of a value.
	valueRef = regexp.MustCompile(`\.Values((?:\.[A-Za-z_]\w*)+)`)
)

// Position is a line of a template.
type Position struct {
	File string
	Line int
}

func (p Position) String() string { return p.File + ":" + strconv.Itoa(p.Line) }

// templateError finds the template, its line and the value in Helm's words.
func templateError(where string, ch *chart.Chart, err error) error {
	msg := err.Error()
	e := failed(where, nil)
	inRepository := func(name string) string { return path.Join(where, strings.TrimPrefix(name, ch.Name()+"/")) }
	lines := map[string][]string{}
	eachTemplate(ch, func(name string, data []byte) { lines[inRepository(name)] = strings.Split(string(data), "\n") })

	var chain []Position
	for _, m := range templateAt.FindAllStringSubmatch(msg, -1) {
		line, _ := strconv.Atoi(m[2])
		chain = append(chain, Position{inRepository(m[1]), line})
	}
	about := ""
	if m := evaluating.FindStringSubmatch(msg); m != nil {
		about, msg = m[1], m[1]+": "+m[2]
	}
	for _, prefix := range []string{"execution error at (", "parse error at ("} {
		if rest, ok := strings.CutPrefix(msg, prefix); ok {
			if _, after, ok := strings.Cut(rest, "): "); ok {
				msg = after
			}
			// Of what "fail" and "required" say, Helm tells where the outermost include stands.
			if said, ok := saidAt(lines, msg); ok && (len(chain) == 0 || chain[len(chain)-1] != said) {
				chain = append(chain, said)
			}
		}
	}
	if n := len(chain); n > 0 {
		at := chain[n-1]
		e.File, e.Line = at.File, at.Line
		if src := lines[at.File]; valueRef.FindString(about) == "" && at.Line > 0 && at.Line <= len(src) {
			about = src[at.Line-1]
		}
		for _, p := range slices.Backward(chain[:n-1]) {
			if p != at {
				msg += ", included from " + p.String()
			}
		}
	}
	if refs := valueRef.FindAllStringSubmatch(about, -1); len(refs) == 1 {
		e.Field = "values" + refs[0][1]
	}
	if len(msg) > 600 {
		msg = msg[:600] + "…"
	}
	e.Err = errors.New(msg)
	return e
}

// saidAt finds the one line that makes a template fail with a message.
func saidAt(lines map[string][]string, msg string) (at Position, found bool) {
	for file, src := range lines {
		for i, line := range src {
			if !strings.Contains(line, strconv.Quote(msg)) || !strings.Contains(line, "fail") && !strings.Contains(line, "required") {
				continue
			}
			if found {
				return Position{}, false
			}
			at, found = Position{file, i + 1}, true
		}
	}
	return at, found
}

// eachTemplate calls f for the templates of a chart and its subcharts, with their names as Helm tells them.
func eachTemplate(ch *chart.Chart, f func(name string, data []byte)) {
	for _, t := range ch.Templates {
		f(ch.ChartFullPath()+"/"+t.Name, t.Data)
	}
	for _, d := range ch.Dependencies() {
		eachTemplate(d, f)
	}
}

var (
	randomCall = regexp.MustCompile(`\b(?:randAlphaNum|randAlpha|randNumeric|randAscii|randBytes|randInt|uuidv4|shuffle|` +
		`genPrivateKey|genCA|genCAWithKey|genSelfSignedCert|genSelfSignedCertWithKey|genSignedCert|genSignedCertWithKey|` +
		`htpasswd|bcrypt|encryptAES)\b`)
	clockCall = regexp.MustCompile(`[({|\s](?:now|ago)\b`)
	action    = regexp.MustCompile(`(?s)\{\{.*?\}\}`)
	// clock is the function of the time, with what comes before it, or a text that may hold its name.
	clock = regexp.MustCompile("\"(?:[^\"\\\\]|\\\\.)*\"|`[^`]*`|[({|\\s]now\\b")
)

// setClock has the templates find a time that stands still.
func setClock(ch *chart.Chart, at time.Time) {
	const layout = "2006-01-02 15:04:05"
	fixed := fmt.Appendf(nil, "(toDate %q %q)", layout, at.Local().Format(layout))
	for _, t := range ch.Templates {
		t.Data = action.ReplaceAllFunc(t.Data, func(in []byte) []byte {
			return clock.ReplaceAllFunc(in, func(call []byte) []byte {
				if before, ok := bytes.CutSuffix(call, []byte("now")); ok {
					return slices.Concat(before, fixed)
				}
				return call
			})
		})
	}
	for _, d := range ch.Dependencies() {
		setClock(d, at)
	}
}

// unstable names the templates whose output can differ from render to render, with the line that does it.
func unstable(where string, ch *chart.Chart) (random, clocked []Position) {
	eachTemplate(ch, func(name string, data []byte) {
		file := path.Join(where, strings.TrimPrefix(name, ch.Name()+"/"))
		if line := lineOf(data, randomCall); line > 0 {
			random = append(random, Position{file, line})
		}
		if line := lineOf(data, clockCall); line > 0 {
			clocked = append(clocked, Position{file, line})
		}
	})
	return random, clocked
}

// lineOf is the line of the first action that holds a call, 0 for none.
func lineOf(data []byte, call *regexp.Regexp) int {
	for _, at := range action.FindAllIndex(data, -1) {
		if in := call.FindIndex(data[at[0]:at[1]]); in != nil {
			return 1 + bytes.Count(data[:at[0]+in[1]], []byte("\n"))
		}
	}
	return 0
}
