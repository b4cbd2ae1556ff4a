package check

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/kustomize"
)

// fromError is the finding of something that cannot be rendered.
func fromError(err error, bundle string) Finding {
	f := Finding{Reason: CannotRender, Bundle: bundle, Message: err.Error()}
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		return f
	}
	switch e.Reason {
	case string(BadFleetFile), api.ReasonImpossibleName:
		f.Reason = BadFleetFile
	case api.ReasonTenantDenied:
		f.Reason = TenantDenied
	}
	f.File, f.Line, f.Field, f.Do = e.File, e.Line, e.Field, e.Hint
	if e.Err != nil {
		f.Message = e.Err.Error()
	}
	return f
}

// fleet checks what is about the repository: targets, overlays.
func (r *run) fleet() {
	var clusters []string
	for _, on := range r.Clusters {
		clusters = append(clusters, on.Cluster)
	}
	uses := r.uses()
	for _, b := range r.Bundles {
		for i, t := range b.Bundle.Spec.Targets {
			for j, name := range t.Clusters {
				if !slices.Contains(clusters, name) {
					r.out.add(b.finding(UnknownCluster, fmt.Sprintf("spec.targets.%d.clusters.%d", i, j), fmt.Sprintf("there is no cluster %q", name)), "")
				}
			}
		}
		u := uses[b.Bundle.Metadata.Name]
		switch {
		case u.unknown || len(b.Bundle.Spec.Targets) == 0:
		case u.clusters == 0:
			r.out.add(b.finding(UnusedBundle, "spec.targets", "no target chooses a cluster"), "")
		default:
			r.overlays(b, u)
		}
	}
}

func (b Bundle) finding(reason Reason, field, message string) Finding {
	return Finding{Reason: reason, Bundle: b.Bundle.Metadata.Name, File: b.File, Field: field, Message: message}
}

// use is what the clusters use of a bundle.
type use struct {
	clusters int
	targets  map[int]bool
	paths    []string
	// unknown says that the bundle, or a whole cluster, cannot be rendered.
	unknown bool
}

// uses returns for each bundle what all clusters use of it.
func (r *run) uses() map[string]use {
	out := map[string]use{}
	broken := false
	for _, on := range r.Clusters {
		broken = broken || on.Err != nil
		for _, b := range on.Rendering.Bundles {
			u := out[b.Name]
			if u.targets == nil {
				u.targets = map[int]bool{}
			}
			u.clusters++
			if b.Inputs == nil {
				u.unknown = true
			} else {
				u.targets[b.Inputs.Target] = true
				u.paths = append(u.paths, b.Inputs.Paths...)
			}
			out[b.Name] = u
		}
	}
	if broken {
		for _, b := range r.Bundles {
			u := out[b.Bundle.Metadata.Name]
			u.unknown = true
			out[b.Bundle.Metadata.Name] = u
		}
	}
	return out
}

// overlays reports overlays of targets that match no cluster, and directories beside used overlays that nothing uses.
func (r *run) overlays(b Bundle, u use) {
	named := map[string]bool{}
	parents := map[string]bool{}
	for i, t := range b.Bundle.Spec.Targets {
		if t.Overlay == "" {
			continue
		}
		dir := path.Join(b.Dir, t.Overlay)
		named[dir] = true
		if !u.targets[i] {
			r.out.add(b.finding(UnusedOverlay, "spec.targets."+strconv.Itoa(i)+".overlay",
				fmt.Sprintf("no cluster uses %q: the target chooses none that an earlier target does not choose", t.Overlay)), "")
		} else if parent := path.Dir(dir); parent != b.Dir && strings.HasPrefix(parent, b.Dir+"/") {
			parents[parent] = true
		}
	}
	for parent := range parents {
		entries, err := r.Tree.ReadDir(parent)
		if err != nil {
			continue
		}
		for _, e := range entries {
			dir := path.Join(parent, e.Name())
			file := kustomize.Find(r.Tree, dir)
			if !e.IsDir() || named[dir] || file == "" || read(u.paths, dir) {
				continue
			}
			r.out.add(Finding{
				Reason: UnusedOverlay, Bundle: b.Bundle.Metadata.Name, File: file, Line: 1,
				Message: fmt.Sprintf("no target of bundle %q uses this directory, and nothing else reads it", b.Bundle.Metadata.Name),
			}, "")
		}
	}
}

// read reports whether one of the paths is a directory, or below it.
func read(paths []string, dir string) bool {
	return slices.ContainsFunc(paths, func(p string) bool {
		return p == dir || strings.HasPrefix(p, dir+"/")
	})
}
