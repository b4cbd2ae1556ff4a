package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// table prints the rows for people.
func table(w io.Writer, all []result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	columns := append(append([]string{}, verbs...), dryRunVerb, leaseVerb, otherVerb)
	fmt.Fprintf(t, "bundles\twhat\twall\tfloor\thealthy\tratio\tCPU\tpeak\tmemory\t%s\n", strings.Join(columns, "\t"))
	for _, r := range all {
		if r.Row == remarkRow {
			continue
		}
		wall, low, healthy, ratio := "-", "-", "-", "-"
		if r.Wall > 0 {
			wall = seconds(r.Wall)
		}
		if r.Floor > 0 {
			low, healthy, ratio = seconds(r.Floor), seconds(r.FloorHealthy), fmt.Sprintf("%.2f", r.ratio())
		}
		note := r.Note
		if r.Times > 1 {
			note += fmt.Sprintf(" (median of %d)", r.Times)
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%d MB\t%d MB", r.Bundles, note, wall, low, healthy, ratio, seconds(r.CPU), r.Peak>>20, r.Resident>>20)
		for _, c := range columns {
			fmt.Fprintf(t, "\t%d", r.Requests[c])
		}
		fmt.Fprintln(t)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, r := range all {
		if r.Row == remarkRow {
			fmt.Fprintln(w, r.Note)
		}
		if len(r.Ratios) > 0 {
			fmt.Fprintf(w, "%d bundles: the ratios of the installs: %.2f\n", r.Bundles, r.Ratios)
		}
	}
	return nil
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
