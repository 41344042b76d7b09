// Package deadline makes contexts with a deadline that many callers share. A context of their own would
// cost each caller a timer and five allocations, which is as much as a settlement takes without it.
package deadline

import (
	"context"
	"sync"
	"time"
)

// Shared makes contexts that end together with a parent, and at a deadline. It is safe for concurrent
// use.
type Shared struct {
	most time.Duration

	mu           sync.Mutex
	parent, last context.Context
	until        time.Time // last is given to others until then
}

// Within returns a Shared whose contexts end after at most this duration, and after no less than 63/64
// of it.
func Within(most time.Duration) *Shared { return &Shared{most: most} }

// Of returns a context. Calls with the same parent one after the other mostly return the same one.
// Nothing must be done to release it.
func (s *Shared) Of(parent context.Context) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); parent != s.parent || !now.Before(s.until) {
		ctx, cancel := context.WithDeadline(parent, now.Add(s.most))
		context.AfterFunc(ctx, cancel) // only the deadline or the parent ends it
		s.parent, s.last, s.until = parent, ctx, now.Add(s.most/64)
	}
	return s.last
}
