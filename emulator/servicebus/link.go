package servicebus

import (
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

const (
	// ourWindow is how many transfer frames a session may send or be sent: links are bounded by credit.
	ourWindow = 1<<31 - 1
	// senderCredit is what a sender may send before it needs more; it is renewed at half.
	senderCredit = 1000
)

// link is one end of an AMQP link. The connection's reader owns it, but for outlet, which is its queue's.
type link struct {
	session *session
	name    string
	handle  uint32
	role    amqp.Role // the client's
	address string    // of the node: the source of a receiver, the target of a sender

	node   *queue      // the entity, of a link to it or to its $management node
	forced atomic.Bool // we have detached the link

	// A link to or from a queue.
	queue  *queue
	outlet *outlet // of a receiver

	// A link to or from $cbs or a $management node.
	answer  func(request) response // of a sender
	replyTo string                 // of a receiver: its target address
	replies [][]byte               // that wait for credit
	waiting int                    // bytes of replies
	credit  uint32                 // of a receiver of replies
	sent    uint32

	// A sender's.
	deliveries uint32 // received
	granted    uint32 // credit that is left
	partial    []byte // a message of several frames
	first      amqp.Transfer
}

// handle acts on one performative of the session.
func (s *session) handle(p amqp.Performative, payload []byte) error {
	switch p := p.(type) {
	case *amqp.Attach:
		return s.attach(p)
	case *amqp.Flow:
		return s.flow(p)
	case *amqp.Transfer:
		return s.receive(p, payload)
	case *amqp.Disposition:
		s.dispose(p)
	case *amqp.Detach:
		if l := s.links[p.Handle]; l != nil {
			l.close()
			if !l.forced.Load() {
				s.conn.put(s.channel, &amqp.Detach{Handle: l.handle, Closed: true})
			}
		}
	case *amqp.End:
		s.end()
		s.conn.put(s.channel, &amqp.End{})
	default:
		return fmt.Errorf("%T inside a session", p)
	}
	return nil
}

func (l *link) close() {
	delete(l.session.links, l.handle)
	l.forgetPart()
	switch {
	case l.outlet == nil:
	case l.queue.hasSessions():
		l.queue.leave(l.outlet)
	default:
		l.queue.unsubscribe(l.outlet)
	}
	if l.node != nil {
		l.node.detached(l)
	}
}

// attach makes the link that the client asks for, or says why not (part 2, §2.6.3).
func (s *session) attach(p *amqp.Attach) error {
	if old := s.links[p.Handle]; old != nil && old.forced.Load() {
		old.close() // the client need not answer our detach before it uses the handle again
	}
	if s.links[p.Handle] != nil || len(s.links) >= maxLinks {
		return fmt.Errorf("handle %d is in use, or more than %d links in one session", p.Handle, maxLinks)
	}
	l := &link{session: s, name: p.Name, handle: p.Handle, role: p.Role}
	if p.Source == nil || p.Target == nil || p.Target.Coordinator {
		s.refuse(l, &amqp.Error{Condition: "amqp:not-implemented", Description: "Transactions are not supported by this emulator."})
		return nil
	}
	l.address = p.Target.Address
	if p.Role == amqp.RoleReceiver {
		l.address, l.replyTo = p.Source.Address, p.Target.Address
	}
	if refusal := l.connect(p); refusal != nil {
		s.refuse(l, refusal)
		return nil
	}
	s.links[p.Handle] = l
	if l.node != nil {
		l.node.attached(l)
	}
	reply := &amqp.Attach{
		Name: p.Name, Handle: p.Handle, Role: !p.Role, Source: p.Source, Target: p.Target,
		SenderSettleMode: p.SenderSettleMode, ReceiverSettleMode: p.ReceiverSettleMode,
	}
	if p.Role == amqp.RoleReceiver {
		reply.InitialDeliveryCount = new(uint32)
		reply.MaxMessageSize = 1<<64 - 1
		if l.queue != nil && l.queue.hasSessions() {
			l.acceptSession(reply, waitOf(p))
			return nil
		}
		s.conn.put(s.channel, reply)
		if l.outlet != nil {
			l.queue.subscribe(l.outlet)
		}
		return nil
	}
	// The client builds its batches up to this size; 0 would let it build none.
	reply.MaxMessageSize = uint64(s.conn.b.maxMessage)
	s.conn.put(s.channel, reply)
	l.topUp()
	return nil
}

// connect finds the link's node and checks that the client may use it.
func (l *link) connect(p *amqp.Attach) *amqp.Error {
	c := l.session.conn
	address := strings.ToLower(strings.Trim(l.address, "/"))
	if address == "$cbs" {
		for _, s := range c.sessions {
			for _, other := range s.links {
				if s != l.session && strings.EqualFold(other.address, "$cbs") {
					return &amqp.Error{Condition: "amqp:not-allowed", Description: "A link to connection's $cbs node has already been opened."}
				}
			}
		}
		l.answer = c.putToken
		return nil
	}
	entity, isManagement := strings.CutSuffix(address, "/$management")
	q := c.b.entity(entity)
	if q == nil {
		return &amqp.Error{Condition: "amqp:not-found", Description: fmt.Sprintf("The messaging entity '%s' could not be found.", entity)}
	}
	granted := c.claimFor(address)
	switch {
	case isManagement:
		if !granted.listen && !granted.send {
			return unauthorized("Listen")
		}
		l.node, l.answer = q, managementOf(q, granted, c.b.maxMessage)
		return nil
	case p.Role == amqp.RoleSender && !granted.send:
		return unauthorized("Send")
	case p.Role == amqp.RoleReceiver && !granted.listen:
		return unauthorized("Listen")
	}
	if refusal := q.usable(p.Role == amqp.RoleSender); refusal != nil {
		return refusal
	}
	l.queue, l.node = q, q
	if p.Role == amqp.RoleReceiver {
		_, wantsSession := p.Source.Filter.Get(sessionFilter)
		switch {
		case wantsSession && !q.hasSessions():
			return &amqp.Error{
				Condition:   "amqp:not-allowed",
				Description: "It is not possible to create a session receiver on an entity that does not require sessions.",
			}
		case !wantsSession && q.hasSessions():
			return &amqp.Error{
				Condition:   "amqp:not-allowed",
				Description: "It is not possible for an entity that requires sessions to create a non-sessionful message receiver.",
			}
		}
		l.outlet = &outlet{peekLock: p.SenderSettleMode == nil || *p.SenderSettleMode != amqp.SenderSettled}
		l.outlet.send = func(m *message) bool { return l.session.transfer(l, m) }
	}
	return nil
}

const (
	sessionFilter = "com.microsoft:session-filter"
	lockedUntil   = "com.microsoft:locked-until-utc"
	acceptTimeout = "com.microsoft:timeout"
	// defaultWait is how long a receiver waits for its next session unless it says otherwise.
	defaultWait = time.Minute
	maxWait     = 24 * time.Hour
	// ticksTo1970 is Unix' zero in .NET's ticks of 100 ns since the year 1.
	ticksTo1970 = 621355968000000000
)

// waitOf is how long the receiver wants to wait for a session.
func waitOf(p *amqp.Attach) time.Duration {
	v, _ := p.Properties.Get(acceptTimeout)
	if milliseconds, ok := v.(uint32); ok {
		return min(time.Duration(milliseconds)*time.Millisecond, maxWait)
	}
	return defaultWait
}

// acceptSession answers the attach of a receiver of sessions, when it has one: the session that its filter names, or for a null
// the next that is free. The filter is answered in the shape in which it came: clients take no other.
func (l *link) acceptSession(reply *amqp.Attach, wait time.Duration) {
	s, q := l.session, l.queue
	filter, _ := reply.Source.Filter.Get(sessionFilter)
	described, isDescribed := filter.(amqp.Described)
	if isDescribed {
		filter = described.Value
	}
	granted := func(g *messageSession) {
		var value any = g.id
		if isDescribed {
			value = amqp.Described{Descriptor: described.Descriptor, Value: g.id}
		}
		source := *reply.Source
		source.Filter = amqp.Map{{Key: amqp.Symbol(sessionFilter), Value: value}}
		reply.Source = &source
		reply.Properties = amqp.Map{{Key: amqp.Symbol(lockedUntil), Value: g.until.UnixMilli()*10_000 + ticksTo1970}}
		s.conn.put(s.channel, reply)
	}
	refused := func(why *amqp.Error) {
		l.forced.Store(true)
		s.refuse(l, why)
	}
	l.outlet.lost = func() {
		l.forced.Store(true)
		s.conn.put(s.channel, &amqp.Detach{Handle: l.handle, Closed: true, Error: errSessionLockLost})
	}
	if id, named := filter.(string); named {
		g, refusal := q.acceptNamed(id, l.outlet)
		if refusal != nil {
			refused(refusal)
			return
		}
		granted(g)
		return
	}
	q.acceptNext(l.outlet, wait, granted, func() { refused(errNoSession) })
}

func unauthorized(what string) *amqp.Error {
	return &amqp.Error{
		Condition:   "amqp:unauthorized-access",
		Description: fmt.Sprintf("Unauthorized access. '%s' claim(s) are required to perform this operation.", what),
	}
}

// refuse answers with an attach without terminus, followed by a detach that says why (part 2, §2.6.3).
func (s *session) refuse(l *link, why *amqp.Error) {
	reply := &amqp.Attach{Name: l.name, Handle: l.handle, Role: !l.role}
	if l.role == amqp.RoleReceiver {
		reply.InitialDeliveryCount = new(uint32)
	}
	s.conn.put(s.channel, reply)
	s.conn.put(s.channel, &amqp.Detach{Handle: l.handle, Closed: true, Error: why})
}

// flow takes the client's windows and credit (part 2, §2.7.4).
func (s *session) flow(p *amqp.Flow) error {
	c := s.conn
	c.mu.Lock()
	var next uint32
	if p.NextIncomingID != nil {
		next = *p.NextIncomingID
	}
	s.window = int64(p.IncomingWindow) - int64(int32(s.nextOutgoing-next))
	c.mu.Unlock()
	c.poke() // the writer wakes those that waited for the window

	if p.Handle == nil {
		if p.Echo {
			c.put(s.channel, s.state())
		}
		return nil
	}
	l := s.links[*p.Handle]
	if l == nil || l.forced.Load() {
		return nil // it crossed our detach
	}
	reply := p.Echo || p.Drain
	answer := s.state()
	answer.Handle = &l.handle
	switch {
	case l.outlet != nil && p.LinkCredit != nil:
		delivered, left := l.queue.grant(l.outlet, p.DeliveryCount, *p.LinkCredit, p.Drain)
		answer = s.state() // deliveries have moved it
		answer.Handle, answer.DeliveryCount, answer.LinkCredit, answer.Drain = &l.handle, &delivered, &left, p.Drain
	case l.role == amqp.RoleReceiver && p.LinkCredit != nil:
		var counted uint32
		if p.DeliveryCount != nil {
			counted = *p.DeliveryCount
		}
		l.credit = counted + *p.LinkCredit - l.sent
		l.flushReplies()
		if p.Drain {
			l.sent, l.credit = l.sent+l.credit, 0
		}
		answer.DeliveryCount, answer.LinkCredit, answer.Drain = &l.sent, &l.credit, p.Drain
	default:
		answer.DeliveryCount, answer.LinkCredit = &l.deliveries, &l.granted
	}
	if reply {
		c.put(s.channel, answer)
	}
	return nil
}

// state is a flow that tells our side of the session. All four fields must be there: go-amqp ends the session without
// next-incoming-id, and panics on a link flow without link-credit.
func (s *session) state() *amqp.Flow {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	received := s.received
	return &amqp.Flow{NextIncomingID: &received, IncomingWindow: ourWindow, NextOutgoingID: s.nextOutgoing, OutgoingWindow: ourWindow}
}

// topUp gives a sender credit.
func (l *link) topUp() {
	if l.granted > senderCredit/2 {
		return
	}
	l.granted = senderCredit
	f := l.session.state()
	f.Handle, f.DeliveryCount, f.LinkCredit = &l.handle, &l.deliveries, &l.granted
	l.session.conn.put(l.session.channel, f)
}

// receive takes one frame of a message that the client sends.
func (s *session) receive(t *amqp.Transfer, payload []byte) error {
	s.received++
	l := s.links[t.Handle]
	if l == nil || l.forced.Load() {
		return nil // it crossed our detach
	}
	if l.role != amqp.RoleSender {
		return fmt.Errorf("a transfer on the receiving link %q", l.name)
	}
	if t.DeliveryID != nil {
		l.first = *t
		l.first.DeliveryTag = nil // aliases the frame
		l.forgetPart()
	}
	if t.Aborted {
		l.forgetPart()
		return nil
	}
	if len(l.partial)+len(payload) > s.conn.b.maxMessage+maxFrameSize {
		l.close()
		s.conn.put(s.channel, &amqp.Detach{Handle: l.handle, Closed: true, Error: &amqp.Error{
			Condition: "amqp:link:message-size-exceeded", Description: "The message is larger than the link's max-message-size.",
		}})
		return nil
	}
	if t.More || len(l.partial) > 0 {
		if s.conn.parts += len(payload); s.conn.parts > maxBacklog {
			return fmt.Errorf("more than %d bytes of unfinished messages", maxBacklog)
		}
		l.partial = append(l.partial, payload...)
		payload = l.partial
	}
	if t.More {
		return nil
	}
	l.deliveries++
	if l.granted > 0 {
		l.granted--
	}
	var state any = amqp.Accepted{}
	if refusal := l.accept(payload); refusal != nil {
		state = amqp.Rejected{Error: refusal}
	}
	l.forgetPart()
	if !l.first.Settled && l.first.DeliveryID != nil {
		s.conn.put(s.channel, &amqp.Disposition{Role: amqp.RoleReceiver, First: *l.first.DeliveryID, Settled: true, State: state})
	}
	l.topUp()
	return nil
}

// forgetPart drops what has come of a message; large messages are too rare to keep their memory.
func (l *link) forgetPart() {
	l.session.conn.parts -= len(l.partial)
	l.partial = nil
}

// batchFormat marks a message whose data sections are each a whole message.
const batchFormat = 0x80013700

// accept takes a whole message: a request, a message for the queue, or a batch of such.
func (l *link) accept(encoded []byte) *amqp.Error {
	if l.answer != nil {
		return l.serveRequest(encoded)
	}
	if len(encoded) > l.session.conn.b.maxMessage {
		return &amqp.Error{Condition: "amqp:link:message-size-exceeded", Description: "The message is larger than the link's max-message-size."}
	}
	now := time.Now()
	var messages []*message
	add := func(one []byte) error {
		if len(messages) == maxBatch {
			return fmt.Errorf("a batch of more than %d messages", maxBatch)
		}
		m, err := parseMessage(one, now)
		messages = append(messages, m)
		return err
	}
	var err error
	if l.first.MessageFormat != nil && *l.first.MessageFormat == batchFormat {
		var envelope amqp.Sections
		if envelope, err = amqp.SplitOpaque(encoded); err == nil {
			err = amqp.DataSections(envelope.Body, add)
		}
	} else {
		err = add(encoded)
	}
	if err != nil {
		return &amqp.Error{Condition: "amqp:decode-error", Description: err.Error()}
	}
	_, err = l.queue.enqueue(messages)
	return asError(err)
}

func asError(err error) *amqp.Error {
	if err == nil {
		return nil
	}
	if e, ok := err.(*amqp.Error); ok { //nolint:errorlint // ours, never wrapped
		return e
	}
	return &amqp.Error{Condition: "amqp:internal-error", Description: err.Error()}
}

// dispose settles what the client says, and answers: the client waits for it.
func (s *session) dispose(d *amqp.Disposition) {
	if d.Role != amqp.RoleReceiver {
		return // our replies, which are settled anyway
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
	h, ok := s.unsettled[id]
	delete(s.unsettled, id)
	c.mu.Unlock()
	var err error = errLockLost
	if ok {
		err = h.link.queue.settle(h.token, settlementOf(d.State))
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

// settlementOf reads what a delivery state means to Service Bus.
func settlementOf(state any) settlement {
	switch state := state.(type) {
	case amqp.Accepted:
		return settlement{kind: Completed}
	case amqp.Rejected:
		s := settlement{kind: DeadLettered}
		if state.Error != nil {
			for _, p := range state.Error.Info {
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
		return s
	case amqp.Modified:
		// Go's client never sets delivery-failed: undeliverable-here alone tells abandoning from deferring.
		if state.UndeliverableHere {
			return settlement{kind: Deferred, modify: state.MessageAnnotations}
		}
		return settlement{kind: Abandoned, modify: state.MessageAnnotations}
	}
	return settlement{kind: Released}
}
