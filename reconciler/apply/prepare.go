package apply

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// serverFields of the metadata belong to the API server and are never sent.
var serverFields = []string{"creationTimestamp", "managedFields", "resourceVersion", "uid", "generation", "selfLink", "deletionTimestamp"}

// prepare returns what is sent for a desired object: with our labels, without what belongs to the server.
// The object itself is not changed, and the parts that need no change are shared with it.
func prepare(obj *unstructured.Unstructured, bundle string) (*unstructured.Unstructured, error) {
	out := maps.Clone(obj.Object)
	delete(out, "status")
	md, _ := out["metadata"].(map[string]any)
	md = maps.Clone(md)
	if md == nil {
		md = map[string]any{}
	}
	for _, f := range serverFields {
		delete(md, f)
	}
	labels, _ := md["labels"].(map[string]any)
	labels = maps.Clone(labels)
	if labels == nil {
		labels = map[string]any{}
	}
	labels[api.LabelManagedBy] = api.ManagedBy
	if bundle != "" {
		labels[api.LabelPartOf] = plan.ApplySetID(bundle)
		labels[api.LabelBundle] = bundle
	}
	md["labels"] = labels
	out["metadata"] = md
	u := &unstructured.Unstructured{Object: out}
	if u.GetKind() == "Secret" && u.GetAPIVersion() == "v1" {
		if err := encodeStringData(out); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// encodeStringData moves a Secret's stringData into data, as the API server does:
// sent as stringData, a key that later leaves Git would stay in data.
func encodeStringData(secret map[string]any) error {
	plain, ok := secret["stringData"].(map[string]any)
	if !ok {
		return nil
	}
	data, _ := secret["data"].(map[string]any)
	data = maps.Clone(data)
	if data == nil {
		data = map[string]any{}
	}
	for k, v := range plain {
		s, ok := v.(string)
		if !ok {
			return &api.Error{Kind: api.Stalled, Reason: kube.ReasonInvalid, Field: "stringData." + k, Err: fmt.Errorf("the value is not a string")}
		}
		data[k] = base64.StdEncoding.EncodeToString([]byte(s))
	}
	secret["data"] = data
	delete(secret, "stringData")
	return nil
}

// marshal makes a request's body; uid and resourceVersion are preconditions where they are set.
func marshal(obj *unstructured.Unstructured, uid, resourceVersion string) ([]byte, error) {
	if uid != "" || resourceVersion != "" {
		top := maps.Clone(obj.Object)
		md, _ := top["metadata"].(map[string]any)
		md = maps.Clone(md)
		if uid != "" {
			md["uid"] = uid
		}
		if resourceVersion != "" {
			md["resourceVersion"] = resourceVersion
		}
		top["metadata"] = md
		return json.Marshal(top)
	}
	return json.Marshal(obj.Object)
}

// onlyIfAbsent is a resourceVersion that no object has: the first one that etcd gives out is 2.
// An apply that carries it creates the object, or fails with a conflict if there is one.
const onlyIfAbsent = "1"
