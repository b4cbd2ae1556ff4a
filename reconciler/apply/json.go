package apply

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kjson "k8s.io/apimachinery/pkg/util/json"

	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// unmarshal decodes as Kubernetes does: whole numbers become int64.
func unmarshal(raw []byte, into any) error { return kjson.Unmarshal(raw, into) }

func decode(raw []byte) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{}
	if err := unmarshal(raw, &u.Object); err != nil {
		return nil, fmt.Errorf("decode the answer: %w", err)
	}
	return u, nil
}

// Digest is of an object as rendered: it changes when, and only when, the object does.
func Digest(obj *unstructured.Unstructured) string {
	// Maps marshal with sorted keys, and what came from YAML or JSON always marshals.
	b, _ := json.Marshal(obj.Object)
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// ApplySetID is the value of the part-of label of a bundle's objects (KEP-3659).
//
//nolint:revive // ApplySet is KEP-3659's word, not a repetition of the package's.
func ApplySetID(bundle string) string { return plan.ApplySetID(bundle) }
