package publish

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/audit"
)

// maxUnpublished bounds the decisions that wait to be published. The Recorder drops further ones
// and counts them.
const maxUnpublished = 10_000

// Recorder keeps the worker's audit log. If it cannot keep the log, it counts the failures and logs
// the first one, and the worker goes on: sessions must be revoked all the same.
type Recorder struct {
	log     *zap.Logger
	count   func(where string, n int)
	file    *audit.Log
	sender  Sender
	pending chan announcement
	done    sync.WaitGroup
	ctx     context.Context // ends publishing
	stop    context.CancelFunc

	mu      sync.Mutex
	failing map[string]bool // by where
}

// NewRecorder opens the file and, if there is a topic, makes a sender and starts to publish. It
// connects to nothing yet. It calls count with "file" or "topic" and the number of records that
// were not kept; count must be safe for concurrent use.
func NewRecorder(
	cfg Config, client *azservicebus.Client, stdout io.Writer, log *zap.Logger, count func(where string, n int),
) (*Recorder, error) {
	r := &Recorder{log: log, count: count, failing: map[string]bool{}}
	var err error
	if r.file, err = openFile(cfg.File, cfg.KeyFile, stdout); err != nil {
		return nil, err
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	if cfg.Topic != "" {
		sender, err := client.NewSender(cfg.Topic, nil)
		if err != nil {
			r.stop()
			return nil, fmt.Errorf("audit.topic: %w", err)
		}
		r.sender, r.pending = sender, make(chan announcement, maxUnpublished)
		r.done.Go(r.publish)
	}
	return r, nil
}

// Enabled reports whether there is a file or a topic.
func (r *Recorder) Enabled() bool { return r.file != nil || r.sender != nil }

// Record keeps a decision. It waits for the file, but not for the topic. It is safe for concurrent
// use.
func (r *Recorder) Record(d audit.Decision) {
	var receipt *audit.Receipt
	if r.file != nil {
		written, err := r.file.Write(d)
		if r.report("file", err, 1); err == nil {
			receipt = &written
		}
	}
	if r.sender == nil || decisionType(d) == "" {
		return
	}
	select {
	case r.pending <- announcement{decisionType(d), d.Source, d.Reason, d.Time, decisionData{d, receipt}}:
	default:
		r.report("topic", fmt.Errorf("%d decisions wait to be published already; this one is dropped", maxUnpublished), 1)
	}
}

// Close publishes the decisions that wait, for at most the given time, and ends the file's chain.
// No call of Record may follow.
func (r *Recorder) Close(limit time.Duration) {
	defer r.stop()
	if r.pending != nil {
		close(r.pending)
		timer := time.AfterFunc(limit, r.stop)
		defer timer.Stop()
		r.done.Wait()
	}
	if r.file != nil {
		r.report("file", r.file.Close(), 1)
	}
}

// report counts failures. It logs the first failure after a success, and the first success after a
// failure.
func (r *Recorder) report(where string, err error, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil:
		r.count(where, n)
		if !r.failing[where] {
			r.log.Error("the audit log cannot be kept", zap.String("to", where), zap.Error(err))
		}
	case r.failing[where]:
		r.log.Info("the audit log is kept again", zap.String("to", where))
	}
	r.failing[where] = err != nil
}

// decisionType returns the type of the CloudEvent. It is empty for a decision that is not
// published: one that is not final, or that another message has had before.
func decisionType(d audit.Decision) string {
	switch d.Outcome {
	case "revoked":
		return "session.revoked"
	case "dead_lettered":
		return "session.revocation.failed"
	}
	return ""
}

// decisionData is a decision with the receipt of its record. A receipt that is kept elsewhere
// proves the file up to that record.
type decisionData struct {
	audit.Decision
	Receipt *audit.Receipt `json:"receipt,omitempty"`
}

// publish sends decisions in batches until the channel is closed.
func (r *Recorder) publish() {
	for first := range r.pending {
		batch := []announcement{first}
		for more := true; more && len(batch) < maxBatch; {
			select {
			case next, ok := <-r.pending:
				if more = ok; ok {
					batch = append(batch, next)
				}
			default:
				more = false
			}
		}
		r.report("topic", r.send(batch), len(batch))
	}
}

func (r *Recorder) send(batch []announcement) error {
	ctx, cancel := context.WithTimeout(r.ctx, publishTimeout)
	defer cancel()
	return send(ctx, r.sender, batch)
}
