package compare_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/compare"
)

func on(cluster string, bundles ...api.RenderedBundle) compare.On {
	return compare.On{Cluster: cluster, Rendering: api.Rendering{Bundles: bundles}}
}

func TestSharing(t *testing.T) {
	bundle := func(in *api.Inputs) api.RenderedBundle { return api.RenderedBundle{Name: "web", Inputs: in} }
	base := &api.Inputs{Target: 0, Variables: map[string]string{"region": "eu"}, Paths: []string{"web"}}
	for _, tt := range []struct {
		name  string
		other *api.Inputs
		want  []string
	}{
		{"the same inputs", base, nil},
		{"another target", &api.Inputs{Target: 1, Overlay: "prod", Variables: base.Variables, Paths: base.Paths}, []string{"targets"}},
		{"a variable's value", &api.Inputs{Variables: map[string]string{"region": "us"}, Paths: base.Paths}, []string{"variable region"}},
		{"a variable that is not set", &api.Inputs{Unset: []string{"region"}, Paths: base.Paths}, []string{"variable region"}},
		{"what a chart is told", &api.Inputs{Variables: base.Variables, Paths: base.Paths, Facts: "x"}, []string{"kinds and version of the cluster"}},
		{"a chart", &api.Inputs{Variables: base.Variables, Paths: base.Paths, Chart: "sha256:1"}, []string{"chart"}},
		{"files", &api.Inputs{Variables: base.Variables, Paths: []string{"web", "base"}}, []string{"files"}},
		{"nothing that can be told", &api.Inputs{Variables: base.Variables, Paths: base.Paths}, []string{"settings of the bundle"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := compare.Sharing([]compare.On{on("a", bundle(base)), on("b", bundle(tt.other)), on("c", bundle(base))})
			if len(got) != 1 || got[0].Clusters != 3 || !slices.Equal(got[0].Apart, tt.want) {
				t.Fatalf("got %+v, want apart for %q", got, tt.want)
			}
			want := 2
			if tt.want == nil {
				want = 1
			}
			if n := len(got[0].Renderings); n != want {
				t.Errorf("%d renderings, want %d", n, want)
			}
		})
	}
}

func TestSharing_namesWhatFailed(t *testing.T) {
	bad := api.RenderedBundle{Name: "web", Err: errors.New("no")}
	got := compare.Sharing([]compare.On{on("a", bad), on("b", api.RenderedBundle{Name: "web", Inputs: &api.Inputs{}})})
	if len(got) != 1 || !slices.Equal(got[0].Failed, []string{"a"}) || len(got[0].Renderings) != 1 {
		t.Errorf("got %+v", got)
	}
}
