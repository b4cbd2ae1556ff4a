// Package bootstrap decides what a fleet repository lacks for a cluster whose agent manages itself from Git.
//
// It promises to change no file that is there, but for those that an upgrade replaces: the chart and the image.
// It reads a tree and returns files; it never talks to Git or to a cluster.
package bootstrap

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/deploy"
)

// A cluster with this label has its agent managed by the bundle deploy.Bundle of the repository.
const (
	Label   = api.Group + "/agent"
	Managed = "managed"
)

// Dir is where the bundle stands in the repository.
const Dir = deploy.Bundle

// Files of the bundle. An upgrade replaces the chart and imageFile; the others belong to who runs the fleet.
const (
	bundleFile = Dir + "/bundle.yaml"
	agentFile  = Dir + "/agent.yaml"
	valuesFile = Dir + "/values.yaml"
	imageFile  = Dir + "/image.yaml"
	chartDir   = Dir + "/chart"
)

// Variables of a cluster that values.yaml asks for, by what they say.
const (
	VarRBAC             = "flotilla_rbac"
	VarSecret           = "flotilla_secret" //nolint:gosec // the name of a variable
	VarCredentials      = "flotilla_credentials"
	VarSSHKey           = "flotilla_ssh_key"
	VarKnownHosts       = "flotilla_known_hosts"
	VarGitCA            = "flotilla_git_ca"
	VarChartCredentials = "flotilla_chart_credentials" //nolint:gosec // the name of a variable
	VarJoin             = "flotilla_join"
	// VarAgeKeys holds several with commas between them.
	VarAgeKeys = "flotilla_age_keys"
)

// Request is what a cluster is to be.
type Request struct {
	Cluster string
	Labels  map[string]string
	// Variables are those of the agent that differ from their defaults.
	Variables map[string]string
	// Repo and Branch are what the agents follow.
	Repo, Branch string
	// Image is the chart's image value, and Values are more values of the chart. Both are for the bundle, which all clusters share.
	Image, Values map[string]any
	// Upgrade replaces the chart and the image of a bundle that is there.
	Upgrade bool
}

// Validate refuses what can be in no repository.
func (r Request) Validate() error {
	bad := func(format string, args ...any) error {
		return &api.Error{Kind: api.Stalled, Reason: "BadRequest", Err: fmt.Errorf(format, args...)}
	}
	if !api.ValidName(r.Cluster) {
		return bad("%q is not a cluster's name: at most 63 lower-case letters, digits and dashes", r.Cluster)
	}
	if u, err := url.Parse(r.Repo); err == nil && u.User != nil {
		if _, secret := u.User.Password(); secret || u.Scheme == "http" || u.Scheme == "https" {
			return bad("the repository's address has credentials in it, and would be written to Git: give them with --credentials FILE")
		}
	}
	return nil
}

// Decide returns the files that the repository lacks. It returns none if nothing is missing.
func Decide(tree fs.FS, r Request) (map[string][]byte, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	err := errors.Join(r.cluster(tree, files), r.bundle(tree, files))
	if err != nil {
		return nil, err
	}
	return files, nil
}

// cluster adds the cluster, or checks the one that is there.
func (r Request) cluster(tree fs.FS, files map[string][]byte) error {
	name := path.Join("clusters", r.Cluster, "cluster.yaml")
	labels := maps.Clone(r.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[Label] = Managed
	data, err := fs.ReadFile(tree, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		files[name], err = clusterYAML(r.Cluster, labels, r.Variables)
		return err
	case err != nil:
		return err
	}
	var have struct {
		Metadata struct{ Labels map[string]string }
		Spec     struct{ Variables map[string]string }
	}
	if err := yaml.Unmarshal(data, &have); err != nil {
		return &api.Error{Kind: api.Stalled, Reason: "BadCluster", File: name, Err: err}
	}
	labels, variables := lacking(have.Metadata.Labels, labels), lacking(have.Spec.Variables, r.Variables)
	if len(labels)+len(variables) == 0 {
		return nil
	}
	var lines []string
	for _, s := range []struct {
		at string
		of map[string]string
	}{{"metadata.labels", labels}, {"spec.variables", variables}} {
		for _, k := range slices.Sorted(maps.Keys(s.of)) {
			lines = append(lines, fmt.Sprintf("%s: %s: %q", s.at, k, s.of[k]))
		}
	}
	return &api.Error{
		Kind: api.Stalled, Reason: "ClusterDiffers", File: name,
		Err:  fmt.Errorf("the cluster is in the repository, and lacks %s", strings.Join(lines, "; ")),
		Hint: "add that there, and run this again: a file that is there is not changed",
	}
}

// lacking are the entries of want that have does not hold.
func lacking(have, want map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			out[k] = v
		}
	}
	return out
}

func clusterYAML(name string, labels, variables map[string]string) ([]byte, error) {
	spec := map[string]any{}
	if len(variables) > 0 {
		spec["variables"] = variables
	}
	return written("", map[string]any{
		"apiVersion": api.APIVersion, "kind": api.KindCluster,
		"metadata": map[string]any{"name": name, "labels": labels}, "spec": spec,
	})
}

// written is a YAML file that begins with a comment.
func written(comment string, v any) ([]byte, error) {
	data, err := yaml.Marshal(v)
	return append([]byte(comment), data...), err
}

// bundle adds the agent's own bundle, or upgrades it.
func (r Request) bundle(tree fs.FS, files map[string][]byte) error {
	_, err := fs.Stat(tree, bundleFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return r.add(tree, files)
	case err != nil:
		return err
	case len(r.Values) > 0:
		return &api.Error{
			Kind: api.Stalled, Reason: "ValuesInGit", File: valuesFile,
			Err: errors.New("the repository has the agent's bundle already, and --values would not be used"), Hint: "change the values there",
		}
	case !r.Upgrade:
		return nil
	}
	return r.upgrade(tree, files)
}

// add adds the whole bundle. What stands in its place already belongs to somebody else.
func (r Request) add(tree fs.FS, files map[string][]byte) error {
	fresh, err := r.chart()
	if err != nil {
		return err
	}
	values, err := written(valuesComment, r.Values)
	if err != nil {
		return err
	}
	agent, err := r.agent()
	if err != nil {
		return err
	}
	fresh[bundleFile], fresh[agentFile], fresh[valuesFile] = []byte(bundleYAML), agent, values
	for _, name := range slices.Sorted(maps.Keys(fresh)) {
		if _, err := fs.Stat(tree, name); err == nil {
			return &api.Error{
				Kind: api.Stalled, Reason: "PathTaken", File: name,
				Err: errors.New("is there, where the agent's bundle is to stand"), Hint: "move it away",
			}
		}
	}
	maps.Copy(files, fresh)
	return nil
}

// upgrade replaces the chart and the image where they differ, and deletes what the new chart does not have.
func (r Request) upgrade(tree fs.FS, files map[string][]byte) error {
	fresh, err := r.chart()
	if err != nil {
		return err
	}
	for name, data := range fresh {
		have, err := fs.ReadFile(tree, name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err != nil || !bytes.Equal(have, data) {
			files[name] = data
		}
	}
	err = fs.WalkDir(tree, chartDir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if _, ok := fresh[name]; !ok {
			files[name] = nil
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// chart is what an upgrade replaces: the chart of this program, and the image.
func (r Request) chart() (map[string][]byte, error) {
	out := map[string][]byte{}
	chart, err := deploy.Chart()
	if err != nil {
		return nil, err
	}
	err = fs.WalkDir(chart, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		out[path.Join(chartDir, name)], err = fs.ReadFile(chart, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	out[imageFile], err = written("# flotilla bootstrap --upgrade replaces this file and chart/.\n", map[string]any{"image": r.Image})
	return out, err
}

const bundleYAML = `# flotilla's own agent, on every cluster with the label ` + Label + `: ` + Managed + `.
# An agent applies this bundle like any other: a change here rolls the agent's Deployment.
# flotilla bootstrap --upgrade replaces chart/ and image.yaml by those of its own version; the rest is yours.
apiVersion: ` + api.APIVersion + `
kind: Bundle
metadata: {name: ` + deploy.Bundle + `}
spec:
  targets:
  - clusterSelector: {matchLabels: {` + Label + `: ` + Managed + `}}
  helm:
    chart: ./chart
    releaseName: ` + deploy.Bundle + `
    valuesFiles: [agent.yaml, values.yaml, image.yaml]
  namespace: ` + api.SystemNamespace + `
  substitute: true
  # An agent that leaves Git goes on; flotilla uninstall takes it away.
  prune: false
  # A version that is not ready by then is told as failed, with the reason; the one before goes on.
  timeout: 3m
`

const valuesComment = `# Values of the chart for every agent; see chart/values.yaml.
`

// agentYAML gives the chart what each cluster.yaml says of its agent. The quotes keep a name of digits a name.
const agentYAML = `# What differs between agents stands in the variables of each cluster.yaml.
agent:
  enabled: true
  cluster: "${CLUSTER_NAME}"
  repo: %s
  branch: %s
  rbac: "${` + VarRBAC + `:-cluster-admin}"
  # The Secret that flotilla bootstrap makes, and its files.
  secret: {name: "${` + VarSecret + `:-}"}
  credentials: "${` + VarCredentials + `:-}"
  sshKey: "${` + VarSSHKey + `:-}"
  knownHosts: "${` + VarKnownHosts + `:-}"
  gitCA: "${` + VarGitCA + `:-}"
  chartCredentials: "${` + VarChartCredentials + `:-}"
  join: "${` + VarJoin + `:-}"
  ageKeys: ["${` + VarAgeKeys + `:-}"]
`

// agent is agentFile.
func (r Request) agent() ([]byte, error) {
	repo, err := json.Marshal(strings.ReplaceAll(r.Repo, "${", "$${"))
	if err != nil {
		return nil, err
	}
	branch, err := json.Marshal(strings.ReplaceAll(r.Branch, "${", "$${"))
	return fmt.Appendf(nil, agentYAML, repo, branch), err
}
