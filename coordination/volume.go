package coordination

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// maxCounted is by how many people the set of those who are counted may exceed how many may be: after a release for more has ended it does. A larger
	// one is nobody's count. At 100 bytes for each it takes 100 MB of Redis.
	maxCounted = 1_000_000
	// countSlack is how far in the future somebody may be counted: Redis' clock can be set back, and a replica of Redis that takes over has its own.
	countSlack = time.Minute
)

// The guard's count is a sorted set for each event type: people (as hashes) by when they were counted first, in Unix milliseconds of Redis' clock.
var (
	// reserveScript counts a user among those whom any replica has signed out within the window, unless that would be more than may be.
	// ARGV: the user, how many may be, the window (ms), the slack for times in the future (ms), how many may be beyond those who may be.
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

// Reserve counts a user, before the call, among the people whom all replicas together sign out for events of a kind within the window, and says whether
// the user may be called: most distinct people may be, 0 for any number. added says that the user was not counted before; then Refund takes it back
// if the call signs nobody out. total is how many are counted, this user included.
//
// When Redis does not answer the user may be called, and the total is 0: each replica still counts for itself. What somebody else has put there can only
// make it say no, until the window has passed, and up to most + maxCounted people; above that the count begins anew. It costs Redis about 100 bytes
// for each user.
func (s *Store) Reserve(ctx context.Context, kind, user string, most int, window time.Duration) (may, added bool, total int) {
	if most <= 0 {
		most = maxCounted
	}
	answer, err := s.run(ctx, reserveScript, []string{s.guardKey(kind)}, fingerprint(user), most, window.Milliseconds(), countSlack.Milliseconds(), s.beyond)
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

// Refund takes back a Reserve that has added the user, when the answer shows that nobody was signed out. If Redis does not answer the user stays counted.
func (s *Store) Refund(ctx context.Context, kind, user string) {
	if _, err := s.run(ctx, refundScript, []string{s.guardKey(kind)}, fingerprint(user)); err != nil {
		s.cfg.Observe(Away)
	}
}

// guardKey is where the people are counted who are signed out for events of a kind. Types come from the configuration, and may hold anything.
func (s *Store) guardKey(kind string) string { return s.prefix + "guard:{" + fingerprint(kind) + "}" }
