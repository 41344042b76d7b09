// Package config turns a YAML file, the environment and flags into one validated Config.
package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Config is every setting of the worker. The tags are the single source of each setting's key,
// default and bounds, and descriptions holds its description. Flags, names of environment variables
// and the documented table are generated from both. Fields tagged secret have no flag, because
// every user of the machine can see a process's arguments.
type Config struct {
	ServiceBus ServiceBus `key:"servicebus"`
	Graph      Graph      `key:"graph"`
	Retry      Retry      `key:"retry"`
	Dedupe     Dedupe     `key:"dedupe"`
	Consumer   Consumer   `key:"consumer"`
	Events     Events     `key:"events"`
	Guard      Guard      `key:"guard"`
	Audit      Audit      `key:"audit"`
	Redis      Redis      `key:"redis"`
	TLS        TLS        `key:"tls"`
	Ingest     Ingest     `key:"ingest"`
	Ops        Ops        `key:"ops"`
	Log        Log        `key:"log"`
}

// ServiceBus configures where events come from.
type ServiceBus struct {
	ConnectionString     string        `key:"connection_string" secret:"true"`
	ConnectionStringFile string        `key:"connection_string_file"`
	Namespace            string        `key:"namespace"`
	Queue                string        `key:"queue"`
	Topic                string        `key:"topic"`
	Subscription         string        `key:"subscription"`
	Sessions             int           `key:"sessions" default:"0" min:"0" max:"100"`
	LockDuration         time.Duration `key:"lock_duration" default:"1m" min:"5s" max:"5m"`
	Transport            string        `key:"transport" default:"amqp"`
	Proxy                string        `key:"proxy" secret:"true"`
	Endpoint             string        `key:"endpoint"`
	AdminEndpoint        string        `key:"admin_endpoint"`
	Sources              []string      `key:"sources"`
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

// SplitSubscription splits the path of a subscription, TOPIC/Subscriptions/NAME in any case. ok is
// false for a queue.
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
	CloudName        string        `key:"cloud" default:"global"`
	Endpoint         string        `key:"endpoint"`
	TenantID         string        `key:"tenant_id"`
	ClientID         string        `key:"client_id"`
	ClientSecret     string        `key:"client_secret" secret:"true"`
	ClientSecretFile string        `key:"client_secret_file"`
	CertificateFile  string        `key:"client_certificate_file"`
	Authority        string        `key:"authority"`
	TokenURL         string        `key:"token_url"`
	ReadUsers        bool          `key:"read_users" default:"false"`
	VerifyTimeout    time.Duration `key:"verify_timeout" default:"0s" min:"0s" max:"2m"`
	CanaryUser       string        `key:"canary_user"`
	Timeout          time.Duration `key:"timeout" default:"30s" min:"1s" max:"5m"`
}

// Retry configures how often and how long an attempt for a user is repeated.
type Retry struct {
	MaxAttempts     int           `key:"max_attempts" default:"8" min:"1" max:"100"`
	InitialInterval time.Duration `key:"initial_interval" default:"1s" min:"10ms" max:"1m"`
	MaxInterval     time.Duration `key:"max_interval" default:"1m" min:"10ms" max:"10m"`
	MaxAge          time.Duration `key:"max_age" default:"1h" min:"1m" max:"24h"`
	NotFoundFor     time.Duration `key:"not_found_for" default:"1m" min:"0s" max:"15m"`
}

// Dedupe configures how events about one user become one call.
type Dedupe struct {
	Window      time.Duration `key:"window" default:"1m" min:"0s" max:"1h"`
	SkewMargin  time.Duration `key:"skew_margin" default:"5s" min:"0s" max:"5m"`
	RememberFor time.Duration `key:"remember_for" default:"1h" min:"1m" max:"24h"`
	MaxUsers    int           `key:"max_users" default:"100000" min:"100" max:"10000000"`
}

// Consumer bounds the work in flight.
type Consumer struct {
	Concurrency   int           `key:"concurrency" default:"16" min:"1" max:"256"`
	MaxInFlight   int           `key:"max_in_flight" default:"256" min:"8" max:"5000"`
	SettleTimeout time.Duration `key:"settle_timeout" default:"10s" min:"1s" max:"1m"`
	DryRun        bool          `key:"dry_run" default:"false"`
	DrainTimeout  time.Duration `key:"drain_timeout" default:"25s" min:"1s" max:"1h"`
}

// Events configures which events are accepted, and how producers' messages become events.
type Events struct {
	Types            []string      `key:"types" default:"device.stolen,device.lost,user.compromised,user.offboarded"`
	Presets          []string      `key:"presets" default:"all"`
	Mappings         []string      `key:"mappings"`
	AllowedDomains   []string      `key:"allowed_domains"`
	TimeZone         string        `key:"time_zone" default:"UTC"`
	ResolveDevices   bool          `key:"resolve_devices" default:"false"`
	TransmittersFile string        `key:"transmitters_file"`
	Horizon          time.Duration `key:"horizon" default:"8760h" min:"0s" max:"17520h"`
	MaxAge           time.Duration `key:"max_age" default:"0s" min:"0s" max:"87840h"`
}

// Guard configures whose sessions are never revoked, and how many users are too many.
type Guard struct {
	ProtectedUsers []string      `key:"protected_users"`
	MaxUsers       int           `key:"max_users" default:"1000" min:"0" max:"10000000"`
	Window         time.Duration `key:"window" default:"1h" min:"1m" max:"168h"`
	Mode           string        `key:"mode" default:"enforce"`
	ReleaseFile    string        `key:"release_file"`
	ProtectedFile  string        `key:"protected_file"`
}

// Audit configures where decisions are recorded.
type Audit struct {
	File    string `key:"file"`
	KeyFile string `key:"key_file"`
	Topic   string `key:"topic"`
}

// Redis configures how replicas coordinate.
type Redis struct {
	Addresses      []string      `key:"addresses"`
	Username       string        `key:"username"`
	Password       string        `key:"password" secret:"true"`
	PasswordFile   string        `key:"password_file"`
	TLS            bool          `key:"tls" default:"false"`
	Cluster        bool          `key:"cluster" default:"false"`
	SentinelMaster string        `key:"sentinel_master"`
	Timeout        time.Duration `key:"timeout" default:"250ms" min:"10ms" max:"5s"`
	ShareRateLimit bool          `key:"share_rate_limit" default:"true"`
}

// Used reports whether a Redis is configured.
func (r Redis) Used() bool { return len(r.Addresses) > 0 }

// Ops configures the operations port, and where those of all workers are.
type Ops struct {
	Address string   `key:"address" default:"127.0.0.1:9090"`
	Workers []string `key:"workers"`
}

// Log configures what is logged, and how.
type Log struct {
	Level     string `key:"level" default:"info"`
	Format    string `key:"format" default:"json"`
	HashUsers bool   `key:"hash_users" default:"false"`
}

// Cloud is a national cloud. Its addresses belong together and must not be mixed with those of
// another (https://learn.microsoft.com/graph/deployments).
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

// Cloud returns the chosen national cloud. graph.endpoint and graph.authority replace its own if
// they are set.
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

// Redacted returns the configuration for a log line, by key. It replaces secrets, and users if the
// log must not name them, and leaves out settings that are empty.
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
