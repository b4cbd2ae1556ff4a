package render

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/engine"
)

// refusals remembers bundles that ended their own rendering, by a limit or a crash: to try them again costs as much again.
// A bundle is tried again when what it is made from changes, when the bounds do, or when refuseFor is over:
// a machine that had too much to do may have been the cause.
type refusals struct {
	dir    string // one file for each; empty means that they are kept in memory only
	bounds string
	now    func() time.Time
}

const refuseFor = time.Hour

// refusal is a refused bundle as it is kept on disk.
type refusal struct {
	Bounds, Cluster, Bundle string
	At                      time.Time
	Key, Fingerprint        string
	Charts                  []fetchedChart
	Variables               map[string]string
	Mentioned               []string
	Deps                    map[string]keptDep
	Error                   *api.Error
	Cause                   string
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

// keep writes a refusal. Where that fails, a restart tries the bundle again, and nothing else is lost.
func (r refusals) keep(at cacheKey, e *entry) {
	known, ok := errors.AsType[*api.Error](e.err)
	if r.dir == "" || !ok {
		return
	}
	out := refusal{
		Bounds: r.bounds, Cluster: at.cluster, Bundle: at.bundle, At: e.refusedAt,
		Key: e.key, Fingerprint: e.fingerprint, Charts: e.built.charts, Variables: e.variables, Mentioned: e.mentioned,
		Deps: make(map[string]keptDep, len(e.deps)), Error: known, Cause: known.Err.Error(),
	}
	for name, d := range e.deps {
		out.Deps[name] = keptDep{d.kind, d.digest}
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

func (r refusals) drop(at cacheKey) {
	if r.dir != "" {
		_ = os.Remove(r.file(at))
	}
}

// load reads what was kept. What cannot be read, or is of other bounds, is forgotten.
func (r refusals) load() map[cacheKey]*entry {
	out := map[cacheKey]*entry{}
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
		var in refusal
		if err != nil || !strings.HasSuffix(name, ".json") || json.Unmarshal(text, &in) != nil || in.Error == nil || in.Bounds != r.bounds {
			_ = os.Remove(name)
			continue
		}
		in.Error.Err = errors.New(in.Cause)
		e := &entry{
			key: in.Key, fingerprint: in.Fingerprint, built: built{charts: in.Charts}, err: in.Error, refusedAt: in.At,
			variables: in.Variables, mentioned: in.Mentioned,
			deps: make(map[string]dep, len(in.Deps)),
		}
		for name, d := range in.Deps {
			e.deps[name] = dep{d.Kind, d.Digest}
		}
		out[cacheKey{in.Cluster, in.Bundle}] = e
	}
	return out
}
