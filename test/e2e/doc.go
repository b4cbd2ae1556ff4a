// Package e2e runs the whole product as a person would:
// it builds the binary, brings up the demo (real control planes, Git server, hub and agents),
// and then pushes, edits, suspends and kills.
//
// The tests share one demo and run in the order of the story.
// Waits have generous ends; how long things really took is logged, and measured in test/bench.
// What the product promises to people is asserted, with slack for slow machines: see promised.
package e2e
