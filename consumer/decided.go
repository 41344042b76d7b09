package consumer

import (
	"sync"

	"github.com/session-revoker/session-revoker/dedupe"
)

// maxEnds bounds the events whose end is kept of one source, about 500 bytes each. Those beyond it are decided again.
const maxEnds = 20_000

// decidedEvents keeps what was decided about events whose message comes again because of its other events: it was set aside, given up with
// its session, or its lock was lost. Decided anew each time, the events of a large message would never all be decided at
// once. The zero value is ready; it is safe for concurrent use.
type decidedEvents struct {
	mu         sync.Mutex
	n          int                             // in young
	young, old map[int64]map[int]*dedupe.Event // by sequence number and index; two generations make forgetting cheap
}

// keep remembers the results of a message that comes again.
func (k *decidedEvents) keep(number int64, results []result) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.young == nil || k.n >= maxEnds/2 {
		k.old, k.young, k.n = k.young, map[int64]map[int]*dedupe.Event{}, 0
	}
	kept := map[int]*dedupe.Event{}
	for _, r := range results {
		// What was superseded is asked anew: the one that stood for it was in flight then.
		if r.event != nil && (r.outcome == revoked || r.outcome == deadLettered) {
			kept[r.item.Index] = r.event
		}
	}
	if len(kept) == 0 {
		return
	}
	k.n += len(kept) - len(k.young[number])
	k.young[number] = kept
}

// of is what was decided about a message, by the event's index.
func (k *decidedEvents) of(number int64) map[int]*dedupe.Event {
	k.mu.Lock()
	defer k.mu.Unlock()
	if kept, ok := k.young[number]; ok {
		return kept
	}
	return k.old[number]
}

// forget drops a message that is settled.
func (k *decidedEvents) forget(number int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.n -= len(k.young[number])
	delete(k.young, number)
	delete(k.old, number)
}
