package api

import (
	"strings"
	"testing"
	"time"
)

func TestObjectRef_Check(t *testing.T) {
	ref := func(change func(*ObjectRef)) ObjectRef {
		r := ObjectRef{Group: "apps", Version: "v1", Kind: "Deployment", Namespace: "podinfo", Name: "podinfo"}
		change(&r)
		return r
	}
	for _, r := range []ObjectRef{
		ref(func(*ObjectRef) {}),
		{Kind: "Namespace", Name: "podinfo"},
		{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: "system:auth-delegator"},
		ref(func(r *ObjectRef) { r.Name = "a.b_c@d" }), // odd, and a place of its own
	} {
		if err := r.Check(); err != nil {
			t.Errorf("%s: %v", r, err)
		}
	}
	bad := []string{"..", ".", "../secrets/foo", "a/b", "%2e%2e", "a\nb", "a\x1b[2Jb", "\xff"}
	for _, s := range bad {
		for what, r := range map[string]ObjectRef{
			"group":     ref(func(r *ObjectRef) { r.Group = s }),
			"version":   ref(func(r *ObjectRef) { r.Version = s }),
			"kind":      ref(func(r *ObjectRef) { r.Kind = s }),
			"namespace": ref(func(r *ObjectRef) { r.Namespace = s }),
			"name":      ref(func(r *ObjectRef) { r.Name = s }),
		} {
			err := r.Check()
			if err == nil {
				t.Errorf("%s %q is taken", what, s)
				continue
			}
			if !strings.Contains(err.Error(), "cannot be a "+what) {
				t.Errorf("%s %q: %v", what, s, err)
			}
		}
	}
	if err := CheckName(strings.Repeat("ü/", 1<<16)); err == nil || len(err.Error()) > 400 {
		t.Errorf("a long name is repeated in an error of %d bytes", len(err.Error()))
	}
}

func TestSuspension_namesNothingCanHave(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, s := range []Suspension{
		{Name: "../x", Scope: Scope{All: true}},
		{Name: "A", Scope: Scope{All: true}},
		{Scope: Scope{Bundles: []string{"podinfo", "../x"}}},
		{Scope: Scope{Objects: []ObjectRef{{Kind: "ConfigMap", Namespace: "..", Name: "x"}}}},
	} {
		s.Reason, s.Until = "INC-1", now.Add(time.Hour)
		if err := s.Validate(now, 0); err == nil || !strings.Contains(err.Error(), "cannot be a") {
			t.Errorf("%+v: %v", s, err)
		}
	}
	good := Suspension{Name: "inc-1.prod", Scope: Scope{Objects: []ObjectRef{{Kind: "ConfigMap", Namespace: "a", Name: "x"}}}, Reason: "INC-1", Until: now.Add(time.Hour)}
	if err := good.Validate(now, 0); err != nil {
		t.Error(err)
	}
}

// Two valid objects never share an ID, and an ID can be read back.
func FuzzObjectRef(f *testing.F) {
	f.Add("apps", "Deployment", "a", "b")
	f.Add("", "ConfigMap", "", "a/b")
	f.Fuzz(func(t *testing.T, group, kind, namespace, name string) {
		r := ObjectRef{Group: group, Kind: kind, Namespace: namespace, Name: name}
		if r.Check() != nil {
			return
		}
		if back, ok := ParseID(r.ID()); !ok || back != r {
			t.Errorf("%q is read as %q", r.ID(), back)
		}
	})
}
