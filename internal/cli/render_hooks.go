package cli

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
	"github.com/flotilla-fleet/flotilla/render/compare"
)

// hookRow is one hook of a bundle, as flotilla render --hooks shows it.
type hookRow struct {
	Clusters       []string        `json:"clusters"`
	Bundle         string          `json:"bundle"`
	Phases         []api.HookPhase `json:"phases"`
	Weight         int             `json:"weight"`
	DeletePolicies []string        `json:"deletePolicies"`
	Hook           api.ObjectRef   `json:"hook"`
	From           string          `json:"from"`
	Object         map[string]any  `json:"object"`
}

// moments are when hooks run, one after another.
var moments = [][]api.HookPhase{
	{api.HookPreInstall, api.HookPreUpgrade}, {api.HookPostInstall, api.HookPostUpgrade}, {api.HookPreDelete}, {api.HookPostDelete},
}

// firstMoment is the first at which a hook runs.
func firstMoment(h api.Hook) int {
	return slices.IndexFunc(moments, func(m []api.HookPhase) bool {
		return slices.ContainsFunc(m, func(p api.HookPhase) bool { return slices.Contains(h.Phases, p) })
	})
}

// hookRows are the hooks of bundles in the order in which they run; what several clusters have in common is there once.
func hookRows(fleet []compare.On, only string, m mask) []hookRow {
	rows := []hookRow{}
	for _, c := range commonIn(fleet, only) {
		hooks := slices.Clone(c.Hooks)
		slices.SortStableFunc(hooks, func(x, y api.Hook) int {
			return cmp.Or(firstMoment(x)-firstMoment(y), cmp.Compare(x.Weight, y.Weight), plan.CompareOrder(api.RefOf(x.Object), api.RefOf(y.Object)))
		})
		for _, h := range hooks {
			rows = append(rows, hookRow{c.clusters, c.Name, h.Phases, h.Weight, h.DeletePolicies, api.RefOf(h.Object), h.File, masked(h.Object.Object, m)})
		}
	}
	return rows
}

// printHooks prints hooks, and then what could not be rendered.
func printHooks(cmd *cobra.Command, o output, fleet []compare.On, only string, m mask) error {
	rows := hookRows(fleet, only, m)
	err := o.print(outOf(cmd), rows, func(w *terminal.Printer) {
		row(w, "CLUSTERS", "BUNDLE", "WHEN", "WEIGHT", "HOOK", "DELETED", "FROM")
		for _, r := range rows {
			phases := make([]string, len(r.Phases))
			for i, p := range r.Phases {
				phases[i] = string(p)
			}
			row(w, clustersText(r.Clusters, len(fleet)), r.Bundle, strings.Join(phases, ", "), strconv.Itoa(r.Weight), r.Hook.String(),
				strings.Join(r.DeletePolicies, ", "), r.From)
		}
	})
	if err != nil {
		return err
	}
	return printTroubles(errOf(cmd), fleet, only)
}
