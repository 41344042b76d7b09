// Package raced tells large tests whether the race detector is on. It makes them up to ten times
// slower, and finds races in tests of a tenth of their size as well. The Makefile finds the tests
// that use this package, and runs them once more without the detector.
package raced

import "testing"

// Skip skips a large test if the race detector is on.
func Skip(t *testing.T) {
	t.Helper()
	if Enabled {
		t.Skip("a test this large takes too long with the race detector")
	}
}
