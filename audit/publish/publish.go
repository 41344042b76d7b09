// Package publish keeps the audit log of a process: in a file, on a Service Bus topic as
// CloudEvents, or both.
package publish

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/google/uuid"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/event"
)

const (
	// publishTimeout bounds one batch.
	publishTimeout = 15 * time.Second
	// maxBatch is how many announcements one batch holds. Together they are far below the size
	// limit of a message.
	maxBatch = 100
)

// Config says where the audit log is kept. Each field may be empty.
type Config struct {
	// File is the name of the file; "-" is standard output.
	File string
	// KeyFile is the name of the file with the key of the chain.
	KeyFile string
	// Topic is the queue or topic.
	Topic string
}

// Sender is the part of azservicebus.Sender that is used.
type Sender interface {
	NewMessageBatch(ctx context.Context, options *azservicebus.MessageBatchOptions) (*azservicebus.MessageBatch, error)
	SendMessageBatch(ctx context.Context, batch *azservicebus.MessageBatch, options *azservicebus.SendMessageBatchOptions) error
}

// openFile begins a chain in the file of the given name. It returns nil if the name is empty.
func openFile(name, keyFile string, stdout io.Writer) (*audit.Log, error) {
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
	log, err := audit.Open(name, key)
	if err != nil {
		return nil, fmt.Errorf("audit.file: %w", err)
	}
	return log, nil
}

// announcement is a record for other systems.
type announcement struct {
	eventType, source, reason string
	time                      time.Time
	data                      any
}

// message returns the announcement as a CloudEvent.
func (a announcement) message() (*azservicebus.Message, error) {
	source := url.URL{Path: "session-revoker/" + a.source}
	e := event.NewCloudEvent(uuid.NewString(), source.String(), a.eventType, a.time, a.data)
	body, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	return &azservicebus.Message{
		MessageID:   new(e.ID),
		ContentType: new(event.CloudEventContentType),
		Body:        body,
		// The rules of subscriptions can filter by these.
		ApplicationProperties: map[string]any{"type": e.Type, "reason": a.reason},
	}, nil
}

// send publishes at most maxBatch announcements.
func send(ctx context.Context, sender Sender, announcements []announcement) error {
	batch, err := sender.NewMessageBatch(ctx, nil)
	if err != nil {
		return err
	}
	for _, a := range announcements {
		m, err := a.message()
		if err != nil {
			return err
		}
		if err := batch.AddMessage(m, nil); err != nil {
			return err
		}
	}
	return sender.SendMessageBatch(ctx, batch, nil)
}
