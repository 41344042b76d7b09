package ingest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/servicebus"
)

const (
	// maxBatch is the maximum number of messages that are sent together.
	maxBatch = 100
	// maxSends is the maximum number of messages that are sent one by one at the same time.
	maxSends = 16
	// beatEvery is the interval of heartbeats while nothing is to be sent.
	beatEvery = 10 * time.Second
	// MaxSilence is the longest time between two heartbeats of a Server that works: Health needs it
	// as its limit.
	MaxSilence = time.Minute
)

// publisher sends messages. A message that comes while nothing is being sent goes at once. Those
// that come during a send wait, and go together when it has ended.
type publisher struct {
	deps  Dependencies
	alone bool // each message goes alone: Service Bus takes no batch for several sessions
	posts chan *post
	ended chan struct{}
}

// post is a message that a request waits for.
type post struct {
	ctx     context.Context //nolint:containedctx // of the request, which waits for the post
	message *azservicebus.AMQPAnnotatedMessage
	done    chan error
}

func newPublisher(deps Dependencies, alone bool) *publisher {
	return &publisher{deps: deps, alone: alone, posts: make(chan *post), ended: make(chan struct{})}
}

var errStopped = errors.New("the ingest has stopped")

// publish returns nil when Service Bus has the message. After an error it may have it, too: the
// sender comes again, and the message has the same ID then. The error may be
// azservicebus.ErrMessageTooLarge.
func (p *publisher) publish(ctx context.Context, m *azservicebus.AMQPAnnotatedMessage) error {
	began := time.Now()
	one := &post{ctx: ctx, message: m, done: make(chan error, 1)}
	select {
	case p.posts <- one:
	case <-ctx.Done():
		return ctx.Err()
	case <-p.ended:
		return errStopped
	}
	select {
	case err := <-one.done:
		if err == nil {
			p.deps.Metrics.Publish.Observe(time.Since(began).Seconds())
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run sends until ctx ends.
func (p *publisher) run(ctx context.Context) {
	defer close(p.ended)
	p.connect(ctx)
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		p.deps.Health.Beat("publisher")
		select {
		case first := <-p.posts:
			p.send(p.gather(first))
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// connect opens the link once, so that a missing queue or right shows before the first event. Until
// then, the server is not ready. Later trouble is a warning: a server that is not ready gets no
// requests, and what answers in its place does not know which answer makes a sender come again.
func (p *publisher) connect(ctx context.Context) {
	for ctx.Err() == nil {
		p.deps.Health.Beat("publisher")
		// What has come already is tried as well, so that its senders get their answer in time.
		select {
		case first := <-p.posts:
			p.send(p.gather(first))
			if len(p.deps.Health.Problems()) == 0 {
				return
			}
			continue
		default:
		}
		_, err := p.newBatch()
		p.report(err)
		if err == nil {
			return
		}
		wait(ctx, time.Second)
	}
}

// gather returns the post with all others that wait.
func (p *publisher) gather(first *post) []*post {
	batch := []*post{first}
	for len(batch) < maxBatch {
		select {
		case next := <-p.posts:
			batch = append(batch, next)
		default:
			return batch
		}
	}
	return batch
}

// send sends posts, and ends each of them. It leaves out those whose request has been answered
// already: while Service Bus is away, they must not hold up those that came later.
func (p *publisher) send(posts []*post) {
	answered := func(one *post) bool { return one.ctx.Err() != nil }
	for posts = slices.DeleteFunc(posts, answered); len(posts) > 0; posts = slices.DeleteFunc(posts, answered) {
		p.deps.Health.Beat("publisher")
		if p.alone || len(posts) == 1 {
			n := min(len(posts), maxSends)
			p.each(posts[:n])
			posts = posts[n:]
			continue
		}
		posts = posts[p.batch(posts):]
	}
}

// batch sends as many posts as fit into one batch, and returns their number, which is at least 1.
func (p *publisher) batch(posts []*post) (n int) {
	batch, err := p.newBatch()
	if err != nil {
		p.finish(posts, err)
		return len(posts)
	}
	for n < len(posts) && batch.AddAMQPAnnotatedMessage(posts[n].message, nil) == nil {
		n++
	}
	if n <= 1 { // one that does not fit, or cannot be encoded, gets its own error
		p.each(posts[:1])
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
	defer cancel()
	_, err = servicebus.Guard(func() (bool, error) { return true, p.deps.Sender.SendMessageBatch(ctx, batch, nil) })
	if err != nil && mayBeOneMessage(err) {
		p.each(posts[:n]) // so that one does not fail its neighbors
		return n
	}
	p.finish(posts[:n], err)
	return n
}

func (p *publisher) newBatch() (*azservicebus.MessageBatch, error) {
	ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
	defer cancel()
	return servicebus.Guard(func() (*azservicebus.MessageBatch, error) { return p.deps.Sender.NewMessageBatch(ctx, nil) })
}

// each sends posts in messages of their own, maxSends at the same time.
func (p *publisher) each(posts []*post) {
	slots := make(chan struct{}, maxSends)
	var all sync.WaitGroup
	for _, one := range posts {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			if one.ctx.Err() != nil {
				return // answered
			}
			ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
			defer cancel()
			_, err := servicebus.Guard(func() (bool, error) {
				return true, p.deps.Sender.SendAMQPAnnotatedMessage(ctx, one.message, nil)
			})
			p.finish([]*post{one}, err)
		})
	}
	all.Wait()
}

// mayBeOneMessage reports whether a batch may have failed because of one of its messages. Trouble
// with the connection or with a right has a code of the SDK.
func mayBeOneMessage(err error) bool {
	_, coded := errors.AsType[*azservicebus.Error](err)
	return !coded && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled)
}

// finish ends posts.
func (p *publisher) finish(posts []*post, err error) {
	if !errors.Is(err, azservicebus.ErrMessageTooLarge) {
		p.report(err)
	}
	for _, one := range posts {
		one.done <- err
	}
}

// report tells health and log whether sending works.
func (p *publisher) report(err error) {
	health, log := p.deps.Health, p.deps.Log
	if err == nil {
		health.Report(BusPart, "")
		if health.Warn(BusPart, "") {
			log.Info("Service Bus accepts messages again")
		}
		return
	}
	text := fmt.Sprintf("cannot send: %v", err)
	if health.Warn(BusPart, text) {
		log.Error("Service Bus does not accept messages: senders are asked to come again", zap.Error(err),
			zap.String("hint", "give the identity or key the right to send (the role 'Azure Service Bus Data Sender' or a Send claim), "+
				"and check ingest.destination; worker doctor tries each step of the connection"))
	}
	if len(health.Problems()) > 0 { // it has never worked
		health.Report(BusPart, text)
	}
}
