package check

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
)

// plainSecrets reports values of Secrets that stand in a file that was read for the bundle. What a chart makes up stands in none.
func (r *run) plainSecrets(b *bundle, rendered *api.RenderedBundle) []Finding {
	var out []Finding
	var files []string // read when there is a Secret
	for _, i := range b.items {
		if i.ref.Group != "" || i.ref.Kind != "Secret" || rendered.Inputs == nil || r.Tree == nil {
			continue
		}
		if files == nil {
			files = r.filesOf(rendered.Inputs.Paths)
		}
		values, _ := i.object.Object["data"].(map[string]any) // stringData is there by now
		for _, key := range slices.Sorted(maps.Keys(values)) {
			text, _ := values[key].(string)
			if forEverybody(key) {
				continue
			}
			if file, line := r.standsIn(files, i.file, text, rendered.Inputs.Secrets); file != "" {
				f := i.finding(PlainTextSecret, "data."+key, fmt.Sprintf("the value of %q stands in plain text in the repository", key))
				f.File, f.Line = file, line
				out = append(out, f)
			}
		}
	}
	return out
}

// forEverybody reports keys of certificates, public keys and names.
func forEverybody(key string) bool {
	key = strings.ToLower(key)
	return strings.HasSuffix(key, ".crt") || strings.HasSuffix(key, ".pub") || strings.Contains(key, "public") || strings.HasSuffix(key, "user") || strings.HasSuffix(key, "username")
}

// textual are the extensions of files in which people write values.
var textual = []string{".yaml", ".yml", ".json", ".env", ".properties", ".txt", ".ini", ".toml", ".conf", ""}

// filesOf lists the files that were read and may hold values, also those of directories that were read as a whole.
func (r *run) filesOf(paths []string) []string {
	seen := map[string]bool{}
	for _, p := range paths {
		_ = fs.WalkDir(r.Tree, path.Clean(p), func(name string, d fs.DirEntry, err error) error {
			switch {
			case err != nil || strings.Contains(name, "/templates/") || strings.Contains(name, "/crds/") || path.Base(name) == "Chart.yaml":
			case !d.IsDir() && slices.Contains(textual, path.Ext(name)):
				seen[name] = true
			}
			return nil
		})
	}
	return slices.Sorted(maps.Keys(seen))
}

// A short value may stand in a file by chance. shortestHere is for the file that describes the Secret, shortest for all others.
const (
	shortestHere = 4
	shortest     = 8
)

// standsIn returns the first file and line that hold a Secret's value, as it is or in base64; empty if none does.
// Own is the file that describes the Secret.
func (r *run) standsIn(files []string, own, text string, decrypted []string) (string, int) {
	plain, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return "", 0
	}
	telling := longest(string(plain))
	if slices.ContainsFunc(decrypted, func(d string) bool { return strings.Contains(d, telling) }) {
		return "", 0
	}
	for _, name := range files {
		if len(telling) < shortestHere || len(telling) < shortest && name != own {
			continue
		}
		file := r.where.file(name)
		for _, t := range []string{telling, text} {
			if !strings.Contains(file.text, t) {
				continue
			}
			for n, line := range file.lines() {
				if holds(line, t) {
					return name, n + 1
				}
			}
		}
	}
	return "", 0
}

// longest is the longest line of a value, which is the value where it has but one.
func longest(s string) string {
	out := ""
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); len(line) > len(out) && !strings.HasPrefix(line, "-----") {
			out = line
		}
	}
	return out
}

// holds reports whether a line has a text as a whole value.
func holds(line, text string) bool {
	for at := 0; ; {
		i := strings.Index(line[at:], text)
		if i < 0 {
			return false
		}
		begin, end := at+i, at+i+len(text)
		before, after := strings.TrimRight(line[:begin], `"' `), strings.TrimLeft(line[end:], `"' `)
		value := before == "" || strings.HasSuffix(before, ":") || strings.HasSuffix(before, "=") || strings.HasSuffix(before, "-")
		if value && (after == "" || strings.HasPrefix(after, "#") || strings.HasPrefix(after, ",") || strings.HasPrefix(after, "}") || strings.HasPrefix(after, "\r")) {
			return true
		}
		at = begin + 1
	}
}
