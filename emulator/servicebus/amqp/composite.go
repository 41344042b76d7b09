package amqp

import (
	"fmt"
	"strings"
)

// Descriptor codes of composite types.
const (
	descOpen          = 0x10
	descBegin         = 0x11
	descAttach        = 0x12
	descFlow          = 0x13
	descTransfer      = 0x14
	descDisposition   = 0x15
	descDetach        = 0x16
	descEnd           = 0x17
	descClose         = 0x18
	descError         = 0x1d
	descReceived      = 0x23
	descAccepted      = 0x24
	descRejected      = 0x25
	descReleased      = 0x26
	descModified      = 0x27
	descSource        = 0x28
	descTarget        = 0x29
	descCoordinator   = 0x30
	descDeclared      = 0x33
	descTransactional = 0x34
	descMechanisms    = 0x40
	descInit          = 0x41
	descOutcome       = 0x44
)

// composite is the definition of a type that is encoded as a described list (AMQP 1.0 §1.4).
type composite struct {
	code      byte
	name      string
	fields    []string
	mandatory uint32 // a bit for each field that must not be null
}

// composites are the definitions by code. symbolic are the codes by symbolic descriptor.
var composites, symbolic = define(
	// The fields are in order, and "!" marks mandatory ones. See AMQP 1.0 §2.7, §2.8.14, §3.2,
	// §3.4, §3.5, §4.5 and §5.3.3.
	def{descOpen, "open", "" +
		"container-id! hostname max-frame-size channel-max idle-time-out outgoing-locales incoming-locales " +
		"offered-capabilities desired-capabilities properties"},
	def{descBegin, "begin", "" +
		"remote-channel next-outgoing-id! incoming-window! outgoing-window! handle-max offered-capabilities " +
		"desired-capabilities properties"},
	def{descAttach, "attach", "" +
		"name! handle! role! snd-settle-mode rcv-settle-mode source target unsettled incomplete-unsettled " +
		"initial-delivery-count max-message-size offered-capabilities desired-capabilities properties"},
	def{descFlow, "flow", "" +
		"next-incoming-id incoming-window! next-outgoing-id! outgoing-window! handle delivery-count " +
		"link-credit available drain echo properties"},
	def{descTransfer, "transfer", "" +
		"handle! delivery-id delivery-tag message-format settled more rcv-settle-mode state resume aborted " +
		"batchable"},
	def{descDisposition, "disposition", "role! first! last settled state batchable"},
	def{descDetach, "detach", "handle! closed error"},
	def{descEnd, "end", "error"},
	def{descClose, "close", "error"},
	def{descError, "error", "condition! description info"},
	def{descReceived, "received", "section-number! section-offset!"},
	def{descAccepted, "accepted", ""},
	def{descRejected, "rejected", "error"},
	def{descReleased, "released", ""},
	def{descModified, "modified", "delivery-failed undeliverable-here message-annotations"},
	def{descSource, "source", "" +
		"address durable expiry-policy timeout dynamic dynamic-node-properties distribution-mode filter " +
		"default-outcome outcomes capabilities"},
	def{descTarget, "target", "address durable expiry-policy timeout dynamic dynamic-node-properties capabilities"},
	def{descCoordinator, "coordinator", "capabilities"},
	def{descDeclared, "declared", "txn-id!"},
	def{descTransactional, "transactional-state", "txn-id! outcome"},
	def{descMechanisms, "sasl-mechanisms", "sasl-server-mechanisms!"},
	def{descInit, "sasl-init", "mechanism! initial-response hostname"},
	def{descOutcome, "sasl-outcome", "code! additional-data"},
	def{SectionHeader, "header", "durable priority ttl first-acquirer delivery-count"},
	def{SectionProperties, "properties", "" +
		"message-id user-id to subject reply-to correlation-id content-type " +
		"content-encoding absolute-expiry-time creation-time group-id group-sequence reply-to-group-id"},
)

type def struct {
	code         byte
	name, fields string
}

func define(defs ...def) (byCode [256]*composite, byName map[Symbol]byte) {
	byName = map[Symbol]byte{}
	for _, d := range defs {
		c := &composite{code: d.code, name: d.name, fields: strings.Fields(d.fields)}
		for i, field := range c.fields {
			name, mandatory := strings.CutSuffix(field, "!")
			if c.fields[i] = name; mandatory {
				c.mandatory |= 1 << i
			}
		}
		byCode[d.code] = c
		byName[Symbol("amqp:"+d.name+":list")] = d.code
	}
	return byCode, byName
}

// readDescriptor reads the code of a descriptor, which is a ulong of either size or a symbol.
func readDescriptor(src []byte) (code uint64, rest []byte, err error) {
	if len(src) >= 3 && src[0] == codeDescribed && src[1] == codeSmallUlong { // the usual encoding
		return uint64(src[2]), src[3:], nil
	}
	if len(src) == 0 || src[0] != codeDescribed {
		return 0, nil, fmt.Errorf("it must begin with a descriptor")
	}
	raw, rest, err := cutDescriptor(src[1:])
	if err != nil {
		return 0, nil, err
	}
	descriptor, _, err := readValue(raw, 1)
	if err != nil {
		return 0, nil, err
	}
	switch d := descriptor.(type) {
	case uint64:
		return d, rest, nil
	case Symbol:
		if known, ok := symbolic[d]; ok {
			return uint64(known), rest, nil
		}
	}
	return 0, nil, fmt.Errorf("its descriptor is %s and is not known", typeName(raw[0]))
}

// readComposite reads a descriptor and the head of a list. rest is what follows the list.
func readComposite(src []byte) (r reader, rest []byte, err error) {
	code, src, err := readDescriptor(src)
	if err != nil {
		return r, nil, err
	}
	if code > 0xff || composites[code] == nil {
		return r, nil, fmt.Errorf("the descriptor 0x%02x is not known", code)
	}
	r.c = composites[code]
	if len(src) == 0 {
		return r, nil, r.fault(errShort)
	}
	format := src[0]
	b, rest, err := span(format, src[1:])
	if err != nil {
		return r, nil, r.fault(err)
	}
	switch format {
	case codeList0:
	case codeList8, codeList32:
		if r.left, r.b, err = count(format == codeList8, b); err != nil {
			return r, nil, r.fault(err)
		}
	default:
		return r, nil, r.fault(fmt.Errorf("it holds %s, must be a list", typeName(format)))
	}
	if r.left > len(r.c.fields) {
		return r, nil, r.fault(fmt.Errorf("it has %d fields, at most %d are defined", r.left, len(r.c.fields)))
	}
	return r, rest, nil
}

func (r *reader) fault(err error) error { return fmt.Errorf("%s 0x%02x: %w", r.c.name, r.c.code, err) }
