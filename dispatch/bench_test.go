package dispatch

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/guard"
)

// constant returns an urgencyFunc that always returns the same value.
func constant(urgency int, kind string) urgencyFunc {
	return func(func(string) bool) (int, string) { return urgency, kind }
}

// crowd is the number of users who wait for a permit.
const crowd = 20_000

// crowded makes a crowd wait with events of a type for which no attempt may begin.
func crowded(b *testing.B, q *queue, kind string) {
	ctx, cancel := context.WithCancelCause(b.Context())
	over := make(chan struct{}, crowd)
	for i := range crowd {
		go func() {
			_, _ = q.wait(ctx, request{user: fmt.Sprint("crowd:", i), ticket: q.nextTicket(), urgency: constant(5, kind)})
			over <- struct{}{}
		}()
	}
	for waiting := 0; waiting < crowd; {
		time.Sleep(time.Millisecond)
		q.mu.Lock()
		waiting = len(q.waiting)
		q.mu.Unlock()
	}
	b.Cleanup(func() {
		cancel(errors.New("the benchmark is over"))
		for range crowd {
			<-over
		}
	})
}

func attempts(b *testing.B, q *queue, kind string) {
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p, err := q.wait(b.Context(), request{user: fmt.Sprint("user:", i), ticket: q.nextTicket(), urgency: constant(0, kind)})
		if err != nil {
			b.Fatal(err)
		}
		q.done(p, 0, false, nil)
	}
}

func BenchmarkQueueAttempt(b *testing.B) {
	empty := func(b *testing.B) *queue {
		q := newQueue(64, guard.VolumeConfig{Kinds: []string{"device.lost", "user.offboarded"}, Max: 1, Window: time.Hour}, nil, false)
		q.ask = func(int, time.Duration) { go q.canaryDone(1, 0, nil, false) }
		q.volume.Release(guard.Release{Type: "device.lost", Until: time.Now().Add(time.Hour), MaxUsers: 1 << 30}, time.Now())
		b.Cleanup(q.stop)
		return q
	}
	b.Run("while nobody waits", func(b *testing.B) { attempts(b, empty(b), "device.lost") })
	b.Run("while many wait for the last reservation of another type", func(b *testing.B) {
		q := empty(b)
		last, err := q.wait(b.Context(), request{user: "last", ticket: q.nextTicket(), urgency: constant(5, "user.offboarded")})
		if err != nil {
			b.Fatal(err)
		}
		crowded(b, q, "user.offboarded")
		attempts(b, q, "device.lost")
		q.cancel(last)
	})
}
