package api

import (
	"errors"
	"strconv"
	"time"
)

// ErrorKind says what an error asks for. It decides retry, status, exit code and HTTP code,
// all in the one table below. The words go over the wire: do not rename them.
type ErrorKind string

// The kinds.
const (
	// Internal is anything that nobody classified: a bug, or a surprise. It is retried like Transient.
	Internal ErrorKind = "internal"
	// Stalled needs a human: nothing is tried again until an input changes.
	Stalled ErrorKind = "stalled"
	// Waiting resolves itself: it is tried again after a known time, or when what it waits for happens.
	Waiting ErrorKind = "waiting"
	// Transient is tried again with backoff.
	Transient ErrorKind = "transient"
	// Forbidden was refused by a guard, by RBAC or by the hub.
	Forbidden ErrorKind = "denied"
)

// kinds is the one table that says what each kind means outside.
var kinds = map[ErrorKind]struct{ exit, http int }{
	Internal:  {exit: 2, http: 500},
	Stalled:   {exit: 3, http: 422},
	Waiting:   {exit: 4, http: 503},
	Transient: {exit: 5, http: 502},
	Forbidden: {exit: 6, http: 403},
}

// ExitCode is the exit code of a command that ends with an error of this kind.
// 0 is success and 1 means "differences found" (flotilla diff).
func (k ErrorKind) ExitCode() int { return kinds[k.known()].exit }

// HTTPStatus is the status of an HTTP answer that carries an error of this kind.
func (k ErrorKind) HTTPStatus() int { return kinds[k.known()].http }

func (k ErrorKind) known() ErrorKind {
	if _, ok := kinds[k]; ok {
		return k
	}
	return Internal
}

// Error carries a kind, and where in the fleet repository it comes from.
type Error struct {
	Kind ErrorKind `json:"kind"`
	// Reason is one CamelCase word for conditions and Events, such as "RenderFailed".
	Reason string `json:"reason,omitempty"`
	// File, Line (from 1; 0 is unknown) and Field say where.
	File  string `json:"file,omitempty"`
	Line  int    `json:"line,omitempty"`
	Field string `json:"field,omitempty"`
	// Hint is what to do about it; empty if the message says it all.
	Hint string `json:"hint,omitempty"`
	// After is how long to wait before the next try; only for Waiting.
	After time.Duration `json:"after,omitempty"`
	// Err is the cause.
	Err error `json:"-"`
}

// Error reads "file:line: field: cause (hint)", leaving out what is not known.
func (e *Error) Error() string {
	s := ""
	if e.File != "" {
		s = e.File
		if e.Line > 0 {
			s += ":" + strconv.Itoa(e.Line)
		}
		s += ": "
	}
	if e.Field != "" {
		s += e.Field + ": "
	}
	if e.Err != nil {
		s += e.Err.Error()
	}
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the first Error in the chain, Internal where there is none,
// and "" for nil.
func KindOf(err error) ErrorKind {
	if err == nil {
		return ""
	}
	if e, ok := asError(err); ok {
		return e.Kind.known()
	}
	return Internal
}

func asError(err error) (*Error, bool) {
	var e *Error
	ok := errors.As(err, &e)
	return e, ok
}
