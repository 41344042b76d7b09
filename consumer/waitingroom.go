package consumer

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/retry"
)

const (
	// maxRemembered bounds the deferred messages that are remembered of one source, about 100 bytes each. Those beyond it
	// are found by peeking.
	maxRemembered = 10_000
	// comesBackAfter is how long a message stays deferred at least, and comesBackEach how much longer for each of its users: it is decoded
	// each time. Where nobody knows when the next attempt for one of its users is due, it stays for comesBackAfter at first, and for
	// comesBackUsual at last; it doubles each time. comesBackMost is the longest.
	comesBackAfter = 2 * time.Second
	comesBackEach  = 10 * time.Millisecond
	comesBackUsual = 30 * time.Second
	comesBackMost  = time.Minute
	// lookEveryRoom is how often forgotten deferred messages are looked for. lookAtMost is how many messages are peeked at in one go, and
	// lookOn when the next go follows: a long queue is not to be slower for it.
	lookEveryRoom = 5 * time.Minute
	lookAtMost    = 1_000
	lookOn        = time.Second
	// forgottenAfter is how long after its time a deferred message is taken for forgotten by whoever has deferred it. If it is not,
	// only one of the two can receive it.
	forgottenAfter = 30 * time.Second
	// backFor is how long a message that has come back waits for its users' attempts before it is deferred again.
	backFor = 10 * time.Second
	// fetchAtOnce is how many deferred messages are received at once.
	fetchAtOnce = 16
)

// waitingRoom remembers which messages of a source are deferred: Service Bus keeps them without a lock, a renewal or a
// delivery count, and delivers them only to who asks for their numbers. It is safe for concurrent use.
type waitingRoom struct {
	places  slots         // for messages that have come back
	changed chan struct{} // is signaled when another message may be due

	mu    sync.Mutex
	known map[int64]deferredMessage
	next  int64 // from where forgotten ones are looked for
	// others says that another replica has deferred some. Like next it is bringBack's own.
	others bool
}

type deferredMessage struct {
	urgency int
	due     time.Time
	times   int  // that it was deferred
	blocked bool // the volume guard stops one of its users
	back    bool // it is in flight
	missed  bool // Service Bus said that there is no such message
}

func newWaitingRoom(atOnce int) *waitingRoom {
	return &waitingRoom{places: make(slots, atOnce), changed: make(chan struct{}, 1), known: map[int64]deferredMessage{}}
}

// len is how many messages are known to be deferred and not in flight.
func (r *waitingRoom) len() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.known {
		if !d.back {
			n++
		}
	}
	return n
}

// comeback is when a message comes back that is deferred now; blocked says that a release of the volume guard brings it back earlier.
type comeback struct {
	due     time.Time
	blocked bool
}

// put remembers a deferred message. Before held it cannot be had: its lock is still ours; zero where it is not locked.
func (r *waitingRoom) put(number int64, urgency int, locked time.Time, back comeback) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d, ok := r.known[number]
	if !ok && len(r.known) >= maxRemembered {
		return
	}
	d.urgency, d.back, d.missed = urgency, false, false
	d.blocked = back.blocked
	if d.due = back.due; locked.After(d.due) {
		d.due = locked
	}
	d.times++
	r.known[number] = d
	r.signal()
}

// usual is how long a message stays deferred the next time, where nothing tells.
func (r *waitingRoom) usual(number int64) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return min(comesBackAfter<<min(r.known[number].times, 10), comesBackUsual)
}

// released brings back what the volume guard has stopped.
func (r *waitingRoom) released() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for number, d := range r.known {
		if d.blocked && !d.back && d.due.After(now) {
			d.due = now
			r.known[number] = d
		}
	}
}

// forget drops a message that is settled, or not to be had.
func (r *waitingRoom) forget(number int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, number)
}

// miss notes that Service Bus knows no such message. It says so as well while the message is locked: by another replica, or for
// this one, when the answer that brought it was lost on the way. So it is asked for once more when that lock is over.
func (r *waitingRoom) miss(number int64, lock time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d, ok := r.known[number]
	if !ok {
		return
	}
	if d.missed {
		delete(r.known, number)
		return
	}
	d.back, d.missed, d.due = false, true, time.Now().Add(lock)
	r.known[number] = d
}

// didNotCome notes that a message was asked for and not received, for no reason of its own.
func (r *waitingRoom) didNotCome(number int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d, ok := r.known[number]; ok && d.back {
		d.back, d.due = false, time.Now().Add(comesBackAfter)
		r.known[number] = d
	}
}

func (r *waitingRoom) signal() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// due takes up to n messages that are due, the most urgent first; if there is none, wait is until the next one is.
func (r *waitingRoom) due(n int) (numbers []int64, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	wait = lookEveryRoom
	for number, d := range r.known {
		switch {
		case d.back:
		case !d.due.After(now):
			numbers = append(numbers, number)
		default:
			wait = min(wait, d.due.Sub(now))
		}
	}
	slices.SortFunc(numbers, func(a, b int64) int {
		x, y := r.known[a], r.known[b]
		return cmp.Or(cmp.Compare(x.urgency, y.urgency), x.due.Compare(y.due), cmp.Compare(a, b))
	})
	numbers = numbers[:min(n, len(numbers))]
	for _, number := range numbers {
		d := r.known[number]
		d.back = true
		r.known[number] = d
	}
	return numbers, wait
}

// comesBack is when a message comes back that is deferred now: with the next attempt for one of its users.
func (c *Consumer) comesBack(m *message, results []result) (back comeback) {
	now := time.Now()
	if m.SequenceNumber == nil {
		return comeback{due: now}
	}
	back.due = now.Add(comesBackMost)
	usual := now.Add(m.from.room.usual(*m.SequenceNumber))
	waits := 0 // users for whom time alone decides
	for _, r := range results {
		if r.outcome != unfinished || r.event == nil {
			continue
		}
		if c.dispatch.Blocked(r.event.Kind) {
			back.blocked = true
			continue
		}
		waits++
		due := usual
		if next := c.dispatch.NextAttempt(r.key); next.After(now) {
			due = next
		}
		if due.Before(back.due) {
			back.due = due
		}
	}
	if waits == 0 && !back.blocked {
		back.due = usual
	}
	if least := now.Add(comesBackAfter + time.Duration(max(0, waits-1))*comesBackEach); back.due.Before(least) {
		back.due = least
	}
	return back
}

// dueProperty tells other replicas when a deferred message is due.
func dueProperty(due time.Time) map[string]any {
	return map[string]any{deadletter.PropertyDeferred: due.UTC().Format(time.RFC3339)}
}

// remember notes what became of a message that is deferred or was.
func (c *Consumer) remember(m *message, results []result, todo action, err error) {
	if m.SequenceNumber == nil {
		return
	}
	urgency := m.from.rank * perSource
	for _, r := range results {
		if r.event != nil {
			urgency = r.event.Urgency
			break
		}
	}
	switch {
	case todo == deferral, m.deferred && (err != nil || todo == leave):
		// What was to be deferred may be, though the answer was lost; if it is not, it is not found, and forgotten. What was deferred
		// and could not be settled still is, when its lock has ended: asked for earlier it would not be found, either.
		var locked time.Time
		if m.deferred && err != nil {
			locked = m.known.Lock.Until().Add(comesBackAfter)
		}
		m.from.room.put(*m.SequenceNumber, urgency, locked, c.comesBack(m, results))
	case m.deferred:
		m.from.room.forget(*m.SequenceNumber)
	}
	c.Metrics.Deferred.WithLabelValues(m.from.Entity).Set(float64(m.from.room.len()))
}

// receiveDeferred receives deferred messages of a source when they are due, and looks for those that nobody remembers, until ctx
// ends.
func (c *Consumer) receiveDeferred(ctx context.Context, s *source, accept func(*source, delivery)) {
	room := s.room
	released := c.dispatch.Released()
	look := time.Now().Add(lookAgain) // for forgotten ones
	for ctx.Err() == nil {
		if !time.Now().Before(look) {
			look = time.Now().Add(c.findDeferred(ctx, s))
		}
		select {
		case <-released:
			released = c.dispatch.Released()
			room.released()
		default:
		}
		wait := time.Until(look)
		most := fetchAtOnce
		if c.dispatch.Open() { // a probe may be for somebody who comes back
			most = min(1, c.limit())
			wait = min(wait, time.Second)
		}
		if free := room.places.acquire(most); free > 0 {
			numbers, next := room.due(free)
			room.places.release(free - len(numbers))
			if len(numbers) > 0 {
				c.fetch(ctx, s, numbers, accept)
				continue
			}
			wait = min(wait, next)
		} // otherwise the end of one that is in flight tells
		timer := time.NewTimer(max(wait, time.Millisecond))
		select {
		case <-timer.C:
		case <-room.changed:
		case <-released:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// lookAgain is how soon forgotten messages are looked for after the start, and again when Service Bus did not answer.
const lookAgain = 10 * time.Second

// fetch receives deferred messages; each that comes holds a place until it is settled.
func (c *Consumer) fetch(ctx context.Context, s *source, numbers []int64, accept func(*source, delivery)) {
	missing := map[int64]bool{}
	for _, n := range numbers {
		missing[n] = true
	}
	receive := func(numbers []int64) error {
		// Not ended by ctx: what Service Bus has locked meanwhile would stay so for a whole lock duration.
		fetching, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.SettleTimeout)
		defer cancel()
		messages, err := deferredFrom(fetching, s.Receiver, numbers)
		for _, m := range messages {
			if m.SequenceNumber == nil || !missing[*m.SequenceNumber] {
				continue
			}
			delete(missing, *m.SequenceNumber)
			accept(s, delivery{message: m, receiver: s.Receiver, deferred: true, done: func() {
				s.room.places.release(1)
				s.room.signal()
			}})
		}
		return err
	}
	err := receive(numbers)
	if isNotFound(err) && len(numbers) > 1 {
		// One that is gone, or locked by another replica, keeps the others from coming.
		for _, n := range numbers {
			if missing[n] {
				err = receive([]int64{n})
			}
			if isNotFound(err) {
				s.room.miss(n, c.Lock)
			}
		}
	} else if isNotFound(err) {
		s.room.miss(numbers[0], c.Lock)
	}
	if err != nil && !isNotFound(err) && ctx.Err() == nil {
		c.Log.Warn("deferred messages cannot be received; trying again", zap.String("source", s.Entity), zap.String("error", c.text(err)))
		_ = retry.Sleep(ctx, time.Second)
	}
	for n := range missing {
		s.room.didNotCome(n)
	}
	s.room.places.release(len(missing))
	c.Metrics.Deferred.WithLabelValues(s.Entity).Set(float64(s.room.len()))
}

// deferredFrom receives deferred messages, and survives a panic of the SDK.
func deferredFrom(ctx context.Context, from Receiver, numbers []int64) (messages []*azservicebus.ReceivedMessage, err error) {
	ctx, cancel := context.WithTimeout(ctx, receiveWait)
	defer cancel()
	defer func() {
		if recover() != nil {
			messages, err = nil, errUnreadable
		}
	}()
	return from.ReceiveDeferredMessages(ctx, numbers, nil)
}

// findDeferred looks for deferred messages that nobody remembers: after a crash, or another replica's. It returns in how long to
// look again: soon while another replica has deferred some, which may crash.
func (c *Consumer) findDeferred(ctx context.Context, s *source) (again time.Duration) {
	found := 0
	if s.room.next == 0 {
		s.room.others = false
	}
	for range lookAtMost / lookAtOnce {
		messages, err := lookFrom(ctx, s.Receiver, s.room.next, lookAtOnce)
		if err != nil {
			return lookAgain
		}
		if len(messages) == 0 {
			s.room.next = 0
			break
		}
		for _, m := range messages {
			if m.SequenceNumber == nil {
				continue
			}
			s.room.next = *m.SequenceNumber + 1
			switch {
			case m.State != azservicebus.MessageStateDeferred:
			case s.room.adopt(*m.SequenceNumber, m):
				found++
			case !s.room.knows(*m.SequenceNumber):
				s.room.others = true
			}
		}
	}
	if found > 0 {
		c.Log.Info("found deferred messages that nobody remembers; they are worked on now", zap.String("source", s.Entity), zap.Int("messages", found))
		c.Metrics.Deferred.WithLabelValues(s.Entity).Set(float64(s.room.len()))
	}
	switch {
	case s.room.next != 0:
		return lookOn
	case s.room.others:
		return forgottenAfter
	}
	return lookEveryRoom
}

func (r *waitingRoom) knows(number int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.known[number]
	return ok
}

// adopt remembers a deferred message that was found, unless another replica looks after it.
func (r *waitingRoom) adopt(number int64, m *azservicebus.ReceivedMessage) bool {
	now := time.Now()
	if text, ok := m.ApplicationProperties[deadletter.PropertyDeferred].(string); ok {
		// A time that is further away than anybody defers a message for is not one of ours.
		if due, err := time.Parse(time.RFC3339, text); err == nil && now.Before(due.Add(forgottenAfter)) && due.Sub(now) <= 2*comesBackMost {
			return false
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.known[number]; ok || len(r.known) >= maxRemembered {
		return false
	}
	r.known[number] = deferredMessage{due: now}
	r.signal()
	return true
}
