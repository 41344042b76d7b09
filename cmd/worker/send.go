package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/event"
)

func (p *program) sendCommand() *cobra.Command {
	var file, kind, id, producer, to, session string
	var perSecond float64
	var dryRun, noCheck bool
	cmd := &cobra.Command{
		Use:   "send [USER…]",
		Short: "Publish events to the queue",
		Long: `Publish events to the queue: one for each user given, as CloudEvents, or those of a
file: JSON objects one after the other (or one to a line), or arrays of them; each
object becomes a message. Events that the worker would refuse are refused here, and
then none is sent.`,
		Example: `  worker send --type device.stolen ada@contoso.com
  worker send --file events.ndjson
  worker send --file event.json --dry-run`,
	}
	fs := cmd.Flags()
	fs.StringVarP(&kind, "type", "t", "", "type of the event, one of events.types")
	fs.StringVar(&id, "id", "", "id of the event (default: a new one)")
	fs.StringVar(&producer, "producer", "worker-send", "source of the event")
	fs.StringVarP(&file, "file", "f", "", "file of events; - is standard input")
	fs.StringVar(&to, "to", "", "queue or topic to send to (default: the configured one)")
	fs.StringVar(&session, "session", "", "session of the messages (default, with servicebus.sessions: the user)")
	fs.Float64Var(&perSecond, "rate", 0, "messages per second at most; 0 is no limit")
	fs.BoolVar(&dryRun, "dry-run", false, "print the messages, and send nothing")
	fs.BoolVar(&noCheck, "no-check", false, "send also what the worker would refuse")
	out := &output{w: p.stdout}
	out.flag(fs)
	return p.operate(cmd, func(ctx context.Context, cfg config.Config, args []string) error {
		var bodies []json.RawMessage
		var err error
		switch {
		case file != "" && (len(args) > 0 || kind != "" || id != ""):
			return fail(exitUsage, "give either users and --type, or --file")
		case file != "":
			var text []byte
			if text, err = p.readInput(file); err == nil {
				bodies, err = readEvents(text)
			}
		case len(args) == 0 || kind == "":
			return fail(exitUsage, "give users and --type, or --file")
		case id != "" && len(args) > 1:
			return fail(exitUsage, "--id: one id cannot be that of %d events", len(args))
		default:
			bodies, err = newEvents(args, kind, id, producer)
		}
		if err != nil {
			return err
		}
		if to, err = destination(cfg, to); err != nil {
			return err
		}
		decoder, err := event.NewDecoder(event.Config{Types: cfg.Events.Types})
		if err != nil {
			return fail(exitUsage, "events.types: %v", err)
		}
		messages := make([]*azservicebus.AMQPAnnotatedMessage, len(bodies))
		var problems []error
		for i, body := range bodies {
			contentType := "application/json"
			if bytes.Contains(body, []byte(`"specversion"`)) {
				contentType = "application/cloudevents+json"
			}
			group := session
			items, err := decoder.Decode(event.Message{ContentType: contentType, Body: body})
			if err == nil {
				err = items[0].Err
				if group == "" && cfg.ServiceBus.Sessions > 0 {
					group = items[0].Event.User.Key()
				}
			}
			if err != nil && !noCheck {
				problems = append(problems, fmt.Errorf("event %d: %w", i+1, err))
			}
			messages[i] = newMessage(body, contentType, group)
		}
		if len(problems) > 0 {
			return fail(exitUsage, "nothing was sent (--no-check sends it all the same):\n%v", errors.Join(problems[:min(10, len(problems))]...))
		}
		if dryRun {
			for _, body := range bodies {
				fmt.Fprintf(p.stdout, "%s\n", bytes.ReplaceAll(body, []byte("\r"), nil)) // in JSON it can stand between values alone
			}
			fmt.Fprintf(p.stderr, "%d messages would be sent to %s\n", len(messages), to)
			return nil
		}
		outcome, err := p.sendAll(ctx, cfg, to, perSecond, messages)
		return errors.Join(out.value(outcome, outcome.print), explain(err, to))
	})
}

func newMessage(body []byte, contentType, session string) *azservicebus.AMQPAnnotatedMessage {
	m := &azservicebus.AMQPAnnotatedMessage{
		Body:       azservicebus.AMQPAnnotatedMessageBody{Data: [][]byte{body}},
		Properties: &azservicebus.AMQPAnnotatedMessageProperties{MessageID: uuid.NewString(), ContentType: &contentType},
	}
	if session != "" {
		m.Properties.GroupID = &session
	}
	return m
}

// newEvents makes a CloudEvent for each user.
func newEvents(users []string, kind, id, producer string) ([]json.RawMessage, error) {
	bodies := make([]json.RawMessage, len(users))
	for i, user := range users {
		field := "userId"
		if strings.Contains(user, "@") {
			field = "userPrincipalName"
		}
		eventID := id
		if eventID == "" {
			eventID = uuid.NewString()
		}
		var err error
		bodies[i], err = json.Marshal(event.NewCloudEvent(eventID, producer, kind, time.Now(), map[string]string{field: user}))
		if err != nil {
			return nil, fail(exitUsage, "%v", err)
		}
	}
	return bodies, nil
}

// readEvents reads JSON values one after the other; of an array, each element.
func readEvents(text []byte) ([]json.RawMessage, error) {
	var bodies []json.RawMessage
	decoder := json.NewDecoder(bytes.NewReader(text))
	for {
		var value json.RawMessage
		err := decoder.Decode(&value)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fail(exitUsage, "nothing was sent: value %d of the file: %v", len(bodies)+1, err)
		}
		var elements []json.RawMessage
		if value[0] == '[' && json.Unmarshal(value, &elements) == nil {
			bodies = append(bodies, elements...)
		} else {
			bodies = append(bodies, value)
		}
	}
	if len(bodies) == 0 {
		return nil, fail(exitUsage, "the file holds no event")
	}
	return bodies, nil
}
