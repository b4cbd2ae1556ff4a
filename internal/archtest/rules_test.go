package archtest

import (
	"strings"
	"testing"
)

// TestRules proves that every rule can go red, and stays green next to the border.
func TestRules(t *testing.T) {
	const ours = module + "/"
	for name, tt := range map[string]struct {
		pkg  Package
		want string // part of the only violation; empty means none
	}{
		"pure: logger":           {Package{Path: "api", Imports: []string{"log/slog"}}, "api imports log/slog"},
		"pure: disk":             {Package{Path: "drift", Imports: []string{"os"}}, "drift imports os"},
		"pure: network":          {Package{Path: "reconciler/plan", Imports: []string{"net/http"}}, "imports net/http"},
		"pure: parsing a URL":    {Package{Path: "api", Imports: []string{"net/url", "time", "io"}}, ""},
		"pure: clock":            {Package{Path: "drift", Clock: []string{"drift/a.go:3: time.Now"}}, "drift/a.go:3: time.Now"},
		"pure: impure helper":    {Package{Path: "drift", Imports: []string{ours + "internal/redact"}}, "which is not pure"},
		"pure: pure helper":      {Package{Path: "drift", Imports: []string{ours + "api"}}, ""},
		"pure: not below":        {Package{Path: "drift/store", Imports: []string{"os"}, Clock: []string{"x"}}, ""},
		"owner: go-git":          {Package{Path: "render", Imports: []string{"github.com/go-git/go-git/v5"}}, "belongs to sources/git"},
		"owner: go-git at home":  {Package{Path: "sources/git", Imports: []string{"github.com/go-git/go-git/v5"}}, ""},
		"owner: go-git in tests": {Package{Path: "internal/gittest", Imports: []string{"github.com/go-git/go-git/v5"}}, ""},
		"owner: kustomize":       {Package{Path: "render", Imports: []string{"sigs.k8s.io/kustomize/api/krusty"}}, "belongs to render/kustomize"},
		"owner: helm":            {Package{Path: "sources/git", Imports: []string{"helm.sh/helm/v3/pkg/chart"}}, "belongs to render/helm, sources/chart"},
		"owner: sops":            {Package{Path: "render", Imports: []string{"github.com/getsops/sops/v3/decrypt"}}, "belongs to render/sops"},
		"owner: ssa":             {Package{Path: "drift/watch", Imports: []string{"github.com/fluxcd/pkg/ssa"}}, "belongs to reconciler/apply"},
		"owner: bbolt":           {Package{Path: "internal/agent", Imports: []string{"go.etcd.io/bbolt"}}, "belongs to internal/boltfile"},
		"owner: processes":       {Package{Path: "render/engine", Imports: []string{"os/exec"}}, "belongs to internal/sandbox"},
		"owner: informers":       {Package{Path: "internal/agent", Imports: []string{"k8s.io/client-go/tools/cache"}}, "belongs to drift/watch"},
		"owner: informer home":   {Package{Path: "drift/watch", Imports: []string{"k8s.io/client-go/tools/cache"}}, ""},
		"owner: client":          {Package{Path: "sources/git", Imports: []string{"k8s.io/client-go/dynamic"}}, "belongs to reconciler/health"},
		"owner: writer":          {Package{Path: "internal/agent", Imports: []string{"k8s.io/client-go/kubernetes"}}, "belongs to reconciler/health"},
		"owner: requests":        {Package{Path: "reconciler/apply", Imports: []string{"k8s.io/client-go/rest"}}, "belongs to reconciler/kube"},
		"owner: rest.Config":     {Package{Path: "internal/cli", Imports: []string{"k8s.io/client-go/rest"}}, ""},
		"hub: transitive client": {Package{Path: "hub/web", Deps: []string{"k8s.io/client-go/rest"}}, "is linked with k8s.io/client-go/rest"},
		"hub: transitive helm":   {Package{Path: "hub", Deps: []string{"helm.sh/helm/v3/pkg/chart"}}, "is linked with helm.sh/helm"},
		"hub: machinery":         {Package{Path: "hub", Deps: []string{"k8s.io/apimachinery/pkg/types"}}, ""},
		"stages: direct":         {Package{Path: "render/helm", Deps: []string{ours + "sources/chart"}}, "reaches sources/chart"},
		"stages: same stage":     {Package{Path: "render", Deps: []string{ours + "render/helm", ours + "api"}}, ""},
		"stages: not a stage":    {Package{Path: "internal/agent", Deps: []string{ours + "render", ours + "sources/git"}}, ""},
		"ends: api":              {Package{Path: "api", Imports: []string{ours + "drift"}}, "api imports drift"},
		"ends: cmd":              {Package{Path: "cmd/flotilla", Imports: []string{ours + "hub"}}, "cmd/flotilla imports hub"},
		"ends: cmd to cli":       {Package{Path: "cmd/flotilla", Imports: []string{ours + "internal/cli"}}, ""},
		"prefix is a path":       {Package{Path: "api", Imports: []string{"nettle", "oslo"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			tt.pkg.Docs = []string{"doc.go"}
			wantViolation(t, check(tt.pkg), tt.want)
		})
	}
}

func TestRules_packageComment(t *testing.T) {
	wantViolation(t, check(Package{Path: "policy"}), "policy has no package comment")
	wantViolation(t, check(Package{Path: "policy", Docs: []string{"a.go", "b.go"}}), "several package comments: a.go, b.go")
}

func wantViolation(t *testing.T, got []string, want string) {
	t.Helper()
	switch {
	case want == "" && len(got) > 0:
		t.Errorf("got %q, want no violation", got)
	case want != "" && (len(got) == 0 || !strings.Contains(got[0], want)):
		t.Errorf("got %q, want %q", got, want)
	}
}
