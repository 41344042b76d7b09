package servicebus

import (
	"fmt"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// How clients settle the messages that they received.

// dispose settles deliveries and answers, because the client waits for the answer.
func (s *session) dispose(d *amqp.Disposition) {
	if d.Role != amqp.RoleReceiver {
		return // it is about the broker's replies, which are sent settled
	}
	if _, other := d.State.(amqp.OtherState); other || d.State == nil && !d.Settled {
		return // not an outcome (part 3, §3.4): nothing is decided yet
	}
	last := d.First
	if d.Last != nil {
		last = *d.Last
	}
	if last-d.First >= maxBatch {
		last = d.First + maxBatch - 1
	}
	for id := d.First; ; id++ {
		s.disposeOne(id, d)
		if id == last {
			return
		}
	}
}

func (s *session) disposeOne(id uint32, d *amqp.Disposition) {
	c := s.conn
	c.mu.Lock()
	delivery, ok := s.unsettled[id]
	delete(s.unsettled, id)
	c.mu.Unlock()
	var err error = errLockLost
	if ok {
		err = delivery.link.queue.settle(delivery.token, settlementOf(d.State))
	}
	if d.Settled {
		return // the client does not wait
	}
	var state any = amqp.Accepted{}
	if err != nil {
		state = amqp.Rejected{Error: asError(err)}
	}
	c.put(s.channel, &amqp.Disposition{Role: amqp.RoleSender, First: id, Settled: true, State: state})
}

// settlementOf returns what a delivery state means to Service Bus.
func settlementOf(state any) settlement {
	switch state := state.(type) {
	case amqp.Accepted:
		return settlement{kind: Completed}
	case amqp.Rejected:
		s := settlement{kind: DeadLettered}
		if state.Error != nil {
			s.readInfo(state.Error.Info)
		}
		return s
	case amqp.Modified:
		// The Go client never sets delivery-failed. Only undeliverable-here distinguishes deferring
		// from abandoning.
		if state.UndeliverableHere {
			return settlement{kind: Deferred, modify: state.MessageAnnotations}
		}
		return settlement{kind: Abandoned, modify: state.MessageAnnotations}
	}
	return settlement{kind: Released}
}

// readInfo takes a dead letter's reason, description and properties from the info of an error.
func (s *settlement) readInfo(info amqp.Map) {
	for _, p := range info {
		text, isText := p.Value.(string)
		switch key := fmt.Sprint(p.Key); {
		case key == propertyReason && isText:
			s.reason = text
		case key == propertyDescription && isText:
			s.description = text
		default:
			s.modify = append(s.modify, p)
		}
	}
}
