// Package app assembles the worker from its configuration, for cmd/worker and cmd/sandbox.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/audit/publish"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/coordination"
	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/dispatch"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/event/secevent"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
	"github.com/session-revoker/session-revoker/telemetry"
)

// Version and Commit are set by the linker.
var (
	Version = "0.1.0-unreleased"
	Commit  = "unknown"
)

// closeTimeout bounds closing the links to Service Bus and the operations port.
const closeTimeout = 5 * time.Second

// Worker is the assembled worker.
type Worker struct {
	cfg      config.Config
	log      *zap.Logger
	client   *azservicebus.Client
	sources  []consumer.Source
	revoker  *revoker.Revoker
	consumer *consumer.Consumer
	health   *telemetry.Health
	metrics  *telemetry.Metrics
	tracing  *telemetry.Tracing
	audit    *publish.Recorder
	store    *coordination.Store // nil without Redis
	tokens   *secevent.Verifier
	// protected is reloaded while the worker runs.
	protected *guard.Protected
	ops       net.Listener // nil without an operations port
}

// New assembles the worker and opens its operations port. It connects to nothing yet. The log goes
// to w. cfg must be valid. Call Run next, which releases everything.
func New(cfg config.Config, w io.Writer) (*Worker, error) {
	log, err := telemetry.NewLogger(w, cfg.Log.Level, cfg.Log.Format)
	if err != nil {
		return nil, err
	}
	protected, err := NewProtected(cfg)
	if err != nil {
		return nil, err
	}
	canaryUser, err := CanaryUser(cfg, protected)
	if err != nil {
		return nil, err
	}
	graph, err := NewGraph(cfg, GraphOptions{})
	if err != nil {
		return nil, err
	}
	client, sources, err := newSources(cfg)
	if err != nil {
		return nil, err
	}
	tracing, err := newTracing(cfg)
	if err != nil {
		return nil, err
	}
	worker := &Worker{
		tracing:   tracing,
		protected: protected,
		cfg:       cfg,
		log:       log,
		client:    client,
		sources:   sources,
		revoker:   graph,
		health:    telemetry.NewHealth(consumer.MaxSilence, consumer.HealthParts(cfg.ServiceBus.Entities()...)...),
		metrics:   telemetry.NewMetrics(Version, Commit),
	}
	if worker.tokens, err = NewVerifier(cfg, worker.reportKeys()); err != nil {
		return nil, err
	}
	decoder, err := NewDecoder(cfg, DecoderOptions{Tokens: worker.tokens})
	if err != nil {
		return nil, err
	}
	worker.audit, err = publish.NewRecorder(auditConfig(cfg), client, w, log, func(where string, n int) {
		worker.metrics.AuditFailures.WithLabelValues(where).Add(float64(n))
	})
	if err != nil {
		return nil, err
	}
	var auditor consumer.Auditor
	if worker.audit.Enabled() {
		auditor = worker.audit
	}
	if err := worker.connectCoordination(); err != nil {
		return nil, err
	}
	var coordinator dispatch.Coordinator
	if worker.store != nil {
		coordinator = worker.store
	}
	deps := consumer.Dependencies{
		Sources:     sources,
		Decoder:     decoder,
		KeysChanged: worker.tokens.Changed,
		Protected:   protected,
		Canary:      graph.Canary,
		Log:         log,
		Metrics:     worker.metrics,
		Health:      worker.health,
		Auditor:     auditor,
		Tracer:      tracing.Tracer,
		Coordinator: coordinator,
		NewLimiter:  worker.newLimiter(),
	}
	setCallers(&deps, cfg, graph, protected)
	worker.consumer, err = consumer.New(consumer.Config{
		Concurrency:   cfg.Consumer.Concurrency,
		MaxInFlight:   cfg.Consumer.MaxInFlight,
		Lock:          cfg.ServiceBus.LockDuration,
		CanaryUser:    canaryUser,
		SettleTimeout: cfg.Consumer.SettleTimeout,
		DrainTimeout:  cfg.Consumer.DrainTimeout,
		HashUsers:     cfg.Log.HashUsers,
		Horizon:       cfg.Events.Horizon,
		MaxAge:        cfg.Events.MaxAge,
		Volume: guard.VolumeConfig{
			Kinds: cfg.Events.Types, Max: cfg.Guard.MaxUsers, Window: cfg.Guard.Window, Observe: cfg.Guard.Mode == "observe",
		},
		ReadRelease: readRelease(cfg.Guard.ReleaseFile),
		Dedupe: dedupe.Config{
			Window:     cfg.Dedupe.Window,
			SkewMargin: cfg.Dedupe.SkewMargin,
			Remember:   cfg.Dedupe.RememberFor,
			MaxUsers:   cfg.Dedupe.MaxUsers,
		},
		Retry: retry.Policy{
			MaxAttempts:     cfg.Retry.MaxAttempts,
			InitialInterval: cfg.Retry.InitialInterval,
			MaxInterval:     cfg.Retry.MaxInterval,
			MaxAge:          cfg.Retry.MaxAge,
			LaggingFor:      cfg.Retry.NotFoundFor,
		},
	}, deps)
	if err != nil {
		return nil, err
	}
	if cfg.Ops.Address != "" {
		if worker.ops, err = net.Listen("tcp", cfg.Ops.Address); err != nil {
			return nil, fmt.Errorf("open the operations port: %w; set ops.address to a free address, or to \"\" for none", err)
		}
	}
	return worker, nil
}

// setCallers sets what makes the attempts, and what finds the accounts of names, devices, and mail
// addresses.
func setCallers(deps *consumer.Dependencies, cfg config.Config, graph *revoker.Revoker, protected *guard.Protected) {
	deps.Revoker = graph
	if cfg.Graph.ReadUsers {
		deps.Revoker, deps.Resolver = graph.ByAccount(protected.Has, cfg.Dedupe.SkewMargin, cfg.Graph.VerifyTimeout)
	}
	if cfg.Graph.ReadUsers || cfg.Events.ResolveDevices {
		finding := &revoker.Finding{
			Graph: graph, Next: deps.Revoker,
			Devices: cfg.Events.ResolveDevices, Mails: cfg.Graph.ReadUsers, SkewMargin: cfg.Dedupe.SkewMargin,
		}
		deps.Revoker, deps.Known = finding, finding.Known
	}
}

// NewProtected returns the users whose sessions are never revoked, and loads their file.
func NewProtected(cfg config.Config) (*guard.Protected, error) {
	protected, err := guard.NewProtected(cfg.Guard.ProtectedUsers)
	if err != nil {
		return nil, fmt.Errorf("guard.protected_users: %w", err)
	}
	if cfg.Guard.ProtectedFile == "" {
		return protected, nil
	}
	// The worker must not start without the file: it could revoke the sessions of a protected user.
	if err := protected.Load(cfg.Guard.ProtectedFile); err != nil {
		return nil, fmt.Errorf("guard.protected_file: %w", err)
	}
	return protected, nil
}

// CanaryUser returns the account for canaries, or the zero User if none is configured. The error
// says why the account cannot be used.
func CanaryUser(cfg config.Config, protected *guard.Protected) (event.User, error) {
	id, upn := cfg.Graph.CanaryUser, ""
	if strings.Contains(id, "@") {
		id, upn = "", id
	}
	if id == "" && upn == "" {
		return event.User{}, nil
	}
	user, err := event.NewUser(id, upn)
	switch {
	case err != nil:
		return event.User{}, fmt.Errorf("graph.canary_user: %w", err)
	case protected.Has(user):
		return event.User{}, errors.New("graph.canary_user: the account is a protected user, but its sessions would be " +
			"revoked at any time: " +
			"use an account that exists for this purpose")
	}
	return user, nil
}

// readRelease returns a function that reads the release file. A file that does not exist contains
// no release.
func readRelease(file string) func() (guard.Release, error) {
	if file == "" {
		return nil
	}
	return func() (guard.Release, error) {
		r, err := guard.ReadRelease(file, time.Now())
		if errors.Is(err, os.ErrNotExist) {
			return guard.Release{}, nil
		}
		return r, err
	}
}

// watchEvery is the interval at which the file of protected users is checked.
const watchEvery = 10 * time.Second

// watchProtected reloads the protected users when their file changes, until ctx ends.
func (w *Worker) watchProtected(ctx context.Context) {
	w.metrics.ProtectedEntries.Set(float64(w.protected.Len()))
	if w.cfg.Guard.ProtectedFile == "" {
		return
	}
	w.protected.Watch(ctx, w.cfg.Guard.ProtectedFile, watchEvery, func(err error) {
		if err != nil {
			w.metrics.ProtectedFileStale.Set(1)
			w.log.Error("the file of protected users is not usable; its last usable entries stay in force", zap.Error(err))
			return
		}
		w.metrics.ProtectedFileStale.Set(0)
		w.metrics.ProtectedEntries.Set(float64(w.protected.Len()))
		w.log.Info("protected users loaded again", zap.Int("entries", w.protected.Len()))
	})
}

// sendCheck bounds the question whether the worker may send to its queues.
const sendCheck = 30 * time.Second

// checkScheduling logs whether the worker may schedule events in its queues. Without this, nobody
// would notice before the first event with a later date.
func (w *Worker) checkScheduling(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sendCheck)
	defer cancel()
	for _, s := range w.sources {
		sender, ok := s.Scheduler.(*azservicebus.Sender)
		if !ok {
			continue
		}
		_, err := sender.NewMessageBatch(ctx, nil) // opens the link, and sends nothing
		if sb, ok := errors.AsType[*azservicebus.Error](err); ok && sb.Code == azservicebus.CodeUnauthorizedAccess {
			w.log.Warn("this identity may not send to the queue, so an event that takes effect later would wait deferred until it may",
				zap.String("source", s.Entity), zap.String("todo", "give it the role 'Azure Service Bus Data Sender' on the queue, "+
					"or its key Send; or set events.horizon to 0, which dead-letters such events"))
		}
	}
}

// OpsAddress returns the address of /healthz, /readyz, and /metrics, or "" if there is none.
func (w *Worker) OpsAddress() string {
	if w.ops == nil {
		return ""
	}
	return w.ops.Addr().String()
}

// reach describes who can connect to an address.
func reach(address net.Addr) string {
	tcp, ok := address.(*net.TCPAddr)
	switch {
	case ok && tcp.IP.IsLoopback():
		return "this machine or pod only"
	case ok && tcp.IP.IsUnspecified():
		return "every interface"
	}
	return "whoever can route to this address"
}

// State returns a snapshot of the work in flight. It is safe for concurrent use.
func (w *Worker) State() telemetry.State { return w.metrics.State() }

// abandonedWait is the time after the drain until the receivers close. Service Bus sends abandoned
// messages again to a receiver that is still open, which releases them, until the receiver's credit
// is used up. Messages on their way to a receiver that closes stay locked for a whole lock
// duration.
const abandonedWait = time.Second

// Run works until ctx ends, and then drains. When hard ends, it stops at once. It returns when
// everything is released: after consumer.drain_timeout, consumer.settle_timeout, and 10 s for
// closing at the latest. It abandons messages that it could not finish, which is not an error,
// because Service Bus delivers them again.
func (w *Worker) Run(ctx, hard context.Context) error {
	defer w.log.Sync() //nolint:errcheck // it fails on terminals, and nothing is left to do
	w.log.Info("starting", zap.String("version", Version), zap.String("commit", Commit),
		zap.String("ops", w.OpsAddress()), zap.Any("config", w.cfg.Redacted()))

	var ops *telemetry.Server
	if w.ops != nil {
		w.log.Info("the operations port is open, without access control",
			zap.String("address", w.OpsAddress()), zap.String("reach", reach(w.ops.Addr())))
		ops = telemetry.Serve(w.ops, w.health, w.metrics.Registry)
	}
	watching, stopWatching := context.WithCancel(hard)
	var watch sync.WaitGroup
	watch.Go(func() { w.watchProtected(watching) })
	watch.Go(func() { w.tokens.Run(watching) })
	if w.store != nil {
		watch.Go(func() { w.store.Watch(watching) })
	}
	watch.Go(func() { w.checkScheduling(watching) })
	unfinished := 0
	if w.cfg.Consumer.DryRun {
		w.log.Warn("dry run: nothing is locked, called or settled")
		w.consumer.DryRun(ctx)
	} else {
		if unfinished = w.consumer.Run(ctx, hard); unfinished > 0 {
			time.Sleep(abandonedWait)
		}
	}
	stopWatching()
	watch.Wait()
	w.audit.Close(closeTimeout)

	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	err := w.client.Close(closing) // closes the receivers, too
	w.revoker.Close()
	if w.store != nil {
		err = errors.Join(err, w.store.Close())
	}
	err = errors.Join(err, w.tracing.Close(closing))
	if ops != nil {
		err = errors.Join(err, ops.Close(closing))
	}
	if err != nil {
		// Everything is settled. The end of the process closes what did not close in time.
		w.log.Warn("not closed cleanly", zap.Error(err))
	}
	w.log.Info("stopped", zap.Int("unfinished", unfinished))
	return nil
}
