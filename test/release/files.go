package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// files writes what people download: an archive for each build, the completions of shells, what the programs are made of, and checksums.
func files(version string, created time.Time, builds []build, out string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	made := map[string][]byte{}
	for _, b := range builds {
		program, err := os.ReadFile(b.file)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("flotilla_%s_%s_%s", version, b.os, b.arch)
		if made[name+".tar.gz"], err = archive(created, entry{"flotilla", 0o755, program}); err != nil {
			return err
		}
		if made[name+".cdx.json"], err = sbom(version, created, b); err != nil {
			return err
		}
		if b.os == runtime.GOOS && b.arch == runtime.GOARCH {
			if made[fmt.Sprintf("flotilla_%s_completions.tar.gz", version)], err = completions(created, b.file); err != nil {
				return err
			}
		}
	}
	var sums strings.Builder
	for _, name := range sorted(made) {
		if err := os.WriteFile(filepath.Join(out, name), made[name], 0o644); err != nil { //nolint:gosec // for everybody
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(made[name]), name)
	}
	return os.WriteFile(filepath.Join(out, "SHA256SUMS"), []byte(sums.String()), 0o644) //nolint:gosec // for everybody
}

func archive(created time.Time, entries ...entry) ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	w := tar.NewWriter(z)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: int64(e.mode.Perm()), Size: int64(len(e.data)), Typeflag: tar.TypeReg, ModTime: created, Format: tar.FormatPAX}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	err = z.Close()
	return out.Bytes(), err
}

// completions are what the program itself says for each shell.
func completions(created time.Time, program string) ([]byte, error) {
	var entries []entry
	for shell, name := range map[string]string{"bash": "flotilla.bash", "zsh": "_flotilla", "fish": "flotilla.fish", "powershell": "flotilla.ps1"} {
		text, err := exec.CommandContext(context.Background(), program, "completion", shell).Output() //nolint:gosec // the program that is released
		if err != nil {
			return nil, fmt.Errorf("completion %s: %w", shell, err)
		}
		entries = append(entries, entry{name, 0o644, text})
	}
	sortEntries(entries)
	return archive(created, entries...)
}

// sbom lists the modules that a program was built from, in CycloneDX, as the program says itself.
func sbom(version string, created time.Time, b build) ([]byte, error) {
	info, err := buildinfo.ReadFile(b.file)
	if err != nil {
		return nil, err
	}
	main := cdx.Component{
		BOMRef: "flotilla", Type: cdx.ComponentTypeApplication, Name: "flotilla", Version: version,
		PackageURL: "pkg:golang/" + info.Main.Path + "@" + version + "?goos=" + b.os + "&goarch=" + b.arch,
	}
	parts := []cdx.Component{{BOMRef: "go", Type: cdx.ComponentTypeLibrary, Name: "std", Version: strings.TrimPrefix(info.GoVersion, "go"), PackageURL: "pkg:golang/std@" + strings.TrimPrefix(info.GoVersion, "go")}}
	needs := []string{"go"}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		ref := "pkg:golang/" + m.Path + "@" + m.Version
		parts = append(parts, cdx.Component{
			BOMRef: ref, Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, PackageURL: ref,
			Properties: &[]cdx.Property{{Name: "go:sum", Value: m.Sum}},
		})
		needs = append(needs, ref)
	}
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Timestamp: created.Format(time.RFC3339), Component: &main}
	bom.Components = &parts
	bom.Dependencies = &[]cdx.Dependency{{Ref: main.BOMRef, Dependencies: &needs}}
	var out bytes.Buffer
	enc := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON)
	enc.SetPretty(true)
	err = enc.Encode(bom)
	return out.Bytes(), err
}
