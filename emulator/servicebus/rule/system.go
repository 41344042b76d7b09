package rule

import "strings"

// system describes one system property. The names are those of BrokeredMessage and of
// ServiceBusMessage in .NET
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-messages-payloads).
type system struct {
	name     string
	like     any // a value of its type
	settable bool
	limit    int // of a string, in characters; 0 for none
}

var systemProperties = []system{
	{name: "ContentType", like: "", settable: true},
	{name: "CorrelationId", like: "", settable: true},
	{name: "DeadLetterSource", like: ""},
	{name: "DeliveryCount", like: int32(0)},
	{name: "EnqueuedSequenceNumber", like: int64(0)},
	{name: "EnqueuedTimeUtc", like: timeLike},
	{name: "ExpiresAtUtc", like: timeLike},
	{name: "Label", like: "", settable: true},
	{name: "MessageId", like: "", settable: true, limit: 128},
	{name: "PartitionKey", like: "", settable: true, limit: 128},
	{name: "ReplyTo", like: "", settable: true},
	{name: "ReplyToSessionId", like: "", settable: true, limit: 128},
	{name: "ScheduledEnqueueTimeUtc", like: timeLike, settable: true},
	{name: "SequenceNumber", like: int64(0)},
	{name: "SessionId", like: "", settable: true, limit: 128},
	{name: "Size", like: int64(0)},
	{name: "TimeToLive", like: durationLike, settable: true},
	{name: "To", like: "", settable: true},
	{name: "ViaPartitionKey", like: "", settable: true, limit: 128},
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

// systemKey returns the key of a system property for Message.System.
func systemKey(name string) string {
	key := strings.ToLower(name)
	if other, ok := aliases[key]; ok {
		return other
	}
	return key
}
