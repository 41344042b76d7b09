package consumer

import (
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/deadletter"
)

const (
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
)

// comeback is when a message that is deferred now comes back.
type comeback struct {
	due     time.Time
	user    string // the key of the only undecided user, whose decision brings it back earlier
	blocked bool   // a release of the volume guard brings it back earlier
	keyless bool   // keys that come bring it back earlier
	// sooner is closed when that happens.
	sooner <-chan struct{}
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
