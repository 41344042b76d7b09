package dedupe

// Generations is a map that forgets its older half at once, which needs no data about single
// entries. The owner decides when: it calls Rotate, usually when the younger half has so many
// entries. The zero value is ready. It is not safe for concurrent use: the owner must serialize all
// calls.
type Generations[K comparable, V any] struct {
	young, old map[K]V
}

// Get returns the value of a key. ok is false if the key was never set, or is forgotten.
func (g *Generations[K, V]) Get(key K) (value V, ok bool) {
	if value, ok = g.young[key]; !ok {
		value, ok = g.old[key]
	}
	return value, ok
}

// Set sets the value of a key in the younger half. It returns the value that the younger half had,
// or the zero value if it had none.
func (g *Generations[K, V]) Set(key K, value V) (before V) {
	if g.young == nil {
		g.young = map[K]V{}
	}
	before = g.young[key]
	g.young[key] = value
	return before
}

// Delete removes a key from both halves. It returns the value that the younger half had, or the
// zero value if it had none.
func (g *Generations[K, V]) Delete(key K) (before V) {
	before = g.young[key]
	delete(g.young, key)
	delete(g.old, key)
	return before
}

// Rotate forgets the older half. The younger half becomes the older one.
func (g *Generations[K, V]) Rotate() { g.young, g.old = nil, g.young }

// Young returns how many keys the younger half has, and Len how many both halves have. A key that
// is in both counts twice.
func (g *Generations[K, V]) Young() int { return len(g.young) }

// Len returns how many keys both halves have; see Young.
func (g *Generations[K, V]) Len() int { return len(g.young) + len(g.old) }
