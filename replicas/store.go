// Package replicas lets several workers act as one through Redis: they tell each other whom they have revoked, call for one user one
// at a time, and use Graph's quota together.
//
// All of it is a help and nothing a promise rests on: without Redis each worker does what it would do alone. A call more is then
// the cost, never a call less.
package replicas

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
)

// Config says where the Store is, and for whom.
type Config struct {
	// Client is any client of the library, which runs scripts; Close closes it.
	Client interface {
		redis.Scripter
		Close() error
	}
	// Scope is the cloud, the tenant and the Graph root: workers share what they know only when all of them are the same.
	Scope []string
	// Timeout bounds one exchange with Redis.
	Timeout time.Duration
	// LeaseFor is how long a user is left to one replica at most: longer than a call takes.
	LeaseFor time.Duration
	// Remember is for how long verdicts are kept.
	Remember time.Duration
	// SkewMargin is how much the clocks of replicas may differ: a verdict from further in the future is ignored.
	SkewMargin time.Duration
	// Observe is told what happened; it must return at once and be safe for concurrent use. Changed is told when Redis goes away (err is not
	// nil) and when it comes back.
	Observe func(Observation)
	Changed func(err error)
}

// Observation is something that is worth counting.
type Observation string

// The observations.
const (
	// Granted and Taken: the lease is ours, or another replica's.
	Granted Observation = "granted"
	Taken   Observation = "taken"
	// Lost: the lease ended before the call did; another replica may have called for the same user.
	Lost Observation = "lost"
	// Away: Redis did not answer; the call was made all the same.
	Away Observation = "away"
	// Future: a verdict was ignored that lies in the future, and Unreadable one that is not one.
	Future     Observation = "future"
	Unreadable Observation = "unreadable"
)

// Observations are all of them.
func Observations() []Observation {
	return []Observation{Granted, Taken, Lost, Away, Future, Unreadable}
}

// awayFor is how long Redis is not asked after it did not answer: calls must not wait for it one by one.
const awayFor = time.Second

// watchEvery is how often Watch asks.
const watchEvery = 10 * time.Second

// Store is what the replicas share. It is safe for concurrent use.
type Store struct {
	cfg    Config
	id     string // of this replica
	prefix string

	mu    sync.Mutex
	asked bool
	away  bool
	until time.Time // Redis is not asked before
	// failed is when the last exchange failed.
	failed time.Time
}

// New returns a Store; it dials nothing yet.
func New(cfg Config) *Store {
	return &Store{cfg: cfg, id: uuid.NewString(), prefix: "session-revoker:" + strings.Join(cfg.Scope, ":") + ":"}
}

// Close closes the connections.
func (s *Store) Close() error { return s.cfg.Client.Close() }

// Watch asks now and then whether Redis answers, until ctx ends, so that Changed is told also while there is nothing to do.
func (s *Store) Watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		s.Look(ctx, "") // nobody
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// errAway says that Redis was not asked, since it did not answer a moment ago.
var errAway = errors.New("redis does not answer")

// run runs a script on the keys, which are one user's or one purpose's and so in one slot of a cluster.
func (s *Store) run(ctx context.Context, script *redis.Script, keys []string, args ...any) (any, error) {
	if !s.mayAsk() {
		return nil, errAway
	}
	// What was begun is ended even when the caller is being stopped.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Timeout)
	defer cancel()
	begun := time.Now()
	answer, err := script.Run(ctx, s.cfg.Client, keys, args...).Result()
	s.report(begun, err)
	return answer, err
}

// mayAsk says whether Redis is to be asked now. While it is away one caller at a time tries.
func (s *Store) mayAsk() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Before(s.until) {
		return false
	}
	if s.away {
		s.until = now.Add(awayFor)
	}
	return true
}

// report notes how an exchange ended. Answers overtake each other: one that began before the last failure says nothing new.
func (s *Store) report(begun time.Time, err error) {
	now := time.Now()
	s.mu.Lock()
	if err == nil && begun.Before(s.failed) {
		s.mu.Unlock()
		return
	}
	changed := !s.asked || s.away != (err != nil)
	s.asked, s.away, s.until = true, err != nil, time.Time{}
	if err != nil {
		s.failed, s.until = now, now.Add(awayFor)
	}
	s.mu.Unlock()
	if changed {
		s.cfg.Changed(err)
	}
}

// fingerprint stands for a user where names must not stand.
func fingerprint(user string) string {
	sum := sha256.Sum256([]byte(user))
	return hex.EncodeToString(sum[:16])
}

// userKeys are the names of what is shared about a user. The user stands there as a hash, which is also the part that decides the slot in a
// cluster.
func (s *Store) userKeys(user string) (verdict, lease string) {
	name := s.prefix + "{" + fingerprint(user) + "}"
	return name + ":verdict", name + ":lease"
}
