//go:build race

package consumer_test

// raced reports whether the race detector is on. It makes the large tests ten times slower, and it
// finds races in tests of a tenth of the size as well.
const raced = true
