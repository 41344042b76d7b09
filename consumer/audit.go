package consumer

import (
	"time"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/deadletter"
)

// recorded says that a result is not to be recorded now: of a message that is set aside only the attempts that have succeeded
// are, and those were when it comes back.
func (r result) recorded(todo action) bool {
	return r.outcome == revoked && r.again || r.outcome != revoked && todo == deferral
}

// audit records what was decided about each event. It comes before the settlement: a message that comes again is decided again, and
// recorded again; one that is gone has its record. Of a message that is set aside only the attempts that have succeeded are:
// when it comes back these events are covered, and nothing else would tell of the attempts.
func (c *Consumer) audit(m *message, results []result, todo action) {
	if c.Audit == nil {
		return
	}
	for _, r := range results {
		if r.recorded(todo) {
			continue
		}
		event := r.item.Event
		d := audit.Decision{
			Time: time.Now().UTC(), Outcome: string(r.outcome), Reason: string(r.reason),
			UserID: event.User.ID(), UserPrincipalName: event.User.UPN(),
			Source: m.from.Entity, MessageID: deadletter.Cut(m.MessageID, 128), Event: r.item.Index,
			EventID: deadletter.Cut(event.ID, 128), EventType: deadletter.Cut(event.Type, 128), EventSource: deadletter.Cut(event.Source, 256), EventTime: event.Time,
			Calls: r.calls,
		}
		if m.SequenceNumber != nil {
			d.SequenceNumber = *m.SequenceNumber
		}
		if m.EnqueuedTime != nil {
			d.Enqueued = m.EnqueuedTime.UTC()
		}
		if a := r.attempt; r.calls > 0 {
			d.CallStart, d.CallEnd = a.Start.UTC(), a.Start.Add(a.Duration).UTC()
			d.Status, d.RequestID, d.ClientRequestID = a.Status, deadletter.Cut(a.RequestID, 128), a.ClientRequestID
			d.ValidFromBefore, d.ValidFromAfter, d.Proof = a.ValidFromBefore, a.ValidFromAfter, a.Unverified
		}
		if r.err != nil {
			d.Error = deadletter.Cut(r.err.Error(), deadletter.MaxDescription)
		}
		if r.outcome == superseded {
			d.SupersededBy = r.event.Result().By.Sequence
		}
		c.Audit(d)
	}
}
