package kube_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
)

const prefix = "/behind/a/proxy"

func newClient(t testing.TB) *rest.RESTClient {
	t.Helper()
	cfg := &rest.Config{Host: "https://cluster.example" + prefix}
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(runtime.NewScheme()).WithoutConversion()
	c, err := rest.UnversionedRESTClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAddress(t *testing.T) {
	c := newClient(t)
	for _, tt := range []struct {
		at   kube.Address
		want string
	}{
		{kube.Address{Version: "v1", Resource: "configmaps", Namespace: "a", Name: "b"}, "/api/v1/namespaces/a/configmaps/b"},
		{kube.Address{Version: "v1", Resource: "namespaces", Name: "a"}, "/api/v1/namespaces/a"},
		{kube.Address{Group: "apps", Version: "v1", Resource: "deployments", Namespace: "a", Name: "b", Subresource: "scale"}, "/apis/apps/v1/namespaces/a/deployments/b/scale"},
		{kube.Address{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles", Name: "system:node bootstrapper"}, "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node bootstrapper"},
	} {
		o, err := tt.at.Object()
		if err != nil {
			t.Errorf("%+v: %v", tt.at, err)
			continue
		}
		if got := o.On(c.Get()).URL().Path; got != prefix+tt.want {
			t.Errorf("%+v is at %s, want %s", tt.at, got, tt.want)
		}
		in, name := strings.TrimSuffix(tt.want, "/"+tt.at.Subresource), tt.at.Name
		in = strings.TrimSuffix(in, "/"+name)
		if got := o.Collection().On(c.Get()).URL().Path; got != prefix+in || o.Name() != name {
			t.Errorf("%+v is %q in %s, want %q in %s", tt.at, o.Name(), got, name, in)
		}
	}
}

func TestAddress_refusals(t *testing.T) {
	good := kube.Address{Group: "apps", Version: "v1", Resource: "deployments", Namespace: "a", Name: "b", Subresource: "scale"}
	set := map[string]func(*kube.Address, string){
		"group":       func(a *kube.Address, s string) { a.Group = s },
		"version":     func(a *kube.Address, s string) { a.Version = s },
		"resource":    func(a *kube.Address, s string) { a.Resource = s },
		"namespace":   func(a *kube.Address, s string) { a.Namespace = s },
		"name":        func(a *kube.Address, s string) { a.Name = s },
		"subresource": func(a *kube.Address, s string) { a.Subresource = s },
	}
	for what, put := range set {
		for _, s := range []string{"..", ".", "a/b", "../x", "%2e%2e", "a%2fb", "a\nb", "a\x1b[2Jb", "a\xffb"} {
			a := good
			put(&a, s)
			if o, err := a.Object(); err == nil {
				t.Errorf("%s %q makes %+v", what, s, o)
			} else if e := (*api.Error)(nil); !errors.As(err, &e) || e.Kind != api.Stalled || e.Reason != api.ReasonImpossibleName {
				t.Errorf("%s %q: %v has another kind or reason", what, s, err)
			}
		}
	}
	for _, what := range []string{"version", "resource", "name"} {
		a := good
		set[what](&a, "")
		if o, err := a.Object(); err == nil {
			t.Errorf("an empty %s makes %+v", what, o)
		}
	}
	if c, err := good.Collection(); err == nil {
		t.Errorf("an object's address makes the collection %+v", c)
	}
	o, err := good.Object()
	if err != nil {
		t.Fatal(err)
	}
	if o, err := o.Named(""); err == nil {
		t.Errorf("no name makes the object %+v", o)
	}
	for _, group := range []string{"", "..", "a/b", "apps/v1"} {
		if req, err := kube.Discovery(newClient(t).Get(), group, ""); err == nil {
			t.Errorf("discovery of group %q asks %s", group, req.URL())
		}
	}
	if req, err := kube.Discovery(newClient(t).Get(), "apps", "v1/../x"); err == nil {
		t.Errorf("asks %s", req.URL())
	}
}

// What nobody made is no way to everything: the request fails before it is sent.
func TestZeroAddressesAskNothing(t *testing.T) {
	c := newClient(t)
	for what, req := range map[string]*rest.Request{
		"object": kube.Object{}.On(c.Delete()), "collection": kube.Collection{}.On(c.Delete()),
	} {
		if err := req.Do(t.Context()).Error(); err == nil || !strings.Contains(err.Error(), "may not be empty") {
			t.Errorf("a request to the zero %s: %v", what, err)
		}
	}
}

func TestSelectors(t *testing.T) {
	c := newClient(t)
	s, err := kube.ByLabels(map[string]string{"a/b": "c"}, "d")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Param(c.Get()).URL().Query().Get("labelSelector"); got != "a/b=c,d" {
		t.Errorf("labels: %q", got)
	}
	if got := kube.ByName("a,b=c").Param(c.Get()).URL().Query().Get("fieldSelector"); got != `metadata.name=a\,b\=c` {
		t.Errorf("a name: %q", got)
	}
	for _, bad := range []string{"a,b", "a=b", "../a", "a b"} {
		if s, err := kube.ByLabels(map[string]string{"k": bad}); err == nil {
			t.Errorf("value %q selects %+v", bad, s)
		}
		if s, err := kube.ByLabels(nil, bad); err == nil {
			t.Errorf("key %q selects %+v", bad, s)
		}
	}
}

// An address that is accepted is exactly its parts, one segment each, and is none of another object.
func FuzzAddress(f *testing.F) {
	f.Add("", "v1", "configmaps", "a", "b", "")
	f.Add("apps", "v1", "deployments", "", "b", "scale")
	f.Add("flotilla.dev", "v1alpha1", "suspensions", "", "../../../../api/v1/namespaces/victim/configmaps/a", "")
	f.Add("..", "..", "..", "..", "..", "..")
	f.Add("a", "b", "c%2f", "d?e", "f#g", ";h")
	c := newClient(f)
	f.Fuzz(func(t *testing.T, group, version, resource, namespace, name, sub string) {
		o, err := kube.Address{Group: group, Version: version, Resource: resource, Namespace: namespace, Name: name, Subresource: sub}.Object()
		if err != nil {
			return
		}
		want := []string{"apis", group, version}
		if group == "" {
			want = []string{"api", version}
		}
		if namespace != "" {
			want = append(want, "namespaces", namespace)
		}
		want = append(want, strings.ToLower(resource), name)
		if sub != "" {
			want = append(want, sub)
		}
		// As a server reads what is sent.
		u, err := url.Parse(o.On(c.Get()).URL().String())
		if err != nil {
			t.Fatal(err)
		}
		if u.Path != prefix+"/"+strings.Join(want, "/") || u.RawQuery != "" || u.Fragment != "" || u.Host != "cluster.example" {
			t.Errorf("%q is asked at %s", want, u)
		}
	})
}

// A label's value that is accepted selects by this label alone.
func FuzzByLabels(f *testing.F) {
	f.Add("k", "v")
	f.Add("a/b", "c,d=e")
	f.Fuzz(func(t *testing.T, key, value string) {
		s, err := kube.ByLabels(map[string]string{key: value})
		if err != nil {
			return
		}
		text := s.Param(newClient(t).Get()).URL().Query().Get("labelSelector")
		sel, err := labels.Parse(text)
		if err != nil {
			t.Fatalf("%q cannot be read: %v", text, err)
		}
		reqs, _ := sel.Requirements()
		if len(reqs) != 1 || reqs[0].Key() != key || !reqs[0].Values().Has(value) {
			t.Errorf("%q=%q selects %q", key, value, text)
		}
	})
}
