package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// program is flotilla, built as the other tests build it: the flags of a release would have everything compiled anew.
func program(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "flotilla")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-tags", "disable_grpc_modules", "-o", out,
		"-ldflags", "-s -w -X github.com/flotilla-fleet/flotilla/internal/cli.version=v9", "./cmd/flotilla")
	cmd.Dir = "../.."
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, b)
	}
	return out
}

// sums are the checksums of all files below a directory.
func sums(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		rel, _ := filepath.Rel(dir, name)
		fmt.Fprintf(&b, "%x %s\n", sha256.Sum256(data), rel)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// unpack writes a tar to a directory, and returns its headers.
func unpack(t *testing.T, r io.Reader, dir string) map[string]tar.Header {
	t.Helper()
	out := map[string]tar.Header{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimSuffix(h.Name, "/")] = *h
		at := filepath.Join(dir, filepath.FromSlash(h.Name)) //nolint:gosec // an archive that this test has made
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(at, 0o755)
		} else {
			var data []byte
			if data, err = io.ReadAll(in); err == nil {
				err = os.WriteFile(at, data, fs.FileMode(h.Mode)&fs.ModePerm)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// The same programs give the same bytes, and a container engine finds in them what the Dockerfile makes.
func TestRelease(t *testing.T) {
	file, dir := program(t), t.TempDir()
	here := runtime.GOARCH
	builds := []string{"linux/" + here + "=" + file, "linux/other=" + os.Args[0]}
	make := func(kind, name string) string {
		t.Helper()
		out := filepath.Join(dir, name)
		if err := run(append([]string{kind, "-version", "v9", "-created", "1700000000", "-out", out}, builds...)); err != nil {
			t.Fatal(err)
		}
		return out
	}
	oci := make("image", "image1")
	if one, two := sums(t, oci), sums(t, make("image", "image2")); one != two {
		t.Errorf("the images differ:\n%s\n%s", one, two)
	}
	p, err := layout.FromPath(oci)
	if err != nil {
		t.Fatal(err)
	}
	root, err := p.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	m, err := root.IndexManifest()
	if err != nil || len(m.Manifests) != 1 || m.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "v9" {
		t.Fatalf("the layout holds %+v (%v)", m, err)
	}
	index, err := root.ImageIndex(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	if m, err = index.IndexManifest(); err != nil || len(m.Manifests) != 2 || m.Manifests[0].Platform.Architecture != here {
		t.Fatalf("the index holds %+v (%v)", m, err)
	}
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil || config.Config.User != nonroot || config.Config.Entrypoint[0] != "/usr/local/bin/flotilla" {
		t.Errorf("the configuration is %+v (%v)", config, err)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers (%v)", len(layers), err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	unpacked := filepath.Join(dir, "unpacked")
	headers := unpack(t, r, unpacked)
	t.Run("it runs", func(t *testing.T) {
		out, err := exec.CommandContext(t.Context(), filepath.Join(unpacked, "usr/local/bin/flotilla"), "version").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "v9") {
			t.Errorf("%s (%v)", out, err)
		}
		if data, err := os.ReadFile(filepath.Join(unpacked, "etc/ssl/certs/ca-certificates.crt")); err != nil || bytes.Count(data, []byte("BEGIN CERTIFICATE")) < 100 {
			t.Errorf("%d bytes of certificates (%v)", len(data), err)
		}
	})
	t.Run("the Dockerfile's file system is the same", func(t *testing.T) {
		out := filepath.Join(dir, "rootfs")
		if err := run([]string{"rootfs", "-program", file, "-out", out}); err != nil {
			t.Fatal(err)
		}
		if one, two := sums(t, unpacked), sums(t, out); one != two {
			t.Errorf("the file systems differ:\n%s\n%s", one, two)
		}
		for name, h := range headers {
			info, err := os.Stat(filepath.Join(out, name))
			if err != nil {
				t.Error(err)
				continue
			}
			if info.Mode() != h.FileInfo().Mode() {
				t.Errorf("%s is %v, want %v", name, info.Mode(), h.FileInfo().Mode())
			}
		}
	})
	t.Run("files", func(t *testing.T) { downloads(t, make("files", "files1"), make("files", "files2"), file) })
}

func downloads(t *testing.T, one, two, program string) {
	if a, b := sums(t, one), sums(t, two); a != b {
		t.Errorf("the files differ:\n%s\n%s", a, b)
	}
	want, err := os.ReadFile(filepath.Join(one, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(one); err != nil || strings.Count(string(want), "\n") != len(files)-1 {
		t.Errorf("SHA256SUMS does not have every file beside it (%v):\n%s", err, want)
	}
	for line := range strings.Lines(string(want)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		data, err := os.ReadFile(filepath.Join(one, name))
		if err != nil || fmt.Sprintf("%x", sha256.Sum256(data)) != sum {
			t.Errorf("%s has another checksum (%v)", name, err)
		}
	}
	open := func(name string) map[string]tar.Header {
		t.Helper()
		f, err := os.Open(filepath.Join(one, name))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		return unpack(t, z, t.TempDir())
	}
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	name := "flotilla_v9_linux_" + runtime.GOARCH
	if h := open(name + ".tar.gz")["flotilla"]; h.Size != info.Size() || h.Mode != 0o755 {
		t.Errorf("the program is %+v", h)
	}
	if all := open("flotilla_v9_completions.tar.gz"); len(all) != 4 || all["_flotilla"].Size == 0 {
		t.Errorf("the completions are %v", all)
	}
	data, err := os.ReadFile(filepath.Join(one, name+".cdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	var bom struct {
		BOMFormat  string
		Components []struct{ Name, Version, Purl string }
	}
	if err := json.Unmarshal(data, &bom); err != nil || bom.BOMFormat != "CycloneDX" {
		t.Fatalf("the SBOM is %s (%v)", bom.BOMFormat, err)
	}
	found := map[string]bool{}
	for _, c := range bom.Components {
		found[c.Name] = c.Version != "" && c.Purl == "pkg:golang/"+c.Name+"@"+c.Version
	}
	for _, name := range []string{"std", "helm.sh/helm/v3", "github.com/go-git/go-git/v5", "go.etcd.io/bbolt"} {
		if !found[name] {
			t.Errorf("the SBOM does not say that %s is in it", name)
		}
	}
}

func TestRun_badInput(t *testing.T) {
	there := t.TempDir()
	for says, args := range map[string][]string{
		"which of":                {},
		"-out is needed":          {"image"},
		"is there":                {"image", "-out", there},
		"is not OS/ARCH=FILE":     {"image", "-out", there + "/x", "linux"},
		"no such file":            {"image", "-out", there + "/x", "linux/amd64=" + there + "/none"},
		"is none of":              {"bake", "-out", there + "/x"},
		"linux/amd64: open /none": {"image", "-out", there + "/y", "linux/amd64=/none"},
	} {
		if err := run(args); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: %v, want %q", args, err, says)
		}
	}
}
