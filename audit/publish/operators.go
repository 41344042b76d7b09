package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/audit"
)

// closeTimeout bounds the closing of an operator's link to Service Bus.
const closeTimeout = 2 * time.Second

// OperatorLog is the audit log of one operator's command. It is for one goroutine.
type OperatorLog struct {
	log    *audit.Log
	client *azservicebus.Client // nil without a topic
	sender Sender
	// pending waits for Flush to publish it.
	pending []announcement
}

// OpenOperatorLog opens the file beside the worker's and the link to the topic. It returns nil if
// neither is configured. connect makes the client, which Close closes; it is called only if there
// is a topic. A worker's standard output is a command's standard error, because the command's
// results go to standard output.
func OpenOperatorLog(
	ctx context.Context, cfg Config, stderr io.Writer, connect func() (*azservicebus.Client, error),
) (*OperatorLog, error) {
	if cfg.File == "" && cfg.Topic == "" {
		return nil, nil
	}
	l := &OperatorLog{}
	var err error
	if l.log, err = openFile(OperatorFile(cfg.File), cfg.KeyFile, stderr); err != nil {
		return nil, fmt.Errorf("%w; name a file that you may write by --audit.file (-operators is put into its name), "+
			"or keep no record by --audit.file= --audit.key_file=", err)
	}
	if cfg.Topic != "" {
		if err := l.openTopic(ctx, cfg.Topic, connect); err != nil {
			err = fmt.Errorf("audit.topic: %w; check that you may send to it, or publish no record by --audit.topic=", err)
			return nil, errors.Join(err, l.Close())
		}
	}
	return l, nil
}

func (l *OperatorLog) openTopic(ctx context.Context, topic string, connect func() (*azservicebus.Client, error)) (err error) {
	if l.client, err = connect(); err != nil {
		return err
	}
	if l.sender, err = l.client.NewSender(topic, nil); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	_, err = l.sender.NewMessageBatch(ctx, nil) // opens the link
	return err
}

// OperatorFile returns the name of the file in which operators' commands record what they do:
// audit-operators.ndjson for audit.ndjson. It is not the worker's file, because operators run as
// other users, who need no right to write that one.
func OperatorFile(name string) string {
	if name == "" || name == "-" {
		return name
	}
	extension := filepath.Ext(name)
	return strings.TrimSuffix(name, extension) + "-operators" + extension
}

// Add writes a record to the file, and keeps it for Flush.
func (l *OperatorLog) Add(o audit.Operation) error {
	var receipt *audit.Receipt
	if l.log != nil {
		written, err := l.log.WriteOperation(o)
		if err != nil {
			return err
		}
		receipt = &written
	}
	if l.sender != nil {
		source := o.Source
		if source == "" {
			source = "operators"
		}
		l.pending = append(l.pending, announcement{operationType(o), source, o.Reason, o.Time, operationData{o, receipt}})
	}
	return nil
}

// operationData is an operation with the receipt of its record.
type operationData struct {
	audit.Operation
	Receipt *audit.Receipt `json:"receipt,omitempty"`
}

// operationType returns the type of the CloudEvent. The manual revocation of a user has the same
// types as the worker's.
func operationType(o audit.Operation) string {
	switch o.Outcome {
	case audit.Revoked:
		return "session.revoked"
	case audit.NotRevoked:
		return "session.revocation.failed"
	}
	return "operator." + strings.ReplaceAll(o.Command, " ", ".")
}

// Flush puts the records on the disk and publishes them. It goes on when ctx ends, because the
// records must be kept; each batch has its own time limit.
func (l *OperatorLog) Flush(ctx context.Context) error {
	var err error
	if l.log != nil {
		err = l.log.Sync()
	}
	for batch := range slices.Chunk(l.pending, maxBatch) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTimeout)
		err = errors.Join(err, send(ctx, l.sender, batch))
		cancel()
	}
	l.pending = nil
	return err
}

// Close ends the chain and closes the link.
func (l *OperatorLog) Close() error {
	var err error
	if l.log != nil {
		err = l.log.Close()
	}
	if l.client != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		_ = l.client.Close(ctx) // Flush has sent everything, or reported it
	}
	return err
}
