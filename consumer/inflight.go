package consumer

import (
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/prometheus/client_golang/prometheus"
)

// phase is the stage that a message in flight has reached.
type phase int

const (
	adding   phase = iota // its users are not in the ledger yet, so nobody knows whom it is about
	waiting               // it waits for its users' attempts, or until it may be decoded
	settling              // each of its events has a result
	phases
)

// messagesInFlight are the messages that this process has locked. A message is one of them from its
// receipt until it is settled or its lock is lost. Nothing else counts them. It is safe for
// concurrent use.
type messagesInFlight struct {
	gauge prometheus.Gauge

	mu    sync.Mutex
	all   map[*azservicebus.ReceivedMessage]inFlight
	count [phases]int
}

type inFlight struct {
	enqueued time.Time // zero if Service Bus did not say
	phase    phase
}

func newMessagesInFlight(gauge prometheus.Gauge) *messagesInFlight {
	return &messagesInFlight{gauge: gauge, all: map[*azservicebus.ReceivedMessage]inFlight{}}
}

// add adds a message that was received. Its phase is adding.
func (f *messagesInFlight) add(m *azservicebus.ReceivedMessage) {
	var added inFlight
	if m.EnqueuedTime != nil {
		added.enqueued = *m.EnqueuedTime
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all[m] = added
	f.count[added.phase]++
	f.gauge.Set(float64(len(f.all)))
}

// move moves a message in flight to another phase. It reports whether the message was the last one
// whose phase was adding.
func (f *messagesInFlight) move(m *azservicebus.ReceivedMessage, to phase) (lastAdded bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	moved := f.all[m]
	from := moved.phase
	f.count[from]--
	f.count[to]++
	moved.phase = to
	f.all[m] = moved
	return from == adding && f.count[adding] == 0
}

// remove removes a message that was handled.
func (f *messagesInFlight) remove(m *azservicebus.ReceivedMessage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count[f.all[m].phase]--
	delete(f.all, m)
	f.gauge.Set(float64(len(f.all)))
}

// len returns how many messages are in flight, and how many of them are being added.
func (f *messagesInFlight) len() (all, beingAdded int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.all), f.count[adding]
}

// onlyWaiting reports whether there are messages in flight, and the phase of all of them is
// waiting.
func (f *messagesInFlight) onlyWaiting() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.all) > 0 && f.count[waiting] == len(f.all)
}

// oldest returns the age of the oldest message in flight; 0 when there is none.
func (f *messagesInFlight) oldest() (age time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.all {
		if !m.enqueued.IsZero() {
			age = max(age, time.Since(m.enqueued))
		}
	}
	return age
}
