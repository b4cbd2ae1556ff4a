package render

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/manifest"
)

// The names of flotilla's own files.
const (
	fleetFile   = "fleet.yaml"
	clusterFile = "cluster.yaml"
	bundleFile  = "bundle.yaml"
	clustersDir = "clusters"
)

// misnamed are names that look like flotilla's files and are not read.
var misnamed = map[string]string{"bundle.yml": bundleFile, "cluster.yml": clusterFile, "fleet.yml": fleetFile}

func readFleet(tree api.Tree) (api.Fleet, error) {
	data, err := tree.ReadFile(fleetFile)
	if errors.Is(err, fs.ErrNotExist) {
		return api.Fleet{}, nil
	}
	if err != nil {
		return api.Fleet{}, fmt.Errorf("read %q: %w", fleetFile, err)
	}
	return api.DecodeFleet(fleetFile, data)
}

// readCluster reads one cluster's file. Other clusters' files are not looked at,
// so that a mistake in one does not stop the others.
func readCluster(tree api.Tree, name string) (api.Cluster, error) {
	file := path.Join(clustersDir, name, clusterFile)
	if !api.ValidName(name) {
		return api.Cluster{}, unknownCluster(tree, name)
	}
	data, err := tree.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return api.Cluster{}, unknownCluster(tree, name)
	}
	if err != nil {
		return api.Cluster{}, fmt.Errorf("read %q: %w", file, err)
	}
	c, err := api.DecodeCluster(file, data)
	if err != nil {
		return api.Cluster{}, err
	}
	if c.Metadata.Name != name {
		return api.Cluster{}, &api.Error{
			Kind: api.Stalled, Reason: "BadFleetFile", File: file, Line: LineOf(data, "metadata", "name"), Field: "metadata.name",
			Err: fmt.Errorf("%q is not the directory's name %q", c.Metadata.Name, name),
		}
	}
	return c, nil
}

func unknownCluster(tree api.Tree, name string) error {
	names, err := ClusterNames(tree)
	if err != nil {
		return err
	}
	e := &api.Error{
		Kind: api.Stalled, Reason: "UnknownCluster", File: path.Join(clustersDir, name, clusterFile),
		Err: fmt.Errorf("the fleet repository has no cluster %q", name), Hint: "it has no clusters at all",
	}
	if len(names) > 0 {
		e.Hint = "it has " + strings.Join(names, ", ")
	}
	return e
}

// variables are the fleet's, overridden by the cluster's, over the built-in ones.
func variables(fleet api.Fleet, cluster api.Cluster) manifest.Variables {
	out := manifest.Variables{VariableClusterName: cluster.Metadata.Name}
	for _, vars := range []map[string]string{fleet.Spec.Variables, cluster.Spec.Variables} {
		maps.Copy(out, vars)
	}
	return out
}
