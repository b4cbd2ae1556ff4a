// Package hubv1 is the wire protocol between agents and the hub, generated from hub.proto.
// It promises nothing beyond that file and holds no hand-written code.
//
// Regenerate with "go generate ./hub/proto/hubv1"; that needs only Go and the module proxy.
package hubv1

//go:generate go run -C ../generate . ../hubv1/hub.proto
