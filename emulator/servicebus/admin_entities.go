package servicebus

import (
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

// partitions is by how much the service multiplies the maximum size of a partitioned entity.
const partitions = 16

// serveEntity reads, creates, updates or deletes one queue, topic or subscription.
func (a admin) serveEntity(r *http.Request, path string) (status int, answer any, err error) {
	q := a.b.entity(path)
	if q != nil && q.kind == deadQueue {
		q = nil
	}
	switch r.Method {
	case http.MethodGet:
		if q == nil {
			return http.StatusOK, noSuchEntity, nil
		}
		return http.StatusOK, a.b.entityEntry(q, r.Host), nil
	case http.MethodDelete:
		if q == nil {
			return 0, nil, missing(path)
		}
		a.b.remove(q)
		return http.StatusOK, nil, nil
	case http.MethodPut:
		var d description
		if err := readEntry(r.Body, &d); err != nil {
			return 0, nil, err
		}
		if r.Header.Get("If-Match") == "" {
			if q, err = a.create(path, d); err != nil {
				return 0, nil, err
			}
			return http.StatusCreated, a.b.entityEntry(q, r.Host), nil
		}
		if q == nil {
			return 0, nil, missing(path)
		}
		if err := a.update(q, d); err != nil {
			return 0, nil, err
		}
		return http.StatusOK, a.b.entityEntry(q, r.Host), nil
	}
	return 0, nil, notSupported(r.Method)
}

// create creates the kind of entity that the description's name says.
func (a admin) create(path string, d description) (*queue, error) {
	cfg, err := d.config(QueueConfig{Name: path})
	if err != nil {
		return nil, err
	}
	k := plainQueue
	var list []rule.Rule
	switch d.XMLName.Local {
	case "QueueDescription":
	case "TopicDescription":
		k = topicQueue
	case "SubscriptionDescription":
		k = subscriptionQueue
		if d.DefaultRule != nil {
			one, err := d.DefaultRule.rule()
			if err != nil {
				return nil, err
			}
			list = []rule.Rule{one}
		}
	default:
		return nil, invalid("The content must be a QueueDescription, TopicDescription or SubscriptionDescription.")
	}
	q, err := a.b.create(k, cfg, list)
	switch {
	case errors.Is(err, errEntityExists):
		return nil, conflict(cfg.Name)
	case errors.Is(err, errNoTopic):
		return nil, missing(cfg.Name)
	case err != nil:
		return nil, invalid(err.Error())
	}
	return q, nil
}

// update changes the settings of an entity.
func (a admin) update(q *queue, d description) error {
	err := a.b.update(q, func(cfg QueueConfig) (QueueConfig, error) {
		if d.RequiresSession != nil && *d.RequiresSession != cfg.RequiresSession {
			return cfg, invalid(fmt.Sprintf("The value for the RequiresSession property of an existing %s cannot be changed.", q.kind))
		}
		if d.EnablePartitioning != cfg.unused.EnablePartitioning {
			return cfg, invalid(fmt.Sprintf("Partitioning cannot be changed for %s. ", q.kind))
		}
		return d.config(cfg)
	})
	var known *adminError
	if err != nil && !errors.As(err, &known) {
		return invalid(err.Error())
	}
	return err
}

// list returns one page of the entities for which belongs returns true, in the order of their
// names.
func (a admin) list(r *http.Request, title string, belongs func(*queue) bool) (status int, answer any, err error) {
	var all []*queue
	for _, q := range a.b.all() {
		if belongs(q) {
			all = append(all, q)
		}
	}
	slices.SortFunc(all, func(x, y *queue) int { return strings.Compare(strings.ToLower(x.name), strings.ToLower(y.name)) })
	f := atomFeed{Title: atomText{"text", title}}
	for _, q := range page(r, all) {
		f.Entries = append(f.Entries, a.b.entityEntry(q, r.Host))
	}
	return http.StatusOK, f, nil
}

// unusedSettings are settings that the administration API returns as they were written, and that
// the broker does not act on.
type unusedSettings struct {
	// ForwardTo and ForwardDeadLettersTo may be URLs. In a QueueConfig they are names.
	ForwardTo                 string         `xml:"ForwardTo,omitempty"`
	UserMetadata              string         `xml:"UserMetadata,omitempty"`
	ForwardDeadLettersTo      string         `xml:"ForwardDeadLetteredMessagesTo,omitempty"`
	AutoDeleteOnIdle          string         `xml:"AutoDeleteOnIdle,omitempty"`
	EnableBatchedOperations   *bool          `xml:"EnableBatchedOperations"`
	EnablePartitioning        bool           `xml:"EnablePartitioning"`
	EnableExpress             bool           `xml:"EnableExpress"`
	DeadLetterOnFilterErrors  bool           `xml:"DeadLetteringOnFilterEvaluationExceptions"`
	MaxMessageSizeInKilobytes int64          `xml:"MaxMessageSizeInKilobytes,omitempty"`
	AuthorizationRules        *authorization `xml:"AuthorizationRules"`
}

type authorization struct {
	Inner []byte `xml:",innerxml"`
}

// description is a QueueDescription, TopicDescription or SubscriptionDescription.
type description struct {
	XMLName                    xml.Name
	LockDuration               string           `xml:"LockDuration,omitempty"`
	MaxSizeInMegabytes         int64            `xml:"MaxSizeInMegabytes,omitempty"`
	RequiresDuplicateDetection bool             `xml:"RequiresDuplicateDetection"`
	RequiresSession            *bool            `xml:"RequiresSession"`
	DefaultMessageTimeToLive   string           `xml:"DefaultMessageTimeToLive,omitempty"`
	DeadLetterOnExpiration     bool             `xml:"DeadLetteringOnMessageExpiration"`
	DuplicateDetectionWindow   string           `xml:"DuplicateDetectionHistoryTimeWindow,omitempty"`
	DefaultRule                *ruleDescription `xml:"DefaultRuleDescription,omitempty"`
	MaxDeliveryCount           int              `xml:"MaxDeliveryCount,omitempty"`
	SizeInBytes                int64            `xml:"SizeInBytes"`
	MessageCount               int              `xml:"MessageCount"`
	Status                     string           `xml:"Status,omitempty"`
	CreatedAt                  string           `xml:"CreatedAt,omitempty"`
	UpdatedAt                  string           `xml:"UpdatedAt,omitempty"`
	AccessedAt                 string           `xml:"AccessedAt,omitempty"`
	SupportOrdering            bool             `xml:"SupportOrdering"`
	Availability               string           `xml:"EntityAvailabilityStatus,omitempty"`
	SubscriptionCount          int              `xml:"SubscriptionCount"`
	Counts                     *countDetails    `xml:"CountDetails,omitempty"`
	unusedSettings
}

// countDetails has the namespace prefix of the service, because the JavaScript client reads the
// names with their prefix.
type countDetails struct {
	Prefix             string `xml:"xmlns:d2p1,attr"`
	Active             int    `xml:"d2p1:ActiveMessageCount"`
	DeadLetter         int    `xml:"d2p1:DeadLetterMessageCount"`
	Scheduled          int    `xml:"d2p1:ScheduledMessageCount"`
	TransferDeadLetter int    `xml:"d2p1:TransferDeadLetterMessageCount"`
	Transfer           int    `xml:"d2p1:TransferMessageCount"`
}

// config returns cfg with the settings of the description. Durations, sizes and counts that the
// description leaves out stay as they are.
func (d description) config(cfg QueueConfig) (QueueConfig, error) {
	if d.RequiresSession != nil {
		cfg.RequiresSession = *d.RequiresSession
	}
	for name, field := range map[string]struct {
		text string
		to   *time.Duration
	}{
		"LockDuration":                        {d.LockDuration, &cfg.LockDuration},
		"DefaultMessageTimeToLive":            {d.DefaultMessageTimeToLive, &cfg.DefaultTTL},
		"DuplicateDetectionHistoryTimeWindow": {d.DuplicateDetectionWindow, &cfg.DuplicateWindow},
	} {
		if field.text == "" {
			continue
		}
		value, err := ParseDuration(field.text)
		if err != nil {
			return cfg, invalid(name + ": " + err.Error())
		}
		*field.to = value
	}
	switch {
	case !d.RequiresDuplicateDetection:
		cfg.DuplicateWindow = 0
	case cfg.DuplicateWindow == 0:
		cfg.DuplicateWindow = 10 * time.Minute
	}
	if cfg.DefaultTTL == math.MaxInt64 {
		cfg.DefaultTTL = 0
	}
	cfg.MaxDeliveryCount = cmp.Or(d.MaxDeliveryCount, cfg.MaxDeliveryCount)
	cfg.DeadLetterOnExpiration = d.DeadLetterOnExpiration
	if d.MaxSizeInMegabytes > 0 {
		size := d.MaxSizeInMegabytes
		if cfg.unused.EnablePartitioning {
			size = max(1, size/partitions) // clients write the size that they have read
		}
		cfg.MaxBytes = min(size, 1<<30) << 20
	}
	cfg.ForwardTo, cfg.ForwardDeadLettersTo = entityName(d.ForwardTo), entityName(d.ForwardDeadLettersTo)
	cfg.unused = d.unusedSettings
	cfg.Status = Status(d.Status)
	if !cfg.Status.valid() {
		return cfg, invalid("Status: " + d.Status + " is not known.")
	}
	return cfg, nil
}

// entityName returns the name of an entity that may be given as a URL.
func entityName(address string) string {
	if u, err := url.Parse(address); err == nil && u.Scheme != "" {
		return strings.Trim(u.Path, "/")
	}
	return address
}

// entityEntry describes an entity as it is now.
func (b *Broker) entityEntry(q *queue, host string) atomEntry {
	counts := q.counts()
	transferDead := 0
	if q.transfer != nil {
		transferDead = q.transfer.counts().Active
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	d := description{
		LockDuration:               formatDuration(q.cfg.LockDuration),
		MaxSizeInMegabytes:         max(1, q.cfg.MaxBytes>>20),
		RequiresDuplicateDetection: q.cfg.DuplicateWindow > 0,
		RequiresSession:            new(q.cfg.RequiresSession),
		DefaultMessageTimeToLive:   formatDuration(q.cfg.DefaultTTL),
		DeadLetterOnExpiration:     q.cfg.DeadLetterOnExpiration,
		DuplicateDetectionWindow:   formatDuration(cmp.Or(q.cfg.DuplicateWindow, 10*time.Minute)),
		MaxDeliveryCount:           q.cfg.MaxDeliveryCount,
		SizeInBytes:                counts.Bytes,
		MessageCount:               counts.Active + counts.Scheduled + counts.Deferred + counts.DeadLetter,
		Status:                     string(cmp.Or(q.cfg.Status, Active)),
		CreatedAt:                  q.created.UTC().Format(time.RFC3339Nano),
		UpdatedAt:                  q.updated.UTC().Format(time.RFC3339Nano),
		AccessedAt:                 q.links.lastAttached.UTC().Format(time.RFC3339Nano),
		SupportOrdering:            true,
		Availability:               "Available",
		Counts: &countDetails{
			Prefix: nsCounts, Active: counts.Active, DeadLetter: counts.DeadLetter, Scheduled: counts.Scheduled,
			TransferDeadLetter: transferDead,
		},
		unusedSettings: q.cfg.unused,
	}
	d.ForwardTo = cmp.Or(d.ForwardTo, q.cfg.ForwardTo)
	d.ForwardDeadLettersTo = cmp.Or(d.ForwardDeadLettersTo, q.cfg.ForwardDeadLettersTo)
	d.AutoDeleteOnIdle = cmp.Or(d.AutoDeleteOnIdle, forever)
	d.MaxMessageSizeInKilobytes = cmp.Or(d.MaxMessageSizeInKilobytes, int64(b.maxMessage>>10))
	if d.EnableBatchedOperations == nil {
		d.EnableBatchedOperations = new(true)
	}
	if d.EnablePartitioning {
		d.MaxSizeInMegabytes *= partitions
	}
	title := q.name
	d.XMLName = xml.Name{Space: nsService, Local: "QueueDescription"}
	switch q.kind {
	case topicQueue:
		d.XMLName.Local = "TopicDescription"
		d.SubscriptionCount = len(q.subscriptions)
	case subscriptionQueue:
		d.XMLName.Local = "SubscriptionDescription"
		title = q.name[strings.LastIndexByte(q.name, '/')+1:]
	}
	return newEntry(host, q.name, title, d)
}
