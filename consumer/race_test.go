//go:build race

package consumer_test

// raced reports whether the race detector is on. It makes the large tests ten times slower, and finds
// races as well in a tenth of their size.
const raced = true
