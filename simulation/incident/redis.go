package incident

import (
	"context"
	"net"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/simulation"
)

const (
	redisTimeout = 250 * time.Millisecond
	// redisFastest and redisSlowest bound how long a request to Redis takes.
	redisFastest, redisSlowest = 300 * time.Microsecond, 1500 * time.Microsecond
	// expireEvery is how exactly keys expire. Leases last longer, and are given back.
	expireEvery = 5 * time.Second
)

// openRedis starts an imitation of Redis in memory, if the workers share one.
func (w *world) openRedis() error {
	if !w.Redis {
		return nil
	}
	w.redis = miniredis.NewMiniRedis()
	return simulation.KeepInterpreter(w.redis)
}

// expire lets keys expire. The imitation would otherwise look at all keys in each command.
func (w *world) expire(ctx context.Context) {
	for w.redis != nil && retry.Sleep(ctx, expireEvery) == nil {
		w.redis.FastForward(expireEvery)
	}
}

// dialRedis connects to the imitation. Each request takes some time, as in a network. Otherwise all
// replicas would ask at the same instant, and always the same one would come first.
func (w *world) dialRedis() (net.Conn, error) {
	conn, err := w.redis.Dial()
	return &distantConn{conn, func() time.Duration { return w.between(redisFastest, redisSlowest) }}, err
}

// distantConn is a connection on which what is written arrives later.
type distantConn struct {
	net.Conn
	latency func() time.Duration
}

// Write writes after the latency.
func (c *distantConn) Write(b []byte) (int, error) {
	time.Sleep(c.latency())
	return c.Conn.Write(b)
}
