package app

import (
	"fmt"
	"net/http"
	"sync"

	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/event/secevent"
	"github.com/session-revoker/session-revoker/network"
)

// NewVerifier returns what verifies Security Event Tokens. It reads the files of transmitters and of
// keys, and fetches nothing. report may be nil.
func NewVerifier(cfg config.Config, report func(secevent.Status)) (*secevent.Verifier, error) {
	settings := secevent.Config{
		Types: cfg.Events.Types, LookUpMail: cfg.Graph.ReadUsers, ResolveDevices: cfg.Events.ResolveDevices, Report: report,
	}
	if cfg.Events.TransmittersFile != "" {
		var err error
		if settings.Transmitters, err = secevent.Load(cfg.Events.TransmittersFile); err != nil {
			return nil, fmt.Errorf("events.transmitters_file: %w", err)
		}
		own, err := NewNetwork(cfg)
		if err != nil {
			return nil, err
		}
		settings.Transport = explaining{own.Transport()}
	}
	verifier, err := secevent.New(settings)
	if err != nil {
		return nil, fmt.Errorf("events.transmitters_file: %s: %w", cfg.Events.TransmittersFile, err)
	}
	return verifier, nil
}

// Explaining returns a transport whose errors say which step of the connection failed.
func Explaining(transport *http.Transport) http.RoundTripper { return explaining{transport} }

// explaining is an HTTP transport whose errors say which step of the connection failed.
type explaining struct{ transport *http.Transport }

// RoundTrip implements http.RoundTripper.
func (e explaining) RoundTrip(request *http.Request) (*http.Response, error) {
	ctx, path := network.Observe(request.Context())
	response, err := e.transport.RoundTrip(request.WithContext(ctx))
	if err != nil {
		return nil, path.Explain(ctx, network.HostPort(request.URL), err)
	}
	return response, nil
}

// reportKeys returns a function that shows in the metrics and the log how reading keys went. The log
// has a line when that changes.
func (w *Worker) reportKeys() func(secevent.Status) {
	var mu sync.Mutex
	last := map[string]string{}
	return func(s secevent.Status) {
		w.metrics.TransmitterKeys.WithLabelValues(s.Transmitter).Set(float64(s.Keys))
		stale := w.metrics.TransmitterKeysStale.WithLabelValues(s.Transmitter)
		stale.Set(0)
		if s.Err != nil {
			stale.Set(1)
		}
		mu.Lock()
		defer mu.Unlock()
		before := last[s.Transmitter]
		if last[s.Transmitter] = s.String(); s.String() == before {
			return
		}
		fields := []zap.Field{zap.String("transmitter", s.Transmitter), zap.Int("keys", s.Keys)}
		switch {
		case s.Err == nil:
			w.log.Info("keys of a transmitter read", fields...)
		case s.Keys == 0:
			w.log.Error("cannot read the keys of a transmitter; its tokens wait", append(fields, zap.Error(s.Err))...)
		default:
			w.log.Warn("cannot read the keys of a transmitter again; the last good ones stay in force", append(fields, zap.Error(s.Err))...)
		}
	}
}
