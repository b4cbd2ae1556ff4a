package demo

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// writeExample writes the example repository to a directory, with a cluster.yaml for every name.
func writeExample(dir string, example fs.FS, names []string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.CopyFS(dir, example); err != nil {
		return err
	}
	for i, name := range names {
		if slices.Contains(known, name) {
			continue
		}
		region := []string{"eu", "us"}[i%2]
		file := filepath.Join(dir, "clusters", name, "cluster.yaml")
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, fmt.Appendf(nil, clusterYAML, name, region, region, name, region), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// clusterYAML describes a cluster that the example repository does not know.
const clusterYAML = `apiVersion: flotilla.dev/v1alpha1
kind: Cluster
metadata:
  name: %s
  labels: {env: prod, region: %s}
spec:
  variables:
    region: %s
    cluster_domain: %s.%s.example.com
`
