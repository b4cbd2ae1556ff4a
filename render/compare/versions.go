package compare

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

// version finds the major version at the beginning of a tag: v1.2.3, 1.2, 1.2.3-alpine. A plain number is none: it may be a build.
var version = regexp.MustCompile(`^v?(\d+)\.\d+`)

func major(tag string) string {
	m := version.FindStringSubmatch(tag)
	if m == nil {
		return ""
	}
	return m[1]
}

// SplitImage parts an image into its name and its tag. A digest is no tag.
func SplitImage(image string) (name, tag string) {
	image, _, _ = strings.Cut(image, "@")
	if i := strings.LastIndex(image, ":"); i > strings.LastIndex(image, "/") {
		return image[:i], image[i+1:]
	}
	return image, ""
}

// imagesOf: container -> image.
func imagesOf(o *unstructured.Unstructured) map[string]string {
	out := map[string]string{}
	for _, c := range containersOf(podOf(o)) {
		if image, ok := c["image"].(string); ok {
			out[fmt.Sprint(c["name"])] = image
		}
	}
	return out
}

// majorImages says which images get another major version.
func majorImages(before, after *unstructured.Unstructured) []string {
	had, now := imagesOf(before), imagesOf(after)
	var out []string
	for _, name := range sortedKeys(now) {
		a, b := major(tagOf(had[name])), major(tagOf(now[name]))
		if a != "" && b != "" && a != b {
			out = append(out, fmt.Sprintf("container %s: %s to %s", name, had[name], now[name]))
		}
	}
	return out
}

func tagOf(image string) string {
	_, tag := SplitImage(image)
	return tag
}

func sortedKeys(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// majorChart says that the bundle's chart gets another major version; empty if it does not.
func majorChart(x, y api.RenderedBundle) string {
	if x.Spec.Helm == nil || y.Spec.Helm == nil {
		return ""
	}
	was, is := x.Spec.Helm.Version, y.Spec.Helm.Version
	if was == "" && is == "" {
		was, is = chartLabel(x), chartLabel(y)
	}
	if a, b := major(was), major(is); a != "" && b != "" && a != b {
		return fmt.Sprintf("the chart, from %s to %s", was, is)
	}
	return ""
}

// chartVersion is the end of a label helm.sh/chart, such as podinfo-6.5.4.
var chartVersion = regexp.MustCompile(`-(v?\d+\.\d+\.\d+\S*)$`)

// chartLabel is the version that most charts write onto their objects; empty where one does not.
func chartLabel(b api.RenderedBundle) string {
	for _, o := range b.Objects {
		if m := chartVersion.FindStringSubmatch(o.GetLabels()["helm.sh/chart"]); m != nil {
			return m[1]
		}
	}
	return ""
}

// routine reports whether nothing changes but versions: images of the same name, and labels that tell a version.
func routine(v *Variant) bool {
	for _, f := range v.Settings {
		if f.Path != "/helm/version" {
			return false
		}
	}
	for _, o := range v.Objects {
		if o.Kind != Changed {
			return false
		}
		for _, f := range o.Fields {
			if !routineField(f) {
				return false
			}
		}
	}
	return true
}

func routineField(f Field) bool {
	if strings.HasSuffix(f.Path, "/helm.sh~1chart") || strings.HasSuffix(f.Path, "/app.kubernetes.io~1version") {
		return true
	}
	if !strings.HasSuffix(f.Path, "/image") || f.Before == "" || f.After == "" {
		return false
	}
	was, _ := SplitImage(strings.Trim(f.Before, `"`))
	is, _ := SplitImage(strings.Trim(f.After, `"`))
	return was == is
}
