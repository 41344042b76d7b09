package config

import (
	"fmt"
	"net"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

var entityForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$`)

// isEntityName reports whether a name has up to 260 letters, digits, periods, hyphens, underscores,
// and slashes, with a letter or digit at both ends
// (https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules,
// Microsoft.ServiceBus). A bound in the expression would make it as large as all others together.
func isEntityName(name string) bool { return len(name) <= 260 && entityForm.MatchString(name) }

// validate checks every setting by itself and against the others. It sets the queue or topic if the
// connection string names one.
func (c *Config) validate(needsServiceBus bool) Problems {
	var p Problems
	for _, o := range options(c) {
		checkRange(o, &p)
	}
	cloud := c.Cloud()
	if cloud.Name == "" {
		p.add("graph.cloud: %s is not a national cloud: use global, usgov-l4, usgov-dod or china (REVOKER_GRAPH_CLOUD)",
			show(c.Graph.CloudName))
	}
	if needsServiceBus {
		c.validateServiceBus(cloud, &p)
	}
	c.validateGraph(&p)
	if c.Retry.MaxInterval < c.Retry.InitialInterval {
		p.add("retry.max_interval: %s is below retry.initial_interval %s", c.Retry.MaxInterval, c.Retry.InitialInterval)
	}
	if len(c.Events.Types) == 0 {
		p.add("events.types: empty: no event would revoke any session")
	}
	c.Events.validate(&p)
	for _, entry := range c.Guard.ProtectedUsers {
		if _, err := uuid.Parse(entry); err != nil && strings.Count(entry, "@") != 1 {
			p.add("guard.protected_users: %s is neither an object id nor a user principal name, nor a pattern of such names", show(entry))
		}
	}
	if !slices.Contains([]string{"enforce", "observe"}, c.Guard.Mode) {
		p.add("guard.mode: %s: use enforce or observe (REVOKER_GUARD_MODE)", show(c.Guard.Mode))
	}
	if c.Audit.KeyFile != "" && c.Audit.File == "" {
		p.add("audit.key_file: needs audit.file (REVOKER_AUDIT_FILE): the key signs its records")
	}
	c.validateRedis(&p)
	c.validateIngest(&p)
	if _, err := c.TLS.Authorities(); err != nil {
		p.add("tls.ca_file: %v (REVOKER_TLS_CA_FILE)", err)
	}
	if c.Ops.Address != "" {
		if _, _, err := net.SplitHostPort(c.Ops.Address); err != nil {
			p.add("ops.address: %s is not host:port or :port (REVOKER_OPS_ADDRESS)", show(c.Ops.Address))
		}
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		p.add("log.level: %s: use debug, info, warn or error (REVOKER_LOG_LEVEL)", show(c.Log.Level))
	}
	if !slices.Contains([]string{"json", "console"}, c.Log.Format) {
		p.add("log.format: %s: use json or console (REVOKER_LOG_FORMAT)", show(c.Log.Format))
	}
	return p
}

// validate checks the settings of mappings. Their files are read and compiled later.
func (e Events) validate(p *Problems) {
	for _, name := range []string{"all", "none"} {
		if len(e.Presets) > 1 && slices.Contains(e.Presets, name) {
			p.add("events.presets: %s stands alone: write only it, or names of presets (REVOKER_EVENTS_PRESETS)", name)
		}
	}
	for _, entry := range e.AllowedDomains {
		domain := strings.TrimPrefix(entry, "*.")
		if !isHostName(domain) || !strings.Contains(domain, ".") {
			p.add("events.allowed_domains: %s is no domain such as contoso.com, nor *.contoso.com for those below it "+
				"(REVOKER_EVENTS_ALLOWED_DOMAINS)", show(entry))
		}
	}
	if _, err := time.LoadLocation(e.TimeZone); err != nil || e.TimeZone == "Local" {
		p.add("events.time_zone: %s is no IANA time zone, such as America/Chicago or UTC (REVOKER_EVENTS_TIME_ZONE)", show(e.TimeZone))
	}
}

func checkRange(o Option, p *Problems) {
	if o.Min == "" {
		return
	}
	var outside bool
	switch v := o.value.Interface().(type) {
	case int:
		outside = v < mustParse[int](o.Min) || v > mustParse[int](o.Max)
	case time.Duration:
		outside = v < mustDuration(o.Min) || v > mustDuration(o.Max)
	}
	if outside {
		p.add("%s: %v is out of range: set %s to %s (%s)", o.Key, o.value.Interface(), o.Min, o.Max, o.Env)
	}
}

func (c *Config) validateServiceBus(cloud Cloud, p *Problems) {
	sb := &c.ServiceBus
	switch {
	case sb.ConnectionString == "" && sb.Namespace == "":
		p.add("servicebus: set servicebus.namespace (REVOKER_SERVICEBUS_NAMESPACE) or a connection string " +
			"(REVOKER_SERVICEBUS_CONNECTION_STRING)")
	case sb.ConnectionString != "" && sb.Namespace != "":
		p.add("servicebus: both a namespace and a connection string are set: keep one")
	case sb.Namespace != "":
		if !isHostName(sb.Namespace) || !strings.Contains(sb.Namespace, ".") || strings.HasSuffix(sb.Namespace, ".") {
			p.add("servicebus.namespace: %s must be a host name like contoso.%s, without a dot at the end (REVOKER_SERVICEBUS_NAMESPACE)",
				show(sb.Namespace), cloud.ServiceBusSuffix)
		} else if problem := cloud.serves(sb.Namespace); problem != "" {
			p.add("servicebus.namespace: %s", problem)
		}
	default:
		c.validateConnectionString(cloud, p)
	}
	sb.validateConnection(p)
	if sb.AdminEndpoint != "" {
		if problem := checkEndpoint(sb.AdminEndpoint); problem != "" {
			p.add("servicebus.admin_endpoint: %s: %s (REVOKER_SERVICEBUS_ADMIN_ENDPOINT)", show(sb.AdminEndpoint), problem)
		}
	}
	sb.validateEntity(p)
	if sb.Sessions > c.Consumer.MaxInFlight {
		p.add("servicebus.sessions: %d sessions cannot share consumer.max_in_flight %d: lower the first or raise the second",
			sb.Sessions, c.Consumer.MaxInFlight)
	}
	if most := int(renewalsPerSecond * sb.LockDuration.Seconds() / 2); len(sb.Entities())*c.Consumer.MaxInFlight > most {
		p.add("consumer.max_in_flight: %d messages of %d sources need more than %d lock renewals per second, which is the limit of "+
			"one worker: lower it to %d, or raise the entities' lock duration and servicebus.lock_duration",
			c.Consumer.MaxInFlight, len(sb.Entities()), renewalsPerSecond, most/max(1, len(sb.Entities())))
	}
}

// renewalsPerSecond is the maximum rate of one worker's lock renewals. A renewal costs Service Bus
// ten times as much as a send.
const renewalsPerSecond = 20

// validateEntity checks that there is a queue, a topic with a subscription, or a list of sources.
func (s *ServiceBus) validateEntity(p *Problems) {
	const form = "letters, digits, . - _ and /, beginning and ending with a letter or digit"
	one := s.Queue != "" || s.Topic != "" || s.Subscription != ""
	switch {
	case len(s.Sources) > 0:
		if one {
			p.add("servicebus: both servicebus.sources and a single queue or topic are set (a connection string's EntityPath " +
				"is one): keep one")
		}
		s.validateSources(p)
	case s.Queue != "" && (s.Topic != "" || s.Subscription != ""):
		p.add("servicebus: both a queue and a topic are set: keep one")
	case s.Queue != "" && !isEntityName(s.Queue):
		p.add("servicebus.queue: %s is not a queue name: up to 260 %s", show(s.Queue), form)
	case s.Queue != "":
	case s.Topic == "" && s.Subscription == "":
		p.add("servicebus.queue: required: the queue to receive from (REVOKER_SERVICEBUS_QUEUE), or servicebus.topic with " +
			"servicebus.subscription")
	case s.Topic == "":
		p.add("servicebus.topic: required with servicebus.subscription (REVOKER_SERVICEBUS_TOPIC)")
	case s.Subscription == "":
		p.add("servicebus.subscription: required with servicebus.topic: create one for this worker (REVOKER_SERVICEBUS_SUBSCRIPTION)")
	default:
		if !isEntityName(s.Topic) {
			p.add("servicebus.topic: %s is not a topic name: up to 260 %s", show(s.Topic), form)
		}
		if !isSubscriptionName(s.Subscription) {
			p.add("servicebus.subscription: %s is not a subscription name: up to 50 letters, digits, . - and _", show(s.Subscription))
		}
	}
}

func (s *ServiceBus) validateSources(p *Problems) {
	seen := map[string]bool{}
	for _, source := range s.Sources {
		topic, subscription, isSubscription := SplitSubscription(source)
		switch {
		case seen[strings.ToLower(source)]:
			p.add("servicebus.sources: %s is named twice", show(source))
		case isSubscription && (!isEntityName(topic) || !isSubscriptionName(subscription)), !isSubscription &&
			!isEntityName(source):
			p.add("servicebus.sources: %s is neither a queue name nor TOPIC/Subscriptions/NAME", show(source))
		}
		seen[strings.ToLower(source)] = true
	}
	if len(s.Sources) > maxSources {
		p.add("servicebus.sources: %d sources; at most %d are allowed", len(s.Sources), maxSources)
	}
}

// maxSources is the maximum number of receivers of one process, each with max_in_flight messages.
const maxSources = 8

func isSubscriptionName(name string) bool {
	return isEntityName(name) && len(name) <= 50 && !strings.Contains(name, "/")
}

// validateConnectionString checks the parts that matter. A problem may show the host only.
func (c *Config) validateConnectionString(cloud Cloud, p *Problems) {
	const key = "servicebus.connection_string"
	parts := map[string]string{}
	for part := range strings.SplitSeq(c.ServiceBus.ConnectionString, ";") {
		name, value, found := strings.Cut(strings.TrimSpace(part), "=")
		if found {
			parts[strings.ToLower(name)] = value
		}
	}
	endpoint, err := url.Parse(parts["endpoint"])
	if err != nil || endpoint.Scheme != "sb" || endpoint.Hostname() == "" || endpoint.User != nil {
		p.add("%s: no Endpoint=sb://HOST/ without a user; copy it whole from the portal", key)
		return
	}
	if (parts["sharedaccesskeyname"] == "" || parts["sharedaccesskey"] == "") && parts["sharedaccesssignature"] == "" {
		p.add("%s: neither SharedAccessKeyName with SharedAccessKey nor SharedAccessSignature; copy it whole from the portal", key)
	}
	emulator := strings.EqualFold(parts["usedevelopmentemulator"], "true")
	// An emulator that speaks TLS has no setting in its connection string.
	if problem := cloud.serves(endpoint.Hostname()); problem != "" && !emulator && !isLoopback("sb://"+endpoint.Host) {
		p.add("%s: %s", key, problem)
	}
	sb := &c.ServiceBus
	switch path := parts["entitypath"]; {
	case path == "":
	case sb.Topic != "" && !strings.EqualFold(path, sb.Topic):
		p.add("%s: its EntityPath is another topic than servicebus.topic %s", key, show(sb.Topic))
	case sb.Topic != "":
	case sb.Subscription != "":
		sb.Topic = path
	case sb.Queue == "":
		sb.Queue = path
	case !strings.EqualFold(path, sb.Queue):
		p.add("%s: its EntityPath is another queue than servicebus.queue %s", key, show(sb.Queue))
	}
}

// serves returns the problem with a Service Bus host in this cloud, or "".
func (c Cloud) serves(host string) string {
	if c.Name == "" {
		return ""
	}
	shown := show(host)
	host = strings.ToLower(host)
	if strings.HasSuffix(host, "."+c.ServiceBusSuffix) {
		return ""
	}
	for _, other := range clouds {
		if strings.HasSuffix(host, "."+other.ServiceBusSuffix) {
			return fmt.Sprintf("%s belongs to the cloud %s, and graph.cloud is %s: use one cloud for both (REVOKER_GRAPH_CLOUD)",
				shown, other.Name, c.Name)
		}
	}
	return fmt.Sprintf("%s does not end in .%s, the Service Bus domain of graph.cloud %s", shown, c.ServiceBusSuffix, c.Name)
}

func (c *Config) validateGraph(p *Problems) {
	g := c.Graph
	if g.Endpoint != "" {
		problem := checkEndpoint(g.Endpoint)
		for _, cloud := range clouds {
			if strings.TrimRight(g.Endpoint, "/") == cloud.GraphRoot {
				problem = fmt.Sprintf("it is the root of the cloud %s: leave it out and set graph.cloud", cloud.Name)
			}
		}
		if problem != "" {
			p.add("graph.endpoint: %s: %s (REVOKER_GRAPH_ENDPOINT)", show(g.Endpoint), problem)
		}
	}
	if g.VerifyTimeout > 0 && !g.ReadUsers {
		p.add("graph.verify_timeout: needs graph.read_users (REVOKER_GRAPH_READ_USERS=true)")
	}
	c.validateCanary(p)
	if g.TokenURL != "" {
		switch problem := checkEndpoint(g.TokenURL); {
		case problem != "":
			p.add("graph.token_url: %s: %s (REVOKER_GRAPH_TOKEN_URL)", show(g.TokenURL), problem)
		case !isLoopback(g.TokenURL) || !isLoopback(g.Endpoint):
			p.add("graph.token_url: only for an emulator: it and graph.endpoint must be loopback addresses")
		case g.ClientID == "" || g.ClientSecret == "":
			p.add("graph.token_url: needs graph.client_id and graph.client_secret")
		}
		return
	}
	switch u, err := url.Parse(g.Authority); {
	case g.Authority == "":
	case err != nil || u.Scheme != "https" || checkEndpoint(g.Authority) != "":
		p.add("graph.authority: %s is not a plain https URL (REVOKER_GRAPH_AUTHORITY)", show(g.Authority))
	case g.Endpoint == "":
		p.add("graph.authority: only for an emulator: set graph.endpoint too, or leave it out and set graph.cloud")
	}
	if g.CertificateFile != "" {
		switch {
		case g.ClientSecret != "":
			p.add("graph.client_certificate_file: both it and a client secret are set: keep one")
		case g.TenantID == "" || g.ClientID == "":
			p.add("graph.client_certificate_file: needs graph.tenant_id (REVOKER_GRAPH_TENANT_ID) and graph.client_id " +
				"(REVOKER_GRAPH_CLIENT_ID)")
		}
	}
	if g.ClientSecret != "" && (g.TenantID == "" || g.ClientID == "") {
		p.add("graph.client_secret: needs graph.tenant_id (REVOKER_GRAPH_TENANT_ID) and graph.client_id (REVOKER_GRAPH_CLIENT_ID)")
	}
}

// validateCanary checks that the account can be one of this tenant, and that guard.protected_users
// does not protect it. The worker checks guard.protected_file later.
func (c *Config) validateCanary(p *Problems) {
	user := c.Graph.CanaryUser
	if user == "" {
		return
	}
	_, err := uuid.Parse(user)
	isID := err == nil && len(user) == 36 // uuid.Parse also accepts other forms
	switch {
	case !isID && (strings.Count(user, "@") != 1 || strings.ContainsAny(user, "*/ ")):
		p.add("graph.canary_user: %s is neither an object id nor a user principal name (REVOKER_GRAPH_CANARY_USER)", show(user))
	case strings.Contains(strings.ToUpper(user), "#EXT#"):
		p.add("graph.canary_user: %q is a guest: Graph reports success and revokes nothing; use a member of this tenant "+
			"(REVOKER_GRAPH_CANARY_USER)", user)
	}
	for _, entry := range c.Guard.ProtectedUsers {
		// A name contains no special character of path.Match except *.
		pattern, _ := path.Match(strings.ToLower(entry), strings.ToLower(user))
		if strings.EqualFold(entry, user) || pattern && !isID {
			p.add("graph.canary_user: %q is protected by the entry %q of guard.protected_users, but its sessions are revoked "+
				"at any time: use an account that exists for this purpose (REVOKER_GRAPH_CANARY_USER)", user, entry)
		}
	}
}

func (c *Config) validateRedis(p *Problems) {
	r := c.Redis
	if !r.Used() {
		if r.Username != "" || r.Password != "" || r.TLS || r.Cluster || r.SentinelMaster != "" {
			p.add("redis.addresses: required with the other redis settings (REVOKER_REDIS_ADDRESSES)")
		}
		return
	}
	for _, address := range r.Addresses {
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" || strings.Contains(host, "@") {
			p.add("redis.addresses: %s is not host:port (REVOKER_REDIS_ADDRESSES)", show(address))
		}
	}
	if c.Graph.TenantID == "" {
		p.add("graph.tenant_id: required with redis.addresses, where it separates the data of tenants (REVOKER_GRAPH_TENANT_ID)")
	}
	if r.Cluster && r.SentinelMaster != "" {
		p.add("redis.cluster: both it and redis.sentinel_master are set: keep one")
	}
	if r.Password != "" && !r.TLS && !allLoopback(r.Addresses) {
		p.add("redis.password: would be sent in the clear: set redis.tls (REVOKER_REDIS_TLS=true), or use a loopback address")
	}
}

func (c *Config) validateIngest(p *Problems) {
	in := c.Ingest
	if _, _, err := net.SplitHostPort(in.Address); err != nil {
		p.add("ingest.address: %s is not host:port or :port (REVOKER_INGEST_ADDRESS)", show(in.Address))
	}
	if (in.TLSCertFile == "") != (in.TLSKeyFile == "") {
		p.add("ingest.tls_cert_file: ingest.tls_key_file belongs to it: set both, or none")
	}
	if _, err := in.Proxies(); err != nil {
		p.add("ingest.trusted_proxies: %v (REVOKER_INGEST_TRUSTED_PROXIES)", err)
	}
	if in.Destination != "" && !isEntityName(in.Destination) {
		p.add("ingest.destination: %s is not the name of a queue or topic (REVOKER_INGEST_DESTINATION)", show(in.Destination))
	}
}

func allLoopback(addresses []string) bool {
	return !slices.ContainsFunc(addresses, func(a string) bool { return !isLoopback("tcp://" + a) })
}

func checkEndpoint(raw string) string {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "not a plain URL"
	case u.Scheme == "https", u.Scheme == "http" && isLoopback(raw):
		return ""
	case u.Scheme == "http":
		return "http would send tokens in the clear: use https, or a loopback address"
	}
	return "must begin with https://"
}

func isLoopback(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}
