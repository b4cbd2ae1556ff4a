package api

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// DecodeRollout reads a rollout.yaml; see DecodeFleet.
func DecodeRollout(file string, data []byte) (Rollout, error) {
	var r Rollout
	if err := decode(file, data, KindRollout, &r); err != nil {
		return Rollout{}, err
	}
	return r, r.validate(locator{file, data})
}

// LongestSoak bounds a soak and a deadline.
const LongestSoak = 30 * 24 * time.Hour

func (r Rollout) validate(at locator) error {
	if err := at.name("metadata.name", r.Metadata.Name); err != nil {
		return err
	}
	s := r.Spec
	if err := s.validBundles(at); err != nil {
		return err
	}
	if err := s.validWaves(at); err != nil {
		return err
	}
	if time.Duration(s.Deadline) > LongestSoak {
		return at.errorf("spec.deadline", "%s is longer than %s", s.Deadline, LongestSoak)
	}
	switch s.Unreachable {
	case "", UnreachableSkip, UnreachableWait, UnreachableFail:
	default:
		return at.errorf("spec.unreachable", "%q is not one of skip, wait, fail", s.Unreachable)
	}
	switch s.OnFailure {
	case "", OnFailureHalt, OnFailureReturn:
	default:
		return at.errorf("spec.onFailure", "%q is not one of halt, return", s.OnFailure)
	}
	if err := validWindows(at, "spec.windows", s.Windows); err != nil {
		return err
	}
	return s.Freeze.validate(at, "spec.freeze")
}

func (s RolloutSpec) validBundles(at locator) error {
	switch {
	case s.BundleSelector != nil && s.Bundles != nil:
		return at.errorf("spec.bundleSelector", "bundles and bundleSelector cannot both be set: name the bundles, or select them by labels")
	case s.BundleSelector == nil && len(s.Bundles) == 0:
		return at.errorf("spec.bundles", "a rollout needs bundles: their names in bundles, or a bundleSelector")
	}
	if err := validNames(at, "spec.bundles", "bundle", s.Bundles); err != nil {
		return err
	}
	return s.BundleSelector.validate(at, "spec.bundleSelector")
}

// validNames checks a list of names of one noun.
func validNames(at locator, field, noun string, names []string) error {
	for i, n := range names {
		f := fmt.Sprintf("%s.%d", field, i)
		if !ValidName(n) {
			return at.errorf(f, "%q is not a %s's name", n, noun)
		}
		if slices.Index(names, n) != i {
			return at.errorf(f, "%s %q is named twice", noun, n)
		}
	}
	return nil
}

func (s RolloutSpec) validWaves(at locator) error {
	if len(s.Waves) == 0 {
		return at.errorf("spec.waves", "a rollout needs at least one wave")
	}
	lines := map[string]int{}
	for i, w := range s.Waves {
		field := fmt.Sprintf("spec.waves.%d", i)
		if err := at.name(field+".name", w.Name); err != nil {
			return err
		}
		if line, twice := lines[w.Name]; twice {
			return at.errorf(field+".name", "wave %q is also in line %d", w.Name, line)
		}
		lines[w.Name] = at.line(field + ".name")
		if err := w.validate(at, field); err != nil {
			return err
		}
	}
	for i, w := range s.Waves {
		for j, name := range w.After {
			field := fmt.Sprintf("spec.waves.%d.after.%d", i, j)
			switch _, known := lines[name]; {
			case name == w.Name:
				return at.errorf(field, "a wave cannot come after itself")
			case !known:
				return at.errorf(field, "there is no wave %q", name)
			case slices.Index(w.After, name) != j:
				return at.errorf(field, "wave %q is named twice", name)
			}
		}
	}
	if cycle := s.cycle(); cycle != nil {
		return at.errorf(fmt.Sprintf("spec.waves.%d.after", cycle[0]), "the waves wait for each other: %s", s.names(cycle))
	}
	return nil
}

func (w Wave) validate(at locator, field string) error {
	switch {
	case w.ClusterSelector != nil && w.Clusters != nil:
		return at.errorf(field+".clusters", "clusterSelector and clusters cannot both be set: make two waves of it")
	case w.ClusterSelector == nil && len(w.Clusters) == 0:
		return at.errorf(field, "a wave needs a clusterSelector, or the names of its clusters in clusters")
	case w.MaxParallel != nil && w.MaxParallel.Number == 0:
		return at.errorf(field+".maxParallel", "%s would never release anything: to stop releases set spec.paused to a reason", w.MaxParallel)
	case time.Duration(w.Soak) > LongestSoak:
		return at.errorf(field+".soak", "%s is longer than %s", w.Soak, LongestSoak)
	}
	if err := validNames(at, field+".clusters", "cluster", w.Clusters); err != nil {
		return err
	}
	return w.ClusterSelector.validate(at, field+".clusterSelector")
}

// cycle returns waves of which each comes after the next, and the last after the first. Nil if there are none.
func (s RolloutSpec) cycle() []int {
	done := make([]bool, len(s.Waves))
	var walk func(wave int, path []int) []int
	walk = func(wave int, path []int) []int {
		if i := slices.Index(path, wave); i >= 0 {
			return path[i:]
		}
		if done[wave] {
			return nil
		}
		for _, b := range s.Before(wave) {
			if c := walk(b, append(path, wave)); c != nil {
				return c
			}
		}
		done[wave] = true
		return nil
	}
	for i := range s.Waves {
		if c := walk(i, nil); c != nil {
			return c
		}
	}
	return nil
}

func (s RolloutSpec) names(waves []int) string {
	var names []string
	for _, w := range append(slices.Clone(waves), waves[0]) {
		names = append(names, s.Waves[w].Name)
	}
	return strings.Join(names, " after ")
}

// RolloutFile is a rollout and the file that it was read from.
type RolloutFile struct {
	File    string
	Data    []byte
	Rollout Rollout
}

// CheckRollouts reports a mistake that no file shows by itself: a rollout's name that is another's,
// a bundle that is in two rollouts, and a bundle that is named and is none of the fleet's.
func CheckRollouts(files []RolloutFile, bundles []Meta) error {
	for i, f := range files {
		at := locator{f.File, f.Data}
		for _, o := range files[:i] {
			if o.Rollout.Metadata.Name == f.Rollout.Metadata.Name {
				return at.errorf("metadata.name", "rollout %q is also in %s", f.Rollout.Metadata.Name, o.File)
			}
		}
		for j, name := range f.Rollout.Spec.Bundles {
			if !slices.ContainsFunc(bundles, func(b Meta) bool { return b.Name == name }) {
				return at.errorf(fmt.Sprintf("spec.bundles.%d", j), "there is no bundle %q", name)
			}
		}
		for _, b := range bundles {
			if err := f.alone(at, b, files[:i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// alone reports a bundle that an earlier file's rollout takes, too.
func (f RolloutFile) alone(at locator, b Meta, earlier []RolloutFile) error {
	if !f.Rollout.Spec.Takes(b) {
		return nil
	}
	for _, o := range earlier {
		if !o.Rollout.Spec.Takes(b) {
			continue
		}
		field := "spec.bundleSelector"
		if j := slices.Index(f.Rollout.Spec.Bundles, b.Name); j >= 0 {
			field = fmt.Sprintf("spec.bundles.%d", j)
		}
		return at.errorf(field, "bundle %q is also in rollout %q of %s: it can move with one of them only", b.Name, o.Rollout.Metadata.Name, o.File)
	}
	return nil
}
