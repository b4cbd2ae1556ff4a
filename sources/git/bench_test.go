package git_test

import (
	"fmt"
	"io/fs"
	"runtime"
	"strings"
	"testing"

	"github.com/flotilla-fleet/flotilla/internal/gitserver"
	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
	"github.com/flotilla-fleet/flotilla/sources/git"
)

// large makes a repository of 20,000 files in 2,000 directories with some history.
func large(b *testing.B) *gitservertest.Repository {
	b.Helper()
	repo := gitservertest.NewServer(b, gitserver.Config{}).Repository("large")
	files := map[string]string{}
	for i := range 20_000 {
		name := fmt.Sprintf("apps/team%02d/app%03d/file%d.yaml", i%20, i/200, i/20%10)
		files[name] = fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c%d}\ndata:\n", i) + strings.Repeat(fmt.Sprintf("  key: value %d\n", i), 20)
	}
	repo.Commit(files)
	for i := range 50 {
		repo.Commit(map[string]string{fmt.Sprintf("apps/team%02d/app%03d/file0.yaml", i%20, i): "changed"})
	}
	repo.Git("repack", "-adq")
	return repo
}

func BenchmarkClone(b *testing.B) {
	repo := large(b)
	for b.Loop() {
		fetch(b, open(b, git.Config{URL: repo.URL, Ref: git.Ref{Branch: "main"}}))
	}
}

func BenchmarkRestart(b *testing.B) {
	config := git.Config{URL: large(b).URL, Ref: git.Ref{Branch: "main"}, Dir: b.TempDir()}
	fetch(b, open(b, config))
	for b.Loop() {
		if _, ok := open(b, config).Last(); !ok {
			b.Fatal("no last snapshot")
		}
	}
}

func BenchmarkFetchOneChange(b *testing.B) {
	repo := large(b)
	s := open(b, git.Config{URL: repo.URL, Ref: git.Ref{Branch: "main"}})
	fetch(b, s)
	n := 0
	for b.Loop() {
		b.StopTimer()
		n++
		repo.Commit(map[string]string{"apps/team01/app001/file0.yaml": fmt.Sprint(n)})
		b.StartTimer()
		snap := fetch(b, s)
		if _, err := snap.Tree.Digest("apps/team01"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkChangedWithoutChange(b *testing.B) {
	s := open(b, git.Config{URL: large(b).URL, Ref: git.Ref{Branch: "main"}})
	fetch(b, s)
	for b.Loop() {
		if changed, err := s.Changed(b.Context()); changed || err != nil {
			b.Fatal(changed, err)
		}
	}
}

func BenchmarkReadEveryFile(b *testing.B) {
	snap := fetch(b, open(b, git.Config{URL: large(b).URL, Ref: git.Ref{Branch: "main"}}))
	for b.Loop() {
		if err := fs.WalkDir(snap.Tree, ".", func(name string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				_, err = snap.Tree.ReadFile(name)
			}
			return err
		}); err != nil {
			b.Fatal(err)
		}
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.HeapAlloc)/1e6, "MB-held")
	b.ReportMetric(float64(m.Sys)/1e6, "MB-sys")
}
