package git

import (
	"errors"
	"fmt"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	gitobject "github.com/go-git/go-git/v5/plumbing/object"

	"github.com/flotilla-fleet/flotilla/api"
)

// minShort is the fewest digits of a short hash.
const minShort = 4

// local finds a commit that the mirror has: by its full or short hash.
func (s *Source) local(revision string) (h plumbing.Hash, ok bool, err error) {
	if len(revision) < minShort || len(revision) > 2*hashSize || strings.Trim(revision, "0123456789abcdef") != "" {
		return h, false, nil
	}
	view := s.view()
	found := map[plumbing.Hash]bool{}
	for _, p := range view.packs {
		for _, h := range p.withPrefix(revision) {
			kind, err := view.kindOf(h)
			if err != nil {
				return h, false, err
			}
			switch kind {
			case plumbing.CommitObject:
				found[h] = true
			case plumbing.TagObject:
				if commit, err := view.peel(h); err == nil {
					found[commit] = true
				}
			default:
			}
		}
	}
	if len(found) > 1 {
		return h, false, &api.Error{
			Kind: api.Stalled, Reason: "RevisionNotFound",
			Err: fmt.Errorf("revision %q is ambiguous: %d commits begin with it", revision, len(found)),
		}
	}
	for h := range found {
		return h, true, nil
	}
	return h, false, nil
}

// peel follows an annotated tag to its commit.
func (o *objects) peel(h plumbing.Hash) (plumbing.Hash, error) {
	for range 10 {
		kind, err := o.kindOf(h)
		if err != nil {
			return h, err
		}
		if kind != plumbing.TagObject {
			return h, nil
		}
		t, err := o.tag(h)
		if err != nil {
			return h, err
		}
		h = t.Target
	}
	return h, errors.New("tags of tags of tags")
}

func (o *objects) tag(h plumbing.Hash) (*gitobject.Tag, error) {
	data, err := o.read(h, plumbing.TagObject, maxTreeBytes)
	if err != nil {
		return nil, err
	}
	raw := &plumbing.MemoryObject{}
	raw.SetType(plumbing.TagObject)
	if _, err := raw.Write(data); err != nil {
		return nil, err
	}
	t := &gitobject.Tag{}
	if err := t.Decode(raw); err != nil {
		return nil, &api.Error{Kind: api.Stalled, Reason: "BadRepository", Err: fmt.Errorf("tag %s: %w", h, err)}
	}
	return t, nil
}

// named finds what the server calls by a name, or would give by its full hash.
func named(adv advertisement, revision string) (plumbing.Hash, error) {
	for _, prefix := range []string{"", "refs/", "refs/tags/", "refs/heads/"} {
		if h, ok := adv.refs[prefix+revision]; ok {
			return h, nil
		}
	}
	if revision == "HEAD" && adv.head != "" {
		if h, ok := adv.refs["refs/heads/"+adv.head]; ok {
			return h, nil
		}
	}
	unknown := &api.Error{Kind: api.Stalled, Reason: "RevisionNotFound"}
	if !plumbing.IsHash(revision) {
		unknown.Err = fmt.Errorf("revision %q is no branch, tag or known commit; the branches are %s", revision, namesOf("branches", adv.names("refs/heads/")))
		return plumbing.ZeroHash, unknown
	}
	h := plumbing.NewHash(revision)
	if adv.gives(h) {
		return h, nil
	}
	unknown.Err = fmt.Errorf("commit %s is not in the mirror, and the server gives out the tips of branches and tags only", revision)
	return plumbing.ZeroHash, unknown
}
