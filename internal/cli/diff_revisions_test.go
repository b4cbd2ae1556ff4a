package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flotilla-fleet/flotilla/internal/gitserver"
	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
	"github.com/flotilla-fleet/flotilla/render/compare"
)

const fleetHead = "apiVersion: flotilla.dev/v1alpha1\n"

// reviewed is a checkout of a fleet of three clusters with two commits: the second changes an image, a right and a Secret,
// and one cluster's replicas.
func reviewed(t *testing.T) string {
	t.Helper()
	repo := gitservertest.New(t)
	files := map[string]string{
		"web/bundle.yaml": fleetHead + "kind: Bundle\nmetadata: {name: web}\nspec: {substitute: true}\n",
		"web/d.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: x}\n" +
			"spec:\n  replicas: ${replicas:-3}\n  template: {spec: {containers: [{name: a, image: 'r/a:1.2.3'}]}}\n",
		"sec/bundle.yaml": fleetHead + "kind: Bundle\nmetadata: {name: sec}\n",
		"sec/s.yaml":      "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: x}\nstringData: {password: old-hunter2}\n",
		"rb/bundle.yaml":  fleetHead + "kind: Bundle\nmetadata: {name: rb}\n",
		"rb/r.yaml": "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: r, namespace: x}\n" +
			"rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]\n",
		"rb/c.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: x}\ndata: {k: 'a|b <script>alert(1)</script> @here'}\n",
	}
	for _, name := range []string{"eu", "us", "ap"} {
		files["clusters/"+name+"/cluster.yaml"] = fleetHead + "kind: Cluster\nmetadata: {name: " + name + "}\n"
	}
	repo.Commit(files)
	repo.Commit(map[string]string{
		"web/d.yaml":                strings.Replace(files["web/d.yaml"], "1.2.3", "1.2.4", 1),
		"sec/s.yaml":                strings.Replace(files["sec/s.yaml"], "old", "new", 1),
		"rb/r.yaml":                 strings.Replace(files["rb/r.yaml"], "[get]", "[get, delete]", 1),
		"rb/c.yaml":                 strings.Replace(files["rb/c.yaml"], "a|b", "``` b|c", 1),
		"clusters/us/cluster.yaml":  files["clusters/us/cluster.yaml"] + "spec: {variables: {replicas: '0'}}\n",
		"clusters/new/cluster.yaml": fleetHead + "kind: Cluster\nmetadata: {name: new}\n",
	})
	dir := filepath.Join(t.TempDir(), "checkout")
	if _, err := gitserver.Git(t.Context(), t.TempDir(), "clone", "-q", "file://"+repo.Dir, dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestDiffRevisions(t *testing.T) {
	dir := reviewed(t)
	code, out, stderr := run(t, "diff", "--repo", dir, "--from", "HEAD~1", "--to", "HEAD")
	if code != 1 || stderr != "" {
		t.Fatalf("exit code %d, %s", code, stderr)
	}
	want := `HEAD~1 → HEAD: 3 of 3 clusters, 3 bundles; objects: 4 changed.
cluster new joins

DANGERS
  WidensRights      bundle rb: Role.rbac.authorization.k8s.io/x/r: allows delete of pods (all 3 clusters)
  ScalesToZero      bundle web: Deployment.apps/x/web: from 3 replicas (us)

rb: changed on all 3 clusters
  changed ConfigMap/x/c
      /data/k: "a|b <script>alert(1)</script> @here" → "` + "```" + ` b|c <script>alert(1)</script> @here"
  changed Role.rbac.authorization.k8s.io/x/r
      /rules: [{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}] → [{"apiGroups":[""],"resources":["pods"],"verbs":["get","delete"]}]

sec: changed on all 3 clusters
  changed Secret/x/s
      /data/password: (hidden) → (hidden)

web: changed on us
  changed Deployment.apps/x/web
      /spec/replicas: 3 → 0
      /spec/template/spec/containers/[name=a]/image: "r/a:1.2.3" → "r/a:1.2.4"

ROUTINE
  web on ap, eu: r/a:1.2.3 → r/a:1.2.4
`
	if out != want {
		t.Errorf("got\n%s", out)
	}
}

// Every format says the same, none shows a Secret, and what is in Git cannot get out of its place in a comment or a page.
func TestDiffRevisions_formats(t *testing.T) {
	dir := reviewed(t)
	for _, format := range []string{"table", "json", "yaml", "markdown", "html"} {
		code, out, stderr := run(t, "diff", "--repo", dir, "--from", "HEAD~1", "--to", "HEAD", "-o", format)
		if code != 1 || stderr != "" || strings.Contains(out, "hunter2") || !strings.Contains(out, "WidensRights") {
			t.Errorf("%s: exit code %d, %s\n%s", format, code, stderr, out)
		}
		switch format {
		case "json":
			var got struct {
				compare.Result
				From, To string
			}
			if err := json.Unmarshal([]byte(out), &got); err != nil || got.From != "HEAD~1" || got.Summary.Changed != 4 || len(got.Bundles) != 3 || len(got.Dangers) != 2 {
				t.Errorf("got %+v, %v", got, err)
			}
		case "markdown":
			if !strings.HasPrefix(out, "<!-- flotilla diff -->\n") || !strings.Contains(out, "````diff\n") || strings.Count(out, "````") != 2 {
				t.Errorf("the comment has no marker, or a value ends its fence:\n%s", out)
			}
		case "html":
			if strings.Contains(out, "<script>") || !strings.Contains(out, "&lt;script&gt;") {
				t.Errorf("the page runs what is in Git:\n%s", out)
			}
		}
	}
}

func TestDiffRevisions_what(t *testing.T) {
	dir := reviewed(t)
	if err := os.WriteFile(filepath.Join(dir, "rb", "c.yaml"), []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: x}\ndata: {k: dirty}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		args  []string
		code  int
		words string
		not   string
	}{
		{"the same revision", []string{"--from", "HEAD", "--to", "HEAD"}, 0, "Nothing changes on 4 clusters.", ""},
		{"what is on disk", []string{"--from", "HEAD"}, 1, `→ "dirty"`, "Secret"},
		{"a merge base", []string{"--from", "HEAD~1...HEAD"}, 1, "→ HEAD: 3 of 3 clusters", "dirty"},
		{"one cluster", []string{"--from", "HEAD~1", "--to", "HEAD", "--cluster", "us"}, 1, "1 of 1 cluster,", "joins"},
		{"one bundle", []string{"--from", "HEAD~1", "--to", "HEAD", "--bundle", "sec"}, 1, "1 bundle;", "Deployment"},
		{"no such cluster", []string{"--from", "HEAD~1", "--cluster", "xx"}, 3, `cluster "xx" is in neither revision`, ""},
		{"no such revision", []string{"--from", "nope"}, 3, `revision "nope" is not in the checkout`, ""},
		{"both ends twice", []string{"--from", "HEAD~1...HEAD", "--to", "HEAD"}, 64, "so --to has no place", ""},
		{"a cluster to ask", []string{"--from", "HEAD~1", "--kubeconfig", "x"}, 64, "--from asks no cluster", ""},
		{"a format of the other kind", []string{"--cluster", "eu", "-o", "html"}, 64, "belong to --from", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, out, stderr := run(t, append([]string{"diff", "--repo", dir}, tt.args...)...)
			if code != tt.code || !strings.Contains(out+stderr, tt.words) || tt.not != "" && strings.Contains(out, tt.not) {
				t.Errorf("exit code %d\n%s%s", code, out, stderr)
			}
		})
	}
	// Signatures that are asked for are looked at, and not passed over because the commits are at hand.
	keys := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(keys, []byte("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, stderr := run(t, "diff", "--repo", dir, "--from", "HEAD~1", "--to", "HEAD", "--verify-keys", keys); code < 2 || out != "" || !strings.Contains(stderr, "sign") {
		t.Errorf("unsigned: exit code %d\n%s%s", code, out, stderr)
	}
	code, out, stderr := run(t, "diff", "--repo", t.TempDir(), "--from", "HEAD~1")
	if code != 3 || !strings.Contains(stderr, "is not in a Git checkout") {
		t.Errorf("without Git: exit code %d\n%s%s", code, out, stderr)
	}
}

// What the agent's guard would refuse is told before it is merged, and a repository with an address is compared, too.
func TestDiffRevisions_guardAndURL(t *testing.T) {
	server := gitservertest.NewServer(t, gitserver.Config{})
	repo := server.Repository("fleet")
	files := map[string]string{
		"clusters/eu/cluster.yaml": fleetHead + "kind: Cluster\nmetadata: {name: eu}\n",
		"ns/bundle.yaml":           fleetHead + "kind: Bundle\nmetadata: {name: ns}\n",
		"ns/n.yaml":                "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n",
	}
	first := repo.Commit(files)
	second := repo.Commit(map[string]string{"ns/n.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n"})
	code, out, stderr := run(t, "diff", "--repo", repo.URL, "--from", first, "--to", second)
	if code != 1 || !strings.Contains(out, "GuardRefuses") || !strings.Contains(out, "Namespace/b") || !strings.Contains(out, "DeletesData") {
		t.Errorf("exit code %d\n%s%s", code, out, stderr)
	}
	code, _, stderr = run(t, "diff", "--repo", repo.URL, "--from", first)
	if code != 64 || !strings.Contains(stderr, "--to is needed") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}
