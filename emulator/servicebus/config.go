package servicebus

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

// DefaultKey is the key of Microsoft's emulator. It allows everything.
var DefaultKey = Key{Name: "RootManageSharedAccessKey", Value: "SAS_KEY_VALUE", Listen: true, Send: true, Manage: true}

// Config declares a broker's entities and keys.
type Config struct {
	// Queues and Topics are created at start. The administration API can create more.
	Queues []QueueConfig
	Topics []TopicConfig
	// Saved, if set, is what Broker.Save of an earlier broker has written. The broker goes on from
	// there: what is saved has precedence, and Queues and Topics only add what is missing. New reads
	// it to the end, and does not close it.
	Saved io.Reader
	// Keys are the keys with which clients can sign in. The default is DefaultKey.
	Keys []Key
	// Authorize, if set, verifies an access token (a JWT of Entra) that a client presents in place
	// of a shared access signature, over $cbs or to the administration API. It returns what the
	// token allows in the whole namespace, or why it is refused, which the client learns. It is
	// called by several goroutines. If it is nil, access tokens are refused.
	Authorize func(token string) (Grant, error)
	// MaxMessageSize is in bytes. The default is 256 KiB, as on the Standard tier, and the maximum is
	// 100 MiB, as on Premium.
	MaxMessageSize int
	// Observe, if set, gets each change of a message's state. The calls for one queue are in order,
	// and the queue is locked during a call: Observe must return quickly and must not call the
	// Broker.
	Observe func(Record)
}

// QueueConfig declares a queue and its dead-letter queue. Zero values mean the defaults of Service
// Bus.
type QueueConfig struct {
	// Name is the queue's path. It has 1 to 260 characters without @ ? # * \ $, and may have slashes
	// in the middle. It ignores case.
	Name string
	// LockDuration defaults to 1 minute.
	LockDuration time.Duration
	// MaxDeliveryCount is the number of deliveries that failed or ended with a deferral after which a
	// message is dead-lettered. The default is 10.
	MaxDeliveryCount int
	// FreeDeferrals leaves deferrals out of the delivery count. Microsoft's documentation does not
	// say whether they count. Users report that they do, and that the deferral that reaches the
	// maximum dead-letters the message (https://github.com/Azure/azure-service-bus/issues/375).
	FreeDeferrals bool
	// DefaultTTL bounds the time to live of every message. 0 means no bound.
	DefaultTTL time.Duration
	// DeadLetterOnExpiration dead-letters expired messages. Otherwise they are dropped.
	DeadLetterOnExpiration bool
	// RequiresSession makes every message belong to a session, and every receiver hold one.
	RequiresSession bool
	// DuplicateWindow is how long the queue remembers message ids. 0 turns duplicate detection off.
	DuplicateWindow time.Duration
	// MaxBytes bounds the size of the queue and its dead letters together. The default is 1 GiB.
	MaxBytes int64
	// MaxMessageSize bounds the messages that are sent to the queue or topic, in bytes. The default
	// is that of the broker, and the maximum is 100 MiB.
	MaxMessageSize int
	// Status defaults to Active.
	Status Status
	// IgnoreRuleFailures matters in subscriptions only. If a rule cannot be evaluated for a message
	// (it divides by zero, for example), the message becomes a dead letter. With IgnoreRuleFailures,
	// the rule does not select the message. It is the opposite of Service Bus'
	// DeadLetteringOnFilterEvaluationExceptions.
	IgnoreRuleFailures bool
	// ForwardTo names a queue or topic that gets every message, ForwardDeadLettersTo one that gets
	// every dead letter. Messages that cannot be forwarded go to
	// NAME/$Transfer/$DeadLetterQueue.
	ForwardTo, ForwardDeadLettersTo string

	unused unusedSettings
}

// defaultDuplicateWindow is Service Bus' for an entity that detects duplicates and does not say how
// long.
const defaultDuplicateWindow = 10 * time.Minute

// withDefaults returns the settings with the defaults of Service Bus for those that are 0.
func (c QueueConfig) withDefaults() QueueConfig {
	c.LockDuration = cmp.Or(c.LockDuration, time.Minute)
	c.MaxDeliveryCount = cmp.Or(c.MaxDeliveryCount, 10)
	c.MaxBytes = cmp.Or(c.MaxBytes, 1<<30)
	return c
}

// TopicConfig declares a topic and its subscriptions. Zero values mean the defaults of Service Bus.
// LockDuration, MaxDeliveryCount and DeadLetterOnExpiration matter in the subscriptions only.
type TopicConfig struct {
	QueueConfig
	Subscriptions []SubscriptionConfig
}

// SubscriptionConfig declares a subscription. Name is its own name without the topic's: 1 to 50
// characters without a slash. DuplicateWindow must be 0, because the topic detects duplicates.
type SubscriptionConfig struct {
	QueueConfig
	// Rules select messages: the subscription gets those that match at least one rule. Nil means
	// one rule named $Default, which matches every message.
	Rules []rule.Rule
}

// Status says what an entity can be used for.
type Status string

// The statuses of Service Bus. "" means Active.
const (
	Active          Status = "Active"
	Disabled        Status = "Disabled"
	SendDisabled    Status = "SendDisabled"
	ReceiveDisabled Status = "ReceiveDisabled"
)

func (s Status) valid() bool {
	return slices.Contains([]Status{"", Active, Disabled, SendDisabled, ReceiveDisabled}, s)
}

// Key is a shared access key and what it allows. Manage includes Listen and Send.
type Key struct {
	Name, Value          string
	Listen, Send, Manage bool
}

// Audience is for whom access tokens must be issued, in every cloud. Config.Authorize checks it
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-managed-service-identity).
const Audience = "https://servicebus.azure.net"

// Grant is what a token allows, and until when. Manage includes Listen and Send.
type Grant struct {
	Listen, Send, Manage bool
	Until                time.Time
}

// ParseKey reads a key from NAME=VALUE:CLAIM,CLAIM,… with the claims Listen, Send and Manage in any
// case. The value may contain "=" and ":".
func ParseKey(text string) (Key, error) {
	name, rest, named := strings.Cut(text, "=")
	at := strings.LastIndexByte(rest, ':')
	if !named || name == "" || at <= 0 {
		return Key{}, fmt.Errorf("a key must be given as NAME=VALUE:Listen,Send,Manage")
	}
	key := Key{Name: name, Value: rest[:at]}
	for claim := range strings.SplitSeq(rest[at+1:], ",") {
		switch strings.ToLower(strings.TrimSpace(claim)) {
		case "listen":
			key.Listen = true
		case "send":
			key.Send = true
		case "manage":
			key.Manage = true
		default:
			return Key{}, fmt.Errorf("the key %s: the claim %q is none of Listen, Send and Manage", name, claim)
		}
	}
	return key, nil
}

// ConnectionString returns the connection string for a broker that serves at addr (host:port) and
// a key.
func ConnectionString(addr string, key Key) string {
	return fmt.Sprintf("Endpoint=sb://%s;SharedAccessKeyName=%s;SharedAccessKey=%s;UseDevelopmentEmulator=true;", addr, key.Name, key.Value)
}

// SecureConnectionString is ConnectionString for a broker that serves TLS at addr. Clients have to
// trust its certificate.
func SecureConnectionString(addr string, key Key) string {
	return strings.TrimSuffix(ConnectionString(addr, key), "UseDevelopmentEmulator=true;")
}

// The limits of the tiers in bytes
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-quotas).
const (
	standardMessageSize = 256 << 10 // Standard
	maxMessageSize      = 100 << 20 // the largest that Premium can be set to
)

// ParseMessageSize reads a value for Config.MaxMessageSize: a number of bytes, or a number with one
// of the units KB, KiB, MB and MiB, from 256KiB to 100MiB. As in the service's documents, a KB is
// 1,024 bytes too.
func ParseMessageSize(text string) (int, error) {
	digits := strings.TrimRight(text, "BKMibkm ")
	unit, known := map[string]int{
		"": 1, "b": 1, "kb": 1 << 10, "kib": 1 << 10, "mb": 1 << 20, "mib": 1 << 20,
	}[strings.ToLower(strings.TrimSpace(text[len(digits):]))]
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil || !known {
		return 0, fmt.Errorf("%q is not a size like 256KiB or 100MiB", text)
	}
	if n > maxMessageSize || int(n)*unit < standardMessageSize || int(n)*unit > maxMessageSize {
		return 0, fmt.Errorf("%s is out of range: from 256KiB to 100MiB", text)
	}
	return int(n) * unit, nil
}
