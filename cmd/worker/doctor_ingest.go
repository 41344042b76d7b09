package main

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/status"
)

// heard is what the replicas of worker ingest say about its sources.
type heard struct {
	started time.Time            // of the replica that runs longest
	last    map[string]time.Time // when each source was last heard; zero if never since the start
	expect  map[string]time.Duration
	streams map[string]bool // those of the sources that are streams of shared signals
}

// checkLastHeard says when each source and stream of worker ingest was last heard. Nothing else shows
// that a sender has stopped: an error needs a request. replicas are the operations ports of all
// replicas.
func checkLastHeard(ctx context.Context, cfg config.Config, replicas []string, f *findings) {
	const name, fix = "ingest: last heard", "name the operations port (ops.address) of each replica: --ingest 127.0.0.1:9090"
	if len(replicas) == 0 {
		if len(cfg.Ingest.Sources)+len(cfg.Ingest.Streams) > 0 {
			f.warn(name, fix, "not known: only the running worker ingest knows")
		}
		return
	}
	client, err := opsClient(cfg)
	if err != nil {
		return // checkNetwork says so
	}
	all := heard{last: map[string]time.Time{}, expect: map[string]time.Duration{}, streams: map[string]bool{}}
	for _, replica := range replicas {
		address, err := status.Address(replica)
		if err != nil {
			f.warn(name, fix, "%s", firstLine(err))
			return
		}
		said := status.AskIngest(ctx, client, address)
		if said.Error != "" {
			f.warn(name, fix, "not known from %s: %s", address, said.Error)
			return
		}
		all.add(said)
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
	for _, source := range slices.Sorted(maps.Keys(all.last)) {
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

// add adds what one replica says.
func (h *heard) add(said status.Ingest) {
	if !said.Started.IsZero() && (h.started.IsZero() || said.Started.Before(h.started)) {
		h.started = said.Started
	}
	for _, s := range said.Senders {
		if !sourceName().MatchString(s.Name) {
			continue // of something else than worker ingest, and not to be printed
		}
		if last, known := h.last[s.Name]; !known || s.LastHeard.After(last) {
			h.last[s.Name] = s.LastHeard
		}
		if s.ExpectSeconds > 0 {
			h.expect[s.Name] = time.Duration(s.ExpectSeconds * float64(time.Second))
		}
	}
}

// sourceName is the form of a source's name (package ingest).
var sourceName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9-]{1,32}$`) })
