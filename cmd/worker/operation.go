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

// Audit records of operators' commands: who, when, what and why. Each begins with records of what is about to be done, which must be on
// the disk and published before anything is; one that is killed has left them. A command without audit.file and audit.topic keeps none.

// operation is the records of one run. One goroutine uses it. Its methods do nothing on a nil one.
type operation struct {
	log  *publish.OperatorLog
	base audit.Operation
	err  error // the first record that was not kept
}

// maxWhy bounds what an operator says, in bytes; maxListed what one record lists of messages, in bytes, and of users.
const (
	maxWhy      = 1024
	maxMessages = 32 << 10
	maxUsers    = 500
)

// because registers the flags that say who and why. The dead-letter commands call it --why: their --reason picks.
func because(fs *pflag.FlagSet, base *audit.Operation, why string) {
	fs.StringVar(&base.Why, why, "", "why, for the audit log")
	if fs.Lookup("by") == nil {
		fs.StringVar(&base.By, "by", "", "who, for the audit log (default: you, as user@host)")
	}
}

// begin opens the audit log, before anything is done: one that cannot be kept is an error. It is nil if none is configured.
func (p *program) begin(ctx context.Context, cfg config.Config, base audit.Operation) (*operation, error) {
	log, err := app.OpenOperatorLog(ctx, cfg, p.stderr)
	if err != nil {
		return nil, fail(exitFailed, "nothing was done, since it could not be recorded: %v", err)
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

// fill adds what all records of the run have.
func (o *operation) fill(r audit.Operation) audit.Operation {
	r.Time, r.Command, r.Run, r.By, r.Account, r.Why = time.Now().UTC(), o.base.Command, o.base.Run, o.base.By, o.base.Account, o.base.Why
	return r
}

// start records what is about to be done; nothing may be done if it fails.
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
		return fail(exitFailed, "nothing was done, since it could not be recorded: %v", err)
	}
	return nil
}

// add records something that was done. What cannot be recorded does not stop what goes on; close tells of it.
func (o *operation) add(r audit.Operation) {
	if o == nil {
		return
	}
	if err := o.log.Add(o.fill(r)); o.err == nil {
		o.err = err
	}
}

// done records what became of what start has announced.
func (o *operation) done(r audit.Operation, failed error) {
	r.Outcome = audit.Done
	if failed != nil {
		r.Outcome, r.Error = audit.Failed, deadletter.Cut(failed.Error(), deadletter.MaxDescription)
	}
	maps.DeleteFunc(r.Counts, func(_ string, n int) bool { return n == 0 })
	o.add(r)
}

// close ends the records. The result is the command's own error, and what could not be recorded.
func (o *operation) close(ctx context.Context, err error) error {
	if o == nil {
		return err
	}
	if kept := errors.Join(o.err, o.log.Flush(ctx), o.log.Close()); kept != nil {
		kept = fail(exitFailed, "the audit log lacks what was done: %v", kept)
		if err == nil {
			return kept
		}
		if classed, ok := errors.AsType[*exitError](err); ok { // its exit code stays
			return fail(classed.code, "%v\n%v", err, kept)
		}
		return fmt.Errorf("%w\n%w", err, kept)
	}
	return err
}

// listing makes records that list the messages, as many as it takes to keep each short.
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
