package simulation

import (
	"context"
	"errors"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
)

// Variant is a worker that is broken on purpose, to prove that the checker can fail. The broken
// part is around the worker's code, not in it.
type Variant struct {
	Name     string
	Receiver func(consumer.Receiver) consumer.Receiver
	Revoker  func(consumer.Revoker) consumer.Revoker
	// NoMargin leaves out the margin for different clocks. Unguarded leaves out the list of
	// protected people.
	NoMargin, Unguarded bool
	// Calm means that the defect shows without other faults.
	Calm bool
}

// Variants returns all of them.
func Variants() []Variant {
	return []Variant{
		{Name: "settles before it revokes", Receiver: func(r consumer.Receiver) consumer.Receiver { return &settlesFirst{r} }},
		{Name: "lets the oldest message supersede all others", Receiver: func(r consumer.Receiver) consumer.Receiver {
			tomorrow := time.Now().Add(24 * time.Hour)
			return &relabeled{Receiver: r, label: func(m *azservicebus.ReceivedMessage) {
				*m.EnqueuedTime = tomorrow.Add(tomorrow.Sub(*m.EnqueuedTime))
				m.ExpiresAt = nil // a message that expires earlier supersedes nobody
			}}
		}},
		{Name: "mistakes a redelivery for an older duplicate", Receiver: func(r consumer.Receiver) consumer.Receiver {
			return &dismissive{Receiver: r, seen: map[int64]bool{}}
		}},
		{Name: "completes messages that came during a call with it", Receiver: func(r consumer.Receiver) consumer.Receiver {
			return &relabeled{Receiver: r, label: func(m *azservicebus.ReceivedMessage) {
				*m.EnqueuedTime = m.EnqueuedTime.Add(-20 * time.Second)
			}}
		}},
		{Name: "has no margin for different clocks", NoMargin: true},
		{Name: "mistakes value: false for success", Revoker: forgiving(revoker.NotRevoked)},
		{Name: "mistakes a lost answer for success", Revoker: forgiving(revoker.Unreachable)},
		{Name: "mistakes a 5xx for success", Revoker: forgiving(revoker.Unavailable)},
		{Name: "mistakes a 404 for success", Revoker: forgiving(revoker.NotFound)},
		{Name: "has no circuit breaker", Revoker: func(r consumer.Revoker) consumer.Revoker { return &blaming{r} }},
		{Name: "does not wait for Retry-After", Revoker: func(r consumer.Revoker) consumer.Revoker { return &impatient{r} }},
		{Name: "calls late", Calm: true, Revoker: func(r consumer.Revoker) consumer.Revoker { return &slow{r} }},
		{Name: "has no list of protected users", Unguarded: true},
		{Name: "never dead-letters", Receiver: func(r consumer.Receiver) consumer.Receiver { return &lenient{r} }},
		{Name: "drops every hundredth message", Receiver: func(r consumer.Receiver) consumer.Receiver { return &careless{Receiver: r} }},
	}
}

// settlesFirst completes each message on receipt.
type settlesFirst struct{ consumer.Receiver }

func (r *settlesFirst) ReceiveMessages(
	ctx context.Context, n int, o *azservicebus.ReceiveMessagesOptions,
) ([]*azservicebus.ReceivedMessage, error) {
	messages, err := r.Receiver.ReceiveMessages(ctx, n, o)
	for _, m := range messages {
		_ = r.Receiver.CompleteMessage(context.WithoutCancel(ctx), m, nil)
	}
	return messages, err
}

func (*settlesFirst) CompleteMessage(context.Context, *azservicebus.ReceivedMessage, *azservicebus.CompleteMessageOptions) error {
	return nil
}

func (*settlesFirst) DeadLetterMessage(context.Context, *azservicebus.ReceivedMessage, *azservicebus.DeadLetterOptions) error {
	return nil
}

// relabeled changes the properties of messages.
type relabeled struct {
	consumer.Receiver
	label func(*azservicebus.ReceivedMessage)
}

func (r *relabeled) ReceiveMessages(
	ctx context.Context, n int, o *azservicebus.ReceiveMessagesOptions,
) ([]*azservicebus.ReceivedMessage, error) {
	messages, err := r.Receiver.ReceiveMessages(ctx, n, o)
	for _, m := range messages {
		if m.EnqueuedTime != nil && m.SequenceNumber != nil {
			enqueued, number := *m.EnqueuedTime, *m.SequenceNumber
			m.EnqueuedTime, m.SequenceNumber = &enqueued, &number
			r.label(m)
		}
	}
	return messages, err
}

// forgiving mistakes a kind of failure for success.
func forgiving(kind revoker.Kind) func(consumer.Revoker) consumer.Revoker {
	return func(r consumer.Revoker) consumer.Revoker { return &forgiver{r, kind} }
}

type forgiver struct {
	consumer.Revoker
	kind revoker.Kind
}

func (r *forgiver) Revoke(ctx context.Context, user event.User) (revoker.Attempt, error) {
	attempt, err := r.Revoker.Revoke(ctx, user)
	var failure *revoker.Error
	if errors.As(err, &failure) && failure.Kind == r.kind {
		return attempt, nil
	}
	return attempt, err
}

// blaming blames every fault on the user.
type blaming struct{ consumer.Revoker }

func (r *blaming) Revoke(ctx context.Context, user event.User) (revoker.Attempt, error) {
	attempt, err := r.Revoker.Revoke(ctx, user)
	var failure *revoker.Error
	if errors.As(err, &failure) && (failure.Shared() || failure.Systemic()) {
		return attempt, errors.New("failed")
	}
	return attempt, err
}

// impatient takes a 429 for one user's failure.
type impatient struct{ consumer.Revoker }

func (r *impatient) Revoke(ctx context.Context, user event.User) (revoker.Attempt, error) {
	attempt, err := r.Revoker.Revoke(ctx, user)
	var failure *revoker.Error
	if errors.As(err, &failure) && failure.Kind == revoker.Throttled {
		attempt.Usage = 0
		return attempt, errors.New("failed")
	}
	return attempt, err
}

// slow waits before each call.
type slow struct{ consumer.Revoker }

func (r *slow) Revoke(ctx context.Context, user event.User) (revoker.Attempt, error) {
	_ = retry.Sleep(ctx, 15*time.Second)
	return r.Revoker.Revoke(ctx, user)
}

// lenient completes messages that should be dead-lettered.
type lenient struct{ consumer.Receiver }

func (r *lenient) DeadLetterMessage(ctx context.Context, m *azservicebus.ReceivedMessage, _ *azservicebus.DeadLetterOptions) error {
	return r.CompleteMessage(ctx, m, nil)
}

// careless completes every hundredth message without processing it.
type careless struct {
	consumer.Receiver
	count int
}

func (r *careless) ReceiveMessages(
	ctx context.Context, n int, o *azservicebus.ReceiveMessagesOptions,
) ([]*azservicebus.ReceivedMessage, error) {
	messages, err := r.Receiver.ReceiveMessages(ctx, n, o)
	var kept []*azservicebus.ReceivedMessage
	for _, m := range messages {
		if r.count++; r.count%100 == 0 {
			_ = r.CompleteMessage(context.WithoutCancel(ctx), m, nil)
			continue
		}
		kept = append(kept, m)
	}
	return kept, err
}

// dismissive completes a message that it has received before, as if the earlier copy superseded it.
type dismissive struct {
	consumer.Receiver
	seen map[int64]bool
}

func (r *dismissive) ReceiveMessages(
	ctx context.Context, n int, o *azservicebus.ReceiveMessagesOptions,
) ([]*azservicebus.ReceivedMessage, error) {
	messages, err := r.Receiver.ReceiveMessages(ctx, n, o)
	var kept []*azservicebus.ReceivedMessage
	for _, m := range messages {
		if r.seen[*m.SequenceNumber] {
			_ = r.CompleteMessage(context.WithoutCancel(ctx), m, nil)
			continue
		}
		r.seen[*m.SequenceNumber] = true
		kept = append(kept, m)
	}
	return kept, err
}
