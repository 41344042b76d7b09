package amqp

import (
	"errors"
	"fmt"
)

// ReadPerformative reads the body of a frame. payload is what follows the performative. It has a
// meaning only after a transfer. []byte values alias body. The list may have any of its three
// encodings, the descriptor may be a ulong of either size or a symbol, and null fields at the end
// may be missing. The error names the performative, and the field that has the wrong type or is
// mandatory and missing. The states of transactions are not supported and are errors.
func ReadPerformative(body []byte) (p Performative, payload []byte, err error) {
	r, payload, err := readComposite(body)
	if err == nil {
		p = r.performative()
		if err = r.done(); p == nil {
			err = fmt.Errorf("%s 0x%02x is not a performative", r.c.name, r.c.code)
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("amqp: %w", err)
	}
	return p, payload, nil
}

// performative returns nil if the composite is not a performative.
func (r *reader) performative() Performative {
	switch r.c.code {
	case descTransfer:
		return r.transfer()
	case descDisposition:
		return r.disposition()
	case descFlow:
		return r.flow()
	case descOpen:
		p := &Open{ContainerID: r.text(), Hostname: r.text(), MaxFrameSize: r.uint()}
		if channelMax := r.optUshort(); channelMax != nil {
			p.ChannelMax = *channelMax
		}
		p.IdleTimeout = r.uint()
		r.skip(2) // outgoing-locales, incoming-locales
		p.OfferedCapabilities, p.DesiredCapabilities, p.Properties = r.symbols(), r.symbols(), r.mapping()
		return p
	case descBegin:
		return &Begin{
			RemoteChannel: r.optUshort(), NextOutgoingID: r.uint(), IncomingWindow: r.uint(), OutgoingWindow: r.uint(), HandleMax: r.uint(),
			OfferedCapabilities: r.symbols(), DesiredCapabilities: r.symbols(), Properties: r.mapping(),
		}
	case descAttach:
		return &Attach{
			Name: r.text(), Handle: r.uint(), Role: Role(r.bool()), SenderSettleMode: r.optUbyte(), ReceiverSettleMode: r.optUbyte(),
			Source: r.source(), Target: r.target(), Unsettled: r.mapping(), IncompleteUnsettled: r.bool(),
			InitialDeliveryCount: r.optUint(new(uint32)), MaxMessageSize: r.ulong(),
			OfferedCapabilities: r.symbols(), DesiredCapabilities: r.symbols(), Properties: r.mapping(),
		}
	case descDetach:
		return &Detach{Handle: r.uint(), Closed: r.bool(), Error: r.error()}
	case descEnd:
		return &End{Error: r.error()}
	case descClose:
		return &Close{Error: r.error()}
	case descMechanisms:
		return &SASLMechanisms{Mechanisms: r.symbols()}
	case descInit:
		return &SASLInit{Mechanism: r.symbol(), Response: r.binary(), Hostname: r.text()}
	case descOutcome:
		p := &SASLOutcome{}
		if code := r.optUbyte(); code != nil {
			p.Code = *code
		}
		p.AdditionalData = r.binary()
		return p
	}
	return nil
}

// transfer, flow and disposition allocate once: their pointers point into the same allocation.
func (r *reader) transfer() *Transfer {
	t := &struct {
		Transfer
		id, format uint32
	}{}
	t.Handle = r.uint()
	t.DeliveryID, t.DeliveryTag, t.MessageFormat = r.optUint(&t.id), r.binary(), r.optUint(&t.format)
	t.Settled, t.More = r.bool(), r.bool()
	t.ReceiverSettleMode, t.State = r.optUbyte(), r.state()
	t.Resume, t.Aborted, t.Batchable = r.bool(), r.bool(), r.bool()
	return &t.Transfer
}

func (r *reader) disposition() *Disposition {
	d := &struct {
		Disposition
		last uint32
	}{}
	d.Role, d.First, d.Last, d.Settled = Role(r.bool()), r.uint(), r.optUint(&d.last), r.bool()
	d.State, d.Batchable = r.state(), r.bool()
	return &d.Disposition
}

func (r *reader) flow() *Flow {
	f := &struct {
		Flow
		next, handle, count, credit, available uint32
	}{}
	f.NextIncomingID, f.IncomingWindow, f.NextOutgoingID, f.OutgoingWindow = r.optUint(&f.next), r.uint(), r.uint(), r.uint()
	f.Handle, f.DeliveryCount = r.optUint(&f.handle), r.optUint(&f.count)
	f.LinkCredit, f.Available = r.optUint(&f.credit), r.optUint(&f.available)
	f.Drain, f.Echo, f.Properties = r.bool(), r.bool(), r.mapping()
	return &f.Flow
}

func (r *reader) source() *Source {
	f, ok := r.nested(descSource, descSource)
	if !ok {
		return nil
	}
	s := &Source{
		Address: f.text(), Durable: f.uint(), ExpiryPolicy: f.symbol(), Timeout: f.uint(), Dynamic: f.bool(),
		DynamicNodeProperties: f.mapping(), DistributionMode: f.symbol(), Filter: f.mapping(), DefaultOutcome: f.state(),
		Outcomes: f.symbols(), Capabilities: f.symbols(),
	}
	r.keep(&f)
	return s
}

func (r *reader) target() *Target {
	f, ok := r.nested(descTarget, descCoordinator)
	if !ok {
		return nil
	}
	var t *Target
	if f.c.code == descCoordinator {
		t = &Target{Coordinator: true, Capabilities: f.symbols()}
	} else {
		t = &Target{
			Address: f.text(), Durable: f.uint(), ExpiryPolicy: f.symbol(), Timeout: f.uint(), Dynamic: f.bool(),
			DynamicNodeProperties: f.mapping(), Capabilities: f.symbols(),
		}
	}
	r.keep(&f)
	return t
}

var errTransaction = errors.New("transactions are not supported")

func (r *reader) state() DeliveryState {
	raw := r.raw()
	if raw == nil {
		return nil
	}
	if len(raw) == 4 && raw[1] == codeSmallUlong && raw[3] == codeList0 { // the fast path for the most frequent states
		switch raw[2] {
		case descAccepted:
			return Accepted{}
		case descReleased:
			return Released{}
		}
	}
	f, _, err := readComposite(raw)
	if err != nil {
		r.fail(err)
		return nil
	}
	var state DeliveryState
	switch f.c.code {
	case descAccepted:
		state = Accepted{}
	case descReleased:
		state = Released{}
	case descRejected:
		state = Rejected{Error: f.error()}
	case descModified:
		state = Modified{DeliveryFailed: f.bool(), UndeliverableHere: f.bool(), MessageAnnotations: f.mapping()}
	case descReceived:
		f.uint()
		f.ulong()
		state = OtherState{Code: descReceived}
	case descDeclared, descTransactional:
		r.fail(errTransaction)
		return nil
	default:
		r.fail(fmt.Errorf("is %s 0x%02x, must be a delivery state", f.c.name, f.c.code))
		return nil
	}
	r.keep(&f)
	return state
}

func (r *reader) error() *Error {
	f, ok := r.nested(descError, descError)
	if !ok {
		return nil
	}
	e := &Error{Condition: f.symbol(), Description: f.text(), Info: f.mapping()}
	r.keep(&f)
	return e
}
