package render

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/engine"
)

// refusals remembers bundles that ended their own rendering, by a limit or a crash: to try them again costs as much again.
// It remembers as well how long the bundles of a tenant take that has a quota of rendering time.
// A bundle is tried again when what it is made from changes, when the bounds do, or when refuseFor is over:
// a machine that had too much to do may have been the cause.
//
// Several are remembered of each bundle: after a restart, the revision that was applied is rendered beside the one in Git.
type refusals struct {
	dir    string // one file for each bundle; empty means that they are kept in memory only
	bounds string
	now    func() time.Time
}

const (
	refuseFor = time.Hour
	// maxRemembered bounds what is remembered of each bundle.
	maxRemembered = 4
)

// kept is what is remembered of a bundle, as it is on disk.
type kept struct {
	Bounds, Cluster, Bundle string
	Refusals                []refusal
}

// refusal is a rendering that was refused or measured.
type refusal struct {
	At               time.Time
	Key, Fingerprint string
	Charts           []fetchedChart
	Variables        map[string]string
	Mentioned        []string
	Deps             map[string]keptDep
	Error            *api.Error
	Cause            string
	// Took is set for a bundle whose cost was measured, and Over says that it takes more.
	Took *time.Duration
	Over bool
}

type keptDep struct {
	Kind   depKind
	Digest string
}

// endsItself reports whether an error means that a bundle ended its own rendering.
func endsItself(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && (e.Reason == engine.ReasonLimit || e.Reason == engine.ReasonCrash)
}

// holds reports whether an entry need not be tried again for its age.
func (r refusals) holds(e *entry) bool {
	age := r.now().Sub(e.refusedAt)
	return e.err == nil || age >= 0 && age < refuseFor
}

func (r refusals) file(at cacheKey) string {
	return filepath.Join(r.dir, hashOf([]byte(at.cluster+"/"+at.bundle))+".json")
}

// with returns what is to be remembered of a bundle when one more comes: the newest, and nothing that is too old to count.
func (r refusals) with(all []*entry, e *entry) []*entry {
	out := slices.DeleteFunc(slices.Clone(all), func(old *entry) bool {
		return !r.holds(old) || old.key == e.key && maps.Equal(old.deps, e.deps) && maps.Equal(old.variables, e.variables)
	})
	out = append(out, e)
	return out[max(0, len(out)-maxRemembered):]
}

// keep writes what is remembered of a bundle. Where that fails, a restart tries the bundle again, and nothing else is lost.
func (r refusals) keep(at cacheKey, all []*entry) {
	if r.dir == "" {
		return
	}
	out := kept{Bounds: r.bounds, Cluster: at.cluster, Bundle: at.bundle}
	for _, e := range all {
		out.Refusals = append(out.Refusals, refusalOf(e))
	}
	text, err := json.Marshal(out)
	if err != nil || os.MkdirAll(r.dir, 0o700) != nil {
		return
	}
	temporary := r.file(at) + ".new"
	if os.WriteFile(temporary, text, 0o600) == nil {
		_ = os.Rename(temporary, r.file(at))
	}
}

func refusalOf(e *entry) refusal {
	out := refusal{
		At: e.refusedAt, Key: e.key, Fingerprint: e.fingerprint, Charts: e.built.charts, Variables: e.variables, Mentioned: e.mentioned,
		Deps: make(map[string]keptDep, len(e.deps)),
	}
	for name, d := range e.deps {
		out.Deps[name] = keptDep{d.kind, d.digest}
	}
	if known, ok := errors.AsType[*api.Error](e.err); ok && endsItself(e.err) {
		out.Error, out.Cause = known, known.Err.Error()
	} else {
		out.Took, out.Over = &e.cost.took, e.cost.over
	}
	return out
}

// entry is the refusal as the cache has it; nil if it makes no sense.
func (in refusal) entry() *entry {
	e := &entry{
		key: in.Key, fingerprint: in.Fingerprint, built: built{charts: in.Charts}, refusedAt: in.At,
		variables: in.Variables, mentioned: in.Mentioned,
		deps: make(map[string]dep, len(in.Deps)),
	}
	for name, d := range in.Deps {
		e.deps[name] = dep{d.Kind, d.Digest}
	}
	switch {
	case in.Error != nil:
		in.Error.Err = errors.New(in.Cause)
		e.err = in.Error
	case in.Took == nil:
		return nil
	default:
		e.cost = cost{measured: true, took: *in.Took, over: in.Over}
		if in.Over {
			e.err = errOver
		}
	}
	return e
}

func (r refusals) drop(at cacheKey) {
	if r.dir != "" {
		_ = os.Remove(r.file(at))
	}
}

// load reads what was kept. What cannot be read, or is of other bounds, is forgotten.
func (r refusals) load() map[cacheKey][]*entry {
	out := map[cacheKey][]*entry{}
	if r.dir == "" {
		return out
	}
	files, err := os.ReadDir(r.dir)
	if err != nil {
		return out
	}
	for _, f := range files {
		name := filepath.Join(r.dir, f.Name())
		text, err := os.ReadFile(name)
		var in kept
		if err != nil || !strings.HasSuffix(name, ".json") || json.Unmarshal(text, &in) != nil || len(in.Refusals) == 0 || in.Bounds != r.bounds {
			_ = os.Remove(name)
			continue
		}
		at := cacheKey{in.Cluster, in.Bundle}
		for _, one := range in.Refusals {
			if e := one.entry(); e != nil {
				out[at] = append(out[at], e)
			}
		}
	}
	return out
}
