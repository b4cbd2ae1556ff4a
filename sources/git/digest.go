package git

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
)

// Digest is Git's own hash of the file or directory.
// Where there are symbolic links in a directory, what they lead to belongs to its content,
// and the digest is one over all these hashes instead.
func (t *tree) Digest(name string) (string, error) {
	n, err := t.resolve("digest", name, followLast)
	if err != nil {
		return "", err
	}
	if n.mode != modeDir {
		return n.hash.String(), nil
	}
	var lines []string
	inside := []node{n} // directories whose content is covered
	for i := 0; i < len(inside); i++ {
		links, err := t.objects.survey(inside[i].hash)
		if err != nil {
			return "", &fs.PathError{Op: "digest", Path: name, Err: err}
		}
		for _, link := range links.links {
			at := path.Join(inside[i].path, link)
			target, err := t.resolve("digest", at, followLast)
			switch {
			case api.KindOf(err) == api.Transient:
				return "", err
			case err != nil:
				// Part of the content all the same: it can be repaired without a change below name.
				lines = append(lines, fmt.Sprintf("%q %s\n", at, brokenLink(err)))
				continue
			}
			// The path counts too: a link on the way, elsewhere in the tree, may come to lead to another file.
			lines = append(lines, fmt.Sprintf("%q %q %s\n", at, target.path, target.hash))
			covered := slices.ContainsFunc(inside, func(d node) bool { return within(d.path, target.path) })
			if target.mode == modeDir && !covered {
				inside = append(inside, target)
			}
		}
	}
	if len(lines) == 0 {
		return n.hash.String(), nil
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(n.hash.String() + "\n" + strings.Join(lines, "")))
	return hex.EncodeToString(sum[:]), nil
}

// brokenLink is one stable word for why a link leads nowhere.
func brokenLink(err error) string {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return e.Reason
	}
	return "missing"
}

// within reports whether name is dir or below it.
func within(dir, name string) bool {
	return dir == "." || name == dir || strings.HasPrefix(name, dir+"/")
}
