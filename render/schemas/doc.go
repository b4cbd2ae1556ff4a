// Package schemas says what an API server would refuse of an object for its form: fields that no schema has,
// values of a wrong type, list items with one key, rules of CustomResourceDefinitions that a custom resource breaks.
//
// Kubernetes' own kinds are those of Version, with the schemas by which server-side apply reads them.
// Custom resources are held against CustomResourceDefinitions, by the code with which the API server does so.
//
// It promises that what it tells is what the API server says, and that no value of an object is in a problem's text,
// unless a CustomResourceDefinition's own rule puts it there.
// It never asks a cluster, and it knows nothing of admission, quotas or what is live: an object without a problem may be refused.
package schemas
