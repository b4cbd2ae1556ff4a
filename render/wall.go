package render

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/sops"
)

// walled is a tree as a bundle may see it where the fleet has tenants: a tenant's bundle sees the tenant's path,
// every other bundle all but the tenants' paths. The place of a file counts, and that of every symbolic link to it.
// Whoever may not read something is told so: it never looks as if it were not there.
type walled struct {
	api.Tree
	links  *links
	fleet  api.FleetSpec
	tenant *api.Tenant // nil is the platform
}

// treeOf returns the tree that the bundles of a tenant see; nil is the platform.
func (p *pass) treeOf(t *api.Tenant) api.Tree {
	if len(p.fleet.Tenants) == 0 {
		return p.tree
	}
	return &walled{Tree: p.tree, links: p.links, fleet: p.fleet, tenant: t}
}

// keysOf returns the keys that decrypt what the bundles of a tenant read; nil is the platform.
func (p *pass) keysOf(t *api.Tenant) sops.Keys {
	if t != nil {
		return p.keys.Only(fmt.Sprintf("tenant %q", t.Name), t.Keys...)
	}
	var theirs []string
	for _, t := range p.fleet.Tenants {
		theirs = append(theirs, t.Keys...)
	}
	return p.keys.Except(theirs...)
}

// Open implements fs.FS.
func (w *walled) Open(name string) (fs.File, error) {
	if err := w.admit("open", name); err != nil {
		return nil, err
	}
	return w.Tree.Open(name)
}

// ReadFile implements fs.ReadFileFS.
func (w *walled) ReadFile(name string) ([]byte, error) {
	if err := w.admit("read", name); err != nil {
		return nil, err
	}
	return w.Tree.ReadFile(name)
}

// ReadDir implements fs.ReadDirFS.
func (w *walled) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := w.admit("readdir", name); err != nil {
		return nil, err
	}
	return w.Tree.ReadDir(name)
}

// Stat implements fs.StatFS.
func (w *walled) Stat(name string) (fs.FileInfo, error) {
	if err := w.admit("stat", name); err != nil {
		return nil, err
	}
	return w.Tree.Stat(name)
}

// Digest implements api.Tree. The digest of a link tells nothing of what it leads to.
func (w *walled) Digest(name string) (string, error) {
	if !w.mine(path.Clean(name)) {
		return "", w.refuse("digest", name, name)
	}
	return w.Tree.Digest(name)
}

// mine reports whether a place of the repository is this side of the wall.
func (w *walled) mine(name string) bool {
	t := w.fleet.TenantAt(name)
	return (t == nil) == (w.tenant == nil) && (t == nil || t.Name == w.tenant.Name)
}

// maxLinks bounds how many symbolic links lead to one file.
const maxLinks = 40

// admit follows a name from link to link, as the tree does, and refuses it if one of them, or what they lead to,
// is on the other side.
func (w *walled) admit(op, name string) error {
	clean := path.Clean(name)
	if !w.links.through(clean) {
		if !w.mine(clean) {
			return w.refuse(op, name, clean)
		}
		return nil
	}
	at, todo := ".", strings.Split(clean, "/")
	for hops := 0; len(todo) > 0; {
		element := todo[0]
		todo = todo[1:]
		switch next := path.Join(at, element); {
		case element == "" || element == ".":
		case element == "..":
			if at == "." {
				return nil // the tree refuses what leads out of it
			}
			at = path.Dir(at)
		case !w.links.is(next):
			at = next
		case !w.mine(next):
			return w.refuse(op, name, next)
		default:
			target, err := readLink(w.Tree, next)
			if err != nil {
				return &fs.PathError{Op: op, Path: name, Err: err}
			}
			if hops++; hops > maxLinks || path.IsAbs(target) {
				return nil // the tree refuses it, and says what it is
			}
			todo = append(strings.Split(target, "/"), todo...)
		}
	}
	if !w.mine(at) {
		return w.refuse(op, name, at)
	}
	return nil
}

func readLink(tree api.Tree, name string) (string, error) {
	reader, ok := tree.(fs.ReadLinkFS)
	if !ok {
		return "", errors.New("is a symbolic link, and this repository does not tell where it leads")
	}
	return reader.ReadLink(name)
}

// refuse says why name, which leads to at, cannot be read.
func (w *walled) refuse(op, name, at string) error {
	it := "it"
	if at != path.Clean(name) {
		it = fmt.Sprintf("it is a symbolic link to %q, which", at)
	}
	e := &api.Error{Kind: api.Forbidden, Reason: api.ReasonTenantDenied, File: name}
	switch owner := w.fleet.TenantAt(at); {
	case w.tenant == nil:
		e.Err = fmt.Errorf("cannot read %q: %s belongs to tenant %q, and only bundles below %s read that", name, it, owner.Name, owner.Path)
		e.Hint = "give it a bundle.yaml there"
	case owner != nil:
		e.Err = fmt.Errorf("tenant %q cannot read %q: %s belongs to tenant %q", w.tenant.Name, name, it, owner.Name)
	default:
		e.Err = fmt.Errorf("tenant %q cannot read %q: %s is not below %s", w.tenant.Name, name, it, w.tenant.Path)
	}
	return &fs.PathError{Op: op, Path: name, Err: e}
}

// denied finds in an error why a tenant was refused something.
func denied(err error) (*api.Error, bool) {
	for {
		e, ok := errors.AsType[*api.Error](err)
		if !ok || e.Reason == api.ReasonTenantDenied {
			return e, ok
		}
		err = e.Err
	}
}
