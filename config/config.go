// Package config turns a YAML file, the environment and flags into one validated Config.
package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Config is every setting of the worker. The tags are the single source of each setting's key, default and bounds, and
// descriptions holds its description. Flags, names of environment variables and the documented table are generated from both.
// Fields tagged secret have no flag, because every user of the machine can see a process's arguments.
type Config struct {
	ServiceBus ServiceBus `koanf:"servicebus"`
	Graph      Graph      `koanf:"graph"`
	Retry      Retry      `koanf:"retry"`
	Dedupe     Dedupe     `koanf:"dedupe"`
	Consumer   Consumer   `koanf:"consumer"`
	Events     Events     `koanf:"events"`
	Guard      Guard      `koanf:"guard"`
	Audit      Audit      `koanf:"audit"`
	Redis      Redis      `koanf:"redis"`
	Ops        Ops        `koanf:"ops"`
	Log        Log        `koanf:"log"`
}

// ServiceBus configures where events come from.
type ServiceBus struct {
	ConnectionString     string        `koanf:"connection_string" secret:"true"`
	ConnectionStringFile string        `koanf:"connection_string_file"`
	Namespace            string        `koanf:"namespace"`
	Queue                string        `koanf:"queue"`
	Topic                string        `koanf:"topic"`
	Subscription         string        `koanf:"subscription"`
	Sessions             int           `koanf:"sessions" default:"0" min:"0" max:"100"`
	LockDuration         time.Duration `koanf:"lock_duration" default:"1m" min:"5s" max:"5m"`
	AdminEndpoint        string        `koanf:"admin_endpoint"`
	Sources              []string      `koanf:"sources"`
}

// Entities returns the paths of the queues and subscriptions, the most urgent first.
func (s ServiceBus) Entities() []string {
	switch {
	case len(s.Sources) > 0:
		return s.Sources
	case s.Topic != "":
		return []string{s.Topic + "/Subscriptions/" + s.Subscription}
	}
	return []string{s.Queue}
}

// SplitSubscription splits the path of a subscription, TOPIC/Subscriptions/NAME in any case. ok is false for a queue.
func SplitSubscription(entity string) (topic, subscription string, ok bool) {
	const middle = "/subscriptions/"
	// strings.ToLower can change the length of a string, and with it the index.
	for at := len(entity) - len(middle); at >= 0; at-- {
		if end := at + len(middle); strings.EqualFold(entity[at:end], middle) {
			return entity[:at], entity[end:], true
		}
	}
	return "", "", false
}

// Graph configures which Graph is called, and as whom.
type Graph struct {
	CloudName        string        `koanf:"cloud" default:"global"`
	Endpoint         string        `koanf:"endpoint"`
	TenantID         string        `koanf:"tenant_id"`
	ClientID         string        `koanf:"client_id"`
	ClientSecret     string        `koanf:"client_secret" secret:"true"`
	ClientSecretFile string        `koanf:"client_secret_file"`
	CertificateFile  string        `koanf:"client_certificate_file"`
	Authority        string        `koanf:"authority"`
	TokenURL         string        `koanf:"token_url"`
	ReadUsers        bool          `koanf:"read_users" default:"false"`
	VerifyTimeout    time.Duration `koanf:"verify_timeout" default:"0s" min:"0s" max:"2m"`
	CanaryUser       string        `koanf:"canary_user"`
	Timeout          time.Duration `koanf:"timeout" default:"30s" min:"1s" max:"5m"`
}

// Retry configures how often and how long an attempt for a user is repeated.
type Retry struct {
	MaxAttempts     int           `koanf:"max_attempts" default:"8" min:"1" max:"100"`
	InitialInterval time.Duration `koanf:"initial_interval" default:"1s" min:"10ms" max:"1m"`
	MaxInterval     time.Duration `koanf:"max_interval" default:"1m" min:"10ms" max:"10m"`
	MaxAge          time.Duration `koanf:"max_age" default:"1h" min:"1m" max:"24h"`
	NotFoundFor     time.Duration `koanf:"not_found_for" default:"1m" min:"0s" max:"15m"`
}

// Dedupe configures how events about one user become one call.
type Dedupe struct {
	Window      time.Duration `koanf:"window" default:"1m" min:"0s" max:"1h"`
	SkewMargin  time.Duration `koanf:"skew_margin" default:"5s" min:"0s" max:"5m"`
	RememberFor time.Duration `koanf:"remember_for" default:"1h" min:"1m" max:"24h"`
	MaxUsers    int           `koanf:"max_users" default:"100000" min:"100" max:"10000000"`
}

// Consumer bounds the work in flight.
type Consumer struct {
	Concurrency   int           `koanf:"concurrency" default:"16" min:"1" max:"256"`
	MaxInFlight   int           `koanf:"max_in_flight" default:"256" min:"8" max:"5000"`
	SettleTimeout time.Duration `koanf:"settle_timeout" default:"10s" min:"1s" max:"1m"`
	DryRun        bool          `koanf:"dry_run" default:"false"`
	DrainTimeout  time.Duration `koanf:"drain_timeout" default:"25s" min:"1s" max:"1h"`
}

// Events configures which events are accepted.
type Events struct {
	Types []string `koanf:"types" default:"device.stolen,device.lost,user.compromised,user.offboarded"`
}

// Guard configures whose sessions are never revoked, and how many users are too many.
type Guard struct {
	ProtectedUsers []string      `koanf:"protected_users"`
	MaxUsers       int           `koanf:"max_users" default:"1000" min:"0" max:"10000000"`
	Window         time.Duration `koanf:"window" default:"1h" min:"1m" max:"168h"`
	Mode           string        `koanf:"mode" default:"enforce"`
	ReleaseFile    string        `koanf:"release_file"`
	ProtectedFile  string        `koanf:"protected_file"`
}

// Audit configures where decisions are recorded.
type Audit struct {
	File    string `koanf:"file"`
	KeyFile string `koanf:"key_file"`
	Topic   string `koanf:"topic"`
}

// Redis configures how replicas coordinate.
type Redis struct {
	Addresses      []string      `koanf:"addresses"`
	Username       string        `koanf:"username"`
	Password       string        `koanf:"password" secret:"true"`
	PasswordFile   string        `koanf:"password_file"`
	TLS            bool          `koanf:"tls" default:"false"`
	CAFile         string        `koanf:"ca_file"`
	Cluster        bool          `koanf:"cluster" default:"false"`
	SentinelMaster string        `koanf:"sentinel_master"`
	Timeout        time.Duration `koanf:"timeout" default:"250ms" min:"10ms" max:"5s"`
	ShareRateLimit bool          `koanf:"share_rate_limit" default:"true"`
}

// Used reports whether a Redis is configured.
func (r Redis) Used() bool { return len(r.Addresses) > 0 }

// Ops configures the operations port.
type Ops struct {
	Address string `koanf:"address" default:"127.0.0.1:9090"`
}

// Log configures what is logged, and how.
type Log struct {
	Level     string `koanf:"level" default:"info"`
	Format    string `koanf:"format" default:"json"`
	HashUsers bool   `koanf:"hash_users" default:"false"`
}

// Cloud is a national cloud. Its addresses belong together and must not be mixed with those of another
// (https://learn.microsoft.com/graph/deployments).
type Cloud struct {
	Name             string
	GraphRoot        string
	Authority        string
	ServiceBusSuffix string
}

// Scope returns the scope of tokens for this cloud's Graph.
func (c Cloud) Scope() string { return c.GraphRoot + "/.default" }

var clouds = []Cloud{
	{"global", "https://graph.microsoft.com", "https://login.microsoftonline.com/", "servicebus.windows.net"},
	{"usgov-l4", "https://graph.microsoft.us", "https://login.microsoftonline.us/", "servicebus.usgovcloudapi.net"},
	{"usgov-dod", "https://dod-graph.microsoft.us", "https://login.microsoftonline.us/", "servicebus.usgovcloudapi.net"},
	{"china", "https://microsoftgraph.chinacloudapi.cn", "https://login.chinacloudapi.cn/", "servicebus.chinacloudapi.cn"},
}

// Cloud returns the chosen national cloud. graph.endpoint and graph.authority replace its own if they are set.
func (c Config) Cloud() Cloud {
	i := slices.IndexFunc(clouds, func(cloud Cloud) bool { return cloud.Name == c.Graph.CloudName })
	if i < 0 {
		return Cloud{}
	}
	cloud := clouds[i]
	if c.Graph.Authority != "" {
		cloud.Authority = strings.TrimRight(c.Graph.Authority, "/") + "/"
	}
	if c.Graph.Endpoint != "" {
		cloud.GraphRoot = strings.TrimRight(c.Graph.Endpoint, "/")
	}
	return cloud
}

// Redacted returns the configuration for a log line, by key. It replaces secrets, and users if the log must not name them, and
// leaves out settings that are empty.
func (c Config) Redacted() map[string]string {
	settings := map[string]string{}
	for _, o := range options(&c) {
		value := fmt.Sprint(o.value.Interface())
		switch {
		case o.value.IsZero(), value == "[]":
		case o.Secret:
			settings[o.Key] = "(set)"
		case o.Key == "guard.protected_users" && c.Log.HashUsers:
			settings[o.Key] = fmt.Sprintf("(%d users)", len(c.Guard.ProtectedUsers))
		case o.Key == "graph.canary_user" && c.Log.HashUsers:
			settings[o.Key] = "(set)"
		default:
			settings[o.Key] = value
		}
	}
	return settings
}
