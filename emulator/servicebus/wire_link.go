package servicebus

import (
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// link is the broker's end of an AMQP link. The connection's reader goroutine owns it, except for
// outlet, which the queue's lock guards.
type link struct {
	session *session
	name    string
	handle  uint32
	role    amqp.Role // the client's
	address string    // the node's path: the source of a receiver, the target of a sender

	node      *queue      // the entity, for a link to it or to its $management node
	detached  atomic.Bool // the broker sends nothing more, and discards frames until the client's detach
	grantedBy string      // the path whose token admits the link

	// For a link to an entity:
	queue  *queue
	outlet *outlet // of a receiver

	// For a link to $cbs or to a $management node:
	answer  func(request) response // of a sender
	replyTo string                 // of a receiver: its target address
	replies replyQueue             // of a receiver

	rest []byte // of a receiver: what is not sent yet of a delivery; the connection's lock guards it

	incoming // of a sender
}

// close ends the link without a frame to the client, and frees its handle.
func (l *link) close() {
	delete(l.session.links, l.handle)
	l.release()
}

// release gives back what the link holds. It may be called again.
func (l *link) release() {
	l.dropPartial()
	switch {
	case l.outlet == nil:
	case l.queue.hasSessions():
		l.queue.closeSessionReceiver(l.outlet)
	default:
		l.queue.unsubscribe(l.outlet)
	}
	if l.node != nil {
		l.node.removeLink(l)
	}
}

// detach tells the client once that the link has ended. why is nil if that is not an error.
func (l *link) detach(why *amqp.Error) {
	c := l.session.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.silence() {
		c.putLocked(amqp.TypeAMQP, l.session.channel, &amqp.Detach{Handle: l.handle, Closed: true, Error: why})
	}
}

// silence makes the link send nothing more, and reports whether it could until now. The caller holds
// the connection's lock.
func (l *link) silence() bool {
	l.rest = nil
	l.session.conn.replies -= l.replies.drop()
	return !l.detached.Swap(true)
}

// fail ends the link because of an error. It keeps its handle until the client answers.
func (l *link) fail(why *amqp.Error) {
	l.release()
	l.detach(why)
}

// refuse answers an attach with an attach without terminus, and a detach with the reason (part 2,
// §2.6.3).
func (l *link) refuse(why *amqp.Error) {
	reply := &amqp.Attach{Name: l.name, Handle: l.handle, Role: !l.role}
	if l.role == amqp.RoleReceiver {
		reply.InitialDeliveryCount = new(uint32)
	}
	l.session.conn.put(l.session.channel, reply)
	l.detach(why)
}

// attach creates the link that the client asks for, or refuses it (part 2, §2.6.3).
func (s *session) attach(p *amqp.Attach) {
	l := &link{session: s, name: p.Name, handle: p.Handle, role: p.Role}
	if p.Handle > maxHandle {
		l.refuse(limitExceeded("Handle %d is above the handle-max of %d: detach links, or begin another session.", p.Handle, maxHandle))
		return
	}
	if old := s.links[p.Handle]; old != nil && !old.detached.Load() {
		s.fail(&amqp.Error{
			Condition:   "amqp:session:handle-in-use",
			Description: fmt.Sprintf("The link %q has the handle %d already, which %q asks for.", old.name, p.Handle, p.Name),
		})
		return
	} else if old != nil {
		old.close() // the client may use the handle again before it answers the broker's detach
	}
	s.links[p.Handle] = l
	if size := len(p.Name) + nodeLength(p.Source, p.Target); size > maxLinkNames {
		l.name = shortName(l.name)
		l.refuse(limitExceeded("The names and addresses of the link have %d bytes. At most %d are allowed.", size, maxLinkNames))
		return
	}
	if refusal := l.connect(p); refusal != nil {
		l.refuse(refusal)
		return
	}
	if l.node != nil {
		l.node.addLink(l)
	}
	l.answerAttach(p)
}

// connect finds the link's node and checks that the client may use it.
func (l *link) connect(p *amqp.Attach) *amqp.Error {
	switch {
	case p.Target != nil && p.Target.Coordinator:
		return &amqp.Error{Condition: "amqp:not-implemented", Description: "Transactions are not supported by this emulator."}
	case p.Source == nil || p.Target == nil:
		return &amqp.Error{Condition: "amqp:invalid-field", Description: "An attach needs a source and a target."}
	case p.Role == amqp.RoleReceiver && p.Source.Dynamic, p.Role == amqp.RoleSender && p.Target.Dynamic:
		return &amqp.Error{Condition: "amqp:not-implemented", Description: "Service Bus creates no dynamic nodes: name an entity."}
	}
	node := p.Target.Address
	if p.Role == amqp.RoleReceiver {
		node, l.replyTo = p.Source.Address, p.Target.Address
	}
	l.address = nodeOf(node)
	c := l.session.conn
	if p.InitialDeliveryCount != nil {
		l.deliveries = *p.InitialDeliveryCount
	}
	address := entityKey(l.address)
	if address == "$cbs" {
		return l.connectToCBS()
	}
	entity, isManagement := strings.CutSuffix(address, "/$management")
	q := c.b.entity(entity)
	if q == nil {
		return &amqp.Error{Condition: "amqp:not-found", Description: notFound(entity)}
	}
	l.maxMessage = q.messageLimit(c.b.maxMessage)
	granted, grantedBy := c.claimFor(address)
	l.grantedBy = grantedBy
	switch {
	case isManagement:
		if !granted.Listen && !granted.Send {
			return unauthorized("Listen")
		}
		l.node, l.answer = q, managementOf(q, c, granted, l.maxMessage)
		l.maxMessage += requestOverhead
		return nil
	case p.Role == amqp.RoleSender && !granted.Send:
		return unauthorized("Send")
	case p.Role == amqp.RoleReceiver && !granted.Listen:
		return unauthorized("Listen")
	}
	if refusal := q.checkUse(p.Role == amqp.RoleSender); refusal != nil {
		return refusal
	}
	l.queue, l.node = q, q
	if p.Role == amqp.RoleReceiver {
		return l.connectReceiver(p)
	}
	return nil
}

// nodeLength returns how many bytes the addresses of a link have.
func nodeLength(source *amqp.Source, target *amqp.Target) int {
	n := 0
	if source != nil {
		n += len(source.Address)
	}
	if target != nil {
		n += len(target.Address)
	}
	return n
}

// connectToCBS refuses a second session with links to $cbs, as the service does.
func (l *link) connectToCBS() *amqp.Error {
	c := l.session.conn
	for _, s := range c.sessions {
		for _, other := range s.links {
			if s != l.session && entityKey(other.address) == "$cbs" && !other.detached.Load() {
				return notAllowed("A link to connection's $cbs node has already been opened.")
			}
		}
	}
	l.answer, l.maxMessage = c.putToken, maxToken
	return nil
}

// connectReceiver creates the outlet of a receiver. The receiver must ask for a session exactly if
// the entity requires sessions.
func (l *link) connectReceiver(p *amqp.Attach) *amqp.Error {
	_, wantsSession := p.Source.Filter.Get(sessionFilter)
	switch {
	case wantsSession && !l.queue.hasSessions():
		return notAllowed("It is not possible to create a session receiver on an entity that does not require sessions.")
	case !wantsSession && l.queue.hasSessions():
		return notAllowed("It is not possible for an entity that requires sessions to create a non-sessionful message receiver.")
	}
	l.outlet = &outlet{owner: l.session.conn, peekLock: p.SenderSettleMode == nil || *p.SenderSettleMode != amqp.SenderSettled}
	l.outlet.send = func(m *message) bool { return l.session.transfer(l, m) }
	return nil
}

// batchSize is the link property with the size up to which clients build batches. However large a
// message may be, a batch is at most 1 MB
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-quotas).
const (
	batchSize     = "com.microsoft:max-message-batch-size"
	maxBatchBytes = 1 << 20
)

// answerAttach completes the attach. A receiver of sessions gets its answer when it has a session.
func (l *link) answerAttach(p *amqp.Attach) {
	s := l.session
	reply := &amqp.Attach{
		Name: p.Name, Handle: p.Handle, Role: !p.Role, Source: p.Source, Target: p.Target,
		SenderSettleMode: p.SenderSettleMode, ReceiverSettleMode: p.ReceiverSettleMode,
	}
	if p.Role == amqp.RoleSender {
		reply.Target = &amqp.Target{Address: p.Target.Address}
		// The client builds its batches up to this size. With 0 it would build none.
		reply.MaxMessageSize = uint64(l.maxMessage)
		if l.queue != nil {
			reply.Properties = amqp.Map{{Key: amqp.Symbol(batchSize), Value: uint64(min(l.maxMessage, maxBatchBytes))}}
		}
		s.conn.put(s.channel, reply)
		l.topUp()
		return
	}
	reply.Source = sourceInEffect(p.Source)
	reply.InitialDeliveryCount = new(uint32)
	reply.MaxMessageSize = 1<<64 - 1
	if l.queue != nil && l.queue.hasSessions() {
		filter, _ := p.Source.Filter.Get(sessionFilter)
		l.acceptSession(reply, filter, sessionWait(p))
		return
	}
	s.conn.put(s.channel, reply)
	if l.outlet != nil {
		l.queue.subscribe(l.outlet)
	}
}

// sourceInEffect returns the part of a receiver's source that the broker applies. The client must be
// able to see that the rest, such as a selector, is not applied (part 3, §3.5.3). The filter for
// sessions is added later. Nothing of a link survives it, and messages are never only copied.
func sourceInEffect(asked *amqp.Source) *amqp.Source {
	s := &amqp.Source{Address: asked.Address}
	if asked.DistributionMode != "" {
		s.DistributionMode = "move"
	}
	for _, outcome := range asked.Outcomes {
		switch outcome {
		case "amqp:accepted:list", "amqp:rejected:list", "amqp:released:list", "amqp:modified:list":
			s.Outcomes = append(s.Outcomes, outcome)
		}
	}
	return s
}

const (
	sessionFilter = "com.microsoft:session-filter"
	lockedUntil   = "com.microsoft:locked-until-utc"
	acceptTimeout = "com.microsoft:timeout"
	// defaultWait is how long a receiver waits for its next session if it does not set a time-out.
	defaultWait = time.Minute
	maxWait     = 24 * time.Hour
)

// sessionWait returns how long the receiver wants to wait for a session.
func sessionWait(p *amqp.Attach) time.Duration {
	v, _ := p.Properties.Get(acceptTimeout)
	if milliseconds, ok := v.(uint32); ok {
		return min(time.Duration(milliseconds)*time.Millisecond, maxWait)
	}
	return defaultWait
}

// acceptSession answers the attach of a receiver of sessions once it has a session: the one that
// its filter names, or the next that is free if the filter is null. The answer repeats the filter
// in the form in which it arrived, because clients accept no other form.
func (l *link) acceptSession(reply *amqp.Attach, filter any, wait time.Duration) {
	c, q := l.session.conn, l.queue
	described, isDescribed := filter.(amqp.Described)
	if isDescribed {
		filter = described.Value
	}
	granted := func(s *messageSession) {
		var value any = s.id
		if isDescribed {
			value = amqp.Described{Descriptor: described.Descriptor, Value: s.id}
		}
		reply.Source.Filter = amqp.Map{{Key: amqp.Symbol(sessionFilter), Value: value}}
		reply.Properties = amqp.Map{{Key: amqp.Symbol(lockedUntil), Value: s.until.UnixMilli()*10_000 + ticksAtUnixEpoch}}
		c.put(l.session.channel, reply)
	}
	l.outlet.lost = func() { l.detach(errSessionLockLost) }
	if id, named := filter.(string); named {
		s, refusal := q.acceptNamedSession(id, l.outlet)
		if refusal != nil {
			l.refuse(refusal)
			return
		}
		granted(s)
		return
	}
	q.acceptNextSession(l.outlet, wait, granted, func() { l.refuse(errNoSession) })
}

func unauthorized(claim string) *amqp.Error {
	return &amqp.Error{
		Condition:   "amqp:unauthorized-access",
		Description: fmt.Sprintf("Unauthorized access. '%s' claim(s) are required to perform this operation.", claim),
	}
}
