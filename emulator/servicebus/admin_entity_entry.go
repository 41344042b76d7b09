package servicebus

import (
	"cmp"
	"encoding/xml"
	"net/http"
	"strings"
	"time"
)

// The descriptions of entities as clients read them. The elements are in the order of the service,
// because data contracts of .NET require an order. The elements are the same for every api-version:
// clients ignore those that they do not know.

type queueDescription struct {
	XMLName                    xml.Name
	Instance                   string                   `xml:"xmlns:i,attr"`
	LockDuration               string                   `xml:"LockDuration"`
	MaxSizeInMegabytes         int64                    `xml:"MaxSizeInMegabytes"`
	RequiresDuplicateDetection bool                     `xml:"RequiresDuplicateDetection"`
	RequiresSession            bool                     `xml:"RequiresSession"`
	DefaultMessageTimeToLive   string                   `xml:"DefaultMessageTimeToLive"`
	DeadLetterOnExpiration     bool                     `xml:"DeadLetteringOnMessageExpiration"`
	DuplicateDetectionWindow   string                   `xml:"DuplicateDetectionHistoryTimeWindow"`
	MaxDeliveryCount           int                      `xml:"MaxDeliveryCount"`
	EnableBatchedOperations    bool                     `xml:"EnableBatchedOperations"`
	SizeInBytes                int64                    `xml:"SizeInBytes"`
	MessageCount               int                      `xml:"MessageCount"`
	IsAnonymousAccessible      bool                     `xml:"IsAnonymousAccessible"`
	AuthorizationRules         []authorizationRuleEntry `xml:"AuthorizationRules>AuthorizationRule"`
	Status                     Status                   `xml:"Status"`
	ForwardTo                  string                   `xml:"ForwardTo,omitempty"`
	UserMetadata               string                   `xml:"UserMetadata,omitempty"`
	entityTimes
	SupportOrdering           bool         `xml:"SupportOrdering"`
	Counts                    countDetails `xml:"CountDetails"`
	AutoDeleteOnIdle          string       `xml:"AutoDeleteOnIdle"`
	EnablePartitioning        bool         `xml:"EnablePartitioning"`
	Availability              string       `xml:"EntityAvailabilityStatus"`
	ForwardDeadLettersTo      string       `xml:"ForwardDeadLetteredMessagesTo,omitempty"`
	EnableExpress             bool         `xml:"EnableExpress"`
	MaxMessageSizeInKilobytes int64        `xml:"MaxMessageSizeInKilobytes"`
}

type topicDescription struct {
	XMLName                    xml.Name
	Instance                   string                   `xml:"xmlns:i,attr"`
	DefaultMessageTimeToLive   string                   `xml:"DefaultMessageTimeToLive"`
	MaxSizeInMegabytes         int64                    `xml:"MaxSizeInMegabytes"`
	RequiresDuplicateDetection bool                     `xml:"RequiresDuplicateDetection"`
	DuplicateDetectionWindow   string                   `xml:"DuplicateDetectionHistoryTimeWindow"`
	EnableBatchedOperations    bool                     `xml:"EnableBatchedOperations"`
	SizeInBytes                int64                    `xml:"SizeInBytes"`
	FilterBeforePublishing     bool                     `xml:"FilteringMessagesBeforePublishing"`
	IsAnonymousAccessible      bool                     `xml:"IsAnonymousAccessible"`
	AuthorizationRules         []authorizationRuleEntry `xml:"AuthorizationRules>AuthorizationRule"`
	Status                     Status                   `xml:"Status"`
	UserMetadata               string                   `xml:"UserMetadata,omitempty"`
	entityTimes
	SupportOrdering                bool         `xml:"SupportOrdering"`
	Counts                         countDetails `xml:"CountDetails"`
	SubscriptionCount              int          `xml:"SubscriptionCount"`
	AutoDeleteOnIdle               string       `xml:"AutoDeleteOnIdle"`
	EnablePartitioning             bool         `xml:"EnablePartitioning"`
	Availability                   string       `xml:"EntityAvailabilityStatus"`
	EnableSubscriptionPartitioning bool         `xml:"EnableSubscriptionPartitioning"`
	EnableExpress                  bool         `xml:"EnableExpress"`
	MaxMessageSizeInKilobytes      int64        `xml:"MaxMessageSizeInKilobytes"`
	SQLFilterCount                 int          `xml:"SqlFilterCount"`
	CorrelationFilterCount         int          `xml:"CorrelationFilterCount"`
}

type subscriptionDescription struct {
	XMLName                  xml.Name
	Instance                 string `xml:"xmlns:i,attr"`
	LockDuration             string `xml:"LockDuration"`
	RequiresSession          bool   `xml:"RequiresSession"`
	DefaultMessageTimeToLive string `xml:"DefaultMessageTimeToLive"`
	DeadLetterOnExpiration   bool   `xml:"DeadLetteringOnMessageExpiration"`
	DeadLetterOnFilterErrors bool   `xml:"DeadLetteringOnFilterEvaluationExceptions"`
	MessageCount             int    `xml:"MessageCount"`
	MaxDeliveryCount         int    `xml:"MaxDeliveryCount"`
	EnableBatchedOperations  bool   `xml:"EnableBatchedOperations"`
	Status                   Status `xml:"Status"`
	ForwardTo                string `xml:"ForwardTo,omitempty"`
	entityTimes
	UserMetadata         string       `xml:"UserMetadata,omitempty"`
	Counts               countDetails `xml:"CountDetails"`
	ForwardDeadLettersTo string       `xml:"ForwardDeadLetteredMessagesTo,omitempty"`
	AutoDeleteOnIdle     string       `xml:"AutoDeleteOnIdle"`
	Availability         string       `xml:"EntityAvailabilityStatus"`
}

type entityTimes struct {
	CreatedAt  string `xml:"CreatedAt"`
	UpdatedAt  string `xml:"UpdatedAt"`
	AccessedAt string `xml:"AccessedAt"`
}

// countDetails has the namespace prefix of the service, because the JavaScript client reads the
// names with their prefix.
type countDetails struct {
	Prefix             string `xml:"xmlns:d2p1,attr"`
	Active             int    `xml:"d2p1:ActiveMessageCount"`
	DeadLetter         int    `xml:"d2p1:DeadLetterMessageCount"`
	Scheduled          int    `xml:"d2p1:ScheduledMessageCount"`
	Transfer           int    `xml:"d2p1:TransferMessageCount"`
	TransferDeadLetter int    `xml:"d2p1:TransferDeadLetterMessageCount"`
}

// authorizationRuleEntry is an authorizationRule as clients read it.
type authorizationRuleEntry struct {
	Type         string   `xml:"i:type,attr"`
	ClaimType    string   `xml:"ClaimType"`
	ClaimValue   string   `xml:"ClaimValue"`
	Rights       []string `xml:"Rights>AccessRights"`
	CreatedTime  string   `xml:"CreatedTime,omitempty"`
	ModifiedTime string   `xml:"ModifiedTime,omitempty"`
	KeyName      string   `xml:"KeyName"`
	PrimaryKey   string   `xml:"PrimaryKey"`
	SecondaryKey string   `xml:"SecondaryKey"`
}

// entityEntry describes an entity as it is now.
func (b *Broker) entityEntry(r *http.Request, q *queue) atomEntry {
	s := b.snapshot(q)
	title := q.name
	var content any
	switch q.kind {
	case topicQueue:
		content = s.topic()
	case subscriptionQueue:
		title = q.name[strings.LastIndexByte(q.name, '/')+1:]
		content = s.subscription()
	default:
		content = s.queue()
	}
	e := newEntry(r, q.name, title, content)
	e.Published, e.Updated = s.times.CreatedAt, s.times.UpdatedAt
	return e
}

// snapshot is what entries say about an entity.
type snapshot struct {
	cfg            QueueConfig
	times          entityTimes
	counts         countDetails
	messages       int
	bytes          int64
	maxMessage     int64
	subscriptions  int
	sql, correlate int // rules of a topic
}

func (b *Broker) snapshot(q *queue) snapshot {
	counts := q.counts()
	transferDead := 0
	if q.transfer != nil {
		transferDead = q.transfer.counts().Active
	}
	s := snapshot{
		counts: countDetails{
			Prefix: nsCounts, Active: counts.Active, DeadLetter: counts.DeadLetter, Scheduled: counts.Scheduled,
			TransferDeadLetter: transferDead,
		},
		messages: counts.Active + counts.Scheduled + counts.Deferred + counts.DeadLetter + transferDead,
		bytes:    counts.Bytes, maxMessage: int64(q.messageLimit(b.maxMessage)),
	}
	for _, subscription := range q.currentSubscriptions() {
		sql, correlation := subscription.rules.count()
		s.sql, s.correlate = s.sql+sql, s.correlate+correlation
		s.bytes += subscription.counts().Bytes
		s.subscriptions++
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	s.cfg = q.cfg
	s.times = entityTimes{
		q.created.UTC().Format(time.RFC3339Nano), q.updated.UTC().Format(time.RFC3339Nano),
		q.links.lastAttached.UTC().Format(time.RFC3339Nano),
	}
	return s
}

func (s snapshot) queue() queueDescription {
	u := s.cfg.unused
	return queueDescription{
		XMLName: xml.Name{Space: nsService, Local: "QueueDescription"}, Instance: nsInstance,
		LockDuration: formatDuration(s.cfg.LockDuration), MaxSizeInMegabytes: s.megabytes(),
		RequiresDuplicateDetection: s.cfg.DuplicateWindow > 0, RequiresSession: s.cfg.RequiresSession,
		DefaultMessageTimeToLive: formatDuration(s.cfg.DefaultTTL), DeadLetterOnExpiration: s.cfg.DeadLetterOnExpiration,
		DuplicateDetectionWindow: s.duplicateWindow(), MaxDeliveryCount: s.cfg.MaxDeliveryCount,
		EnableBatchedOperations: !u.SkipBatchedOperations, SizeInBytes: s.bytes, MessageCount: s.messages,
		AuthorizationRules: s.authorizationRules(), Status: cmp.Or(s.cfg.Status, Active), ForwardTo: cmp.Or(u.ForwardTo, s.cfg.ForwardTo),
		UserMetadata: u.UserMetadata, entityTimes: s.times, SupportOrdering: !u.SkipOrdering, Counts: s.counts,
		AutoDeleteOnIdle: cmp.Or(u.AutoDeleteOnIdle, forever), EnablePartitioning: u.EnablePartitioning, Availability: "Available",
		ForwardDeadLettersTo: cmp.Or(u.ForwardDeadLettersTo, s.cfg.ForwardDeadLettersTo), EnableExpress: u.EnableExpress,
		MaxMessageSizeInKilobytes: s.maxMessage >> 10,
	}
}

func (s snapshot) topic() topicDescription {
	u := s.cfg.unused
	return topicDescription{
		XMLName: xml.Name{Space: nsService, Local: "TopicDescription"}, Instance: nsInstance,
		DefaultMessageTimeToLive: formatDuration(s.cfg.DefaultTTL), MaxSizeInMegabytes: s.megabytes(),
		RequiresDuplicateDetection: s.cfg.DuplicateWindow > 0, DuplicateDetectionWindow: s.duplicateWindow(),
		EnableBatchedOperations: !u.SkipBatchedOperations, SizeInBytes: s.bytes, AuthorizationRules: s.authorizationRules(),
		Status: cmp.Or(s.cfg.Status, Active), UserMetadata: u.UserMetadata, entityTimes: s.times, SupportOrdering: !u.SkipOrdering,
		Counts: s.counts, SubscriptionCount: s.subscriptions, AutoDeleteOnIdle: cmp.Or(u.AutoDeleteOnIdle, forever),
		EnablePartitioning: u.EnablePartitioning, Availability: "Available", EnableExpress: u.EnableExpress,
		MaxMessageSizeInKilobytes: s.maxMessage >> 10, SQLFilterCount: s.sql,
		CorrelationFilterCount: s.correlate,
	}
}

func (s snapshot) subscription() subscriptionDescription {
	u := s.cfg.unused
	return subscriptionDescription{
		XMLName: xml.Name{Space: nsService, Local: "SubscriptionDescription"}, Instance: nsInstance,
		LockDuration: formatDuration(s.cfg.LockDuration), RequiresSession: s.cfg.RequiresSession,
		DefaultMessageTimeToLive: formatDuration(s.cfg.DefaultTTL), DeadLetterOnExpiration: s.cfg.DeadLetterOnExpiration,
		DeadLetterOnFilterErrors: !s.cfg.IgnoreRuleFailures, MessageCount: s.messages, MaxDeliveryCount: s.cfg.MaxDeliveryCount,
		EnableBatchedOperations: !u.SkipBatchedOperations, Status: cmp.Or(s.cfg.Status, Active), ForwardTo: cmp.Or(u.ForwardTo,
			s.cfg.ForwardTo),
		entityTimes: s.times, UserMetadata: u.UserMetadata, Counts: s.counts,
		ForwardDeadLettersTo: cmp.Or(u.ForwardDeadLettersTo, s.cfg.ForwardDeadLettersTo),
		AutoDeleteOnIdle:     cmp.Or(u.AutoDeleteOnIdle, forever), Availability: "Available",
	}
}

func (s snapshot) megabytes() int64 {
	size := max(1, s.cfg.MaxBytes>>20)
	if s.cfg.unused.EnablePartitioning {
		size *= partitions
	}
	return size
}

func (s snapshot) duplicateWindow() string {
	return formatDuration(cmp.Or(s.cfg.DuplicateWindow, s.cfg.unused.DuplicateWindow, defaultDuplicateWindow))
}

func (s snapshot) authorizationRules() []authorizationRuleEntry {
	var list []authorizationRuleEntry
	for _, r := range s.cfg.unused.AuthorizationRules {
		list = append(list, authorizationRuleEntry(r))
	}
	return list
}
