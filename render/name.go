package render

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
)

// named gives every bundle its name. A bundle.yaml without a readable name, or with one that is another's, stops its tenant:
// which bundle it was, and what that holds, nobody can tell. Outside of all tenants it stops everything.
//
// A name that several want stays with the tenant that has it on the cluster; else it is the platform's before a tenant's,
// and then the tenant's whose name comes first.
func named(fleet api.Fleet, all []*found, holders map[string]string) (out []*found, stopped map[string]error, err error) {
	stopped = map[string]error{}
	stop := func(f *found, why error) {
		t := fleet.Spec.TenantAt(f.dir)
		if t == nil {
			err = cmp.Or(err, why)
		} else {
			stopped[t.Name] = cmp.Or(stopped[t.Name], why)
		}
	}
	for i := 0; i < len(all); {
		name := all[i].bundle.Metadata.Name
		n := 1
		for i+n < len(all) && all[i+n].bundle.Metadata.Name == name {
			n++
		}
		same := all[i : i+n]
		i += n
		if name == "" {
			for _, f := range same {
				stop(f, f.err)
			}
			continue
		}
		first := firstOf(fleet, same, holders)
		for _, f := range same {
			switch t := fleet.Spec.TenantAt(f.dir); {
			case t != nil && name == api.ClusterBundle:
				stop(f, duplicate(f, errors.New(`the name "cluster" is that of the bundle in clusters/<name>`)))
			case f != first:
				stop(f, duplicate(f, fmt.Errorf("bundle %q is also in %s", name, first.file)))
			default:
				out = append(out, f)
			}
		}
	}
	return out, stopped, err
}

func duplicate(f *found, err error) error {
	return &api.Error{
		Kind: api.Stalled, Reason: "DuplicateBundle", File: f.file, Line: LineOf(f.data, "metadata", "name"), Field: "metadata.name", Err: err,
	}
}

// firstOf says which of the files of one name has the name.
func firstOf(fleet api.Fleet, same []*found, holders map[string]string) *found {
	tenant := func(f *found) string {
		if t := fleet.Spec.TenantAt(f.dir); t != nil {
			return t.Name
		}
		return ""
	}
	holder, held := holders[same[0].bundle.Metadata.Name]
	has := func(f *found) int {
		if held && tenant(f) == holder {
			return 0
		}
		return 1
	}
	return slices.MinFunc(same, func(a, b *found) int {
		return cmp.Or(cmp.Compare(has(a), has(b)), strings.Compare(tenant(a), tenant(b)), strings.Compare(a.file, b.file))
	})
}
