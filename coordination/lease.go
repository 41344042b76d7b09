package coordination

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/session-revoker/session-revoker/dedupe"
)

// A verdict is a hash. Its times are Unix microseconds, which Lua's numbers hold exactly. Each
// field is merged on its own, to the latest value, so that an older write never overwrites a newer
// success, in whatever order writes arrive. A lease is a string: the token of the replica that has
// it.
var (
	// takeScript reads the verdict, and takes the lease if it is free. It takes over a lease
	// without an expiry, or with one that is further away than a lease lasts. It does not return
	// fields that are longer than any of ours; an entity's path has 260 characters at most
	// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-quotas). ARGV: the
	// lease's token ('' only looks), the lease's duration (ms). The first value is 0 if another
	// replica has the lease, 1 if it was free, 2 if it was taken over.
	takeScript = redis.NewScript(`
		local known = redis.call('HMGET', KEYS[1], 'start', 'covers', 'entity', 'sequence')
		for i = 1, 4 do
			known[i] = known[i] or ''
			if #known[i] > 1024 then known = {'too long', '', '', ''} end
		end
		local left = redis.call('PTTL', KEYS[2])
		local free = 0
		if left == -2 then free = 1 elseif left == -1 or left > tonumber(ARGV[2]) then free = 2 end
		if free > 0 and ARGV[1] ~= '' then redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2]) end
		return {free, known[1], known[2], known[3], known[4]}`)

	// endScript gives the lease back, and merges the verdict. It replaces a value that cannot be a
	// verdict. It forgets covers that are too old, because later failures may keep the hash for
	// longer. ARGV: the lease's token; the verdict: start ('' for none), covers, entity, sequence;
	// the latest start that is not in the future, and the oldest that is believed; how long to keep
	// the verdict (ms). It returns 1 if the lease was still ours.
	endScript = redis.NewScript(`
		local known = redis.call('HMGET', KEYS[1], 'start', 'covers')
		local ours = 0
		if redis.call('GET', KEYS[2]) == ARGV[1] then
			redis.call('DEL', KEYS[2])
			ours = 1
		end
		if ARGV[2] == '' then return ours end
		local latest, oldest = tonumber(ARGV[6]), tonumber(ARGV[7])
		local start, covers = tonumber(known[1] or ''), 0
		if known[2] and known[2] ~= '' then covers = tonumber(known[2]) end
		if not (start and covers and start >= oldest and start <= latest and covers >= 0 and covers <= start) then
			redis.call('DEL', KEYS[1])
			start, covers = 0, 0
		end
		if tonumber(ARGV[2]) > start then redis.call('HSET', KEYS[1], 'start', ARGV[2]) end
		if tonumber(ARGV[3]) > covers then
			redis.call('HSET', KEYS[1], 'covers', ARGV[3], 'entity', ARGV[4], 'sequence', ARGV[5])
		elseif covers > 0 and covers < oldest then
			redis.call('HSET', KEYS[1], 'covers', '')
		end
		redis.call('PEXPIRE', KEYS[1], ARGV[8])
		return ours`)
)

// Lease is the right to be the one replica that calls for a user.
type Lease struct {
	store *Store
	user  string
	token string // "" if Redis was away: then other replicas may have the same right
}

// Wait measures how long one user's next call has waited for leases of other replicas. The zero
// Wait has not waited yet, and a granted lease resets it. A nil Wait is never over. It is not safe
// for concurrent use.
type Wait struct{ until time.Time }

// Left returns how much longer leases of others may block the call. It is very long if no lease has
// blocked the call yet.
func (w *Wait) Left() time.Duration {
	if w.until.IsZero() {
		return math.MaxInt64
	}
	return time.Until(w.until)
}

// begin notes that another replica's lease blocks the call.
func (w *Wait) begin(limit time.Duration) {
	if w != nil && w.until.IsZero() {
		w.until = time.Now().Add(limit)
	}
}

// over reports whether leases of others have blocked the call for as long as one lasts.
func (w *Wait) over() bool { return w != nil && w.Left() <= 0 }

// Lease asks for the user's lease. taken reports whether another replica has it. last is the last
// verdict of any replica, or the zero Verdict if there is none. If Redis does not answer, taken is
// false and last is zero, and the caller makes its call anyway. taken is also false when wait is
// over. So a call waits for LeaseFor at most, whatever anybody writes to Redis again and again.
func (s *Store) Lease(ctx context.Context, user string, wait *Wait) (lease *Lease, last dedupe.Verdict, taken bool) {
	token := uuid.NewString()
	blocked, last, err := s.acquire(ctx, user, token)
	switch {
	case err != nil:
		s.cfg.Observe(Away)
		token = ""
	case blocked && wait.over():
		s.cfg.Observe(Overdue)
		token = ""
	case blocked:
		s.cfg.Observe(Taken)
		wait.begin(s.cfg.LeaseFor)
		return nil, last, true
	default:
		s.cfg.Observe(Granted)
	}
	if wait != nil {
		*wait = Wait{}
	}
	return &Lease{store: s, user: user, token: token}, last, false
}

// Look is like Lease, but does not take the lease.
func (s *Store) Look(ctx context.Context, user string, wait *Wait) (last dedupe.Verdict, taken bool) {
	blocked, last, err := s.acquire(ctx, user, "")
	if err != nil || !blocked {
		return last, false
	}
	wait.begin(s.cfg.LeaseFor)
	return last, !wait.over()
}

// Adopted counts the use of another replica's verdict.
func (s *Store) Adopted() { s.cfg.Observe(Adopted) }

func (s *Store) acquire(ctx context.Context, user, token string) (blocked bool, last dedupe.Verdict, err error) {
	verdictKey, leaseKey := s.userKeys(user)
	answer, err := s.run(ctx, takeScript, []string{verdictKey, leaseKey}, token, s.cfg.LeaseFor.Milliseconds())
	if err != nil {
		return false, last, err
	}
	fields, _ := answer.([]any)
	if len(fields) != 5 {
		return false, last, fmt.Errorf("redis answered %d values instead of 5", len(fields))
	}
	if token != "" && fields[0] == int64(2) {
		s.cfg.Observe(Endless)
	}
	return fields[0] == int64(0), s.read(fields[1:]), nil
}

// read reads a verdict. It ignores and counts a verdict that nobody can read or believe, which
// costs a call.
func (s *Store) read(fields []any) dedupe.Verdict {
	last, problem := s.parse(fields, time.Now())
	if problem != "" {
		s.cfg.Observe(problem)
	}
	return last
}

// parse reads a verdict. If the verdict must be ignored, problem says why.
func (s *Store) parse(fields []any, now time.Time) (v dedupe.Verdict, problem Observation) {
	text := make([]string, len(fields))
	for i, f := range fields {
		text[i], _ = f.(string)
	}
	if text[0] == "" {
		return dedupe.Verdict{}, ""
	}
	start, err := strconv.ParseInt(text[0], 10, 64)
	v.Start = time.UnixMicro(start)
	if covers := text[1]; covers != "" && err == nil {
		var at, sequence int64
		if at, err = strconv.ParseInt(covers, 10, 64); err == nil {
			sequence, err = strconv.ParseInt(text[3], 10, 64)
		}
		v.Covers, v.Entity, v.Sequence = time.UnixMicro(at), text[2], sequence
	}
	oldest, latest := s.believed(now)
	switch {
	case err != nil:
		problem = Unreadable
	case v.Start.After(latest):
		problem = Future
	case v.Start.Before(oldest):
		problem = Stale
	case v.Covers.After(v.Start):
		problem = Implausible
	case !v.Covers.IsZero() && v.Covers.Before(oldest.Add(oldest.Sub(latest))):
		problem = Stale // a later failure kept it, for the same time again
	default:
		return v, ""
	}
	return dedupe.Verdict{}, problem
}

// believed returns the bounds between which the start of a verdict is believed. A verdict is
// written when its attempt has ended, and kept for Remember. The writer's clock may differ from
// ours.
func (s *Store) believed(now time.Time) (oldest, latest time.Time) {
	return now.Add(-s.cfg.Remember - s.cfg.LeaseFor - s.cfg.SkewMargin), now.Add(s.cfg.SkewMargin)
}

// End gives the lease back, and shares the verdict with the other replicas if it is not zero. It
// does nothing for a nil Lease.
func (l *Lease) End(ctx context.Context, verdict dedupe.Verdict) {
	if l == nil || l.token == "" && verdict.Start.IsZero() {
		return
	}
	s := l.store
	verdictKey, leaseKey := s.userKeys(l.user)
	oldest, latest := s.believed(time.Now())
	args := []any{l.token, "", 0, verdict.Entity, verdict.Sequence, latest.UnixMicro(), oldest.UnixMicro(), s.cfg.Remember.Milliseconds()}
	if !verdict.Start.IsZero() {
		args[1] = verdict.Start.UnixMicro()
	}
	if !verdict.Covers.IsZero() {
		args[2] = verdict.Covers.UnixMicro() // rounded down: covers slightly less
	}
	ours, err := s.run(ctx, endScript, []string{verdictKey, leaseKey}, args...)
	switch {
	case err != nil:
		s.cfg.Observe(Away)
	case ours != int64(1) && l.token != "":
		s.cfg.Observe(LeaseLost)
	}
}
