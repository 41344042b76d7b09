package servicebus

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

// ReadEntities reads queues and topics from a file in the format of config.json of Microsoft's
// emulator
// (https://learn.microsoft.com/azure/service-bus-messaging/test-locally-with-service-bus-emulator).
// The file must have one namespace. The error names what is unknown or not supported.
func ReadEntities(r io.Reader) (queues []QueueConfig, topics []TopicConfig, err error) {
	text, err := io.ReadAll(io.LimitReader(r, 16<<20))
	if err != nil {
		return nil, nil, fmt.Errorf("read the entities: %w", err)
	}
	var file entitiesFile
	if err := file.read(bytes.TrimPrefix(text, []byte("\ufeff"))); err != nil { // Windows' editors write the mark
		return nil, nil, fmt.Errorf("read the entities: %w", err)
	}
	if n := len(file.UserConfig.Namespaces); n != 1 {
		return nil, nil, fmt.Errorf("read the entities: %d namespaces; exactly one is supported", n)
	}
	namespace := file.UserConfig.Namespaces[0]
	for _, q := range namespace.Queues {
		cfg, err := q.Properties.config(q.Name)
		if err != nil {
			return nil, nil, err
		}
		queues = append(queues, cfg)
	}
	for _, t := range namespace.Topics {
		cfg, err := t.Properties.config(t.Name)
		if err != nil {
			return nil, nil, err
		}
		topic := TopicConfig{QueueConfig: cfg}
		for _, s := range t.Subscriptions {
			one, err := s.config()
			if err != nil {
				return nil, nil, fmt.Errorf("topic %s: %w", t.Name, err)
			}
			topic.Subscriptions = append(topic.Subscriptions, one)
		}
		topics = append(topics, topic)
	}
	return queues, topics, nil
}

// read reads the JSON. The error names the line, if it is known.
func (f *entitiesFile) read(text []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	decoder.UseNumber()
	err := decoder.Decode(f)
	at := int64(0)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		at = syntax.Offset
	} else if wrongType, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		at = wrongType.Offset
	} else if err == nil && decoder.More() {
		err, at = errors.New("more text follows the document"), decoder.InputOffset()
	}
	if at > 0 {
		return fmt.Errorf("line %d: %w", 1+bytes.Count(text[:min(at, int64(len(text)))], []byte("\n")), err)
	}
	return err
}

// The file, with the names of Microsoft's emulator.
type (
	entitiesFile struct {
		Schema     json.RawMessage `json:"$schema"` // for editors
		UserConfig struct {
			Namespaces []struct {
				Name   string
				Queues []struct {
					Name       string
					Properties entityProperties
				}
				Topics []struct {
					Name          string
					Properties    entityProperties
					Subscriptions []entitySubscription
				}
			}
			Logging json.RawMessage
		}
	}
	entityProperties struct {
		LockDuration, DefaultMessageTimeToLive, DuplicateDetectionHistoryTimeWindow string
		MaxDeliveryCount                                                            int
		DeadLetteringOnMessageExpiration, RequiresDuplicateDetection                bool
		RequiresSession                                                             bool
		ForwardTo, ForwardDeadLetteredMessagesTo                                    string
	}
	entitySubscription struct {
		Name       string
		Properties entityProperties
		Rules      []entityRule
	}
	entityRule struct {
		Name       string
		Properties struct {
			FilterType        string
			SQLFilter         *struct{ SQLExpression string } `json:"SqlFilter"`
			CorrelationFilter *entityCorrelation
			Action            *struct{ SQLExpression string }
		}
	}
	entityCorrelation struct {
		ContentType, CorrelationID, Label, MessageID, ReplyTo, ReplyToSessionID, SessionID, To string
		Properties                                                                             map[string]any
	}
)

func (p entityProperties) config(name string) (QueueConfig, error) {
	cfg := QueueConfig{
		Name: name, RequiresSession: p.RequiresSession, MaxDeliveryCount: p.MaxDeliveryCount,
		DeadLetterOnExpiration: p.DeadLetteringOnMessageExpiration,
		ForwardTo:              p.ForwardTo, ForwardDeadLettersTo: p.ForwardDeadLetteredMessagesTo,
	}
	var err error
	read := func(field, text string) time.Duration {
		d, problem := ParseDuration(cmp.Or(text, "PT0S"))
		if problem != nil && err == nil {
			err = fmt.Errorf("%s: %s: %w", name, field, problem)
		}
		return d
	}
	if cfg.LockDuration = read("LockDuration", p.LockDuration); cfg.LockDuration > maxLock && err == nil {
		err = fmt.Errorf("%s: LockDuration: %s is more than 5 minutes, the most that Service Bus allows", name, p.LockDuration)
	}
	cfg.DefaultTTL = read("DefaultMessageTimeToLive", p.DefaultMessageTimeToLive)
	if window := read("DuplicateDetectionHistoryTimeWindow", p.DuplicateDetectionHistoryTimeWindow); p.RequiresDuplicateDetection {
		cfg.DuplicateWindow = cmp.Or(window, defaultDuplicateWindow)
	}
	if cfg.DefaultTTL == math.MaxInt64 {
		cfg.DefaultTTL = 0
	}
	return cfg, err
}

func (s entitySubscription) config() (SubscriptionConfig, error) {
	cfg, err := s.Properties.config(s.Name)
	subscription := SubscriptionConfig{QueueConfig: cfg}
	for _, r := range s.Rules {
		one, problem := r.rule()
		if problem != nil {
			return subscription, fmt.Errorf("subscription %s: rule %s: %w", s.Name, r.Name, problem)
		}
		subscription.Rules = append(subscription.Rules, one)
	}
	return subscription, err
}

// rule returns the rule. As in Microsoft's emulator, a rule names the kind of its filter, and has no
// filter of the other kind.
func (r entityRule) rule() (one rule.Rule, err error) {
	one.Name = r.Name
	p := r.Properties
	switch {
	case p.FilterType == "Sql" && p.CorrelationFilter == nil && p.SQLFilter != nil:
		one.Filter, err = rule.NewSQL(p.SQLFilter.SQLExpression, nil)
	case p.FilterType == "Correlation" && p.SQLFilter == nil && p.CorrelationFilter != nil:
		one.Filter, err = p.CorrelationFilter.filter()
	case p.FilterType == "Sql" || p.FilterType == "Correlation":
		err = fmt.Errorf("a rule of FilterType %s must have a %sFilter and no other", p.FilterType, p.FilterType)
	default:
		err = fmt.Errorf("FilterType %q is neither Sql nor Correlation", p.FilterType)
	}
	if err == nil && p.Action != nil && p.Action.SQLExpression != "" {
		one.Action, err = rule.NewAction(p.Action.SQLExpression, nil)
	}
	return one, err
}

func (c entityCorrelation) filter() (rule.Filter, error) {
	user := map[string]any{}
	for name, value := range c.Properties {
		if number, ok := value.(json.Number); ok {
			if i, err := number.Int64(); err == nil {
				value = i
			} else if value, err = number.Float64(); err != nil {
				return nil, fmt.Errorf("property %s: %w", name, err)
			}
		}
		user[name] = value
	}
	return rule.NewCorrelation(map[string]string{
		"ContentType": c.ContentType, "CorrelationId": c.CorrelationID, "Label": c.Label, "MessageId": c.MessageID,
		"ReplyTo": c.ReplyTo, "ReplyToSessionId": c.ReplyToSessionID, "SessionId": c.SessionID, "To": c.To,
	}, user)
}
