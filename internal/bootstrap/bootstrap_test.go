package bootstrap_test

import (
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/flotilla-fleet/flotilla/internal/bootstrap"
)

func request() bootstrap.Request {
	return bootstrap.Request{
		Cluster: "prod-eu", Labels: map[string]string{"env": "prod"}, Repo: "https://git.example.com/fleet.git", Branch: "main",
		Image: map[string]any{"tag": "v1"}, Variables: map[string]string{bootstrap.VarRBAC: "impersonate-only"},
	}
}

// with is a repository that has taken the files.
func with(tree fstest.MapFS, files map[string][]byte) fstest.MapFS {
	out := maps.Clone(tree)
	for name, data := range files {
		if data == nil {
			delete(out, name)
			continue
		}
		out[name] = &fstest.MapFile{Data: data}
	}
	return out
}

func decide(t *testing.T, tree fs.FS, r bootstrap.Request) map[string][]byte {
	t.Helper()
	files, err := bootstrap.Decide(tree, r)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func names(files map[string][]byte) string {
	return strings.Join(slices.Sorted(maps.Keys(files)), " ")
}

func TestDecide(t *testing.T) {
	r := request()
	repo := with(fstest.MapFS{}, decide(t, fstest.MapFS{}, r))
	if files := decide(t, repo, r); len(files) != 0 {
		t.Errorf("again it writes %s", names(files))
	}
	// A second cluster shares the bundle, whatever its owner has made of it.
	repo["flotilla/values.yaml"] = &fstest.MapFile{Data: []byte("agent: {resources: {}}\n")}
	second := r
	second.Cluster = "prod-us"
	if files := decide(t, repo, second); names(files) != "clusters/prod-us/cluster.yaml" {
		t.Errorf("a second cluster writes %s", names(files))
	}
	// Another version leaves the bundle alone unless it is told to.
	newer := r
	newer.Image = map[string]any{"tag": "v2"}
	repo["flotilla/chart/templates/gone.yaml"] = &fstest.MapFile{Data: []byte("x")}
	if files := decide(t, repo, newer); len(files) != 0 {
		t.Errorf("another version writes %s", names(files))
	}
	newer.Upgrade = true
	files := decide(t, repo, newer)
	if names(files) != "flotilla/chart/templates/gone.yaml flotilla/image.yaml" || files["flotilla/chart/templates/gone.yaml"] != nil ||
		!strings.Contains(string(files["flotilla/image.yaml"]), "tag: v2") {
		t.Errorf("an upgrade writes %s", names(files))
	}
	if files := decide(t, with(repo, files), newer); len(files) != 0 {
		t.Errorf("the upgrade again writes %s", names(files))
	}
}

// A value that is written to Git is never taken for a variable.
func TestDecide_quotes(t *testing.T) {
	r := request()
	r.Repo, r.Branch = "/srv/${x}", "a\"b"
	text := string(decide(t, fstest.MapFS{}, r)["flotilla/agent.yaml"])
	for _, want := range []string{`repo: "/srv/$${x}"`, `branch: "a\"b"`, `cluster: "${CLUSTER_NAME}"`} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing in\n%s", want, text)
		}
	}
}

func TestDecide_refuses(t *testing.T) {
	full := with(fstest.MapFS{}, decide(t, fstest.MapFS{}, request()))
	for name, tt := range map[string]struct {
		tree   fstest.MapFS
		change func(*bootstrap.Request)
		says   string
	}{
		"a cluster without the label": {
			tree: with(full, map[string][]byte{"clusters/prod-eu/cluster.yaml": []byte("metadata: {name: prod-eu, labels: {env: prod}}\nspec: {variables: {flotilla_rbac: impersonate-only}}\n")}),
			says: `clusters/prod-eu/cluster.yaml: the cluster is in the repository, and lacks metadata.labels: flotilla.dev/agent: "managed"`,
		},
		"other rights": {tree: full, change: func(r *bootstrap.Request) { r.Variables[bootstrap.VarRBAC] = "x" }, says: `spec.variables: flotilla_rbac: "x"`},
		"a cluster.yaml that is no YAML": {
			tree: with(full, map[string][]byte{"clusters/prod-eu/cluster.yaml": []byte("{")}), says: "clusters/prod-eu/cluster.yaml",
		},
		"something in the bundle's place": {tree: fstest.MapFS{"flotilla/values.yaml": {}}, says: "flotilla/values.yaml: is there, where the agent's bundle is to stand"},
		"values for a bundle that is there": {
			tree: full, change: func(r *bootstrap.Request) { r.Values = map[string]any{"a": 1} }, says: "--values would not be used",
		},
		"no name":             {change: func(r *bootstrap.Request) { r.Cluster = "a/b" }, says: `"a/b" is not a cluster's name`},
		"a password":          {change: func(r *bootstrap.Request) { r.Repo = "https://a:b@c/d" }, says: "--credentials FILE"},
		"a token as the user": {change: func(r *bootstrap.Request) { r.Repo = "https://t0ken@c/d" }, says: "--credentials FILE"},
	} {
		t.Run(name, func(t *testing.T) {
			r := request()
			if tt.change != nil {
				tt.change(&r)
			}
			if tt.tree == nil {
				tt.tree = fstest.MapFS{}
			}
			files, err := bootstrap.Decide(tt.tree, r)
			if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "t0ken") {
				t.Errorf("got %s and %v, want %q", names(files), err, tt.says)
			}
		})
	}
}
