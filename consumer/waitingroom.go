package consumer

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
)

// maxRemembered bounds how many deferred messages of one source are remembered. Each needs about 100
// bytes. The others are found by peeking.
const maxRemembered = 10_000

// waitingRoom remembers which messages of a source are deferred. Service Bus keeps deferred
// messages without a lock, and delivers them only to a receiver that asks for their sequence
// numbers. They need no renewals. A waitingRoom is safe for concurrent use.
type waitingRoom struct {
	slots   slots         // for messages that have come back
	changed chan struct{} // is signaled when another message may be due

	mu         sync.Mutex
	remembered map[int64]deferredMessage // by sequence number

	// Only receiveDeferred's goroutine uses these.
	next   int64 // the sequence number from which the search for forgotten messages goes on
	others bool  // another replica has deferred some
	// all makes the search adopt messages of other replicas, too, before they are due. It is set at
	// the start, which forgets what the guard has counted, and when the guard is released. A replica
	// that is gone may have set them aside for long.
	all bool
}

type deferredMessage struct {
	urgency int
	due     time.Time
	user    string // the key of the only user who is undecided; empty if there are more
	times   int    // how often it was deferred
	blocked bool   // the volume guard stops one of its users
	keyless bool   // it cannot be judged yet
	back    bool   // it has come back, and is in flight
	missed  bool   // Service Bus has said that there is no such message
}

func newWaitingRoom(atOnce int) *waitingRoom {
	return &waitingRoom{
		slots: make(slots, atOnce), changed: make(chan struct{}, 1), remembered: map[int64]deferredMessage{}, all: true,
	}
}

// len returns how many messages are remembered and not in flight.
func (r *waitingRoom) len() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.remembered {
		if !d.back {
			n++
		}
	}
	return n
}

// put remembers a deferred message. The message is not due before notBefore, because Service Bus
// may have it locked until then, and would say that there is no such message.
func (r *waitingRoom) put(number int64, urgency int, notBefore time.Time, back comeback) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d, ok := r.remembered[number]
	if !ok && len(r.remembered) >= maxRemembered {
		return
	}
	d.urgency, d.back, d.missed = urgency, false, false
	d.user, d.blocked, d.keyless = back.user, back.blocked, back.keyless
	if d.due = back.due; notBefore.After(d.due) {
		d.due = notBefore
	}
	d.times++
	r.remembered[number] = d
	r.signal()
}

// usual returns how long a message stays deferred the next time, unless something else decides: at
// most for most.
func (r *waitingRoom) usual(number int64, most time.Duration) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return min(comesBackAfter<<min(r.remembered[number].times, 10), most)
}

// released makes the messages due that the volume guard has stopped, and keysCame those that could
// not be judged.
func (r *waitingRoom) released() { r.wake(func(d deferredMessage) bool { return d.blocked }) }
func (r *waitingRoom) keysCame() { r.wake(func(d deferredMessage) bool { return d.keyless }) }

// decided makes the messages due whose only undecided user is decided now. What has decided the user
// decides them, too.
func (r *waitingRoom) decided(user string) {
	r.wake(func(d deferredMessage) bool { return d.user == user })
}

// wake makes messages due, and signals if there are any.
func (r *waitingRoom) wake(which func(deferredMessage) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for number, d := range r.remembered {
		if which(d) && !d.back && d.due.After(now) {
			d.due = now
			r.remembered[number] = d
			r.signal()
		}
	}
}

// forget forgets a message that is settled.
func (r *waitingRoom) forget(number int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.remembered, number)
}

// miss notes that Service Bus has said that there is no such message. It says this of a locked
// message, too. The message may be locked for another replica, or for this one if the answer was
// lost. So the message is requested once more when that lock has expired.
func (r *waitingRoom) miss(number int64, lock time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d, ok := r.remembered[number]
	if !ok {
		return
	}
	if d.missed {
		delete(r.remembered, number)
		return
	}
	d.back, d.missed, d.due = false, true, time.Now().Add(lock+comesBackAfter)
	r.remembered[number] = d
}

// didNotCome notes that a message was requested and did not come, for a reason that has nothing to
// do with the message.
func (r *waitingRoom) didNotCome(number int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d, ok := r.remembered[number]; ok && d.back {
		d.back, d.due = false, time.Now().Add(comesBackAfter)
		r.remembered[number] = d
	}
}

// signal signals that another message may be due.
func (r *waitingRoom) signal() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// due returns up to n messages that are due, the most urgent ones first, and notes that they are
// back. wait is the time until the next one is due.
func (r *waitingRoom) due(n int) (numbers []int64, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	wait = lookForForgotten
	for number, d := range r.remembered {
		switch {
		case d.back:
		case !d.due.After(now):
			numbers = append(numbers, number)
		default:
			wait = min(wait, d.due.Sub(now))
		}
	}
	slices.SortFunc(numbers, func(a, b int64) int {
		x, y := r.remembered[a], r.remembered[b]
		return cmp.Or(cmp.Compare(x.urgency, y.urgency), x.due.Compare(y.due), cmp.Compare(a, b))
	})
	numbers = numbers[:min(n, len(numbers))]
	for _, number := range numbers {
		d := r.remembered[number]
		d.back = true
		r.remembered[number] = d
	}
	return numbers, wait
}

// wanted reports whether a message is due that has not come back.
func (r *waitingRoom) wanted() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for _, d := range r.remembered {
		if !d.back && !d.due.After(now) {
			return true
		}
	}
	return false
}

// decided brings back the deferred messages of a user who is decided now.
func (c *Consumer) decided(user string) {
	for _, s := range c.sources {
		if s.room != nil { // sessions have none
			s.room.decided(user)
		}
	}
}

// remembers reports whether the message is remembered.
func (r *waitingRoom) remembers(number int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.remembered[number]
	return ok
}

// adopt remembers a deferred message that was found, unless another replica remembers it. It
// reports whether it did.
func (r *waitingRoom) adopt(number int64, m *azservicebus.ReceivedMessage) bool {
	now := time.Now()
	if due, ok := dueElsewhere(m, now); ok && !r.all && now.Before(due.Add(forgottenAfter)) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.remembered[number]; ok || len(r.remembered) >= maxRemembered {
		return false
	}
	r.remembered[number] = deferredMessage{due: now}
	r.signal()
	return true
}
