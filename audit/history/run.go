package history

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/audit"
)

// Run is what the audit log says about one run of dlq replay or dlq import, and about the messages
// that it sent.
type Run struct {
	ID string `json:"run"`
	// Command is empty if the log has no record of the command.
	Command string    `json:"command,omitempty"`
	By      string    `json:"by,omitempty"`
	Account string    `json:"account,omitempty"`
	Why     string    `json:"why,omitempty"`
	Began   time.Time `json:"began,omitzero"`
	// Ended is zero if the command has not ended, or was killed. Then Sent is not known.
	Ended time.Time `json:"ended,omitzero"`
	// Sent is the number of messages that were sent.
	Sent int `json:"sent"`
	// Outcomes counts the events of these messages by outcome, and Reasons those that were
	// dead-lettered again by reason.
	Outcomes map[string]int `json:"outcomes"`
	Reasons  map[string]int `json:"reasons"`
	// Log is the result of the check of the whole log.
	Log audit.Report `json:"log"`
}

// OfRun reads from the audit log what became of a run. The error is one of reading.
func OfRun(ctx context.Context, open Open, run string, options audit.Options) (Run, error) {
	r := Run{ID: run, Outcomes: map[string]int{}, Reasons: map[string]int{}}
	options.Each = r.entry
	log, err := open()
	if err != nil {
		return Run{}, err
	}
	r.Log, err = audit.Verify(audit.UntilDone(ctx, log), options)
	return r, errors.Join(err, log.Close())
}

func (r *Run) entry(e audit.Entry) {
	switch {
	case e.Decision != nil && strings.EqualFold(e.Decision.ReplayRun, r.ID):
		r.Outcomes[e.Decision.Outcome]++
		if e.Decision.Outcome == "dead_lettered" {
			r.Reasons[e.Decision.Reason]++
		}
	case e.Operation != nil && strings.EqualFold(e.Operation.Run, r.ID):
		r.operation(*e.Operation)
	}
}

// operation reads a record of the command. A replay of several queues has one of each kind for each
// queue.
func (r *Run) operation(o audit.Operation) {
	r.Command, r.By, r.Account, r.Why = o.Command, o.By, o.Account, o.Why
	if r.Began.IsZero() || o.Time.Before(r.Began) {
		r.Began = o.Time
	}
	if o.Outcome == audit.Done || o.Outcome == audit.Failed {
		r.Ended = later(r.Ended, o.Time)
		r.Sent += o.Counts["replayed"] + o.Counts["sentButNotCompleted"] + o.Counts["sent"]
	}
}
