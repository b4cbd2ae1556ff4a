package apply

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

// Live reads an object as it stands. It returns nil if there is none, or if the cluster does not have its kind.
func (a *Applier) Live(ctx context.Context, ref api.ObjectRef) (*unstructured.Unstructured, error) {
	at, err := a.kinds.place(ref)
	if err == nil {
		var live *unstructured.Unstructured
		if live, err = a.own.get(ctx, at, ""); err == nil {
			return live, nil
		}
	}
	if apierrors.IsNotFound(err) || reasonOf(err) == "KindMissing" {
		return nil, nil //nolint:nilnil // nothing is an answer
	}
	return nil, Classify(ref, "", err)
}

// ForeseeOwn says what EnsureOwn would do to an object: create it, update it, or leave it unchanged.
// The API server answers a dry run; in a namespace that is not there yet the object would be created.
func (a *Applier) ForeseeOwn(ctx context.Context, obj *unstructured.Unstructured) (api.Action, error) {
	ref := api.RefOf(obj)
	live, err := a.Live(ctx, ref)
	if err != nil {
		return api.Failed, err
	}
	at, err := a.kinds.place(ref)
	if err != nil {
		return api.Failed, Classify(ref, "", err)
	}
	body, err := json.Marshal(obj.Object)
	if err != nil {
		return api.Failed, err
	}
	after, err := a.own.apply(ctx, at, body, patchMode{dryRun: true, whole: true})
	switch {
	case reasonOf(err) == "NamespaceMissing":
		return api.Created, nil
	case err != nil:
		return api.Failed, Classify(ref, "", err)
	case live == nil:
		return api.Created, nil
	case same(live, after.object):
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
func (a *Applier) May(ctx context.Context, verb string, ref api.ObjectRef) (bool, error) {
	kind, err := a.kinds.find(ref.GVK())
	if err != nil {
		return false, Classify(ref, "", err)
	}
	in, err := kube.Address{Group: "authorization.k8s.io", Version: "v1", Resource: "selfsubjectaccessreviews"}.Collection()
	if err != nil {
		return false, err
	}
	raw, err := a.own.create(ctx, in, map[string]any{
		"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
		"spec": map[string]any{"resourceAttributes": map[string]any{
			"group": ref.Group, "resource": kind.resource, "namespace": ref.Namespace, "name": ref.Name, "verb": verb,
		}},
	}, "")
	if err != nil {
		return false, Classify(ref, "", err)
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
func (a *Applier) Release(ctx context.Context, ref api.ObjectRef) error {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"labels": map[string]any{api.LabelManagedBy: nil, api.LabelPartOf: nil, api.LabelBundle: nil},
		"annotations": map[string]any{
			api.AnnotationLastEditor: nil, api.AnnotationLastEditorFrom: nil,
		},
	}})
	if err != nil {
		return err
	}
	at, err := a.kinds.place(ref)
	if err == nil {
		_, err = a.own.patch(ctx, at, types.MergePatchType, body)
	}
	if apierrors.IsNotFound(err) || reasonOf(err) == "KindMissing" {
		return nil
	}
	return Classify(ref, "", err)
}
