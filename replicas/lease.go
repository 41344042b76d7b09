package replicas

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/session-revoker/session-revoker/dedupe"
)

// A verdict is a hash: times in Unix microseconds, which Lua's numbers hold exactly. Fields are merged one by one, each to the latest, so
// that an older write never overwrites a newer success, whatever order writes arrive in.
var (
	takeScript = redis.NewScript(`
		local known = redis.call('HMGET', KEYS[1], 'start', 'covers', 'entity', 'sequence')
		local got = 0
		if ARGV[1] == '' then
			if redis.call('EXISTS', KEYS[2]) == 0 then got = 1 end
		elseif redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then
			got = 1
		end
		return {got, known[1] or '', known[2] or '', known[3] or '', known[4] or ''}`)

	// ARGV: the lease's token, what is to be kept: start ('' for nothing), covers, entity, sequence; the latest start that is not in the
	// future; for how long to keep it (ms).
	endScript = redis.NewScript(`
		local ours = 0
		if redis.call('GET', KEYS[2]) == ARGV[1] then
			redis.call('DEL', KEYS[2])
			ours = 1
		end
		if ARGV[2] == '' then return ours end
		local known = redis.call('HMGET', KEYS[1], 'start', 'covers')
		local start, covers = tonumber(known[1] or '') or 0, tonumber(known[2] or '') or 0
		if start > tonumber(ARGV[6]) or covers > tonumber(ARGV[6]) then
			redis.call('DEL', KEYS[1])
			start, covers = 0, 0
		end
		if tonumber(ARGV[2]) > start then redis.call('HSET', KEYS[1], 'start', ARGV[2]) end
		if tonumber(ARGV[3]) > covers then
			redis.call('HSET', KEYS[1], 'covers', ARGV[3], 'entity', ARGV[4], 'sequence', ARGV[5])
		end
		redis.call('PEXPIRE', KEYS[1], ARGV[7])
		return ours`)
)

// Lease is the right to be the one replica that calls for a user.
type Lease struct {
	store *Store
	user  string
	token string // "" when Redis was away: then it is a right that others may have too
}

// Lease asks for the user's lease; taken says that another replica holds it. known is the last verdict of any replica, the zero Verdict when there
// is none. When Redis does not answer nothing is taken and nothing known: the caller calls all the same.
func (s *Store) Lease(ctx context.Context, user string) (lease *Lease, known dedupe.Verdict, taken bool) {
	token := uuid.NewString()
	free, known, err := s.take(ctx, user, token)
	switch {
	case err != nil:
		s.cfg.Observe(Away)
		return &Lease{store: s, user: user}, known, false
	case !free:
		s.cfg.Observe(Taken)
		return nil, known, true
	}
	s.cfg.Observe(Granted)
	return &Lease{store: s, user: user, token: token}, known, false
}

// Look is Lease without taking anything.
func (s *Store) Look(ctx context.Context, user string) (known dedupe.Verdict, taken bool) {
	free, known, err := s.take(ctx, user, "")
	return known, err == nil && !free
}

func (s *Store) take(ctx context.Context, user, token string) (free bool, known dedupe.Verdict, err error) {
	verdict, lease := s.userKeys(user)
	answer, err := s.run(ctx, takeScript, []string{verdict, lease}, token, s.cfg.LeaseFor.Milliseconds())
	if err != nil {
		return false, known, err
	}
	fields, _ := answer.([]any)
	if len(fields) != 5 {
		return false, known, fmt.Errorf("redis answered %d values instead of 5", len(fields))
	}
	return fields[0] == int64(1), s.read(fields[1:]), nil
}

// read reads a verdict. One that cannot be, or must not be believed, is none: that costs a call.
func (s *Store) read(fields []any) dedupe.Verdict {
	text := make([]string, len(fields))
	for i, f := range fields {
		text[i], _ = f.(string)
	}
	if text[0] == "" {
		return dedupe.Verdict{}
	}
	start, err := strconv.ParseInt(text[0], 10, 64)
	v := dedupe.Verdict{Start: time.UnixMicro(start)}
	if covers := text[1]; covers != "" && err == nil {
		var at, sequence int64
		if at, err = strconv.ParseInt(covers, 10, 64); err == nil {
			sequence, err = strconv.ParseInt(text[3], 10, 64)
		}
		v.Covers, v.Entity, v.Sequence = time.UnixMicro(at), text[2], sequence
	}
	latest := time.Now().Add(s.cfg.SkewMargin)
	switch {
	case err != nil:
		s.cfg.Observe(Unreadable)
		return dedupe.Verdict{}
	case v.Start.After(latest), v.Covers.After(latest):
		s.cfg.Observe(Future)
		return dedupe.Verdict{}
	}
	return v
}

// End gives the lease back, and tells the verdict, if there is one, to the other replicas. Without a lease (nil) there is nothing to do.
func (l *Lease) End(ctx context.Context, decided dedupe.Verdict) {
	if l == nil || l.token == "" && decided.Start.IsZero() {
		return
	}
	s := l.store
	verdict, lease := s.userKeys(l.user)
	args := []any{l.token, "", 0, decided.Entity, decided.Sequence, time.Now().Add(s.cfg.SkewMargin).UnixMicro(), s.cfg.Remember.Milliseconds()}
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
