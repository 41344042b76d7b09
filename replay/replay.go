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

	"github.com/session-revoker/session-revoker/deadletter"
)

const (
	// maxBatch is how many messages are sent at once at most; their size has a limit of its own.
	maxBatch = 100
	// maxChunk is how many are received at once at most.
	maxChunk = 500
	// sendTimeout bounds one batch.
	sendTimeout = 30 * time.Second
	// lockMargin is how long a lock must still last for its message to be sent.
	lockMargin = time.Second
)

// Plan is what a replay or purge is going to act on: the dead letters that were there when it was made, and no later ones.
type Plan struct {
	// Source is the entity.
	Source string `json:"source"`
	// Selected is how many are acted on; Reasons counts them by reason.
	Selected int            `json:"selected"`
	Reasons  map[string]int `json:"reasons,omitempty"`
	// TooOften are picked by the filter and left out, since they were replayed as often as is allowed; OwnRun since this run
	// has sent them itself.
	TooOften int `json:"replayedTooOften,omitempty"`
	OwnRun   int `json:"ofThisRun,omitempty"`
	// Unreadable are picked by the filter and left out of a replay, since the client library cannot read their bodies: what it
	// shows are stand-ins, which must never be sent. Skipped says why, of the first few.
	Unreadable int      `json:"unreadable,omitempty"`
	Skipped    []string `json:"skipped,omitempty"`
	// Mended are acted on, and the client library cannot read all of them: a replay sends them without what it cannot read.
	Mended int `json:"mended,omitempty"`

	filter Filter
	wanted map[int64]struct{} // sequence numbers
	// changed says that the client library cannot read all of some letter.
	changed bool
}

// maxProblems is how many letters that were not replayed or purged are named, with why.
const maxProblems = 10

// note adds to the problems of single letters.
func note(problems *[]string, sequence int64, why string) {
	if len(*problems) < maxProblems {
		*problems = append(*problems, fmt.Sprintf("sequence number %d: %s", sequence, why))
	}
}

// PlanReplay peeks at the dead letters and picks those to replay. A message that was replayed maxReplays times is left out; so is one
// that this run has sent, and one whose body cannot be read. each, if not nil, is told each one that is picked.
func (q *Queue) PlanReplay(ctx context.Context, f Filter, run Run, maxReplays int, each func(Letter)) (*Plan, error) {
	return q.plan(ctx, f, each, func(p *Plan, l Letter) bool {
		switch {
		case l.Unreadable != "":
			p.Unreadable++
			note(&p.Skipped, l.SequenceNumber, errStandIn(l).Error())
		case l.Run == run.ID:
			p.OwnRun++
		case l.Replays >= maxReplays:
			p.TooOften++
		default:
			return true
		}
		return false
	})
}

// errStandIn says why a letter is not sent again.
func errStandIn(l Letter) error {
	return fmt.Errorf("its body cannot be read (%s), so there is nothing to send", deadletter.Cut(l.Unreadable, 200))
}

// PlanPurge peeks at the dead letters and picks those to purge. each, if not nil, is told each one that is picked.
func (q *Queue) PlanPurge(ctx context.Context, f Filter, each func(Letter)) (*Plan, error) {
	return q.plan(ctx, f, each, func(*Plan, Letter) bool { return true })
}

func (q *Queue) plan(ctx context.Context, f Filter, each func(Letter), picks func(*Plan, Letter) bool) (*Plan, error) {
	p := &Plan{Source: q.Entity, Reasons: map[string]int{}, filter: f, wanted: map[int64]struct{}{}}
	limit := f.Limit
	f.Limit = 0
	for found, err := range q.Find(ctx, f) {
		if err != nil {
			return nil, err
		}
		if !picks(p, found.Letter) {
			continue
		}
		p.wanted[found.SequenceNumber] = struct{}{}
		p.Selected++
		p.Reasons[found.Reason]++
		if found.Mended != "" {
			p.Mended++
		}
		if found.changed() {
			p.changed = true
		}
		if each != nil {
			each(found.Letter)
		}
		if p.Selected == limit {
			break
		}
	}
	return p, nil
}

// Options say how fast a replay goes.
type Options struct {
	// Rate is how many messages are sent in a second at most; 0 is as many as can be.
	Rate float64
	// Parallel is how many batches are sent at once; at least 1.
	Parallel int
	// Progress, if not nil, is told how many messages were finished more. It is called by one goroutine at a time.
	Progress func(n int)
	ReceiveOptions
}

// Result is what became of the messages of a plan.
type Result struct {
	// Replayed were sent, and their dead letters completed.
	Replayed int `json:"replayed"`
	// Twice were sent, and their dead letters could not be completed: they are in both places, which costs a call at most.
	Twice int `json:"sentButNotCompleted,omitempty"`
	// Failed could not be sent and stay dead letters; Problems are the first few reasons.
	Failed   int      `json:"failed,omitempty"`
	Problems []string `json:"problems,omitempty"`
	// Gone were taken away by somebody else meanwhile. Left are still there: the run was stopped, or another receiver holds them.
	Gone int `json:"gone,omitempty"`
	Left int `json:"left,omitempty"`
}

// Replay sends the planned dead letters again through the sender: sent first and completed after that, so that a message may
// be in both places when the run is killed, and never in none. It returns when all are done or ctx ends; then what is under
// way is finished and everything else unlocked. The result is good beside an error, too.
func (q *Queue) Replay(ctx context.Context, to Sender, run Run, p *Plan, o Options) (Result, error) {
	r := &replay{queue: q, to: to, run: run, options: o, batch: maxBatch, limiter: rate.NewLimiter(rate.Inf, maxBatch), sent: map[int64]struct{}{}, failed: map[int64]struct{}{}}
	if o.Rate > 0 {
		r.batch = min(max(1, int(o.Rate/5)), maxBatch)
		r.limiter = rate.NewLimiter(rate.Limit(o.Rate), r.batch)
	}
	r.options.Parallel = max(1, o.Parallel)
	t := &receiver{queue: q, ReceiveOptions: o.ReceiveOptions, filter: p.filter, wanted: p.wanted}
	r.taker = t
	t.chunk = r.chunk(len(t.wanted))
	gone, err := t.run(ctx, func(messages []*azservicebus.ReceivedMessage) ([]int64, error) {
		settled, err := r.work(ctx, messages)
		for sequence := range r.failed {
			delete(t.wanted, sequence)
		}
		t.chunk = r.chunk(len(t.wanted) - len(settled))
		return settled, err
	})
	result := r.result
	for _, sequence := range gone {
		if _, ok := r.sent[sequence]; ok {
			delete(r.sent, sequence)
			result.Replayed++ // completed, although the answer was lost
		} else {
			result.Gone++
		}
	}
	result.Twice, result.Failed = len(r.sent), len(r.failed)
	result.Left = len(t.wanted) - result.Twice
	return result, err
}

// replay is the state of one run.
type replay struct {
	queue   *Queue
	taker   *receiver
	to      Sender
	run     Run
	options Options
	limiter *rate.Limiter
	batch   int // messages in one

	mu     sync.Mutex // guards all below
	result Result
	sent   map[int64]struct{} // and not completed yet
	failed map[int64]struct{}
}

// chunk is how many messages are received at once: so few that no lock ends while a message waits for its turn. When few are wanted
// it is the way past the others that takes time.
func (r *replay) chunk(wanted int) int {
	if most := int(2 * r.options.Rate); r.options.Rate > 0 && wanted > most {
		return min(max(1, most), maxChunk)
	}
	return maxChunk
}

// resubmission is a message and what it is sent again as.
type resubmission struct {
	old *azservicebus.ReceivedMessage
	new *azservicebus.AMQPAnnotatedMessage
}

// work replays a chunk of messages, in batches side by side.
func (r *replay) work(ctx context.Context, messages []*azservicebus.ReceivedMessage) (settled []int64, err error) {
	var pending []resubmission
	var completeOnly []*azservicebus.ReceivedMessage
	for _, m := range messages {
		if _, ok := r.sent[*m.SequenceNumber]; ok {
			completeOnly = append(completeOnly, m)
			continue
		}
		letter := r.queue.newLetter(m)
		if letter.Unreadable != "" { // the plan has left it out: whoever could read it then cannot now
			r.fail(m, errStandIn(letter))
			continue
		}
		pending = append(pending, resubmission{m, r.run.Resubmit(Found{Letter: letter, Message: m})})
	}
	news := make([]*azservicebus.AMQPAnnotatedMessage, len(pending))
	for i, a := range pending {
		news[i] = a.new
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(r.options.Parallel)
	add := func(done []int64) {
		r.mu.Lock()
		defer r.mu.Unlock()
		settled = append(settled, done...)
	}
	if len(completeOnly) > 0 {
		group.Go(func() error {
			done, err := r.complete(ctx, completeOnly)
			add(done)
			return err
		})
	}
	for _, indexes := range byBatchKey(news) {
		for part := range slices.Chunk(indexes, r.batch) {
			batch := make([]resubmission, len(part))
			for i, index := range part {
				batch[i] = pending[index]
			}
			group.Go(func() error {
				if r.limiter.WaitN(groupCtx, len(batch)) == nil { // else the run was stopped, and they are given back
					done, err := r.replay(ctx, batch)
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

// replay sends a batch, as several if it is too large for one, and completes what was sent.
func (r *replay) replay(ctx context.Context, pending []resubmission) (settled []int64, err error) {
	pending = slices.DeleteFunc(pending, func(a resubmission) bool { // it comes again
		return a.old.LockedUntil != nil && time.Until(*a.old.LockedUntil) < lockMargin
	})
	for len(pending) > 0 {
		n, err := r.send(ctx, pending)
		if err != nil {
			return settled, err
		}
		var sent []*azservicebus.ReceivedMessage
		r.mu.Lock()
		for _, a := range pending[:n] {
			if _, failed := r.failed[*a.old.SequenceNumber]; failed {
				continue
			}
			r.sent[*a.old.SequenceNumber] = struct{}{}
			sent = append(sent, a.old)
		}
		r.mu.Unlock()
		done, err := r.complete(ctx, sent)
		settled = append(settled, done...)
		if err != nil {
			return settled, err
		}
		pending = pending[n:]
	}
	return settled, nil
}

// send sends as many messages, from the first on, as fit into one batch, and says how many. A message that does not even
// fit alone is counted as sent, and noted as failed.
func (r *replay) send(ctx context.Context, pending []resubmission) (n int, err error) {
	// Not ended by ctx: whether a send that is cut off has arrived, nobody knows.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendTimeout)
	defer cancel()
	batch, err := r.to.NewMessageBatch(ctx, nil)
	if err != nil {
		return 0, fmt.Errorf("begin to send: %w", err)
	}
	for _, a := range pending {
		err := batch.AddAMQPAnnotatedMessage(a.new, nil)
		if errors.Is(err, azservicebus.ErrMessageTooLarge) && batch.NumMessages() > 0 {
			break
		}
		n++
		if err != nil {
			r.fail(a.old, err)
			break
		}
	}
	if batch.NumMessages() == 0 {
		return n, nil
	}
	if err := r.to.SendMessageBatch(ctx, batch, nil); err != nil {
		return 0, fmt.Errorf("send: %w", err)
	}
	return n, nil
}

func (r *replay) fail(m *azservicebus.ReceivedMessage, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed[*m.SequenceNumber] = struct{}{}
	note(&r.result.Problems, *m.SequenceNumber, err.Error())
}

func (r *replay) complete(ctx context.Context, messages []*azservicebus.ReceivedMessage) (settled []int64, err error) {
	settled, err = r.taker.complete(ctx, messages)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, sequence := range settled {
		delete(r.sent, sequence)
	}
	r.result.Replayed += len(settled)
	if r.options.Progress != nil && len(settled) > 0 {
		r.options.Progress(len(settled))
	}
	return settled, err
}
