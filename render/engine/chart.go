package engine

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/helm"
	"github.com/flotilla-fleet/flotilla/render/manifest"
)

// renderChart renders, and once more if the templates use random functions: what differs is left as it was first applied.
// What the time decides in hooks is found by a rendering at another time.
func renderChart(in Chart) (Result, error) {
	chart, err := in.Packed.Load()
	if err != nil {
		return Result{}, err
	}
	req := helm.Request{Chart: chart, ReleaseName: in.ReleaseName, Namespace: in.Namespace, Values: in.Values, SkipSchema: in.SkipSchema, Facts: in.Facts}
	rendered, err := helm.Render(req)
	if err != nil {
		return Result{}, err
	}
	out, err := chartObjects(rendered)
	if err != nil {
		return Result{}, err
	}
	first := out
	if len(rendered.Clocked) > 0 && len(out.Hooks) > 0 {
		later := req
		// No format of a date shows the same of both.
		later.Clock = time.Now().AddDate(1, 1, 1).Add(time.Hour + time.Minute + time.Second)
		if other, err := renderAgain(later); err == nil { // a chart may refuse that time
			out.findClocked(other)
			req, first = later, other // the time must not look random
		}
	}
	if len(rendered.Random) > 0 {
		second, err := renderAgain(req)
		if err != nil {
			return Result{}, err
		}
		if err := out.findRandom(first, second, joined(rendered.Random)); err != nil {
			return Result{}, &api.Error{
				Kind: api.Stalled, Reason: "Unstable", File: rendered.Random[0].File, Line: rendered.Random[0].Line, Err: err,
				Hint: "the template uses a random function: set the value instead",
			}
		}
	}
	if len(rendered.Clocked) > 0 {
		out.Warnings = append(out.Warnings, fmt.Sprintf(
			"the time is used in %s: the output may change whenever it is rendered", joined(rendered.Clocked)))
	}
	return out, nil
}

func renderAgain(req helm.Request) (Result, error) {
	rendered, err := helm.Render(req)
	if err != nil {
		return Result{}, err
	}
	return chartObjects(rendered)
}

func joined(at []helm.Position) string {
	words := make([]string, len(at))
	for i, p := range at {
		words[i] = p.String()
	}
	return strings.Join(words, ", ")
}

func chartObjects(rendered helm.Output) (Result, error) {
	objects, err := manifest.Objects(slices.Concat(rendered.CRDs, rendered.Documents), nil)
	if err != nil {
		return Result{}, err
	}
	out := Result{Objects: objects, Warnings: rendered.Warnings}
	for _, r := range rendered.Repeated {
		out.Warnings = append(out.Warnings, fmt.Sprintf("%s: key %q occurs twice in one mapping, and the last one counts (the line is that of the rendered output)", r, r.Key))
	}
	for _, h := range rendered.Hooks {
		objs, err := manifest.Objects([]manifest.Document{h.Document}, nil)
		if err != nil {
			return Result{}, err
		}
		for _, o := range objs {
			out.Hooks = append(out.Hooks, Hook{Hook: api.Hook{
				Phases: h.Phases, Weight: h.Weight, DeletePolicies: h.DeletePolicies, Object: o.Unstructured, File: o.File, Line: o.Line,
			}})
		}
	}
	return out, nil
}
