package render_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/sandbox"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/engine"
	"github.com/flotilla-fleet/flotilla/render/rendertest"
)

// manyBundles is a fleet of n bundles with four objects each.
func manyBundles(n int, kustomize bool) rendertest.Files {
	files := rendertest.Files{"clusters/one/cluster.yaml": clusterYAML("one", "prod", "replicas: '0'")}
	for i := range n {
		dir := fmt.Sprintf("apps/team-%d/app-%d/", i%20, i)
		name := fmt.Sprintf("app-%d", i)
		meta := "metadata:\n  name: " + name + "\n  namespace: apps\n  labels:\n    app.kubernetes.io/name: " + name + "\n    app.kubernetes.io/part-of: shop\n"
		files[dir+"bundle.yaml"] = bundleYAML(name, "{substitute: true}")
		files[dir+"serviceaccount.yaml"] = "apiVersion: v1\nkind: ServiceAccount\n" + meta
		files[dir+"service.yaml"] = "apiVersion: v1\nkind: Service\n" + meta + "spec:\n  selector:\n    app.kubernetes.io/name: " + name + "\n  ports:\n  - name: http\n    port: 80\n    targetPort: http\n"
		files[dir+"deployment.yaml"] = "apiVersion: apps/v1\nkind: Deployment\n" + meta + "spec:\n  replicas: ${replicas}\n  selector:\n    matchLabels:\n      app.kubernetes.io/name: " + name +
			"\n  template:\n    metadata:\n      labels:\n        app.kubernetes.io/name: " + name + "\n    spec:\n      serviceAccountName: " + name +
			"\n      containers:\n      - name: app\n        image: registry.example.com/shop/" + name + ":v1\n        ports:\n        - name: http\n          containerPort: 8080\n" +
			"        env:\n        - name: REGION\n          value: eu\n        - name: NAME\n          value: " + name + "\n        readinessProbe:\n          httpGet:\n            path: /ready\n            port: http\n" +
			"        resources:\n          requests:\n            cpu: 10m\n            memory: 16Mi\n"
		files[dir+"ingress.yaml"] = "apiVersion: networking.k8s.io/v1\nkind: Ingress\n" + meta + "spec:\n  rules:\n  - host: " + name + ".example.com\n    http:\n      paths:\n      - path: /\n        pathType: Prefix\n        backend:\n          service:\n            name: " + name + "\n            port:\n              name: http\n"
		if kustomize {
			files[dir+"kustomization.yaml"] = "resources: [serviceaccount.yaml, service.yaml, deployment.yaml, ingress.yaml]\nimages: [{name: registry.example.com/shop/" + name + ", newTag: v2}]\n"
		}
	}
	return files
}

func benchFirst(b *testing.B, files rendertest.Files, in render.Engine) {
	snap := files.Snapshot()
	for b.Loop() {
		out, err := newRenderer(b, render.Config{Engine: in}).Render(b.Context(), snap, "one", api.ClusterFacts{})
		if err != nil {
			b.Fatal(err)
		}
		for _, rb := range out.Bundles {
			if rb.Err != nil {
				b.Fatal(rb.Err)
			}
		}
	}
}

func BenchmarkRender_first200Plain(b *testing.B) {
	benchFirst(b, manyBundles(200, false), nil)
}

// What a worker costs: the same kustomizations in this process, in workers that run, and with workers to start.
func BenchmarkRender_first200Kustomize(b *testing.B) {
	b.Run("here", func(b *testing.B) { benchFirst(b, manyBundles(200, true), engine.Local{}) })
	b.Run("warm", func(b *testing.B) { benchFirst(b, manyBundles(200, true), workers) })
}

// One chart: in this process, in a worker that runs, and with a worker to start.
func BenchmarkRender_chart(b *testing.B) {
	files := fleet().With(
		"h/bundle.yaml", bundleYAML("h", "{helm: {chart: ./}}"), "h/Chart.yaml", "{apiVersion: v2, name: c, version: 1.0.0}",
		"h/templates/cm.yaml", "{{ range until 50 }}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: h{{ . }}}\ndata: {v: {{ $.Release.Name | quote }} }\n{{ end }}",
	)
	b.Run("here", func(b *testing.B) { benchFirst(b, files, engine.Local{}) })
	b.Run("warm", func(b *testing.B) { benchFirst(b, files, workers) })
	b.Run("cold", func(b *testing.B) {
		command, err := sandbox.Self(engine.Word)
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			fresh, err := engine.NewRemote(engine.RemoteConfig{Command: command})
			if err != nil {
				b.Fatal(err)
			}
			if err := bundle(b, mustRender(b, newRenderer(b, render.Config{Engine: fresh}), files.Snapshot(), "one"), "h").Err; err != nil {
				b.Fatal(err)
			}
			fresh.Close()
		}
	})
}

// One bundle of 1,000 changed. The cost of the test's own tree is left out.
func BenchmarkRender_oneOf1000(b *testing.B) {
	files := manyBundles(1000, false)
	r := newRenderer(b, render.Config{})
	const changed = "apps/team-7/app-7/service.yaml"
	var snaps []api.Snapshot
	for i := range 2 {
		s := files.With(changed, files[changed]+fmt.Sprintf("# %d\n", i)).Snapshot()
		if _, err := s.Tree.Digest("."); err != nil {
			b.Fatal(err)
		}
		if _, err := r.Render(b.Context(), s, "one", api.ClusterFacts{}); err != nil {
			b.Fatal(err)
		}
		snaps = append(snaps, s)
	}
	i := 0
	for b.Loop() {
		i++
		if _, err := r.Render(b.Context(), snaps[i%2], "one", api.ClusterFacts{}); err != nil {
			b.Fatal(err)
		}
	}
}

// What 4,000 rendered objects hold in memory.
func BenchmarkRender_memory4000(b *testing.B) {
	files := manyBundles(1000, false)
	for b.Loop() {
		snap := files.Snapshot()
		_, _ = snap.Tree.Digest(".")
		r := newRenderer(b, render.Config{})
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		out, err := r.Render(b.Context(), snap, "one", api.ClusterFacts{})
		if err != nil {
			b.Fatal(err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB-held")
		runtime.KeepAlive(out)
		runtime.KeepAlive(r)
	}
}
