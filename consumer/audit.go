package consumer

import (
	"time"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/deadletter"
)

// comesAgain reports whether the result must not be recorded now, because it is recorded another
// time. When a message is deferred, only successful attempts are recorded; when it comes back,
// everything else is.
func (r result) comesAgain(todo action) bool {
	if r.outcome == revoked {
		return r.decidedBefore
	}
	return todo == deferral
}

// audit records the decision about each event in the audit log, before the message is settled. A
// message that comes again is decided and recorded again; a message that is gone has its record. Of
// a message that is deferred only the successful attempts are recorded: when it comes back, their
// events are decided already, and no other record would show the attempts.
func (c *Consumer) audit(m *message, results []result, todo action) {
	if c.deps.Auditor == nil {
		return
	}
	for _, r := range results {
		if !r.comesAgain(todo) {
			c.deps.Auditor.Record(m.auditRecord(r))
		}
	}
}

// decision returns the record of a result.
func (m *message) auditRecord(r result) audit.Decision {
	event := r.item.Event
	d := audit.Decision{
		Time:              time.Now().UTC(),
		Outcome:           string(r.outcome),
		Reason:            string(r.reason),
		UserID:            event.User.ID(),
		UserPrincipalName: event.User.UPN(),
		Source:            m.from.Entity,
		MessageID:         deadletter.Cut(m.MessageID, 128),
		Event:             r.item.Index,
		EventID:           deadletter.Cut(event.ID, 128),
		EventType:         deadletter.Cut(event.Type, 128),
		EventSource:       deadletter.Cut(event.Source, 256),
		EventTime:         event.Time,
		Calls:             r.calls,
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
		d.ValidFromBefore, d.ValidFromAfter, d.Unverified = a.ValidFromBefore, a.ValidFromAfter, a.Unverified
	}
	if r.err != nil {
		d.Error = deadletter.Cut(r.err.Error(), deadletter.MaxDescription)
	}
	if r.outcome == superseded {
		d.SupersededBy = r.event.Result().By.Sequence
	}
	return d
}
