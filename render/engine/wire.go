package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"reflect"
	"time"

	"github.com/fxamacker/cbor/v2"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/manifest"
)

// What goes between Remote and Serve is CBOR: unlike JSON it keeps whether a number is whole, and bytes as they are.
// A Request goes as it is.

// reply is a Result on its way, or an error.
type reply struct {
	Objects   []object
	Hooks     []hook
	Warnings  []string
	Ignore    []api.IgnoreRule
	Read      []string
	Mentioned []string
	Err       *failure
}

type object struct {
	Object map[string]any
	File   string
	Line   int
}

type hook struct {
	Object         map[string]any
	Phases         []api.HookPhase
	Weight         int
	DeletePolicies []string
	Unstable       []string
	File           string
	Line           int
}

// call asks for a file, a directory, or what is there.
type call struct {
	Verb verb
	Name string
}

type verb byte

const (
	readFile verb = iota
	readDir
	stat
)

// answer is what a call came to.
type answer struct {
	Data    []byte
	Entries []entry
	Info    entry
	Err     *failure
}

// entry is a file or a directory. It is fs.FileInfo and fs.DirEntry.
type entry struct {
	Base string
	Bits fs.FileMode
	Long int64
}

func (e entry) Name() string               { return e.Base }
func (e entry) Size() int64                { return e.Long }
func (e entry) Mode() fs.FileMode          { return e.Bits }
func (e entry) Type() fs.FileMode          { return e.Bits.Type() }
func (e entry) ModTime() time.Time         { return time.Time{} }
func (e entry) IsDir() bool                { return e.Bits.IsDir() }
func (e entry) Sys() any                   { return nil }
func (e entry) Info() (fs.FileInfo, error) { return e, nil }

func entryOf(info fs.FileInfo) entry {
	return entry{Base: info.Name(), Bits: info.Mode(), Long: info.Size()}
}

// failure is an error on its way. Its place and kind come through, and what is asked of an error here.
type failure struct {
	Known                     bool // it is an *api.Error
	Kind                      api.ErrorKind
	Reason, File, Field, Hint string
	Line                      int
	After                     time.Duration
	Text                      string
	Unset                     string  // the variable that is not set
	Malformed                 *string // what follows a ${ that nobody can read
	NotExist                  bool
}

func failureOf(err error) *failure {
	if err == nil {
		return nil
	}
	f := &failure{Text: err.Error(), NotExist: errors.Is(err, fs.ErrNotExist)}
	f.Unset, _ = manifest.Unset(err)
	if body, ok := manifest.Malformed(err); ok {
		f.Malformed = &body
	}
	if e, ok := errors.AsType[*api.Error](err); ok {
		f.Known, f.Kind, f.Reason, f.File, f.Field, f.Hint = true, e.Kind, e.Reason, e.File, e.Field, e.Hint
		f.Line, f.After, f.Text = e.Line, e.After, ""
		if e.Err != nil {
			f.Text = e.Err.Error()
		}
	}
	return f
}

func (f *failure) err() error {
	if f == nil {
		return nil
	}
	var err error = text{f.Text, nil}
	switch {
	case f.Unset != "":
		err = text{f.Text, manifest.UnsetError{Name: f.Unset}}
	case f.Malformed != nil:
		err = text{f.Text, manifest.MalformedError{Body: *f.Malformed, Why: f.Text}}
	case f.NotExist:
		err = text{f.Text, fs.ErrNotExist}
	}
	if !f.Known {
		return err
	}
	return &api.Error{
		Kind: f.Kind, Reason: f.Reason, File: f.File, Line: f.Line, Field: f.Field, Hint: f.Hint, After: f.After, Err: err,
	}
}

// text is an error with the words that it had elsewhere.
type text struct {
	words string
	cause error
}

func (t text) Error() string { return t.words }
func (t text) Unwrap() error { return t.cause }

func replyOf(r Result, err error) reply {
	out := reply{Warnings: r.Warnings, Ignore: r.Ignore, Read: r.Read, Mentioned: r.Mentioned, Err: failureOf(err)}
	for _, o := range r.Objects {
		out.Objects = append(out.Objects, object{o.Object, o.File, o.Line})
	}
	for _, h := range r.Hooks {
		out.Hooks = append(out.Hooks, hook{h.Object.Object, h.Phases, h.Weight, h.DeletePolicies, h.Unstable, h.File, h.Line})
	}
	return out
}

func (r reply) result() (Result, error) {
	out := Result{Warnings: r.Warnings, Ignore: r.Ignore, Read: r.Read, Mentioned: r.Mentioned}
	for _, o := range r.Objects {
		if o.Object == nil {
			return Result{}, errors.New("a worker sent an object without content")
		}
		out.Objects = append(out.Objects, manifest.Object{
			Unstructured: &unstructured.Unstructured{Object: o.Object}, File: o.File, Line: o.Line,
		})
	}
	for _, h := range r.Hooks {
		if h.Object == nil {
			return Result{}, errors.New("a worker sent a hook without content")
		}
		out.Hooks = append(out.Hooks, Hook{Hook: api.Hook{
			Phases: h.Phases, Weight: h.Weight, DeletePolicies: h.DeletePolicies,
			Object: &unstructured.Unstructured{Object: h.Object}, File: h.File, Line: h.Line,
		}, Unstable: h.Unstable})
	}
	return out, r.Err.err()
}

// codec writes and reads messages.
type codec struct {
	enc cbor.EncMode
	dec cbor.DecMode
}

// numberTag marks a json.Number, which would be a string: one of the tags that are free for everybody.
const numberTag = 55_799_001

// maxNesting bounds how deep a message goes: what manifest allows, and what is around it.
const maxNesting = 256

func newCodec() (codec, error) {
	tags := cbor.NewTagSet()
	opts := cbor.TagOptions{DecTag: cbor.DecTagRequired, EncTag: cbor.EncTagRequired}
	if err := tags.Add(opts, reflect.TypeFor[json.Number](), numberTag); err != nil {
		return codec{}, err
	}
	enc, err := cbor.EncOptions{NaNConvert: cbor.NaNConvertReject, InfConvert: cbor.InfConvertReject}.EncModeWithTags(tags)
	if err != nil {
		return codec{}, err
	}
	dec, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IntDec: cbor.IntDecConvertSignedOrFail, DefaultMapType: reflect.TypeFor[map[string]any](),
		MaxNestedLevels: maxNesting, MaxArrayElements: maxElements, MaxMapPairs: maxElements,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField, UTF8: cbor.UTF8DecodeInvalid,
	}.DecModeWithTags(tags)
	return codec{enc, dec}, err
}

// maxElements bounds what one list or mapping of a message may hold.
const maxElements = 1 << 21

// files asks for files by calls, in a worker: once each, for they do not change while a bundle is rendered.
type files struct {
	codec codec
	call  func([]byte) ([]byte, error)
	known map[call]answer
}

func (f files) ask(v verb, name string) (answer, error) {
	c := call{v, name}
	if a, ok := f.known[c]; ok {
		return a, a.Err.err()
	}
	message, err := f.codec.enc.Marshal(c)
	if err != nil {
		return answer{}, err
	}
	message, err = f.call(message)
	if err != nil {
		return answer{}, err
	}
	var a answer
	if err := f.codec.dec.Unmarshal(message, &a); err != nil {
		return answer{}, fmt.Errorf("read %q: %w", name, err)
	}
	f.known[c] = a
	return a, a.Err.err()
}

// Open implements fs.FS.
func (f files) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: errors.ErrUnsupported}
}

func (f files) ReadFile(name string) ([]byte, error) {
	a, err := f.ask(readFile, name)
	return a.Data, err
}

func (f files) ReadDir(name string) ([]fs.DirEntry, error) {
	a, err := f.ask(readDir, name)
	out := make([]fs.DirEntry, len(a.Entries))
	for i, e := range a.Entries {
		out[i] = e
	}
	return out, err
}

func (f files) Stat(name string) (fs.FileInfo, error) {
	a, err := f.ask(stat, name)
	if err != nil {
		return nil, err
	}
	return a.Info, nil
}

// answerFrom answers a call from files.
func answerFrom(from Files, c call) answer {
	switch c.Verb {
	case readFile:
		data, err := from.ReadFile(c.Name)
		return answer{Data: data, Err: failureOf(err)}
	case readDir:
		list, err := from.ReadDir(c.Name)
		out := answer{Err: failureOf(err)}
		for _, e := range list {
			out.Entries = append(out.Entries, entry{Base: e.Name(), Bits: e.Type()})
		}
		return out
	default:
		info, err := from.Stat(c.Name)
		if err != nil {
			return answer{Err: failureOf(err)}
		}
		e := entryOf(info)
		e.Base = path.Base(c.Name)
		return answer{Info: e}
	}
}
