package dedupe_test

import (
	"testing"

	"github.com/session-revoker/session-revoker/dedupe"
)

func TestGenerationsForgetTheOlderHalfAtOnce(t *testing.T) {
	var g dedupe.Generations[string, int]
	if _, ok := g.Get("ada"); ok || g.Len() != 0 {
		t.Error("an empty map has a key")
	}
	if before := g.Set("ada", 1); before != 0 {
		t.Errorf("ada was %d before", before)
	}
	if before := g.Set("ada", 2); before != 1 || g.Young() != 1 {
		t.Errorf("ada was %d, want 1; the younger half has %d keys", before, g.Young())
	}
	g.Rotate()
	if before := g.Set("grace", 3); before != 0 || g.Young() != 1 || g.Len() != 2 {
		t.Errorf("grace was %d; %d keys, %d of them young", before, g.Len(), g.Young())
	}
	if v, ok := g.Get("ada"); !ok || v != 2 {
		t.Errorf("ada is %d, %v after one rotation; want 2", v, ok)
	}
	g.Rotate()
	if _, ok := g.Get("ada"); ok {
		t.Error("ada is not forgotten after two rotations")
	}
	if v, ok := g.Get("grace"); !ok || v != 3 {
		t.Errorf("grace is %d, %v; want 3", v, ok)
	}
}

// The younger value counts while both halves have the key, and none is left behind when it is
// deleted.
func TestGenerationsDeleteAKeyFromBothHalves(t *testing.T) {
	var g dedupe.Generations[string, int]
	g.Delete("ada")
	g.Set("ada", 1)
	g.Rotate()
	if before := g.Set("ada", 2); before != 0 {
		t.Errorf("the younger half had ada as %d", before)
	}
	if v, _ := g.Get("ada"); v != 2 {
		t.Errorf("ada is %d, want the younger value 2", v)
	}
	if before := g.Delete("ada"); before != 2 {
		t.Errorf("deleted %d, want 2", before)
	}
	if v, ok := g.Get("ada"); ok || g.Len() != 0 {
		t.Errorf("ada is still %d", v)
	}
}
