package config

// descriptions holds the description of each setting, by key: what it sets, its unit, the reason
// for the default, and when to change it. The flags' help, docs/configuration.md, and the chart's
// schema show it. The bounds of numbers and durations follow it there.
var descriptions = map[string]string{
	"servicebus.connection_string": "" +
		"Connection string of the namespace. Set this, servicebus.connection_string_file, or " +
		"servicebus.namespace.",
	"servicebus.connection_string_file": "" +
		"File that contains the connection string, for example a mounted secret.",
	"servicebus.namespace": "" +
		"Fully qualified host name of the namespace, for example " +
		"contoso.servicebus.windows.net. The worker signs in with DefaultAzureCredential.",
	"servicebus.queue": "" +
		"Queue to receive from. Required, unless servicebus.topic or servicebus.sources is set, " +
		"or the connection string contains an EntityPath.",
	"servicebus.topic":        "Topic to receive from instead of a queue. Needs servicebus.subscription.",
	"servicebus.subscription": "Subscription of servicebus.topic to receive from.",
	"servicebus.sessions": "" +
		"Number of sessions that the worker receives from at the same time, for each source. " +
		"All of them share consumer.max_in_flight. Keep 0 unless the queue or subscription " +
		"requires sessions.",
	"servicebus.lock_duration": "" +
		"Lock duration of the queue or subscription, or a shorter time. The worker renews a " +
		"lock when half of this time has passed. Set it to the entity's own value; worker " +
		"doctor compares the two if it may read the entity's settings.",
	"servicebus.transport": "" +
		"How to connect to Service Bus: amqp (AMQP over TLS, port 5671) or websockets (AMQP in a " +
		"WebSocket, port 443). Only WebSockets go through an HTTP proxy.",
	"servicebus.proxy": "" +
		"URL of the HTTP proxy to Service Bus, http://HOST:PORT or " +
		"http://USER:PASSWORD@HOST:PORT. It replaces HTTPS_PROXY and NO_PROXY for Service Bus, " +
		"and for nothing else. Needs servicebus.transport: websockets.",
	"servicebus.endpoint": "" +
		"Address to dial instead of the namespace's name, as HOST, HOST:PORT, or an IP address: " +
		"a private endpoint that DNS does not resolve, or a gateway. The name in the " +
		"certificate and in tokens stays the namespace's.",
	"servicebus.admin_endpoint": "" +
		"Address of the administration API that worker doctor reads, for tests with an " +
		"emulator. http is accepted for loopback addresses only.",
	"servicebus.sources": "" +
		"Several queues, and subscriptions in the form TOPIC/Subscriptions/NAME, instead of " +
		"one. List the most urgent source first: its users are called before those of later " +
		"sources.",

	"graph.cloud": "" +
		"National cloud: global, usgov-l4, usgov-dod, or china. It selects the Graph root, the " +
		"sign-in authority, the token scope, and the Service Bus domain.",
	"graph.endpoint": "" +
		"Graph root of an emulator, for tests. http is accepted for loopback addresses only.",
	"graph.tenant_id": "" +
		"Tenant to sign in to, as a GUID or a domain name. Required with a client secret or " +
		"certificate.",
	"graph.client_id": "Application (client) ID. Required with a client secret or certificate.",
	"graph.client_secret": "" +
		"Client secret. Without a secret or certificate, the worker uses " +
		"DefaultAzureCredential: workload identity, managed identity, environment, Azure CLI.",
	"graph.client_secret_file": "" +
		"File that contains the client secret, for example a mounted secret.",
	"graph.client_certificate_file": "" +
		"File that contains a certificate and its private key, in PEM form or in PKCS #12 form " +
		"without a password. The worker signs in with it instead of a client secret, and reads " +
		"the file again when it changes.",
	"graph.authority": "" +
		"Sign-in authority of an emulator, for tests: an https URL. Needs graph.endpoint.",
	"graph.token_url": "" +
		"OAuth 2.0 token endpoint of an emulator, for tests. Needs graph.endpoint on a loopback " +
		"address.",
	"graph.read_users": "" +
		"Read each user from Graph before the call. The worker then recognizes guests and " +
		"protected users whether an event contains an ID or a name, treats both as one user, " +
		"and calls the ID that the name had. Needs the permission User.Read.All, and one read " +
		"for each call, plus one for each event that contains a name only.",
	"graph.verify_timeout": "" +
		"How long to read the user again after a call until the revocation shows. If it does " +
		"not show in time, the attempt has failed, and the event is dead-lettered as NotRevoked " +
		"in the end. 0 trusts Graph's answer. Needs graph.read_users, and at least one more " +
		"read for each call.",
	"graph.canary_user": "" +
		"Object ID or user principal name of an account that exists for this purpose, and whose " +
		"sessions may be revoked at any time. When attempts fail, an attempt for this account " +
		"shows whether Graph or the users are the cause. If empty, the worker uses a random ID, " +
		"which tests the token and the permission only.",
	"graph.timeout": "Time limit of one attempt, including the time to get a token.",

	"retry.max_attempts": "" +
		"Number of counted failures after which an event is dead-lettered as RetriesExhausted. " +
		"Failures that affect everyone, such as throttling, are not counted.",
	"retry.initial_interval": "" +
		"First wait between two attempts for a user. Each further wait is twice as long, with a " +
		"jitter of ±50 %.",
	"retry.max_interval": "" +
		"Longest wait between two attempts for a user. Graph can ask for a longer one by " +
		"Retry-After.",
	"retry.max_age": "" +
		"Age of an event from which server errors count as its failures even if no other user's " +
		"attempt succeeds. Until then, such errors are taken for an outage of Graph.",
	"retry.not_found_for": "" +
		"How long the worker repeats a call that Graph answers with 404, because a new account " +
		"reaches all of Graph's servers with a delay. 0 accepts the first 404.",

	"dedupe.window": "" +
		"How long an event waits if a call for the same user has just been made. At the end, " +
		"one more call decides for all events that have waited. A longer window saves calls in " +
		"a storm and delays the second revocation.",
	"dedupe.skew_margin": "" +
		"Largest expected difference between the clocks of Service Bus, Graph, and this " +
		"machine. A call covers only events that were enqueued at least this long before it.",
	"dedupe.remember_for": "" +
		"Minimum time for which the worker remembers calls. It completes older events that " +
		"arrive late without another call.",
	"dedupe.max_users": "" +
		"Maximum number of users whose last call the worker remembers, below 200 bytes of " +
		"memory each. A user who is forgotten costs one more call at most.",

	"consumer.concurrency": "" +
		"Maximum number of calls to Graph in flight. The default suffices for Graph's quota of " +
		"20 calls per second for each application and tenant.",
	"consumer.max_in_flight": "" +
		"Maximum number of messages that the worker holds locked, for each source. At most a " +
		"quarter of them wait for the end of a deduplication window, and at most half belong to " +
		"users whose calls fail; the worker defers further ones.",
	"consumer.settle_timeout": "Time limit of one settlement or lock renewal.",
	"consumer.dry_run": "" +
		"Only peek at messages, and log what the worker would do with each event. Nothing is " +
		"locked, called, or settled. The flag worker run --dry-run does the same.",
	"consumer.drain_timeout": "" +
		"How long messages in flight may take to finish after SIGTERM. Kubernetes' " +
		"terminationGracePeriodSeconds must exceed the sum of this, consumer.settle_timeout, " +
		"and 10 s.",

	"events.types": "" +
		"Types of events that revoke sessions, the most urgent first. Events of any other type " +
		"are dead-lettered as UnknownEvent.",
	"events.presets": "" +
		"Presets that read producers' messages, in the order in which they are tried: all, " +
		"none, or names that worker event explain lists.",
	"events.mappings": "" +
		"Files with your own mappings (docs/mappings.md). They are tried in order, before the " +
		"presets. A mapping with the name of a preset's mapping replaces it. The worker reads " +
		"the files at start.",
	"events.allowed_domains": "" +
		"Domains that a user principal name or mail address in an event may have, for example " +
		"contoso.com, or *.contoso.com for the domains below it. An event with another domain " +
		"is dead-lettered as ForeignDomain. If empty, every domain is allowed.",
	"events.time_zone": "" +
		"IANA name of the time zone of times that have none in producers' messages, for " +
		"example America/Chicago. A mapping can have its own.",
	"events.horizon": "" +
		"How far ahead the date of an event may lie (effectiveTime). Until then a copy of the " +
		"message waits in Service Bus; a later date is dead-lettered as TooFarAhead. Scheduling " +
		"needs the right to send to the queue, and is not possible for subscriptions and " +
		"sessions. 0 schedules nothing.",
	"events.max_age": "" +
		"How long before it was sent an event may have happened (its time, or its effectiveTime " +
		"if that is later). An older one is dead-lettered as TooOld: a backfill must not sign " +
		"people out again. How long a message waits in the queue does not count. 0 is no limit.",
	"events.transmitters_file": "" +
		"YAML file with the transmitters whose Security Event Tokens are accepted: their " +
		"issuers, audiences, keys, and which of their events sign people out " +
		"(docs/producers/shared-signals.md). The worker reads it at start. If empty, every " +
		"token is refused.",
	"events.resolve_devices": "" +
		"Ask Graph whose device it is if an event names only a device. Needs the permission " +
		"DeviceManagementManagedDevices.Read.All for devices that are known by their Intune ID " +
		"or serial number, and Device.Read.All for those known by their Entra device ID. If it " +
		"is unclear who has the device, the event is dead-lettered as OwnerUnclear.",

	"guard.protected_users": "" +
		"Object IDs, user principal names, and patterns of names (svc-*@contoso.com) of users " +
		"whose sessions are never revoked. List both the ID and the name of each break-glass " +
		"account.",
	"guard.max_users": "" +
		"Maximum number of distinct users whose sessions may be revoked within guard.window, " +
		"for each event type. One more user trips the guard for that type. Set it to twice your " +
		"largest planned offboarding. 0 disables the limit.",
	"guard.window": "Length of the sliding window of guard.max_users.",
	"guard.mode": "" +
		"enforce: when the guard has tripped for a type, events of that type wait until an " +
		"operator releases it, and other types go on. observe: the worker only reports it.",
	"guard.release_file": "" +
		"File with an operator's release, as worker guard release writes it. The worker reads " +
		"it every 5 s. Without a file, only a restart releases a type.",
	"guard.protected_file": "" +
		"File with further protected users, one per line; # begins a comment. The worker reads " +
		"it again when it changes. If it becomes unusable, its last usable entries stay in " +
		"force.",

	"audit.file": "" +
		"File to which the worker appends a record of each decision. The records form a chain " +
		"of hashes, which worker audit verify checks. - means standard output. Operators' " +
		"commands write to a file beside it, with -operators in its name. If empty, there is no " +
		"file.",
	"audit.key_file": "" +
		"File that contains a key of at least 32 bytes, for example a mounted secret. The " +
		"worker reads it at start. Each record in audit.file then carries a MAC, and worker " +
		"audit verify --key-file detects changes and deletions by anyone who does not have the " +
		"key. Without a key, anyone who can write the file can change records and compute the " +
		"hashes again.",
	"audit.topic": "" +
		"Topic or queue to which the worker publishes each revocation (session.revoked) and " +
		"each failure (session.revocation.failed) as a CloudEvent. The worker needs the right " +
		"to send to it. If empty, nothing is published.",

	"redis.addresses": "" +
		"Redis through which replicas share verdicts, leases, and the rate limit: HOST:PORT of " +
		"one server, of a cluster's nodes, or of the sentinels. If empty, each replica works on " +
		"its own.",
	"redis.username":      "ACL user. If empty, Redis uses its default user.",
	"redis.password":      "Password of the ACL user.",
	"redis.password_file": "File that contains the password, for example a mounted secret.",
	"redis.tls":           "Connect with TLS 1.2 or newer.",
	"redis.cluster": "" +
		"The addresses belong to a Redis cluster. Set it if you list only one node: several " +
		"addresses without redis.sentinel_master always mean a cluster.",
	"redis.sentinel_master": "Name of the master. If set, the addresses are those of sentinels.",
	"redis.timeout": "" +
		"Time limit of one exchange with Redis. While Redis does not answer, the worker works " +
		"without it and tries again once a second.",
	"redis.share_rate_limit": "" +
		"Share Graph's quota among replicas, as if they were one. If false, each replica learns " +
		"its own rate from Graph's answers.",

	"tls.ca_file": "" +
		"PEM file with certificate authorities to trust in addition to the system's: your own, " +
		"or that of a proxy that inspects TLS. It counts for Service Bus, Graph, sign-in, " +
		"Redis, and the trace collector. The worker reads it at start.",

	"ingest.address": "" +
		"Address on which worker ingest receives webhooks, HOST:PORT. :8088 listens on every " +
		"interface, which a container needs and the chart sets.",
	"ingest.tls_cert_file": "" +
		"PEM file with the certificate of worker ingest and the authorities between it and the " +
		"root. Needs ingest.tls_key_file. worker ingest reads both again when they change. " +
		"Without them it speaks plain HTTP, for a gateway in front that ends TLS.",
	"ingest.tls_key_file": "PEM file with the private key of ingest.tls_cert_file.",
	"ingest.trusted_proxies": "" +
		"Addresses and networks of the proxies in front, for example 10.0.0.0/8. Only they are " +
		"believed what they say about a sender: its address (X-Forwarded-For) and its client " +
		"certificate.",
	"ingest.destination": "" +
		"Queue or topic that worker ingest sends to. If empty, it is the one that " +
		"servicebus.queue or servicebus.topic names.",
	"ingest.validate": "" +
		"Refuse with 422 what no form of event and no mapping understands, instead of " +
		"dead-lettering it later.",
	"ingest.timeout": "" +
		"Time within which worker ingest answers. A source may have a shorter one.",
	"ingest.max_body": "" +
		"Maximum size of a body in bytes. The default leaves room for the properties in a message " +
		"of the Standard tier, which has at most 256 KiB.",
	"ingest.max_connections": "Maximum number of connections that are open at the same time.",
	"ingest.concurrency": "" +
		"Maximum number of requests of one source that are worked on at the same time. One " +
		"address may have half of them. Each may hold ingest.max_body bytes of memory.",
	"ingest.address_rate": "" +
		"Maximum number of requests per second of one address to one source, with bursts of five " +
		"times as many. If all requests come through a proxy, set ingest.trusted_proxies.",

	"ops.address": "" +
		"Address of /healthz, /readyz, and /metrics, which have no access control. :9090 " +
		"listens on every interface, which a container needs and the chart sets. If empty, " +
		"there is no port.",
	"ops.workers": "" +
		"Operations ports of all workers, as HOST:PORT or URLs, for worker status. The worker " +
		"itself does not use it. The default is ops.address.",

	"log.level":  "Lowest level that is logged: debug, info, warn, or error.",
	"log.format": "Format of log lines: json or console.",
	"log.hash_users": "" +
		"Log and trace a short hash instead of anything that can name a user: user IDs and " +
		"names, and message IDs, event IDs, and unknown event types, which producers choose. No " +
		"text from Graph or producers is logged.",
}

// sourceDescriptions holds the description of each setting of a source, by key.
var sourceDescriptions = map[string]string{
	"name": "" +
		"Name of the source: up to 32 small letters, digits, and hyphens. Messages carry it in the " +
		"property `source`, and metrics and log lines name it.",
	"path": "Path of the URL that the sender calls, for example `/hooks/okta`.",
	"verify": "" +
		"How to know that a request comes from the sender; see the list above. Required.",
	"secret_file": "" +
		"File with the secret, of at least 16 bytes. The ingest reads it again when it changes.",
	"previous_secret_file": "" +
		"File with the secret from before a rotation, which is accepted too. It may be missing or " +
		"empty.",
	"username": "User name, for HTTP's Basic authentication.",
	"header": "" +
		"Name of the header with the secret, the signature, or the certificate, where the sender lets you " +
		"choose it.",
	"timestamp_header": "For `hmac`: header with the time of the signature, in Unix seconds.",
	"id_header":        "For `hmac` and `header`: header with the sender's id of the delivery.",
	"algorithm":        "For `hmac`: `sha256` (default) or `sha512`.",
	"encoding":         "For `hmac`: `hex` (default) or `base64`.",
	"prefix":           "For `hmac`: what precedes the signature in its header, for example `sha256=`.",
	"signed": "" +
		"For `hmac`: what is signed, in order: `id`, `timestamp`, `method`, `body`, and anything else as it " +
		"is, for example `[timestamp, \".\", body]`. Default `[body]`.",
	"tolerance": "Maximum difference between the time of a signature and now. Default 5m, at most 1h.",
	"tenant":    "For Entra tokens: tenant that issues them, as a GUID.",
	"audience":  "For Entra tokens: expected audience, the app's ID or URI. Several are separated by spaces.",
	"issuer": "" +
		"For Entra tokens: expected issuer, instead of the tenant's. Its OpenID configuration names the keys.",
	"app_role": "For Entra tokens: app role that the token must have.",
	"caller":   "For Entra tokens: app ID of the caller. Several are separated by spaces.",
	"ca_file":  "For `mtls`: PEM file with the authorities of client certificates.",
	"names":    "For `mtls`: accepted names in client certificates: DNS names, URIs, or common names.",
	"subscriptions": "" +
		"For `event-grid`: names of the event subscriptions whose handshake is answered. Default: all.",
	"origins": "" +
		"For `event-grid` and `cloudevents`: origins whose CloudEvents handshake is answered.",
	"content_type": "" +
		"Content type of the message if the sender's request has none, or another one than it should.",
	"max_body": "Maximum size of a body in bytes, instead of ingest.max_body.",
	"timeout":  "Time within which the source is answered. Default: the sender's limit, or ingest.timeout.",
	"rate":     "Maximum number of accepted events per second. Default 500.",
	"burst":    "Maximum number of accepted events at once. Default: twice the rate.",
	"respond_busy": "" +
		"Status for an event that cannot be put on the queue now: 503 or 429. The default is the " +
		"one after which the sender tries again.",
	"expect_every": "" +
		"Longest time without an event that is normal, at most 168h. The alert " +
		"SessionRevokerSourceSilent fires after it.",
}

// streamDescriptions holds the description of each setting of a stream, by key.
var streamDescriptions = map[string]string{
	"name": "" +
		"Name of the stream: up to 32 small letters, digits, and hyphens, and no source's name. Messages " +
		"carry it in the property `source`, and metrics and log lines name it.",
	"issuer": "" +
		"Issuer of the transmitter, exactly as in its tokens and in `events.transmitters_file`. Its metadata " +
		"is found by it.",
	"delivery": "" +
		"`poll` (default): the ingest asks for tokens, and needs no public address. `push`: the transmitter " +
		"sends them to `path`.",
	"stream_id": "" +
		"ID of the stream at the transmitter. Default: the only stream there with this delivery.",
	"metadata_url": "" +
		"Where the transmitter's metadata is, if it is not at a well-known address under its issuer.",
	"poll_url": "" +
		"Poll endpoint, for a transmitter without an API for streams. The ingest then asks for no metadata " +
		"and no heartbeats.",
	"origins": "" +
		"Further origins that the transmitter's endpoints may have, for example `https://api.example.com`. " +
		"Default: those of `issuer` and `metadata_url` alone. They get the access token.",
	"token_file": "" +
		"File with the access token for the transmitter's API. It is read for each request, so it may be replaced.",
	"client_id":          "Client ID, to get access tokens by OAuth client credentials, instead of `token_file`.",
	"client_secret_file": "File with the client secret.",
	"token_url":          "Token endpoint of the authorization server.",
	"scopes":             "Scopes to ask for, for example `[ssf.manage, ssf.read]`. Default: none are named.",
	"events": "" +
		"Events to request, by short name or URI, when `worker ssf create` or `update` runs. Default: those " +
		"that sign people out by default.",
	"max_events": "Maximum number of tokens in the answer to one poll. Default 50, at most 100.",
	"poll_every": "" +
		"Least time between two polls that bring nothing, for transmitters that answer at once. Default 5s, " +
		"from 1s to 5m.",
	"verify_every": "" +
		"How often the ingest asks the transmitter for a heartbeat (a verification event). Default 15m, from 1m " +
		"to 24h. The transmitter's own minimum takes precedence.",
	"expect_every": "" +
		"Longest time without a token or a heartbeat that is normal. The alert SessionRevokerSourceSilent " +
		"fires after it. Default: three times `verify_every`, if the transmitter has heartbeats.",
	"rate": "Maximum number of tokens per second. Default 500.",
	"path": "For `push`: path of the URL that the transmitter calls, for example `/signals/okta`.",
	"url": "" +
		"For `push`: public URL of `path`, as the transmitter reaches it. `worker ssf create` needs it.",
	"secret_file": "" +
		"For `push`: file with the exact value of the header `Authorization` that the transmitter sends, of at " +
		"least 16 bytes. `worker ssf create` gives it to the transmitter.",
	"previous_secret_file": "" +
		"For `push`: file with the value from before a rotation, which is accepted too. It may be missing or " +
		"empty.",
}
