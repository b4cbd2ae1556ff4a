package kube_test

import (
	"os"
	"testing"

	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
)

func TestMain(m *testing.M) { os.Exit(controlplanetest.Main(m)) }
