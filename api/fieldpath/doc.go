// Package fieldpath is the one language for places in objects: what an ignore rule covers, and where a field is.
//
// A Pattern is a rule's path: a JSON pointer (RFC 6901) with "*" for any one key or item, [key=value,…] for the items
// of a list with these fields, and [=value] for the item of a set. "/" is the whole object.
// A Trail is the way from an object to one field of it. Its text is a pattern that covers just that field.
//
// How the items of a list are told apart is read from managedFields, where the API server shows it: see Identify.
//
// The package is pure: it reads no clock, asks nobody and writes nothing. It never panics on any text or object,
// and never changes an object but in Set, Remove and RemoveNull.
package fieldpath
