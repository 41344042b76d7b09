package deadline_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/session-revoker/session-revoker/internal/deadline"
)

func TestSharedEndsWithinItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := deadline.Within(8 * time.Second)
		for range 100 {
			ctx := s.Of(t.Context())
			at, ok := ctx.Deadline()
			if left := time.Until(at); !ok || left < 7875*time.Millisecond || left > 8*time.Second {
				t.Fatalf("%s left", left)
			}
			time.Sleep(13 * time.Millisecond)
		}
		ctx := s.Of(t.Context())
		time.Sleep(9 * time.Second)
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Error("not ended by its deadline:", ctx.Err())
		}
		if err := s.Of(t.Context()).Err(); err != nil {
			t.Error("the next one has ended:", err)
		}
	})
}

func TestSharedEndsWithItsParent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := deadline.Within(time.Minute)
		first, cancel := context.WithCancelCause(t.Context())
		reason := errors.New("the worker stops")
		a := s.Of(first)
		cancel(reason)
		if !errors.Is(context.Cause(a), reason) {
			t.Error("cause", context.Cause(a))
		}
		if b := s.Of(t.Context()); b.Err() != nil || !errors.Is(context.Cause(s.Of(first)), reason) {
			t.Error("one parent's context was given to another's caller")
		}
	})
}
