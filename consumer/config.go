package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/coordination"
	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/dispatch"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
	"github.com/session-revoker/session-revoker/telemetry"
)

const (
	// MinInFlight is the least Config.MaxInFlight that a configuration should allow: fewer messages
	// cannot be shared among parked users, failing users and first attempts.
	MinInFlight = 8

	// maxCredits is the SDK's bound on how many messages a receiver may ask for.
	maxCredits = 5_000

	defaultLock = time.Minute
)

// Receiver is the part of *azservicebus.Receiver (peek-lock mode) that the Consumer uses.
// ReceiveMessages is called by one goroutine at a time; all other methods must be safe for
// concurrent use.
type Receiver interface {
	PeekMessages(ctx context.Context, maxMessageCount int,
		options *azservicebus.PeekMessagesOptions) ([]*azservicebus.ReceivedMessage, error)
	ReceiveMessages(ctx context.Context, maxMessages int,
		options *azservicebus.ReceiveMessagesOptions) ([]*azservicebus.ReceivedMessage, error)
	ReceiveDeferredMessages(ctx context.Context, sequenceNumbers []int64,
		options *azservicebus.ReceiveDeferredMessagesOptions) ([]*azservicebus.ReceivedMessage, error)
	CompleteMessage(ctx context.Context, message *azservicebus.ReceivedMessage,
		options *azservicebus.CompleteMessageOptions) error
	AbandonMessage(ctx context.Context, message *azservicebus.ReceivedMessage,
		options *azservicebus.AbandonMessageOptions) error
	DeferMessage(ctx context.Context, message *azservicebus.ReceivedMessage,
		options *azservicebus.DeferMessageOptions) error
	DeadLetterMessage(ctx context.Context, message *azservicebus.ReceivedMessage,
		options *azservicebus.DeadLetterOptions) error
	RenewMessageLock(ctx context.Context, message *azservicebus.ReceivedMessage,
		options *azservicebus.RenewMessageLockOptions) error
}

// Revoker makes attempts; *revoker.Revoker is one. It must be safe for concurrent use.
type Revoker interface {
	// Check returns nil if there is a token that may revoke sessions.
	Check(ctx context.Context) error
	// Revoke makes one attempt for one user. Its errors are *revoker.Error.
	Revoke(ctx context.Context, user event.User) (revoker.Attempt, error)
}

// Decoder decodes messages; *event.Decoder and *mapping.Decoder are such. It must be safe for
// concurrent use.
type Decoder interface {
	// Decode returns the events of a message in order, from 1 to event.MaxEvents, or an *event.Error
	// if it cannot decode the message as a whole.
	Decode(message event.Message) ([]event.Item, error)
}

// Scheduler sends messages that become active later; *azservicebus.Sender is one. It must be safe for
// concurrent use.
type Scheduler interface {
	ScheduleAMQPAnnotatedMessages(ctx context.Context, messages []*azservicebus.AMQPAnnotatedMessage, at time.Time,
		options *azservicebus.ScheduleAMQPAnnotatedMessagesOptions) ([]int64, error)
	CancelScheduledMessages(ctx context.Context, sequenceNumbers []int64, options *azservicebus.CancelScheduledMessagesOptions) error
}

// Auditor keeps the audit log. It must be safe for concurrent use.
type Auditor interface {
	// Record is called with each decision before its message is settled, by many goroutines. The
	// settlement waits for it.
	Record(decision audit.Decision)
}

// Resolver finds accounts; *revoker.Resolver is one. It must be safe for concurrent use.
type Resolver interface {
	// Resolve returns the account to which the user's name belonged at some time after enqueued,
	// which is when the event was enqueued. ok is false if no account is found before ctx ends.
	Resolve(ctx context.Context, user event.User, enqueued time.Time) (account event.User, ok bool)
}

// Config bounds a Consumer. New rejects values that are out of bounds. Volume, ReadRelease,
// CanaryUser, Lock, Horizon, MaxAge and HashUsers may be zero.
type Config struct {
	// Concurrency is how many attempts are in flight at once; at least 1.
	Concurrency int
	// MaxInFlight is how many messages of each source are in flight at once: from 1 to 5,000, the
	// SDK's bound on credits. A configuration should allow no fewer than MinInFlight.
	MaxInFlight int
	// Lock is the lock duration of the sources, as configured in Service Bus. Defaults to one
	// minute.
	Lock time.Duration
	// SettleTimeout bounds each settlement and each lock renewal; positive.
	SettleTimeout time.Duration
	// DrainTimeout is how long a Consumer that stops may take to finish the messages in flight;
	// positive.
	DrainTimeout time.Duration
	// Volume bounds how many people are signed out within the guard's window.
	Volume guard.VolumeConfig
	// ReadRelease returns an operator's release of the volume guard, or the zero Release if there
	// is none. If it is nil, only a restart releases the guard.
	ReadRelease func() (guard.Release, error)
	// Retry bounds what the failures of one user may cost.
	Retry retry.Policy
	// CanaryUser is an account kept for canaries. The zero User makes each canary an attempt for an
	// id that no user has.
	CanaryUser event.User
	// Dedupe bounds the ledger. New overwrites its shares (MaxParked and MaxFailing), which follow
	// from MaxInFlight.
	Dedupe dedupe.Config
	// Horizon is how far ahead a date may lie for which an event is scheduled. 0 schedules nothing.
	Horizon time.Duration
	// MaxAge is how long before it was enqueued an event may have happened. 0 is no bound.
	MaxAge time.Duration
	// HashUsers replaces users in the log by a short hash, and omits texts from outside that may
	// name them.
	HashUsers bool
}

// Dependencies are what a Consumer works with. KeysChanged, Canary, Auditor, Resolver, Known,
// Coordinator, NewLimiter and Tracer may be nil; New rejects a nil in any other field. An interface
// that holds a nil pointer is not nil: omit the field instead.
type Dependencies struct {
	// Sources are received from side by side. The attempts for messages of an earlier source go
	// before those for messages of a later one. There is at least one.
	Sources []Source
	Decoder Decoder
	// KeysChanged returns a channel that is closed when messages that the Decoder has refused with
	// event.NotYet may be decoded again. Without it, only time brings them back.
	KeysChanged func() <-chan struct{}
	Protected   *guard.Protected
	Revoker     Revoker
	// Canary makes an attempt for nobody, or for Config.CanaryUser. If it is nil, there are no
	// canaries.
	Canary  func(ctx context.Context, user event.User) (revoker.Attempt, error)
	Log     *zap.Logger
	Metrics *telemetry.Metrics
	Health  *telemetry.Health
	// Auditor records each decision. If it is nil, no audit log is kept.
	Auditor Auditor
	// Resolver finds the accounts of users that events give by name. If it is nil, the worker takes
	// a name and an id for two users.
	Resolver Resolver
	// Known remembers look-ups of users whom events give by a device or mail address; see
	// dispatch.Dependencies. It is nil if nobody is looked up.
	Known func(user event.User, enqueued time.Time) (account event.User, ok bool)
	// Coordinator is what workers for the same tenant share. If it is nil, this worker is the only
	// one.
	Coordinator dispatch.Coordinator
	// NewLimiter returns the rate limiter that these workers share, for at most limit attempts of
	// this one in flight. If it is nil, this worker has a limiter of its own.
	NewLimiter func(limit int) *coordination.Limiter
	// Tracer makes spans of messages and attempts. If it is nil, there are none.
	Tracer trace.Tracer
}

// Source is a queue or subscription: with Accept if it requires sessions, else with a Receiver.
type Source struct {
	// Entity is the path of the queue or subscription. It is part of a message's identity.
	Entity   string
	Receiver Receiver
	// Accept waits for the next session that is free and has messages, until ctx ends. It returns
	// an azservicebus.Error with CodeTimeout if there was none.
	Accept func(ctx context.Context) (Session, error)
	// Scheduler schedules messages in the same queue. It is nil where nothing can be scheduled:
	// Service Bus keeps scheduled messages of a subscription in the topic, where nobody can find
	// them, and those of an entity with sessions cannot be found, either.
	Scheduler Scheduler
	// Sessions is how many sessions are held at once. They share Config.MaxInFlight.
	Sessions int
}

// withDefaults returns the configuration with its defaults.
func (cfg Config) withDefaults() Config {
	if cfg.Lock == 0 {
		cfg.Lock = defaultLock
	}
	return cfg
}

// validate returns all problems of the configuration at once.
func (cfg Config) validate() error {
	var problems []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	check(cfg.Concurrency >= 1, "Concurrency is %d; it must be at least 1", cfg.Concurrency)
	check(cfg.MaxInFlight >= 1 && cfg.MaxInFlight <= maxCredits,
		"MaxInFlight is %d; it must be from 1 to %d", cfg.MaxInFlight, maxCredits)
	check(cfg.Lock > 0, "Lock is %s; it must be positive", cfg.Lock)
	check(cfg.SettleTimeout > 0, "SettleTimeout is %s; it must be positive", cfg.SettleTimeout)
	check(cfg.Horizon >= 0, "Horizon is %s; it must not be negative", cfg.Horizon)
	check(cfg.MaxAge >= 0, "MaxAge is %s; it must not be negative", cfg.MaxAge)
	check(cfg.DrainTimeout > 0, "DrainTimeout is %s; it must be positive", cfg.DrainTimeout)
	invalid := cfg.Retry.Validate()
	check(invalid == nil, "Retry is invalid: %v", invalid)
	return errors.Join(problems...)
}

// validate returns all problems of the dependencies at once.
func (deps Dependencies) validate() error {
	var problems []error
	require := func(ok bool, name string) {
		if !ok {
			problems = append(problems, fmt.Errorf("%s is required", name))
		}
	}
	require(len(deps.Sources) > 0, "a source")
	for i, s := range deps.Sources {
		require(s.Entity != "", fmt.Sprintf("Sources[%d].Entity", i))
		require((s.Receiver == nil) != (s.Accept == nil), fmt.Sprintf("one of Sources[%d].Receiver and Accept", i))
	}
	require(deps.Decoder != nil, "Decoder")
	require(deps.Protected != nil, "Protected")
	require(deps.Revoker != nil, "Revoker")
	require(deps.Log != nil, "Log")
	require(deps.Metrics != nil, "Metrics")
	require(deps.Health != nil, "Health")
	return errors.Join(problems...)
}
