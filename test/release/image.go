package main

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// nonroot is the user that containers run as.
const nonroot = "65532:65532"

const (
	passwd = "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/tmp:/sbin/nologin\n"
	group  = "root:x:0:\nnonroot:x:65532:\n"
)

// entry is one file or directory of the image; a directory has no content.
type entry struct {
	name string
	mode os.FileMode
	data []byte
}

// tree is the image's whole file system: the program, the certificates that it trusts, and its user.
func tree(program []byte) []entry {
	const dir = os.ModeDir | 0o755
	return []entry{
		{"etc", dir, nil},
		{"etc/group", 0o644, []byte(group)},
		{"etc/passwd", 0o644, []byte(passwd)},
		{"etc/ssl", dir, nil},
		{"etc/ssl/certs", dir, nil},
		{"etc/ssl/certs/ca-certificates.crt", 0o644, certificates()},
		{"tmp", os.ModeDir | os.ModeSticky | 0o777, nil},
		{"usr", dir, nil},
		{"usr/local", dir, nil},
		{"usr/local/bin", dir, nil},
		{"usr/local/bin/flotilla", 0o755, program},
	}
}

// certificates are Mozilla's, but for those that it trusts under a condition: a file of certificates knows none.
func certificates() []byte {
	var out bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // a buffer takes everything
		}
	}
	return out.Bytes()
}

// rootfs writes the file system to a directory, for the Dockerfile.
func rootfs(program, out string) error {
	data, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	for _, e := range append([]entry{{".", os.ModeDir | 0o755, nil}}, tree(data)...) {
		at := filepath.Join(out, e.name)
		if e.mode.IsDir() {
			err = os.Mkdir(at, 0o755)
		} else {
			err = os.WriteFile(at, e.data, e.mode)
		}
		if err == nil {
			err = os.Chmod(at, e.mode&^os.ModeDir)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// layerOf packs the file system. Every time in it is that of the release.
func layerOf(program []byte, created time.Time) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range tree(program) {
		h := &tar.Header{Name: e.name, Mode: int64(e.mode.Perm()), Size: int64(len(e.data)), Typeflag: tar.TypeReg, ModTime: created, Format: tar.FormatPAX}
		if e.mode.IsDir() {
			h.Name, h.Typeflag = e.name+"/", tar.TypeDir
			if e.mode&os.ModeSticky != 0 {
				h.Mode |= 0o1000
			}
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

// image writes an OCI layout with one image for each build.
func image(version string, created time.Time, builds []build, out string) error {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, b := range builds {
		img, err := imageOf(version, created, b)
		if err != nil {
			return fmt.Errorf("%s/%s: %w", b.os, b.arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: b.os, Architecture: b.arch}},
		})
	}
	p, err := layout.Write(out, empty.Index)
	if err != nil {
		return err
	}
	return p.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": version}))
}

func imageOf(version string, created time.Time, b build) (v1.Image, error) {
	program, err := os.ReadFile(b.file)
	if err != nil {
		return nil, err
	}
	data, err := layerOf(program, created)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if img, err = mutate.Append(img, mutate.Addendum{Layer: layer, History: v1.History{Created: v1.Time{Time: created}, CreatedBy: "make image"}}); err != nil {
		return nil, err
	}
	c, err := config(img, version, created, b)
	if err != nil {
		return nil, err
	}
	return mutate.ConfigFile(img, c)
}

// config is what a container engine reads.
func config(img v1.Image, version string, created time.Time, b build) (*v1.ConfigFile, error) {
	c, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Created = b.os, b.arch, v1.Time{Time: created}
	c.Config = v1.Config{
		User: nonroot, Entrypoint: []string{"/usr/local/bin/flotilla"}, WorkingDir: "/",
		Env: []string{"PATH=/usr/local/bin", "HOME=/tmp"},
		Labels: map[string]string{
			"org.opencontainers.image.title":    "flotilla",
			"org.opencontainers.image.source":   "https://github.com/flotilla-fleet/flotilla",
			"org.opencontainers.image.licenses": "Apache-2.0",
			"org.opencontainers.image.version":  strings.TrimSpace(version),
		},
	}
	return c, nil
}
