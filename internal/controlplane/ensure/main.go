// Command ensure builds the programs of the control plane if they are missing or out of date; "make controlplane" runs it.
// It prints their paths, and its progress on the standard error.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/flotilla-fleet/flotilla/internal/controlplane"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	binaries, err := controlplane.Ensure(ctx, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to stop
	}
	fmt.Println(binaries.ControlPlane)
	fmt.Println(binaries.Kwok)
}
