package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"
	"github.com/sosodev/duration"

	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/config"

	"github.com/session-revoker/session-revoker/revoker"
	"github.com/session-revoker/session-revoker/servicebus"
)

// checkServiceBus checks access to the queues and subscriptions, their settings, and the clock.
func checkServiceBus(ctx context.Context, cfg config.Config, f *findings) {
	if !checkServiceBusToken(ctx, cfg, f) {
		return
	}
	client, err := app.NewServiceBus(cfg)
	if err != nil {
		f.fail("Service Bus", "correct the settings servicebus.*", "%s", firstLine(err))
		return
	}
	defer closeClient(client)
	reachable := true
	for _, entity := range cfg.ServiceBus.Entities() {
		reachable = reachable && checkEntity(ctx, cfg, client, entity, f)
	}
	if reachable && cfg.Audit.Topic != "" {
		checkAuditTopic(ctx, cfg, client, f)
	}
	if reachable {
		checkIngestDestination(ctx, cfg, client, f)
	}
	if reachable {
		checkEntitySettings(ctx, cfg, f)
	}
}

// checkAuditTopic checks that the audit log can be published.
func checkAuditTopic(ctx context.Context, cfg config.Config, client *azservicebus.Client, f *findings) {
	sender, err := client.NewSender(cfg.Audit.Topic, nil)
	if err == nil {
		err = tryToSend(ctx, sender)
	}
	if err != nil {
		f.fail("audit.topic", "check its name, or give the worker's identity the role 'Azure Service Bus Data Sender' on it, and no other",
			"cannot send to %s: %s", cfg.Audit.Topic, detail(err))
		return
	}
	f.ok("audit.topic", "can send to %s", cfg.Audit.Topic)
}

// tryToSend opens the sender's link, and sends nothing.
func tryToSend(ctx context.Context, sender *azservicebus.Sender) error {
	_, err := within(ctx, func(ctx context.Context) (*azservicebus.MessageBatch, error) { return sender.NewMessageBatch(ctx, nil) })
	return err
}

// checkServiceBusToken reports whether it makes sense to continue.
func checkServiceBusToken(ctx context.Context, cfg config.Config, f *findings) bool {
	const name = "Service Bus: sign-in"
	if cfg.ServiceBus.ConnectionString != "" {
		key, host := connectionParts(cfg.ServiceBus.ConnectionString)
		if key == "" {
			f.warn(name, "use a key or, better, an identity: a signature expires, and nothing renews it", "shared access signature at %s",
				host)
			return true
		}
		f.ok(name, "shared access key %s at %s", key, host)
		return true
	}
	token, err := within(ctx, func(ctx context.Context) (azcore.AccessToken, error) { return app.ServiceBusToken(ctx, cfg) })
	if err != nil {
		f.fail(name, "check the workload or managed identity, the environment or az login", "%s", firstLine(err))
		return false
	}
	who := "an identity"
	if claims, err := revoker.ReadClaims(token.Token); err == nil {
		who = fmt.Sprintf("app %s in tenant %s", claims.AppID, claims.Tenant)
	}
	f.ok(name, "%s, until %s", who, when(token.ExpiresOn))
	return true
}

// connectionParts returns the parts of a connection string that may be shown.
func connectionParts(connection string) (key, host string) {
	for part := range strings.SplitSeq(connection, ";") {
		switch name, value, _ := strings.Cut(part, "="); strings.ToLower(name) {
		case "sharedaccesskeyname":
			key = value
		case "endpoint":
			// Only the host: a user or password before it (sb://user:password@host) must not be
			// shown.
			if endpoint, err := url.Parse(value); err == nil {
				host = endpoint.Host
			}
		}
	}
	return key, host
}

// checkEntity checks that the worker can receive from a queue or subscription, and that a replay
// can send to it. It reports whether Service Bus answers.
func checkEntity(ctx context.Context, cfg config.Config, client *azservicebus.Client, entity string, f *findings) (answers bool) {
	peek := func(deadLetters bool) error {
		receiver, err := servicebus.NewReceiver(client, entity, deadLetters)
		if err != nil {
			return err
		}
		_, err = within(ctx, func(ctx context.Context) (bool, error) {
			_, err := receiver.PeekMessages(ctx, 1, nil)
			return true, err
		})
		return err
	}
	// Peeking at an entity with sessions needs a session. Peeking at its dead letters does not.
	if err := peek(cfg.ServiceBus.Sessions > 0); err != nil {
		f.fail(entity+": receive", servicebus.Hint(err), "%s", detail(err))
		var classed *exitError
		return !errors.As(explain(err, entity), &classed) || classed.code != exitUnreachable
	}
	f.ok(entity+": receive", "can receive")
	if topic, _, ok := config.SplitSubscription(entity); ok {
		f.ok(entity+": replay", "choose with --to where to replay dead letters, %s for example", topic)
		checkSchedule(cfg, entity, "a subscription", nil, f)
		return true
	}
	sender, err := client.NewSender(entity, nil)
	if err == nil {
		err = tryToSend(ctx, sender)
	}
	without := ""
	if cfg.ServiceBus.Sessions > 0 {
		without = "an entity with sessions"
	}
	checkSchedule(cfg, entity, without, err, f)
	if err != nil {
		f.warn(entity+": replay",
			"operators who replay need the role 'Azure Service Bus Data Sender', or a key with Send; the worker does not",
			"cannot send: %s", detail(err))
		return true
	}
	f.ok(entity+": replay", "can send")
	return true
}

// checkSchedule says whether the worker can schedule events that take effect later. without is what
// cannot schedule at all, and sends is the result of an attempt to send.
func checkSchedule(cfg config.Config, entity, without string, sends error, f *findings) {
	name := entity + ": schedule"
	switch {
	case cfg.Events.Horizon == 0:
	case without != "":
		f.ok(name, "%s cannot schedule: an event that takes effect later is dead-lettered as TooFarAhead (docs/scheduling.md)", without)
	case sends != nil:
		f.warn(name, "give the worker's identity the role 'Azure Service Bus Data Sender' on this queue, or its key Send; "+
			"or, if no event announces a later date, set events.horizon to 0",
			"cannot send: %s: an event that takes effect later would wait deferred", detail(sends))
	default:
		f.ok(name, "can schedule events up to %s ahead", cfg.Events.Horizon)
	}
}

// checkEntitySettings checks the settings, if the identity may read them, and the clock of Service
// Bus, which even a refusal shows.
func checkEntitySettings(ctx context.Context, cfg config.Config, f *findings) {
	seen := &dates{}
	client, err := newAdmin(cfg, seen)
	for _, entity := range cfg.ServiceBus.Entities() {
		var s entitySettings
		if err == nil {
			s, err = within(ctx, func(ctx context.Context) (entitySettings, error) { return readSettings(ctx, client, entity) })
		}
		if err != nil {
			f.warn(entity+": settings",
				"run doctor once with an identity that has the role 'Azure Service Bus Data Owner', or compare them with docs/install.md",
				"not checked, because they cannot be read (%s)", adminProblem(err))
			break
		}
		s.check(cfg, entity, f)
	}
	switch {
	case !seen.date.IsZero():
		checkClock(cfg, "Service Bus: clock", seen.date, seen.sent, seen.received, f)
	default:
		f.warn("Service Bus: clock", "open port 443 of the namespace for doctor, or compare this machine's clock with a time server",
			"not checked, because the administration API does not answer")
	}
}

func adminProblem(err error) string {
	if response, ok := errors.AsType[*azcore.ResponseError](err); ok {
		return fmt.Sprintf("HTTP %d", response.StatusCode)
	}
	return firstLine(err)
}

// entitySettings has the settings of a queue or subscription that matter to the worker.
type entitySettings struct {
	found                              bool
	lock, life, window                 time.Duration
	deliveries                         int32
	duplicates, sessions, deadLetters  bool
	forward, forwardDead, status, idle string
}

func readSettings(ctx context.Context, client *admin.Client, entity string) (entitySettings, error) {
	topic, subscription, ok := config.SplitSubscription(entity)
	if !ok {
		q, err := client.GetQueue(ctx, entity, nil)
		if err != nil || q == nil {
			return entitySettings{}, err
		}
		return entitySettings{
			found: true, lock: span(q.LockDuration), life: span(q.DefaultMessageTimeToLive),
			window:     span(q.DuplicateDetectionHistoryTimeWindow),
			deliveries: value(q.MaxDeliveryCount), duplicates: value(q.RequiresDuplicateDetection), sessions: value(q.RequiresSession),
			deadLetters: value(q.DeadLetteringOnMessageExpiration), forward: value(q.ForwardTo),
			forwardDead: value(q.ForwardDeadLetteredMessagesTo),
			status:      string(value(q.Status)), idle: value(q.AutoDeleteOnIdle),
		}, nil
	}
	s, err := client.GetSubscription(ctx, topic, subscription, nil)
	if err != nil || s == nil {
		return entitySettings{}, err
	}
	settings := entitySettings{
		found: true, lock: span(s.LockDuration), life: span(s.DefaultMessageTimeToLive), deliveries: value(s.MaxDeliveryCount),
		sessions: value(s.RequiresSession), deadLetters: value(s.DeadLetteringOnMessageExpiration), forward: value(s.ForwardTo),
		forwardDead: value(s.ForwardDeadLetteredMessagesTo), status: string(value(s.Status)), idle: value(s.AutoDeleteOnIdle),
	}
	t, err := client.GetTopic(ctx, topic, nil)
	if err == nil && t != nil {
		settings.duplicates, settings.window = value(t.RequiresDuplicateDetection), span(t.DuplicateDetectionHistoryTimeWindow)
		if life := span(t.DefaultMessageTimeToLive); life > 0 && (settings.life == 0 || life < settings.life) {
			settings.life = life
		}
	}
	return settings, err
}

// fewDeliveries and shortLock are the limits below which doctor warns. Each stop of a worker while
// Graph is unavailable costs each message in flight one delivery. Each lock is renewed at half of
// its duration.
const (
	fewDeliveries = 100
	shortLock     = time.Minute
)

// check checks the settings of an entity.
func (s entitySettings) check(cfg config.Config, entity string, f *findings) {
	if !s.found {
		f.fail(entity+": settings", "create it, or check the name", "there is no such entity")
		return
	}
	if s.status != "" && s.status != "Active" {
		f.fail(entity+": status", "set its status to Active", "%s", s.status)
	}
	if s.forward != "" {
		f.fail(entity+": forwarding", "receive from the target, or turn off auto-forwarding", "forwards every message to %s", s.forward)
	}
	if s.forwardDead != "" {
		f.warn(entity+": dead letters", "look for them there, or turn off the forwarding of dead letters",
			"are forwarded to %s, where worker dlq does not find them", s.forwardDead)
	}
	if s.idle != "" && span(&s.idle) > 0 {
		f.warn(entity+": deletion on idle", "turn off auto-delete on idle", "Service Bus deletes it after %s without use", span(&s.idle))
	}
	if s.deliveries < fewDeliveries {
		f.warn(entity+": max delivery count",
			"set it to 100 or more: each stop of a worker while Graph is unavailable costs each message in flight one delivery, "+
				"and each deferral may cost one", "%d",
			s.deliveries)
	} else {
		f.ok(entity+": max delivery count", "%d", s.deliveries)
	}
	if s.lock > 0 && s.lock < cfg.ServiceBus.LockDuration {
		f.fail(entity+": lock duration", "raise it, or set servicebus.lock_duration to the same",
			"%s is less than servicebus.lock_duration %s: locks expire before they are renewed", s.lock, cfg.ServiceBus.LockDuration)
	} else if s.lock < shortLock {
		f.warn(entity+": lock duration", "set it to 1 to 5 minutes",
			"%s: the worker renews locks all the time, and one slow renewal loses them", s.lock)
	} else {
		f.ok(entity+": lock duration", "%s", s.lock)
	}
	switch {
	case !s.deadLetters:
		// This matters whatever the entity's default is: messages can have their own time to live,
		// and Event Grid, for example, sets it.
		f.fail(entity+": time to live", "turn on dead-lettering on message expiration",
			"expired messages are deleted: events are lost without a trace, by the entity's default (%s) "+
				"or by a message's own time to live",
			lifetime(s.life))
	case s.life > 0 && s.life < cfg.Retry.MaxAge:
		f.warn(entity+": time to live", "set it to a day or more",
			"%s is less than retry.max_age %s: messages expire while Graph is unavailable", s.life, cfg.Retry.MaxAge)
	case s.life > 0:
		f.ok(entity+": time to live", "%s; expired messages become dead letters", s.life)
	default:
		f.ok(entity+": time to live", "unlimited; a message that expires by its own time to live becomes a dead letter")
	}
	switch {
	case s.sessions && cfg.ServiceBus.Sessions == 0:
		f.fail(entity+": sessions", "set servicebus.sessions to how many sessions to accept at once",
			"required by the entity, but not configured")
	case !s.sessions && cfg.ServiceBus.Sessions > 0:
		f.fail(entity+": sessions", "set servicebus.sessions to 0", "configured, but the entity has none")
	default:
		f.ok(entity+": sessions", "%v", s.sessions)
	}
	if s.duplicates {
		f.warn(entity+": duplicate detection",
			"create the entity again without it (it cannot be turned off); the worker deduplicates by user",
			"on, for %s: Service Bus drops an event whose MessageID was used before, so anyone who may send and guesses "+
				"the next MessageID can suppress a real event without a trace", s.window)
	} else {
		f.ok(entity+": duplicate detection", "off; the worker deduplicates by user")
	}
}

func lifetime(life time.Duration) string {
	if life == 0 {
		return "unlimited"
	}
	return life.String()
}

// value returns *p, or the zero value if p is nil.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// span parses an ISO 8601 duration as Service Bus writes it. It returns 0 for none, and for
// unlimited, which Service Bus writes as the largest time span of .NET.
func span(text *string) time.Duration {
	iso, err := duration.Parse(value(text))
	if err != nil || iso.Days > 36500 {
		return 0
	}
	return iso.ToTimeDuration()
}
