package ingest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/event/secevent"
	"github.com/session-revoker/session-revoker/ingest/ssf"
)

const (
	// firstPause and longestPause bound the time between two attempts while a stream does not work.
	firstPause   = time.Second
	longestPause = time.Minute
	// longestBusy is the same while Service Bus does not accept tokens.
	longestBusy = 10 * time.Second
	// longestAsked bounds how long a transmitter may make us wait (Retry-After).
	longestAsked = 5 * time.Minute
	// farewellTime bounds the last acknowledgment.
	farewellTime = 5 * time.Second
	// mostStuck is how many answers in turn may bring only tokens that came before: an acknowledgment
	// may be lost.
	mostStuck = 10
	// pushEvery is how often a stream that is pushed to is looked after.
	pushEvery = 10 * time.Second
)

// run looks after the stream until ctx ends: it finds it, asks for heartbeats, and polls, one request
// at a time. Then it acknowledges what is on the queue, unless hard has ended.
func (st *stream) run(ctx, hard context.Context) {
	pauses := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(firstPause), backoff.WithMaxInterval(longestPause), backoff.WithMaxElapsedTime(0))
	for ctx.Err() == nil {
		pause, err := st.turn(ctx, hard)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			pause = st.failed(err, pauses.NextBackOff())
		} else {
			pauses.Reset()
		}
		wait(ctx, pause)
	}
	if len(st.ack)+len(st.refused) == 0 {
		return
	}
	last, cancel := context.WithTimeout(hard, farewellTime)
	defer cancel()
	// Keycloak answers with a token even so. It is not acknowledged, and comes again.
	_, err := st.client.Poll(last, st.pollURL, ssf.Request{Immediately: true, Ack: st.ack, Refused: st.refused})
	if err != nil {
		st.server.deps.Log.Warn("the last tokens are on the queue and not acknowledged: they come again", zap.String("source", st.Name),
			zap.Int("tokens", len(st.ack)), zap.Error(err))
	}
}

// failed reports an error, and returns how long to wait.
func (st *stream) failed(err error, pause time.Duration) time.Duration {
	if errors.Is(err, errNotQueued) {
		return min(pause, longestBusy) // the publisher has reported it
	}
	st.report(err.Error())
	refused, answered := errors.AsType[*ssf.Error](err)
	if !answered {
		return pause
	}
	if refused.Status >= 400 && refused.Status < 500 && refused.Status != http.StatusTooManyRequests {
		st.found = time.Time{} // the stream may have been created again, or moved
	}
	return max(pause, min(refused.RetryAfter, longestAsked))
}

// errNotQueued means that Service Bus did not accept tokens.
var errNotQueued = errors.New("tokens are not on the queue")

// rescue makes a panic an error. It must be deferred.
func (st *stream) rescue(err *error) {
	if recover() != nil {
		st.server.deps.Log.Error("a defect of session-revoker: report it with this line", zap.Stack("stack"), zap.String("source", st.Name))
		*err = errors.New("a defect of session-revoker")
	}
}

// turn does what is due, and returns how long to wait until the next turn.
func (st *stream) turn(ctx, hard context.Context) (pause time.Duration, err error) {
	defer st.rescue(&err)
	if err := st.find(ctx); err != nil {
		return 0, err
	}
	st.readStatus(ctx)
	st.heartbeat(ctx)
	if st.Delivery == ssf.Push {
		st.report(st.trouble())
		return pushEvery, nil
	}
	return st.poll(ctx, hard)
}

// poll polls once. After a poll that put tokens on the queue, or brought the heartbeat that was asked
// for, the next one follows at once, and acknowledges them. Otherwise polls begin at least PollEvery apart, whatever the transmitter says.
func (st *stream) poll(ctx, hard context.Context) (pause time.Duration, err error) {
	began := time.Now()
	answer, err := st.client.Poll(ctx, st.pollURL, ssf.Request{
		MaxEvents: st.MaxEvents, Immediately: st.immediate, Ack: st.ack, Refused: st.refused,
	})
	refused, answered := errors.AsType[*ssf.Error](err)
	late := errors.Is(err, context.DeadlineExceeded) || answered && refused.Status == http.StatusGatewayTimeout
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case late && !st.immediate:
		// It may be held for longer than we, or a gateway, wait. The next poll shows whether anybody is
		// there.
		st.immediate = true
		return 0, nil
	case answered:
		// It may be about an acknowledgment: of a token that the transmitter does not know any more, for
		// example. What is not acknowledged comes again, and is then.
		st.ack, st.refused = nil, map[string]ssf.Refusal{}
	}
	if err != nil {
		return 0, err
	}
	st.immediate = false
	st.ack, st.refused = nil, map[string]ssf.Refusal{}
	published, err := st.take(ctx, hard, answer)
	if err != nil {
		return 0, err
	}
	problem := st.trouble()
	if problem == "" && published == 0 && (answer.More || answer.Left) && len(st.ack)+len(st.refused) == 0 {
		problem = "the transmitter says that there is more, and sends nothing that can be accepted"
	}
	if st.stuck++; st.again == 0 || st.again < len(answer.Tokens) {
		st.stuck = 0
	}
	if problem == "" && st.stuck >= mostStuck {
		problem = "the transmitter sends tokens again that were acknowledged: new ones may not come"
	}
	st.report(problem)
	st.mu.Lock()
	came := st.came
	st.came = false
	st.mu.Unlock()
	if published > 0 || came {
		return 0, nil
	}
	return max(0, st.PollEvery-time.Since(began)), nil
}

// take verifies the tokens of an answer, puts them on the queue, and notes which ones are to be
// acknowledged and refused. It returns how many are on the queue that were not there before.
func (st *stream) take(ctx, hard context.Context, answer ssf.Answer) (published int, err error) {
	st.again = 0
	if len(answer.Tokens) == 0 {
		return 0, nil
	}
	if err := st.source.limits.events.WaitN(ctx, len(answer.Tokens)); err != nil {
		return 0, err
	}
	// What has come is put on the queue even if the ingest is to stop meanwhile, unless it is to stop at
	// once.
	ctx, cancel := context.WithTimeout(hard, st.source.Timeout)
	defer cancel()
	now := time.Now()
	if answer.Left {
		st.line(now, "the transmitter has sent more than it was asked for: the rest must come again", busy)
	}
	fresh := st.check(answer.Tokens, now)
	results, defects := make([]result, len(fresh)), make([]error, len(fresh))
	var sending sync.WaitGroup
	for i, one := range fresh {
		results[i] = busy
		sending.Go(func() {
			defer st.rescue(&defects[i])
			in := &incoming{
				Request: (&http.Request{Header: http.Header{}}).WithContext(ctx), // for what a request may have, and a poll has not
				source:  st.source, body: []byte(one.text), now: now, eventID: eventID(one.Signal),
			}
			results[i] = st.server.accept(ctx, in, tokenType).result
		})
	}
	sending.Wait()
	defer func() { err = cmp.Or(append(defects, err)...) }()
	for i, one := range fresh {
		st.count(results[i])
		switch results[i] {
		case accepted:
			published++
			st.source.seen.add(one.key)
			st.ack = append(st.ack, one.name)
		case tooLarge:
			st.refused[one.name] = ssf.Refusal{Code: "invalid_request", Description: "larger than the receiver can accept"}
		default:
			err = errNotQueued
		}
	}
	return published, err
}

// verified is a token that is to be put on the queue.
type verified struct {
	secevent.Signal
	name, text string
	key        [32]byte // is the same for the same token only
}

// check verifies tokens, and returns those that are to be put on the queue. Of the others, it notes
// which ones are to be acknowledged or refused.
func (st *stream) check(tokens []ssf.Token, now time.Time) (fresh []verified) {
	twice := map[[32]byte]bool{}
	for _, one := range tokens {
		token, why := st.verify([]byte(one.Text))
		if why != nil {
			st.refuse(one.Key, why, now)
			continue
		}
		if token.ID != one.Key {
			// The ID is signed and says which token it is. The name says which of its entries the
			// transmitter has sent: under the ID it may keep another token, which has not come.
			st.line(now, "a token has another name than its ID (jti): it is acknowledged by its name", malformed)
		}
		key := keyOf(eventID(token))
		switch {
		case st.source.seen.has(key): // an old heartbeat is no sign of life
			st.count(repeated)
			st.again++
			st.ack = append(st.ack, one.Key)
		case twice[key]: // under two names; the other one comes again, and is repeated then
			continue
		case st.note(token):
			st.count(handshake)
			st.source.seen.add(key)
			st.ack = append(st.ack, one.Key)
		default:
			fresh = append(fresh, verified{token, one.Key, one.Text, key})
		}
		twice[key] = true
	}
	return fresh
}

// refuse notes that a token is not accepted. Without the keys it is neither refused nor acknowledged:
// it comes again.
func (st *stream) refuse(key string, why *event.Error, now time.Time) {
	if why.Kind == event.NotYet {
		st.count(busy)
		st.line(now, "a token waits at the transmitter: "+why.Error(), busy)
		return
	}
	if why.Field == "aud" && st.hasAPI() && time.Since(st.found) > longestPause {
		// The stream may be for others since it was read. Then it is not polled, and loses nothing.
		st.found = now.Add(-findEvery)
		st.count(busy)
		st.line(now, "a token waits at the transmitter until the stream is read again: "+why.Error(), busy)
		return
	}
	code := secevent.ErrorCode(why)
	st.count(resultOf(why))
	st.line(now, fmt.Sprintf("a token is refused (%s): %v", code, why), resultOf(why))
	st.refused[key] = ssf.Refusal{Code: code, Description: why.Error()}
}

// count counts a token.
func (st *stream) count(r result) {
	st.server.deps.Metrics.Requests.WithLabelValues(st.Name, string(r)).Inc()
	if r == accepted {
		st.server.deps.Metrics.LastAccepted.WithLabelValues(st.Name).SetToCurrentTime()
	}
}

// line writes a log line that the transmitter may cause, at most one in logEvery.
func (st *stream) line(now time.Time, text string, r result) {
	if skipped, ok := st.source.logs.allow(now); ok {
		st.server.deps.Log.Warn(text, zap.String("source", st.Name), zap.String("result", string(r)), zap.Int("notLogged", skipped))
	}
}
