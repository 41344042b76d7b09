package replay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/servicebus"
	"golang.org/x/sync/errgroup"
)

const (
	// settleTimeout limits the settlement of one chunk.
	settleTimeout = 10 * time.Second
	// maxSettlements is the number of settlements in flight at once.
	maxSettlements = 32
	// receiveWait is how long one receive waits for messages. firstWait is how long it waits for
	// more after the first one.
	receiveWait = 2 * time.Second
	firstWait   = 200 * time.Millisecond
	// lookInterval is the minimum time between two peeks for messages that do not come.
	lookInterval = 5 * time.Second
	// defaultWait is the default of ReceiveOptions.Wait.
	defaultWait = 90 * time.Second
	// maxLocked limits how many messages are kept locked to get behind them. Each takes about 100
	// bytes.
	maxLocked = 500_000
)

// ReceiveOptions control how dead letters are received.
type ReceiveOptions struct {
	// Wait is how long to wait for messages that another receiver has locked: a run that was
	// killed, for example. The default is 90 s.
	Wait time.Duration
	// Waiting, if not nil, is called now and then with the number of messages that the run waits
	// for.
	Waiting func(n int)
}

// errTooManyLocked means that the wanted messages are behind too many others.
var errTooManyLocked = fmt.Errorf("the wanted dead letters are behind more than %d others, all of which would have to be locked: "+
	"purge or replay those first", maxLocked)

// receiver receives wanted dead letters, one chunk after the other.
//
// Service Bus delivers messages in order, and nobody can pick one. So the receiver receives the
// others too. It keeps them locked until the end, because Service Bus would deliver the same ones
// again otherwise. Then it unlocks them, unchanged except for their delivery count.
type receiver struct {
	ReceiveOptions
	queue    *Queue
	receiver Receiver
	owed     int // messages that were requested and have not come
	filter   Filter
	chunk    int
	// wanted has the sequence numbers of the messages that are not settled yet.
	wanted map[int64]struct{}
	// locked has the lock token of each message to unlock at the end, by sequence number.
	locked map[int64][16]byte
}

// run receives until nothing is wanted any more, nothing has come for Wait, or ctx ends. It passes
// each chunk of wanted messages to work, which returns the sequence numbers of those that it has
// settled. gone has the sequence numbers of wanted messages that are not in the queue any more.
func (r *receiver) run(
	ctx context.Context, work func([]*azservicebus.ReceivedMessage) (settled []int64, err error),
) (gone []int64, err error) {
	r.locked = map[int64][16]byte{}
	if r.receiver, err = r.queue.Open(); err != nil {
		return nil, err
	}
	defer r.unlockAll(ctx)
	if r.Wait == 0 {
		r.Wait = defaultWait
	}
	progress, looked := time.Now(), time.Time{}
	for len(r.wanted) > 0 && ctx.Err() == nil {
		messages, err := r.receive(ctx, r.chunk, receiveWait)
		if err != nil {
			return gone, err
		}
		before := len(r.locked)
		picked := r.pick(ctx, messages)
		if len(r.locked) > maxLocked {
			return gone, errTooManyLocked
		}
		if len(picked) > 0 || len(r.locked) > before { // the same others come again when their locks expire
			progress = time.Now()
		}
		if len(picked) > 0 {
			if err := r.handle(picked, work); err != nil {
				return gone, err
			}
			continue
		}
		if len(messages) > 0 || time.Since(looked) < lookInterval {
			if time.Since(progress) > r.Wait {
				return gone, nil
			}
			continue
		}
		missing, err := r.lookForWanted(ctx)
		if err != nil {
			return gone, err
		}
		gone = append(gone, missing...)
		if looked = time.Now(); len(r.wanted) > 0 && r.Waiting != nil {
			r.Waiting(len(r.wanted))
		}
	}
	return gone, nil
}

// handle passes a chunk to work and notes what is still locked.
func (r *receiver) handle(
	picked []*azservicebus.ReceivedMessage, work func([]*azservicebus.ReceivedMessage) (settled []int64, err error),
) error {
	settled, err := work(picked)
	for _, m := range picked {
		r.locked[*m.SequenceNumber] = m.LockToken
	}
	for _, sequence := range settled {
		delete(r.wanted, sequence)
		delete(r.locked, sequence)
	}
	return err
}

// receive waits for messages. It returns no messages and no error if none came.
func (r *receiver) receive(ctx context.Context, n int, wait time.Duration) ([]*azservicebus.ReceivedMessage, error) {
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	messages, err := servicebus.Guard(func() ([]*azservicebus.ReceivedMessage, error) {
		return r.receiver.ReceiveMessages(waiting, n, &azservicebus.ReceiveMessagesOptions{TimeAfterFirstMessage: firstWait})
	})
	if errors.Is(err, servicebus.ErrUnreadable) {
		return nil, fmt.Errorf("receive the dead letters of %s: %w", r.queue.Entity, errUnreadable)
	}
	r.owed = n - len(messages)
	if err != nil && waiting.Err() == nil {
		return nil, fmt.Errorf("receive the dead letters of %s: %w", r.queue.Entity, err)
	}
	return messages, nil
}

// pick returns the wanted messages and notes the locks of the others. Once ctx has ended, it picks
// none.
func (r *receiver) pick(ctx context.Context, messages []*azservicebus.ReceivedMessage) (picked []*azservicebus.ReceivedMessage) {
	for _, m := range messages {
		if m.SequenceNumber == nil {
			continue
		}
		// The filter decides again, because a queue that was deleted and created again counts from
		// the beginning.
		if _, wanted := r.wanted[*m.SequenceNumber]; wanted && ctx.Err() == nil && r.filter.Match(r.queue.newLetter(m)) {
			picked = append(picked, m)
			continue
		}
		r.locked[*m.SequenceNumber] = m.LockToken
	}
	return picked
}

// lookForWanted forgets the wanted messages that are gone, and returns their sequence numbers.
func (r *receiver) lookForWanted(ctx context.Context) (gone []int64, err error) {
	there := make(map[int64]struct{}, len(r.wanted))
	for found, err := range r.queue.Find(ctx, Filter{}) {
		if err != nil {
			return nil, err
		}
		there[found.SequenceNumber] = struct{}{}
	}
	for sequence := range r.wanted {
		if _, ok := there[sequence]; !ok {
			delete(r.wanted, sequence)
			gone = append(gone, sequence)
		}
	}
	return gone, nil
}

// unlockAll unlocks the messages that are still locked. The lock of a message that cannot be
// unlocked in time expires.
//
// Messages that were requested may still come and would stay locked, and unlocked messages would
// come right back. So unlockAll first receives all that was requested, and closes the link.
func (r *receiver) unlockAll(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	for r.owed > 0 {
		messages, err := r.receive(ctx, r.owed, firstWait)
		if err != nil || len(messages) == 0 {
			break
		}
		for _, m := range messages {
			r.locked[*m.SequenceNumber] = m.LockToken
		}
	}
	_ = r.receiver.Close(ctx)
	var group errgroup.Group
	group.SetLimit(maxSettlements)
	for _, token := range r.locked {
		group.Go(func() error {
			_ = r.queue.Receiver.AbandonMessage(ctx, &azservicebus.ReceivedMessage{LockToken: token}, nil)
			return nil
		})
	}
	_ = group.Wait()
}

// complete settles messages concurrently and returns the sequence numbers of those that are
// settled. A lost lock is not an error. Any other error means a broken connection, or worse.
func (r *receiver) complete(ctx context.Context, messages []*azservicebus.ReceivedMessage) (settled []int64, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	ok := make([]bool, len(messages))
	var group errgroup.Group
	group.SetLimit(maxSettlements)
	for i, m := range messages {
		group.Go(func() error {
			err := r.receiver.CompleteMessage(ctx, m, nil)
			ok[i] = err == nil
			var answer *azservicebus.Error
			if errors.As(err, &answer) && answer.Code == azservicebus.CodeLockLost {
				return nil // the message comes again
			}
			return err
		})
	}
	err = group.Wait()
	for i, m := range messages {
		if ok[i] {
			settled = append(settled, *m.SequenceNumber)
		}
	}
	if err != nil {
		err = fmt.Errorf("complete dead letters of %s: %w", r.queue.Entity, err)
	}
	return settled, err
}
