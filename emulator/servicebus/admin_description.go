package servicebus

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"math"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"
)

// partitions is by how much the service multiplies the maximum size of a partitioned entity.
const partitions = 16

// description is a QueueDescription, TopicDescription or SubscriptionDescription as clients write
// it. Elements that only the service sets, such as counts, are ignored, because clients write back
// what they have read.
type description struct {
	XMLName                    xml.Name
	LockDuration               string           `xml:"LockDuration"`
	MaxSizeInMegabytes         *int64           `xml:"MaxSizeInMegabytes"`
	RequiresDuplicateDetection *bool            `xml:"RequiresDuplicateDetection"`
	RequiresSession            *bool            `xml:"RequiresSession"`
	DefaultMessageTimeToLive   string           `xml:"DefaultMessageTimeToLive"`
	DeadLetterOnExpiration     bool             `xml:"DeadLetteringOnMessageExpiration"`
	DeadLetterOnFilterErrors   *bool            `xml:"DeadLetteringOnFilterEvaluationExceptions"`
	DuplicateDetectionWindow   string           `xml:"DuplicateDetectionHistoryTimeWindow"`
	DefaultRule                *ruleDescription `xml:"DefaultRuleDescription"`
	MaxDeliveryCount           *int             `xml:"MaxDeliveryCount"`
	Status                     string           `xml:"Status"`
	EnablePartitioning         *bool            `xml:"EnablePartitioning"`
	IsAnonymousAccessible      bool             `xml:"IsAnonymousAccessible"`
	FilterBeforePublishing     bool             `xml:"FilteringMessagesBeforePublishing"`
	IsClientAffine             bool             `xml:"IsClientAffine"`

	ForwardTo                 string              `xml:"ForwardTo"`
	UserMetadata              string              `xml:"UserMetadata"`
	ForwardDeadLettersTo      string              `xml:"ForwardDeadLetteredMessagesTo"`
	AutoDeleteOnIdle          string              `xml:"AutoDeleteOnIdle"`
	EnableBatchedOperations   *bool               `xml:"EnableBatchedOperations"`
	SupportOrdering           *bool               `xml:"SupportOrdering"`
	EnableExpress             bool                `xml:"EnableExpress"`
	MaxMessageSizeInKilobytes *int                `xml:"MaxMessageSizeInKilobytes"`
	AuthorizationRules        []authorizationRule `xml:"AuthorizationRules>AuthorizationRule"`
}

// unusedSettings are settings that the administration API returns as they were written. They have no
// effect, except that EnablePartitioning multiplies the maximum size.
type unusedSettings struct {
	// ForwardTo and ForwardDeadLettersTo may be URLs. In a QueueConfig they are names.
	ForwardTo, ForwardDeadLettersTo     string
	DuplicateWindow                     time.Duration // of an entity that detects no duplicates
	UserMetadata                        string
	AutoDeleteOnIdle                    string
	SkipBatchedOperations, SkipOrdering bool
	EnablePartitioning, EnableExpress   bool
	AuthorizationRules                  []authorizationRule
}

// authorizationRule is a shared access key of one entity.
type authorizationRule struct {
	Type         string   `xml:"http://www.w3.org/2001/XMLSchema-instance type,attr"`
	ClaimType    string   `xml:"ClaimType"`
	ClaimValue   string   `xml:"ClaimValue"`
	Rights       []string `xml:"Rights>AccessRights"`
	CreatedTime  string   `xml:"CreatedTime"`
	ModifiedTime string   `xml:"ModifiedTime"`
	KeyName      string   `xml:"KeyName"`
	PrimaryKey   string   `xml:"PrimaryKey"`
	SecondaryKey string   `xml:"SecondaryKey"`
}

// The bounds of settings
// (https://learn.microsoft.com/azure/templates/microsoft.servicebus/namespaces/queues and
// https://learn.microsoft.com/azure/service-bus-messaging/service-bus-quotas).
const (
	maxLock               = 5 * time.Minute
	minIdle               = 5 * time.Minute
	minDuplicateWindow    = 20 * time.Second
	maxDuplicateWindow    = 7 * 24 * time.Hour
	maxUserMetadata       = 1024 // characters
	maxAuthorizationRules = 12
)

// config returns cfg with the settings of the description. It fails for what the emulator cannot
// do if that would change what clients observe. A duration outside the service's bounds is accepted
// if it is the current one, because a Config has no such bounds.
func (d *description) config(cfg, current QueueConfig) (QueueConfig, error) {
	if err := d.check(); err != nil {
		return cfg, invalid(err.Error())
	}
	detects := cfg.DuplicateWindow > 0
	if d.RequiresDuplicateDetection != nil {
		detects = *d.RequiresDuplicateDetection
	}
	var idle time.Duration
	for _, field := range []struct {
		name, text string
		to         *time.Duration
		current    time.Duration
		from, upTo time.Duration
	}{
		{"LockDuration", d.LockDuration, &cfg.LockDuration, current.LockDuration, time.Second, maxLock},
		{"DefaultMessageTimeToLive", d.DefaultMessageTimeToLive, &cfg.DefaultTTL, current.DefaultTTL, time.Second, math.MaxInt64},
		{
			"DuplicateDetectionHistoryTimeWindow", d.DuplicateDetectionWindow, &cfg.DuplicateWindow, current.DuplicateWindow,
			minDuplicateWindow, maxDuplicateWindow,
		},
		{"AutoDeleteOnIdle", d.AutoDeleteOnIdle, &idle, 0, minIdle, math.MaxInt64},
	} {
		if field.text == "" {
			continue
		}
		value, err := ParseDuration(field.text)
		if err != nil {
			return cfg, invalid(field.name + ": " + err.Error())
		}
		if outside := value < field.from || value > field.upTo; outside && (value == 0 || value != field.current) {
			return cfg, invalid(fmt.Sprintf("%s must be from %s to %s, not %s.",
				field.name, formatDuration(field.from), formatDuration(field.upTo), field.text))
		}
		*field.to = value
	}
	if d.RequiresSession != nil {
		cfg.RequiresSession = *d.RequiresSession
	}
	var unusedWindow time.Duration
	switch {
	case !detects:
		unusedWindow = cmp.Or(cfg.DuplicateWindow, cfg.unused.DuplicateWindow)
		cfg.DuplicateWindow = 0
	case cfg.DuplicateWindow == 0:
		cfg.DuplicateWindow = defaultDuplicateWindow
	}
	if cfg.DefaultTTL == math.MaxInt64 {
		cfg.DefaultTTL = 0
	}
	if d.MaxDeliveryCount != nil {
		cfg.MaxDeliveryCount = *d.MaxDeliveryCount
	}
	cfg.DeadLetterOnExpiration = d.DeadLetterOnExpiration
	cfg.IgnoreRuleFailures = d.DeadLetterOnFilterErrors != nil && !*d.DeadLetterOnFilterErrors
	if d.MaxSizeInMegabytes != nil {
		size := *d.MaxSizeInMegabytes
		if cfg.unused.EnablePartitioning {
			size = max(1, size/partitions) // clients write the size that they have read
		}
		cfg.MaxBytes = min(size, 1<<30) << 20
	}
	if d.MaxMessageSizeInKilobytes != nil {
		cfg.MaxMessageSize = *d.MaxMessageSizeInKilobytes << 10
	}
	partitioned := cfg.unused.EnablePartitioning
	if d.EnablePartitioning != nil {
		partitioned = *d.EnablePartitioning
	}
	cfg.ForwardTo, cfg.ForwardDeadLettersTo = strings.Trim(nodeOf(d.ForwardTo), "/"), strings.Trim(nodeOf(d.ForwardDeadLettersTo), "/")
	cfg.Status = Status(d.Status)
	cfg.unused = unusedSettings{
		ForwardTo: lowerHost(d.ForwardTo), ForwardDeadLettersTo: lowerHost(d.ForwardDeadLettersTo),
		DuplicateWindow: unusedWindow, UserMetadata: d.UserMetadata,
		AutoDeleteOnIdle: d.AutoDeleteOnIdle, SkipBatchedOperations: isFalse(d.EnableBatchedOperations),
		SkipOrdering: isFalse(d.SupportOrdering), EnableExpress: d.EnableExpress,
		EnablePartitioning: partitioned,
		AuthorizationRules: d.AuthorizationRules,
	}
	return cfg, nil
}

func isFalse(b *bool) bool { return b != nil && !*b }

// check returns what is wrong with settings that need no entity.
func (d *description) check() error {
	switch {
	case !Status(d.Status).valid():
		return fmt.Errorf("Status: %q is not known", d.Status)
	case d.MaxDeliveryCount != nil && *d.MaxDeliveryCount < 1:
		return fmt.Errorf("MaxDeliveryCount must be at least 1, not %d", *d.MaxDeliveryCount)
	case d.MaxSizeInMegabytes != nil && *d.MaxSizeInMegabytes < 1:
		return fmt.Errorf("MaxSizeInMegabytes must be at least 1, not %d", *d.MaxSizeInMegabytes)
	case d.MaxMessageSizeInKilobytes != nil && (*d.MaxMessageSizeInKilobytes < 1 || *d.MaxMessageSizeInKilobytes > maxMessageSize>>10):
		return fmt.Errorf("MaxMessageSizeInKilobytes must be from 1 to %d, not %d", maxMessageSize>>10, *d.MaxMessageSizeInKilobytes)
	case utf8.RuneCountInString(d.UserMetadata) > maxUserMetadata:
		return fmt.Errorf("UserMetadata may have at most %d characters", maxUserMetadata)
	case len(d.AuthorizationRules) > maxAuthorizationRules:
		return fmt.Errorf("an entity may have at most %d AuthorizationRules", maxAuthorizationRules)
	case d.IsAnonymousAccessible:
		return fmt.Errorf("IsAnonymousAccessible is not supported by this emulator: every client must sign in")
	case d.FilterBeforePublishing:
		return fmt.Errorf("FilteringMessagesBeforePublishing is not supported by this emulator: topics accept what no subscription gets")
	case d.IsClientAffine:
		return fmt.Errorf("IsClientAffine is not supported by this emulator: subscriptions of JMS clients need Service Bus Premium")
	}
	return nil
}

// lowerHost returns the address as the service answers with it: the scheme and host of a URL in
// lower case.
func lowerHost(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Scheme == "" {
		return address
	}
	u.Host = strings.ToLower(u.Host)
	return u.String()
}
