package engine

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// chartRepository serves one chart, once it is up.
type chartRepository struct {
	url string
	up  atomic.Bool
}

func newChartRepository(t *testing.T) *chartRepository {
	t.Helper()
	var archive bytes.Buffer
	z := gzip.NewWriter(&archive)
	w := tar.NewWriter(z)
	for name, text := range map[string]string{
		"one/Chart.yaml":        "{apiVersion: v2, name: one, version: 1.0.0}\n",
		"one/templates/cm.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: from-chart}\ndata: {key: \"{{ .Chart.Version }}\"}\n",
	} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	c := &chartRepository{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case !c.up.Load():
			http.Error(w, "starting", http.StatusServiceUnavailable)
		case strings.HasSuffix(req.URL.Path, "/index.yaml"):
			_, _ = fmt.Fprint(w, "apiVersion: v1\nentries:\n  one:\n  - {name: one, version: 1.0.0, urls: [one-1.0.0.tgz]}\n")
		default:
			_, _ = w.Write(archive.Bytes())
		}
	}))
	t.Cleanup(s.Close)
	c.url = s.URL
	return c
}
