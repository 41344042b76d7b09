package replicas

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
)

// countScript counts a user among those whom any replica has called within the window, unless that would be more than may be.
// ARGV: the user, how many may be (0 counts whatever there are), the window (ms).
var countScript = redis.NewScript(`
	local t = redis.call('TIME')
	local now = t[1] * 1000 + math.floor(t[2] / 1000)
	redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[3])
	local total = redis.call('ZCARD', KEYS[1])
	if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return {1, total} end
	local most = tonumber(ARGV[2])
	if most > 0 and total >= most then return {0, total} end
	redis.call('ZADD', KEYS[1], now, ARGV[1])
	redis.call('PEXPIRE', KEYS[1], ARGV[3])
	return {1, total + 1}`)

// Count says whether the user may be called although all replicas together may call no more than most distinct users within the window; 0 is no
// bound. total is how many they have called, this one included if he may be. When Redis does not answer he may, and the total is 0: each
// replica still counts for itself. It costs Redis about 100 bytes for each user.
func (s *Store) Count(ctx context.Context, user string, most int, window time.Duration) (may bool, total int) {
	answer, err := s.run(ctx, countScript, []string{s.prefix + "guard"}, fingerprint(user), most, window.Milliseconds())
	if err != nil {
		s.cfg.Observe(Away)
		return true, 0
	}
	fields, _ := answer.([]any)
	if len(fields) != 2 {
		return true, 0
	}
	n, _ := fields[1].(int64)
	return fields[0] != int64(0), int(n)
}
