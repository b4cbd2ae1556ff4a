package api_test

import (
	"slices"
	"testing"

	"github.com/flotilla-fleet/flotilla/api"
)

func TestKeeps(t *testing.T) {
	for _, tt := range []struct {
		annotations map[string]string
		want        string
	}{
		{nil, ""},
		{map[string]string{"flotilla.dev/prune": "disabled"}, "flotilla.dev/prune: disabled"},
		{map[string]string{"flotilla.dev/prune": "enabled"}, ""},
		{map[string]string{"flotilla.dev/prune": "no"}, ""},
		{map[string]string{"helm.sh/resource-policy": "keep"}, "helm.sh/resource-policy: keep"},
		{map[string]string{"helm.sh/resource-policy": " Keep"}, "helm.sh/resource-policy: keep"},
		{map[string]string{"helm.sh/resource-policy": "delete"}, ""},
		{map[string]string{"helm.sh/resource-policy": "keep", "flotilla.dev/prune": "enabled"}, ""},
		{map[string]string{"kustomize.toolkit.fluxcd.io/prune": "disabled"}, "kustomize.toolkit.fluxcd.io/prune: disabled"},
		{map[string]string{"kustomize.toolkit.fluxcd.io/prune": "enabled"}, ""},
		{map[string]string{"argocd.argoproj.io/sync-options": "Delete=false"}, "argocd.argoproj.io/sync-options: Delete=false"},
		{map[string]string{"argocd.argoproj.io/sync-options": "Replace=true,Prune=false"}, "argocd.argoproj.io/sync-options: Prune=false"},
		{map[string]string{"argocd.argoproj.io/sync-options": "Replace=true , Delete=confirm"}, "argocd.argoproj.io/sync-options: Delete=confirm"},
		{map[string]string{"argocd.argoproj.io/sync-options": "Delete=true"}, ""},
	} {
		if got := api.Keeps(tt.annotations); got != tt.want {
			t.Errorf("Keeps(%v) = %q, want %q", tt.annotations, got, tt.want)
		}
		if got := api.OrdersIn(tt.annotations).Keep; got != tt.want {
			t.Errorf("OrdersIn(%v).Keep = %q, want %q", tt.annotations, got, tt.want)
		}
		for key := range tt.annotations {
			if !slices.Contains(api.OrderAnnotations(), key) {
				t.Errorf("a watch drops %q", key)
			}
		}
	}
}
