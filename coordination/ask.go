package coordination

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
)

// askScript lets the first caller do something, and then nobody until the key expires. It takes
// over a key without an expiry, or with one that is further away than ours. ARGV: the caller, the
// time until the next caller may (ms). It returns 0 for no, 1 for yes, and 2 for yes because it has
// taken a key over.
var askScript = redis.NewScript(`
	local left = redis.call('PTTL', KEYS[1])
	local may = 0
	if left == -2 then may = 1 elseif left == -1 or left > tonumber(ARGV[2]) then may = 2 end
	if may > 0 then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
	return may`)

// MayAsk reports whether this replica may do something that all replicas together do at most once
// within every. what names it. every is at least a millisecond. If Redis does not answer, ok is
// false, and the caller follows a rule of its own.
func (s *Store) MayAsk(ctx context.Context, what string, every time.Duration) (may, ok bool) {
	answer, err := s.run(ctx, askScript, []string{s.prefix + "ask:{" + fingerprint(what) + "}"}, s.id, max(1, every.Milliseconds()))
	if err != nil {
		s.cfg.Observe(Away)
		return false, false
	}
	if answer == int64(2) {
		s.cfg.Observe(Endless)
	}
	return answer != int64(0), true
}
