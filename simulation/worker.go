package simulation

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/redis/go-redis/v9"

	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/coordination"
	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/dispatch"
	"github.com/session-revoker/session-revoker/emulator/bubble"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
	"github.com/session-revoker/session-revoker/sanitizer"
	"github.com/session-revoker/session-revoker/telemetry"
)

const (
	queue        = "events"
	urgentQueue  = "urgent"
	tenant       = "contoso"
	clientID     = "app"
	clientSecret = "9f2c-client-secret"
	margin       = 5 * time.Second
	settleWithin = 10 * time.Second
	drainWithin  = 25 * time.Second
	laggingFor   = 30 * time.Second
	maxAge       = 10 * time.Minute
)

// worker is one process, with everything that dies with it.
type worker struct {
	// Connections to Service Bus, to Graph, and to Redis.
	bus, web, shared *cord

	client    *azservicebus.Client
	revoker   *revoker.Revoker
	transport *http.Transport
	redis     *redis.Client // nil: shares nothing

	soft, hard context.CancelFunc
	ended      chan struct{}
}

// startWorker starts a process. f describes what goes wrong between it and Service Bus.
func (w *world) startWorker(f *faults) (*worker, error) {
	p := &worker{bus: &cord{}, web: &cord{}, shared: &cord{}, ended: make(chan struct{})}
	p.transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return p.web.keep(w.graph.Dial(ctx))
	}}
	dial := func(ctx context.Context, args azservicebus.NewWebSocketConnArgs) (net.Conn, error) {
		if w.away.Load() || p.bus.isDead() {
			return nil, errors.New("connection refused")
		}
		return p.bus.keep(bubble.DialBroker(w.broker)(ctx, args))
	}
	var err error
	p.client, err = azservicebus.NewClientFromConnectionString(bubble.ConnectionString, &azservicebus.ClientOptions{
		NewWebSocketConn: sanitizer.New(sanitizer.Options{}).Over(dial),
		RetryOptions:     azservicebus.RetryOptions{MaxRetries: 1, RetryDelay: time.Second, MaxRetryDelay: 5 * time.Second},
	})
	if err != nil {
		return nil, err
	}
	sources, err := w.sources(p.client, f)
	if err != nil {
		return nil, err
	}
	p.revoker, err = revoker.New(revoker.Config{
		Root: bubble.GraphRoot, Transport: p.transport, Timeout: 30 * time.Second,
		Credential: &bubble.Credential{
			Client: &http.Client{Transport: p.transport}, Tenant: tenant, ClientID: clientID, Secret: clientSecret,
		},
	})
	if err != nil {
		return nil, err
	}
	decoder, err := event.NewDecoder(event.Config{})
	if err != nil {
		return nil, err
	}
	var listed []string
	for _, person := range w.People {
		if person.Answer == Protected && !w.variant.Unguarded {
			listed = append(listed, person.ID, person.UserPrincipalName)
		}
	}
	protected, err := guard.NewProtected(listed)
	if err != nil {
		return nil, err
	}
	var caller consumer.Revoker = p.revoker
	var names consumer.Resolver
	if w.ReadUsers {
		caller, names = p.revoker.ByAccount(protected.Has, margin, 0)
	}
	if w.variant.Revoker != nil {
		caller = w.variant.Revoker(caller)
	}
	var coordinator dispatch.Coordinator // an interface that holds a nil pointer is not nil
	var newLimiter func(limit int) *coordination.Limiter
	if store := w.share(p); store != nil {
		coordinator = store
		newLimiter = func(limit int) *coordination.Limiter { return store.NewLimiter("app", limit) }
	}
	skew := margin
	if w.variant.NoMargin {
		skew = 0
	}
	var entities []string
	for _, s := range sources {
		entities = append(entities, s.Entity)
	}
	canary, err := w.canaryUser()
	if err != nil {
		return nil, err
	}
	horizon := time.Duration(0)
	if len(w.Reports) > 0 {
		horizon = leaversHorizon
	}
	c, err := consumer.New(consumer.Config{
		Horizon: horizon,
		Volume:  guard.VolumeConfig{Kinds: types, Max: w.Volume, Window: time.Hour}, ReadRelease: w.release, CanaryUser: canary,
		Concurrency: w.Concurrency, MaxInFlight: w.InFlight, Lock: w.Lock, SettleTimeout: settleWithin, DrainTimeout: drainWithin,
		Dedupe: dedupe.Config{Window: w.Window, SkewMargin: skew, Remember: time.Hour, MaxUsers: 10_000},
		Retry: retry.Policy{
			MaxAttempts: 8, InitialInterval: time.Second, MaxInterval: 30 * time.Second, MaxAge: maxAge, LaggingFor: laggingFor,
		},
	}, consumer.Dependencies{
		Sources: sources, Decoder: decoder, Protected: protected,
		Revoker: caller, Canary: p.revoker.Canary, Resolver: names, Coordinator: coordinator, NewLimiter: newLimiter,
		Log: w.log, Metrics: telemetry.NewMetrics("simulation", ""),
		Health: telemetry.NewHealth(consumer.MaxSilence, consumer.HealthParts(entities...)...),
	})
	if err != nil {
		return nil, err
	}
	soft, stopSoft := context.WithCancel(context.Background())
	hard, stopHard := context.WithCancel(context.Background())
	p.soft, p.hard = stopSoft, stopHard
	go func() {
		defer close(p.ended)
		c.Run(soft, hard)
	}()
	return p, nil
}

// sources are the sources that a worker receives from, the more urgent one first.
func (w *world) sources(client *azservicebus.Client, f *faults) (sources []consumer.Source, err error) {
	tamper := func(from consumer.Receiver) consumer.Receiver {
		from = &tampered{Receiver: from, ahead: w.BrokerAhead, faults: f, note: w.note}
		if w.variant.Receiver != nil {
			from = w.variant.Receiver(from)
		}
		return from
	}
	names := []string{queue}
	if w.Urgent {
		names = []string{urgentQueue, queue}
	}
	for _, name := range names {
		if name == queue && w.Sessions > 0 {
			sources = append(sources, consumer.Source{
				Entity: name, Sessions: w.Sessions,
				Accept: func(ctx context.Context) (consumer.Session, error) {
					r, err := client.AcceptNextSessionForQueue(ctx, name, nil)
					if err != nil {
						return nil, err
					}
					one := consumer.NewSession(r)
					return &tamperedSession{tamper(one), one}, nil
				},
			})
			continue
		}
		r, err := client.NewReceiverForQueue(name, nil)
		if err != nil {
			return nil, err
		}
		source := consumer.Source{Entity: name, Receiver: tamper(r)}
		if len(w.Reports) > 0 {
			sender, err := client.NewSender(name, nil)
			if err != nil {
				return nil, err
			}
			source.Scheduler = &tamperedScheduler{sender, &tampered{faults: f}}
		}
		sources = append(sources, source)
	}
	return sources, nil
}

// canaryUser is the account for which the workers make canaries.
func (w *world) canaryUser() (event.User, error) {
	if w.Canary == NoAccount {
		return event.User{}, nil
	}
	return event.NewUser(canaryAccount.ID, "")
}

// allReleased is how long after the first type of events all others are released.
const allReleased = time.Minute

// release is the operator's current release of the guard.
func (w *world) release() (guard.Release, error) {
	r := guard.Release{Until: w.start.Add(48 * time.Hour), MaxUsers: 100_000, By: "the operator", Reason: "a mass offboarding"}
	switch at := time.Since(w.start); {
	case at >= w.Released+allReleased:
	case at >= w.Released:
		r.Type = types[0]
	default:
		return guard.Release{}, nil
	}
	return r, nil
}

// kill ends the process like kill -9: from now on nothing that it does reaches anybody. Its
// goroutines end later.
func (p *worker) kill() {
	p.bus.cut(true)
	p.web.cut(true)
	p.shared.cut(true)
	p.soft()
	p.hard()
}

// close ends the process, and waits until everything of it has ended.
func (p *worker) close() {
	p.soft()
	p.hard()
	<-p.ended
	_ = p.client.Close(context.Background())
	p.revoker.Close()
	p.transport.CloseIdleConnections()
	if p.redis != nil {
		_ = p.redis.Close()
	}
}

// cord has all connections of a process, so that they can be cut at once, and for good.
type cord struct {
	mu    sync.Mutex
	conns []net.Conn
	dead  bool
}

func (c *cord) keep(conn net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	c.conns = append(c.conns, conn)
	return conn, nil
}

// isDead reports whether the process is dead: dialing for it would cost time for nothing.
func (c *cord) isDead() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dead
}

// cut closes the connections. A dead cord gets no new ones.
func (c *cord) cut(dead bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = c.dead || dead
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.conns = nil
}
