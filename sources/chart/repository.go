package chart

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/flotilla-fleet/flotilla/api"
)

// indexAge is how old a kept index may be for a version that it names.
// A version that it does not name is looked for in a fresh one.
const indexAge = 5 * time.Minute

// indexEntry is what an index.yaml says of one version of a chart.
type indexEntry struct {
	Version string   `yaml:"version"`
	URLs    []string `yaml:"urls"`
	Digest  string   `yaml:"digest"`
}

// fromRepository downloads a chart from a Helm HTTP repository.
func (d downloader) fromRepository(ctx context.Context, c *cache) ([]byte, string, error) {
	entry, err := d.find(ctx, c)
	if err != nil {
		return nil, "", d.failed(err)
	}
	if len(entry.URLs) == 0 {
		return nil, "", &api.Error{Kind: api.Stalled, Reason: "BadChartIndex", Err: fmt.Errorf("fetch chart %s: the index names no address for version %s", d.request, entry.Version)}
	}
	base := *d.request.repo
	base.Path = strings.TrimSuffix(base.Path, "/") + "/"
	address, err := base.Parse(entry.URLs[0])
	if err == nil && address.Scheme != "http" && address.Scheme != "https" {
		err = errors.New("is no http(s) address")
	}
	if err != nil {
		return nil, "", &api.Error{Kind: api.Stalled, Reason: "BadChartIndex", Err: fmt.Errorf("fetch chart %s: address %q in the index: %w", d.request, entry.URLs[0], err)}
	}
	archive, err := d.get(ctx, address, "the archive", MaxArchiveBytes)
	if err != nil {
		return nil, "", d.failed(err)
	}
	sum := sha256.Sum256(archive)
	digest := hex.EncodeToString(sum[:])
	if want := strings.TrimPrefix(strings.ToLower(entry.Digest), "sha256:"); want != "" && want != digest {
		return nil, "", &api.Error{
			Kind: api.Stalled, Reason: "ChartDigestMismatch",
			Err: fmt.Errorf("fetch chart %s: version %s has the digest %s, and the index says %s", d.request, entry.Version, digest, want),
		}
	}
	return archive, "sha256:" + digest, nil
}

// fromAddress downloads a chart that is a file. Its version is the digest that it must have, or empty.
func (d downloader) fromAddress(ctx context.Context) ([]byte, string, error) {
	archive, err := d.get(ctx, d.request.repo.JoinPath(d.request.name), "the archive", MaxArchiveBytes)
	if err != nil {
		return nil, "", d.failed(err)
	}
	sum := sha256.Sum256(archive)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	switch {
	case d.request.version != "" && d.request.version != digest:
		return nil, "", &api.Error{
			Kind: api.Stalled, Reason: "ChartDigestMismatch", Field: "spec.helm.digest",
			Err: fmt.Errorf("fetch chart %s: it has the digest %s, and not %s", d.request, digest, d.request.version),
		}
	case !bytes.HasPrefix(archive, []byte{0x1f, 0x8b}): // gzip; a page that asks to log in is none
		return nil, "", &api.Error{
			Kind: api.Stalled, Reason: "NotAChart", Field: "spec.helm.chart",
			Err: fmt.Errorf("fetch chart %s: what is there is no packed chart", d.request),
		}
	}
	return archive, digest, nil
}

// find looks for the version in the repository's index: in the kept one first, if it is young.
func (d downloader) find(ctx context.Context, c *cache) (indexEntry, error) {
	key := d.request.repo.Redacted()
	if data, ok := c.index(key, indexAge); ok {
		if e, err := d.pick(data); err == nil {
			return e, nil
		}
	}
	address := *d.request.repo
	address.Path = strings.TrimSuffix(address.Path, "/") + "/index.yaml"
	data, err := d.get(ctx, &address, "index.yaml", maxIndexBytes)
	if err != nil {
		return indexEntry{}, err
	}
	e, err := d.pick(data)
	if err == nil {
		// Only a help for the next chart of the repository.
		_ = c.putIndex(key, data)
	}
	return e, err
}

func (d downloader) pick(data []byte) (indexEntry, error) {
	versions, err := versionsOf(data, d.request.name)
	if err != nil {
		return indexEntry{}, &api.Error{Kind: api.Stalled, Reason: "BadChartIndex", Err: fmt.Errorf("fetch chart %s: index.yaml: %w", d.request, err)}
	}
	if len(versions) == 0 {
		return indexEntry{}, &api.Error{Kind: api.Stalled, Reason: "ChartNotFound", Field: "spec.helm.chart", Err: fmt.Errorf("the repository has no chart %s", d.request)}
	}
	i := slices.IndexFunc(versions, func(e indexEntry) bool { return sameVersion(e.Version, d.request.version) })
	if i < 0 {
		var has []string
		for _, e := range versions[:min(5, len(versions))] {
			has = append(has, e.Version)
		}
		return indexEntry{}, &api.Error{
			Kind: api.Stalled, Reason: "ChartNotFound", Field: "spec.helm.version",
			Err: fmt.Errorf("chart %s has no version %q; it has %q", d.request, d.request.version, has),
		}
	}
	return versions[i], nil
}

func sameVersion(a, b string) bool {
	return strings.TrimPrefix(a, "v") == strings.TrimPrefix(b, "v")
}

// versionsOf reads one chart's versions from an index.
// Indexes of large repositories have tens of megabytes, which would be ten times as much when decoded;
// so where the index is laid out as Helm does it, only the chart's own lines are decoded.
func versionsOf(data []byte, name string) ([]indexEntry, error) {
	var index struct {
		Entries map[string][]indexEntry `yaml:"entries"`
	}
	if section, ok := sectionOf(data, name); ok {
		if yaml.Unmarshal(section, &index) == nil && len(index.Entries[name]) > 0 {
			return index.Entries[name], nil
		}
	}
	if err := yaml.Unmarshal(data, &index); err != nil {
		return nil, err
	}
	return index.Entries[name], nil
}

// sectionOf cuts "entries: {name: …}" out of an index in block style.
func sectionOf(data []byte, name string) ([]byte, bool) {
	entries := bytes.Index(append([]byte{'\n'}, data...), []byte("\nentries:\n"))
	if entries < 0 {
		return nil, false
	}
	body := data[entries:]
	start := bytes.Index(body, []byte("\n  "+name+":\n"))
	if start < 0 {
		return nil, false
	}
	start++
	end := start
	for n := 0; end < len(body); n++ {
		next := bytes.IndexByte(body[end:], '\n')
		if next < 0 {
			next = len(body) - end - 1
		}
		line := body[end : end+next]
		// The versions are list items, at the same depth as the name or deeper.
		if n > 0 && len(line) > 0 && !bytes.HasPrefix(line, []byte("  - ")) && !bytes.HasPrefix(line, []byte("   ")) {
			break
		}
		end += next + 1
	}
	return append([]byte("entries:\n"), body[start:end]...), true
}

// get downloads at most limit bytes. Credentials go to the host that they are for.
func (d downloader) get(ctx context.Context, address *url.URL, what string, limit int64) ([]byte, error) {
	bare := *address
	bare.User = nil
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, bare.String(), nil)
	if err != nil {
		return nil, err
	}
	if l, ok := d.credentials[bare.Host]; ok {
		req.SetBasicAuth(l.username, l.password)
	}
	res, err := d.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, d.status(res.StatusCode, what)
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, tooLarge(d.request, what, limit)
	}
	return data, nil
}
