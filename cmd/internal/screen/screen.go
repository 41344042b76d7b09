// Package screen collects what a program prints, for the programs' tests.
package screen

import (
	"bytes"
	"sync"
)

// Screen holds what a program prints. A test can read it while the program runs. The zero value is
// ready. It is safe for concurrent use.
type Screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer. The error is always nil.
func (s *Screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

// String returns what was printed so far.
func (s *Screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}
