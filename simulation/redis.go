package simulation

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	lua "github.com/yuin/gopher-lua"

	"github.com/session-revoker/session-revoker/replicas"
)

const redisTimeout = time.Second

// openRedis makes an imitation of Redis in memory, whose keys expire in virtual time.
func (w *world) openRedis() {
	if w.Redis {
		w.redis = miniredis.NewMiniRedis()
		w.redis.ClockTTL(true)
	}
}

func init() { //nolint:gochecknoinits // for the library's own variables there is no other place
	lua.RegistrySize, lua.CallStackSize = 512, 32 // each run of a script makes an interpreter; ours are small
	logging.Disable()                             // that Redis is away is no news here
}

// dialRedis connects a worker to Redis, or does not.
func (w *world) dialRedis(p *worker) (net.Conn, error) {
	switch {
	case w.redisAway.Load():
		return nil, errors.New("connection refused")
	case w.redisHangs.Load():
		ours, _ := net.Pipe() // nobody reads at the other end
		return p.shared.hold(ours, nil)
	}
	return p.shared.hold(w.redis.Dial())
}

// share connects a worker to the others.
func (w *world) share(p *worker) (*replicas.Store, *replicas.Pace) {
	if !w.Redis {
		return nil, nil
	}
	p.redis = redis.NewClient(&redis.Options{
		Addr:        "127.0.0.1:6379", // a name would be looked up
		Dialer:      func(context.Context, string, string) (net.Conn, error) { return w.dialRedis(p) },
		DialTimeout: redisTimeout, ReadTimeout: redisTimeout, WriteTimeout: redisTimeout, PoolTimeout: redisTimeout, ContextTimeoutEnabled: true,
		MaxRetries: -1, DialerRetries: 1, DisableIdentity: true,
		PoolSize: 1000, // nobody waits for a connection: the library's timers for that are shared by all clients, which a bubble forbids
	})
	store := replicas.New(replicas.Config{
		Client: p.redis, Scope: []string{"simulation"}, Timeout: redisTimeout, LeaseFor: 35 * time.Second, Remember: time.Hour, SkewMargin: margin,
		Observe: func(replicas.Observation) {}, Changed: func(error) {},
	})
	return store, store.NewPace("app", w.Concurrency)
}
