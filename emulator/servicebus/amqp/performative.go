package amqp

// Performative is the body of a frame. It is a pointer to Open, Begin, Attach, Flow, Transfer,
// Disposition, Detach, End, Close, SASLMechanisms, SASLInit or SASLOutcome.
type Performative interface{ performative() }

// Role is the role of a link endpoint (AMQP 1.0 §2.8.1). In the encoding, true is the receiver.
type Role bool

// The roles.
const (
	RoleSender   Role = false
	RoleReceiver Role = true
)

// Settle modes (AMQP 1.0 §2.8.2 and §2.8.3).
const (
	SenderUnsettled uint8 = 0
	SenderSettled   uint8 = 1
	SenderMixed     uint8 = 2
	ReceiverFirst   uint8 = 0
	ReceiverSecond  uint8 = 1
)

// In all of the following types, a nil pointer, slice or Map and an empty string mean an absent
// field. 0 and false do too if they are the specification's default or if the comment says so. In a
// performative that was read, []byte values inside maps and lists alias the frame.

// Open opens a connection (AMQP 1.0 §2.7.1). ContainerID must not be null, so it is written even if
// it is empty. The locales are not supported: reading skips them.
type Open struct {
	ContainerID, Hostname                    string
	MaxFrameSize                             uint32 // in bytes; 0 is absent, which means no bound
	ChannelMax                               uint16 // always written; reads as 0 if absent, which means 65535
	IdleTimeout                              uint32 // in milliseconds; 0 is absent
	OfferedCapabilities, DesiredCapabilities []Symbol
	Properties                               Map
}

// Begin begins a session (§2.7.2). HandleMax is always written. It reads as 0 if it is absent,
// which means 2^32-1.
type Begin struct {
	RemoteChannel                                             *uint16
	NextOutgoingID, IncomingWindow, OutgoingWindow, HandleMax uint32
	OfferedCapabilities, DesiredCapabilities                  []Symbol
	Properties                                                Map
}

// Attach attaches a link (§2.7.3).
type Attach struct {
	Name                                     string // written even if it is empty
	Handle                                   uint32
	Role                                     Role
	SenderSettleMode                         *uint8
	ReceiverSettleMode                       *uint8
	Source                                   *Source
	Target                                   *Target
	Unsettled                                Map // from delivery tags to states
	IncompleteUnsettled                      bool
	InitialDeliveryCount                     *uint32
	MaxMessageSize                           uint64 // in bytes; 0 is absent, which means no bound
	OfferedCapabilities, DesiredCapabilities []Symbol
	Properties                               Map
}

// Flow updates the windows of a session and the credit of a link (§2.7.4).
type Flow struct {
	NextIncomingID                                 *uint32
	IncomingWindow, NextOutgoingID, OutgoingWindow uint32
	Handle, DeliveryCount, LinkCredit, Available   *uint32
	Drain, Echo                                    bool
	Properties                                     Map
}

// Transfer carries a message or a part of one, which is the payload of the frame (§2.7.5).
type Transfer struct {
	Handle             uint32
	DeliveryID         *uint32
	DeliveryTag        []byte // aliases the frame when read
	MessageFormat      *uint32
	Settled, More      bool
	ReceiverSettleMode *uint8
	State              DeliveryState
	Resume, Aborted    bool
	Batchable          bool
}

// Disposition updates the state of the deliveries First to Last (§2.7.6). If Last is nil, it is
// about First only.
type Disposition struct {
	Role      Role
	First     uint32
	Last      *uint32
	Settled   bool
	State     DeliveryState
	Batchable bool
}

// Detach detaches a link (§2.7.7).
type Detach struct {
	Handle uint32
	Closed bool
	Error  *Error
}

// End ends a session (§2.7.8).
type End struct{ Error *Error }

// Close ends a connection (§2.7.9).
type Close struct{ Error *Error }

// SASLMechanisms lists the mechanisms of the server (§5.3.3.1).
type SASLMechanisms struct{ Mechanisms []Symbol }

// SASLInit is the client's choice of a mechanism (§5.3.3.2). Response may be a secret.
type SASLInit struct {
	Mechanism Symbol
	Response  []byte // aliases the frame when read
	Hostname  string
}

// SASLOutcome ends the negotiation (§5.3.3.6). Code 0 means success.
type SASLOutcome struct {
	Code           uint8
	AdditionalData []byte // aliases the frame when read
}

func (*Open) performative()           {}
func (*Begin) performative()          {}
func (*Attach) performative()         {}
func (*Flow) performative()           {}
func (*Transfer) performative()       {}
func (*Disposition) performative()    {}
func (*Detach) performative()         {}
func (*End) performative()            {}
func (*Close) performative()          {}
func (*SASLMechanisms) performative() {}
func (*SASLInit) performative()       {}
func (*SASLOutcome) performative()    {}

// DeliveryState is nil, or an Accepted, Rejected, Released, Modified or OtherState, which are not
// pointers (AMQP 1.0 §3.4).
type DeliveryState any

type (
	// Accepted is the outcome of a delivery that was processed.
	Accepted struct{}
	// Rejected is the outcome of a delivery that is invalid. Error may be nil.
	Rejected struct{ Error *Error }
	// Released is the outcome of a delivery that was not processed and will not be.
	Released struct{}
	// Modified is Released with changes to the message.
	Modified struct {
		DeliveryFailed, UndeliverableHere bool
		MessageAnnotations                Map
	}
	// OtherState is the state received, which is not an outcome: it reports how much of a message
	// has arrived. It can only be read. The states of transactions are not supported, and reading
	// them fails.
	OtherState struct{ Code uint64 }
)

// Error is an AMQP error (AMQP 1.0 §2.8.14). Condition is written even if it is empty.
type Error struct {
	Condition   Symbol
	Description string
	Info        Map
}

func (e *Error) Error() string {
	if e.Description == "" {
		return string(e.Condition)
	}
	return string(e.Condition) + ": " + e.Description
}

// Source is where a link's messages come from (AMQP 1.0 §3.5.3). A Source that is read and written
// again stays the same. In particular, Filter keeps described values described, because clients
// compare them.
type Source struct {
	Address               string
	Durable               uint32
	ExpiryPolicy          Symbol
	Timeout               uint32 // in seconds
	Dynamic               bool
	DynamicNodeProperties Map
	DistributionMode      Symbol
	Filter                Map
	DefaultOutcome        DeliveryState
	Outcomes              []Symbol
	Capabilities          []Symbol
}

// Target is where a link's messages go (AMQP 1.0 §3.5.4). If Coordinator is true, it is the
// coordinator of transactions (§4.5.1), which has Capabilities only.
type Target struct {
	Address               string
	Durable               uint32
	ExpiryPolicy          Symbol
	Timeout               uint32 // in seconds
	Dynamic               bool
	DynamicNodeProperties Map
	Capabilities          []Symbol
	Coordinator           bool
}
