package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

const (
	// maxBatch is the most messages to send at once. Their size has a limit of its own.
	maxBatch = 100
	// maxChunk is the most messages to receive at once.
	maxChunk = 500
	// sendTimeout limits one batch.
	sendTimeout = 30 * time.Second
	// lockMargin is how long a lock must still last for its message to be sent.
	lockMargin = time.Second
)

// Options control how fast a replay runs.
type Options struct {
	// Rate is the maximum number of messages sent per second. 0 means no limit.
	Rate float64
	// Parallel is the number of batches to send at once. Values below 1 mean 1.
	Parallel int
	// Progress, if not nil, is called with the number of messages that were just finished. Calls do
	// not overlap.
	Progress func(n int)
	// Message, if not nil, makes the message to send for a dead letter, in the place of Run.Resubmit.
	// A letter for which it returns an error stays a dead letter.
	Message func(Found) (*azservicebus.AMQPAnnotatedMessage, error)
	ReceiveOptions
}

// Result counts what happened to the messages of a plan.
type Result struct {
	// Replayed counts messages that were sent and whose dead letters were completed.
	Replayed int `json:"replayed"`
	// Twice counts messages that were sent and whose dead letters could not be completed. They are
	// in both places, which costs at most one extra call each.
	Twice int `json:"sentButNotCompleted,omitempty"`
	// Failed counts messages that could not be sent and stay dead letters. Problems has the reasons
	// for the first few.
	Failed   int      `json:"failed,omitempty"`
	Problems []string `json:"problems,omitempty"`
	// Gone counts messages that someone else removed in the meantime. Left counts those that are
	// still there, because the run was stopped or another receiver has them locked.
	Gone int `json:"gone,omitempty"`
	Left int `json:"left,omitempty"`
}

// Replay sends the planned dead letters again through a sender. It sends each message first and
// then completes its dead letter. So if the run is killed, a message may be in both places, but is
// never in neither.
//
// Replay returns when it is done, when no letter can be received any more, or when ctx ends. In the
// last case, it first finishes what is in flight. It unlocks everything else. The result is valid
// even if err != nil.
func (q *Queue) Replay(ctx context.Context, to Sender, run Run, p *Plan, o Options) (Result, error) {
	o.Parallel = max(1, o.Parallel)
	r := &receiver{ReceiveOptions: o.ReceiveOptions, queue: q, filter: p.filter, wanted: p.wanted}
	u := &replaying{
		receiver: r, to: to, run: run, options: o,
		batch: maxBatch, limiter: rate.NewLimiter(rate.Inf, maxBatch),
		sent: map[int64]struct{}{}, failed: map[int64]struct{}{},
	}
	if o.Rate > 0 {
		u.batch = min(max(1, int(o.Rate/5)), maxBatch)
		u.limiter = rate.NewLimiter(rate.Limit(o.Rate), u.batch)
	}
	r.chunk = u.chunk(len(r.wanted))
	gone, err := r.run(ctx, func(messages []*azservicebus.ReceivedMessage) ([]int64, error) {
		settled, err := u.work(ctx, messages)
		for sequence := range u.failed {
			delete(r.wanted, sequence)
		}
		r.chunk = u.chunk(len(r.wanted) - len(settled))
		return settled, err
	})
	result := u.result
	for _, sequence := range gone {
		if _, ok := u.sent[sequence]; ok {
			delete(u.sent, sequence)
			result.Replayed++ // completed, although the answer was lost
		} else {
			result.Gone++
		}
	}
	result.Twice, result.Failed = len(u.sent), len(u.failed)
	result.Left = len(r.wanted) - result.Twice
	return result, err
}

// replaying is the state of one replay.
type replaying struct {
	receiver *receiver
	to       Sender
	run      Run
	options  Options
	limiter  *rate.Limiter
	batch    int // the most messages in one batch

	mu     sync.Mutex // guards all below
	result Result
	sent   map[int64]struct{} // sent and not yet completed
	failed map[int64]struct{}
}

// chunk returns how many messages to receive at once: so few that no lock expires while its message
// waits for the rate limit. If few messages are wanted, getting past the others takes the time, and
// the limit does not matter.
func (u *replaying) chunk(wanted int) int {
	if most := int(2 * u.options.Rate); u.options.Rate > 0 && wanted > most {
		return min(max(1, most), maxChunk)
	}
	return maxChunk
}

// resubmission is a dead letter and the message to send for it.
type resubmission struct {
	old *azservicebus.ReceivedMessage
	new *azservicebus.AMQPAnnotatedMessage
}

// work replays a chunk of messages, in concurrent batches.
func (u *replaying) work(ctx context.Context, messages []*azservicebus.ReceivedMessage) (settled []int64, err error) {
	resubmissions, completeOnly := u.resubmissions(messages)
	news := make([]*azservicebus.AMQPAnnotatedMessage, len(resubmissions))
	for i, s := range resubmissions {
		news[i] = s.new
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(u.options.Parallel)
	add := func(done []int64) {
		u.mu.Lock()
		defer u.mu.Unlock()
		settled = append(settled, done...)
	}
	if len(completeOnly) > 0 {
		group.Go(func() error {
			done, err := u.complete(ctx, completeOnly)
			add(done)
			return err
		})
	}
	for _, indexes := range byBatchKey(news) {
		for part := range slices.Chunk(indexes, u.batch) {
			batch := make([]resubmission, len(part))
			for i, index := range part {
				batch[i] = resubmissions[index]
			}
			group.Go(func() error {
				if u.limiter.WaitN(groupCtx, len(batch)) == nil { // otherwise, the run was stopped, and the messages get unlocked
					done, err := u.replay(ctx, batch)
					add(done)
					return err
				}
				return nil
			})
		}
	}
	err = group.Wait()
	return settled, err
}

// resubmissions returns what to send. completeOnly has the messages that this run has sent before,
// without being able to complete their dead letters.
func (u *replaying) resubmissions(
	messages []*azservicebus.ReceivedMessage,
) (resubmissions []resubmission, completeOnly []*azservicebus.ReceivedMessage) {
	for _, m := range messages {
		if _, ok := u.sent[*m.SequenceNumber]; ok {
			completeOnly = append(completeOnly, m)
			continue
		}
		letter := u.receiver.queue.newLetter(m)
		if letter.Unreadable != "" { // it was readable for the plan, and is not now
			u.fail(m, errStandIn(letter))
			continue
		}
		found := Found{Letter: letter, Message: m}
		if u.options.Message == nil {
			resubmissions = append(resubmissions, resubmission{m, u.run.Resubmit(found)})
			continue
		}
		edited, err := u.options.Message(found)
		if err != nil {
			u.fail(m, err)
			continue
		}
		resubmissions = append(resubmissions, resubmission{m, edited})
	}
	return resubmissions, completeOnly
}

// replay sends a batch, in several parts if it is too large for one, and completes what was sent.
func (u *replaying) replay(ctx context.Context, resubmissions []resubmission) (settled []int64, err error) {
	resubmissions = slices.DeleteFunc(resubmissions, func(s resubmission) bool { // a message whose lock expires comes again
		return s.old.LockedUntil != nil && time.Until(*s.old.LockedUntil) < lockMargin
	})
	for len(resubmissions) > 0 {
		n, err := u.send(ctx, resubmissions)
		if err != nil {
			return settled, err
		}
		var sent []*azservicebus.ReceivedMessage
		u.mu.Lock()
		for _, s := range resubmissions[:n] {
			if _, failed := u.failed[*s.old.SequenceNumber]; failed {
				continue
			}
			u.sent[*s.old.SequenceNumber] = struct{}{}
			sent = append(sent, s.old)
		}
		u.mu.Unlock()
		done, err := u.complete(ctx, sent)
		settled = append(settled, done...)
		if err != nil {
			return settled, err
		}
		resubmissions = resubmissions[n:]
	}
	return settled, nil
}

// send sends as many messages, from the first on, as fit into one batch, and returns their number.
// A message that does not fit even alone counts as sent and is recorded as failed.
func (u *replaying) send(ctx context.Context, resubmissions []resubmission) (n int, err error) {
	// ctx does not end it, because nobody knows whether a canceled send has arrived.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendTimeout)
	defer cancel()
	batch, err := u.to.NewMessageBatch(ctx, nil)
	if err != nil {
		return 0, fmt.Errorf("start to send: %w", err)
	}
	for _, s := range resubmissions {
		err := batch.AddAMQPAnnotatedMessage(s.new, nil)
		if errors.Is(err, azservicebus.ErrMessageTooLarge) && batch.NumMessages() > 0 {
			break
		}
		n++
		if err != nil {
			u.fail(s.old, err)
			break
		}
	}
	if batch.NumMessages() == 0 {
		return n, nil
	}
	if err := u.to.SendMessageBatch(ctx, batch, nil); err != nil {
		return 0, fmt.Errorf("send: %w", err)
	}
	return n, nil
}

// fail records that a message cannot be sent.
func (u *replaying) fail(m *azservicebus.ReceivedMessage, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.failed[*m.SequenceNumber] = struct{}{}
	addProblem(&u.result.Problems, *m.SequenceNumber, err.Error())
}

func (u *replaying) complete(ctx context.Context, messages []*azservicebus.ReceivedMessage) (settled []int64, err error) {
	settled, err = u.receiver.complete(ctx, messages)
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, sequence := range settled {
		delete(u.sent, sequence)
	}
	u.result.Replayed += len(settled)
	if u.options.Progress != nil && len(settled) > 0 {
		u.options.Progress(len(settled))
	}
	return settled, err
}
