package main

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/spf13/pflag"

	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/replay"
	"github.com/session-revoker/session-revoker/servicebus"
)

// picking has the flags that pick dead letters or deferred messages.
type picking struct {
	reasons, sequences   []string
	user, producer       string
	source, since, until string
	limit                int
	changes              bool // set by commands that change what they pick
	deferred             bool // set by the commands that pick deferred or scheduled messages
	dates                bool // set by the command that picks scheduled messages by their dates
	all                  bool
	mayAll               bool // set by a command that has --all and does not need it
}

func (f *picking) flags(fs *pflag.FlagSet) {
	if f.deferred {
		fs.StringVar(&f.user, "user", "", "only messages about this user: object id or user principal name, as in the event")
	} else {
		fs.StringSliceVar(&f.reasons, "reason", nil, "only this dead-letter reason; repeatable")
		fs.StringVar(&f.user, "user", "", "only letters that failed for this user: object id or user principal name, as in the event")
	}
	fs.StringVar(&f.source, "source", "", "only this queue or subscription (TOPIC/Subscriptions/NAME), if several are configured")
	fs.StringVar(&f.producer, "producer", "", "only events whose own source contains this text")
	since, until, first := "only enqueued at or after: a time (2026-03-01T12:00:00Z), a day (2026-03-01), or an age (90m, 7d)",
		"only enqueued before: the same forms", "oldest first"
	if f.dates {
		since, until, first = "only with a date at or after: a time (2026-03-01T12:00:00Z), a day (2026-03-01), or from now (90m, 7d)",
			"only with a date before: the same forms", "lowest sequence numbers first"
	}
	fs.StringVar(&f.since, "since", "", since)
	fs.StringVar(&f.until, "until", "", until)
	fs.StringSliceVar(&f.sequences, "seq", nil, "only these sequence numbers: 5,7,10-20")
	fs.IntVar(&f.limit, "limit", 0, "maximum number, "+first+"; 0 means no limit")
	if f.changes || f.mayAll {
		fs.BoolVar(&f.all, "all", false, "all dead letters")
	}
}

// filter parses the flags.
func (f *picking) filter(now time.Time) (replay.Filter, error) {
	filter := replay.Filter{User: f.user, Producer: f.producer, Limit: f.limit}
	var err error
	if filter.Reasons, err = trimmed(f.reasons); err != nil {
		return filter, fail(exitUsage, "--reason: %v", err)
	}
	if err := checkReasons(filter.Reasons); err != nil {
		return filter, err
	}
	if err := checkUser(f.user); err != nil {
		return filter, err
	}
	sequences, err := trimmed(f.sequences)
	if err == nil {
		filter.Sequences, err = replay.ParseRanges(sequences)
	}
	if err != nil {
		return filter, fail(exitUsage, "--seq: %v", err)
	}
	parse := replay.ParseTime
	if f.dates {
		parse = replay.ParseDate
	}
	if filter.Since, err = parse(f.since, now); err != nil {
		return filter, fail(exitUsage, "--since: %v", err)
	}
	if filter.Until, err = parse(f.until, now); err != nil {
		return filter, fail(exitUsage, "--until: %v", err)
	}
	if f.limit < 0 {
		return filter, fail(exitUsage, "--limit: %d is negative", f.limit)
	}
	if f.changes || f.all {
		err = f.needsPicking(filter)
	}
	return filter, err
}

// knownReasons are the reasons that the worker and Service Bus give.
func knownReasons() []string {
	reasons := []string{"MaxDeliveryCountExceeded", "TTLExpiredException"}
	for _, guide := range deadletter.Guides() {
		reasons = append(reasons, string(guide.Reason))
	}
	slices.Sort(reasons)
	return reasons
}

// checkReasons returns an error for a reason that is nearly a known one. Others may be those of
// another program.
func checkReasons(reasons []string) error {
	known := knownReasons()
	for _, reason := range reasons {
		if slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, reason) }) {
			continue
		}
		if similar := config.Similar(reason, known); similar != "" {
			return fail(exitUsage, "--reason: %q is no reason of a dead letter; did you mean %s?", reason, similar)
		}
	}
	return nil
}

// checkUser returns an error for what no letter can name as its user: a letter names an object id, a
// user principal name, or how to look the user up, such as serial-number:C02XL0.
func checkUser(user string) error {
	if way, _, ok := strings.Cut(user, ":"); user == "" || ok && event.LookupOf(way) != event.NoLookup {
		return nil
	}
	if _, err := readUser(user, false); err != nil {
		return fail(exitUsage, "--user: %v", err)
	}
	return nil
}

// one picks the message with one sequence number, and returns the number.
func (f *picking) one(sequence string) (int64, error) {
	ranges, err := replay.ParseRanges([]string{sequence})
	if err != nil || ranges[0].From != ranges[0].To {
		return 0, fail(exitUsage, "%q is not a sequence number", sequence)
	}
	f.sequences = []string{sequence}
	return ranges[0].From, nil
}

// trimmed returns the items of a list without the spaces around them. It returns an error for an
// empty item. To ignore the item would be dangerous, because a command could act on more messages
// than the user means.
func trimmed(list []string) ([]string, error) {
	var items []string
	for _, item := range list {
		if item = strings.TrimSpace(item); item == "" {
			return nil, fmt.Errorf("the list %q has an empty item", strings.Join(list, ","))
		}
		items = append(items, item)
	}
	return items, nil
}

// needsPicking returns an error unless there is either a filter or --all: a command that changes
// something must not act on everything by accident.
func (f *picking) needsPicking(filter replay.Filter) error {
	switch {
	case f.all && !filter.IsZero():
		return fail(exitUsage, "--all and a filter are both given: use only one of them")
	case !f.all && filter.IsZero() && f.source == "":
		return fail(exitUsage,
			"pick the dead letters with a filter (--reason, --user, --source, --producer, --since, --until, --seq), or with --all")
	}
	return nil
}

// picked is what a command picks from: the open queues, and the filter.
type picked struct {
	client *azservicebus.Client
	queues []*replay.Queue
	filter replay.Filter
}

// open parses the flags and opens the dead letters of the configured entities, or of the one that
// --source names. For deferred messages, it opens the entities themselves.
func (f *picking) open(cfg config.Config) (*picked, error) {
	filter, err := f.filter(time.Now())
	if err != nil {
		return nil, err
	}
	return f.openFor(cfg, filter)
}

// openFor is open with a filter that is parsed already.
func (f *picking) openFor(cfg config.Config, filter replay.Filter) (*picked, error) {
	entities := cfg.ServiceBus.Entities()
	if f.source != "" {
		i := slices.IndexFunc(entities, func(e string) bool { return strings.EqualFold(e, f.source) })
		if i < 0 {
			return nil, fail(exitUsage, "--source: %q is not configured; choose one of %s", f.source, strings.Join(entities, ", "))
		}
		entities = entities[i : i+1]
	}
	tokens, err := app.NewVerifier(cfg, nil) // it knows the keys of files
	if err != nil {
		return nil, err
	}
	decoder, err := app.NewDecoder(cfg, app.DecoderOptions{AnyType: true, Tokens: tokens})
	if err != nil {
		return nil, fail(exitUsage, "%v", err)
	}
	client, guard, err := app.NewServiceBusWithOriginals(cfg)
	if err != nil {
		return nil, err
	}
	p := &picked{client: client, filter: filter}
	for _, entity := range entities {
		open := func() (replay.Receiver, error) { return servicebus.NewReceiver(client, entity, !f.deferred) }
		receiver, err := open()
		if err != nil {
			p.close()
			return nil, err
		}
		p.queues = append(p.queues, &replay.Queue{
			Entity: entity, Receiver: receiver, Decoder: decoder, Open: open, Original: guard.Original,
		})
	}
	return p, nil
}

func (p *picked) close() { closeClient(p.client) }

// several reports whether there are several queues, so that rows must name theirs.
func (p *picked) several() bool { return len(p.queues) > 1 }

// eachQueue calls do for one queue after the other, until the filter's limit is reached over all of
// them. do gets the filter with what is left of the limit, and returns how many letters it picked.
func (p *picked) eachQueue(do func(*replay.Queue, replay.Filter) (n int, err error)) error {
	left := p.filter
	for _, q := range p.queues {
		n, err := do(q, left)
		if err != nil {
			return explain(err, q.Entity)
		}
		if left.Limit > 0 {
			if left.Limit -= n; left.Limit <= 0 {
				return nil
			}
		}
	}
	return nil
}

// finder is replay.Queue's Find or FindDeferred.
type finder func(*replay.Queue, context.Context, replay.Filter) iter.Seq2[replay.Found, error]

// each calls do for each message that find finds in the queues.
func (p *picked) each(ctx context.Context, find finder, do func(replay.Found) error) error {
	var doErr error
	err := p.eachQueue(func(q *replay.Queue, f replay.Filter) (n int, err error) {
		for found, err := range find(q, ctx, f) {
			if err != nil {
				return n, err
			}
			n++
			if doErr = do(found); doErr != nil {
				return n, doErr
			}
		}
		return n, nil
	})
	if doErr != nil {
		return doErr // as it is: it is not about Service Bus
	}
	return err
}

// closeTimeout limits how long the connection takes to close at the end.
const closeTimeout = 2 * time.Second

func closeClient(client *azservicebus.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = client.Close(ctx)
}
