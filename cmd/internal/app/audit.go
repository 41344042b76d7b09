package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/telemetry"
	"github.com/session-revoker/session-revoker/trail"
)

const (
	// maxUnpublished bounds the decisions that wait to be published; what comes beyond is dropped, and counted.
	maxUnpublished = 10_000
	// publishTimeout bounds one batch.
	publishTimeout = 15 * time.Second
)

// auditor keeps the audit trail: in a file, on a topic, or both. A trail that cannot be kept stops nobody from being signed out; it is
// counted, and logged once until it can be kept again.
type auditor struct {
	log     *zap.Logger
	metrics *telemetry.Metrics
	file    *os.File // nil when it is standard output, or none
	trail   *trail.Trail
	sender  *azservicebus.Sender
	pending chan trail.Decision
	done    sync.WaitGroup
	ctx     context.Context // ends publishing
	stop    context.CancelFunc

	mu      sync.Mutex
	failing map[string]bool // by where
}

// newAuditor opens the file and, if topic is not "", a sender to it. It connects to nothing yet. name is "" for no file and - for stdout.
func newAuditor(name, topic string, client *azservicebus.Client, stdout io.Writer, log *zap.Logger, metrics *telemetry.Metrics) (*auditor, error) {
	a := &auditor{log: log, metrics: metrics, failing: map[string]bool{}}
	a.ctx, a.stop = context.WithCancel(context.Background())
	switch name {
	case "":
	case "-":
		a.trail = trail.New(stdout)
	default:
		file, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600) //nolint:gosec // the operator names the file
		if err != nil {
			return nil, fmt.Errorf("audit.file: %w", err)
		}
		a.file, a.trail = file, trail.New(file)
	}
	if topic != "" {
		sender, err := client.NewSender(topic, nil)
		if err != nil {
			return nil, fmt.Errorf("audit.topic: %w", err)
		}
		a.sender, a.pending = sender, make(chan trail.Decision, maxUnpublished)
		a.done.Go(a.publish)
	}
	return a, nil
}

// keep records a decision, or nothing when no trail is kept. It is safe for concurrent use, and waits for the file, not for the topic.
func (a *auditor) keep() func(trail.Decision) {
	if a.trail == nil && a.sender == nil {
		return nil
	}
	return func(d trail.Decision) {
		if a.trail != nil {
			a.told("file", a.trail.Write(d), 1)
		}
		if a.sender == nil || eventType(d) == "" {
			return
		}
		select {
		case a.pending <- d:
		default:
			a.told("topic", fmt.Errorf("%d decisions wait to be published already; this one is dropped", maxUnpublished), 1)
		}
	}
}

// told counts what could not be kept, and logs the first failure after a success and the first success after one.
func (a *auditor) told(where string, err error, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err != nil:
		a.metrics.AuditFailures.WithLabelValues(where).Add(float64(n))
		if !a.failing[where] {
			a.log.Error("the audit trail cannot be kept", zap.String("to", where), zap.Error(err))
		}
	case a.failing[where]:
		a.log.Info("the audit trail is kept again", zap.String("to", where))
	}
	a.failing[where] = err != nil
}

// eventType is what other systems are told of a decision; "" is nothing: it is not an end, or one that another message had before.
func eventType(d trail.Decision) string {
	switch d.Outcome {
	case "revoked":
		return "session.revoked"
	case "dead_lettered":
		return "session.revocation.failed"
	}
	return ""
}

// publish sends decisions in batches until the channel is closed.
func (a *auditor) publish() {
	for d := range a.pending {
		batch := []trail.Decision{d}
		for more := true; more && len(batch) < 100; {
			select {
			case next, ok := <-a.pending:
				if more = ok; ok {
					batch = append(batch, next)
				}
			default:
				more = false
			}
		}
		a.told("topic", a.send(batch), len(batch))
	}
}

func (a *auditor) send(decisions []trail.Decision) error {
	ctx, cancel := context.WithTimeout(a.ctx, publishTimeout)
	defer cancel()
	batch, err := a.sender.NewMessageBatch(ctx, nil)
	if err != nil {
		return err
	}
	for _, d := range decisions {
		e := cloudevents.NewEvent()
		e.SetID(uuid.NewString())
		e.SetType(eventType(d))
		e.SetSource("session-revoker/" + d.Source)
		e.SetTime(d.Time)
		if err := e.SetData(cloudevents.ApplicationJSON, d); err != nil {
			return err
		}
		body, err := json.Marshal(e)
		if err != nil {
			return err
		}
		m := &azservicebus.Message{
			MessageID: new(e.ID()), ContentType: new("application/cloudevents+json"), Body: body,
			// What a subscription's rule can ask for.
			ApplicationProperties: map[string]any{"type": e.Type(), "reason": d.Reason},
		}
		if err := batch.AddMessage(m, nil); err != nil {
			return err // 100 of them are far below the limit
		}
	}
	return a.sender.SendMessageBatch(ctx, batch, nil)
}

// close publishes what waits, for at most closeTimeout, and ends the file's chain. No decision may come any more.
func (a *auditor) close() {
	defer a.stop()
	if a.pending != nil {
		close(a.pending)
		limit := time.AfterFunc(closeTimeout, a.stop)
		defer limit.Stop()
		a.done.Wait()
	}
	if a.trail != nil {
		a.told("file", a.trail.Close(), 1)
	}
	if a.file != nil {
		if err := a.file.Sync(); err == nil {
			_ = a.file.Close()
		}
	}
}
