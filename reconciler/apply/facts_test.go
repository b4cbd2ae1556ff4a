package apply_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
)

// stale lets the real API server answer, and marks a group in its discovery as the server does
// when whoever serves the group does not answer.
func stale(t *testing.T, group string) func(*http.Request) *http.Response {
	t.Helper()
	direct, err := rest.TransportFor(controlplanetest.RESTConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	return func(req *http.Request) *http.Response {
		if req.URL.Path != "/apis" {
			return nil
		}
		resp, err := direct.RoundTrip(req.Clone(req.Context()))
		if err != nil {
			return nil
		}
		defer func() { _ = resp.Body.Close() }()
		var doc map[string]any
		if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
			t.Errorf("discovery: %v", err)
			return nil
		}
		items, _ := doc["items"].([]any)
		for _, i := range items {
			item, _ := i.(map[string]any)
			md, _ := item["metadata"].(map[string]any)
			if md["name"] != group {
				continue
			}
			versions, _ := item["versions"].([]any)
			for _, v := range versions {
				m, _ := v.(map[string]any)
				m["freshness"], m["resources"] = "Stale", nil
			}
		}
		b, _ := json.Marshal(doc)
		resp.Header.Del("Content-Length")
		return &http.Response{StatusCode: resp.StatusCode, Header: resp.Header, Body: io.NopCloser(bytes.NewReader(b)), ContentLength: int64(len(b))}
	}
}

func TestFactsOfGroupsThatDoNotAnswer(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	before, err := r.Facts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// What was known before still holds.
	r.calls.setFault(stale(t, "apps"))
	now, err := r.Facts(t.Context())
	if err != nil {
		t.Fatalf("a group that does not answer: %v", err)
	}
	for _, v := range []string{"apps/v1", "apps/v1/Deployment"} {
		if !slices.Contains(before.APIVersions, v) || !slices.Contains(now.APIVersions, v) {
			t.Errorf("%s was forgotten: %d versions, now %d", v, len(before.APIVersions), len(now.APIVersions))
		}
	}
	// Nothing was ever known of it: no facts are better than facts with a hole.
	fresh := newApplier(t, r.calls.wrap)
	if _, err := fresh.Facts(t.Context()); api.KindOf(err) != api.Transient || !strings.Contains(err.Error(), "apps/v1") {
		t.Errorf("a first answer with a hole: %v", err)
	}
	r.calls.setFault(nil)
	if f, err := fresh.Facts(t.Context()); err != nil || !slices.Contains(f.APIVersions, "apps/v1/Deployment") {
		t.Errorf("once it answers: %v", err)
	}

	// An aggregated API that is down holds nobody up; its version is known from its APIService.
	group := r.ns + ".example.com"
	services := r.dyn.Resource(schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"})
	_, err = services.Create(t.Context(), r.object(`{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.`+group+`},
spec: {group: `+group+`, version: v1, groupPriorityMinimum: 100, versionPriority: 100, insecureSkipTLSVerify: true, service: {name: nobody, namespace: NS}}}`), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = services.Delete(context.WithoutCancel(t.Context()), "v1."+group, metav1.DeleteOptions{}) })
	another := newApplier(t, r.calls.wrap)
	var failed error
	eventually(t, "the version of the API that is down is known", func() bool {
		f, err := another.Facts(t.Context())
		if failed = err; err != nil {
			return true
		}
		return slices.Contains(f.APIVersions, group+"/v1") && slices.Contains(f.APIVersions, "apps/v1/Deployment")
	})
	if failed != nil {
		t.Errorf("an aggregated API that is down: %v", failed)
	}
}
