package cli

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"net/url"
	"strings"

	"github.com/flotilla-fleet/flotilla/internal/terminal"
	"github.com/flotilla-fleet/flotilla/render/check"
)

// checkDocs is where each reason is explained.
const checkDocs = "https://github.com/flotilla-fleet/flotilla/blob/main/docs/check.md"

// SARIF 2.1.0, as far as it is written here.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool    sarifTool     `json:"tool"`
		Results []sarifResult `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name           string      `json:"name"`
		Version        string      `json:"version"`
		InformationURI string      `json:"informationUri"`
		Rules          []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID               string      `json:"id"`
		ShortDescription sarifText   `json:"shortDescription"`
		Help             sarifText   `json:"help"`
		HelpURI          string      `json:"helpUri"`
		Default          sarifConfig `json:"defaultConfiguration"`
	}
	sarifConfig struct {
		Level string `json:"level"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID       string             `json:"ruleId"`
		RuleIndex    int                `json:"ruleIndex"`
		Level        string             `json:"level"`
		Message      sarifText          `json:"message"`
		Locations    []sarifLocation    `json:"locations,omitempty"`
		Fingerprints map[string]string  `json:"partialFingerprints"`
		Suppressions []sarifSuppression `json:"suppressions,omitempty"`
	}
	sarifLocation struct {
		Physical sarifPhysical `json:"physicalLocation"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   *sarifRegion  `json:"region,omitempty"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		StartLine int `json:"startLine"`
	}
	sarifSuppression struct {
		Kind          string `json:"kind"`
		Justification string `json:"justification"`
	}
)

// sarif is the report for code scanning. What is ignored is in it, as suppressed.
func (r checkReport) sarif() sarifLog {
	run := sarifRun{Tool: sarifTool{sarifDriver{Name: "flotilla check", Version: version, InformationURI: checkDocs}}, Results: []sarifResult{}}
	index := map[check.Reason]int{}
	for i, a := range check.Reasons() {
		index[a.Reason] = i
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{
			ID: string(a.Reason), ShortDescription: sarifText{a.Title}, Help: sarifText{a.Do},
			HelpURI: checkDocs + "#" + strings.ToLower(string(a.Reason)), Default: sarifConfig{sarifLevel(a.Severity)},
		})
	}
	for _, f := range append(append([]check.Finding{}, r.Findings...), r.Ignored...) {
		out := sarifResult{
			RuleID: string(f.Reason), RuleIndex: index[f.Reason], Level: sarifLevel(f.Severity), Message: sarifText{r.sentence(f)},
			Fingerprints: map[string]string{"flotilla/v1": fingerprint(f)},
		}
		if f.File != "" {
			at := sarifPhysical{Artifact: sarifArtifact{uriOf(f.File)}}
			if f.Line > 0 {
				at.Region = &sarifRegion{f.Line}
			}
			out.Locations = []sarifLocation{{at}}
		}
		if f.Ignored != "" {
			out.Suppressions = []sarifSuppression{{"inSource", f.Ignored}}
		}
		run.Results = append(run.Results, out)
	}
	return sarifLog{Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0", Runs: []sarifRun{run}}
}

func sarifLevel(s check.Severity) string {
	if s == check.Info {
		return "note"
	}
	return string(s)
}

// sentence is a finding in one text: what, on which clusters, and what to do.
func (r checkReport) sentence(f check.Finding) string {
	text := what(f)
	if len(f.Clusters) > 0 {
		text += " (on " + clustersText(f.Clusters, r.clusters) + ")"
	}
	return text + ". To mend it: " + f.Do + "."
}

// JUnit's format, as far as it is written here.
type (
	junitSuites struct {
		XMLName xml.Name     `xml:"testsuites"`
		Suites  []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Skipped  int         `xml:"skipped,attr"`
		Errors   int         `xml:"errors,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name    string        `xml:"name,attr"`
		Class   string        `xml:"classname,attr"`
		Skipped *junitText    `xml:"skipped"`
		Failure *junitFailure `xml:"failure"`
	}
	junitText struct {
		Message string `xml:"message,attr"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr"`
		Text    string `xml:",chardata"`
	}
)

// junit has a test for each reason: it fails once for each finding, and passes where there is none.
func (r checkReport) junit() ([]byte, error) {
	suite := junitSuite{Name: "flotilla check"}
	for _, a := range check.Reasons() {
		some := false
		for _, f := range r.Findings {
			if f.Reason == a.Reason {
				some = true
				suite.Failures++
				suite.Cases = append(suite.Cases, junitCase{
					Name: legal(where(f) + ": " + what(f)), Class: string(a.Reason),
					Failure: &junitFailure{Message: legal(what(f)), Type: string(f.Severity), Text: legal(where(f) + "\n" + r.sentence(f))},
				})
			}
		}
		for _, f := range r.Ignored {
			if f.Reason == a.Reason {
				some = true
				suite.Skipped++
				suite.Cases = append(suite.Cases, junitCase{Name: legal(where(f) + ": " + what(f)), Class: string(a.Reason), Skipped: &junitText{legal(f.Ignored)}})
			}
		}
		if !some {
			suite.Cases = append(suite.Cases, junitCase{Name: a.Title, Class: string(a.Reason)})
		}
	}
	suite.Tests = len(suite.Cases)
	text, err := xml.MarshalIndent(junitSuites{Suites: []junitSuite{suite}}, "", "  ")
	if err != nil {
		return nil, err
	}
	return append([]byte(xml.Header), append(text, '\n')...), nil
}

// legal replaces what no XML text may hold, and what would speak to a terminal.
func legal(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' && c != '\n' && c != '\t' || c == 0x7f || c == 0xfffe || c == 0xffff {
			return '\ufffd'
		}
		return c
	}, s)
}

// github writes workflow commands, which GitHub shows beside the changed lines.
func (r checkReport) github(w *terminal.Printer) {
	for _, f := range r.Findings {
		command := sarifLevel(f.Severity)
		if command == "note" {
			command = "notice"
		}
		var at []string
		if f.File != "" {
			at = append(at, "file="+property(f.File))
		}
		if f.Line > 0 {
			at = append(at, fmt.Sprintf("line=%d", f.Line))
		}
		at = append(at, "title="+property(string(f.Reason)))
		w.Printf("::%s %s::%s\n", command, terminal.Line(strings.Join(at, ",")), terminal.Line(message(r.sentence(f))))
	}
	w.Printf("%s\n", r.summary())
}

// message and property quote texts as workflow commands want them.
func message(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(s)
}

func property(s string) string {
	return strings.NewReplacer(":", "%3A", ",", "%2C").Replace(message(s))
}

// markdown is for a comment on a pull request. It begins with a mark by which the comment is found again.
func (r checkReport) markdown(w *terminal.Printer) {
	w.Printf("<!-- flotilla-check -->\n### flotilla check: %s\n", r.summary())
	if len(r.Findings) == 0 {
		return
	}
	w.Printf("\n| | where | what | clusters |\n| --- | --- | --- | --- |\n")
	for _, f := range r.Findings {
		w.Printf("| %s [%s](%s#%s) | %s | %s<br>%s | %s |\n", string(f.Severity), string(f.Reason), checkDocs, strings.ToLower(string(f.Reason)),
			cell(where(f)), cell(what(f)), cell(f.Do), cell(clustersText(f.Clusters, r.clusters)))
	}
}

// fingerprint tells a finding from others, on whatever line it stands.
func fingerprint(f check.Finding) string {
	sum := sha256.Sum256([]byte(f.ID()))
	return hex.EncodeToString(sum[:16])
}

// uriOf is a file of the repository as a relative reference.
func uriOf(file string) string { return (&url.URL{Path: file}).EscapedPath() }
