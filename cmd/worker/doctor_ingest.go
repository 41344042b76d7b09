package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/config"
)

// maxMetrics bounds a page of metrics, in bytes. That of worker ingest with 64 sources has 100 KB.
const maxMetrics = 4 << 20

// heard is what the metrics of worker ingest say about its sources.
type heard struct {
	started time.Time            // of the replica that runs longest
	last    map[string]time.Time // when each source was last heard; zero if never since the start
	expect  map[string]time.Duration
	streams map[string]bool // those of the sources that are streams of shared signals
}

// checkLastHeard says when each source and stream of worker ingest was last heard. Nothing else shows that a
// sender has stopped: an error needs a request. pages are the addresses of the metrics of all replicas.
func checkLastHeard(ctx context.Context, cfg config.Config, pages []string, f *findings) {
	const name = "ingest: last heard"
	if len(pages) == 0 {
		if len(cfg.Ingest.Sources)+len(cfg.Ingest.Streams) > 0 {
			f.warn(name, "give the page of its operations port, and that of each replica: "+
				"--ingest-metrics http://127.0.0.1:9090/metrics", "not known: only the running worker ingest knows")
		}
		return
	}
	own, err := app.NewNetwork(cfg)
	if err != nil {
		return // checkNetwork says so
	}
	all := heard{last: map[string]time.Time{}, expect: map[string]time.Duration{}, streams: map[string]bool{}}
	for _, page := range pages {
		families, err := within(ctx, func(ctx context.Context) (map[string]*dto.MetricFamily, error) {
			return readMetrics(ctx, own.Transport(), page)
		})
		if err == nil && families[metricLastHeard] == nil {
			err = errors.New("these are not the metrics of worker ingest")
		}
		if err != nil {
			f.warn(name, "give the page /metrics of the operations port (ops.address) of worker ingest", "not known from %s: %s",
				page, firstLine(err))
			return
		}
		all.add(families)
	}
	var configured []string
	for _, source := range cfg.Ingest.Sources {
		configured = append(configured, source.Name)
	}
	for _, stream := range cfg.Ingest.Streams {
		configured, all.streams[stream.Name] = append(configured, stream.Name), true
	}
	for _, source := range configured {
		if _, ok := all.last[source]; !ok {
			f.warn("ingest: "+source, "restart worker ingest with this configuration",
				"the running worker ingest does not have this source")
		}
	}
	names := make([]string, 0, len(all.last))
	for source := range all.last {
		names = append(names, source)
	}
	slices.Sort(names)
	for _, source := range names {
		all.report(source, f)
	}
}

// report adds the line of a source.
func (h heard) report(source string, f *findings) {
	ago := func(t time.Time) time.Duration { return max(0, time.Since(t)).Round(time.Second) }
	what, ask := "event", "send the sender's test event"
	fix := "look at the webhook's page at the sender, then send its test event (docs/runbook.md, SessionRevokerSourceSilent)"
	if h.streams[source] {
		what, ask = "token or heartbeat", "worker ssf verify "+source
		fix = ask + ", and look at the log of worker ingest (docs/runbook.md, SessionRevokerSourceSilent)"
	}
	since := h.last[source]
	if since.IsZero() && h.started.IsZero() {
		f.warn("ingest: "+source, ask, "no %s yet, and not known since when", what)
		return
	}
	var detail string
	if since.IsZero() {
		since = h.started
		detail = fmt.Sprintf("no %s since worker ingest has started, %s ago; it does not know earlier ones", what, ago(since))
	} else {
		detail = fmt.Sprintf("last %s %s ago, at %s", what, ago(since), when(since))
	}
	if expect := h.expect[source]; expect > 0 && ago(since) > expect {
		f.warn("ingest: "+source, fix, "%s; expect_every is %s", detail, expect)
		return
	}
	f.ok("ingest: "+source, "%s", detail)
}

// The metrics that are read.
const (
	metricLastHeard = "session_revoker_ingest_last_accepted_timestamp_seconds"
	metricExpected  = "session_revoker_ingest_expected_interval_seconds"
	metricStarted   = "process_start_time_seconds"
)

// add adds the metrics of one replica.
func (h *heard) add(families map[string]*dto.MetricFamily) {
	for _, m := range families[metricStarted].GetMetric() {
		if at := seconds(m); h.started.IsZero() || at.Before(h.started) {
			h.started = at
		}
	}
	for _, m := range families[metricLastHeard].GetMetric() {
		source, at := labelOf(m, "source"), seconds(m)
		if !sourceName.MatchString(source) {
			continue // of something else than worker ingest, and not to be printed
		}
		if last, known := h.last[source]; !known || at.After(last) {
			h.last[source] = at
		}
	}
	for _, m := range families[metricExpected].GetMetric() {
		if every := m.GetGauge().GetValue(); every > 0 && every < maxExpected {
			h.expect[labelOf(m, "source")] = time.Duration(every * float64(time.Second))
		}
	}
}

// sourceName is the form of a source's name (package ingest).
var sourceName = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)

// maxExpected and maxUnix bound what is believed of a page, in seconds.
const (
	maxExpected = 1e8
	maxUnix     = 1e11
)

// seconds is the value of a gauge that is a Unix time; zero if it is 0, or none.
func seconds(m *dto.Metric) time.Time {
	if v := m.GetGauge().GetValue(); v > 0 && v < maxUnix {
		return time.UnixMilli(int64(v * 1000))
	}
	return time.Time{}
}

func labelOf(m *dto.Metric, name string) string {
	for _, label := range m.GetLabel() {
		if label.GetName() == name {
			return label.GetValue()
		}
	}
	return ""
}

// readMetrics reads a page of metrics.
func readMetrics(ctx context.Context, transport http.RoundTripper, page string) (map[string]*dto.MetricFamily, error) {
	u, err := url.Parse(page)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("not a URL like http://127.0.0.1:9090/metrics")
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "text/plain")
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer is %d", response.StatusCode)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(io.LimitReader(response.Body, maxMetrics))
	if err != nil {
		return nil, errors.New("the answer is no page of metrics")
	}
	return families, nil
}
