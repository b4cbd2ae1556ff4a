package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	utilversion "k8s.io/apimachinery/pkg/util/version"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/check"
	"github.com/flotilla-fleet/flotilla/render/compare"
	"github.com/flotilla-fleet/flotilla/render/schemas"
)

// checking are the flags of flotilla check.
type checking struct {
	repo     repository
	keys     []string
	kube     string
	more     []string
	baseline string
	failOn   string
	out      output
}

func newCheck() *cobra.Command {
	var c checking
	cmd := &cobra.Command{
		Use:        "check [DIR]",
		Short:      "Find what is wrong in the fleet repository, before a cluster does",
		SuggestFor: []string{"lint", "validate"},
		Long: `Render every cluster of the fleet repository and report what is wrong or suspicious: files that
cannot be read, fields that no schema has, removed API versions, references that lead nowhere, Secrets
in plain text, and more. No cluster is asked. docs/check.md explains each reason and how to mend it.

The exit code is 0 where no finding is as bad as --fail-on, 1 where one is, and another where nothing
could be checked. Findings that are meant can be ignored, with a word of why: by a comment in the file
("# flotilla:ignore UnpinnedImage: we follow main"), or by the annotation flotilla.dev/check-ignore.
Those of an earlier "flotilla check -o json" do not count with --baseline.`,
		Example: `  flotilla check
  flotilla check fleet --kube-version 1.36 --age-key age.txt
  flotilla check -o sarif > flotilla.sarif
  flotilla check -o json > baseline.json; flotilla check --baseline baseline.json`,
		Args: atMostOneArg("directory"),
	}
	c.repo.flags(cmd)
	cmd.Flags().StringArrayVar(&c.keys, "age-key", nil, "file with age identities, or NAME=FILE for those of a tenant; may be given more than once")
	cmd.Flags().StringVar(&c.kube, "kube-version", fmt.Sprintf("1.%d", schemas.Version), "Kubernetes version to check for, such as 1.36, which charts see, too")
	cmd.Flags().StringSliceVar(&c.more, "api-versions", nil, "API versions that charts see beside the usual ones, such as example.com/v1 or example.com/v1/Thing")
	cmd.Flags().StringVar(&c.baseline, "baseline", "", "file with the JSON of an earlier check: its findings do not count")
	cmd.Flags().StringVar(&c.failOn, "fail-on", string(check.Error), "least severity that fails the check: error, warning, info or never")
	c.out.among(cmd, "table", "json", "sarif", "junit", "github", "markdown")
	complete(cmd, "fail-on", failOnWords()...)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 1 && cmd.Flags().Changed("repo"):
			return usagef("%q and --repo both name the fleet repository%s", args[0], seeHelp(cmd))
		case len(args) == 1:
			c.repo.config.URL = args[0]
		}
		return c.run(cmd)
	}
	return cmd
}

// never is the word for a check that never fails.
const never = "never"

func failOnWords() []string {
	var out []string
	for _, s := range check.Severities() {
		out = append(out, string(s))
	}
	return append(out, never)
}

// minor is the minor version of --kube-version.
func (c checking) minor(cmd *cobra.Command) (int, error) {
	v, err := utilversion.ParseGeneric(c.kube)
	if err != nil || v.Major() != 1 {
		return 0, usagef("--kube-version %q is not a version such as 1.37%s", c.kube, seeHelp(cmd))
	}
	return int(v.Minor()), nil
}

// run checks, prints, and returns the exit code that belongs to it.
func (c checking) run(cmd *cobra.Command) error {
	minor, err := c.minor(cmd)
	if err != nil {
		return err
	}
	if !slices.Contains(failOnWords(), c.failOn) {
		return usagef("--fail-on %q is none of %s%s", c.failOn, strings.Join(failOnWords(), ", "), seeHelp(cmd))
	}
	known, err := readBaseline(c.baseline)
	if err != nil {
		return err
	}
	found, clusters, err := c.findings(cmd, minor)
	if err != nil {
		return err
	}
	report := newCheckReport(found, known, clusters)
	if err := report.print(outOf(cmd), c.out.format); err != nil {
		return err
	}
	if c.failOn == never {
		return nil
	}
	if slices.ContainsFunc(report.Findings, func(f check.Finding) bool { return f.Severity.AtLeast(check.Severity(c.failOn)) }) {
		return exitError(1)
	}
	return nil
}

// findings renders the fleet and checks it. It tells on standard error how long that takes.
func (c checking) findings(cmd *cobra.Command, minor int) ([]check.Finding, int, error) {
	log := slog.New(slog.NewTextHandler(errOf(cmd), &slog.HandlerOptions{Level: slog.LevelWarn}))
	snap, done, err := c.repo.snapshot(cmd, log)
	if err != nil {
		return nil, 0, err
	}
	defer done()
	renderer, err := newFleetRenderer(c.keys)
	if err != nil {
		return nil, 0, err
	}
	defer renderer.Close()
	names, err := render.ClusterNames(snap.Tree)
	if err != nil {
		return nil, 0, err
	}
	if len(names) == 0 {
		return nil, 0, &api.Error{
			Kind: api.Stalled, Reason: "NoClusters", Err: errors.New("cannot check the fleet repository: there is no clusters/NAME/cluster.yaml in it"),
			Hint: "name the directory of the fleet: flotilla check DIR, or --path",
		}
	}
	start := time.Now()
	errOf(cmd).Printf("rendering %s\n", countOf(len(names), "cluster"))
	version := "" // the one with which flotilla render renders
	if cmd.Flags().Changed("kube-version") {
		if version = "v" + strings.TrimPrefix(c.kube, "v"); strings.Count(version, ".") == 1 {
			version += ".0"
		}
	}
	fleet, err := renderClusters(cmd.Context(), renderer, snap, sight{version, c.more})
	if err != nil {
		return nil, 0, err
	}
	declared, err := render.DeclaredIn(snap.Tree)
	if err != nil && !slices.ContainsFunc(fleet, func(on compare.On) bool { return on.Err != nil }) {
		return nil, 0, err
	}
	in := check.Input{Clusters: fleet, Tree: snap.Tree, KubeMinor: minor}
	for _, d := range declared {
		in.Bundles = append(in.Bundles, check.Bundle(d))
	}
	found, err := check.Run(cmd.Context(), in)
	errOf(cmd).Printf("checked in %s\n", time.Since(start).Round(10*time.Millisecond))
	return found, len(names), err
}

// checkReport is what a check says.
type checkReport struct {
	// Findings count; Ignored are meant, and Known were there before.
	Findings []check.Finding `json:"findings"`
	Ignored  []check.Finding `json:"ignored"`
	Known    []check.Finding `json:"known"`
	clusters int
}

// newCheckReport sorts the findings by whether they count. One that is known counts where it is on a further cluster.
func newCheckReport(found, baseline []check.Finding, clusters int) checkReport {
	out := checkReport{Findings: []check.Finding{}, Ignored: []check.Finding{}, Known: []check.Finding{}, clusters: clusters}
	before := map[string][]string{}
	for _, f := range baseline {
		before[f.ID()] = append(before[f.ID()], f.Clusters...)
	}
	for _, f := range found {
		was, known := before[f.ID()]
		further := slices.ContainsFunc(f.Clusters, func(name string) bool { return !slices.Contains(was, name) })
		switch {
		case f.Ignored != "":
			out.Ignored = append(out.Ignored, f)
		case known && !further:
			out.Known = append(out.Known, f)
		default:
			out.Findings = append(out.Findings, f)
		}
	}
	return out
}

// readBaseline reads the JSON of an earlier check. Without a file there is nothing in it.
func readBaseline(file string) ([]check.Finding, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the baseline: %w", err)
	}
	var in checkReport
	if err := json.Unmarshal(text, &in); err != nil || in.Findings == nil {
		return nil, &api.Error{
			Kind: api.Stalled, Reason: "BadBaseline", File: file, Err: errors.New("is not what flotilla check -o json prints"),
			Hint: "write it anew: flotilla check -o json --fail-on never > FILE",
		}
	}
	return slices.Concat(in.Findings, in.Known), nil
}

// print writes the report in a format.
func (r checkReport) print(w *terminal.Printer, format string) error {
	switch format {
	case "json":
		return data(w, terminal.JSON, r)
	case "sarif":
		return data(w, terminal.JSON, r.sarif())
	case "junit":
		text, err := r.junit()
		if err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	case "github":
		r.github(w)
	case "markdown":
		r.markdown(w)
	default:
		r.table(w)
	}
	return nil
}

// summary counts what there is.
func (r checkReport) summary() string {
	var parts []string
	for _, s := range check.Severities() {
		n := 0
		for _, f := range r.Findings {
			if f.Severity == s {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, countOf(n, sarifLevel(s)))
		}
	}
	if len(parts) == 0 {
		parts = []string{"nothing found"}
	}
	text := strings.Join(parts, ", ") + " on " + countOf(r.clusters, "cluster")
	if len(r.Ignored) > 0 {
		text += fmt.Sprintf("; %d ignored", len(r.Ignored))
	}
	if len(r.Known) > 0 {
		text += fmt.Sprintf("; %d in the baseline", len(r.Known))
	}
	return text
}

// where is the place of a finding as compilers write it.
func where(f check.Finding) string {
	switch {
	case f.File == "" && f.Bundle != "":
		return "bundle " + f.Bundle
	case f.File == "":
		return "the fleet"
	case f.Line > 0:
		return fmt.Sprintf("%s:%d", f.File, f.Line)
	}
	return f.File
}

// what is what a finding says, with object and field.
func what(f check.Finding) string {
	text := f.Message
	if f.Field != "" {
		text = f.Field + ": " + text
	}
	if f.Object != nil {
		text = f.Object.String() + " " + text
	}
	return text
}

// table is for people: the place first, as in the output of a compiler.
func (r checkReport) table(w *terminal.Printer) {
	for _, f := range r.Findings {
		w.Printf("%s: %s: %s\n", terminal.Line(where(f)), string(f.Severity), string(f.Reason))
		w.Printf("  %s\n", terminal.Lines(what(f)))
		if len(f.Clusters) > 0 {
			w.Printf("  on %s\n", clustersText(f.Clusters, r.clusters))
		}
		w.Printf("  %s\n", terminal.Lines(f.Do))
	}
	w.Printf("%s\n", r.summary())
}
