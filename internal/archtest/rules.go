package archtest

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

const module = "github.com/flotilla-fleet/flotilla"

// A Package is what the rules need to know about one package of this module.
type Package struct {
	Path    string   // relative to the module: "reconciler/plan"
	Imports []string // import paths of its files, without tests
	Deps    []string // import paths it is linked with, all levels
	Clock   []string // uses of the clock: "drift/compare.go:12: time.Now"
	Docs    []string // files that carry a package comment
}

// A rule returns one line for each violation of one package.
type rule struct {
	name  string
	check func(Package) []string
}

var rules = []rule{
	{"pure packages touch no clock, network, disk, logger or Kubernetes client", checkPure},
	{"a heavy dependency has one owner", checkOwners},
	{"the hub links no helm, kustomize, go-git, sops or Kubernetes client", checkHub},
	{"stages never reach each other", checkStages},
	{"api imports nothing of ours, and cmd only internal/cli", checkEnds},
	{"a package has exactly one package comment", checkComment},
}

// pure packages decide by their arguments alone; packages below them, such as drift/store, are not meant.
var pure = []string{"api", "api/fieldpath", "drift", "hub/intake", "hub/rollout", "reconciler/lifecycle", "reconciler/plan", "render/compare"}

var impure = []string{
	"net", "os", "log", "syscall", "io/ioutil", "database/sql", "embed",
	"k8s.io/client-go", "k8s.io/klog", "sigs.k8s.io/controller-runtime",
}

func checkPure(p Package) []string {
	if !slices.Contains(pure, p.Path) {
		return nil
	}
	bad := slices.Clone(p.Clock)
	for _, imp := range p.Imports {
		ours, isOurs := strings.CutPrefix(imp, module+"/")
		if isOurs && !slices.Contains(pure, ours) {
			bad = append(bad, "imports "+ours+", which is not pure")
		}
		// net/url and net/netip only parse.
		if underAny(imp, impure) && imp != "net/url" && imp != "net/netip" {
			bad = append(bad, "imports "+imp)
		}
	}
	return bad
}

// An owner is the only place that imports a dependency directly.
type owner struct {
	deps   []string
	except []string // below deps, and free for everyone
	owners []string
}

var owners = []owner{
	{deps: []string{"github.com/go-git/go-git", "github.com/skeema/knownhosts", "golang.org/x/net/proxy"}, owners: []string{"sources/git"}},
	{deps: []string{"golang.org/x/crypto/ssh"}, owners: []string{"sources/git", "sources/signature", "internal/gitserver"}},
	{deps: []string{"github.com/ProtonMail/go-crypto"}, owners: []string{"sources/signature"}},
	{deps: []string{"sigs.k8s.io/kustomize"}, owners: []string{"render/kustomize"}},
	{deps: []string{"helm.sh/helm"}, owners: []string{"render/helm", "sources/chart"}},
	{deps: []string{"github.com/getsops/sops"}, owners: []string{"render/sops"}},
	{deps: []string{"github.com/fluxcd/pkg/ssa"}, owners: []string{"reconciler/apply"}},
	// The product starts no program but itself; only the demo and what tests need do.
	{deps: []string{"os/exec"}, owners: []string{"internal/sandbox", "internal/demo", "internal/controlplane", "internal/gitserver", "internal/archtest", "sources/git"}},
	{deps: []string{"k8s.io/apiextensions-apiserver", "k8s.io/apiserver"}, owners: []string{"render/schemas"}},
	{deps: []string{"k8s.io/pod-security-admission"}, owners: []string{"render/check"}},
	{deps: []string{"go.etcd.io/bbolt"}, owners: []string{"internal/boltfile"}},
	{deps: informers, owners: []string{"drift/watch"}},
	// What can ask for objects; see TestReadersOnlyRead.
	{
		deps:   []string{"k8s.io/client-go/kubernetes", "k8s.io/client-go/dynamic", "k8s.io/client-go/metadata"},
		except: slices.Concat(informers, []string{"k8s.io/client-go/kubernetes/scheme"}),
		owners: readers,
	},
	{
		deps:   []string{"k8s.io/client-go", "sigs.k8s.io/controller-runtime"},
		except: informers,
		// The agent and the commands build a rest.Config and hand it down. render/schemas reads the schemas that come with it.
		owners: []string{"reconciler/kube", "reconciler/health", "drift/watch", "internal/agent", "internal/cli", "render/schemas"},
	},
}

// readers ask the cluster, and never write to it.
var readers = []string{"reconciler/health", "drift/watch"}

var informers = []string{
	"k8s.io/client-go/informers",
	"k8s.io/client-go/tools/cache",
	"k8s.io/client-go/dynamic/dynamicinformer",
	"k8s.io/client-go/metadata/metadatainformer",
	"sigs.k8s.io/controller-runtime/pkg/cache",
}

func checkOwners(p Package) []string {
	if testOnly(p.Path) {
		return nil
	}
	var bad []string
	for _, o := range owners {
		if underAny(p.Path, o.owners) {
			continue
		}
		for _, imp := range p.Imports {
			if underAny(imp, o.deps) && !underAny(imp, o.except) {
				bad = append(bad, fmt.Sprintf("imports %s, which belongs to %s", imp, strings.Join(o.owners, ", ")))
			}
		}
	}
	return bad
}

// testOnly packages set up real servers for tests: xxxtest, and everything under test/.
func testOnly(pkg string) bool {
	return underAny(pkg, []string{"test"}) || strings.HasSuffix(path.Base(pkg), "test")
}

var hubNever = []string{
	"helm.sh/helm", "sigs.k8s.io/kustomize", "github.com/go-git", "github.com/getsops/sops",
	"github.com/fluxcd/pkg/ssa", "k8s.io/client-go", "sigs.k8s.io/controller-runtime",
}

func checkHub(p Package) []string {
	if !underAny(p.Path, []string{"hub"}) {
		return nil
	}
	var bad []string
	for _, dep := range p.Deps {
		if underAny(dep, hubNever) {
			bad = append(bad, "is linked with "+dep)
		}
	}
	return bad
}

var stages = []string{"sources", "render", "policy", "reconciler", "drift", "hub"}

func stageOf(pkg string) string {
	first, _, _ := strings.Cut(pkg, "/")
	if slices.Contains(stages, first) {
		return first
	}
	return ""
}

// checkStages looks at all levels: a detour through a package in internal/ is no better than a direct import.
func checkStages(p Package) []string {
	mine := stageOf(p.Path)
	if mine == "" || testOnly(p.Path) {
		return nil
	}
	var bad []string
	for _, dep := range p.Deps {
		ours, ok := strings.CutPrefix(dep, module+"/")
		if !ok {
			continue
		}
		if other := stageOf(ours); other != "" && other != mine {
			bad = append(bad, "reaches "+ours)
		}
	}
	return bad
}

func checkEnds(p Package) []string {
	var bad []string
	for _, imp := range p.Imports {
		ours, ok := strings.CutPrefix(imp, module+"/")
		switch {
		case !ok:
		case p.Path == "api":
			bad = append(bad, "imports "+ours)
		case underAny(p.Path, []string{"cmd"}) && ours != "internal/cli":
			bad = append(bad, "imports "+ours)
		}
	}
	return bad
}

func checkComment(p Package) []string {
	switch len(p.Docs) {
	case 0:
		return []string{"has no package comment"}
	case 1:
		return nil
	default:
		return []string{"has several package comments: " + strings.Join(p.Docs, ", ")}
	}
}

// underAny tells whether a path is one of the roots or below one.
// A root also covers its major versions: "helm.sh/helm" is meant to cover "helm.sh/helm/v3/pkg/engine".
func underAny(p string, roots []string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		return p == root || strings.HasPrefix(p, root+"/")
	})
}

// check runs all rules over one package.
func check(p Package) []string {
	var bad []string
	for _, r := range rules {
		for _, v := range r.check(p) {
			bad = append(bad, fmt.Sprintf("%s %s (rule: %s)", p.Path, v, r.name))
		}
	}
	return bad
}
