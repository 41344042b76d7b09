package coordination

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// maxCounted is how many people the set may hold beyond the allowed number, as it does after a
	// release for more people has ended. A larger set is not believed. With 100 bytes for each
	// person it needs 100 MB of Redis.
	maxCounted = 1_000_000
	// countSlack is how far in the future a person may be counted: Redis' clock can be set back,
	// and a replica of Redis that takes over has its own clock.
	countSlack = time.Minute
)

// The guard's count is a sorted set for each event type. It holds people, as hashes, with the time
// when they were first counted, in Unix milliseconds of Redis' clock.
var (
	// reserveScript counts a user among the people whom any replica has signed out within the
	// guard's window, unless that would exceed the allowed number. ARGV: the user, the allowed
	// number, the window (ms), the slack for times in the future (ms), how many people beyond the
	// allowed number are believed.
	reserveScript = redis.NewScript(`
		local t = redis.call('TIME')
		local now = t[1] * 1000 + math.floor(t[2] / 1000)
		local most, foreign = tonumber(ARGV[2]), 0
		if redis.call('ZCARD', KEYS[1]) > most + ARGV[5] then foreign = redis.call('DEL', KEYS[1]) end
		redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[3])
		foreign = foreign + redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. (now + ARGV[4]), '+inf')
		local total = redis.call('ZCARD', KEYS[1])
		local may, added = 1, 0
		if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
			if total < most then
				total = total + redis.call('ZADD', KEYS[1], now, ARGV[1])
				added = 1
			else
				may = 0
			end
		end
		redis.call('PEXPIRE', KEYS[1], ARGV[3])
		return {may, added, total, foreign}`)

	refundScript = redis.NewScript(`return redis.call('ZREM', KEYS[1], ARGV[1])`)
)

// Reserve counts a user, before the call, among the people whom all replicas together sign out for
// events of a kind within the guard's window. may reports whether the user may be called: at most
// most distinct people may, or any number if most is 0. added reports whether the user was not
// counted before; then Refund takes the count back if the call signs nobody out. total is the
// number of people counted, including this user.
//
// If Redis does not answer, the user may be called and total is 0. Each replica still counts for
// itself. Whatever others write to the set, it can only make Reserve refuse until the window has
// passed, and the set can only grow to most + maxCounted people. Beyond that the count starts
// again. Each user needs about 100 bytes of Redis.
func (s *Store) Reserve(ctx context.Context, kind, user string, most int, window time.Duration) (may, added bool, total int) {
	if most <= 0 {
		most = maxCounted
	}
	answer, err := s.run(ctx, reserveScript, []string{s.guardKey(kind)},
		fingerprint(user), most, window.Milliseconds(), countSlack.Milliseconds(), s.beyond)
	if err != nil {
		s.cfg.Observe(Away)
		return true, false, 0
	}
	fields, _ := answer.([]any)
	if len(fields) != 4 {
		return true, false, 0
	}
	n, _ := fields[2].(int64)
	if fields[3] != int64(0) {
		s.cfg.Observe(Overfull)
	}
	return fields[0] != int64(0), fields[1] == int64(1), int(n)
}

// Refund takes back a Reserve that has added the user, if the answer shows that nobody was signed
// out. If Redis does not answer, the user stays counted.
func (s *Store) Refund(ctx context.Context, kind, user string) {
	if _, err := s.run(ctx, refundScript, []string{s.guardKey(kind)}, fingerprint(user)); err != nil {
		s.cfg.Observe(Away)
	}
}

// guardKey returns the key of the people who are signed out for events of a kind. The kind is
// hashed, because types come from the configuration and may contain anything.
func (s *Store) guardKey(kind string) string { return s.prefix + "guard:{" + fingerprint(kind) + "}" }
