package servicebus

import "slices"

// outlet is a receiver's link as its queue sees it. The queue's lock guards it.
type outlet struct {
	credit    uint32 // how many messages it may still get
	delivered uint32 // how many it got
	peekLock  bool
	stalled   bool // the connection accepts nothing at the moment

	// Where the entity has sessions:
	owner   *conn           // whose receiver it is
	session *messageSession // the session that the receiver holds
	waiter  *sessionWaiter  // while the receiver waits for a session
	lost    func()          // called with the queue locked when the session's lock has expired

	// send puts the message on the wire without blocking. It returns false if the connection
	// accepts nothing at the moment. It is called with the queue locked.
	send func(m *message) bool
}

// ready reports whether the receiver can get a message now.
func (o *outlet) ready() bool { return o.credit > 0 && !o.stalled }

// setCredit sets the credit from a flow frame (AMQP 1.0 part 2, §2.6.7). The frame may have crossed
// deliveries, so deliveryCount says how many of them the client had counted.
func (o *outlet) setCredit(deliveryCount, credit uint32) {
	o.credit = deliveryCount + credit - o.delivered
	if int32(o.credit) < 0 {
		o.credit = 0
	}
}

// drain uses up the credit without messages.
func (o *outlet) drain() {
	o.delivered += o.credit
	o.credit = 0
}

// outletList holds a queue's receivers and serves them in rotation.
type outletList struct {
	all  []*outlet
	last int // index of the receiver that next returned last, modulo the length
}

func (l *outletList) add(o *outlet) { l.all = append(l.all, o) }

func (l *outletList) remove(o *outlet) {
	l.all = slices.DeleteFunc(l.all, func(other *outlet) bool { return other == o })
}

// next returns the next receiver that is ready, or nil if there is none.
func (l *outletList) next() *outlet {
	for range l.all {
		l.last++
		if o := l.all[l.last%len(l.all)]; o.ready() {
			return o
		}
	}
	return nil
}
