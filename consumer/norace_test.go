//go:build !race

package consumer_test

import "testing"

const raced = false

func skipIfRaced(*testing.T) {}
