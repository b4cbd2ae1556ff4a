package chart

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/flotilla-fleet/flotilla/api"
)

// Media types of charts in registries; the second is what Helm wrote before version 3.7.
const (
	chartLayer       = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	legacyChartLayer = "application/tar+gzip"
)

// fromRegistry downloads a chart from an OCI registry.
// It speaks to the registry itself rather than through Helm's client,
// which cannot be cancelled, has no bounds, and reads the machine's Docker configuration.
func (d downloader) fromRegistry(ctx context.Context, plainHTTP bool) ([]byte, string, error) {
	host, path := d.request.repo.Host, strings.Trim(d.request.repo.Path, "/")
	repo, err := remote.NewRepository(host + "/" + path)
	if err != nil {
		return nil, "", &api.Error{Kind: api.Stalled, Reason: "BadChartSource", Field: "spec.helm.chart", Err: fmt.Errorf("%q: %w", host+"/"+path, err)}
	}
	repo.PlainHTTP = plainHTTP
	repo.MaxMetadataBytes = maxManifest
	repo.Client = &auth.Client{
		Client: d.client,
		Cache:  auth.NewCache(),
		Credential: func(_ context.Context, host string) (auth.Credential, error) {
			l := d.credentials[host]
			return auth.Credential{Username: l.username, Password: l.password}, nil
		},
	}
	// Tags cannot hold a plus; Helm writes an underscore in its place.
	reference := strings.ReplaceAll(d.request.version, "+", "_")
	desc, body, err := repo.Manifests().FetchReference(ctx, reference)
	if err != nil {
		return nil, "", d.registryError(err, "version "+d.request.version)
	}
	data, err := d.readContent(body, desc, "the manifest", maxManifest)
	if err != nil {
		return nil, "", d.registryError(err, "the manifest")
	}
	layer, err := d.chartLayer(data)
	if err != nil {
		return nil, "", err
	}
	if body, err = repo.Blobs().Fetch(ctx, layer); err != nil {
		return nil, "", d.registryError(err, "the archive")
	}
	archive, err := d.readContent(body, layer, "the archive", MaxArchiveBytes)
	if err != nil {
		return nil, "", d.registryError(err, "the archive")
	}
	return archive, layer.Digest.String(), nil
}

// readContent reads and verifies what a descriptor describes.
func (d downloader) readContent(body io.ReadCloser, desc ocispec.Descriptor, what string, limit int64) ([]byte, error) {
	defer body.Close()
	if desc.Size > limit {
		return nil, tooLarge(d.request, what, limit)
	}
	return content.ReadAll(body, desc)
}

// chartLayer finds the archive in a manifest.
func (d downloader) chartLayer(manifest []byte) (ocispec.Descriptor, error) {
	var m ocispec.Manifest
	err := json.Unmarshal(manifest, &m)
	if err == nil {
		for _, l := range m.Layers {
			if l.MediaType == chartLayer || l.MediaType == legacyChartLayer {
				if err := l.Digest.Validate(); err != nil || l.Digest.Algorithm() != "sha256" {
					break
				}
				return l, nil
			}
		}
	}
	return ocispec.Descriptor{}, &api.Error{
		Kind: api.Stalled, Reason: "NotAChart", Field: "spec.helm.chart",
		Err: fmt.Errorf("fetch chart %s: version %s is in the registry, but is no Helm chart", d.request, d.request.version),
	}
}

func (d downloader) registryError(err error, what string) error {
	var answer *errcode.ErrorResponse
	switch {
	case errors.Is(err, errdef.ErrNotFound):
		return d.status(http.StatusNotFound, what)
	case errors.As(err, &answer):
		return d.status(answer.StatusCode, what)
	case errors.Is(err, content.ErrMismatchedDigest), errors.Is(err, content.ErrTrailingData):
		return &api.Error{Kind: api.Stalled, Reason: "ChartDigestMismatch", Err: fmt.Errorf("fetch chart %s: %s is not what its digest says", d.request, what)}
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return d.status(http.StatusUnauthorized, what)
	}
	return d.failed(err)
}
