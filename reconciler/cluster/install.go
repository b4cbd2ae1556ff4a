package cluster

import (
	"context"
	"encoding/json"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
)

// ForeseeOwn says what EnsureOwn would do to an object: create it, update it, or leave it unchanged.
// The API server answers a dry run; in a namespace that is not there yet the object would be created.
func (c *Client) ForeseeOwn(ctx context.Context, obj *unstructured.Unstructured) (api.Action, error) {
	ref := api.RefOf(obj)
	live, err := c.server.Live(ctx, ref)
	if err != nil {
		return api.Failed, err
	}
	at, err := c.server.Kinds.Place(ref)
	if err != nil {
		return api.Failed, kube.Classify(ref, "", err)
	}
	body, err := json.Marshal(obj.Object)
	if err != nil {
		return api.Failed, err
	}
	after, err := c.server.Own.Apply(ctx, at, body, kube.Mode{DryRun: true, Whole: true})
	switch {
	case kube.ReasonOf(err) == kube.ReasonNamespaceMissing:
		return api.Created, nil
	case err != nil:
		return api.Failed, kube.Classify(ref, "", err)
	case live == nil:
		return api.Created, nil
	case same(live, after.Object):
		return api.Unchanged, nil
	}
	return api.Updated, nil
}

// same compares two states of an object without what every write changes.
func same(x, y *unstructured.Unstructured) bool {
	bare := func(o *unstructured.Unstructured) map[string]any {
		o = o.DeepCopy()
		for _, field := range []string{"managedFields", "resourceVersion", "generation"} {
			unstructured.RemoveNestedField(o.Object, "metadata", field)
		}
		return o.Object
	}
	return equality.Semantic.DeepEqual(bare(x), bare(y))
}

// May reports whether the API server would let us do something to an object's kind in its namespace.
func (c *Client) May(ctx context.Context, verb string, ref api.ObjectRef) (bool, error) {
	kind, err := c.server.Kinds.Find(ref.GVK())
	if err != nil {
		return false, kube.Classify(ref, "", err)
	}
	in, err := kube.Address{Group: "authorization.k8s.io", Version: "v1", Resource: "selfsubjectaccessreviews"}.Collection()
	if err != nil {
		return false, err
	}
	raw, err := c.server.Own.Create(ctx, in, map[string]any{
		"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
		"spec": map[string]any{"resourceAttributes": map[string]any{
			"group": ref.Group, "resource": kind.Resource, "namespace": ref.Namespace, "name": ref.Name, "verb": verb,
		}},
	}, "")
	if err != nil {
		return false, kube.Classify(ref, "", err)
	}
	var review struct {
		Status struct {
			Allowed bool `json:"allowed"`
		} `json:"status"`
	}
	err = json.Unmarshal(raw, &review)
	return review.Status.Allowed, err
}

// Release takes flotilla's labels, and the stamp of the last editor, off an object, and leaves all else as it is.
// The object is nobody's then. One that is gone needs no releasing.
func (c *Client) Release(ctx context.Context, ref api.ObjectRef) error {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"labels": map[string]any{api.LabelManagedBy: nil, api.LabelPartOf: nil, api.LabelBundle: nil},
		"annotations": map[string]any{
			api.AnnotationLastEditor: nil, api.AnnotationLastEditorFrom: nil,
		},
	}})
	if err != nil {
		return err
	}
	at, err := c.server.Kinds.Place(ref)
	if err == nil {
		_, err = c.server.Own.Patch(ctx, at, types.MergePatchType, body)
	}
	if apierrors.IsNotFound(err) || kube.ReasonOf(err) == kube.ReasonKindMissing {
		return nil
	}
	return kube.Classify(ref, "", err)
}
