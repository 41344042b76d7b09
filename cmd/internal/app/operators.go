package app

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
	"github.com/session-revoker/session-revoker/config"
)

// OperatorLog is the audit log of one operator's command: in a file beside the worker's, on the same topic, or both. One goroutine uses it.
type OperatorLog struct {
	log    *audit.Log
	client *azservicebus.Client // nil: no topic
	sender *azservicebus.Sender
	// pending wait to be published by Flush.
	pending []announcement
}

// OpenOperatorLog opens the file and the link to the topic, and says what is wrong with them; nil if none is configured. The worker's
// standard output is a command's standard error: its results go to standard output.
func OpenOperatorLog(ctx context.Context, cfg config.Config, stderr io.Writer) (*OperatorLog, error) {
	if cfg.Audit.File == "" && cfg.Audit.Topic == "" {
		return nil, nil
	}
	l := &OperatorLog{}
	var err error
	if l.log, err = openAuditLog(OperatorFile(cfg.Audit.File), cfg.Audit.KeyFile, stderr); err != nil {
		return nil, fmt.Errorf("%w; name a file that you may write by --audit.file (-operators is put into its name), or keep no record by --audit.file= --audit.key_file=", err)
	}
	if cfg.Audit.Topic != "" {
		if err := l.openTopic(ctx, cfg); err != nil {
			return nil, errors.Join(fmt.Errorf("audit.topic: %w; check that you may send to it, or publish no record by --audit.topic=", err), l.Close())
		}
	}
	return l, nil
}

func (l *OperatorLog) openTopic(ctx context.Context, cfg config.Config) (err error) {
	if cfg.ServiceBus.ConnectionString == "" && cfg.ServiceBus.Namespace == "" {
		return errors.New("needs servicebus.namespace or a connection string")
	}
	if l.client, err = NewServiceBus(cfg); err != nil {
		return err
	}
	if l.sender, err = l.client.NewSender(cfg.Audit.Topic, nil); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	_, err = l.sender.NewMessageBatch(ctx, nil) // opens the link
	return err
}

// OperatorFile is where operators' commands record what they do, beside the worker's file: audit-operators.ndjson for audit.ndjson. It
// is another file since they run as another user, whom the worker need not let write its own.
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
		about := o.Source
		if about == "" {
			about = "operators"
		}
		l.pending = append(l.pending, announcement{operationType(o), about, o.Reason, o.Time, struct {
			audit.Operation
			Receipt *audit.Receipt `json:"receipt,omitempty"`
		}{o, receipt}})
	}
	return nil
}

// operationType: a manual revocation of one user is told as the worker's are.
func operationType(o audit.Operation) string {
	switch o.Outcome {
	case audit.Revoked:
		return "session.revoked"
	case audit.NotRevoked:
		return "session.revocation.failed"
	}
	return "operator." + strings.ReplaceAll(o.Command, " ", ".")
}

// Flush puts the records on the disk, and publishes them. It is not ended by ctx, but by a limit of its own.
func (l *OperatorLog) Flush(ctx context.Context) error {
	var err error
	if l.log != nil {
		err = l.log.Sync()
	}
	for batch := range slices.Chunk(l.pending, 100) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTimeout)
		err = errors.Join(err, announce(ctx, l.sender, batch))
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
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = l.client.Close(ctx) // everything is sent, or reported
	}
	return err
}
