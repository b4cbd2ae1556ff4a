// Package yamledit changes single fields of YAML files in place: comments, layout and order stay.
//
// It promises that an edited file, read back, says what was asked for and nothing else that is different;
// a file that cannot be edited so is an error, and is left alone. It writes no file: it takes and returns text.
//
//	edit.go     one edit: choose the document, change it, prove it
//	splice.go   the change in the text itself
//	value.go    values, and a change to one
package yamledit
