package deploy_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	"helm.sh/helm/v3/pkg/releaseutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/deploy"
	"github.com/flotilla-fleet/flotilla/internal/agent"
)

// all switches on what the chart can make.
const all = `
agent:
  enabled: true
  cluster: prod-eu
  repo: https://git.example.com/fleet.git
  rbac: impersonate-only
  join: join.json
  credentials: credentials
  sshKey: id
  knownHosts: known_hosts
  ageKeys: [age.txt, team-a=team-a.txt]
  secret: {data: {join.json: "{}", credentials: one, id: key, known_hosts: keys, age.txt: two, team-a.txt: three}}
  serviceMonitor: {enabled: true}
  nodeSelector: {kubernetes.io/os: linux}
  tolerations: [{operator: Exists}]
  extraArgs: [--poll=10s]
image: {pullSecrets: [registry]}
hub:
  enabled: true
  hosts: [hub.example.com, 10.0.0.1]
  tokens: tokens
  tlsCert: tls.crt
  tlsKey: tls.key
  secret: {name: hub-files}
`

func render(t *testing.T, values string) ([]*unstructured.Unstructured, error) {
	t.Helper()
	r, err := agent.NewRenderer(agent.RendererConfig{CacheDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := yaml.Unmarshal([]byte(values), &v); err != nil {
		t.Fatal(err)
	}
	return deploy.Render(t.Context(), r, v, api.ClusterFacts{KubeVersion: "v1.37.1"})
}

// chartDir is the chart as a directory.
func chartDir(t *testing.T) string {
	t.Helper()
	files, err := deploy.Chart()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "flotilla")
	if err := os.CopyFS(dir, files); err != nil {
		t.Fatal(err)
	}
	return dir
}

// byHelm renders the chart with Helm's own library.
func byHelm(t *testing.T, values string) map[string]map[string]any {
	t.Helper()
	c, err := loader.LoadDir(chartDir(t))
	if err != nil {
		t.Fatal(err)
	}
	v, err := chartutil.ReadValues([]byte(values))
	if err != nil {
		t.Fatal(err)
	}
	caps := chartutil.DefaultCapabilities.Copy()
	caps.KubeVersion = chartutil.KubeVersion{Version: "v1.37.1", Major: "1", Minor: "37"}
	top, err := chartutil.ToRenderValues(c, v, chartutil.ReleaseOptions{Name: deploy.Bundle, Namespace: api.SystemNamespace, IsInstall: true, Revision: 1}, caps)
	if err != nil {
		t.Fatal(err)
	}
	files, err := engine.Render(c, top)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string]any{}
	for _, text := range files {
		for _, doc := range releaseutil.SplitManifests(text) {
			o := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
				t.Fatal(err)
			}
			if o.Object != nil {
				out[api.RefOf(o).ID()] = o.Object
			}
		}
	}
	return out
}

// Whoever installs with Helm gets the same objects.
func TestRender_asHelm(t *testing.T) {
	for name, values := range map[string]string{
		"all":   all,
		"agent": "agent: {enabled: true, cluster: a, repo: b}\n",
	} {
		t.Run(name, func(t *testing.T) {
			objects, err := render(t, values)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]map[string]any{}
			for _, o := range objects {
				got[api.RefOf(o).ID()] = o.Object
			}
			if diff := cmp.Diff(plain(t, byHelm(t, values)), plain(t, got)); diff != "" {
				t.Errorf("-helm +flotilla:\n%s", diff)
			}
		})
	}
}

// plain has numbers be of one type.
func plain(t *testing.T, v any) (out any) {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// The old Pod ends only when the new one is ready, and with a volume both are on one node.
func TestChart_rolls(t *testing.T) {
	for values, sameNode := range map[string]bool{
		"agent: {enabled: true, cluster: a, repo: b}":                                                                                  true,
		"agent: {enabled: true, cluster: a, repo: b, persistence: {enabled: false}}":                                                   false,
		"agent: {enabled: true, cluster: a, repo: b, affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: []}}}": false,
	} {
		objects, err := render(t, values)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetKind() == "Deployment" })
		if i < 0 {
			t.Fatalf("%s: there is no Deployment", values)
		}
		spec, _ := objects[i].Object["spec"].(map[string]any)
		rolling, _, _ := unstructured.NestedMap(spec, "strategy", "rollingUpdate")
		if fmt.Sprint(rolling["maxUnavailable"], rolling["maxSurge"]) != "0 1" {
			t.Errorf("%s: the Deployment rolls by %v", values, rolling)
		}
		terms, _, err := unstructured.NestedSlice(spec, "template", "spec", "affinity", "podAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
		if err != nil || (len(terms) == 1) != sameNode {
			t.Errorf("%s: the Pods' affinity to each other is %v (%v)", values, terms, err)
		}
	}
}

func TestChart_lint(t *testing.T) {
	dir := chartDir(t)
	var values map[string]any
	if err := yaml.Unmarshal([]byte(all), &values); err != nil {
		t.Fatal(err)
	}
	for _, m := range lint.All(dir, values, api.SystemNamespace, true).Messages {
		if m.Severity > support.InfoSev {
			t.Error(m)
		}
	}
}

// A mistake in the values is named, and nothing is rendered.
func TestRender_refuses(t *testing.T) {
	for want, values := range map[string]string{
		"agent.cluster is required": "agent: {enabled: true, repo: x}\n",
		"agent.repo is required":    "agent: {enabled: true, cluster: x}\n",
		"hub.hosts is required":     "hub: {enabled: true}\n",
		"rbac":                      "agent: {enabled: true, cluster: a, repo: b, rbac: admin}\n",
		"ageKeys":                   "agent: {enabled: true, cluster: a, repo: b, ageKeys: [../x]}\n",
		"digest":                    "image: {digest: latest}\n",
		"colour":                    "agent: {enabled: true, cluster: a, repo: b, colour: red}\n",
	} {
		if _, err := render(t, values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the error is %v, want one with %q", values, err, want)
		}
	}
}

// An uninstallation looks for whatever an installation can have made.
func TestEverything(t *testing.T) {
	r, err := agent.NewRenderer(agent.RendererConfig{CacheDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, component := range []string{"agent", "hub"} {
		objects, err := deploy.Everything(t.Context(), r, component)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects {
			have[api.RefOf(o).ID()] = true
		}
	}
	objects, err := render(t, all)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if !have[api.RefOf(o).ID()] {
			t.Errorf("%s is not looked for", api.RefOf(o))
		}
	}
	if len(have) < 15 {
		t.Errorf("it looks for %q", slices.Sorted(maps.Keys(have)))
	}
}
