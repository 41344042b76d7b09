package app

import (
	"context"
	"net/url"
	"os"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/coordination"
	"github.com/session-revoker/session-revoker/dedupe"
)

// newRedis makes the Redis client that the configuration asks for. It dials nothing yet.
func newRedis(cfg config.Config) (redis.UniversalClient, error) {
	r := cfg.Redis
	options := &redis.UniversalOptions{
		Addrs:         r.Addresses,
		IsClusterMode: r.Cluster,
		MasterName:    r.SentinelMaster,
		Username:      r.Username,
		Password:      r.Password,
		DialTimeout:   r.Timeout, ReadTimeout: r.Timeout, WriteTimeout: r.Timeout, PoolTimeout: r.Timeout,
		ContextTimeoutEnabled: true,
		// A retry would only delay the call to Graph. The next call asks Redis again.
		MaxRetries:      -1,
		DialerRetries:   1,
		PoolSize:        max(4, cfg.Consumer.Concurrency),
		DisableIdentity: true, // an ACL user may lack CLIENT SETINFO
	}
	if r.TLS {
		own, err := NewNetwork(cfg)
		if err != nil {
			return nil, err
		}
		options.TLSConfig = own.TLS()
	}
	redis.SetLogger(quiet{})
	return redis.NewUniversalClient(options), nil
}

// quiet keeps the library from writing to standard error. The worker logs changes of the state
// itself.
type quiet struct{}

// Printf does nothing.
func (quiet) Printf(context.Context, string, ...any) {}

// connectCoordination makes the store that replicas share. A dry run has none, because it writes
// nothing.
func (w *Worker) connectCoordination() error {
	cfg := w.cfg
	if !cfg.Redis.Used() || cfg.Consumer.DryRun {
		return nil
	}
	client, err := newRedis(cfg)
	if err != nil {
		return err
	}
	for _, o := range coordination.Observations() {
		w.metrics.Replicas.WithLabelValues(string(o))
	}
	count := func(o coordination.Observation) { w.metrics.Replicas.WithLabelValues(string(o)).Inc() }
	w.store = newStore(cfg, client, scope(cfg), count, w.redisChanged)
	return nil
}

// CheckRedis tests every operation that replicas use. It does not change their data. The error is
// the last one of Redis.
func CheckRedis(ctx context.Context, cfg config.Config) error {
	client, err := newRedis(cfg)
	if err != nil {
		return err
	}
	var last error
	ignore := func(coordination.Observation) {}
	store := newStore(cfg, client, append(scope(cfg), "doctor"), ignore, func(err error) { last = err })
	defer store.Close()
	lease, _, taken := store.Lease(ctx, "session-revoker-doctor", nil)
	if taken {
		return nil // another doctor checks at the same time
	}
	lease.End(ctx, dedupe.Verdict{})
	if _, added, _ := store.Reserve(ctx, "", "session-revoker-doctor", 1, time.Second); added {
		store.Refund(ctx, "", "session-revoker-doctor")
	}
	store.MayAsk(ctx, "session-revoker-doctor", time.Second)
	store.NewLimiter("session-revoker-doctor", 1).Try(ctx)
	return last
}

// newStore makes a store that replicas share.
func newStore(
	cfg config.Config, client redis.UniversalClient, scope []string, observe func(coordination.Observation), changed func(error),
) *coordination.Store {
	return coordination.New(coordination.Config{
		Client:     client,
		Scope:      scope,
		Timeout:    cfg.Redis.Timeout,
		LeaseFor:   leaseFor(cfg),
		Remember:   max(cfg.Dedupe.RememberFor, cfg.Dedupe.Window), // as the ledger does
		SkewMargin: cfg.Dedupe.SkewMargin,
		Observe:    observe,
		Changed:    changed,
	})
}

// leaseFor returns the duration of a lease. It is longer than an attempt takes: the read of the
// user, the call, and the reads that verify the effect, the last of which can begin when
// graph.verify_timeout has passed. It includes two exchanges with Redis, and time for a busy
// machine.
func leaseFor(cfg config.Config) time.Duration {
	attempt := cfg.Graph.Timeout
	if cfg.Graph.ReadUsers {
		attempt += cfg.Graph.Timeout
	}
	if cfg.Graph.VerifyTimeout > 0 {
		attempt += cfg.Graph.VerifyTimeout + cfg.Graph.Timeout
	}
	if cfg.Events.ResolveDevices {
		attempt = max(attempt, 2*cfg.Graph.Timeout) // a look-up makes up to two requests
	}
	return attempt + 2*cfg.Redis.Timeout + 5*time.Second
}

// scope separates workers that share one Redis: by cloud, tenant, and Graph root.
func scope(cfg config.Config) []string {
	root := cfg.Cloud().GraphRoot
	if u, err := url.Parse(root); err == nil {
		root = u.Host + u.Path
	}
	return []string{cfg.Graph.CloudName, cfg.Graph.TenantID, root}
}

func (w *Worker) redisChanged(err error) {
	if err == nil {
		w.metrics.RedisUp.Set(1)
		w.log.Info("Redis answers: replicas are coordinated")
		return
	}
	w.metrics.RedisUp.Set(0)
	w.log.Warn("Redis does not answer; the worker goes on without it: "+
		"several replicas may call Graph for the same user, and the quota is not shared", zap.Error(err))
}

// newLimiter returns what makes the rate limiter of all replicas of the application, or nil if each
// replica has its own.
func (w *Worker) newLimiter() func(limit int) *coordination.Limiter {
	if w.store == nil || !w.cfg.Redis.ShareRateLimit {
		return nil
	}
	// Graph counts by application and tenant (https://learn.microsoft.com/graph/throttling).
	app := w.cfg.Graph.ClientID
	if app == "" {
		app = os.Getenv("AZURE_CLIENT_ID")
	}
	return func(limit int) *coordination.Limiter { return w.store.NewLimiter(app, limit) }
}
