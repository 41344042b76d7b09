package amqp

// Performative is a frame's body: a pointer to one of this package's Open, Begin, Attach, Flow, Transfer, Disposition, Detach,
// End, Close, SASLMechanisms, SASLInit and SASLOutcome.
type Performative interface{ performative() }

// Role is a link endpoint's (AMQP 1.0 §2.8.1); on the wire true is the receiver.
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

// In all of the following, a nil pointer, slice or Map and an empty string are an absent field, and so are 0 and false where
// the specification's default is the same or the comment says so. What is read has maps and lists whose []byte values alias
// the frame.

// Open begins a connection (AMQP 1.0 §2.7.1). ContainerID is written even when it is empty: it must not be null. Reading skips
// the locales.
type Open struct {
	ContainerID, Hostname                    string
	MaxFrameSize                             uint32 // in bytes; 0 is absent, which means no bound
	ChannelMax                               uint16 // written as it is; an absent one, which means 65535, reads as 0
	IdleTimeout                              uint32 // in milliseconds; 0 is absent
	OfferedCapabilities, DesiredCapabilities []Symbol
	Properties                               Map
}

// Begin begins a session (§2.7.2). HandleMax is written as it is; an absent one, which means 2^32-1, reads as 0.
type Begin struct {
	RemoteChannel                                             *uint16
	NextOutgoingID, IncomingWindow, OutgoingWindow, HandleMax uint32
	OfferedCapabilities, DesiredCapabilities                  []Symbol
	Properties                                                Map
}

// Attach attaches a link (§2.7.3).
type Attach struct {
	Name                                     string // written even when it is empty
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

// Flow tells windows and credit (§2.7.4).
type Flow struct {
	NextIncomingID                                 *uint32
	IncomingWindow, NextOutgoingID, OutgoingWindow uint32
	Handle, DeliveryCount, LinkCredit, Available   *uint32
	Drain, Echo                                    bool
	Properties                                     Map
}

// Transfer carries a message or a part of one (§2.7.5), which stands behind it in the frame.
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

// Disposition tells the states of deliveries First to Last; to First alone when Last is nil (§2.7.6).
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

// SASLMechanisms is the server's offer (§5.3.3.1).
type SASLMechanisms struct{ Mechanisms []Symbol }

// SASLInit is the client's choice (§5.3.3.2). Response may be a secret.
type SASLInit struct {
	Mechanism Symbol
	Response  []byte // aliases the frame when read
	Hostname  string
}

// SASLOutcome ends the negotiation (§5.3.3.6). Code 0 is success.
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

// DeliveryState is nil or, as a value, one of Accepted, Rejected, Released, Modified and OtherState (AMQP 1.0 §3.4).
type DeliveryState any

type (
	// Accepted is the outcome of a delivery that was processed.
	Accepted struct{}
	// Rejected is the outcome of a delivery that is invalid. Error may be nil.
	Rejected struct{ Error *Error }
	// Released is the outcome of a delivery that was not and will not be processed.
	Released struct{}
	// Modified is Released with changes to the message.
	Modified struct {
		DeliveryFailed, UndeliverableHere bool
		MessageAnnotations                Map
	}
	// OtherState is read for received, which is no outcome: it says how much of a message has arrived. It cannot be written.
	// Reading a state of transactions fails, for they are not supported.
	OtherState struct{ Code uint64 }
)

// Error is an AMQP error (AMQP 1.0 §2.8.14). Condition is written even when it is empty.
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

// Source is where a link's messages come from (AMQP 1.0 §3.5.3). One that was read and is written again is the same: Filter
// keeps each value as it was sent, described or plain, which matters to clients.
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

// Target is where a link's messages go (AMQP 1.0 §3.5.4). Coordinator marks that of a transaction (§4.5.1), which has
// Capabilities alone.
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
