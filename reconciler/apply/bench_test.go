package apply_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
)

// benchBundle is what issue 3 measures: ServiceAccount, Service, Deployment with 0 replicas, Ingress.
func benchBundle(ns, name, image string) []*unstructured.Unstructured {
	docs := []string{
		`{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"NAME","namespace":"NS"}}`,
		`{"apiVersion":"v1","kind":"Service","metadata":{"name":"NAME","namespace":"NS"},"spec":{"selector":{"app":"NAME"},"ports":[{"name":"http","port":80,"targetPort":8080}]}}`,
		`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"NAME","namespace":"NS"},"spec":{"replicas":0,"selector":{"matchLabels":{"app":"NAME"}},"template":{"metadata":{"labels":{"app":"NAME"}},"spec":{"serviceAccountName":"NAME","containers":[{"name":"main","image":"IMAGE","ports":[{"containerPort":8080,"name":"http"}],"resources":{"requests":{"cpu":"100m","memory":"64Mi"}}}]}}}}`,
		`{"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":{"name":"NAME","namespace":"NS"},"spec":{"rules":[{"host":"NAME.example.com","http":{"paths":[{"path":"/","pathType":"Prefix","backend":{"service":{"name":"NAME","port":{"name":"http"}}}}]}}]}}`,
	}
	var out []*unstructured.Unstructured
	for _, d := range docs {
		u := &unstructured.Unstructured{}
		d = strings.NewReplacer("NAME", name, "NS", ns, "IMAGE", image).Replace(d)
		if err := json.Unmarshal([]byte(d), &u.Object); err != nil {
			panic(err)
		}
		out = append(out, u)
	}
	return out
}

// BenchmarkInstall compares Apply with a bare client that sends the same objects with 16 workers and looks at nothing.
// It reports the ratio of the wall times, and our CPU seconds (of both roles, for the control plane is another process).
//
//	go test -run '^$' -bench Install -benchtime 1x ./reconciler/apply
func BenchmarkInstall(b *testing.B) {
	const bundles = 200
	cfg := controlplanetest.RESTConfig(b)
	a := connect(b, connection{rest: cfg})
	if err := a.Bootstrap(b.Context()); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		warm := controlplanetest.Namespace(b)
		bareApply(b, cfg, warm, 50, "warm")
		floorNS, ns := controlplanetest.Namespace(b), controlplanetest.Namespace(b)
		floor, floorCPU := timed(func() { bareApply(b, cfg, floorNS, bundles, "one") })
		inventories := make([][]api.InventoryEntry, bundles)
		rendered := func(i int, image string) api.RenderedBundle {
			name := fmt.Sprintf("app-%d", i)
			return api.RenderedBundle{Name: ns + "-" + name, Objects: benchBundle(ns, name, image), Digest: image}
		}
		all := func(image string) {
			var wg sync.WaitGroup
			work := make(chan int)
			for range 16 {
				wg.Go(func() {
					for i := range work {
						rb := rendered(i, image)
						res := a.Apply(b.Context(), apply.Request{Bundle: rb, Inventory: inventories[i]})
						if res.Err != nil {
							b.Error(res.Err)
						}
						inventories[i] = res.Inventory
						st := api.BundleStatus{Name: rb.Name, Phase: api.PhaseReady, AppliedRevision: image, Objects: 4, ReadyObjects: 4}
						if err := a.PublishStatus(b.Context(), st, res.Inventory); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for i := range bundles {
				work <- i
			}
			close(work)
			wg.Wait()
		}
		install, installCPU := timed(func() { all("one") })
		floorUp, _ := timed(func() { bareDeployments(b, cfg, floorNS, bundles, "two") })
		upgrade, upgradeCPU := timed(func() { all("two") })
		same, _ := timed(func() { all("two") })
		b.ReportMetric(install.Seconds()/floor.Seconds(), "install/floor")
		b.ReportMetric(upgrade.Seconds()/floorUp.Seconds(), "upgrade/floor")
		b.Logf("install: floor %.2fs (cpu %.2fs), flotilla with status %.2fs (cpu %.2fs); upgrade: floor %.2fs, flotilla %.2fs (cpu %.2fs); unchanged %.3fs",
			floor.Seconds(), floorCPU.Seconds(), install.Seconds(), installCPU.Seconds(),
			floorUp.Seconds(), upgrade.Seconds(), upgradeCPU.Seconds(), same.Seconds())
		for i := range bundles {
			_ = a.DeleteStatus(b.Context(), rendered(i, "").Name)
		}
	}
}

func timed(f func()) (wall, cpu time.Duration) {
	before, start := cpuTime(), time.Now()
	f()
	return time.Since(start), cpuTime() - before
}

func cpuTime() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func bareApply(b *testing.B, cfg *rest.Config, ns string, n int, image string) {
	var objs []*unstructured.Unstructured
	for i := range n {
		objs = append(objs, benchBundle(ns, fmt.Sprintf("app-%d", i), image)...)
	}
	bareSend(b, cfg, objs)
}

func bareDeployments(b *testing.B, cfg *rest.Config, ns string, n int, image string) {
	var objs []*unstructured.Unstructured
	for i := range n {
		objs = append(objs, benchBundle(ns, fmt.Sprintf("app-%d", i), image)[2])
	}
	bareSend(b, cfg, objs)
}

// bareSend is the floor: one server-side apply for each object, 16 at a time.
func bareSend(b *testing.B, cfg *rest.Config, objs []*unstructured.Unstructured) {
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		b.Fatal(err)
	}
	paths := map[string]string{
		"ServiceAccount": "/api/v1/namespaces/%s/serviceaccounts/%s", "Service": "/api/v1/namespaces/%s/services/%s",
		"Deployment": "/apis/apps/v1/namespaces/%s/deployments/%s", "Ingress": "/apis/networking.k8s.io/v1/namespaces/%s/ingresses/%s",
	}
	work := make(chan *unstructured.Unstructured)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for o := range work {
				body, _ := json.Marshal(o.Object)
				url := cfg.Host + fmt.Sprintf(paths[o.GetKind()], o.GetNamespace(), o.GetName()) + "?fieldManager=bare&force=true"
				req, err := http.NewRequestWithContext(b.Context(), http.MethodPatch, url, bytes.NewReader(body))
				if err != nil {
					b.Error(err)
					continue
				}
				req.Header.Set("Content-Type", "application/apply-patch+yaml")
				resp, err := client.Do(req)
				if err != nil {
					b.Error(err)
					continue
				}
				var sink bytes.Buffer
				_, _ = sink.ReadFrom(resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode >= 300 {
					b.Errorf("%s: %s", url, sink.String())
				}
			}
		})
	}
	for _, o := range objs {
		work <- o
	}
	close(work)
	wg.Wait()
}
