package consumer

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/servicebus"
)

const (
	// maxRemembered bounds how many deferred messages of one source are remembered. Each needs
	// about 100 bytes. The others are found by peeking.
	maxRemembered = 10_000
	// comesBackAfter is how long a message stays deferred at least. For each of its users after the
	// first it stays comesBackEach longer, because it is decoded each time it comes back.
	comesBackAfter = 2 * time.Second
	comesBackEach  = 10 * time.Millisecond
	// If nobody knows when the next attempt for one of its users is due, a message stays deferred
	// for comesBackAfter the first time, and for twice as long each further time, up to
	// comesBackUsual.
	comesBackUsual = 30 * time.Second
	// comesBackMost is how long a message stays deferred at most, unless it was delivered often or
	// waits for the volume guard.
	comesBackMost = time.Minute
	// Users report that Service Bus counts a deferral as a delivery, and dead-letters a message with
	// too many of them (https://github.com/Azure/azure-service-bus/issues/375). A message that was
	// delivered oftenDelivered times stays deferred for a minute at least, and for twice as long after
	// each seldomEvery further deliveries, up to seldomMost. So a queue with a max delivery count of
	// 100 keeps it for 20 hours, and one of 200 for days.
	oftenDelivered = 30
	seldomEvery    = 10
	seldomMost     = time.Hour
	// A message whose users all wait for the volume guard stays deferred for blockedFor, and for
	// blockedMost if it was delivered often. The release of the guard brings it back at once. It comes
	// back without one because the replica that has deferred it may be gone, and others may be able to
	// act on it.
	blockedFor  = time.Hour
	blockedMost = 4 * time.Hour
	// lookForForgotten is the time between two searches for deferred messages that nobody
	// remembers. lookAgain is the time until the first search, and until the next one if Service
	// Bus does not answer.
	lookForForgotten = 5 * time.Minute
	lookAgain        = 10 * time.Second
	// lookOn is the break after each lookAtOnce messages that a search peeks at. Each of them costs as
	// much as one that is received, and the Standard tier grants all clients of a namespace 1,000 such
	// operations per second (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-throttling):
	// a search must not use up what receiving needs.
	lookOn = time.Second
	// forgottenAfter is the time after which a message that is due, and that another replica has
	// deferred, counts as forgotten. If it is not, no harm is done: only one of the two replicas
	// can receive it.
	forgottenAfter = 30 * time.Second
	// backFor is how long a message that has come back waits for its users' attempts before it must
	// make room for others that are due.
	backFor = 10 * time.Second
	// fetchAtOnce is how many deferred messages are received at once.
	fetchAtOnce = 16
)

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

// comeback is when a message that is deferred now comes back.
type comeback struct {
	due     time.Time
	user    string // the key of the only undecided user, whose decision brings it back earlier
	blocked bool   // a release of the volume guard brings it back earlier
	keyless bool   // keys that come bring it back earlier
	// sooner is closed when that happens.
	sooner <-chan struct{}
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

// comesBack returns when a message that is deferred now comes back, which is for the next attempt
// for one of its users.
func (c *Consumer) comesBack(m *message, results []result) (back comeback) {
	now := time.Now()
	if m.SequenceNumber == nil {
		return comeback{due: now}
	}
	back.due = now.Add(comesBackMost)
	back.sooner = c.dispatch.Released() // before the guard is asked, so that no release is missed
	most := comesBackUsual
	if slices.ContainsFunc(results, func(r result) bool { return r.isNotYet() }) {
		most = comesBackMost // nothing is due sooner
		back.keyless, back.sooner = true, m.keys
	}
	usual := now.Add(m.from.room.usual(*m.SequenceNumber, most))
	least := now.Add(seldom(m.DeliveryCount))
	undecided, waits := 0, 0 // waits counts those whom the guard does not stop
	for i := range results {
		r := &results[i]
		if r.outcome != unfinished || r.event == nil {
			continue
		}
		if undecided++; undecided == 1 {
			back.user = r.key
		} else {
			back.user = ""
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
		if c.dispatch.Decided(r.key, r.event.Enqueued) { // while this message was being deferred
			due, least = now, now
		}
		if due.Before(back.due) {
			back.due = due
		}
	}
	switch {
	case waits == 0 && back.blocked && m.DeliveryCount < oftenDelivered:
		least = now.Add(blockedFor)
	case waits == 0 && back.blocked:
		least = now.Add(blockedMost)
	case waits == 0:
		back.due = usual
	}
	for _, t := range []time.Time{least, now.Add(comesBackAfter + time.Duration(max(0, waits-1))*comesBackEach)} {
		if back.due.Before(t) {
			back.due = t
		}
	}
	return back
}

// seldom returns how long a message that was delivered this often stays deferred at least.
func seldom(deliveries uint32) time.Duration {
	if deliveries < oftenDelivered {
		return 0
	}
	return min(time.Minute<<min((deliveries-oftenDelivered)/seldomEvery, 10), seldomMost)
}

// guardSuffix follows the time in dueProperty if the message waits for the volume guard.
const guardSuffix = " volume-guard"

// dueProperty is the property that tells other replicas when a deferred message is due.
func dueProperty(back comeback) map[string]any {
	text := back.due.UTC().Format(time.RFC3339)
	if back.blocked {
		text += guardSuffix
	}
	return map[string]any{deadletter.PropertyDeferred: text}
}

// dueElsewhere returns when another replica fetches a deferred message. ok is false if no replica
// does: the message has no such time, or one that is further away than a worker would write it. The
// clock of a replica that is gone may have been wrong.
func dueElsewhere(m *azservicebus.ReceivedMessage, now time.Time) (due time.Time, ok bool) {
	text, _ := m.ApplicationProperties[deadletter.PropertyDeferred].(string)
	text, blocked := strings.CutSuffix(text, guardSuffix)
	due, err := time.Parse(time.RFC3339, text)
	longest := comesBackMost
	switch {
	case blocked:
		longest = blockedMost
	case m.DeliveryCount >= oftenDelivered:
		longest = seldomMost
	}
	return due, err == nil && due.Sub(now) <= 2*longest
}

// remember notes in the waiting room how the settlement of a message ended, if the message is
// deferred now or was before. back is when the message comes back.
func (c *Consumer) remember(m *message, results []result, todo action, back comeback, err error) {
	if m.SequenceNumber == nil {
		return
	}
	urgency := m.from.rank * perSource
	for i := range results {
		r := &results[i]
		if r.event != nil {
			urgency = r.event.Urgency
			break
		}
		if r.isNotYet() {
			urgency = (m.from.rank+1)*perSource - 1 // anybody can send such messages: they delay no others
		}
	}
	switch {
	case todo == deferral, m.deferred && (err != nil || todo == leave):
		// After an error the message may be deferred all the same, if only the answer was lost. If
		// it is not, Service Bus will not find it, and it is forgotten. A message that had come
		// back is deferred again when its lock expires. Before that, Service Bus would not find it.
		var notBefore time.Time
		switch {
		case err != nil && m.deferred:
			notBefore = m.entry.Lock.Until().Add(comesBackAfter)
		case err != nil:
			notBefore = time.Now().Add(comesBackAfter)
		}
		m.from.room.put(*m.SequenceNumber, urgency, notBefore, back)
		select {
		case <-back.sooner: // during the settlement, when the waiting room did not know the message
			if err == nil {
				m.from.room.released()
				m.from.room.keysCame()
			}
		default:
		}
	case m.deferred:
		m.from.room.forget(*m.SequenceNumber)
	}
	c.deps.Metrics.Deferred.WithLabelValues(m.from.Entity).Set(float64(m.from.room.len()))
}

// receiveDeferred receives deferred messages of a source when they are due, until ctx ends. It also
// looks for deferred messages that no replica remembers.
func (c *Consumer) receiveDeferred(ctx context.Context, s *source, accept acceptFunc) {
	room := s.room
	released, keys := c.dispatch.Released(), c.keysChanged()
	look := time.Now().Add(lookAgain) // for forgotten messages
	for ctx.Err() == nil {
		if !time.Now().Before(look) {
			look = time.Now().Add(c.findDeferred(ctx, s))
		}
		select {
		case <-released:
			released = c.dispatch.Released()
			room.released()
			room.next, room.all, look = 0, true, time.Now()
		case <-keys:
			keys = c.keysChanged()
			room.keysCame()
		default:
		}
		wait := time.Until(look)
		most := fetchAtOnce
		if c.dispatch.Open() { // a probe may be for a user whose message comes back
			most = min(1, c.limit())
			wait = min(wait, time.Second)
		}
		if free := room.slots.acquire(most); free > 0 {
			numbers, next := room.due(free)
			room.slots.free(free - len(numbers))
			if len(numbers) > 0 {
				c.fetch(ctx, s, numbers, accept)
				continue
			}
			wait = min(wait, next)
		} // otherwise room.changed is signaled when a slot becomes free
		timer := time.NewTimer(max(wait, time.Millisecond))
		select {
		case <-timer.C:
		case <-room.changed:
		case <-released:
		case <-keys:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// fetch receives deferred messages. Each message that comes uses a slot of the waiting room until
// it is settled.
func (c *Consumer) fetch(ctx context.Context, s *source, numbers []int64, accept acceptFunc) {
	missing := map[int64]bool{}
	for _, n := range numbers {
		missing[n] = true
	}
	receive := func(numbers []int64) error {
		// The end of ctx must not end this call, because messages that Service Bus has locked by
		// then would stay locked for a whole lock duration.
		fetching, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.SettleTimeout)
		defer cancel()
		messages, err := deferredFrom(fetching, s.Receiver, numbers)
		for _, m := range messages {
			if m.SequenceNumber == nil || !missing[*m.SequenceNumber] {
				continue
			}
			delete(missing, *m.SequenceNumber)
			accept(s, delivery{message: m, receiver: s.Receiver, deferred: true, done: func() {
				s.room.slots.free(1)
				s.room.signal()
			}})
		}
		return err
	}
	err := receive(numbers)
	switch {
	case !isNotFound(err):
	case len(numbers) == 1:
		s.room.miss(numbers[0], c.cfg.Lock)
		err = nil
	default:
		// If one message is gone, or another replica has it locked, none of them comes. So each one
		// is requested alone.
		for _, n := range numbers {
			if !missing[n] {
				continue
			}
			if err = receive([]int64{n}); isNotFound(err) {
				s.room.miss(n, c.cfg.Lock)
				err = nil
			}
			if err != nil {
				break // the others would end in the same way
			}
		}
	}
	if err != nil && ctx.Err() == nil {
		c.deps.Log.Warn("cannot receive deferred messages; trying again until it works",
			zap.String("source", s.Entity), zap.String("error", c.text(err)))
		_ = retry.Sleep(ctx, time.Second)
	}
	for n := range missing {
		s.room.didNotCome(n)
	}
	s.room.slots.free(len(missing))
	c.deps.Metrics.Deferred.WithLabelValues(s.Entity).Set(float64(s.room.len()))
}

// deferredFrom receives deferred messages, and returns servicebus.ErrUnreadable if the SDK panics.
func deferredFrom(ctx context.Context, from Receiver, numbers []int64) ([]*azservicebus.ReceivedMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, receiveWait)
	defer cancel()
	return servicebus.Guard(func() ([]*azservicebus.ReceivedMessage, error) {
		return from.ReceiveDeferredMessages(ctx, numbers, nil)
	})
}

// findDeferred looks for deferred messages that no replica remembers, such as after a crash. It
// returns the time until the next search. This is short while another replica has deferred
// messages, because that one may crash.
func (c *Consumer) findDeferred(ctx context.Context, s *source) (again time.Duration) {
	found := 0
	if s.room.next == 0 {
		s.room.others = false
	}
	messages, err := peekFrom(ctx, s.Receiver, s.room.next, lookAtOnce)
	if err != nil {
		return lookAgain
	}
	if len(messages) == 0 {
		s.room.next, s.room.all = 0, false
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
		case !s.room.remembers(*m.SequenceNumber):
			s.room.others = true
		}
	}
	if found > 0 {
		c.deps.Log.Info("found deferred messages that no replica looks after; receiving them",
			zap.String("source", s.Entity), zap.Int("messages", found))
		c.deps.Metrics.Deferred.WithLabelValues(s.Entity).Set(float64(s.room.len()))
	}
	switch {
	case s.room.next != 0:
		return lookOn
	case s.room.others:
		return forgottenAfter
	}
	return lookForForgotten
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
