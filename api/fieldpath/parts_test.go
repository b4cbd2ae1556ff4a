package fieldpath_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api/fieldpath"
)

func TestParts(t *testing.T) {
	set := "a,b"
	for path, want := range map[string][]fieldpath.Part{
		"/":                                     nil,
		"/spec/replicas":                        {{Name: "spec"}, {Name: "replicas"}},
		"/metadata/labels/example.com~1team~0x": {{Name: "metadata"}, {Name: "labels"}, {Name: "example.com/team~x"}},
		"/spec/containers/[name=app]/image":     {{Name: "spec"}, {Name: "containers"}, {Keys: []fieldpath.PartKey{{"name", "app"}}}, {Name: "image"}},
		"/ports/[containerPort=80,protocol=TCP]": {
			{Name: "ports"}, {Keys: []fieldpath.PartKey{{"containerPort", "80"}, {"protocol", "TCP"}}},
		},
		"/finalizers/[=a,b]":         {{Name: "finalizers"}, {Value: &set}},
		"/items/[key=x~1y]/path/0/z": {{Name: "items"}, {Keys: []fieldpath.PartKey{{"key", "x/y"}}}, {Name: "path"}, {Name: "0"}, {Name: "z"}},
	} {
		if diff := cmp.Diff(want, fieldpath.Parts(path)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}
