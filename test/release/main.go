// Command release packs builds of flotilla: as images in an OCI layout, without a Docker engine, and as files to download.
//
// It promises that the same programs and version give the same bytes, whenever and wherever it runs.
// It never builds, and it never pushes.
//
//	release rootfs -program FILE -out DIR
//	release image  -version V -out DIR linux/amd64=FILE linux/arm64=FILE
//	release files  -version V -out DIR linux/amd64=FILE darwin/arm64=FILE …
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// build is one program.
type build struct{ os, arch, file string }

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("which of rootfs, image and files?")
	}
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	version := f.String("version", "", "version of the programs")
	out := f.String("out", "", "directory to write; it must not be there")
	program := f.String("program", "", "rootfs: the program of the image")
	created := f.Int64("created", 0, "when the release was made, in seconds since 1970: that of its commit")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	if *out == "" {
		return fmt.Errorf("-out is needed")
	}
	if _, err := os.Stat(*out); err == nil {
		return fmt.Errorf("%s is there: remove it first", *out)
	}
	builds, err := buildsOf(f.Args())
	if err != nil {
		return err
	}
	switch args[0] {
	case "rootfs":
		return rootfs(*program, *out)
	case "image":
		return image(*version, time.Unix(*created, 0).UTC(), builds, *out)
	case "files":
		return files(*version, time.Unix(*created, 0).UTC(), builds, *out)
	}
	return fmt.Errorf("%q is none of rootfs, image and files", args[0])
}

func buildsOf(args []string) ([]build, error) {
	var out []build
	for _, a := range args {
		platform, file, ok := strings.Cut(a, "=")
		goos, arch, ok2 := strings.Cut(platform, "/")
		if !ok || !ok2 {
			return nil, fmt.Errorf("%q is not OS/ARCH=FILE", a)
		}
		out = append(out, build{goos, arch, file})
	}
	return out, nil
}
