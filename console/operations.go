package console

import (
	"context"
	"errors"
	"time"

	"github.com/session-revoker/session-revoker/audit/history"
	"github.com/session-revoker/session-revoker/audit/report"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/replay"
	"github.com/session-revoker/session-revoker/status"
)

// Operations is what the console shows of a deployment and can do there. Its methods are safe for
// concurrent use, and their errors are sentences for operators.
type Operations interface {
	// Sources are the queues and subscriptions, in the order of their priority.
	Sources() []string
	// Queues peeks at the first messages of each source and counts them.
	Queues(ctx context.Context) []status.Queue
	// EachLetter peeks at all dead letters and calls each with one after the other, in the order of
	// sources and sequence numbers.
	EachLetter(ctx context.Context, each func(replay.Letter) error) error
	// Letter peeks at one dead letter. The error is ErrNoLetter if there is none.
	Letter(ctx context.Context, source string, sequence int64) (replay.Record, error)

	// PlanReplay, PlanPurge, PlanEdit and PlanRelease preview a change and make none. by names the
	// operator.
	PlanReplay(ctx context.Context, by string, p Pick) (*Change, error)
	PlanPurge(ctx context.Context, by string, p Pick) (*Change, error)
	// PlanEdit previews sending one dead letter with another body.
	PlanEdit(ctx context.Context, by, source string, sequence int64, body string) (*Change, error)
	// PlanRelease previews a release of the volume guard.
	PlanRelease(ctx context.Context, by string, r guard.Release) (*Change, error)

	// History tells what happened about one person. The error is ErrNoLog if there is no audit log.
	History(ctx context.Context, user event.User) (history.History, error)
	// Report tells how long it took. The error is ErrNoLog if there is no audit log.
	Report(ctx context.Context, o report.Options) (report.Report, error)
	// Became tells what became of the messages that a run sent. It looks through all messages, so it
	// may take seconds.
	Became(ctx context.Context, run string) (Aftermath, error)
}

// ErrNoLetter means that a dead letter is not there: it was replayed or purged, or never was.
var ErrNoLetter = errors.New("there is no such dead letter: it was replayed or purged")

// Pick says which dead letters are meant.
type Pick struct {
	// Source is the queue or subscription, or "" for all.
	Source string
	Filter replay.Filter
}

// Kind is a kind of change.
type Kind string

// The kinds.
const (
	Replay  Kind = "replay"
	Purge   Kind = "purge"
	Edit    Kind = "edit"
	Release Kind = "release"
)

// Change is a change that was previewed and not made yet. It is about exactly what was there at the
// preview.
type Change struct {
	Kind Kind
	// Total is the number of messages, or of people who may be signed out. Confirm is what the
	// operator must type.
	Total   int
	Confirm string
	// Summary says in one sentence what will happen, Warnings what is probably not meant, and Notes
	// what else matters.
	Summary  string
	Warnings []string
	Notes    []string
	// Reasons counts the dead letters by reason. First are the first few of them.
	Reasons map[string]int
	First   []replay.Letter
	// Before and After are the bodies of an edit, in the form that people read.
	Before, After string
	// Make makes the change. why is for the audit log. progress tells how far it is; calls may overlap.
	// The outcome is valid in any case. If ctx ends, Make finishes what is in flight and returns.
	Make func(ctx context.Context, why string, progress func(Progress)) Outcome
}

// Progress is how far a change is.
type Progress struct {
	// Done counts the messages that were just finished.
	Done int
	// Waiting is the number of messages that are locked by somebody else, if it is not 0.
	Waiting int
}

// Outcome is what a change has done.
type Outcome struct {
	// Run identifies the messages that the change sent, and its records in the audit log.
	Run string
	// Counts say what happened to how many messages.
	Counts []Count
	// Problems are the reasons for the first few messages that were not handled.
	Problems []string
	// File is the file that was written, if any. Text is what the operator must apply themselves.
	File, Text string
	// Err is what went wrong, or nil.
	Err error
}

// Count is a number of messages, and a text without a verb, which is right for one and for many.
type Count struct {
	N    int
	Text string
}

// Aftermath is what became of the messages that a run sent.
type Aftermath struct {
	// Answer is one sentence. Notes say what is not known.
	Answer string
	Notes  []string
	// Counts say where messages are, or how their events ended. Back counts those that are dead
	// letters again, by reason.
	Counts []Count
	Back   map[string]int
	// Decided means that no message waits any more.
	Decided bool
}

// MaxFirst is the number of dead letters that a preview lists.
const MaxFirst = 10

// maxEdit is the size of the largest body that can be edited, in bytes: the largest message of
// Service Bus' Standard tier.
const maxEdit = 256 << 10

// previewLife is how long a preview can be confirmed.
const previewLife = 15 * time.Minute
