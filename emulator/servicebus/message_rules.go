package servicebus

import (
	"fmt"
	"math"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

// How rules see and change a message.

// The names of properties and annotations that only rules need.
const (
	propertyRuleName          = "RuleName"
	annotationPartitionKey    = "x-opt-partition-key"
	annotationViaPartitionKey = "x-opt-via-partition-key"
)

// ruleView is a message as rules see it, which is decoded when the first rule needs it.
type ruleView struct {
	of   *message
	seen *rule.Message
	err  error
}

func (v *ruleView) get() (*rule.Message, error) {
	if v.seen == nil && v.err == nil {
		v.seen, v.err = v.of.forRules()
	}
	return v.seen, v.err
}

// forRules returns the message as rules see it.
func (m *message) forRules() (*rule.Message, error) {
	p, err := amqp.ReadProperties(m.properties)
	if err != nil {
		return nil, err
	}
	properties, err := amqp.ReadMapSection(m.appProperties)
	if err != nil {
		return nil, err
	}
	seen := &rule.Message{
		System: func(key string) any { return m.systemProperty(&p, key) }, User: make(map[string]any, len(properties)),
	}
	for _, pair := range properties {
		seen.User[fmt.Sprint(pair.Key)] = ruleValue(pair.Value)
	}
	return seen, nil
}

// systemProperty returns one system property, or nil if it is missing.
func (m *message) systemProperty(p *amqp.Properties, key string) any {
	switch key {
	case "messageid":
		return optional(idText(p.MessageID))
	case "correlationid":
		return optional(idText(p.CorrelationID))
	case "to":
		return optional(p.To)
	case "replyto":
		return optional(p.ReplyTo)
	case "label":
		return optional(p.Subject)
	case "contenttype":
		return optional(string(p.ContentType))
	case "sessionid":
		return pointed(p.GroupID)
	case "replytosessionid":
		return pointed(p.ReplyToGroupID)
	case "partitionkey":
		return m.annotation(annotationPartitionKey)
	case "viapartitionkey":
		return m.annotation(annotationViaPartitionKey)
	case "deadlettersource":
		return optional(m.deadSource)
	case "timetolive":
		if m.ttl == nil {
			return time.Duration(math.MaxInt64)
		}
		return time.Duration(*m.ttl) * time.Millisecond
	case "scheduledenqueuetimeutc":
		return optionalTime(m.visible)
	case "expiresatutc":
		return optionalTime(m.expires)
	case "enqueuedtimeutc":
		return optionalTime(m.enqueued)
	case "sequencenumber":
		return m.seq
	case "enqueuedsequencenumber":
		return m.origin
	case "deliverycount":
		return int32(min(m.deliveries(), math.MaxInt32))
	case "size":
		return m.size()
	}
	return nil
}

func optional(text string) any {
	if text == "" {
		return nil
	}
	return text
}

func pointed(text *string) any {
	if text == nil {
		return nil
	}
	return *text
}

// optionalTime returns a time in milliseconds of Unix time. 0 is none.
func optionalTime(milliseconds int64) any {
	if milliseconds == 0 {
		return nil
	}
	return time.UnixMilli(milliseconds).UTC()
}

// annotation returns a message annotation as text, or nil if there is none.
func (m *message) annotation(key string) any {
	annotations, err := m.readAnnotations()
	if v, _ := annotations.Get(key); v != nil && err == nil {
		return fmt.Sprint(v)
	}
	return nil
}

// idText returns a message id as clients show it.
func idText(id any) string {
	switch id := id.(type) {
	case nil:
		return ""
	case amqp.UUID:
		return rule.GUID(id).String()
	case []byte:
		return fmt.Sprintf("%x", id)
	}
	return fmt.Sprint(id)
}

// The described types with which .NET's clients send values that AMQP does not have
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-amqp-protocol-guide). Ticks
// are 100 ns. Those of a time count from the year 1.
const (
	describedTimespan = amqp.Symbol("com.microsoft:timespan")
	describedOffset   = amqp.Symbol("com.microsoft:datetime-offset")
	describedURI      = amqp.Symbol("com.microsoft:uri")
	ticksAtUnixEpoch  = 621355968000000000
)

// ruleValue returns an AMQP value in a type that rules know, if there is one.
func ruleValue(v any) any {
	switch v := v.(type) {
	case amqp.Symbol:
		return string(v)
	case amqp.Char:
		return string(rune(v))
	case amqp.UUID:
		return rule.GUID(v)
	case amqp.Described:
		ticks, isLong := v.Value.(int64)
		text, isText := v.Value.(string)
		switch {
		case v.Descriptor == any(describedTimespan) && isLong && ticks >= math.MinInt64/100 && ticks <= math.MaxInt64/100:
			return time.Duration(ticks) * 100
		case v.Descriptor == any(describedOffset) && isLong:
			since := ticks - ticksAtUnixEpoch
			return time.Unix(since/1e7, since%1e7*100).UTC()
		case v.Descriptor == any(describedURI) && isText:
			return text
		}
	}
	return v
}

// wireValue is the opposite of ruleValue.
func wireValue(v any) any {
	switch v := v.(type) {
	case rule.GUID:
		return amqp.UUID(v)
	case time.Duration:
		return amqp.Described{Descriptor: describedTimespan, Value: int64(v / 100)}
	}
	return v
}

// readAnnotations decodes the message annotations.
func (m *message) readAnnotations() (amqp.Map, error) {
	w := amqp.NewMapWriter(nil, amqp.SectionMessageAnnotations)
	w.Raw(m.annotations, m.annotationCount)
	return amqp.ReadMapSection(w.Done())
}

// change makes the changes of a rule's action. The message must be a copy. The encoded parts that
// it shares with the original stay as they are.
func (m *message) change(changes []rule.Change) error {
	user, err := amqp.ReadMapSection(m.appProperties)
	if err != nil {
		return err
	}
	properties, err := amqp.ReadProperties(m.properties)
	if err != nil {
		return err
	}
	annotations, err := m.readAnnotations()
	if err != nil {
		return err
	}
	for _, c := range changes {
		switch {
		case c.System && c.Name == "timetolive":
			m.setTTL(c.Value.(time.Duration))
		case c.System && !setProperty(&properties, c):
			setAnnotation(&annotations, c)
		case c.System:
		case c.Removed:
			remove(&user, c.Name)
		default:
			user.Set(c.Name, wireValue(c.Value))
		}
	}
	return m.rewrite(properties, user, annotations)
}

// rewrite encodes new properties.
func (m *message) rewrite(properties amqp.Properties, user, annotations amqp.Map) (err error) {
	if m.properties, err = properties.Append(nil); err != nil {
		return err
	}
	if m.appProperties, err = amqp.AppendMapSection(nil, amqp.SectionApplicationProperties, user); err != nil {
		return err
	}
	section, err := amqp.AppendMapSection(nil, amqp.SectionMessageAnnotations, annotations)
	if err != nil {
		return err
	}
	m.annotations, m.annotationCount, err = pairsOf(section, nil)
	return err
}

// setTTL sets the time to live, which may be longer than AMQP can express.
func (m *message) setTTL(d time.Duration) {
	milliseconds := uint32(min(max(d.Milliseconds(), 0), math.MaxUint32))
	m.ttl, m.expires = &milliseconds, 0
}

// setProperty sets one of the properties section's fields. It returns false if the system property
// is not one of them.
func setProperty(p *amqp.Properties, c rule.Change) bool {
	text, _ := c.Value.(string)
	var id any
	var textOrNone *string
	if !c.Removed {
		id, textOrNone = text, &text
	}
	switch c.Name {
	case "messageid":
		p.MessageID = id
	case "correlationid":
		p.CorrelationID = id
	case "to":
		p.To = text
	case "replyto":
		p.ReplyTo = text
	case "label":
		p.Subject = text
	case "contenttype":
		p.ContentType = amqp.Symbol(text)
	case "sessionid":
		p.GroupID = textOrNone
	case "replytosessionid":
		p.ReplyToGroupID = textOrNone
	default:
		return false
	}
	return true
}

// setAnnotation sets a system property that is a message annotation. As in the service, a new time
// of enqueuing does not delay a message that is in a subscription.
func setAnnotation(annotations *amqp.Map, c rule.Change) {
	key := map[string]string{
		"partitionkey": annotationPartitionKey, "viapartitionkey": annotationViaPartitionKey,
		"scheduledenqueuetimeutc": annotationScheduled,
	}[c.Name]
	remove(annotations, key)
	if !c.Removed {
		*annotations = append(*annotations, amqp.Pair{Key: amqp.Symbol(key), Value: c.Value})
	}
}

// remove removes the pair with a key, if there is one.
func remove(m *amqp.Map, key string) {
	for i, p := range *m {
		if p.Key == any(key) || p.Key == any(amqp.Symbol(key)) {
			*m = append((*m)[:i:i], (*m)[i+1:]...)
			return
		}
	}
}
