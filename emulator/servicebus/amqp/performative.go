package amqp

import "fmt"

// Performative is a frame's body. The concrete types are pointers to the structs of this package.
type Performative interface {
	append(dst []byte) ([]byte, error)
}

// Descriptor codes.
const (
	descOpen        = 0x10
	descBegin       = 0x11
	descAttach      = 0x12
	descFlow        = 0x13
	descTransfer    = 0x14
	descDisposition = 0x15
	descDetach      = 0x16
	descEnd         = 0x17
	descClose       = 0x18
	descError       = 0x1d
	descReceived    = 0x23
	descAccepted    = 0x24
	descRejected    = 0x25
	descReleased    = 0x26
	descModified    = 0x27
	descSource      = 0x28
	descTarget      = 0x29
	descCoordinator = 0x30
	descMechanisms  = 0x40
	descInit        = 0x41
	descOutcome     = 0x44
)

// descriptors are the symbolic names that a peer may use instead of the codes.
var descriptors = map[Symbol]uint64{
	"amqp:open:list": descOpen, "amqp:begin:list": descBegin, "amqp:attach:list": descAttach, "amqp:flow:list": descFlow,
	"amqp:transfer:list": descTransfer, "amqp:disposition:list": descDisposition, "amqp:detach:list": descDetach,
	"amqp:end:list": descEnd, "amqp:close:list": descClose, "amqp:error:list": descError, "amqp:received:list": descReceived,
	"amqp:accepted:list": descAccepted, "amqp:rejected:list": descRejected, "amqp:released:list": descReleased,
	"amqp:modified:list": descModified, "amqp:source:list": descSource, "amqp:target:list": descTarget,
	"amqp:coordinator:list": descCoordinator, "amqp:sasl-mechanisms:list": descMechanisms, "amqp:sasl-init:list": descInit,
	"amqp:sasl-outcome:list": descOutcome,
}

// Role is a link endpoint's (part 2, §2.8.1); on the wire true is the receiver.
type Role bool

// The roles.
const (
	RoleSender   Role = false
	RoleReceiver Role = true
)

// Settle modes (part 2, §2.8.2 and §2.8.3).
const (
	SenderUnsettled uint8 = 0
	SenderSettled   uint8 = 1
	SenderMixed     uint8 = 2
	ReceiverFirst   uint8 = 0
	ReceiverSecond  uint8 = 1
)

// The performatives and SASL bodies (part 2, §2.7, and part 5, §5.3.3). Pointers, empty strings and nil maps are absent
// fields; reading ignores fields that nobody here needs.
type (
	// Open begins a connection. A MaxFrameSize of 0 is absent; IdleTimeout is in milliseconds.
	Open struct {
		ContainerID, Hostname     string
		MaxFrameSize, IdleTimeout uint32
		ChannelMax                uint16
		Properties                Map
	}
	// Begin begins a session.
	Begin struct {
		RemoteChannel                                             *uint16
		NextOutgoingID, IncomingWindow, OutgoingWindow, HandleMax uint32
	}
	// Attach begins a link.
	Attach struct {
		Name                 string
		Handle               uint32
		Role                 Role
		SenderSettleMode     *uint8
		ReceiverSettleMode   *uint8
		Source               *Source
		Target               *Target
		InitialDeliveryCount *uint32
		MaxMessageSize       uint64
		Properties           Map
	}
	// Flow tells windows, and with a Handle a link's credit.
	Flow struct {
		NextIncomingID                                 *uint32
		IncomingWindow, NextOutgoingID, OutgoingWindow uint32
		Handle, DeliveryCount, LinkCredit, Available   *uint32
		Drain, Echo                                    bool
	}
	// Transfer carries a message or a part of one. DeliveryTag aliases the frame when it is read.
	Transfer struct {
		Handle        uint32
		DeliveryID    *uint32
		DeliveryTag   []byte
		MessageFormat *uint32
		Settled       bool
		More          bool
		Aborted       bool
	}
	// Disposition tells the state of deliveries; State is one of the delivery states below, or nil.
	Disposition struct {
		Role    Role
		First   uint32
		Last    *uint32
		Settled bool
		State   any
	}
	// Detach ends a link.
	Detach struct {
		Handle uint32
		Closed bool
		Error  *Error
	}
	// End ends a session.
	End struct{ Error *Error }
	// Close ends a connection.
	Close struct{ Error *Error }
	// SASLMechanisms offers mechanisms.
	SASLMechanisms struct{ Mechanisms []Symbol }
	// SASLInit chooses one.
	SASLInit struct {
		Mechanism Symbol
		Response  []byte
	}
	// SASLOutcome is the result; 0 is success.
	SASLOutcome struct{ Code uint8 }
)

// The delivery states (part 3, §3.4).
type (
	// Accepted is success.
	Accepted struct{}
	// Released gives the message back untouched.
	Released struct{}
	// Rejected refuses it.
	Rejected struct{ Error *Error }
	// Modified gives it back changed.
	Modified struct {
		DeliveryFailed, UndeliverableHere bool
		MessageAnnotations                Map
	}
	// OtherState is any other, such as received or those of transactions.
	OtherState struct{ Code uint64 }
)

// Error is an AMQP error (part 2, §2.8.14).
type Error struct {
	Condition   Symbol
	Description string
	Info        Map
}

func (e *Error) Error() string { return string(e.Condition) + ": " + e.Description }

// Source is where a link's messages come from (part 3, §3.5.3). Filter keeps each value as it was sent, described or plain.
type Source struct {
	Address string
	Filter  Map
}

// Target is where a link's messages go (part 3, §3.5.4). Coordinator marks that of a transaction.
type Target struct {
	Address     string
	Coordinator bool
}

func (p *Open) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descOpen)
	w.any(p.ContainerID) // must not be null
	w.text(p.Hostname)
	w.uint(p.MaxFrameSize)
	w.any(p.ChannelMax)
	w.uint(p.IdleTimeout)
	w.null()
	w.null()
	w.null()
	w.null()
	w.mapping(p.Properties)
	return w.done()
}

func (p *Begin) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descBegin)
	if p.RemoteChannel == nil {
		w.null()
	} else {
		w.any(*p.RemoteChannel)
	}
	w.uint(p.NextOutgoingID)
	w.uint(p.IncomingWindow)
	w.uint(p.OutgoingWindow)
	w.uint(p.HandleMax)
	return w.done()
}

func (p *Attach) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descAttach)
	w.any(p.Name)
	w.uint(p.Handle)
	w.bool(bool(p.Role))
	w.optUbyte(p.SenderSettleMode)
	w.optUbyte(p.ReceiverSettleMode)
	if p.Source == nil {
		w.null()
	} else {
		w.nested(p.Source)
	}
	if p.Target == nil {
		w.null()
	} else {
		w.nested(p.Target)
	}
	w.null()
	w.null()
	w.optUint(p.InitialDeliveryCount)
	if p.MaxMessageSize == 0 {
		w.null()
	} else {
		w.ulong(p.MaxMessageSize)
	}
	w.null()
	w.null()
	w.mapping(p.Properties)
	return w.done()
}

func (p *Source) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descSource)
	w.text(p.Address)
	for range 6 { // durable, expiry-policy, timeout, dynamic, dynamic-node-properties, distribution-mode
		w.null()
	}
	w.mapping(p.Filter)
	return w.done()
}

func (p *Target) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descTarget)
	w.text(p.Address)
	return w.done()
}

func (p *Flow) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descFlow)
	w.optUint(p.NextIncomingID)
	w.uint(p.IncomingWindow)
	w.uint(p.NextOutgoingID)
	w.uint(p.OutgoingWindow)
	w.optUint(p.Handle)
	w.optUint(p.DeliveryCount)
	w.optUint(p.LinkCredit)
	w.optUint(p.Available)
	w.bool(p.Drain)
	w.bool(p.Echo)
	return w.done()
}

func (p *Transfer) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descTransfer)
	w.uint(p.Handle)
	w.optUint(p.DeliveryID)
	w.binary(p.DeliveryTag)
	w.optUint(p.MessageFormat)
	w.bool(p.Settled)
	w.bool(p.More)
	return w.done()
}

func (p *Disposition) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descDisposition)
	w.bool(bool(p.Role))
	w.uint(p.First)
	w.optUint(p.Last)
	w.bool(p.Settled)
	switch s := p.State.(type) {
	case nil:
		w.null()
	case interface{ append([]byte) ([]byte, error) }:
		w.nested(s)
	default:
		return dst, fmt.Errorf("amqp: %T is not a delivery state", s)
	}
	return w.done()
}

func (Accepted) append(dst []byte) ([]byte, error) {
	return append(dst, codeDescribed, codeSmallUlong, descAccepted, codeList0), nil
}

func (Released) append(dst []byte) ([]byte, error) {
	return append(dst, codeDescribed, codeSmallUlong, descReleased, codeList0), nil
}

func (s Rejected) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descRejected)
	w.optError(s.Error)
	return w.done()
}

func (s Modified) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descModified)
	w.bool(s.DeliveryFailed)
	w.bool(s.UndeliverableHere)
	w.mapping(s.MessageAnnotations)
	return w.done()
}

func (e *Error) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descError)
	w.any(e.Condition)
	w.text(e.Description)
	w.mapping(e.Info)
	return w.done()
}

func (w *writer) optError(e *Error) {
	if e == nil {
		w.null()
		return
	}
	w.nested(e)
}

func (p *Detach) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descDetach)
	w.uint(p.Handle)
	w.bool(p.Closed)
	w.optError(p.Error)
	return w.done()
}

func (p *End) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descEnd)
	w.optError(p.Error)
	return w.done()
}

func (p *Close) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descClose)
	w.optError(p.Error)
	return w.done()
}

func (p *SASLMechanisms) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descMechanisms)
	w.symbols(p.Mechanisms)
	return w.done()
}

func (p *SASLInit) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descInit)
	w.symbol(p.Mechanism)
	w.binary(p.Response)
	return w.done()
}

func (p *SASLOutcome) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descOutcome)
	w.ubyte(p.Code)
	return w.done()
}

// ReadPerformative reads a frame's body; payload is what follows the performative. The error names the performative's
// code and the field.
func ReadPerformative(body []byte) (p Performative, payload []byte, err error) {
	code, r, payload, err := readComposite(body)
	if err != nil {
		return nil, nil, err
	}
	switch code {
	case descOpen:
		o := &Open{ContainerID: r.text(), Hostname: r.text()}
		o.MaxFrameSize, _ = r.uint()
		o.ChannelMax, _ = typed[uint16](r)
		o.IdleTimeout, _ = r.uint()
		p = o
	case descBegin:
		b := &Begin{}
		if channel, ok := typed[uint16](r); ok {
			b.RemoteChannel = &channel
		}
		b.NextOutgoingID, _ = r.uint()
		b.IncomingWindow, _ = r.uint()
		b.OutgoingWindow, _ = r.uint()
		b.HandleMax, _ = r.uint()
		p = b
	case descAttach:
		p = readAttach(r)
	case descFlow:
		f := &Flow{NextIncomingID: r.optUint()}
		f.IncomingWindow, _ = r.uint()
		f.NextOutgoingID, _ = r.uint()
		f.OutgoingWindow, _ = r.uint()
		f.Handle, f.DeliveryCount, f.LinkCredit, f.Available = r.optUint(), r.optUint(), r.optUint(), r.optUint()
		f.Drain, f.Echo = r.bool(), r.bool()
		p = f
	case descTransfer:
		t := &Transfer{}
		t.Handle, _ = r.uint()
		t.DeliveryID, t.DeliveryTag, t.MessageFormat = r.optUint(), r.binary(), r.optUint()
		t.Settled, t.More = r.bool(), r.bool()
		r.raw() // rcv-settle-mode
		r.raw() // state
		r.raw() // resume
		t.Aborted = r.bool()
		p = t
	case descDisposition:
		d := &Disposition{Role: Role(r.bool())}
		d.First, _ = r.uint()
		d.Last = r.optUint()
		d.Settled = r.bool()
		d.State = readState(r)
		p = d
	case descDetach:
		d := &Detach{}
		d.Handle, _ = r.uint()
		d.Closed, d.Error = r.bool(), readError(r)
		p = d
	case descEnd:
		p = &End{Error: readError(r)}
	case descClose:
		p = &Close{Error: readError(r)}
	case descMechanisms:
		p = &SASLMechanisms{Mechanisms: r.symbols()}
	case descInit:
		p = &SASLInit{Mechanism: r.symbol(), Response: r.binary()}
	case descOutcome:
		o := &SASLOutcome{}
		o.Code, _ = typed[uint8](r)
		p = o
	default:
		return nil, nil, fmt.Errorf("amqp: no performative has the code 0x%x", code)
	}
	return p, payload, r.err
}

func readAttach(r *reader) *Attach {
	a := &Attach{Name: r.text()}
	a.Handle, _ = r.uint()
	a.Role = Role(r.bool())
	a.SenderSettleMode, a.ReceiverSettleMode = r.optUbyte(), r.optUbyte()
	if _, f := r.nested(); f != nil {
		a.Source = &Source{Address: f.text()}
		for range 6 {
			f.raw()
		}
		a.Source.Filter = f.mapping()
		r.keep(f.err)
	}
	if code, f := r.nested(); f != nil {
		a.Target = &Target{Coordinator: code == descCoordinator}
		if !a.Target.Coordinator {
			a.Target.Address = f.text()
		}
		r.keep(f.err)
	}
	r.raw() // unsettled
	r.raw() // incomplete-unsettled
	a.InitialDeliveryCount = r.optUint()
	a.MaxMessageSize = r.ulong()
	r.raw() // offered-capabilities
	r.raw() // desired-capabilities
	a.Properties = r.mapping()
	return a
}

// nested reads a composite in a field; nil if there is none.
func (r *reader) nested() (uint64, *reader) {
	raw := r.raw()
	if raw == nil {
		return 0, nil
	}
	code, f, _, err := readComposite(raw)
	if err != nil {
		r.keep(err)
		return 0, nil
	}
	return code, f
}

func (r *reader) keep(err error) {
	if r.err == nil {
		r.err = err
	}
}

func readState(r *reader) any {
	raw := r.raw()
	if len(raw) == 4 && raw[1] == codeSmallUlong && raw[3] == codeList0 { // without a detour what is sent most
		switch raw[2] {
		case descAccepted:
			return Accepted{}
		case descReleased:
			return Released{}
		}
	}
	if raw == nil {
		return nil
	}
	code, f, _, err := readComposite(raw)
	if err != nil {
		r.keep(err)
		return nil
	}
	var state any
	switch code {
	case descAccepted:
		state = Accepted{}
	case descReleased:
		state = Released{}
	case descRejected:
		state = Rejected{Error: readError(f)}
	case descModified:
		state = Modified{DeliveryFailed: f.bool(), UndeliverableHere: f.bool(), MessageAnnotations: f.mapping()}
	default:
		state = OtherState{Code: code}
	}
	r.keep(f.err)
	return state
}

func readError(r *reader) *Error {
	_, f := r.nested()
	if f == nil {
		return nil
	}
	e := &Error{Condition: f.symbol(), Description: f.text(), Info: f.mapping()}
	r.keep(f.err)
	return e
}
