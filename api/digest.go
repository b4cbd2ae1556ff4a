package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// annotationRollout is the number of a rollout: the Deployment controller writes it after every change of the
// Pod template. It is nobody's desired state, and without it no rollout looks like a drift that has to be examined.
const annotationRollout = "deployment.kubernetes.io/revision"

// MetaDigest is a digest of an object's metadata that tells, with the generation, whether a change of the object can matter.
// It has up to three parts, with dots between them:
//
//   - labels and annotations
//   - finalizers, owners, and all entries of managedFields but those of subresources: who changes or removes a field
//     takes it out of the entries of all others, and who changes a field of its own moves the time of its entry.
//     What a controller writes through the subresource status changes none of them
//   - the resource version, where the others cannot tell a change of the object from one of its status:
//     nothing is in managedFields (anybody may clear it, and nothing is tracked from then on);
//     or the object has no generation, and nobody ever wrote its status (as of a ConfigMap, which has none)
//
// Times are in whole seconds. What is left unseen by it is a manager who changes, once more within the same second,
// a field that nobody else owns, of an object without a generation (or with one that never moves) that has a status.
func MetaDigest(o metav1.Object) string {
	labels, annotations := o.GetLabels(), o.GetAnnotations()
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
	entries := o.GetManagedFields()
	claims, apart := make([]string, 0, len(entries)), false
	for _, e := range entries {
		if e.Subresource == "" {
			claims = append(claims, claim(e))
		} else {
			apart = true
		}
	}
	slices.Sort(claims) // the server sorts them by time
	owners := o.GetOwnerReferences()
	if len(owners) == 0 {
		owners = nil
	}
	finalizers := slices.Sorted(slices.Values(o.GetFinalizers()))
	d := digest([]map[string]string{labels, annotations}) + "." + digest([]any{finalizers, owners, claims})
	if len(entries) == 0 || (o.GetGeneration() == 0 && !apart) {
		d += "." + o.GetResourceVersion()
	}
	return d
}

// SameMeta reports whether an object whose metadata had the digest known, and now has the digest now,
// has changed in its status at most. The generation must be the same, too.
func SameMeta(known, now string) bool {
	if all := strings.SplitN(known, ".", 3); len(all) == 3 && strings.Count(now, ".") == 1 {
		known = all[0] + "." + all[1] // the status was first written after it was taken
	}
	return known == now
}

// SameLabels reports whether two digests are of the same labels and annotations.
func SameLabels(a, b string) bool {
	x, _, _ := strings.Cut(a, ".")
	y, _, _ := strings.Cut(b, ".")
	return x == y
}

// WithLabels is the digest known, with the labels and annotations of the digest now:
// for an object that was not compared, and whose annotations were obeyed.
func WithLabels(known, now string) string {
	labels, _, _ := strings.Cut(now, ".")
	_, rest, _ := strings.Cut(known, ".")
	return labels + "." + rest
}

// ClaimedAt is InventoryEntry.Claimed for an object as the API server has it.
func ClaimedAt(o metav1.Object) int64 {
	for _, e := range o.GetManagedFields() {
		if e.Manager == FieldManager && e.Operation == metav1.ManagedFieldsOperationApply && e.Subresource == "" && e.Time != nil {
			return e.Time.Unix()
		}
	}
	return 0
}

// claim is an entry of managedFields in one line.
func claim(e metav1.ManagedFieldsEntry) string {
	var raw []byte
	if e.FieldsV1 != nil {
		raw = e.FieldsV1.GetRawBytes()
		// JSON escapes what protobuf does not.
		if bytes.ContainsAny(raw, "&<>") || bytes.Contains(raw, []byte(`\u`)) || !ascii(raw) {
			var v any
			if json.Unmarshal(raw, &v) == nil {
				raw, _ = json.Marshal(v) // what was unmarshalled can be marshalled
			}
		}
		if out, n := ordered(raw); n == len(raw) {
			raw = out
		}
	}
	var at int64
	if e.Time != nil {
		at = e.Time.Unix()
	}
	b, _ := json.Marshal([]any{e.Manager, e.Operation, e.APIVersion, at}) // strings and a number
	return string(b) + string(raw)
}

func ascii(raw []byte) bool {
	for _, c := range raw {
		if c >= 0x80 {
			return false
		}
	}
	return true
}

// ordered puts the keys of a FieldsV1, which is objects in objects, into the order of their bytes:
// the API server's own order is another than that of a decoded and encoded object.
// It also returns how much of raw it understood. It copies only what is in another order.
func ordered(raw []byte) (out []byte, n int) {
	if len(raw) < 2 || raw[0] != '{' {
		return raw, 0
	}
	var members [][]byte
	same := true
	for n = 1; n < len(raw) && raw[n] != '}'; {
		if raw[n] == ',' {
			n++
		}
		key := n
		for n++; n < len(raw) && raw[n] != '"'; n++ {
			if raw[n] == '\\' {
				n++
			}
		}
		if n += 2; n >= len(raw) { // the quote and the colon
			return raw, 0
		}
		inner, m := ordered(raw[n:])
		if m == 0 {
			return raw, 0
		}
		member := raw[key : n+m]
		if &inner[0] != &raw[n] {
			member, same = slices.Concat(raw[key:n], inner), false
		}
		if l := len(members); l > 0 && bytes.Compare(members[l-1], member) > 0 {
			same = false
		}
		members = append(members, member)
		n += m
	}
	if n >= len(raw) {
		return raw, 0
	}
	n++
	if same {
		return raw[:n], n
	}
	slices.SortFunc(members, bytes.Compare)
	return slices.Concat([]byte("{"), bytes.Join(members, []byte(",")), []byte("}")), n
}

func digest(v any) string {
	b, _ := json.Marshal(v) // strings, and maps and structs of them
	sum := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}
