package lifecycle_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/flotilla-fleet/flotilla/internal/lifecycle"
)

func TestStack_closesInReverseAndNamesFailures(t *testing.T) {
	var s lifecycle.Stack
	var order []string
	broken := errors.New("broken")
	for _, name := range []string{"store", "source", "hub"} {
		s.Push(name, func() error {
			order = append(order, name)
			if name == "source" {
				return broken
			}
			return nil
		})
	}
	err := s.Close()
	if !errors.Is(err, broken) || err.Error() != "close source: broken" {
		t.Errorf("error is %v", err)
	}
	if want := []string{"hub", "source", "store"}; !slices.Equal(order, want) {
		t.Errorf("closed %v, want %v", order, want)
	}
	if err := s.Close(); err != nil || len(order) != 3 {
		t.Errorf("a second Close closed again: %v, %v", order, err)
	}
}
