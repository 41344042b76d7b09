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

// A verdict is a hash: times in Unix microseconds, which Lua's numbers hold exactly. Fields are merged one by one, each to the latest, so
// that an older write never overwrites a newer success, whatever order writes arrive in. A lease is a string, the token of its holder.
var (
	// A lease without an end, or with one that is further away than a lease lasts, is nobody's: it is taken over. Fields that are longer than any of ours
	// are not sent: an entity's path has 260 characters at most (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-quotas).
	// ARGV: the lease's token ('' only looks), for how long it is taken (ms). The first value is 1 when the lease is free, 2 when it was taken over.
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

	// What cannot be a verdict is replaced. What was covered too long ago is forgotten, since a failure's start may keep the rest for longer.
	// ARGV: the lease's token, what is to be kept: start ('' for nothing), covers, entity, sequence; the latest start that is not in the
	// future, and the oldest that is believed; for how long to keep it (ms).
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
	token string // "" when Redis was away: then it is a right that others may have too
}

// Wait is how long one user's next call has waited for leases of others. The zero Wait has not waited yet; it ends when a lease is granted. It is not safe
// for concurrent use. A nil Wait is never over.
type Wait struct{ until time.Time }

// Left is how much longer leases of others may be in the way; very long before there was one.
func (w *Wait) Left() time.Duration {
	if w.until.IsZero() {
		return math.MaxInt64
	}
	return time.Until(w.until)
}

// begin notes that another's lease is in the way.
func (w *Wait) begin(limit time.Duration) {
	if w != nil && w.until.IsZero() {
		w.until = time.Now().Add(limit)
	}
}

// over says that leases of others have been in the way for as long as one lasts.
func (w *Wait) over() bool { return w != nil && w.Left() <= 0 }

// Lease asks for the user's lease; taken says that another replica holds it. known is the last verdict of any replica, the zero Verdict when there
// is none. When Redis does not answer nothing is taken and nothing known: the caller calls all the same. So it does when wait is over: whatever lies
// in Redis, and whoever writes it there again and again, makes a call wait for LeaseFor at most.
func (s *Store) Lease(ctx context.Context, user string, wait *Wait) (lease *Lease, known dedupe.Verdict, taken bool) {
	token := uuid.NewString()
	held, known, err := s.acquire(ctx, user, token)
	switch {
	case err != nil:
		s.cfg.Observe(Away)
		token = ""
	case held && wait.over():
		s.cfg.Observe(Overdue)
		token = ""
	case held:
		s.cfg.Observe(Taken)
		wait.begin(s.cfg.LeaseFor)
		return nil, known, true
	default:
		s.cfg.Observe(Granted)
	}
	if wait != nil {
		*wait = Wait{}
	}
	return &Lease{store: s, user: user, token: token}, known, false
}

// Look is Lease without taking anything.
func (s *Store) Look(ctx context.Context, user string, wait *Wait) (known dedupe.Verdict, taken bool) {
	held, known, err := s.acquire(ctx, user, "")
	if err != nil || !held {
		return known, false
	}
	wait.begin(s.cfg.LeaseFor)
	return known, !wait.over()
}

// Adopted counts that a verdict of another replica was used.
func (s *Store) Adopted() { s.cfg.Observe(Adopted) }

func (s *Store) acquire(ctx context.Context, user, token string) (held bool, known dedupe.Verdict, err error) {
	verdict, lease := s.userKeys(user)
	answer, err := s.run(ctx, takeScript, []string{verdict, lease}, token, s.cfg.LeaseFor.Milliseconds())
	if err != nil {
		return false, known, err
	}
	fields, _ := answer.([]any)
	if len(fields) != 5 {
		return false, known, fmt.Errorf("redis answered %d values instead of 5", len(fields))
	}
	if token != "" && fields[0] == int64(2) {
		s.cfg.Observe(Endless)
	}
	return fields[0] == int64(0), s.read(fields[1:]), nil
}

// read reads a verdict. One that cannot be, or must not be believed, is none: that costs a call.
func (s *Store) read(fields []any) dedupe.Verdict {
	known, problem := s.parse(fields, time.Now())
	if problem != "" {
		s.cfg.Observe(problem)
	}
	return known
}

// parse reads a verdict, and says what is wrong with one that is ignored.
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
		problem = Stale // it was kept with a later failure, and then as long again
	default:
		return v, ""
	}
	return dedupe.Verdict{}, problem
}

// believed is between which times the start of a verdict can lie that is kept now: it is written when the attempt has ended, kept for as long as verdicts
// are, and the clock of who wrote it may differ from ours.
func (s *Store) believed(now time.Time) (oldest, latest time.Time) {
	return now.Add(-s.cfg.Remember - s.cfg.LeaseFor - s.cfg.SkewMargin), now.Add(s.cfg.SkewMargin)
}

// End gives the lease back, and tells the verdict, if there is one, to the other replicas. Without a lease (nil) there is nothing to do.
func (l *Lease) End(ctx context.Context, decided dedupe.Verdict) {
	if l == nil || l.token == "" && decided.Start.IsZero() {
		return
	}
	s := l.store
	verdict, lease := s.userKeys(l.user)
	oldest, latest := s.believed(time.Now())
	args := []any{l.token, "", 0, decided.Entity, decided.Sequence, latest.UnixMicro(), oldest.UnixMicro(), s.cfg.Remember.Milliseconds()}
	if !decided.Start.IsZero() {
		args[1] = decided.Start.UnixMicro()
	}
	if !decided.Covers.IsZero() {
		args[2] = decided.Covers.UnixMicro() // rounded down: covers a little less
	}
	ours, err := s.run(ctx, endScript, []string{verdict, lease}, args...)
	switch {
	case err != nil:
		s.cfg.Observe(Away)
	case ours != int64(1) && l.token != "":
		s.cfg.Observe(Lost)
	}
}
