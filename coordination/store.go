// Package replicas lets several workers act as one through Redis: they tell each other whom they have revoked, call for one user one
// at a time, and use Graph's quota together.
//
// All of it is a help and nothing a promise rests on: without Redis each worker does what it would do alone. A call more is then
// the cost, never a call less.
package coordination

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
	// LeaseFor is how long a user is left to one replica at most: longer than an attempt takes, reads included. It is also how long a call waits for
	// leases of others, whatever lies in Redis. All replicas must have the same: a lease that lasts longer than ours is taken over.
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
	// Adopted: another replica's verdict was used: it covered events, or made them wait for the end of its window.
	Adopted Observation = "adopted"

	// What follows cannot come from a replica whose clock and settings are right. It is ignored, and counted here.

	// Future: a verdict lies in the future. Stale: it is older than any that is kept. Implausible: it covers events that were enqueued after its
	// start. Unreadable: what lies there is no verdict, or a value of another type.
	Future      Observation = "future"
	Stale       Observation = "stale"
	Implausible Observation = "implausible"
	Unreadable  Observation = "unreadable"
	// Endless: a lease without an end, or with one that is further away than a lease lasts, was taken over. Overdue: leases of others were in the way for
	// as long as one lasts; the call was made all the same.
	Endless Observation = "endless"
	Overdue Observation = "overdue"
	// Overfull: the people counted for the guard were more than can have been counted, or were counted in the future; those were removed.
	Overfull Observation = "overfull"
	// Pacing: the shared state of the rate limiter made no sense, and was replaced.
	Pacing Observation = "pacing"
)

// Observations are all of them.
func Observations() []Observation {
	return []Observation{Granted, Taken, Lost, Away, Adopted, Future, Stale, Implausible, Unreadable, Endless, Overdue, Overfull, Pacing}
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
	beyond int // maxCounted, but for tests

	mu    sync.Mutex
	asked bool
	away  bool
	until time.Time // Redis is not asked before
	// failed is when the last exchange failed.
	failed time.Time
}

// New returns a Store; it dials nothing yet.
func New(cfg Config) *Store {
	return &Store{cfg: cfg, id: uuid.NewString(), prefix: "session-revoker:" + strings.Join(cfg.Scope, ":") + ":", beyond: maxCounted}
}

// Close closes the connections.
func (s *Store) Close() error { return s.cfg.Client.Close() }

// Watch asks now and then whether Redis answers, until ctx ends, so that Changed is told also while there is nothing to do.
func (s *Store) Watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		s.Look(ctx, "", nil) // nobody
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// errAway says that Redis was not asked, since it did not answer a moment ago.
var errAway = errors.New("redis does not answer")

// dropScript removes keys.
var dropScript = redis.NewScript(`return redis.call('DEL', unpack(KEYS))`)

// run runs a script on the keys, which are one user's or one purpose's and so in one slot of a cluster. A value of another type than the script expects is
// somebody else's: it is removed and counted, and says nothing about Redis.
func (s *Store) run(ctx context.Context, script *redis.Script, keys []string, args ...any) (any, error) {
	answer, err := s.ask(ctx, script, keys, args...)
	if !wrongType(err) {
		return answer, err
	}
	s.cfg.Observe(Unreadable)
	if _, err := s.ask(ctx, dropScript, keys); err != nil {
		return nil, err
	}
	return s.ask(ctx, script, keys, args...)
}

// ask makes one exchange.
func (s *Store) ask(ctx context.Context, script *redis.Script, keys []string, args ...any) (any, error) {
	if !s.mayTry() {
		return nil, errAway
	}
	// What was begun is ended even when the caller is being stopped.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Timeout)
	defer cancel()
	begun := time.Now()
	answer, err := script.Run(ctx, s.cfg.Client, keys, args...).Result()
	if wrongType(err) {
		s.report(begun, nil) // Redis answers, and other users' keys are well
	} else {
		s.report(begun, err)
	}
	return answer, err
}

// wrongType says that Redis refuses a key's value. Before version 7 it puts the code of an error in a script into the text
// (https://redis.io/docs/latest/develop/programmability/eval-intro/).
func wrongType(err error) bool {
	var answered redis.Error
	return errors.As(err, &answered) && strings.Contains(answered.Error(), "WRONGTYPE")
}

// mayTry says whether Redis is to be asked now. While it is away one caller at a time tries.
func (s *Store) mayTry() bool {
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
