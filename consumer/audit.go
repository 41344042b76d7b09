package consumer

import (
	"time"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/event"
)

// recordedNow reports whether the result must be recorded now. When a message is deferred, only its
// successful attempts are recorded, and whom it has just scheduled: they would be in no record for as
// long as the message has other events. When it comes back, everything else is.
func (r *result) recordedNow(todo action) bool {
	switch {
	case r.outcome == revoked:
		return !r.decidedBefore
	case r.outcome == scheduled && r.copiedNow:
		return true
	}
	return todo != deferral
}

// audit records the result of each event in the audit log, before the message is settled. So no
// message is gone without its record. A message that comes again gets new results and new records.
// If a message is deferred, only its successful attempts are recorded. When it comes back, their
// events have results already, and no other record would show the attempts.
func (c *Consumer) audit(m *message, results []result, todo action) {
	if c.deps.Auditor == nil {
		return
	}
	for i := range results {
		r := &results[i]
		if r.recordedNow(todo) {
			c.deps.Auditor.Record(m.auditRecord(r))
		}
	}
}

// auditRecord returns the record of a result.
func (m *message) auditRecord(r *result) audit.Decision {
	e, user := &r.item.Event, r.item.Named()
	d := audit.Decision{
		Time:              time.Now().UTC(),
		Outcome:           string(r.outcome),
		Reason:            string(r.reason),
		UserID:            user.ID(),
		UserPrincipalName: user.UPN(),
		Source:            m.from.Entity,
		MessageID:         deadletter.Cut(m.MessageID, 128),
		Event:             r.item.Index,
		EventID:           deadletter.Cut(e.ID, 128),
		EventType:         deadletter.Cut(e.Type, 128),
		EventSource:       deadletter.Cut(e.Source, 256),
		EventTime:         e.Time,
		Mapping:           e.Mapping,
		Field:             deadletter.Cut(e.Field, 256),
		Calls:             r.calls,
	}
	if by, _ := user.Lookup(); by != event.NoLookup {
		d.LookedUp = user.Name()
		d.UserID, d.UserPrincipalName = r.account.ID(), r.account.UPN()
	}
	if m.SequenceNumber != nil {
		d.SequenceNumber = *m.SequenceNumber
	}
	if m.EnqueuedTime != nil {
		d.Enqueued = m.EnqueuedTime.UTC()
	}
	if first := deadletter.FirstEnqueued(m.ReceivedMessage); first.Before(d.Enqueued) {
		d.FirstEnqueued = first
	}
	if replays, ok := deadletter.ReadReplays(m.ReceivedMessage); ok {
		d.ReplayRun = replays.Run
	}
	if a := r.attempt; r.calls > 0 {
		d.CallStart, d.CallEnd = a.Start.UTC(), a.Start.Add(a.Duration).UTC()
		d.Status, d.RequestID, d.ClientRequestID = a.Status, deadletter.Cut(a.RequestID, 128), a.ClientRequestID
		d.ValidFromBefore, d.ValidFromAfter, d.Unverified = a.ValidFromBefore, a.ValidFromAfter, a.Unverified
	}
	if r.err != nil {
		d.Error = deadletter.Cut(r.err.Error(), deadletter.MaxDescription)
	}
	d.SupersededBy = r.supersededBy()
	d.EffectiveTime, d.Withdrawn, d.ScheduledAs, d.Canceled = e.TakesEffect, e.Withdrawn, r.scheduledAs, r.canceled
	return d
}
