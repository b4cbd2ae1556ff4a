package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
)

// annotationRollout is the number of a rollout: the Deployment controller writes it after every change of the
// Pod template. It is nobody's desired state, and without it no rollout looks like a drift that has to be examined.
const annotationRollout = "deployment.kubernetes.io/revision"

// MetaDigest is a digest of an object's labels and annotations:
// with the generation, it tells whether a change to an object can matter.
func MetaDigest(labels, annotations map[string]string) string {
	if len(labels) == 0 {
		labels = nil
	}
	if _, ok := annotations[annotationRollout]; ok {
		annotations = maps.Clone(annotations)
		delete(annotations, annotationRollout)
	}
	if len(annotations) == 0 {
		annotations = nil
	}
	// Maps of strings always marshal, and with sorted keys.
	b, _ := json.Marshal([]map[string]string{labels, annotations})
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}
