package amqp

import "fmt"

// appendPerformative calls the method of each type directly. A call through an interface would move
// every performative, and all that it points to, to the heap.
func appendPerformative(dst []byte, p Performative) ([]byte, error) {
	switch p := p.(type) {
	case *Open:
		return p.append(dst)
	case *Begin:
		return p.append(dst)
	case *Attach:
		return p.append(dst)
	case *Flow:
		return p.append(dst)
	case *Transfer:
		return p.append(dst)
	case *Disposition:
		return p.append(dst)
	case *Detach:
		return p.append(dst)
	case *End:
		return appendWithError(dst, descEnd, p.Error)
	case *Close:
		return appendWithError(dst, descClose, p.Error)
	case *SASLMechanisms:
		return p.append(dst)
	case *SASLInit:
		return p.append(dst)
	case *SASLOutcome:
		return p.append(dst)
	}
	return nil, fmt.Errorf("%s is not a performative", goType(p))
}

func (p *Open) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descOpen)
	w.string(p.ContainerID)
	w.text(p.Hostname)
	w.positive(p.MaxFrameSize)
	w.ushort(p.ChannelMax)
	w.positive(p.IdleTimeout)
	w.null() // outgoing-locales
	w.null() // incoming-locales
	w.symbols(p.OfferedCapabilities)
	w.symbols(p.DesiredCapabilities)
	w.mapping(p.Properties)
	return w.done()
}

func (p *Begin) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descBegin)
	w.optUshort(p.RemoteChannel)
	w.uint(p.NextOutgoingID)
	w.uint(p.IncomingWindow)
	w.uint(p.OutgoingWindow)
	w.uint(p.HandleMax)
	w.symbols(p.OfferedCapabilities)
	w.symbols(p.DesiredCapabilities)
	w.mapping(p.Properties)
	return w.done()
}

func (p *Attach) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descAttach)
	w.string(p.Name)
	w.uint(p.Handle)
	w.bool(bool(p.Role))
	w.optUbyte(p.SenderSettleMode)
	w.optUbyte(p.ReceiverSettleMode)
	if p.Source == nil {
		w.null()
	} else {
		w.nested(p.Source.append(w.dst))
	}
	if p.Target == nil {
		w.null()
	} else {
		w.nested(p.Target.append(w.dst))
	}
	w.mapping(p.Unsettled)
	w.optTrue(p.IncompleteUnsettled)
	w.optUint(p.InitialDeliveryCount)
	if p.MaxMessageSize == 0 {
		w.null()
	} else {
		w.ulong(p.MaxMessageSize)
	}
	w.symbols(p.OfferedCapabilities)
	w.symbols(p.DesiredCapabilities)
	w.mapping(p.Properties)
	return w.done()
}

func (p *Source) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descSource)
	w.text(p.Address)
	w.positive(p.Durable)
	w.name(p.ExpiryPolicy)
	w.positive(p.Timeout)
	w.optTrue(p.Dynamic)
	w.mapping(p.DynamicNodeProperties)
	w.name(p.DistributionMode)
	w.mapping(p.Filter)
	w.state(p.DefaultOutcome)
	w.symbols(p.Outcomes)
	w.symbols(p.Capabilities)
	return w.done()
}

func (p *Target) append(dst []byte) ([]byte, error) {
	if p.Coordinator {
		w := newWriter(dst, descCoordinator)
		w.symbols(p.Capabilities)
		return w.done()
	}
	w := newWriter(dst, descTarget)
	w.text(p.Address)
	w.positive(p.Durable)
	w.name(p.ExpiryPolicy)
	w.positive(p.Timeout)
	w.optTrue(p.Dynamic)
	w.mapping(p.DynamicNodeProperties)
	w.symbols(p.Capabilities)
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
	w.mapping(p.Properties)
	return w.done()
}

func (p *Transfer) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descTransfer)
	w.uint(p.Handle)
	w.optUint(p.DeliveryID)
	w.binary(p.DeliveryTag)
	w.optUint(p.MessageFormat)
	w.bool(p.Settled) // not optTrue: this field has no default
	w.optTrue(p.More)
	w.optUbyte(p.ReceiverSettleMode)
	w.state(p.State)
	w.optTrue(p.Resume)
	w.optTrue(p.Aborted)
	w.optTrue(p.Batchable)
	return w.done()
}

func (p *Disposition) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descDisposition)
	w.bool(bool(p.Role))
	w.uint(p.First)
	w.optUint(p.Last)
	w.bool(p.Settled)
	w.state(p.State)
	w.optTrue(p.Batchable)
	return w.done()
}

func (p *Detach) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descDetach)
	w.uint(p.Handle)
	w.bool(p.Closed)
	w.error(p.Error)
	return w.done()
}

func appendWithError(dst []byte, code byte, e *Error) ([]byte, error) {
	w := newWriter(dst, code)
	w.error(e)
	return w.done()
}

func (p *SASLMechanisms) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descMechanisms)
	mechanisms := p.Mechanisms
	if mechanisms == nil {
		mechanisms = []Symbol{} // must not be null
	}
	w.symbols(mechanisms)
	return w.done()
}

func (p *SASLInit) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descInit)
	w.symbol(p.Mechanism)
	w.binary(p.Response)
	w.text(p.Hostname)
	return w.done()
}

func (p *SASLOutcome) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descOutcome)
	w.ubyte(p.Code)
	w.binary(p.AdditionalData)
	return w.done()
}

func (w *writer) state(s DeliveryState) {
	switch s := s.(type) {
	case nil:
		w.null()
	case Accepted:
		w.field(append(w.dst, codeDescribed, codeSmallUlong, descAccepted, codeList0))
	case Released:
		w.field(append(w.dst, codeDescribed, codeSmallUlong, descReleased, codeList0))
	case Rejected:
		w.nested(appendWithError(w.dst, descRejected, s.Error))
	case Modified:
		w.nested(s.append(w.dst))
	default:
		w.nested(nil, fmt.Errorf("%s is not a delivery state that can be written", goType(s)))
	}
}

func (s *Modified) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descModified)
	w.bool(s.DeliveryFailed)
	w.bool(s.UndeliverableHere)
	w.mapping(s.MessageAnnotations)
	return w.done()
}

func (w *writer) error(e *Error) {
	if e == nil {
		w.null()
		return
	}
	w.nested(e.append(w.dst))
}

func (e *Error) append(dst []byte) ([]byte, error) {
	w := newWriter(dst, descError)
	w.symbol(e.Condition)
	w.text(e.Description)
	w.mapping(e.Info)
	return w.done()
}
