package plan

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Claims move from one version to another without getting lost, whatever their order.
func TestMoveVersion(t *testing.T) {
	entry := func(manager, version, fields string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Manager: manager, Operation: "Update", APIVersion: version, FieldsV1: metav1.NewFieldsV1(fields)}
	}
	claims := func(list []metav1.ManagedFieldsEntry) []string {
		var out []string
		for _, e := range list {
			out = append(out, e.Manager+" "+e.APIVersion+" "+e.FieldsV1.GetRawString())
		}
		return out
	}
	got, ok := MoveVersion([]metav1.ManagedFieldsEntry{
		entry("a", "x/v1", `{"f:one":{}}`), entry("b", "x/v2", `{"f:two":{}}`), entry("a", "x/v2", `{"f:three":{}}`), entry("c", "x/v1", `{"f:four":{}}`),
	}, "x/v1", "x/v2")
	want := []string{`a x/v2 {"f:one":{},"f:three":{}}`, `b x/v2 {"f:two":{}}`, `c x/v2 {"f:four":{}}`}
	if d := cmp.Diff(want, claims(got)); d != "" || !ok {
		t.Errorf("%v (-want +got):\n%s", ok, d)
	}
	if _, ok := MoveVersion([]metav1.ManagedFieldsEntry{entry("a", "x/v2", `{}`)}, "x/v1", "x/v2"); ok {
		t.Error("something is to be moved where nothing is claimed")
	}
	if _, ok := MoveVersion([]metav1.ManagedFieldsEntry{entry("a", "x/v1", `{"f:one":{}}`), entry("a", "x/v2", `{`)}, "x/v1", "x/v2"); ok {
		t.Error("a claim that cannot be read is thrown away")
	}
}
