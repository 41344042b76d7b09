package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// IngestMetrics are the metrics of worker ingest, which has none of the worker's own: an alert about
// a missing worker must not take it for one. All collectors are safe for concurrent use.
type IngestMetrics struct {
	// Registry holds all of them for the /metrics page, and those of the Go runtime and the
	// process.
	Registry *prometheus.Registry

	// Requests counts requests, by source and result.
	Requests *prometheus.CounterVec
	// LastAccepted is the Unix time in seconds of the last event of each source that was put on the
	// queue, or of the last heartbeat of a stream, or 0 if there was none since the start.
	LastAccepted *prometheus.GaugeVec
	// Expected is the longest time in seconds without an event that is normal for a source.
	Expected *prometheus.GaugeVec
	// StreamWorking is 1 for each stream of shared signals that is enabled, can be reached, and sends
	// heartbeats, and 0 for the others.
	StreamWorking *prometheus.GaugeVec
	// Publish is the time in seconds until Service Bus had accepted an event.
	Publish prometheus.Histogram
}

// NewIngestMetrics makes the metrics and registers them in a new registry. version and commit become
// the labels of ingest_build_info.
func NewIngestMetrics(version, commit string) *IngestMetrics {
	const ns = "session_revoker"
	m := &IngestMetrics{
		Registry: prometheus.NewRegistry(),
		Requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Name: "ingest_requests_total", Help: "Requests to worker ingest, by source and result.",
		}, []string{"source", "result"}),
		LastAccepted: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: ns, Name: "ingest_last_accepted_timestamp_seconds", Help: "Unix time at which worker ingest last put " +
				"an event of a source on the queue, or got a heartbeat of a stream; 0 if there was none since its start.",
		}, []string{"source"}),
		Expected: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: ns, Name: "ingest_expected_interval_seconds", Help: "Longest time without an event that is normal for a " +
				"source (expect_every).",
		}, []string{"source"}),
		StreamWorking: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: ns, Name: "ingest_stream_working", Help: "1 if a stream of shared signals is enabled, its transmitter " +
				"answers, and heartbeats come; else 0.",
		}, []string{"source"}),
		Publish: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: ns, Name: "ingest_publish_seconds", Help: "Time until Service Bus had accepted an event of worker ingest.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: ns, Name: "ingest_build_info", Help: "Always 1, labeled with the build of worker ingest.",
		ConstLabels: prometheus.Labels{"version": version, "commit": commit},
	})
	build.Set(1)
	m.Registry.MustRegister(m.Requests, m.LastAccepted, m.Expected, m.StreamWorking, m.Publish, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}
