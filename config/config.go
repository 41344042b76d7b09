// Package config turns a YAML file, the environment and flags into one validated Config.
package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Config is every setting of the worker. The tags are the single source of each setting's key, default and description:
// flags, environment names and the documented table are made from them. Fields tagged secret have no flag, since
// everybody on the machine sees a process's arguments.
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

// ServiceBus says where events come from.
type ServiceBus struct {
	ConnectionString     string        `koanf:"connection_string" secret:"true" doc:"Connection string of the namespace; one of this, its file, or servicebus.namespace."`
	ConnectionStringFile string        `koanf:"connection_string_file" doc:"File that holds the connection string (a mounted secret)."`
	Namespace            string        `koanf:"namespace" doc:"Fully qualified namespace, like contoso.servicebus.windows.net; signs in with DefaultAzureCredential."`
	Queue                string        `koanf:"queue" doc:"Queue to receive from. Required, unless a topic is, or the connection string has an EntityPath."`
	Topic                string        `koanf:"topic" doc:"Topic to receive from, through servicebus.subscription, instead of a queue."`
	Subscription         string        `koanf:"subscription" doc:"Subscription of servicebus.topic to receive from."`
	Sessions             int           `koanf:"sessions" default:"0" min:"0" max:"100" doc:"For queues and subscriptions that require sessions: how many sessions of each are held at once. They share consumer.max_in_flight. 0 is for entities without sessions."`
	LockDuration         time.Duration `koanf:"lock_duration" default:"1m" min:"5s" max:"5m" doc:"The lock duration of the queue or subscription, or less: locks are renewed when half of it has passed. doctor compares it where it may read the entity's settings."`
	AdminEndpoint        string        `koanf:"admin_endpoint" doc:"Other address of the administration API, which worker doctor reads, for tests with an emulator. http is accepted on loopback addresses only."`
	Sources              []string      `koanf:"sources" doc:"Several queues, and subscriptions as TOPIC/Subscriptions/NAME, instead of one: the most urgent first. Calls for an earlier one's events go before those for a later one's."`
}

// Entities are the paths of the queues and subscriptions, the most urgent first.
func (s ServiceBus) Entities() []string {
	switch {
	case len(s.Sources) > 0:
		return s.Sources
	case s.Topic != "":
		return []string{s.Topic + "/Subscriptions/" + s.Subscription}
	}
	return []string{s.Queue}
}

// SplitSubscription takes the path of a subscription apart; ok says that it is one.
func SplitSubscription(entity string) (topic, subscription string, ok bool) {
	const middle = "/subscriptions/"
	// Lower-casing the whole could change its length.
	for at := len(entity) - len(middle); at >= 0; at-- {
		if end := at + len(middle); strings.EqualFold(entity[at:end], middle) {
			return entity[:at], entity[end:], true
		}
	}
	return "", "", false
}

// Graph says which Graph is called, and as whom.
type Graph struct {
	CloudName        string        `koanf:"cloud" default:"global" doc:"National cloud: global, usgov-l4, usgov-dod or china. Picks Graph root, sign-in authority, scope and Service Bus domain."`
	Endpoint         string        `koanf:"endpoint" doc:"Other Graph root, for tests with an emulator. http is accepted on loopback addresses only."`
	TenantID         string        `koanf:"tenant_id" doc:"Tenant to sign in to (GUID or domain). Required with a client secret or certificate."`
	ClientID         string        `koanf:"client_id" doc:"Application (client) id. Required with a client secret or certificate."`
	ClientSecret     string        `koanf:"client_secret" secret:"true" doc:"Client secret. Without one DefaultAzureCredential is used: workload identity, managed identity, environment, CLI."`
	ClientSecretFile string        `koanf:"client_secret_file" doc:"File that holds the client secret (a mounted secret)."`
	CertificateFile  string        `koanf:"client_certificate_file" doc:"File with a certificate and its private key, PEM or PKCS #12 without a password, to sign in with instead of a client secret. Read again when it changes."`
	Authority        string        `koanf:"authority" doc:"Other sign-in authority, for tests with an emulator: an https URL. Only with graph.endpoint."`
	TokenURL         string        `koanf:"token_url" doc:"OAuth 2.0 token endpoint of an emulator; only together with graph.endpoint on a loopback address."`
	ReadUsers        bool          `koanf:"read_users" default:"false" doc:"Read users first: guests and protected users are recognized whether an event gives id or name, both count as one user for deduplication, and the call goes to the id that the name had. Needs User.Read.All; one read for each call, and one for an event that gives a name alone."`
	VerifyTimeout    time.Duration `koanf:"verify_timeout" default:"0s" min:"0s" max:"2m" doc:"Read the effect back after each call, for at most so long; one that does not show is a failure, and dead-lettered as NotRevoked in the end. 0 trusts Graph's answer. Needs graph.read_users, and one more read for each call."`
	CanaryUser       string        `koanf:"canary_user" doc:"Object id or user principal name of an account kept for this, whose sessions may be revoked at any time: when attempts fail, one for it tells whether Graph or the users are the cause. Empty asks for a random id, which shows that token and permission are good, but not that anybody can be revoked."`
	Timeout          time.Duration `koanf:"timeout" default:"30s" min:"1s" max:"5m" doc:"Limit of one attempt, token included."`
}

// Retry is the budget of one user's call.
type Retry struct {
	MaxAttempts     int           `koanf:"max_attempts" default:"8" min:"1" max:"100" doc:"Counted failures before a user is dead-lettered as RetriesExhausted."`
	InitialInterval time.Duration `koanf:"initial_interval" default:"1s" min:"10ms" max:"1m" doc:"First wait between attempts; doubles each time, with jitter of ±50 %."`
	MaxInterval     time.Duration `koanf:"max_interval" default:"1m" min:"10ms" max:"10m" doc:"Longest wait of the backoff. Retry-After may ask for more."`
	MaxAge          time.Duration `koanf:"max_age" default:"1h" min:"1m" max:"24h" doc:"Age at which server faults count although nobody else succeeds."`
	NotFoundFor     time.Duration `koanf:"not_found_for" default:"1m" min:"0s" max:"15m" doc:"How long a 404 is taken for replication lag of a new account; 0 believes it at once."`
}

// Dedupe says how events about one user become one call.
type Dedupe struct {
	Window      time.Duration `koanf:"window" default:"1m" min:"0s" max:"1h" doc:"After a call, later events about the same user wait this long for one more call that decides for all of them."`
	SkewMargin  time.Duration `koanf:"skew_margin" default:"5s" min:"0s" max:"5m" doc:"How much the clocks of Service Bus, Graph and this machine may differ without an event being taken for covered by an earlier call."`
	RememberFor time.Duration `koanf:"remember_for" default:"1h" min:"1m" max:"24h" doc:"How long calls are remembered at least; older events that arrive late are completed without a call."`
	MaxUsers    int           `koanf:"max_users" default:"100000" min:"100" max:"10000000" doc:"How many users are remembered at most; below 200 bytes each. Forgetting costs a call."`
}

// Consumer bounds the work in hand.
type Consumer struct {
	Concurrency   int           `koanf:"concurrency" default:"16" min:"1" max:"256" doc:"Calls to Graph at once. Graph's quota is 20 per second for the whole app and tenant."`
	MaxInFlight   int           `koanf:"max_in_flight" default:"256" min:"8" max:"5000" doc:"Messages held locked at once, for each source. Of them at most a quarter wait for the end of a deduplication window, and at most half for users that fail; past that messages are deferred."`
	SettleTimeout time.Duration `koanf:"settle_timeout" default:"10s" min:"1s" max:"1m" doc:"Limit of one settlement or lock renewal."`
	DryRun        bool          `koanf:"dry_run" default:"false" doc:"Only peek at the messages and log what would become of each event: nothing is locked, called or settled. Also worker run --dry-run."`
	DrainTimeout  time.Duration `koanf:"drain_timeout" default:"25s" min:"1s" max:"1h" doc:"How long work in hand may take after SIGTERM. Kubernetes' terminationGracePeriodSeconds must exceed this plus settle_timeout plus 10 s."`
}

// Events says what is accepted.
type Events struct {
	Types []string `koanf:"types" default:"device.stolen,device.lost,user.compromised,user.offboarded" doc:"Event types that sign somebody out, the most urgent first; any other is dead-lettered as UnknownEvent."`
}

// Guard says who is never signed out.
type Guard struct {
	ProtectedUsers []string      `koanf:"protected_users" doc:"Object ids, user principal names and patterns of names (svc-*@contoso.com) that are never revoked. List both forms of a break-glass account."`
	MaxUsers       int           `koanf:"max_users" default:"1000" min:"0" max:"10000000" doc:"How many distinct people may be signed out within guard.window for each event type; one more trips the guard for that type. Choose twice your largest planned offboarding. 0 is no limit."`
	Window         time.Duration `koanf:"window" default:"1h" min:"1m" max:"168h" doc:"The sliding time of guard.max_users."`
	Mode           string        `koanf:"mode" default:"enforce" doc:"enforce: events of a type that has tripped the guard wait until it is released; the other types go on. observe: it only tells."`
	ReleaseFile    string        `koanf:"release_file" doc:"File with an operator's release, as worker guard release writes it; read again every 5 s. Without one only a restart releases."`
	ProtectedFile  string        `koanf:"protected_file" doc:"File with more of them, one to a line, # begins a comment. Read again when it changes; an unusable one keeps the last good entries in force."`
}

// Audit says where decisions are recorded.
type Audit struct {
	File    string `koanf:"file" doc:"File to which a record of every decision is appended, in a chain of hashes that worker audit verify checks; - is standard output. Operators' commands write to a file beside it, with -operators in its name. Empty for none."`
	KeyFile string `koanf:"key_file" doc:"File that holds a key of at least 32 bytes (a mounted secret), read at start: each record in audit.file then carries a MAC, and worker audit verify --key-file shows whether somebody without the key has changed or cut off records. Empty for none: then only who does not mend the chain of hashes is seen."`
	Topic   string `koanf:"topic" doc:"Topic or queue to which every revocation, and every failure, is published as a CloudEvent: session.revoked, session.revocation.failed. Needs the right to send there. Empty for none."`
}

// Redis says where replicas tell each other what they do.
type Redis struct {
	Addresses      []string      `koanf:"addresses" doc:"Redis to share verdicts, leases and the pace with other replicas through, as HOST:PORT: one server, the nodes of a cluster, or the sentinels. Empty for none: then each replica works for itself."`
	Username       string        `koanf:"username" doc:"ACL user; empty for the default one."`
	Password       string        `koanf:"password" secret:"true" doc:"Password of the ACL user."`
	PasswordFile   string        `koanf:"password_file" doc:"File that holds the password (a mounted secret)."`
	TLS            bool          `koanf:"tls" default:"false" doc:"Connect with TLS 1.2 or newer."`
	CAFile         string        `koanf:"ca_file" doc:"PEM file with the authorities to trust instead of the system's. Only with redis.tls."`
	Cluster        bool          `koanf:"cluster" default:"false" doc:"The addresses are of a Redis cluster, also when there is only one. Several without redis.sentinel_master always are."`
	SentinelMaster string        `koanf:"sentinel_master" doc:"The addresses are sentinels, and this is the name of the master."`
	Timeout        time.Duration `koanf:"timeout" default:"250ms" min:"10ms" max:"5s" doc:"Limit of one exchange with Redis. While it does not answer, work goes on without it, and it is asked once a second."`
	ShareRateLimit bool          `koanf:"share_rate_limit" default:"true" doc:"Use Graph's quota together, as one replica would. Without it each replica learns from Graph's answers alone."`
}

// Used says that there is a Redis.
func (r Redis) Used() bool { return len(r.Addresses) > 0 }

// Ops is the operations port.
type Ops struct {
	Address string `koanf:"address" default:"127.0.0.1:9090" doc:"Address of /healthz, /readyz and /metrics, which have no access control; empty for none. :9090 is every interface, as the chart sets it, and as a container without the chart needs."`
}

// Log says what is logged and how.
type Log struct {
	Level     string `koanf:"level" default:"info" doc:"debug, info, warn or error."`
	Format    string `koanf:"format" default:"json" doc:"json or console."`
	HashUsers bool   `koanf:"hash_users" default:"false" doc:"Log a short hash instead of user ids and names, and of message ids, event ids and unknown event types, which producers choose and which may name users; in traces, too. No text from Graph or producers is logged."`
}

// Cloud is a national cloud: what belongs together and must not be mixed
// (https://learn.microsoft.com/graph/deployments).
type Cloud struct {
	Name             string
	GraphRoot        string
	Authority        string
	ServiceBusSuffix string
}

// Scope is what a token for this cloud's Graph is asked for.
func (c Cloud) Scope() string { return c.GraphRoot + "/.default" }

var clouds = []Cloud{
	{"global", "https://graph.microsoft.com", "https://login.microsoftonline.com/", "servicebus.windows.net"},
	{"usgov-l4", "https://graph.microsoft.us", "https://login.microsoftonline.us/", "servicebus.usgovcloudapi.net"},
	{"usgov-dod", "https://dod-graph.microsoft.us", "https://login.microsoftonline.us/", "servicebus.usgovcloudapi.net"},
	{"china", "https://microsoftgraph.chinacloudapi.cn", "https://login.chinacloudapi.cn/", "servicebus.chinacloudapi.cn"},
}

// Cloud returns the chosen national cloud, with graph.endpoint and graph.authority in place of its own where they are set.
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

// Redacted is the configuration for a log line, by key: secrets are replaced, users too if the log must not name them, and
// what is not set is left out.
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
