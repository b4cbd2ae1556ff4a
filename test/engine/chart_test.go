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

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// A chart that asks whether the cluster has a kind is told of one that the same commit brings:
// at its installation if it depends on the bundle that brings it, and else as soon as it is there.
func TestChart_asksForAKindOfTheSameCommit(t *testing.T) {
	chart := func(name, spec string) files {
		return files{
			name + "/bundle.yaml":              bundle(name, "helm: {chart: ./}, namespace: NS"+spec),
			name + "/Chart.yaml":               "{apiVersion: v2, name: " + name + ", version: 1.0.0}\n",
			name + "/templates/main.yaml":      configMap(name, "one"),
			name + "/templates/upgrade.yaml":   annotated(name+"-upgraded", "one", "helm.sh/hook: post-upgrade"),
			name + "/templates/installed.yaml": annotated(name+"-installed", "one", "helm.sh/hook: post-install"),
			name + "/templates/thing.yaml":     "{{ if .Capabilities.APIVersions.Has \"NS.example.com/v1/Thing\" }}\n" + thing(name, "one") + "{{ end }}\n",
		}
	}
	fs := files{"a/bundle.yaml": bundle("a", ""), "a/crd.yaml": crd}
	r := start(t, with(with(fs, chart("after", ", dependsOn: [NS-a]")), chart("beside", "")))
	r.thingIs("after", "one")
	r.thingIs("beside", "one")
	for _, b := range []string{"NS-a", "NS-after", "NS-beside"} {
		r.Ready(b, "")
	}
	r.get("after-installed")
	if _, err := r.Kube.CoreV1().ConfigMaps(r.NS).Get(t.Context(), "after-upgraded", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("what depends on the CRD was installed without it, and then upgraded (%v)", err)
	}
}
