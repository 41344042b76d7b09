// Package coordination lets several workers act as one through Redis: they share whom they have
// revoked, call for one user one at a time, and use Graph's quota together.
//
// No guarantee rests on it. Without Redis each worker does what it would do alone. This may cost an
// extra call, but no call is missing.
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

// Config describes the Store's Redis and what the replicas share.
type Config struct {
	// Client is any client of the library that runs scripts. Close closes it.
	Client interface {
		redis.Scripter
		Close() error
	}
	// Scope is the cloud, the tenant and the Graph root: workers share what they know only if all
	// of these are the same.
	Scope []string
	// Timeout bounds one exchange with Redis.
	Timeout time.Duration
	// LeaseFor bounds how long one replica has a user to itself. It must be longer than an attempt
	// takes, including reads. It also bounds how long a call waits for leases of others, whatever
	// is in Redis. It must be the same for all replicas, because a lease that lasts longer than
	// ours is taken over.
	LeaseFor time.Duration
	// Remember is how long verdicts are kept.
	Remember time.Duration
	// SkewMargin is the allowed difference between the clocks of replicas. A verdict from further
	// in the future is ignored.
	SkewMargin time.Duration
	// Observe gets each Observation. It must return at once and be safe for concurrent use. Changed
	// is called when Redis goes away (err is not nil) and when it comes back.
	Observe func(Observation)
	Changed func(err error)
}

// Observation is an event worth counting.
type Observation string

// The observations.
const (
	// Granted and Taken: this replica got the lease, or another replica has it.
	Granted Observation = "granted"
	Taken   Observation = "taken"
	// LeaseLost: the lease ended before the call did, and another replica may have called for the
	// same user.
	LeaseLost Observation = "lost"
	// Away: Redis did not answer, and the call was made anyway.
	Away Observation = "away"
	// Adopted: another replica's verdict was used. It covered events, or made them wait for the end
	// of its window.
	Adopted Observation = "adopted"

	// A replica whose clock and settings are right does not cause the following ones. The value is
	// ignored and counted.

	// Future: a verdict is from the future. Stale: a verdict is older than any that is kept.
	// Implausible: a verdict covers events that were enqueued after its start. Unreadable: the
	// value is not a verdict, or has another type.
	Future      Observation = "future"
	Stale       Observation = "stale"
	Implausible Observation = "implausible"
	Unreadable  Observation = "unreadable"
	// Endless: a lease without an expiry, or with one that is further away than a lease lasts, was
	// taken over. Overdue: leases of others blocked a call for as long as one lasts, and the call
	// was made anyway.
	Endless Observation = "endless"
	Overdue Observation = "overdue"
	// Overfull: the volume guard's set held more people than can have been counted, or people
	// counted in the future. These were removed.
	Overfull Observation = "overfull"
	// BadLimiter: the shared state of the rate limiter was not plausible, and was replaced.
	BadLimiter Observation = "pacing"
)

// Observations returns all of them.
func Observations() []Observation {
	return []Observation{
		Granted, Taken, LeaseLost, Away, Adopted, Future, Stale, Implausible, Unreadable, Endless, Overdue, Overfull, BadLimiter,
	}
}

// awayFor is the pause after Redis did not answer, so that calls do not wait for it one by one.
const awayFor = time.Second

// watchEvery is the time between two questions of Watch.
const watchEvery = 10 * time.Second

// Store is what the replicas share. It is safe for concurrent use.
type Store struct {
	cfg    Config
	id     string // of this replica
	prefix string
	beyond int // maxCounted, except in tests

	mu    sync.Mutex
	asked bool
	away  bool
	until time.Time // Redis is not asked before
	// failed is when the last exchange failed.
	failed time.Time
}

// New returns a Store. It does not connect yet.
func New(cfg Config) *Store {
	return &Store{cfg: cfg, id: uuid.NewString(), prefix: "session-revoker:" + strings.Join(cfg.Scope, ":") + ":", beyond: maxCounted}
}

// Close closes the connections.
func (s *Store) Close() error { return s.cfg.Client.Close() }

// Watch asks Redis from time to time until ctx ends, so that Changed is also called while there is
// nothing to do.
func (s *Store) Watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		s.Look(ctx, "", nil) // "" is nobody
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// errAway means that nobody asked Redis, because it did not answer a moment ago.
var errAway = errors.New("redis does not answer")

// dropScript removes keys.
var dropScript = redis.NewScript(`return redis.call('DEL', unpack(KEYS))`)

// run runs a script on the keys. All keys belong to one user or one purpose, and so to one slot of
// a cluster. If a value has another type than the script expects, no replica has written it: run
// removes it, counts it and runs the script again. This says nothing about Redis itself.
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
	// An exchange ends even if the caller is being stopped.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Timeout)
	defer cancel()
	begun := time.Now()
	answer, err := script.Run(ctx, s.cfg.Client, keys, args...).Result()
	if wrongType(err) {
		s.report(begun, nil) // Redis answers, and other users' keys are fine
	} else {
		s.report(begun, err)
	}
	return answer, err
}

// wrongType reports whether Redis refuses a key's value because of its type. Before version 7 Redis
// puts the code of an error in a script into the text
// (https://redis.io/docs/latest/develop/programmability/eval-intro/).
func wrongType(err error) bool {
	var answered redis.Error
	return errors.As(err, &answered) && strings.Contains(answered.Error(), "WRONGTYPE")
}

// mayTry reports whether the caller may ask Redis now. While Redis is away, one caller at a time
// may.
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

// report notes the result of an exchange. Answers may overtake each other, so a success that began
// before the last failure says nothing new.
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

// fingerprint is a hash that replaces names of users, which must not appear in keys.
func fingerprint(user string) string {
	sum := sha256.Sum256([]byte(user))
	return hex.EncodeToString(sum[:16])
}

// userKeys returns the keys of a user's verdict and lease. The user appears as a hash in braces,
// which also selects the slot in a cluster.
func (s *Store) userKeys(user string) (verdictKey, leaseKey string) {
	name := s.prefix + "{" + fingerprint(user) + "}"
	return name + ":verdict", name + ":lease"
}
