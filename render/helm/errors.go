package helm

import (
	"errors"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"helm.sh/helm/v3/pkg/chart"

	"github.com/flotilla-fleet/flotilla/api"
)

func failed(file string, err error) *api.Error {
	return &api.Error{Kind: api.Stalled, Reason: "HelmFailed", File: file, Err: err}
}

// schemaError shows what values.schema.json refuses, one line a value, with its path.
func schemaError(where string, err error) error {
	var lines []string
	for l := range strings.SplitSeq(err.Error(), "\n") {
		l = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(l), "- "))
		if l == "" || strings.HasPrefix(l, "values don't meet the specifications") || strings.HasSuffix(l, ":") && !strings.Contains(l, " ") {
			continue
		}
		lines = append(lines, l)
	}
	e := failed(path.Join(where, "values.schema.json"), errors.New(strings.Join(lines, "; ")))
	e.Reason = "BadValues"
	if m := schemaPath.FindStringSubmatch(err.Error()); m != nil {
		e.Field = "values" + strings.ReplaceAll(m[1], "/", ".")
	}
	return e
}

var schemaPath = regexp.MustCompile(`at '(/[^']*)'`)

var templateAt = regexp.MustCompile(`([^\s():]+/templates/[^\s():]+):(\d+)(?::\d+)?`)

// templateError finds the template and line in Helm's words.
func templateError(where, name string, err error) error {
	msg := err.Error()
	e := failed(where, nil)
	if m := templateAt.FindStringSubmatch(msg); m != nil {
		e.File = path.Join(where, strings.TrimPrefix(m[1], name+"/"))
		e.Line, _ = strconv.Atoi(m[2])
	}
	for _, prefix := range []string{"execution error at (", "parse error at ("} {
		if rest, ok := strings.CutPrefix(msg, prefix); ok {
			if _, after, ok := strings.Cut(rest, "): "); ok {
				msg = after
			}
		}
	}
	if len(msg) > 600 {
		msg = msg[:600] + "…"
	}
	e.Err = errors.New(msg)
	return e
}

var (
	randomCall = regexp.MustCompile(`\b(?:randAlphaNum|randAlpha|randNumeric|randAscii|randBytes|randInt|uuidv4|shuffle|` +
		`genPrivateKey|genCA|genCAWithKey|genSelfSignedCert|genSelfSignedCertWithKey|genSignedCert|genSignedCertWithKey|` +
		`htpasswd|bcrypt|encryptAES)\b`)
	clockCall = regexp.MustCompile(`[({|\s](?:now|ago)\b`)
	action    = regexp.MustCompile(`(?s)\{\{.*?\}\}`)
)

// unstable names the templates whose output can differ from render to render.
func unstable(ch *chart.Chart) (random, clocked []string) {
	for _, t := range ch.Templates {
		if slices.ContainsFunc(action.FindAll(t.Data, -1), randomCall.Match) {
			random = append(random, ch.ChartFullPath()+"/"+t.Name)
		}
		if slices.ContainsFunc(action.FindAll(t.Data, -1), clockCall.Match) {
			clocked = append(clocked, ch.ChartFullPath()+"/"+t.Name)
		}
	}
	for _, d := range ch.Dependencies() {
		r, c := unstable(d)
		random, clocked = append(random, r...), append(clocked, c...)
	}
	return random, clocked
}
