// Package telemetry is how the worker is seen from outside: its log, its metrics and its health.
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
	// Registry holds them, with Go's and the process's own, for the /metrics page.
	Registry *prometheus.Registry

	// Events counts the events decided, by source (queue or subscription), outcome and dead-letter reason ("" where there is none).
	Events *prometheus.CounterVec
	// GraphCalls counts attempts by result, "revoked" or the kind of failure, and by HTTP status, "none" where no answer came.
	GraphCalls *prometheus.CounterVec
	// Canaries are counted by result; Deferred is how many messages are set aside, by source.
	Canaries *prometheus.CounterVec
	Deferred *prometheus.GaugeVec
	// InFlight is how many messages this process holds locked.
	InFlight prometheus.Gauge
	// Settlements counts complete, dead_letter and abandon, by result: ok, lock_lost, error.
	Settlements *prometheus.CounterVec
	// Renewals counts lock renewals, by result: ok, lock_lost, error.
	Renewals *prometheus.CounterVec
	// LocksLost counts messages whose lock was lost before their work was done.
	LocksLost prometheus.Counter
	// Latency is the time from a message's enqueueing to the end of its user's successful call, in seconds. It compares
	// two clocks, the broker's and ours.
	Latency prometheus.Histogram
	// LastReceive is when the receive loop of a source last heard from Service Bus, as a Unix time in seconds.
	LastReceive *prometheus.GaugeVec
	// AuditFailures counts records of the audit log that were not written or not published, by where.
	AuditFailures *prometheus.CounterVec
	// ProtectedEntries is how many entries protect users; ProtectedFileStale is 1 while their file is not usable.
	ProtectedEntries, ProtectedFileStale prometheus.Gauge
	// RedisUp is 1 while Redis answers, 0 while it does not, or none is used. Replicas counts what came of asking it for a user.
	RedisUp  prometheus.Gauge
	Replicas *prometheus.CounterVec

	state atomic.Pointer[func() State]
}

// State is a picture of the work in hand, taken when the metrics are read.
type State struct {
	// Pending is how many users have an unsettled event in hand; Parked how many of them wait for the end of their window;
	// Remembered how many verdicts are kept.
	Pending, Parked, Remembered int
	// Queued is how many users wait for their call, Calls how many calls are under way.
	Queued, CallsInFlight int
	// Waiting is how many users wait, those included whose messages are not in hand, as far as it can be told; UntilLast how many seconds the last of
	// them will: +Inf while nothing goes through.
	Waiting   int
	UntilLast float64
	// PerSecond is the rate that Graph allowed when it last throttled; +Inf when it never did. HeldFor is how much longer
	// its last Retry-After lasts.
	PerSecond float64
	HeldFor   time.Duration
	// Throttled is how long its Retry-Afters were, all together.
	Throttled time.Duration
	// Oldest is the age of the oldest message in hand, by its enqueued time; 0 when there is none.
	Oldest time.Duration
	// Guard is what the guard counts, for each type of events.
	Guard []Guard
	// BreakerOpen says that calls are stopped but for probes.
	BreakerOpen bool
	// SuspectedUsers says that users fail one after the other while the canary is well; SuspectedGraph that nothing tells
	// that Graph is.
	SuspectedUsers, SuspectedGraph bool
}

// Guard is what the guard counts for one type of events: Users were signed out within its window,
// Limit may be; Tripped says that one more was to be.
type Guard struct {
	Type         string
	Users, Limit int
	Tripped      bool
}

// Watch makes the metrics show what state returns; it must be safe for concurrent use. The last one given counts.
func (m *Metrics) Watch(state func() State) { m.state.Store(&state) }

// State asks the function given to Watch; the zero State before.
func (m *Metrics) State() State {
	state := m.state.Load()
	if state == nil {
		return State{}
	}
	return (*state)()
}

// gauge is one metric made of the State.
type gauge struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(State) float64
}

// gauges shows the State, of one moment in all of them. It is a prometheus.Collector.
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
	add("pending_users", "Users with an unsettled event in hand.", func(s State) float64 { return float64(s.Pending) })
	add("parked", "Users in hand that wait for the end of their deduplication window.", func(s State) float64 { return float64(s.Parked) })
	add("remembered_users", "Users whose last verdict is remembered.", func(s State) float64 { return float64(s.Remembered) })
	add("queued_users", "Users that wait for their call.", func(s State) float64 { return float64(s.Queued) })
	add("users_waiting", "Users that wait, those in the queue included: at most, and about.", func(s State) float64 { return float64(s.Waiting) })
	add("forecast_seconds", "How long the last user who waits will at the present rate; +Inf while nothing goes through.", func(s State) float64 { return s.UntilLast })
	add("graph_calls_in_flight", "Calls to Graph under way.", func(s State) float64 { return float64(s.CallsInFlight) })
	add("rate_limit_calls_per_second", "Rate that Graph allowed when it last throttled; +Inf when it never did.", func(s State) float64 { return s.PerSecond })
	add("rate_limit_pause_seconds", "How much longer Graph's last Retry-After lasts.", func(s State) float64 { return s.HeldFor.Seconds() })
	add("throttled_seconds_total", "How long Graph's Retry-Afters were, all together.", func(s State) float64 { return s.Throttled.Seconds() })
	add("oldest_message_seconds", "Age of the oldest message in hand, since it was enqueued.", func(s State) float64 { return s.Oldest.Seconds() })
	addGuard := func(name, help string, value func(Guard) float64) {
		desc := prometheus.NewDesc(prometheus.BuildFQName(ns, "", name), help, []string{"type"}, nil)
		g.guard = append(g.guard, guardGauge{desc, value})
	}
	addGuard("guard_users", "Distinct users signed out within the guard's window, by type of event.", func(s Guard) float64 { return float64(s.Users) })
	addGuard("guard_limit", "Distinct users that may be signed out within the guard's window, by type of event; 0 is no limit.", func(s Guard) float64 { return float64(s.Limit) })
	addGuard("guard_tripped", "1 while more people are to be signed out than is plausible, by type of event.", func(s Guard) float64 { return oneIf(s.Tripped) })
	add("breaker_open", "1 while calls are stopped but for probes, because nothing can succeed.", func(s State) float64 { return oneIf(s.BreakerOpen) })
	add("suspected_users", "1 while users fail one after the other and the canary is well: the trouble is theirs.", func(s State) float64 { return oneIf(s.SuspectedUsers) })
	add("suspected_graph", "1 while users fail one after the other and nothing tells that Graph is well.", func(s State) float64 { return oneIf(s.SuspectedGraph) })
	return g
}

// oneIf is how a metric says yes: 1, and 0 for no.
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

// NewMetrics registers the metrics in a registry of their own. version and commit label the build.
func NewMetrics(version, commit string) *Metrics {
	const ns = "session_revoker"
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		Events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Name: "events_total", Help: "Events decided, by source, outcome and dead-letter reason.",
		}, []string{"source", "outcome", "reason"}),
		GraphCalls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Name: "graph_attempts_total", Help: "Attempts to revoke a user's sessions, by result and HTTP status.",
		}, []string{"result", "status"}),
		Canaries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Name: "graph_canaries_total", Help: "Canaries, attempts that only tell whether Graph is well, by result.",
		}, []string{"result"}),
		Deferred: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: ns, Name: "messages_deferred", Help: "Messages that this process has set aside in Service Bus, by source.",
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
			Namespace: ns, Name: "enqueue_to_revoked_seconds", Help: "Time from enqueueing to the end of the successful call.",
			Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600},
		}),
		LastReceive: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: ns, Name: "last_receive_timestamp_seconds", Help: "When the receive loop of a source last heard from Service Bus (Unix time).",
		}, []string{"source"}),
		AuditFailures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Name: "audit_failures_total", Help: "Records of the audit log that were not written or not published.",
		}, []string{"to"}),
		ProtectedEntries: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: ns, Name: "protected_entries", Help: "Entries that protect users from being signed out.",
		}),
		ProtectedFileStale: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: ns, Name: "protected_file_stale", Help: "1 while the file of protected users is not usable, and its last good entries are in force.",
		}),
		RedisUp: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: ns, Name: "redis_up", Help: "1 while Redis answers; 0 while it does not, and where none is used.",
		}),
		Replicas: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Name: "redis_leases_total",
			Help: "What came of asking Redis: granted, taken by another replica, lost before the call ended, away, adopted (another replica's verdict was used); what was ignored: future, stale, implausible, unreadable, endless, overdue, overfull, pacing.",
		}, []string{"result"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: ns, Name: "build_info", Help: "Always 1, labeled with the build.",
		ConstLabels: prometheus.Labels{"version": version, "commit": commit},
	})
	build.Set(1)
	m.Registry.MustRegister(
		m.Events, m.GraphCalls, m.Canaries, m.Deferred, m.InFlight, m.Settlements, m.Renewals, m.LocksLost, m.Latency, m.LastReceive, m.AuditFailures, m.ProtectedEntries, m.ProtectedFileStale, m.RedisUp, m.Replicas, build, newGauges(m, ns),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}
