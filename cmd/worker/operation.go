package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/pflag"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/audit/publish"
	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/deadletter"
)

// Operators' commands write audit records: who, when, what and why. A command first records what it
// is about to do. These records must be on the disk and published before it does anything, so a
// command that is killed leaves them. Without audit.file and audit.topic, there are no records.

// operation writes the records of one run. It must not be used concurrently. The methods of a nil
// operation do nothing.
type operation struct {
	log  *publish.OperatorLog
	base audit.Operation
	err  error // the error of the first record that was lost
}

// maxWhy limits what an operator says, in bytes. maxMessages limits the list of messages in one
// record, in bytes, and maxUsers limits its list of users.
const (
	maxWhy      = 1024
	maxMessages = 32 << 10
	maxUsers    = 500
)

// because registers the flags for who and why. why is the name of the latter: the dead-letter
// commands use --why, because their --reason is a filter.
func because(fs *pflag.FlagSet, base *audit.Operation, why string) {
	fs.StringVar(&base.Why, why, "", "why, for the audit log")
	if fs.Lookup("by") == nil {
		fs.StringVar(&base.By, "by", "", "who, for the audit log (default: you, as user@host)")
	}
}

// begin opens the audit log, before anything is done. It returns nil if none is configured, and an
// error if it cannot be written.
func (p *program) begin(ctx context.Context, cfg config.Config, base audit.Operation) (*operation, error) {
	log, err := app.OpenOperatorLog(ctx, cfg, p.stderr)
	if err != nil {
		return nil, fail(exitFailed, "nothing was done, because it could not be recorded: %v", err)
	}
	if log == nil {
		return nil, nil
	}
	base.By, base.Account = deadletter.Cut(operator(base.By), 256), operator("")
	base.Why = deadletter.Cut(base.Why, maxWhy)
	if base.Run == "" {
		base.Run = uuid.NewString()
	}
	return &operation{log: log, base: base}, nil
}

// fill adds what all records of the run have in common.
func (o *operation) fill(r audit.Operation) audit.Operation {
	r.Time, r.Command, r.Run = time.Now().UTC(), o.base.Command, o.base.Run
	r.By, r.Account, r.Why = o.base.By, o.base.Account, o.base.Why
	return r
}

// start records what is about to be done. If it fails, nothing may be done.
func (o *operation) start(ctx context.Context, records ...audit.Operation) error {
	if o == nil {
		return nil
	}
	var err error
	for _, r := range records {
		r.Outcome = audit.Started
		err = errors.Join(err, o.log.Add(o.fill(r)))
	}
	if err = errors.Join(err, o.log.Flush(ctx)); err != nil {
		return fail(exitFailed, "nothing was done, because it could not be recorded: %v", err)
	}
	return nil
}

// add records something that was done. If that fails, the command continues, and close returns the
// error.
func (o *operation) add(r audit.Operation) {
	if o == nil {
		return
	}
	if err := o.log.Add(o.fill(r)); o.err == nil {
		o.err = err
	}
}

// done records the result of what start has announced.
func (o *operation) done(r audit.Operation, failed error) {
	r.Outcome = audit.Done
	if failed != nil {
		r.Outcome, r.Error = audit.Failed, deadletter.Cut(failed.Error(), deadletter.MaxDescription)
	}
	maps.DeleteFunc(r.Counts, func(_ string, n int) bool { return n == 0 })
	o.add(r)
}

// notDone returns an error if fewer were done than there were.
func notDone(done, of int) error {
	if done < of {
		return fmt.Errorf("not done: %d of %d", of-done, of)
	}
	return nil
}

// close closes the audit log. It returns err, the command's own error, together with the error of a
// record that was lost.
func (o *operation) close(ctx context.Context, err error) error {
	if o == nil {
		return err
	}
	if kept := errors.Join(o.err, o.log.Flush(ctx), o.log.Close()); kept != nil {
		kept = fail(exitFailed, "the audit log is incomplete: %v", kept)
		if err == nil {
			return kept
		}
		if classed, ok := errors.AsType[*exitError](err); ok { // keep its exit code
			return fail(classed.code, "%v\n%v", err, kept)
		}
		return fmt.Errorf("%w\n%w", err, kept)
	}
	return err
}

// listing returns records that list the messages: as many as are needed to keep each one short.
func listing(r audit.Operation, sequences []int64) []audit.Operation {
	slices.Sort(sequences)
	var records []audit.Operation
	var text strings.Builder
	count := 0
	flush := func() {
		r.Messages, r.Count = text.String(), count
		records = append(records, r)
		text.Reset()
		count = 0
	}
	for i := 0; i < len(sequences); {
		end := i
		for end+1 < len(sequences) && sequences[end+1] == sequences[end]+1 {
			end++
		}
		if text.Len() > maxMessages {
			flush()
		}
		if text.Len() > 0 {
			text.WriteByte(',')
		}
		text.WriteString(strconv.FormatInt(sequences[i], 10))
		if end > i {
			text.WriteString("-" + strconv.FormatInt(sequences[end], 10))
		}
		count += end + 1 - i
		i = end + 1
	}
	if count > 0 || len(records) == 0 {
		flush()
	}
	return records
}
