package render_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/flotilla-fleet/flotilla/render"
)

// What a worker does not read is bounded by how much it is: each file by itself, and a bundle's together.
func TestBounds(t *testing.T) {
	aliases := configMap("s", "") + "x0: &x0 a\n"
	for i := range 12 {
		aliases += fmt.Sprintf("x%d: &x%d [%s]\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*x%d, ", i), 10))
	}
	dense := configMap("d", "") + "list: [" + strings.Repeat("a,", 1<<19) + "]\n"
	several := []string{"h/bundle.yaml", bundleYAML("h", "")}
	for i := range 5 {
		several = append(several, fmt.Sprintf("h/%d.yaml", i), dense)
	}
	for name, tt := range map[string]struct {
		files []string
		words string
	}{
		"aliases that sops would follow": {[]string{"h/bundle.yaml", bundleYAML("h", ""), "h/s.yaml", aliases + "sops: {mac: 'ENC[AES256_GCM,data:x]'}\n"}, "h/s.yaml:7: the documents expand to more than"},
		"many manifests":                 {several, "h/3.yaml: the bundle's manifests may hold more than"},
	} {
		out := mustRender(t, newRenderer(t, render.Config{}), shared().With(tt.files...).Snapshot(), "one")
		if err := bundle(t, out, "h").Err; err == nil || !strings.Contains(err.Error(), tt.words) {
			t.Errorf("%s: got %.300v, want %q", name, err, tt.words)
		}
		if err := bundle(t, out, "a").Err; err != nil {
			t.Error(err)
		}
	}
}
