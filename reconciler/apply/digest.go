package apply

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Digest is of an object as rendered: it changes when, and only when, the object does.
func Digest(obj *unstructured.Unstructured) string {
	// Maps marshal with sorted keys, and what came from YAML or JSON always marshals.
	b, _ := json.Marshal(obj.Object)
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}
