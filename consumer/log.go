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

// record writes the one line, and counts the one metric, of an event's end.
func (c *Consumer) record(m *message, r result, todo action, settled bool) {
	c.Metrics.Events.WithLabelValues(m.from.Entity, string(r.outcome), string(r.reason)).Inc()
	if r.outcome == revoked && m.EnqueuedTime != nil {
		c.observeLatency(m, max(0, r.attempt.Start.Add(r.attempt.Duration).Sub(*m.EnqueuedTime).Seconds()))
	}
	pooled := fieldPool.Get().(*[]zap.Field)
	fields := append(c.about((*pooled)[:0], m, r.item),
		zap.String("outcome", string(r.outcome)),
		zap.String("settlement", string(todo)),
		zap.Bool("settled", settled && todo != leave),
		zap.Int("attempts", r.calls),
	)
	if r.reason != "" {
		fields = append(fields, zap.String("reason", string(r.reason)))
	}
	if r.outcome == superseded {
		fields = append(fields, zap.Int64("by", r.event.Result().By.Sequence))
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
		fields = append(fields, zap.String("proof", r.attempt.Unverified))
	}
	if m.EnqueuedTime != nil {
		fields = append(fields, zap.Duration("sinceEnqueued", time.Since(*m.EnqueuedTime)))
	}
	if r.outcome == revoked && r.item.Event.User.UPN() == "" && r.attempt.ValidFromBefore.IsZero() {
		// An object id does not show a guest, whose revocation succeeds and changes nothing.
		fields = append(fields, zap.String("external", "unknown"))
	}
	level := zapcore.InfoLevel
	if r.err != nil {
		fields = append(fields, zap.String("error", c.text(r.err)))
		level = zapcore.WarnLevel
	}
	c.Log.Log(level, "event "+string(r.outcome), fields...)
	clear(fields) // keep nothing of the message
	*pooled = fields
	fieldPool.Put(pooled)
}

// fieldPool keeps the fields of lines that are written, to be used again: there is a line for each event.
var fieldPool = sync.Pool{New: func() any { return new([]zap.Field) }}

// aboutMessage adds what names the message, the same way in every line.
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
		if _, err := uuid.Parse(run); err != nil { // ours always is one
			run = c.foreign(run)
		}
		fields = append(fields, zap.String("replay", deadletter.Cut(run, 64)))
	}
	if only := deadletter.Only(m.ReceivedMessage); len(only) > 0 {
		fields = append(fields, zap.Ints("onlyEvents", only)) // that it left the others out can always be seen
	}
	return append(fields, m.traceFields()...)
}

// about adds what names the event, the same way in every line.
func (c *Consumer) about(fields []zap.Field, m *message, item event.Item) []zap.Field {
	kind := deadletter.Cut(item.Event.Type, 128)
	if item.Err != nil { // else it is on the allow-list
		kind = c.foreign(kind)
	}
	return append(c.aboutMessage(fields, m),
		zap.Int("event", item.Index),
		zap.String("eventId", c.foreign(item.Event.ID)),
		zap.String("eventType", kind),
		zap.String("user", c.user(item.Event.User)),
	)
}

// user names the user in the log.
func (c *Consumer) user(u event.User) string {
	if !c.HashUsers || u.IsZero() {
		return u.Name()
	}
	return shortHash(u.Key())
}

// foreign is an id or type that a producer chose, as it may stand in the log and in traces: it can name the user.
func (c *Consumer) foreign(text string) string {
	if !c.HashUsers || text == "" {
		return deadletter.Cut(text, 128)
	}
	return shortHash(text)
}

func shortHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:8])
}

// text is the error as it may stand in the log: texts from outside can name the user.
func (c *Consumer) text(err error) string {
	if c.HashUsers {
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
