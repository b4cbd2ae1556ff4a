package kubejson

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	added = `{"type":"ADDED","object":{"apiVersion":"v1","kind":"Thing","metadata":{"name":"a","resourceVersion":"7"},` +
		`"spec":{"big":9007199254740993,"ratio":1.5,"list":[1,null,"x"]}}}` + "\n"
	bookmark = `{"type":"BOOKMARK","object":{"kind":"Thing","apiVersion":"v1","metadata":{"resourceVersion":"9"}}}` + "\n"
	gone     = `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure",` +
		`"message":"too old resource version: 1 (2)","reason":"Expired","code":410}}` + "\n"
)

func TestEvents(t *testing.T) {
	r := NewEvents(strings.NewReader(added + strings.Replace(added, "ADDED", "MODIFIED", 1) +
		strings.Replace(added, "ADDED", "DELETED", 1) + bookmark))
	for _, want := range []watch.EventType{watch.Added, watch.Modified, watch.Deleted} {
		e, err := r.Next()
		if err != nil || e.Type != want {
			t.Fatalf("got %q, %v; want %q", e.Type, err, want)
		}
		// Integers stay whole where a float64 could not hold them; nothing of one event is left in the next.
		object := map[string]any{
			"apiVersion": "v1", "kind": "Thing",
			"metadata": map[string]any{"name": "a", "resourceVersion": "7"},
			"spec":     map[string]any{"big": int64(9007199254740993), "ratio": 1.5, "list": []any{int64(1), nil, "x"}},
		}
		if diff := cmp.Diff(object, e.Object.Object); diff != "" {
			t.Errorf("%s (-want +got):\n%s", want, diff)
		}
	}
	if e, err := r.Next(); err != nil || e.Type != watch.Bookmark || e.Object.GetResourceVersion() != "9" {
		t.Errorf("got %v, %v; want the bookmark", e, err)
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestHowAWatchEnds(t *testing.T) {
	for name, c := range map[string]struct {
		stream string
		is     func(error) bool
	}{
		"gone":            {gone, apierrors.IsResourceExpired},
		"in the middle":   {added[:len(added)/2], func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		"no event":        {"<html>", says("invalid character '<'")},
		"another type":    {strings.Replace(added, "ADDED", "MOVED", 1), says(`"MOVED"`)},
		"no object":       {`{"type":"ADDED"}`, says("without an object")},
		"no status":       {`{"type":"ERROR","object":{"kind":"Status","code":"x"}}`, says("does not say why")},
		"another kind":    {`{"type":"ERROR","object":{"kind":"Thing"}}`, says("does not say why")},
		"nothing":         {`{"type":"ERROR"}`, says("does not say why")},
		"another object":  {`{"type":"ADDED","object":[1]}`, says("array")},
		"type is in case": {`{"Type":"ADDED","Object":{}}`, says(`""`)},
	} {
		_, err := NewEvents(strings.NewReader(c.stream)).Next()
		if err == nil || !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func says(text string) func(error) bool {
	return func(err error) bool { return strings.Contains(err.Error(), text) }
}
