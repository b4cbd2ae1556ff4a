package cli

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
	"github.com/flotilla-fleet/flotilla/render/check"
)

// hostileReport is a report with every reason, and with texts that try to be more than texts.
func hostileReport() checkReport {
	const evil = "a%0A::error::b\n::warning::c]]>&<x>\x1b[31m\x00|`@team`\u202e"
	var found []check.Finding
	for i, a := range check.Reasons() {
		f := check.Finding{
			Reason: a.Reason, Severity: a.Severity, Clusters: []string{"one", "two"}, Bundle: "web", File: "we b/" + evil + ".yaml", Line: i,
			Object: &api.ObjectRef{Group: "apps", Kind: "Deployment", Namespace: "web", Name: "web"}, Field: "spec." + evil, Message: evil, Do: a.Do,
		}
		found = append(found, f)
		f.Ignored, f.File, f.Object = evil, "", nil
		found = append(found, f)
	}
	return newCheckReport(found, nil, 3)
}

func printed(t *testing.T, r checkReport, format string) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.print(terminal.To(&b), format); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestCheck_sarif(t *testing.T) {
	file, err := os.ReadFile("testdata/formats/sarif.json")
	if err != nil {
		t.Fatal(err)
	}
	schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("sarif.json", schema); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("sarif.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]checkReport{"hostile": hostileReport(), "empty": newCheckReport(nil, nil, 1)} {
		text := printed(t, r, "sarif")
		doc, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(doc); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var log sarifLog
		if err := json.Unmarshal([]byte(text), &log); err != nil {
			t.Fatal(err)
		}
		for _, result := range log.Runs[0].Results {
			if rule := log.Runs[0].Tool.Driver.Rules[result.RuleIndex]; rule.ID != result.RuleID {
				t.Errorf("%s: rule %d is %s, and not %s", name, result.RuleIndex, rule.ID, result.RuleID)
			}
		}
	}
}

// junitChildren and junitAttributes are what the schema of JUnit's reports (as Jenkins and GitLab read them) allows of the elements
// that are written here; attributes with an exclamation mark are required.
var (
	junitChildren   = map[string][]string{"": {"testsuites"}, "testsuites": {"testsuite"}, "testsuite": {"testcase"}, "testcase": {"skipped", "failure"}}
	junitAttributes = map[string][]string{
		"testsuites": {}, "testsuite": {"name!", "tests!", "failures", "skipped", "errors"}, "testcase": {"name!", "classname!"},
		"skipped": {"message"}, "failure": {"message", "type"},
	}
)

func TestCheck_junit(t *testing.T) {
	for name, r := range map[string]checkReport{"hostile": hostileReport(), "empty": newCheckReport(nil, nil, 1)} {
		dec := xml.NewDecoder(strings.NewReader(printed(t, r, "junit")))
		var path []string
		counts := map[string]int{}
		declared := map[string]string{}
		for {
			token, err := dec.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			switch x := token.(type) {
			case xml.StartElement:
				parent := ""
				if len(path) > 0 {
					parent = path[len(path)-1]
				}
				if !slices.Contains(junitChildren[parent], x.Name.Local) {
					t.Errorf("%s: <%s> in <%s>", name, x.Name.Local, parent)
				}
				var have []string
				for _, a := range x.Attr {
					have = append(have, a.Name.Local)
					if x.Name.Local == "testsuite" {
						declared[a.Name.Local] = a.Value
					}
				}
				junitAttributesOf(t, x.Name.Local, have)
				counts[x.Name.Local]++
				path = append(path, x.Name.Local)
			case xml.EndElement:
				path = path[:len(path)-1]
			}
		}
		for attribute, element := range map[string]string{"tests": "testcase", "failures": "failure", "skipped": "skipped"} {
			if declared[attribute] != strconv.Itoa(counts[element]) {
				t.Errorf("%s: %s=%s, and there are %d", name, attribute, declared[attribute], counts[element])
			}
		}
		if counts["failure"] != len(r.Findings) || counts["skipped"] != len(r.Ignored) {
			t.Errorf("%s: %v", name, counts)
		}
	}
}

func junitAttributesOf(t *testing.T, element string, have []string) {
	t.Helper()
	for _, a := range junitAttributes[element] {
		if required, is := strings.CutSuffix(a, "!"); is && !slices.Contains(have, required) {
			t.Errorf("<%s> has no %s", element, required)
		}
	}
	for _, a := range have {
		if !slices.Contains(junitAttributes[element], a) && !slices.Contains(junitAttributes[element], a+"!") {
			t.Errorf("<%s> has %s", element, a)
		}
	}
}

// Each finding is one workflow command, one row or one block, whatever its texts are.
func TestCheck_textStaysText(t *testing.T) {
	r := hostileReport()
	commands := 0
	for line := range strings.Lines(printed(t, r, "github")) {
		if strings.HasPrefix(line, "::") {
			commands++
			properties, _, _ := strings.Cut(strings.TrimPrefix(line, "::"), "::")
			if !strings.Contains(properties, "title=") {
				t.Errorf("a command that data made: %s", line)
			}
		}
	}
	if commands != len(r.Findings) {
		t.Errorf("%d commands for %d findings", commands, len(r.Findings))
	}
	rows := 0
	for line := range strings.Lines(printed(t, r, "markdown")) {
		if strings.HasPrefix(line, "| error") || strings.HasPrefix(line, "| warning") || strings.HasPrefix(line, "| info") {
			rows++
			if strings.Contains(line, "<x>") || strings.Contains(line, "@team") {
				t.Errorf("data is markup: %s", line)
			}
		}
	}
	if rows != len(r.Findings) {
		t.Errorf("%d rows for %d findings", rows, len(r.Findings))
	}
	for _, format := range []string{"table", "github", "markdown", "json", "sarif", "junit"} {
		if text := printed(t, r, format); strings.ContainsAny(text, "\x1b\x00") {
			t.Errorf("%s speaks to a terminal", format)
		}
	}
}

// A finding of the baseline counts again on a further cluster, and for nothing else.
func TestCheck_baseline(t *testing.T) {
	f := check.Finding{Reason: check.UnpinnedImage, Severity: check.Warning, Clusters: []string{"one"}, File: "a.yaml", Line: 3, Message: "x"}
	moved, further, other := f, f, f
	moved.Line = 9
	further.Clusters = []string{"one", "two"}
	other.Message = "y"
	for name, tt := range map[string]struct {
		now  check.Finding
		want int
	}{"the same": {f, 0}, "another line": {moved, 0}, "a further cluster": {further, 1}, "another one": {other, 1}} {
		if r := newCheckReport([]check.Finding{tt.now}, []check.Finding{f}, 2); len(r.Findings) != tt.want || len(r.Known) != 1-tt.want {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if r := newCheckReport([]check.Finding{f}, []check.Finding{further}, 1); len(r.Known) != 1 {
		t.Errorf("on fewer clusters: %+v", r)
	}
}
