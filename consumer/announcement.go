package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/schedule"
)

const (
	// clockMargin is how far our clock may be ahead of the broker's. An event whose date has passed
	// by less than that on our clock is scheduled for its date, and the broker judges.
	clockMargin = 5 * time.Minute
	// watchScheduledEvery is how often the number of scheduled messages is read.
	watchScheduledEvery = 5 * time.Minute
	// maxCopied bounds the copies that are scheduled for one message, in bytes: there is one for each
	// of its events, and each has the whole body.
	maxCopied = 64 << 20
)

// errNotScheduled means that Service Bus could not be asked about the person's other announcements,
// or did not schedule or cancel a message. The message is deferred, and comes back by itself.
var errNotScheduled = errors.New("not scheduled")

// isAnnouncement reports whether the event takes effect at a date, or withdraws what was announced.
func isAnnouncement(item event.Item) bool { return item.Err == nil && schedule.Is(item.Event) }

// announcements are what became of the announcements of one message.
type announcements struct {
	// results has the results of those that are not acted on now, by position among the items.
	results map[int]result
	// standing has those that are acted on now, by the user's key, unless another event of the
	// message asks for a call for the same user whatever was announced.
	standing map[string]*standing
	// canceled lists the scheduled messages that were canceled for those that are acted on now, by
	// position among the items.
	canceled map[int][]int64
}

// stands returns the function that dedupe.Event needs for the events of a user, or nil.
func (a announcements) stands(key string) func(context.Context) bool {
	if s := a.standing[key]; s != nil {
		return s.stands
	}
	return nil
}

// announceAll decides about the announcements of a message: those with a later date and those that
// withdraw first, and then those that are due.
func (c *Consumer) announceAll(ctx context.Context, m *message, items []event.Item, accounts map[string]event.User) announcements {
	dated := 0
	for _, item := range items {
		if isAnnouncement(item) {
			dated++
		}
	}
	if dated == 0 {
		return announcements{}
	}
	all := announcements{results: map[int]result{}, standing: map[string]*standing{}, canceled: map[int][]int64{}}
	tooLarge := dated*len(deadletter.Content(m.ReceivedMessage).Body) > maxCopied
	for _, due := range []bool{false, true} {
		for i, item := range items {
			if !isAnnouncement(item) || m.isDue(item.Event) != due {
				continue
			}
			a := schedule.New(item.Event, m.ReceivedMessage)
			a.User = withAccount(item.Event.User, accounts)
			r, acts := c.announce(ctx, m, item, a, tooLarge)
			if !acts {
				all.results[i] = r
				continue
			}
			all.canceled[i] = r.canceled
			key := accountOf(item, accounts).Key()
			if s := all.standing[key]; s == nil || s.announcement.Compare(a) < 0 {
				all.standing[key] = &standing{c: c, from: m.from, announcement: a}
			}
		}
	}
	for _, item := range items {
		if item.Err == nil && !schedule.Is(item.Event) {
			delete(all.standing, accountOf(item, accounts).Key())
		}
	}
	return all
}

// withAccount returns a user who has the ID of their account as well as the name that an event gives.
func withAccount(user event.User, accounts map[string]event.User) event.User {
	if account, ok := accounts[user.Key()]; ok && user.UPN() != "" {
		if both, err := event.NewUser(account.ID(), user.UPN()); err == nil {
			return both
		}
	}
	return user
}

// isDue reports whether an event with a date is acted on now. The broker's clock decides: it enqueues
// a message that was scheduled. Our own counts only where it leaves no doubt.
func (m *message) isDue(e event.Event) bool {
	if e.Withdrawn {
		return false
	}
	now := time.Now().Add(-clockMargin)
	if enqueued := m.EnqueuedTime; enqueued != nil && m.State != azservicebus.MessageStateScheduled && enqueued.After(now) {
		now = *enqueued
	}
	return !e.TakesEffect.After(now.Add(schedule.DueWithin))
}

// checkAge refuses an event that happened too long before its producer's message was enqueued, such
// as one of a backfill. How long the message has waited since does not count.
func (c *Consumer) checkAge(m *message, item *event.Item) {
	if item.Err == nil {
		item.Err = tooOld(item.Event, deadletter.FirstEnqueued(m.ReceivedMessage), c.cfg.MaxAge)
	}
}

// tooOld returns an *event.Error if the event happened more than maxAge before it was sent, and nil
// otherwise. Nothing can be too old that signs nobody out.
func tooOld(e event.Event, sent time.Time, maxAge time.Duration) error {
	happened := e.Time
	if e.TakesEffect.After(happened) {
		happened = e.TakesEffect
	}
	if maxAge == 0 || e.Withdrawn || happened.IsZero() || sent.Sub(happened) <= maxAge {
		return nil
	}
	return &event.Error{Kind: event.TooOld, Field: "time", Problem: fmt.Sprintf(
		"it happened at %s, more than events.max_age (%s) before it was sent at %s",
		happened.UTC().Format(time.RFC3339), maxAge, sent.UTC().Format(time.RFC3339))}
}

// cannotSchedule returns why the date of an event is not acceptable, or "".
func (c *Consumer) cannotSchedule(s *source, at time.Time, tooLarge bool) string {
	switch {
	case c.cfg.Horizon == 0:
		return beyondHorizon(at, 0)
	case s.Accept != nil:
		return "takes effect later, and in an entity with sessions nobody could find the scheduled message again: " +
			"send such events to a queue without sessions"
	case s.scheduled == nil:
		return "takes effect later, and a subscription cannot schedule: forward the subscription to a queue, and receive from that one"
	case time.Until(at) > c.cfg.Horizon:
		return beyondHorizon(at, c.cfg.Horizon)
	case tooLarge:
		return "takes effect later, and the message has too many such events for its size: send fewer events in one message"
	}
	return ""
}

// beyondHorizon says that a date is further ahead than the horizon.
func beyondHorizon(at time.Time, horizon time.Duration) string {
	if horizon == 0 {
		return "takes effect later, and events.horizon is 0: nothing is scheduled"
	}
	return fmt.Sprintf("takes effect at %s, which is more than events.horizon (%s) ahead", at.UTC().Format(time.RFC3339), horizon)
}

// announce decides about one announcement. acts reports whether it is acted on now; otherwise r is
// its result.
//
// The newest announcement about a person counts, by schedule.Announcement.Compare; it alone stays
// scheduled. A copy is scheduled first, and the others are canceled then. So nothing is lost if the
// worker is killed in between, and two workers that do this at once agree in the end: each sees the
// other's copy, and both keep the same one. An event that withdraws is scheduled as well, for as long
// as Horizon, so that an older announcement that arrives later is recognized. Nobody is called for
// it.
func (c *Consumer) announce(
	ctx context.Context, m *message, item event.Item, a schedule.Announcement, tooLarge bool,
) (r result, acts bool) {
	e, s := item.Event, m.from
	r = result{item: item}
	due := m.isDue(e)
	if !e.Withdrawn {
		if refused, passes := c.guard(item); !passes {
			return refused, false
		}
	}
	at := e.TakesEffect
	if e.Withdrawn {
		at = deadletter.FirstEnqueued(m.ReceivedMessage).Add(c.cfg.Horizon)
	}
	keeps, problem := !due, ""
	switch {
	case e.Withdrawn:
		keeps = time.Until(at) > schedule.DueWithin
	case keeps:
		problem = c.cannotSchedule(s, at, tooLarge)
	}
	if s.scheduled != nil {
		if err := c.replaceOlder(ctx, m, a, &r, at, keeps && problem == "", due); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			} else {
				err = fmt.Errorf("%w: %w", errNotScheduled, err)
			}
			c.reportSchedule(s, err)
			r.outcome, r.err = unfinished, err
			return r, false
		}
	}
	switch {
	case r.outcome == outdated:
	case e.Withdrawn:
		r.outcome = withdrawn
		if _, again := deadletter.ReadSchedule(m.ReceivedMessage); again && !keeps {
			r.outcome = outdated // it has been remembered for long enough
		}
	case problem != "":
		canceled := r.canceled
		r = rejected(tooFarAhead(item, problem))
		r.canceled = canceled
	case due:
		return r, true
	default:
		r.outcome = scheduled
	}
	return r, false
}

// replaceOlder schedules a copy for the announcement if it keeps one, and cancels what is scheduled
// for the person and does not count any more. If a newer announcement is scheduled, r is outdated.
func (c *Consumer) replaceOlder(ctx context.Context, m *message, a schedule.Announcement, r *result, at time.Time, keeps, due bool) error {
	s := m.from
	found, err := s.scheduled.Find(ctx, a.User)
	if err != nil {
		return err
	}
	if keeps && (len(found) == 0 || found[0].Compare(a) < 0) {
		if r.scheduledAs, err = c.schedule(ctx, m, r.item, at); err != nil {
			return err
		}
		r.copiedNow = true
		if found, err = s.scheduled.Find(ctx, a.User); err != nil {
			return err
		}
	}
	if len(found) > 0 {
		newer := found[0].Compare(a)
		switch {
		case newer > 0:
			r.outcome, r.by, r.scheduledAs = outdated, found[0].Sequence, 0
		case newer == 0 && keeps:
			r.scheduledAs = found[0].Sequence
		}
		if newer > 0 || keeps {
			found = found[1:]
		}
	}
	r.canceled, err = c.cancelScheduled(ctx, s, found)
	if err != nil && due {
		// What is due must not wait for this. What stays scheduled costs a call at most.
		c.reportSchedule(s, err)
		return nil
	}
	c.reportSchedule(s, err)
	return err
}

// schedule schedules a copy of the message for one of its events, and returns its sequence number.
func (c *Consumer) schedule(ctx context.Context, m *message, item event.Item, at time.Time) (sequence int64, err error) {
	sent := deadletter.Copy(m.ReceivedMessage, at)
	if replays, ok := deadletter.ReadReplays(m.ReceivedMessage); ok {
		replays.Write(sent, nil)
	}
	deadletter.Schedule{At: at, From: m.MessageID, FirstEnqueued: deadletter.FirstEnqueued(m.ReceivedMessage)}.Write(sent, item.Index)
	ctx, cancel := context.WithTimeout(ctx, c.cfg.SettleTimeout)
	defer cancel()
	numbers, err := m.from.Scheduler.ScheduleAMQPAnnotatedMessages(ctx, []*azservicebus.AMQPAnnotatedMessage{sent}, at, nil)
	if err != nil {
		return 0, fmt.Errorf("schedule a message of %s: %w", m.from.Entity, err)
	}
	if len(numbers) > 0 {
		sequence = numbers[0]
	}
	return sequence, nil
}

// cancelScheduled cancels scheduled messages, and returns the sequence numbers of those that it has
// canceled. One that is not scheduled any more is no error.
func (c *Consumer) cancelScheduled(ctx context.Context, s *source, list []schedule.Announcement) (canceled []int64, err error) {
	for _, a := range list {
		one, cancel := context.WithTimeout(ctx, c.cfg.SettleTimeout)
		err := s.Scheduler.CancelScheduledMessages(one, []int64{a.Sequence}, nil)
		cancel()
		switch {
		case err == nil:
			canceled = append(canceled, a.Sequence)
		case !isNotFound(err):
			return canceled, fmt.Errorf("cancel a scheduled message of %s: %w", s.Entity, err)
		}
		s.scheduled.Forget(ctx, a.Sequence)
	}
	return canceled, nil
}

// reportSchedule reports trouble with scheduling; nil ends it.
func (c *Consumer) reportSchedule(s *source, err error) {
	if err == nil {
		if c.deps.Health.Warn(s.part, "") {
			c.deps.Log.Info("events are scheduled again", zap.String("source", s.Entity))
		}
		return
	}
	if c.deps.Health.Warn(s.part, "cannot schedule events that take effect later") {
		c.deps.Log.Error("cannot schedule events that take effect later; they are deferred, and tried again until it works",
			zap.String("source", s.Entity), zap.String("error", c.text(err)), zap.String("todo",
				"give the worker's identity the role 'Azure Service Bus Data Sender' on this queue, or its key Send, "+
					"or set events.horizon to 0"))
	}
}

// standing says whether an announcement that is acted on still counts. The Dispatcher asks it just
// before each attempt, and ends the event if it does not; then the message's goroutine reads why.
type standing struct {
	c            *Consumer
	from         *source
	announcement schedule.Announcement

	by  int64 // the newer announcement
	err error
}

// stands reports whether no newer announcement about the person is known to Service Bus.
func (s *standing) stands(ctx context.Context) bool {
	if s.from.scheduled == nil {
		return true
	}
	found, err := s.from.scheduled.Find(ctx, s.announcement.User)
	switch {
	case err != nil:
		s.err = fmt.Errorf("%w: %w", errNotScheduled, err)
		return false
	case len(found) > 0 && found[0].Compare(s.announcement) > 0:
		s.by = found[0].Sequence
		return false
	}
	return true
}

// outcome returns why the announcement does not stand.
func (s *standing) outcome() (o outcome, by int64, err error) {
	if s.by != 0 {
		return outdated, s.by, nil
	}
	return unfinished, 0, s.err
}

// watchScheduled keeps the number of scheduled messages of a source, until ctx ends.
func (c *Consumer) watchScheduled(ctx context.Context, s *source) {
	wasFull := false
	wait := lookAgain
	for retry.Sleep(ctx, wait) == nil {
		wait = watchScheduledEvery
		state, err := s.scheduled.Look(ctx)
		if err != nil {
			continue // the receive loop reports trouble with Service Bus
		}
		if !state.Complete {
			wait = lookOn
		}
		c.deps.Metrics.Scheduled.WithLabelValues(s.Entity).Set(float64(state.Announcements))
		if state.Full && !wasFull {
			c.deps.Log.Error("too many scheduled messages to remember: each decision about one reads all messages of the queue, "+
				"which is slow", zap.String("source", s.Entity),
				zap.String("todo", "run worker scheduled list, and find out who sends them"))
		}
		wasFull = state.Full
	}
}

// announceDry returns the result of an announcement that is known without a look at others.
func (c *Consumer) announceDry(m *message, item event.Item) result {
	if item.Event.Withdrawn {
		return result{item: item, outcome: withdrawn}
	}
	r, passes := c.guard(item)
	if !passes || m.isDue(item.Event) {
		return r
	}
	if problem := c.cannotSchedule(m.from, item.Event.TakesEffect, false); problem != "" {
		return rejected(tooFarAhead(item, problem))
	}
	r.outcome = scheduled
	return r
}

// tooFarAhead returns the event with the reason why it cannot be scheduled.
func tooFarAhead(item event.Item, problem string) event.Item {
	item.Err = &event.Error{Kind: event.TooFarAhead, Field: "effectiveTime", Problem: problem}
	return item
}
