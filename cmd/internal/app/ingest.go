package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/event/secevent"
	"github.com/session-revoker/session-revoker/ingest"
	"github.com/session-revoker/session-revoker/telemetry"
)

// Ingest is the assembled worker ingest.
type Ingest struct {
	cfg     config.Config
	log     *zap.Logger
	client  *azservicebus.Client
	server  *ingest.Server
	health  *telemetry.Health
	metrics *telemetry.IngestMetrics
	tracing *telemetry.Tracing
	tokens  *secevent.Verifier // nil without streams
	web     net.Listener       // nil if nothing is received by HTTP
	ops     net.Listener       // nil without an operations port
}

// NewIngest assembles worker ingest, and opens its port and the operations port. It connects to
// nothing yet. The log goes to w. cfg must be valid. Call Run next, which releases everything.
func NewIngest(cfg config.Config, w io.Writer) (*Ingest, error) {
	log, err := telemetry.NewLogger(w, cfg.Log.Level, cfg.Log.Format)
	if err != nil {
		return nil, err
	}
	to := cfg.To()
	if to == "" {
		return nil, errors.New("ingest.destination: several sources are configured: set the queue or topic to send to " +
			"(REVOKER_INGEST_DESTINATION)")
	}
	var decoder ingest.Decoder
	if cfg.Ingest.Validate { // only then must the files of mappings be there
		if decoder, err = newValidator(cfg); err != nil {
			return nil, err
		}
	}
	own, err := NewNetwork(cfg)
	if err != nil {
		return nil, err
	}
	tracing, err := newTracing(cfg)
	if err != nil {
		return nil, err
	}
	client, err := NewServiceBus(cfg)
	if err != nil {
		return nil, err
	}
	sender, err := client.NewSender(to, nil)
	if err != nil {
		return nil, fmt.Errorf("make the sender to %q: %w", to, err)
	}
	i := &Ingest{
		cfg: cfg, log: log, client: client, tracing: tracing,
		health:  telemetry.NewHealth(ingest.MaxSilence, ingest.BusPart),
		metrics: telemetry.NewIngestMetrics(Version, Commit),
	}
	dependencies := ingest.Dependencies{
		Sender:    sender,
		Log:       log,
		Metrics:   i.metrics,
		Health:    i.health,
		Tracer:    tracing.Tracer,
		Transport: explaining{own.Transport()},
		Decoder:   decoder,
	}
	if len(cfg.Ingest.Streams) > 0 { // only then must the file of transmitters be there
		if i.tokens, err = NewVerifier(cfg, i.reportKeys); err != nil {
			return nil, err
		}
		dependencies.Tokens = i.tokens
	}
	i.server, err = ingest.New(ingest.Config{
		Ingest:    cfg.Ingest,
		Entity:    to,
		Authority: cfg.Cloud().Authority,
		Sessions:  cfg.ServiceBus.Sessions > 0,
	}, dependencies)
	if err != nil {
		return nil, err
	}
	if i.server.Listens() {
		if i.web, err = net.Listen("tcp", cfg.Ingest.Address); err != nil {
			return nil, fmt.Errorf("open the port for webhooks: %w; set ingest.address to a free address", err)
		}
	}
	if cfg.Ops.Address != "" {
		if i.ops, err = net.Listen("tcp", cfg.Ops.Address); err != nil {
			if i.web != nil {
				_ = i.web.Close()
			}
			return nil, fmt.Errorf("open the operations port: %w; set ops.address to a free address, or to \"\" for none", err)
		}
	}
	return i, nil
}

// validator decides what is understood, for ingest.validate. Security Event Tokens are left to the
// worker, which has the keys that verify them.
type validator struct {
	tokens *secevent.Verifier
	others ingest.Decoder
}

func newValidator(cfg config.Config) (validator, error) {
	cfg.Events.TransmittersFile = ""
	tokens, err := NewVerifier(cfg, nil)
	if err != nil {
		return validator{}, err
	}
	others, err := NewDecoder(cfg, DecoderOptions{})
	if err != nil {
		return validator{}, err
	}
	return validator{tokens, others}, nil
}

// Decode implements ingest.Decoder.
func (v validator) Decode(m event.Message) ([]event.Item, error) {
	if v.tokens.IsToken(m) {
		return nil, &event.Error{Kind: event.NotYet, Field: "token", Problem: "the worker verifies it"}
	}
	return v.others.Decode(m)
}

// Address returns the address on which webhooks are received, or "" if there is none.
func (i *Ingest) Address() string {
	if i.web == nil {
		return ""
	}
	return i.web.Addr().String()
}

// reportKeys shows in the health and the log how reading a transmitter's keys went.
func (i *Ingest) reportKeys(s secevent.Status) {
	problem := ""
	if s.Err != nil {
		problem = s.Err.Error()
	}
	if !i.health.Warn("keys of "+s.Transmitter, problem) {
		return
	}
	fields := []zap.Field{zap.String("transmitter", s.Transmitter), zap.Int("keys", s.Keys)}
	if s.Err != nil {
		i.log.Error("cannot read the keys of a transmitter; tokens that need them wait there", append(fields, zap.Error(s.Err))...)
		return
	}
	i.log.Info("keys of a transmitter read", fields...)
}

// OpsAddress returns the address of the operations port, or "" without one.
func (i *Ingest) OpsAddress() string {
	if i.ops == nil {
		return ""
	}
	return i.ops.Addr().String()
}

// Run answers until ctx ends. Then it finishes the requests in flight, for at most
// consumer.drain_timeout. When hard ends, it stops at once. A sender whose request was cut off has
// no success, and comes again.
func (i *Ingest) Run(ctx, hard context.Context) error {
	defer i.log.Sync() //nolint:errcheck // it fails on terminals, and nothing is left to do
	var names, streams []string
	for _, stream := range i.cfg.Ingest.Streams {
		streams = append(streams, stream.Name+" ("+cmp.Or(stream.Delivery, "poll")+")")
	}
	for _, source := range i.cfg.Ingest.Sources {
		names = append(names, source.Name+" ("+source.Verify+")")
	}
	i.log.Info("starting", zap.String("version", Version), zap.String("commit", Commit),
		zap.Any("config", i.cfg.Redacted()), zap.Strings("sources", names), zap.Strings("streams", streams),
		zap.String("destination", i.cfg.To()))
	if i.web != nil {
		i.log.Info("receiving webhooks", zap.String("address", i.Address()), zap.String("reach", reach(i.web.Addr())),
			zap.Bool("tls", i.cfg.Ingest.TLSCertFile != ""))
	}
	var ops *telemetry.Server
	if i.ops != nil {
		i.log.Info("the operations port is open, without access control",
			zap.String("address", i.ops.Addr().String()), zap.String("reach", reach(i.ops.Addr())))
		ops = telemetry.Serve(i.ops, i.health, i.metrics.Registry)
	}
	var keys sync.WaitGroup
	refreshing, end := context.WithCancel(context.WithoutCancel(ctx)) // a push that is in flight needs them, too
	defer end()
	if i.tokens != nil {
		keys.Go(func() { i.tokens.Run(refreshing) })
	}
	err := i.server.Run(ctx, hard, i.web, i.cfg.Consumer.DrainTimeout)
	end()
	keys.Wait()

	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	closed := errors.Join(i.client.Close(closing), i.tracing.Close(closing))
	if ops != nil {
		closed = errors.Join(closed, ops.Close(closing))
	}
	if closed != nil {
		// Every answered event is on the queue. The end of the process closes what did not close.
		i.log.Warn("not closed cleanly", zap.Error(closed))
	}
	i.log.Info("stopped")
	return err
}
