// Package telemetry is how the worker is seen from outside: its log, its metrics and its health.
package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Metrics are the worker's metrics. All collectors are safe for concurrent use.
type Metrics struct {
	// Registry holds them, with Go's and the process's own, for the /metrics page.
	Registry *prometheus.Registry

	// Events counts the events decided, by outcome and by dead-letter reason ("" where there is none).
	Events *prometheus.CounterVec
	// GraphCalls counts attempts by result: "revoked" or the kind of failure. NoToken failures called nobody.
	GraphCalls *prometheus.CounterVec
	// InHand is how many messages this process holds locked.
	InHand prometheus.Gauge
	// Settlements counts complete, dead_letter and abandon, by result: ok, lock_lost, error.
	Settlements *prometheus.CounterVec
	// Renewals counts lock renewals, by result: ok, lock_lost, error.
	Renewals *prometheus.CounterVec
	// LocksLost counts messages whose lock was lost before their work was done.
	LocksLost prometheus.Counter
	// Latency is the time from a message's enqueueing to the end of its user's successful call, in seconds. It compares
	// two clocks, the broker's and ours.
	Latency prometheus.Histogram
	// LastReceive is when the receive loop last heard from Service Bus, as a Unix time in seconds.
	LastReceive prometheus.Gauge
}

// NewMetrics registers the metrics in a registry of their own. version and commit label the build.
func NewMetrics(version, commit string) *Metrics {
	const ns = "session_revoker"
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		Events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Name: "events_total", Help: "Events decided, by outcome and dead-letter reason.",
		}, []string{"outcome", "reason"}),
		GraphCalls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Name: "graph_attempts_total", Help: "Attempts to revoke a user's sessions, by result.",
		}, []string{"result"}),
		InHand: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: ns, Name: "messages_in_hand", Help: "Messages that this process holds locked.",
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
		LastReceive: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: ns, Name: "last_receive_timestamp_seconds", Help: "When the receive loop last heard from Service Bus (Unix time).",
		}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: ns, Name: "build_info", Help: "Always 1, labelled with the build.",
		ConstLabels: prometheus.Labels{"version": version, "commit": commit},
	})
	build.Set(1)
	m.Registry.MustRegister(
		m.Events, m.GraphCalls, m.InHand, m.Settlements, m.Renewals, m.LocksLost, m.Latency, m.LastReceive, build,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}
