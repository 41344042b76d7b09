package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/telemetry"
)

const (
	// maxUnpublished bounds the decisions that wait to be published; what comes beyond is dropped, and counted.
	maxUnpublished = 10_000
	// publishTimeout bounds one batch.
	publishTimeout = 15 * time.Second
)

// auditor keeps the audit log: in a file, on a topic, or both. A log that cannot be kept stops nobody from being signed out; it is
// counted, and logged once until it can be kept again.
type auditor struct {
	log     *zap.Logger
	metrics *telemetry.Metrics
	file    *audit.Log
	sender  *azservicebus.Sender
	pending chan announcement
	done    sync.WaitGroup
	ctx     context.Context // ends publishing
	stop    context.CancelFunc

	mu      sync.Mutex
	failing map[string]bool // by where
}

// newAuditor opens the file and, if there is a topic, a sender to it. It connects to nothing yet.
func newAuditor(cfg config.Audit, client *azservicebus.Client, stdout io.Writer, log *zap.Logger, metrics *telemetry.Metrics) (*auditor, error) {
	a := &auditor{log: log, metrics: metrics, failing: map[string]bool{}}
	a.ctx, a.stop = context.WithCancel(context.Background())
	var err error
	if a.file, err = openAuditLog(cfg.File, cfg.KeyFile, stdout); err != nil {
		return nil, err
	}
	if cfg.Topic != "" {
		sender, err := client.NewSender(cfg.Topic, nil)
		if err != nil {
			return nil, fmt.Errorf("audit.topic: %w", err)
		}
		a.sender, a.pending = sender, make(chan announcement, maxUnpublished)
		a.done.Go(a.publish)
	}
	return a, nil
}

// openAuditLog begins a chain in the file that name names, with the key in keyFile: "" is none, and name - is stdout.
func openAuditLog(name, keyFile string, stdout io.Writer) (*audit.Log, error) {
	var key audit.Key
	var err error
	if keyFile != "" {
		if key, err = audit.ReadKey(keyFile); err != nil {
			return nil, fmt.Errorf("audit.key_file: %w", err)
		}
	}
	switch name {
	case "":
		return nil, nil
	case "-":
		return audit.New(stdout, key), nil
	}
	t, err := audit.Open(name, key)
	if err != nil {
		return nil, fmt.Errorf("audit.file: %w", err)
	}
	return t, nil
}

// keep records a decision, or nothing when no audit log is kept. It is safe for concurrent use, and waits for the file, not for the topic.
func (a *auditor) keep() func(audit.Decision) {
	if a.file == nil && a.sender == nil {
		return nil
	}
	return func(d audit.Decision) {
		var receipt *audit.Receipt
		if a.file != nil {
			written, err := a.file.Write(d)
			if a.report("file", err, 1); err == nil {
				receipt = &written
			}
		}
		if a.sender == nil || eventType(d) == "" {
			return
		}
		select {
		case a.pending <- announcement{eventType(d), d.Source, d.Reason, d.Time, decisionData{d, receipt}}:
		default:
			a.report("topic", fmt.Errorf("%d decisions wait to be published already; this one is dropped", maxUnpublished), 1)
		}
	}
}

// report counts what could not be kept, and logs the first failure after a success and the first success after one.
func (a *auditor) report(where string, err error, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err != nil:
		a.metrics.AuditFailures.WithLabelValues(where).Add(float64(n))
		if !a.failing[where] {
			a.log.Error("the audit log cannot be kept", zap.String("to", where), zap.Error(err))
		}
	case a.failing[where]:
		a.log.Info("the audit log is kept again", zap.String("to", where))
	}
	a.failing[where] = err != nil
}

// eventType is what other systems are told of a decision; "" is nothing: it is not an end, or one that another message had before.
func eventType(d audit.Decision) string {
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
	for one := range a.pending {
		batch := []announcement{one}
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
		a.report("topic", a.send(batch), len(batch))
	}
}

func (a *auditor) send(all []announcement) error {
	ctx, cancel := context.WithTimeout(a.ctx, publishTimeout)
	defer cancel()
	return announce(ctx, a.sender, all)
}

// announcement is what other systems are told, as a CloudEvent.
type announcement struct {
	kind, source, reason string
	time                 time.Time
	data                 any
}

// decisionData is a decision with the receipt of its record: kept elsewhere, that proves the file up to there.
type decisionData struct {
	audit.Decision
	Receipt *audit.Receipt `json:"receipt,omitempty"`
}

// announce sends at most 100 announcements.
func announce(ctx context.Context, sender *azservicebus.Sender, all []announcement) error {
	batch, err := sender.NewMessageBatch(ctx, nil)
	if err != nil {
		return err
	}
	for _, one := range all {
		e := event.NewCloudEvent(uuid.NewString(), "session-revoker/"+one.source, one.kind, one.time, one.data)
		body, err := json.Marshal(e)
		if err != nil {
			return err
		}
		m := &azservicebus.Message{
			MessageID: new(e.ID), ContentType: new(event.CloudEventContentType), Body: body,
			// What a subscription's rule can ask for.
			ApplicationProperties: map[string]any{"type": e.Type, "reason": one.reason},
		}
		if err := batch.AddMessage(m, nil); err != nil {
			return err // 100 of them are far below the limit
		}
	}
	return sender.SendMessageBatch(ctx, batch, nil)
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
	if a.file != nil {
		a.report("file", a.file.Close(), 1)
	}
}
