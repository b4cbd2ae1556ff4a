package kubejson

import (
	"fmt"
	"io"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/json"
)

// Event is one event of a watch. Type is one of Added, Modified, Deleted and Bookmark.
type Event struct {
	Type watch.EventType
	// Object has integers as int64, as Kubernetes reads them. Of a bookmark only the resourceVersion counts.
	Object *unstructured.Unstructured
}

// Events reads the events of one watch. It is for one goroutine.
type Events struct{ decoder json.Decoder }

// NewEvents returns the events in the body of a watch's answer. Closing the body ends a Next that waits.
//
// Each event is parsed once, into what an unstructured object holds. The decoders of client-go's dynamic client,
// each of which first looks for the kind of what it is about to decode, go over the same bytes more than ten times.
func NewEvents(body io.Reader) *Events {
	return &Events{json.NewDecoderCaseSensitivePreserveInts(body)}
}

// Next waits for an event. Its error is io.EOF where the watch came to its end, io.ErrUnexpectedEOF where that was
// in the middle of an event, an apierrors.APIStatus where the server says why it ends it, such as 410 Gone,
// and any other where the connection broke or what came is no event. After an error there is nothing more to read.
func (s *Events) Next() (Event, error) {
	var e struct {
		Type   watch.EventType `json:"type"`
		Object map[string]any  `json:"object"`
	}
	if err := s.decoder.Decode(&e); err != nil {
		return Event{}, err
	}
	switch e.Type {
	case watch.Added, watch.Modified, watch.Deleted, watch.Bookmark:
		if e.Object == nil {
			return Event{}, fmt.Errorf("an event %s without an object", e.Type)
		}
		return Event{e.Type, &unstructured.Unstructured{Object: e.Object}}, nil
	case watch.Error:
		var status metav1.Status
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(e.Object, &status); err != nil || status.Kind != "Status" {
			return Event{}, fmt.Errorf("an event ERROR that does not say why: %v", e.Object)
		}
		return Event{}, apierrors.FromObject(&status)
	}
	return Event{}, fmt.Errorf("an event of type %q", e.Type)
}
