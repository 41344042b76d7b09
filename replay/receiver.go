package replay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"golang.org/x/sync/errgroup"
)

const (
	// settleTimeout bounds one settlement.
	settleTimeout = 10 * time.Second
	// settleAtOnce is how many settlements are under way at once.
	settleAtOnce = 32
	// receiveWait is how long one receive waits for messages, firstWait how long after the first one for more.
	receiveWait = 2 * time.Second
	firstWait   = 200 * time.Millisecond
	// maxHeld bounds the messages that are held locked to get behind them: about 100 bytes each.
	maxHeld = 500_000
)

// ReceiveOptions says how dead letters are taken.
type ReceiveOptions struct {
	// Wait is how long messages are waited for that nobody can receive now, since another receiver holds them locked: a run
	// that was killed, for example. Defaults to 90 s.
	Wait time.Duration
	// Waiting is told, now and then, how many messages are being waited for.
	Waiting func(n int)
}

// errHeld: the wanted messages lie behind too many others.
var errHeld = fmt.Errorf("the wanted dead letters lie behind more than %d others, which would all have to be locked: purge or replay those first", maxHeld)

// receiver receives wanted dead letters one chunk after the other. Service Bus hands out messages in their order and nobody can
// pick one, so the others are received too; they are held locked until the end, or the same ones would come again, and
// then given back unchanged, but for their delivery count.
type receiver struct {
	ReceiveOptions
	queue    *Queue
	receiver Receiver
	asked    int // messages asked for that have not come
	filter   Filter
	chunk    int
	// wanted are the sequence numbers that are not settled yet.
	wanted map[int64]struct{}
	held   map[int64][16]byte // by sequence number: the lock tokens
}

// run receives until nothing is wanted any more, nothing can be had for Wait, or ctx ends. Each chunk of wanted messages is given to
// work, which returns those that it has settled. gone are messages that were wanted and are not in the queue any more.
func (t *receiver) run(ctx context.Context, work func([]*azservicebus.ReceivedMessage) (settled []int64, err error)) (gone []int64, err error) {
	t.held = map[int64][16]byte{}
	if t.receiver, err = t.queue.Open(); err != nil {
		return nil, err
	}
	defer t.giveBack(ctx)
	if t.Wait == 0 {
		t.Wait = 90 * time.Second
	}
	progress, looked := time.Now(), time.Time{}
	for len(t.wanted) > 0 && ctx.Err() == nil {
		messages, err := t.receive(ctx, t.chunk, receiveWait)
		if err != nil {
			return gone, err
		}
		before := len(t.held)
		mine := t.keep(ctx, messages)
		if len(t.held) > maxHeld {
			return gone, errHeld
		}
		if len(mine) > 0 || len(t.held) > before { // others come again when their locks expire
			progress = time.Now()
		}
		if len(mine) > 0 {
			settled, err := work(mine)
			for _, m := range mine {
				t.held[*m.SequenceNumber] = m.LockToken // unless it is settled, it is given back too
			}
			for _, sequence := range settled {
				delete(t.wanted, sequence)
				delete(t.held, sequence)
			}
			if err != nil {
				return gone, err
			}
			continue
		}
		if len(messages) > 0 || time.Since(looked) < 5*time.Second {
			if time.Since(progress) > t.Wait {
				return gone, nil
			}
			continue
		}
		lost, err := t.lookForWanted(ctx)
		if err != nil {
			return gone, err
		}
		gone = append(gone, lost...)
		if looked = time.Now(); len(t.wanted) > 0 && t.Waiting != nil {
			t.Waiting(len(t.wanted))
		}
	}
	return gone, nil
}

// receive waits for messages; none and no error means that none came.
func (t *receiver) receive(ctx context.Context, n int, wait time.Duration) (messages []*azservicebus.ReceivedMessage, err error) {
	defer func() {
		if recover() != nil {
			messages, err = nil, fmt.Errorf("receive the dead letters of %s: %w", t.queue.Entity, errUnreadable)
		}
	}()
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	messages, err = t.receiver.ReceiveMessages(waiting, n, &azservicebus.ReceiveMessagesOptions{TimeAfterFirstMessage: firstWait})
	t.asked = n - len(messages)
	if err != nil && waiting.Err() == nil {
		return nil, fmt.Errorf("receive the dead letters of %s: %w", t.queue.Entity, err)
	}
	return messages, nil
}

// keep picks the wanted messages, and holds the others; all of them once ctx has ended.
func (t *receiver) keep(ctx context.Context, messages []*azservicebus.ReceivedMessage) (mine []*azservicebus.ReceivedMessage) {
	for _, m := range messages {
		if m.SequenceNumber == nil {
			continue
		}
		// The filter is asked again: a queue that was made anew counts from the beginning.
		if _, wanted := t.wanted[*m.SequenceNumber]; wanted && ctx.Err() == nil && t.filter.Match(t.queue.newLetter(m)) {
			mine = append(mine, m)
			continue
		}
		t.held[*m.SequenceNumber] = m.LockToken
	}
	return mine
}

// lookForWanted forgets wanted messages that are gone.
func (t *receiver) lookForWanted(ctx context.Context) (gone []int64, err error) {
	there := make(map[int64]struct{}, len(t.wanted))
	for found, err := range t.queue.Find(ctx, Filter{}) {
		if err != nil {
			return nil, err
		}
		there[found.SequenceNumber] = struct{}{}
	}
	for sequence := range t.wanted {
		if _, ok := there[sequence]; !ok {
			delete(t.wanted, sequence)
			gone = append(gone, sequence)
		}
	}
	return gone, nil
}

// giveBack unlocks the messages that were held. What cannot be given back in time unlocks itself.
//
// Messages that were asked for may still come, and would stay locked; those that are given back would come at once, too. So
// all that was asked for is received first, and the link closed.
func (t *receiver) giveBack(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	for t.asked > 0 {
		messages, err := t.receive(ctx, t.asked, firstWait)
		if err != nil || len(messages) == 0 {
			break
		}
		for _, m := range messages {
			t.held[*m.SequenceNumber] = m.LockToken
		}
	}
	_ = t.receiver.Close(ctx)
	var group errgroup.Group
	group.SetLimit(settleAtOnce)
	for _, token := range t.held {
		group.Go(func() error {
			_ = t.queue.Receiver.AbandonMessage(ctx, &azservicebus.ReceivedMessage{LockToken: token}, nil)
			return nil
		})
	}
	_ = group.Wait()
}

// complete settles messages side by side and returns those that are settled. An error other than a lost lock is a broken
// connection, or worse.
func (t *receiver) complete(ctx context.Context, messages []*azservicebus.ReceivedMessage) (settled []int64, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	ok := make([]bool, len(messages))
	var group errgroup.Group
	group.SetLimit(settleAtOnce)
	for i, m := range messages {
		group.Go(func() error {
			err := t.receiver.CompleteMessage(ctx, m, nil)
			ok[i] = err == nil
			var answer *azservicebus.Error
			if errors.As(err, &answer) && answer.Code == azservicebus.CodeLockLost {
				return nil // it comes again
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
		err = fmt.Errorf("complete dead letters of %s: %w", t.queue.Entity, err)
	}
	return settled, err
}
