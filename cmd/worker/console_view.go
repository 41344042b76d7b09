package main

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/audit/history"
	"github.com/session-revoker/session-revoker/audit/report"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/console"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/replay"
	"github.com/session-revoker/session-revoker/status"
)

// operations are what the console shows and does: what the commands do. It implements
// console.Operations.
type operations struct {
	*program // prints nothing to standard output
	cfg      config.Config
	consoleOptions

	reading, scanning connection
	// log admits one reader of the audit log at a time, because the log may be large.
	log chan struct{}
}

func newOperations(p *program, cfg config.Config, o consoleOptions) *operations {
	quiet := *p
	quiet.stdout = io.Discard
	return &operations{program: &quiet, cfg: cfg, consoleOptions: o, log: make(chan struct{}, 1)}
}

func (o *operations) close() {
	o.reading.close()
	o.scanning.close()
}

// connection is a connection for peeking that is opened when it is needed. One goroutine uses it at
// a time.
type connection struct {
	mu   sync.Mutex
	from *picked
}

// use calls do with the queues. A connection that failed is opened again for the next one.
func (c *connection) use(cfg config.Config, do func(*picked) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.from == nil {
		from, err := (&picking{}).open(cfg)
		if err != nil {
			return err
		}
		c.from = from
	}
	err := do(c.from)
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, console.ErrNoLetter) {
		c.from.close()
		c.from = nil
	}
	return err
}

func (c *connection) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.from != nil {
		c.from.close()
		c.from = nil
	}
}

// Sources implements console.Operations.
func (o *operations) Sources() []string { return o.cfg.ServiceBus.Entities() }

// queuePeek is how many messages of each queue the console looks at.
const queuePeek = 1000

// Queues implements console.Operations.
func (o *operations) Queues(ctx context.Context) []status.Queue {
	return peekQueues(ctx, o.cfg, queuePeek)
}

// EachLetter implements console.Operations.
func (o *operations) EachLetter(ctx context.Context, each func(replay.Letter) error) error {
	return o.scanning.use(o.cfg, func(from *picked) error {
		return from.each(ctx, (*replay.Queue).Find, func(found replay.Found) error { return each(found.Letter) })
	})
}

// Letter implements console.Operations.
func (o *operations) Letter(ctx context.Context, source string, sequence int64) (record replay.Record, err error) {
	err = o.reading.use(o.cfg, func(from *picked) error {
		found, err := findLetter(ctx, from, source, sequence)
		if err != nil {
			return err
		}
		if record, err = replay.NewRecord(found); errors.Is(err, replay.ErrNoOriginal) { // show what is known
			err = nil
		}
		return err
	})
	return record, err
}

// findLetter peeks at one dead letter.
func findLetter(ctx context.Context, from *picked, source string, sequence int64) (replay.Found, error) {
	for _, q := range from.queues {
		if q.Entity != source {
			continue
		}
		for found, err := range q.Find(ctx, oneLetter(sequence)) {
			if err != nil {
				return replay.Found{}, explain(err, q.Entity)
			}
			return found, nil
		}
	}
	return replay.Found{}, console.ErrNoLetter
}

// oneLetter picks the dead letter with a sequence number.
func oneLetter(sequence int64) replay.Filter {
	return replay.Filter{Sequences: []replay.Range{{From: sequence, To: sequence}}, Limit: 1}
}

// readLog calls do with the audit log, and with what it is checked against.
func (o *operations) readLog(ctx context.Context, do func(openLog, audit.Options) error) error {
	if len(o.logs) == 0 && (o.cfg.Audit.File == "" || o.cfg.Audit.File == "-") {
		return console.ErrNoLog
	}
	select {
	case o.log <- struct{}{}:
		defer func() { <-o.log }()
	case <-ctx.Done():
		return ctx.Err()
	}
	log, options, err := o.keys.open(o.silent(), o.cfg, o.logs)
	if err != nil {
		return err
	}
	defer log.close()
	if err := do(log, options); err != nil {
		return explainReading(err)
	}
	return nil
}

// silent returns a program that prints nothing: what a page shows must not be repeated in the
// terminal for each visit.
func (o *operations) silent() *program {
	silent := *o.program
	silent.stderr = io.Discard
	return &silent
}

// History implements console.Operations.
func (o *operations) History(ctx context.Context, user event.User) (h history.History, err error) {
	err = o.readLog(ctx, func(log openLog, options audit.Options) error {
		h, err = history.Of(ctx, log.open, user, time.Now(), options)
		return err
	})
	return h, err
}

// Report implements console.Operations.
func (o *operations) Report(ctx context.Context, options report.Options) (r report.Report, err error) {
	err = o.readLog(ctx, func(log openLog, verify audit.Options) error {
		options.Verify = verify
		r, err = report.Make(ctx, log.reader(), options)
		return err
	})
	return r, err
}

// Became implements console.Operations.
func (o *operations) Became(ctx context.Context, run string) (console.Aftermath, error) {
	p := o.silent()
	s, err := p.runStatus(ctx, o.cfg, run)
	if err != nil {
		return console.Aftermath{}, err
	}
	if err := s.readAudit(ctx, p, o.cfg, o.keys, o.logs); err != nil {
		s.NoAudit = err.Error()
	}
	s.conclude()
	after := console.Aftermath{
		Answer: s.Answer, Back: s.Back, Decided: s.undecided() == 0,
		Counts: []console.Count{
			{N: s.Waiting, Text: "waiting or in flight"},
			{N: s.Deferred, Text: "deferred: they come back by themselves"},
			{N: s.Scheduled, Text: "waiting for their date"},
		},
	}
	if s.Unseen != "" {
		after.Notes = append(after.Notes, s.Unseen)
	}
	if s.Audit == nil {
		after.Notes = append(after.Notes, s.NoAudit+": how the others ended is not known here")
		return after, nil
	}
	for _, outcome := range byCount(s.Audit.Outcomes) {
		if outcome != "dead_lettered" { // Back has them
			after.Counts = append(after.Counts, console.Count{N: s.Audit.Outcomes[outcome], Text: outcome})
		}
	}
	return after, nil
}
