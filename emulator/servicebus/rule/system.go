package rule

import "strings"

// system describes one system property. The names are those of BrokeredMessage and of
// ServiceBusMessage in .NET
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-messages-payloads).
type system struct {
	name  string
	like  any // a value of its type
	isSet bool
	limit int // of a string, in characters; 0 for none
}

var systemProperties = []system{
	{name: "ContentType", like: "", isSet: true},
	{name: "CorrelationId", like: "", isSet: true},
	{name: "DeadLetterSource", like: ""},
	{name: "DeliveryCount", like: int32(0)},
	{name: "EnqueuedSequenceNumber", like: int64(0)},
	{name: "EnqueuedTimeUtc", like: timeLike},
	{name: "ExpiresAtUtc", like: timeLike},
	{name: "Label", like: "", isSet: true},
	{name: "MessageId", like: "", isSet: true, limit: 128},
	{name: "PartitionKey", like: "", isSet: true, limit: 128},
	{name: "ReplyTo", like: "", isSet: true},
	{name: "ReplyToSessionId", like: "", isSet: true, limit: 128},
	{name: "ScheduledEnqueueTimeUtc", like: timeLike, isSet: true},
	{name: "SequenceNumber", like: int64(0)},
	{name: "SessionId", like: "", isSet: true, limit: 128},
	{name: "Size", like: int64(0)},
	{name: "TimeToLive", like: durationLike, isSet: true},
	{name: "To", like: "", isSet: true},
	{name: "ViaPartitionKey", like: "", isSet: true, limit: 128},
}

// aliases are the names in ServiceBusMessage that differ from those in BrokeredMessage.
var aliases = map[string]string{
	"subject": "label", "scheduledenqueuetime": "scheduledenqueuetimeutc", "enqueuedtime": "enqueuedtimeutc",
	"expiresat": "expiresatutc", "transactionpartitionkey": "viapartitionkey",
}

var systemByName = func() map[string]system {
	byName := map[string]system{}
	for _, s := range systemProperties {
		byName[strings.ToLower(s.name)] = s
	}
	return byName
}()

// systemKey returns the key in Message.System of a system property.
func systemKey(name string) string {
	key := strings.ToLower(name)
	if other, ok := aliases[key]; ok {
		return other
	}
	return key
}
