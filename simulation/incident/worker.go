package incident

import (
	"context"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/redis/go-redis/v9"

	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/coordination"
	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/emulator/bubble"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
	"github.com/session-revoker/session-revoker/sanitizer"
	"github.com/session-revoker/session-revoker/servicebus"
	"github.com/session-revoker/session-revoker/simulation"
	"github.com/session-revoker/session-revoker/telemetry"
)

const (
	tenant       = "contoso"
	clientID     = "app"
	clientSecret = "9f2c-client-secret"
	// skewMargin is the default of dedupe.skew_margin, and remember that of dedupe.remember_for.
	skewMargin, remember = 5 * time.Second, time.Hour
	// busLatency is how long a request to Service Bus takes.
	busLatency = 10 * time.Millisecond
)

// types are the defaults of events.types, the most urgent first.
var types = []string{"device.stolen", "device.lost", "user.compromised", "user.offboarded"}

// worker is one replica.
type worker struct {
	client    *azservicebus.Client
	revoker   *revoker.Revoker
	transport *http.Transport
	redis     *redis.Client // nil: shares nothing

	soft, hard context.CancelFunc
	ended      chan struct{}
}

// client returns a client of the broker, as the worker makes it.
func (w *world) client() (*azservicebus.Client, error) {
	return azservicebus.NewClientFromConnectionString(bubble.ConnectionString, &azservicebus.ClientOptions{
		NewWebSocketConn: sanitizer.New(sanitizer.Options{}).Over(bubble.DialBroker(w.broker)),
		RetryOptions:     azservicebus.RetryOptions{MaxRetries: 1, RetryDelay: time.Second, MaxRetryDelay: 5 * time.Second},
	})
}

// startWorker starts a replica with the program's defaults, except that the volume guard is off: a
// hundred thousand people are expected here.
func (w *world) startWorker() (*worker, error) {
	p := &worker{ended: make(chan struct{}), transport: w.graph.Transport()}
	var err error
	if p.client, err = w.client(); err != nil {
		return nil, err
	}
	var sources []consumer.Source
	for _, name := range []string{urgentQueue, queue} {
		receiver, err := servicebus.NewReceiver(p.client, name, false)
		if err != nil {
			return nil, err
		}
		sender, err := p.client.NewSender(name, nil)
		if err != nil {
			return nil, err
		}
		sources = append(sources, consumer.Source{Entity: name, Receiver: &counted{receiver, &w.ops}, Scheduler: sender})
	}
	latency := func() time.Duration { return w.between(w.Fastest, w.Slowest) }
	p.revoker, err = revoker.New(revoker.Config{
		Root: bubble.GraphRoot, Transport: &distant{p.transport, latency}, Timeout: 30 * time.Second,
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
	protected, err := guard.NewProtected(nil)
	if err != nil {
		return nil, err
	}
	dependencies := consumer.Dependencies{
		Sources: sources, Decoder: decoder, Protected: protected, Revoker: p.revoker, Canary: p.revoker.Canary,
		Log: w.Log, Metrics: telemetry.NewMetrics("incident", ""),
		Health: telemetry.NewHealth(consumer.MaxSilence, consumer.HealthParts(urgentQueue, queue)...),
	}
	w.share(p, &dependencies)
	c, err := consumer.New(consumer.Config{
		Concurrency: 16, MaxInFlight: 256, Lock: time.Minute, SettleTimeout: 10 * time.Second, DrainTimeout: 25 * time.Second,
		Horizon: 8760 * time.Hour,
		Volume:  guard.VolumeConfig{Kinds: types, Max: 0, Window: time.Hour},
		Dedupe:  dedupe.Config{Window: time.Minute, SkewMargin: skewMargin, Remember: remember, MaxUsers: 100_000},
		Retry: retry.Policy{
			MaxAttempts: 8, InitialInterval: time.Second, MaxInterval: time.Minute, MaxAge: time.Hour, LaggingFor: time.Minute,
		},
	}, dependencies)
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

// share connects a worker to the others, if there is a Redis.
func (w *world) share(p *worker, d *consumer.Dependencies) {
	if w.redis == nil {
		return
	}
	p.redis = simulation.RedisClient(w.dialRedis, redisTimeout)
	store := coordination.New(coordination.Config{
		Client: p.redis, Scope: []string{"incident"}, Timeout: redisTimeout, LeaseFor: 37 * time.Second, Remember: remember,
		SkewMargin: skewMargin, Observe: func(coordination.Observation) {}, Changed: func(error) {},
	})
	d.Coordinator = store
	d.NewLimiter = func(limit int) *coordination.Limiter { return store.NewLimiter(clientID, limit) }
}

// close ends the worker, and waits until everything of it has ended.
func (p *worker) close() {
	p.soft()
	<-p.ended
	p.hard()
	_ = p.client.Close(context.Background())
	p.revoker.Close()
	p.transport.CloseIdleConnections()
	if p.redis != nil {
		_ = p.redis.Close()
	}
}

// distant is a transport to a server that is far away: a request takes some time, half of it before
// the server sees it.
type distant struct {
	http.RoundTripper
	latency func() time.Duration
}

// RoundTrip sends the request after half of the time, and returns the answer after the other half.
func (d *distant) RoundTrip(r *http.Request) (*http.Response, error) {
	half := d.latency() / 2
	if err := retry.Sleep(r.Context(), half); err != nil {
		return nil, err
	}
	answer, err := d.RoundTripper.RoundTrip(r)
	time.Sleep(half)
	return answer, err
}
