// Package manifest reads Kubernetes manifests:
// streams of YAML (or JSON) documents become documents with their file and line,
// variables are put into them, and they become objects.
//
// It works on parsed values and never on text,
// so a variable's value cannot change the shape of a document.
// It is pure: it opens no file, knows no cluster and no engine.
// Its errors name file, line and field, and never show a value.
package manifest
