package consumer

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/revoker"
)

// record writes the log line of a result, and counts it.
func (c *Consumer) record(m *message, r *result, todo action, settled bool) {
	c.deps.Metrics.Events.WithLabelValues(m.from.Entity, string(r.outcome), string(r.reason)).Inc()
	if r.outcome == revoked && m.EnqueuedTime != nil {
		c.observeLatency(m, max(0, r.attempt.Start.Add(r.attempt.Duration).Sub(*m.EnqueuedTime).Seconds()))
	}
	pooled := fieldPool.Get().(*[]zap.Field)
	fields := append(c.about((*pooled)[:0], m, &r.item),
		zap.String("outcome", string(r.outcome)),
		zap.String("settlement", string(todo)),
		zap.Bool("settled", settled && todo != leave),
		zap.Int("attempts", r.calls),
	)
	if r.reason != "" {
		fields = append(fields, zap.String("reason", string(r.reason)))
	}
	if !r.account.IsZero() {
		fields = append(fields, zap.String("account", c.user(r.account)))
	}
	if by := r.supersededBy(); by != 0 {
		fields = append(fields, zap.Int64("by", by))
	}
	if at := r.item.Event.TakesEffect; !at.IsZero() {
		fields = append(fields, zap.Time("takesEffect", at))
	}
	if r.scheduledAs != 0 {
		fields = append(fields, zap.Int64("scheduledAs", r.scheduledAs))
	}
	if len(r.canceled) > 0 {
		fields = append(fields, zap.Int64s("canceled", r.canceled))
	}
	if a := r.attempt; r.calls > 0 {
		fields = append(fields,
			zap.Int("status", a.Status),
			zap.Duration("duration", a.Duration),
			zap.String("requestId", deadletter.Cut(a.RequestID, 128)),
			zap.String("clientRequestId", a.ClientRequestID),
		)
	}
	if a := r.attempt; !a.ValidFromAfter.IsZero() {
		fields = append(fields, zap.Time("validFromBefore", a.ValidFromBefore), zap.Time("validFromAfter", a.ValidFromAfter))
	}
	if r.attempt.Unverified != "" {
		fields = append(fields, zap.String("unverified", r.attempt.Unverified))
	}
	if m.EnqueuedTime != nil {
		fields = append(fields, zap.Duration("sinceEnqueued", time.Since(*m.EnqueuedTime)))
	}
	if r.outcome == revoked && r.item.Event.User.UPN() == "" && r.account.UPN() == "" && r.attempt.ValidFromBefore.IsZero() {
		// An object id does not show whether the user is a guest. To revoke a guest's sessions
		// succeeds, and changes nothing.
		fields = append(fields, zap.String("external", "unknown"))
	}
	level := zapcore.InfoLevel
	if r.err != nil {
		fields = append(fields, zap.String("error", c.text(r.err)))
		level = zapcore.WarnLevel
	}
	c.deps.Log.Log(level, r.outcome.line(), fields...)
	clear(fields) // the pool must keep nothing of the message
	*pooled = fields
	fieldPool.Put(pooled)
}

// fieldPool keeps the memory of lines that were written: there is a line for each event.
var fieldPool = sync.Pool{New: func() any { return new([]zap.Field) }}

// aboutMessage appends the fields that identify the message. They are the same in every line.
func (c *Consumer) aboutMessage(fields []zap.Field, m *message) []zap.Field {
	fields = append(fields,
		zap.String("messageId", c.foreign(m.MessageID)),
		zap.String("source", m.from.Entity),
		zap.Uint32("deliveryCount", m.DeliveryCount),
	)
	if m.SequenceNumber != nil {
		fields = append(fields, zap.Int64("sequenceNumber", *m.SequenceNumber))
	}
	if run, ok := m.ApplicationProperties[deadletter.PropertyRun].(string); ok && run != "" {
		if _, err := uuid.Parse(run); err != nil { // the worker did not write it
			run = c.foreign(run)
		}
		fields = append(fields, zap.String("replay", deadletter.Cut(run, 64)))
	}
	if only := deadletter.Only(m.ReceivedMessage); len(only) > 0 {
		fields = append(fields, zap.Ints("onlyEvents", only)) // the log must show that the others are left out
	}
	return append(fields, m.traceFields()...)
}

// about appends the fields that identify the event. They are the same in every line.
func (c *Consumer) about(fields []zap.Field, m *message, item *event.Item) []zap.Field {
	kind := deadletter.Cut(item.Event.Type, 128)
	if item.Err != nil { // otherwise the type is on the allow-list
		kind = c.foreign(kind)
	}
	fields = append(c.aboutMessage(fields, m),
		zap.Int("event", item.Index),
		zap.String("eventId", c.foreign(item.Event.ID)),
		zap.String("eventType", kind),
		zap.String("user", c.user(item.Named())),
	)
	if item.Event.Mapping != "" { // paths of fields come from mappings and name nobody
		fields = append(fields, zap.String("mapping", item.Event.Mapping))
	}
	if item.Event.Field != "" {
		fields = append(fields, zap.String("field", deadletter.Cut(item.Event.Field, 256)))
	}
	if item.Event.TimeUnread { // its age is not known, and events.max_age does not refuse it
		fields = append(fields, zap.Bool("timeUnread", true))
	}
	return fields
}

// user returns the user in the form in which the log may show them.
func (c *Consumer) user(u event.User) string {
	if !c.cfg.HashUsers || u.IsZero() {
		return u.Name()
	}
	return shortHash(u.Key())
}

// foreign returns an id or type that a producer chose in the form in which logs and traces may show
// it: it can name the user.
func (c *Consumer) foreign(text string) string {
	if !c.cfg.HashUsers || text == "" {
		return deadletter.Cut(text, 128)
	}
	return shortHash(text)
}

// shortHash returns a hash that is long enough to recognize the text by.
func shortHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:8])
}

// text returns the error in the form in which the log may show it: texts from outside can name the
// user.
func (c *Consumer) text(err error) string {
	if c.cfg.HashUsers {
		var failure *revoker.Error
		var invalid *event.Error
		switch {
		case errors.As(err, &failure):
			return failure.Brief()
		case errors.As(err, &invalid):
			return invalid.Field + ": not accepted"
		}
	}
	return deadletter.Cut(err.Error(), deadletter.MaxDescription)
}
