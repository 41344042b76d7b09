package simulation

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/session-revoker/session-revoker/coordination"
)

const redisTimeout = time.Second

// openRedis starts an imitation of Redis in memory, whose keys expire in virtual time.
func (w *world) openRedis() error {
	if !w.Redis {
		return nil
	}
	w.redis = miniredis.NewMiniRedis()
	w.redis.ClockTTL(true)
	return KeepInterpreter(w.redis)
}

func init() { //nolint:gochecknoinits // for the library's own variables there is no other place
	logging.Disable() // that Redis is away is expected here
}

// dialRedis connects a worker to Redis, unless a fault prevents it.
func (w *world) dialRedis(p *worker) (net.Conn, error) {
	switch {
	case w.redisAway.Load():
		return nil, errors.New("connection refused")
	case w.redisHangs.Load():
		ours, _ := net.Pipe() // nobody reads at the other end
		return p.shared.keep(ours, nil)
	}
	return p.shared.keep(w.redis.Dial())
}

// share connects a worker to the others. It returns nil if they share nothing.
func (w *world) share(p *worker) *coordination.Store {
	if !w.Redis {
		return nil
	}
	p.redis = RedisClient(func() (net.Conn, error) { return w.dialRedis(p) }, redisTimeout)
	leaseFor := 37 * time.Second // longer than an attempt, whose limit is 30 s
	if w.ReadUsers {
		leaseFor += 30 * time.Second
	}
	return coordination.New(coordination.Config{
		Client: p.redis, Scope: []string{"simulation"}, Timeout: redisTimeout, LeaseFor: leaseFor, Remember: time.Hour, SkewMargin: margin,
		Observe: func(coordination.Observation) {}, Changed: func(error) {},
	})
}

// RedisClient returns a client of an imitated Redis, which dial connects to it. Each step takes timeout
// at most. The client may be used in a bubble of virtual time. Close must follow.
func RedisClient(dial func() (net.Conn, error), timeout time.Duration) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr:        "127.0.0.1:6379", // a name would be looked up
		Dialer:      func(context.Context, string, string) (net.Conn, error) { return dial() },
		DialTimeout: timeout, ReadTimeout: timeout, WriteTimeout: timeout, PoolTimeout: timeout,
		ContextTimeoutEnabled: true, MaxRetries: -1, DialerRetries: 1, DisableIdentity: true,
		PoolSize: 1000, // nobody waits for a connection: the library's timers for that are shared by all clients, which a bubble forbids
	})
}

// writeForeign writes what other programs may write to the keys that the workers share about users:
// leases without an expiry, verdicts from another time, and values of other types.
func (w *world) writeForeign(r *rand.Rand) error {
	if w.redis == nil {
		return nil
	}
	for _, p := range w.People {
		for _, name := range []string{p.ID, p.UserPrincipalName} {
			sum := sha256.Sum256([]byte(strings.ToLower(name)))
			key := "session-revoker:simulation:{" + hex.EncodeToString(sum[:16]) + "}"
			if r.IntN(2) == 0 {
				if err := w.redis.Set(key+":lease", "somebody"); err != nil { // forever
					return err
				}
			}
			start := pick(r, "-11644473600000000", "253402300799000000", fmt.Sprint(time.Now().UnixMicro()), "soon", "")
			switch r.IntN(4) {
			case 0:
				w.redis.Del(key + ":verdict")
				covers := pick(r, "253402300799000000", "1e400", "")
				w.redis.HSet(key+":verdict", "start", start, "covers", covers, "entity", queue, "sequence", "1")
			case 1:
				w.redis.Del(key + ":verdict")
				if err := w.redis.Set(key+":verdict", "a text"); err != nil {
					return err
				}
			}
		}
	}
	if r.IntN(2) == 0 {
		return w.redis.Set("session-revoker:simulation:limiter:app", pick(r, "{}", "null", `{"Hold":"9999-12-31T23:59:59Z","Allowance":1}`))
	}
	return nil
}
