package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
)

// metadataOnly asks the server to answer with the metadata of an object alone.
const metadataOnly = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"

// metadataListOnly is metadataOnly for lists.
const metadataListOnly = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"

// requestTimeout bounds one request.
const requestTimeout = 60 * time.Second

// client speaks to the API server as one identity.
type client struct {
	rest *rest.RESTClient
	// dryRan is told of every dry run.
	dryRan func(time.Duration, error)
}

func newClient(cfg *rest.Config, dryRan func(time.Duration, error)) (*client, error) {
	c, err := rest.UnversionedRESTClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("apply: client: %w", err)
	}
	return &client{rest: c, dryRan: dryRan}, nil
}

// place is one object, and its address.
type place struct {
	ref api.ObjectRef
	at  kube.Object
}

// placeOf is where a resource of ref's version has the object.
func placeOf(ref api.ObjectRef, resource string) (place, error) {
	at, err := kube.Address{
		Group: ref.Group, Version: ref.Version, Resource: resource, Namespace: ref.Namespace, Name: ref.Name,
	}.Object()
	return place{ref, at}, err
}

// send does a request. Unlike rest.Request.DoRaw, its error is the Status that the server sent.
func send(ctx context.Context, req *rest.Request) (raw []byte, code int, err error) {
	res := req.Timeout(requestTimeout).Do(ctx).StatusCode(&code)
	if err := res.Error(); err != nil {
		return nil, code, err
	}
	raw, err = res.Raw()
	return raw, code, err
}

// get reads an object; accept says how much of it ("" is all).
func (c *client) get(ctx context.Context, p place, accept string) (*unstructured.Unstructured, error) {
	req := p.at.On(c.rest.Get())
	if accept != "" {
		req = req.SetHeader("Accept", accept)
	}
	raw, _, err := send(ctx, req)
	if err != nil {
		return nil, err
	}
	return decode(raw)
}

// written is what the API server answers to a write.
type written struct {
	created bool
	meta    answer
	// object is set where the whole object was asked for.
	object *unstructured.Unstructured
}

// answer is an object's metadata, of which the inventory keeps some.
type answer = metav1.ObjectMeta

// patchMode says how a server-side apply is sent.
type patchMode struct {
	dryRun bool
	// whole asks for the whole object in the answer.
	whole bool
	// polite leaves fields of other managers alone and fails with a conflict instead.
	polite bool
}

// apply sends a server-side apply as the field manager flotilla.
func (c *client) apply(ctx context.Context, p place, body []byte, mode patchMode) (written, error) {
	// Without validation the server does not parse the body a second time only to warn of keys that stand twice in it:
	// what was marshalled from a map has none. A field that the schema does not know is an error of every apply, with or without.
	req := p.at.On(c.rest.Patch(types.ApplyPatchType)).
		Param("fieldManager", api.FieldManager).Param("fieldValidation", metav1.FieldValidationIgnore).Body(body)
	if !mode.polite {
		req = req.Param("force", "true")
	}
	if mode.dryRun {
		req = req.Param("dryRun", "All")
	}
	if !mode.whole {
		req = req.SetHeader("Accept", metadataOnly)
	}
	begun := time.Now()
	raw, status, err := send(ctx, req)
	if mode.dryRun {
		c.dryRan(time.Since(begun), err)
	}
	if err != nil {
		return written{}, err
	}
	w := written{created: status == http.StatusCreated}
	if w.meta, err = metadataOf(raw); err != nil {
		return written{}, err
	}
	if mode.whole {
		if w.object, err = decode(raw); err != nil {
			return written{}, err
		}
	}
	return w, nil
}

// patch sends any other patch, and returns the object's metadata after it.
func (c *client) patch(ctx context.Context, p place, kind types.PatchType, body []byte) (answer, error) {
	raw, _, err := send(ctx, p.at.On(c.rest.Patch(kind)).
		Param("fieldManager", api.FieldManager).SetHeader("Accept", metadataOnly).Body(body))
	if err != nil {
		return answer{}, failedTest(p.ref, kind, err)
	}
	return metadataOf(raw)
}

// tryPatch asks with a dry run what a JSON patch would leave.
func (c *client) tryPatch(ctx context.Context, p place, body []byte) (*unstructured.Unstructured, error) {
	raw, _, err := send(ctx, p.at.On(c.rest.Patch(types.JSONPatchType)).
		Param("fieldManager", api.FieldManager).Param("dryRun", "All").Body(body))
	if err != nil {
		return nil, failedTest(p.ref, types.JSONPatchType, err)
	}
	return decode(raw)
}

// failedTest makes a conflict of the answer to a JSON patch whose "test" of the resourceVersion failed.
// The API server gives the status 422 for it, and no cause: what it finds wrong with an object has one.
func failedTest(ref api.ObjectRef, kind types.PatchType, err error) error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || kind != types.JSONPatchType || !apierrors.IsInvalid(err) {
		return err
	}
	if d := status.Status().Details; d != nil && len(d.Causes) > 0 {
		return err
	}
	return apierrors.NewConflict(groupResource(ref), ref.Name, err)
}

// metadataOf reads the metadata out of an object that was answered.
func metadataOf(raw []byte) (answer, error) {
	var head struct {
		Metadata answer `json:"metadata"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return answer{}, fmt.Errorf("decode the answer: %w", err)
	}
	return head.Metadata, nil
}

// create posts an object to a collection; dryRun only asks whether it would be accepted.
func (c *client) create(ctx context.Context, in kube.Collection, obj any, dryRun string) ([]byte, error) {
	body, err := json.Marshal(obj)
	if err != nil {
		return nil, err
	}
	req := in.On(c.rest.Post()).Param("fieldManager", api.FieldManager).Body(body)
	if dryRun != "" {
		req = req.Param("dryRun", dryRun)
	}
	raw, _, err := send(ctx, req)
	return raw, err
}

// put replaces an object.
func (c *client) put(ctx context.Context, p place, obj any) error {
	body, err := json.Marshal(obj)
	if err != nil {
		return err
	}
	_, _, err = send(ctx, p.at.On(c.rest.Put()).Param("fieldManager", api.FieldManager).Body(body))
	return err
}

// delete deletes an object; uid may be empty, and else only an object with that one is deleted.
func (c *client) delete(ctx context.Context, p place, uid types.UID) error {
	_, err := c.deleteOnly(ctx, p, uid, "")
	return err
}

// list reads a whole collection in pages.
func (c *client) list(ctx context.Context, in kube.Collection, selector kube.Selector, accept string, each func(*unstructured.Unstructured)) error {
	token := ""
	for {
		req := selector.Param(in.On(c.rest.Get())).Param("limit", "500")
		if token != "" {
			req = req.Param("continue", token)
		}
		if accept != "" {
			req = req.SetHeader("Accept", accept)
		}
		raw, _, err := send(ctx, req)
		if err != nil {
			return err
		}
		var page struct {
			Metadata struct {
				Continue string `json:"continue"`
			} `json:"metadata"`
			Items []map[string]any `json:"items"`
		}
		if err := unmarshal(raw, &page); err != nil {
			return fmt.Errorf("decode a list: %w", err)
		}
		for _, item := range page.Items {
			each(&unstructured.Unstructured{Object: item})
		}
		if token = page.Metadata.Continue; token == "" {
			return nil
		}
	}
}

// serverClock knows how far our clock is from the API server's.
// It counts on from the server's last answer by the time that passed, which no setting of our clock changes:
// a clock that jumps while nobody talks to the server is noticed all the same.
type serverClock struct {
	now  func() time.Time
	last atomic.Pointer[instant]
}

// instant is a time of the server, and when we were told.
type instant struct {
	server time.Time
	told   time.Time // with a monotonic reading
}

// maxQuietSkew is how far clocks may differ (in whole seconds and travel time) without being corrected.
const maxQuietSkew = 3 * time.Second

// Skew is what to add to our time to get the server's; small differences count as none.
func (s *serverClock) Skew() time.Duration {
	last := s.last.Load()
	if last == nil {
		return 0
	}
	skew := last.server.Add(time.Since(last.told)).Sub(s.now())
	if skew.Abs() <= maxQuietSkew {
		return 0
	}
	return skew
}

func (s *serverClock) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(req)
		if err != nil {
			return resp, err
		}
		if date, derr := http.ParseTime(resp.Header.Get("Date")); derr == nil {
			s.last.Store(&instant{server: date, told: time.Now()})
		}
		return resp, nil
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }
