package consumer

import (
	"sync"

	"github.com/session-revoker/session-revoker/dedupe"
)

// maxDecided bounds how many decided events of one source are remembered. Each needs about 500
// bytes. Events beyond that are decided again.
const maxDecided = 20_000

// decidedEvents remembers the decided events of messages that come again because of their other
// events. Such a message was deferred, was given up with its session, or lost its lock. Without
// this memory, the events of a large message would never all be decided at the same time. The zero
// value is ready. It is safe for concurrent use.
type decidedEvents struct {
	mu       sync.Mutex
	n        int                                              // events in the younger half of messages
	messages dedupe.Generations[int64, map[int]*dedupe.Event] // by sequence number, and by index
}

// keep remembers the results of a message that comes again.
func (d *decidedEvents) keep(number int64, results []result) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.n >= maxDecided/2 {
		d.messages.Rotate()
		d.n = 0
	}
	kept := map[int]*dedupe.Event{}
	for i := range results {
		r := &results[i]
		// A superseded event is decided anew, since the message that superseded it may be gone when
		// this one comes again.
		if r.event != nil && (r.outcome == revoked || r.outcome == deadLettered) {
			kept[r.item.Index] = r.event
		}
	}
	if len(kept) == 0 {
		return
	}
	d.n += len(kept) - len(d.messages.Set(number, kept))
}

// of returns the decided events of a message by their indexes.
func (d *decidedEvents) of(number int64) map[int]*dedupe.Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	kept, _ := d.messages.Get(number)
	return kept
}

// forget forgets a message that is settled.
func (d *decidedEvents) forget(number int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.n -= len(d.messages.Delete(number))
}
