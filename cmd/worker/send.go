package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"golang.org/x/time/rate"

	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/event"
)

func (p *program) sendCommand() *cobra.Command {
	var file, kind, id, producer, to, session string
	var perSecond float64
	var dryRun, noCheck bool
	cmd := &cobra.Command{
		Use:   "send [USER…]",
		Short: "Publish events to the queue",
		Long: `Publish events to the queue: one CloudEvent for each user, or the events of a
file. The file has JSON objects, one after the other or one per line, or arrays
of objects. Each object becomes a message. If the worker would reject one of the
events, the command sends none.`,
		Example: `  worker send --type device.stolen ada@contoso.com
  worker send --file events.ndjson
  worker send --file event.json --dry-run`,
	}
	fs := cmd.Flags()
	fs.StringVarP(&kind, "type", "t", "", "type of the events, one of events.types")
	fs.StringVar(&id, "id", "", "id of the event (default: a new one)")
	fs.StringVar(&producer, "producer", "worker-send", "source of the events")
	fs.StringVarP(&file, "file", "f", "", "file of events; - is standard input")
	fs.StringVar(&to, "to", "", "queue or topic to send to (default: the configured one)")
	fs.StringVar(&session, "session", "", "session of the messages (default, with servicebus.sessions: the user)")
	fs.Float64Var(&perSecond, "rate", 0, "maximum number of messages per second; 0 means no limit")
	fs.BoolVar(&dryRun, "dry-run", false, "print the messages, and send nothing")
	fs.BoolVar(&noCheck, "no-check", false, "also send events that the worker would reject")
	out := &output{w: p.stdout, columns: p.columns}
	out.flag(fs)
	return p.operate(cmd, func(ctx context.Context, cfg config.Config, args []string) error {
		var bodies []json.RawMessage
		var err error
		switch {
		case !isRate(perSecond):
			return fail(exitUsage, "--rate: %v is not a number of messages per second", perSecond)
		case file != "" && (len(args) > 0 || kind != "" || id != ""):
			return fail(exitUsage, "use either users and --type, or --file, but not both")
		case file != "":
			var text []byte
			if text, err = p.readInput(file); err == nil {
				bodies, err = readEvents(text)
			}
		case len(args) == 0 || kind == "":
			return fail(exitUsage, "users and --type, or --file, are required")
		case id != "" && len(args) > 1:
			return fail(exitUsage, "--id: %d events cannot have the same id", len(args))
		default:
			bodies, err = newEvents(args, kind, id, producer)
		}
		if err != nil {
			return err
		}
		if to, err = destination(cfg, to); err != nil {
			return err
		}
		decoder, err := app.NewDecoder(cfg, app.DecoderOptions{})
		if err != nil {
			return fail(exitUsage, "%v", err)
		}
		messages := make([]*azservicebus.AMQPAnnotatedMessage, len(bodies))
		ids := make([]string, len(bodies))
		var problems []error
		for i, body := range bodies {
			contentType := "application/json"
			if bytes.Contains(body, []byte(`"specversion"`)) {
				contentType = "application/cloudevents+json"
			}
			group := session
			items, err := decoder.Decode(event.Message{ContentType: contentType, Body: body})
			if err == nil {
				err, ids[i] = items[0].Err, items[0].Event.ID
				if group == "" && cfg.ServiceBus.Sessions > 0 {
					group = items[0].Event.User.Key()
				}
			}
			if err != nil && !noCheck {
				problems = append(problems, fmt.Errorf("event %d: %w", i+1, err))
			}
			messages[i] = newMessage(body, contentType, group)
		}
		if len(problems) > 0 && kind != "" && !slices.Contains(cfg.Events.Types, kind) {
			return fail(exitUsage, "nothing was sent (--no-check sends it anyway): --type: %q is none of events.types: %s",
				deadletter.Cut(kind, 100), strings.Join(cfg.Events.Types, ", "))
		}
		if len(problems) > 0 {
			return fail(exitUsage, "nothing was sent (--no-check sends it anyway):\n%v",
				errors.Join(problems[:min(10, len(problems))]...))
		}
		if dryRun {
			for _, body := range bodies {
				// In JSON, a carriage return can only be between values.
				fmt.Fprintf(p.stdout, "%s\n", bytes.ReplaceAll(body, []byte("\r"), nil))
			}
			fmt.Fprintf(p.stderr, "%s would be sent to %s\n", count(len(messages), "message"), to)
			return nil
		}
		bar := p.newBar("sending", len(messages))
		outcome, err := sendAll(ctx, cfg, to, perSecond, messages, bar.add)
		bar.end()
		outcome.EventIDs = slices.DeleteFunc(ids[:outcome.Sent], func(id string) bool { return id == "" })
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

// newEvents returns a CloudEvent for each user.
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

// readEvents reads JSON values, one after the other. Of an array, it returns each element.
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
		return nil, fail(exitUsage, "the file has no events")
	}
	return bodies, nil
}

// destination returns where to send messages: what --to says, or the configured queue or topic.
func destination(cfg config.Config, to string) (string, error) {
	if to != "" {
		return to, nil
	}
	entities := cfg.ServiceBus.Entities()
	if topic, _, ok := config.SplitSubscription(entities[0]); ok {
		return topic, nil
	}
	if len(entities) > 1 {
		return "", fail(exitUsage, "several sources are configured: choose with --to where to send")
	}
	return entities[0], nil
}

// sendOutcome is what import and send print.
type sendOutcome struct {
	Sent         int    `json:"sent"`
	Of           int    `json:"of"`
	To           string `json:"to"`
	RunID        string `json:"runId,omitempty"`
	GoOnWithLine int    `json:"goOnWithLine,omitempty"`
	// Skipped has the lines of records without a body.
	Skipped []int `json:"skippedLines,omitempty"`
	// EventIDs are the ids of the events that send has sent, as the worker's log and the audit log
	// name them. An event of a file may have none.
	EventIDs []string `json:"eventIds,omitempty"`
}

// printedIDs is the number of ids of events that are printed for people.
const printedIDs = 10

func (o sendOutcome) print(w io.Writer) {
	fmt.Fprintf(w, "%d of %s sent to %s", o.Sent, count(o.Of, "message"), o.To)
	if o.RunID != "" {
		fmt.Fprintf(w, " (run %s)", o.RunID)
	}
	fmt.Fprintln(w)
	for _, id := range o.EventIDs[:min(printedIDs, len(o.EventIDs))] {
		fmt.Fprintf(w, "  event id %s\n", plain(id))
	}
	if more := len(o.EventIDs) - printedIDs; more > 0 {
		fmt.Fprintf(w, "  and %d more; see --output json\n", more)
	}
	if o.GoOnWithLine > 0 {
		fmt.Fprintf(w, "continue with --from-line %d\n", o.GoOnWithLine)
	}
	printLines(w, o.Skipped)
}

// sendAll sends messages one after the other. It calls progress for each. The outcome is valid even
// if err != nil. Stopping early is an error.
func sendAll(
	ctx context.Context, cfg config.Config, to string, perSecond float64,
	messages []*azservicebus.AMQPAnnotatedMessage, progress func(n int),
) (outcome sendOutcome, err error) {
	outcome = sendOutcome{Of: len(messages), To: to}
	client, err := app.NewServiceBus(cfg)
	if err != nil {
		return outcome, err
	}
	defer closeClient(client)
	sender, err := openSender(ctx, client, to)
	if err != nil {
		return outcome, err
	}
	limiter := rate.NewLimiter(rate.Inf, 1)
	if perSecond > 0 {
		limiter = rate.NewLimiter(rate.Limit(perSecond), 1)
	}
	for _, m := range messages {
		if limiter.Wait(ctx) != nil {
			return outcome, fail(exitFailed, "stopped")
		}
		if err := sendOne(ctx, sender, m); err != nil {
			return outcome, err
		}
		outcome.Sent++
		progress(1)
	}
	return outcome, nil
}

// openSender returns a sender with an open link: so a missing queue or right shows now, and not
// after the confirmation.
func openSender(ctx context.Context, client *azservicebus.Client, to string) (*azservicebus.Sender, error) {
	sender, err := client.NewSender(to, nil)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	if _, err := sender.NewMessageBatch(ctx, nil); err != nil {
		return nil, explain(err, "sending to "+to)
	}
	return sender, nil
}

// sendTimeout limits the time to open a sender, and to send one message.
const sendTimeout = 12 * time.Second

// sendOne sends a message. ctx does not end it, because nobody knows whether a canceled send has
// arrived.
func sendOne(ctx context.Context, sender *azservicebus.Sender, m *azservicebus.AMQPAnnotatedMessage) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendTimeout)
	defer cancel()
	return sender.SendAMQPAnnotatedMessage(ctx, m, nil)
}
