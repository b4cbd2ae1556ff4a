// Package cli is the command line: one file per command.
// A command parses its flags into a typed request, calls, and prints through format.go.
// What is data goes to standard output, what is talk to standard error.
// It decides nothing about objects, and starts nothing that it does not wait for.
package cli
