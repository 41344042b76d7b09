package simulation

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/session-revoker/session-revoker/replicas"
)

// Redis runs the workers' scripts outside of the bubble, where there are sockets: a call from within waits for real microseconds, and no virtual time
// passes. One serves scenario after scenario, but not two at once.
type Redis struct {
	server *miniredis.Miniredis
	client *redis.Client
	// Channels that were made outside may be used inside; the other way round is not allowed.
	requests chan request
	replies  chan chan *redis.Cmd
}

// request is a script's run at a time of the bubble.
type request struct {
	at    time.Time
	run   func(context.Context, *redis.Client) *redis.Cmd
	reply chan<- *redis.Cmd
}

// NewRedis starts it. Close ends it.
func NewRedis() (*Redis, error) {
	r := &Redis{server: miniredis.NewMiniRedis(), requests: make(chan request), replies: make(chan chan *redis.Cmd, 64)}
	if err := r.server.Start(); err != nil {
		return nil, err
	}
	for range cap(r.replies) {
		r.replies <- make(chan *redis.Cmd, 1)
	}
	r.client = redis.NewClient(&redis.Options{Addr: r.server.Addr(), DisableIdentity: true, MaxRetries: -1})
	go r.serve()
	return r, nil
}

func (r *Redis) serve() {
	var now time.Time
	for q := range r.requests {
		if passed := q.at.Sub(now); !now.IsZero() && passed > 0 {
			r.server.FastForward(passed) // leases and verdicts expire
		}
		now = q.at
		r.server.SetTime(now)
		q.reply <- q.run(context.Background(), r.client)
	}
}

// Close ends it; nobody may use it any more.
func (r *Redis) Close() error {
	close(r.requests)
	err := r.client.Close()
	r.server.Close()
	return err
}

// reset forgets everything, for the next scenario.
func (r *Redis) reset() { r.server.FlushAll() }

// link is one worker's way to Redis.
type link struct {
	redis.Scripter // the methods that are not used
	redis          *Redis
	away           *atomic.Bool
	dead           atomic.Bool
}

var errAway = errors.New("simulated: Redis does not answer")

func (l *link) ask(run func(context.Context, *redis.Client) *redis.Cmd) *redis.Cmd {
	if l.away.Load() || l.dead.Load() {
		failed := redis.NewCmd(context.Background())
		failed.SetErr(errAway)
		return failed
	}
	reply := <-l.redis.replies
	l.redis.requests <- request{at: time.Now(), run: run, reply: reply}
	answer := <-reply
	l.redis.replies <- reply
	return answer
}

// EvalSha runs a script that Redis knows.
func (l *link) EvalSha(_ context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	return l.ask(func(ctx context.Context, c *redis.Client) *redis.Cmd { return c.EvalSha(ctx, sha, keys, args...) })
}

// Eval runs a script.
func (l *link) Eval(_ context.Context, script string, keys []string, args ...any) *redis.Cmd {
	return l.ask(func(ctx context.Context, c *redis.Client) *redis.Cmd { return c.Eval(ctx, script, keys, args...) })
}

// Close has nothing to close.
func (*link) Close() error { return nil }

// share connects a worker to the others.
func (w *world) share(p *worker) (*replicas.Store, *replicas.Pace) {
	if !w.Redis {
		return nil, nil
	}
	p.redis = &link{redis: w.redis, away: &w.redisAway}
	store := replicas.New(replicas.Config{
		Client: p.redis, Scope: []string{"simulation"}, Timeout: time.Second, LeaseFor: 35 * time.Second, Remember: time.Hour, SkewMargin: margin,
		Observe: func(replicas.Observation) {}, Changed: func(error) {},
	})
	return store, store.NewPace("app", w.Concurrency)
}
