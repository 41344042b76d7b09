//go:build race

package consumer_test

import "testing"

// raced reports whether the race detector is on. It makes the large tests ten times slower, and it
// finds races in tests of a tenth of the size as well.
const raced = true

// skipIfRaced skips a test of a large crowd, whose messages take the same ways as those of the small
// crowds in other tests.
func skipIfRaced(t *testing.T) { t.Skip("a crowd this large takes too long with the race detector") }
