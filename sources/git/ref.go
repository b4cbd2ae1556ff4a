package git

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/go-git/go-git/v5/plumbing"

	"github.com/flotilla-fleet/flotilla/api"
)

// Ref says which commit of a repository is followed. At most one field is set, but for Branch beside Commit;
// none means the branch that the repository's HEAD names.
type Ref struct {
	// Branch is a branch's name; its newest commit is followed.
	// Beside Commit it is the branch to look for the commit in, where the server gives out tips only.
	Branch string
	// Tag is a tag's name.
	Tag string
	// SemVer is a range such as ">=1.2 <2": of the tags that are versions, with or without a "v", the highest in it.
	SemVer string
	// Commit is a commit's whole hash.
	Commit string
	// Name is the full name of any ref, such as refs/pull/1/head.
	Name string
}

// parts are the kinds of Ref in the words of ParseRef.
func (r *Ref) parts() []struct {
	word  string
	field *string
} {
	return []struct {
		word  string
		field *string
	}{{"tag ", &r.Tag}, {"semver ", &r.SemVer}, {"commit ", &r.Commit}, {"ref ", &r.Name}}
}

// String is the branch's name, or "tag NAME", "semver RANGE", "commit HASH", "ref NAME".
func (r Ref) String() string {
	for _, p := range r.parts() {
		if *p.field != "" {
			return p.word + *p.field
		}
	}
	return r.Branch
}

// ParseRef reads what String gives.
func ParseRef(s string) Ref {
	var r Ref
	for _, p := range r.parts() {
		if value, ok := strings.CutPrefix(s, p.word); ok {
			*p.field = value
			return r
		}
	}
	r.Branch = s
	return r
}

func (r Ref) validate() error {
	given := 0
	for _, p := range r.parts() {
		if *p.field != "" {
			given++
		}
	}
	switch {
	case given > 1 || given == 1 && r.Branch != "" && r.Commit == "":
		return errors.New("only one of branch, tag, semver, commit and ref may be given")
	case r.Branch != "" && !validRefName("refs/heads/"+r.Branch):
		return fmt.Errorf("%q is not a branch's name", r.Branch)
	case r.Tag != "" && !validRefName("refs/tags/"+r.Tag):
		return fmt.Errorf("%q is not a tag's name", r.Tag)
	case r.Name != "" && (!strings.HasPrefix(r.Name, "refs/") || !validRefName(r.Name)):
		return fmt.Errorf("%q is not the full name of a ref, such as refs/pull/1/head", r.Name)
	case r.Commit != "" && (!plumbing.IsHash(r.Commit) || r.Commit != strings.ToLower(r.Commit)):
		return fmt.Errorf("%q is not a commit's whole hash: 40 digits of 0-9a-f", r.Commit)
	}
	if r.SemVer != "" {
		if _, err := semver.NewConstraint(r.SemVer); err != nil {
			return fmt.Errorf("%q is not a range of versions such as >=1.2 <2: %w", r.SemVer, err)
		}
	}
	return nil
}

// validRefName follows git check-ref-format: whatever a server calls its refs, no file outside of a mirror gets a name of it.
func validRefName(name string) bool {
	if name == "" || len(name) > 1024 || strings.HasSuffix(name, ".") || strings.ContainsAny(name, " ~^:?*[\\\x7f") ||
		strings.Contains(name, "..") || strings.Contains(name, "@{") {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".lock") {
			return false
		}
	}
	return strings.IndexFunc(name, func(r rune) bool { return r < ' ' }) < 0
}

// target is what a Ref leads to.
type target struct {
	// name is the full name of the ref; empty for a commit that was named by its hash.
	name string
	// object is the annotated tag, or else the commit.
	object plumbing.Hash
	commit plumbing.Hash
	// via is the tip of the branch to fetch where the server does not give out the commit by itself; zero where it does.
	via plumbing.Hash
}

// find looks for a Ref in what a server has. shown is the server's address, for errors.
func (r Ref) find(adv advertisement, shown string) (target, error) {
	switch {
	case r.Commit != "":
		return r.findCommit(adv, shown)
	case r.SemVer != "":
		return r.findVersion(adv, shown)
	case r.Tag != "":
		t, ok := adv.at("refs/tags/" + r.Tag)
		if !ok {
			return t, notFound("TagNotFound", "%s has no tag %q; it has %s", shown, r.Tag, namesOf("tags", adv.names("refs/tags/")))
		}
		return t, nil
	case r.Name != "":
		t, ok := adv.at(r.Name)
		if !ok {
			return t, notFound("RefNotFound", "%s has no ref %q", shown, r.Name)
		}
		return t, nil
	}
	branch := cmp.Or(r.Branch, adv.head)
	if branch == "" {
		return target{}, notFound("BranchNotFound", "the repository's HEAD names no branch, and none is configured")
	}
	t, ok := adv.at("refs/heads/" + branch)
	if !ok {
		return t, notFound("BranchNotFound", "%s has no branch %q; it has %s", shown, branch, namesOf("branches", adv.names("refs/heads/")))
	}
	return t, nil
}

func notFound(reason, format string, args ...any) error {
	return &api.Error{Kind: api.Stalled, Reason: reason, Err: fmt.Errorf(format, args...)}
}

// at finds a ref by its full name.
func (a advertisement) at(name string) (target, bool) {
	h, ok := a.refs[name]
	return target{name: name, object: cmp.Or(a.tags[name], h), commit: h}, ok
}

// findCommit finds a commit by its hash: at the tip of any ref, by itself where the server gives out any commit,
// and else in the history of a branch.
func (r Ref) findCommit(adv advertisement, shown string) (target, error) {
	h := plumbing.NewHash(r.Commit)
	t := target{object: h, commit: h}
	if adv.gives(h) {
		return t, nil
	}
	branch := cmp.Or(r.Branch, adv.head)
	tip, ok := adv.refs["refs/heads/"+branch]
	if !ok {
		return t, notFound("CommitNotFound", "%s gives out the tips of branches and tags only, and has no branch %q to look for commit %s in",
			shown, branch, r.Commit)
	}
	t.via = tip
	return t, nil
}

// findVersion finds the highest version in the range. Where two tags are the same version, the one with the "v" is taken.
func (r Ref) findVersion(adv advertisement, shown string) (target, error) {
	within, err := semver.NewConstraint(r.SemVer)
	if err != nil {
		return target{}, notFound("BadSourceRef", "range %q: %w", r.SemVer, err)
	}
	var best *semver.Version
	name := ""
	for _, tag := range adv.names("refs/tags/") { // sorted, so "v1.0.0" comes after "1.0.0"
		v, ok := versionOf(tag)
		if ok && within.Check(v) && (best == nil || !v.LessThan(best)) {
			best, name = v, tag
		}
	}
	if best == nil {
		return target{}, notFound("TagNotFound", "no tag of %s is a version in the range %q; it has %s",
			shown, r.SemVer, namesOf("tags", adv.names("refs/tags/")))
	}
	t, _ := adv.at("refs/tags/" + name)
	return t, nil
}

// versionOf reads a tag such as v1.2.3.
func versionOf(tag string) (*semver.Version, bool) {
	v, err := semver.StrictNewVersion(strings.TrimPrefix(tag, "v"))
	return v, err == nil
}
