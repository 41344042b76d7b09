package replay

import (
	"context"
	"iter"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/deadletter"
)

// RunState counts where the messages of a replay or import are. Messages that are nowhere have been
// completed, so their people are signed out, or another message stands for them.
type RunState struct {
	Run string `json:"run"`
	// By and At say who ran it, and when the last message was sent, as the messages say (RFC 3339).
	By string `json:"by,omitempty"`
	At string `json:"at,omitempty"`
	// Waiting messages are in the queue or in flight. Deferred messages were set aside by the worker,
	// and Scheduled messages wait for their date.
	Waiting   int `json:"waiting"`
	Deferred  int `json:"deferred"`
	Scheduled int `json:"scheduled"`
	// Back counts the messages that are dead letters again, by reason.
	Back map[string]int `json:"deadLettersAgain"`

	seen map[runMessage]*int // those that were not dead letters, with where they are counted
}

type runMessage struct {
	source   string
	sequence int64
}

// NewRunState returns the state of a run of which no message was found yet.
func NewRunState(run string) *RunState {
	return &RunState{Run: run, Back: map[string]int{}, seen: map[runMessage]*int{}}
}

// DeadLetters returns the number of messages that are dead letters again.
func (s *RunState) DeadLetters() (n int) {
	for _, count := range s.Back {
		n += count
	}
	return n
}

// Add counts a message that FindRun has found. The messages of a queue must be added before its dead
// letters: one that is dead-lettered in between is found twice, and counts as a dead letter.
func (s *RunState) Add(found Found, dead bool) {
	if found.ReplayedAt >= s.At {
		s.By, s.At = found.ReplayedBy, found.ReplayedAt
	}
	key := runMessage{found.Source, found.SequenceNumber}
	before := s.seen[key]
	switch {
	case dead && before != nil:
		*before--
		delete(s.seen, key)
		s.Back[found.Reason]++
	case dead:
		s.Back[found.Reason]++
	case before == nil:
		s.seen[key] = s.counter(found)
		*s.seen[key]++
	}
}

// counter returns the count of messages in the same state.
func (s *RunState) counter(found Found) *int {
	switch found.Message.State {
	case azservicebus.MessageStateDeferred:
		return &s.Deferred
	case azservicebus.MessageStateScheduled:
		return &s.Scheduled
	}
	return &s.Waiting
}

// FindRun peeks at the messages of a run: at the dead letters, or, if dead is false, at the messages
// of the queue itself, of which q.Receiver must be a receiver then. It looks through all others, too.
//
// Anyone who may send to the queue can claim a run.
func (q *Queue) FindRun(ctx context.Context, run string, dead bool) iter.Seq2[Found, error] {
	mine := *q
	mine.deferred = !dead
	return mine.scan(ctx, Filter{}, func(m *azservicebus.ReceivedMessage) bool {
		r, ok := deadletter.ReadReplays(m)
		return ok && strings.EqualFold(r.Run, run)
	})
}
