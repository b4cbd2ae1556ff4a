// Package lifecycle closes what was opened, in reverse order, each step by its name.
// It starts nothing.
package lifecycle

import (
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Stack is a list of things to close. Its zero value is empty and ready to use.
type Stack struct {
	mu    sync.Mutex
	steps []step
}

type step struct {
	name  string
	close func() error
}

// Push adds what is to be closed before everything that was pushed earlier.
func (s *Stack) Push(name string, close func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = append(s.steps, step{name, close})
}

// Close closes everything, last first, whatever fails, and names what failed.
// A second call closes nothing again.
func (s *Stack) Close() error {
	s.mu.Lock()
	steps := s.steps
	s.steps = nil
	s.mu.Unlock()
	var errs []error
	for _, st := range slices.Backward(steps) {
		if err := st.close(); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", st.name, err))
		}
	}
	return errors.Join(errs...)
}
