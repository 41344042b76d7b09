package dispatch

import (
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/retry"
)

// longSleep is the shortest wait for which a message that was deferred before is deferred again, so
// that it is not in flight meanwhile. A deferred message stays deferred for at least this long.
const longSleep = 2 * time.Second

// sleep waits until the user's next attempt is due, or until nobody waits for the user any more.
func (d *Dispatcher) sleep(w *dedupe.Work, until time.Time) {
	wait := time.Until(until)
	if wait <= 0 {
		return
	}
	if wait > longSleep {
		w.Pause() // its messages need not be in flight
		defer w.Resume()
	}
	d.sleepers.add(w, until)
	defer d.sleepers.remove(w)
	_ = retry.Sleep(w.Context(), wait)
}

// sleepers are the users who wait for something other than a permit, with the end of the wait at
// the latest.
type sleepers struct {
	mu    sync.Mutex
	until map[*dedupe.Work]time.Time
}

func (s *sleepers) add(w *dedupe.Work, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until[w] = until
}

func (s *sleepers) remove(w *dedupe.Work) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.until, w)
}

// anyBefore reports whether some user waits no longer than until the deadline.
func (s *sleepers) anyBefore(deadline time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, until := range s.until {
		if until.Before(deadline) {
			return true
		}
	}
	return false
}
