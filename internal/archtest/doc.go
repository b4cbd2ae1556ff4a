// Package archtest keeps the package map of docs/architecture.md true.
// Its tests read the import graph of this module and the clock calls of the pure packages,
// and fail with the import that breaks a rule and the rule that it breaks.
// It never looks at what a package does, only at what it may touch.
package archtest
