// Package telemetry provides what operators see of the worker: its log, metrics, traces, and
// health.
package telemetry

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Metrics are the worker's metrics. All collectors are safe for concurrent use.
type Metrics struct {
	// Registry holds all of them for the /metrics page, and those of the Go runtime and the
	// process.
	Registry *prometheus.Registry

	// Events counts the events that were decided, by source (queue or subscription), outcome, and
	// dead-letter reason, which is empty for other outcomes.
	Events *prometheus.CounterVec
	// GraphCalls counts attempts by result ("revoked" or the kind of failure) and by HTTP status
	// ("none" without an answer).
	GraphCalls *prometheus.CounterVec
	// Lookups counts look-ups of users whom events name by a device or mail address: by way, and by
	// result ("found", or the kind of failure).
	Lookups *prometheus.CounterVec
	// Canaries counts canaries by result.
	Canaries *prometheus.CounterVec
	// Deferred is the number of messages that this process has deferred, by source.
	Deferred *prometheus.GaugeVec
	// Scheduled is the number of scheduled messages that this process knows of, by source.
	Scheduled *prometheus.GaugeVec
	// InFlight is the number of messages that this process holds locked.
	InFlight prometheus.Gauge
	// Settlements counts settlements by action (complete, dead_letter, abandon) and result (ok,
	// lock_lost, error).
	Settlements *prometheus.CounterVec
	// Renewals counts lock renewals, by result: ok, lock_lost, error.
	Renewals *prometheus.CounterVec
	// LocksLost counts messages whose lock was lost before their work was done.
	LocksLost prometheus.Counter
	// Latency is the time in seconds from the enqueueing of a message to the end of its user's
	// successful call. It compares the clocks of Service Bus and of this machine.
	Latency prometheus.Histogram
	// LastRevoked is the Unix time in seconds at which Graph last confirmed a call.
	LastRevoked prometheus.Gauge
	// LastReceive is the Unix time in seconds at which the receive loop of a source last had an
	// answer from Service Bus.
	LastReceive *prometheus.GaugeVec
	// AuditFailures counts records of the audit log that were not written (to "file") or not
	// published (to "topic").
	AuditFailures *prometheus.CounterVec
	// ProtectedEntries is the number of entries that protect users. ProtectedFileStale is 1 while
	// their file is not usable.
	ProtectedEntries, ProtectedFileStale prometheus.Gauge
	// TransmitterKeys is the number of a transmitter's keys that verify its Security Event Tokens.
	// TransmitterKeysStale is 1 while they cannot be read again.
	TransmitterKeys, TransmitterKeysStale *prometheus.GaugeVec
	// RedisUp is 1 while Redis answers, and 0 while it does not or none is configured.
	RedisUp prometheus.Gauge
	// Replicas counts the results of requests to Redis about a user.
	Replicas *prometheus.CounterVec

	state atomic.Pointer[func() State]
}

// State is a snapshot of the work in flight, taken when the metrics are read.
type State struct {
	// Pending is the number of users with an unsettled event in flight, and Parked the number of
	// those who wait for the end of their deduplication window. Remembered is the number of users
	// whose last verdict is remembered.
	Pending, Parked, Remembered int
	// Queued is the number of users who wait for their call, and CallsInFlight the number of calls
	// in flight.
	Queued, CallsInFlight int
	// Waiting is an estimated upper bound of the users who wait, including those whose messages are
	// still in Service Bus.
	Waiting int
	// UntilLast is the estimated time in seconds until the last of them has been called. It is +Inf
	// while no call succeeds.
	UntilLast float64
	// PerSecond is the rate that Graph allowed when it last throttled, or +Inf if it has not
	// throttled yet.
	PerSecond float64
	// HeldFor is the rest of Graph's last Retry-After, and Throttled the sum of all of them.
	HeldFor, Throttled time.Duration
	// Oldest is the age of the oldest message in flight since it was enqueued, or 0 if there is
	// none.
	Oldest time.Duration
	// Guard holds the counts of the volume guard, for each type of events.
	Guard []Guard
	// BreakerOpen reports whether only probes are sent.
	BreakerOpen bool
	// SuspectedUsers reports whether users fail one after another while the canary succeeds.
	// SuspectedGraph reports whether they fail and nothing shows that Graph works.
	SuspectedUsers, SuspectedGraph bool
	// LookupsStopped reports whether look-ups of some way are not possible: only tests are made.
	LookupsStopped bool
}

// Guard holds the counts of the volume guard for one type of events.
type Guard struct {
	Type string
	// Users is the number of distinct users whose sessions were revoked within the guard's window,
	// and Limit its maximum.
	Users, Limit int
	// Tripped reports whether the limit was reached when another user's turn came.
	Tripped bool
}

// Watch makes the metrics show what state returns. state must be safe for concurrent use; it
// replaces an earlier one.
func (m *Metrics) Watch(state func() State) { m.state.Store(&state) }

// State returns what the function given to Watch returns, or the zero State before Watch was
// called.
func (m *Metrics) State() State {
	state := m.state.Load()
	if state == nil {
		return State{}
	}
	return (*state)()
}

// gauge is one metric that is computed from the State.
type gauge struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(State) float64
}

// gauges is a prometheus.Collector. All its metrics come from one snapshot of the State.
type gauges struct {
	m     *Metrics
	all   []gauge
	guard []guardGauge
}

// guardGauge is one metric of the guard, with a value for each type of events.
type guardGauge struct {
	desc  *prometheus.Desc
	value func(Guard) float64
}

func newGauges(m *Metrics, ns string) *gauges {
	g := &gauges{m: m}
	add := func(name, help string, value func(State) float64) {
		kind := prometheus.GaugeValue
		if strings.HasSuffix(name, "_total") {
			kind = prometheus.CounterValue
		}
		g.all = append(g.all, gauge{prometheus.NewDesc(prometheus.BuildFQName(ns, "", name), help, nil, nil), kind, value})
	}
	add("pending_users",
		"Users with an unsettled event in flight.",
		func(s State) float64 { return float64(s.Pending) })
	add("parked",
		"Pending users who wait for the end of their deduplication window.",
		func(s State) float64 { return float64(s.Parked) })
	add("remembered_users",
		"Users whose last verdict is remembered.",
		func(s State) float64 { return float64(s.Remembered) })
	add("queued_users", "Users who wait for their call.", func(s State) float64 { return float64(s.Queued) })
	add("users_waiting",
		"Estimated upper bound on the users who wait, including those whose messages are still in Service Bus.",
		func(s State) float64 { return float64(s.Waiting) })
	add("forecast_seconds",
		"Estimated time until the last user who waits has been called, at the present rate; +Inf while no call succeeds.",
		func(s State) float64 { return s.UntilLast })
	add("graph_calls_in_flight",
		"Calls to Graph in flight.",
		func(s State) float64 { return float64(s.CallsInFlight) })
	add("rate_limit_calls_per_second",
		"Rate that Graph allowed when it last throttled; +Inf if it has not throttled yet.",
		func(s State) float64 { return s.PerSecond })
	add("rate_limit_pause_seconds",
		"Rest of Graph's last Retry-After.",
		func(s State) float64 { return s.HeldFor.Seconds() })
	add("throttled_seconds_total",
		"Sum of all of Graph's Retry-Afters.",
		func(s State) float64 { return s.Throttled.Seconds() })
	add("oldest_message_seconds",
		"Age of the oldest message in flight, since it was enqueued.",
		func(s State) float64 { return s.Oldest.Seconds() })
	addGuard := func(name, help string, value func(Guard) float64) {
		desc := prometheus.NewDesc(prometheus.BuildFQName(ns, "", name), help, []string{"type"}, nil)
		g.guard = append(g.guard, guardGauge{desc, value})
	}
	addGuard("guard_users",
		"Distinct users whose sessions were revoked within the guard's window, by type of event.",
		func(s Guard) float64 { return float64(s.Users) })
	addGuard("guard_limit",
		"Maximum number of distinct users whose sessions may be revoked within the guard's window, by type of event; 0 means no limit.",
		func(s Guard) float64 { return float64(s.Limit) })
	addGuard("guard_tripped",
		"1 while the guard stops a type of event, because more users than its limit were to be revoked.",
		func(s Guard) float64 { return oneIf(s.Tripped) })
	add("breaker_open",
		"1 while the circuit breaker is open: only probes are sent, because no call can succeed.",
		func(s State) float64 { return oneIf(s.BreakerOpen) })
	add("suspected_users",
		"1 while users fail one after another and the canary succeeds: the cause lies with the users.",
		func(s State) float64 { return oneIf(s.SuspectedUsers) })
	add("suspected_graph",
		"1 while users fail one after another and nothing shows that Graph works.",
		func(s State) float64 { return oneIf(s.SuspectedGraph) })
	add("lookups_stopped",
		"1 while users cannot be looked up by a device or mail address, for want of a permission or because Graph fails; "+
			"their events wait.",
		func(s State) float64 { return oneIf(s.LookupsStopped) })
	return g
}

// oneIf returns 1 for yes and 0 for no.
func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// Describe implements prometheus.Collector.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, one := range g.all {
		ch <- one.desc
	}
	for _, one := range g.guard {
		ch <- one.desc
	}
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	s := g.m.State()
	for _, one := range g.all {
		ch <- prometheus.MustNewConstMetric(one.desc, one.kind, one.value(s))
	}
	for _, one := range g.guard {
		for _, of := range s.Guard {
			ch <- prometheus.MustNewConstMetric(one.desc, prometheus.GaugeValue, one.value(of), of.Type)
		}
	}
}

// NewMetrics makes the metrics and registers them in a new registry. version and commit become the
// labels of build_info.
func NewMetrics(version, commit string) *Metrics {
	const ns = "session_revoker"
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		Events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Name: "events_total", Help: "Events that were decided, by source, outcome, and dead-letter reason.",
		}, []string{"source", "outcome", "reason"}),
		GraphCalls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Name: "graph_attempts_total", Help: "Attempts to revoke a user's sessions, by result and HTTP status.",
		}, []string{"result", "status"}),
		Lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Name: "graph_lookups_total",
			Help: "Look-ups of users whom events name by a device or mail address, by way and result.",
		}, []string{"by", "result"}),
		Canaries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Name: "graph_canaries_total", Help: "Canaries (attempts that only test whether Graph works), by result.",
		}, []string{"result"}),
		Deferred: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: ns, Name: "messages_deferred", Help: "Messages that this process has deferred in Service Bus, by source.",
		}, []string{"source"}),
		Scheduled: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: ns, Name: "messages_scheduled",
			Help: "Messages that wait in Service Bus for their date, by source, as this process last saw them; every replica sees all.",
		}, []string{"source"}),
		InFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: ns, Name: "messages_in_flight", Help: "Messages that this process holds locked.",
		}),
		Settlements: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Name: "settlements_total", Help: "Settlements, by action and result.",
		}, []string{"action", "result"}),
		Renewals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Name: "lock_renewals_total", Help: "Lock renewals, by result.",
		}, []string{"result"}),
		LocksLost: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: ns, Name: "locks_lost_total", Help: "Messages whose lock was lost before their work was done.",
		}),
		Latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: ns, Name: "enqueue_to_revoked_seconds", Help: "Time from the enqueueing of a message to the end of " +
				"its user's successful call.",
			Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600},
		}),
		LastRevoked: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: ns, Name: "last_revoked_timestamp_seconds", Help: "Unix time at which Graph last confirmed that it revoked " +
				"somebody's sessions; 0 if it has not since the start.",
		}),
		LastReceive: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: ns, Name: "last_receive_timestamp_seconds", Help: "Unix time at which the receive loop of a source " +
				"last had an answer from Service Bus.",
		}, []string{"source"}),
		AuditFailures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Name: "audit_failures_total", Help: "Records of the audit log that were not written or not published.",
		}, []string{"to"}),
		ProtectedEntries: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: ns, Name: "protected_entries", Help: "Entries that protect users from revocation.",
		}),
		ProtectedFileStale: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: ns, Name: "protected_file_stale", Help: "1 while the file of protected users is not usable and its " +
				"last usable entries are in force.",
		}),
		TransmitterKeys: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: ns, Name: "transmitter_keys", Help: "Keys that verify the Security Event Tokens of a transmitter. While " +
				"there are none, its tokens wait.",
		}, []string{"transmitter"}),
		TransmitterKeysStale: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: ns, Name: "transmitter_keys_stale", Help: "1 while the keys of a transmitter cannot be read, and its last " +
				"good keys are in force.",
		}, []string{"transmitter"}),
		RedisUp: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: ns, Name: "redis_up", Help: "1 while Redis answers; 0 while it does not, or if none is configured.",
		}),
		Replicas: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Name: "redis_leases_total",
			Help: "Results of requests to Redis about a user: granted, taken (by another replica), lost (before the call ended), " +
				"away (no answer), adopted (another replica's verdict was used). Ignored values: future, stale, implausible, " +
				"unreadable, endless, overdue, overfull, pacing.",
		}, []string{"result"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: ns, Name: "build_info", Help: "Always 1, labeled with the build.",
		ConstLabels: prometheus.Labels{"version": version, "commit": commit},
	})
	build.Set(1)
	m.Registry.MustRegister(
		m.Events, m.GraphCalls, m.Lookups, m.Canaries, m.Deferred, m.Scheduled, m.InFlight, m.Settlements, m.Renewals,
		m.LocksLost, m.Latency, m.LastRevoked,
		m.LastReceive, m.AuditFailures, m.ProtectedEntries, m.ProtectedFileStale, m.TransmitterKeys, m.TransmitterKeysStale,
		m.RedisUp, m.Replicas, build, newGauges(m, ns),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}
