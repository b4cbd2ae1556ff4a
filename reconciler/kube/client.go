package kube

import (
	"cmp"
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
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/api"
)

// MetadataOnly asks the server to answer with the metadata of an object alone.
const MetadataOnly = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"

// MetadataListOnly is MetadataOnly for lists.
const MetadataListOnly = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"

// requestTimeout bounds one request.
const requestTimeout = 60 * time.Second

// Client speaks to the API server as one identity.
type Client struct {
	rest *rest.RESTClient
	// dryRan is told of every dry run.
	dryRan func(time.Duration, error)
}

func newClient(cfg *rest.Config, dryRan func(time.Duration, error)) (*Client, error) {
	c, err := rest.UnversionedRESTClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("kube: client: %w", err)
	}
	return &Client{rest: c, dryRan: dryRan}, nil
}

// Place is one object, and its address.
type Place struct {
	Ref api.ObjectRef
	At  Object
}

// PlaceOf is where a resource of ref's version has the object.
func PlaceOf(ref api.ObjectRef, resource string) (Place, error) {
	at, err := Address{
		Group: ref.Group, Version: ref.Version, Resource: resource, Namespace: ref.Namespace, Name: ref.Name,
	}.Object()
	return Place{ref, at}, err
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

// Get reads an object; accept says how much of it ("" is all).
func (c *Client) Get(ctx context.Context, p Place, accept string) (*unstructured.Unstructured, error) {
	req := p.At.On(c.rest.Get())
	if accept != "" {
		req = req.SetHeader("Accept", accept)
	}
	raw, _, err := send(ctx, req)
	if err != nil {
		return nil, err
	}
	return Decode(raw)
}

// Read reads an object as the API server sends it.
func (c *Client) Read(ctx context.Context, p Place) ([]byte, error) {
	raw, _, err := send(ctx, p.At.On(c.rest.Get()))
	return raw, err
}

// Written is what the API server answers to a write.
type Written struct {
	Created bool
	Meta    Answer
	// Object is set where the whole object was asked for.
	Object *unstructured.Unstructured
}

// Answer is an object's metadata, of which the inventory keeps some.
type Answer = metav1.ObjectMeta

// Mode says how a server-side apply is sent.
type Mode struct {
	DryRun bool
	// Whole asks for the whole object in the answer.
	Whole bool
	// Manager is the field manager; empty means flotilla.
	Manager string
}

// Apply sends a server-side apply as the field manager flotilla.
func (c *Client) Apply(ctx context.Context, p Place, body []byte, mode Mode) (Written, error) {
	// Without validation the server does not parse the body a second time only to warn of keys that stand twice in it:
	// what was marshalled from a map has none. A field that the schema does not know is an error of every apply, with or without.
	req := p.At.On(c.rest.Patch(types.ApplyPatchType)).
		Param("fieldManager", cmp.Or(mode.Manager, api.FieldManager)).Param("fieldValidation", metav1.FieldValidationIgnore).Param("force", "true").Body(body)
	if mode.DryRun {
		req = req.Param("dryRun", "All")
	}
	if !mode.Whole {
		req = req.SetHeader("Accept", MetadataOnly)
	}
	begun := time.Now()
	raw, status, err := send(ctx, req)
	if mode.DryRun {
		c.dryRan(time.Since(begun), err)
	}
	if err != nil {
		return Written{}, err
	}
	w := Written{Created: status == http.StatusCreated}
	if w.Meta, err = metadataOf(raw); err != nil {
		return Written{}, err
	}
	if mode.Whole {
		if w.Object, err = Decode(raw); err != nil {
			return Written{}, err
		}
	}
	return w, nil
}

// Patch sends any other patch, and returns the object's metadata after it.
func (c *Client) Patch(ctx context.Context, p Place, kind types.PatchType, body []byte) (Answer, error) {
	raw, _, err := send(ctx, p.At.On(c.rest.Patch(kind)).
		Param("fieldManager", api.FieldManager).SetHeader("Accept", MetadataOnly).Body(body))
	if err != nil {
		return Answer{}, failedTest(p.Ref, kind, err)
	}
	return metadataOf(raw)
}

// TryPatch asks with a dry run what a JSON patch would leave.
func (c *Client) TryPatch(ctx context.Context, p Place, body []byte) (*unstructured.Unstructured, error) {
	raw, _, err := send(ctx, p.At.On(c.rest.Patch(types.JSONPatchType)).
		Param("fieldManager", api.FieldManager).Param("dryRun", "All").Body(body))
	if err != nil {
		return nil, failedTest(p.Ref, types.JSONPatchType, err)
	}
	return Decode(raw)
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
	return apierrors.NewConflict(GroupResource(ref), ref.Name, err)
}

// metadataOf reads the metadata out of an object that was answered.
func metadataOf(raw []byte) (Answer, error) {
	var head struct {
		Metadata Answer `json:"metadata"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return Answer{}, fmt.Errorf("decode the answer: %w", err)
	}
	return head.Metadata, nil
}

// Create posts an object to a collection; dryRun only asks whether it would be accepted.
func (c *Client) Create(ctx context.Context, in Collection, obj any, dryRun string) ([]byte, error) {
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

// Put replaces an object.
func (c *Client) Put(ctx context.Context, p Place, obj any) error {
	body, err := json.Marshal(obj)
	if err != nil {
		return err
	}
	_, _, err = send(ctx, p.At.On(c.rest.Put()).Param("fieldManager", api.FieldManager).Body(body))
	return err
}

// Delete deletes an object; uid may be empty, and else only an object with that one is deleted.
func (c *Client) Delete(ctx context.Context, p Place, uid types.UID) error {
	_, err := c.DeleteOnly(ctx, p, uid, "")
	return err
}

// List reads a whole collection in pages.
func (c *Client) List(ctx context.Context, in Collection, selector Selector, accept string, each func(*unstructured.Unstructured)) error {
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

// DeleteOnly deletes an object if it still is the one that was seen; what is empty is not asked for.
// It returns what is left of the object, nil if it is gone.
func (c *Client) DeleteOnly(ctx context.Context, p Place, uid types.UID, resourceVersion string) (*unstructured.Unstructured, error) {
	propagation := metav1.DeletePropagationBackground
	opts := metav1.DeleteOptions{
		TypeMeta:          metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"},
		PropagationPolicy: &propagation, Preconditions: &metav1.Preconditions{},
	}
	if uid != "" {
		opts.Preconditions.UID = &uid
	}
	if resourceVersion != "" {
		opts.Preconditions.ResourceVersion = &resourceVersion
	}
	body, err := json.Marshal(opts)
	if err != nil {
		return nil, err
	}
	raw, _, err := send(ctx, p.At.On(c.rest.Delete()).SetHeader("Accept", MetadataOnly).Body(body))
	if err != nil {
		return nil, err
	}
	left, err := Decode(raw)
	if err != nil || left.GetKind() == "Status" {
		return nil, err
	}
	return left, nil
}

// Pause waits for d, or returns the context's error when that ends first.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// GroupResource names an object's kind for errors of apimachinery, which ask for a resource and print whatever they get.
func GroupResource(ref api.ObjectRef) schema.GroupResource {
	return schema.GroupResource{Group: ref.Group, Resource: ref.Kind}
}
