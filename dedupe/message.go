package dedupe

import (
	"container/list"
	"slices"
	"sync/atomic"
	"time"
)

// Lock is the time until which this process certainly has a message locked. It is safe for
// concurrent use.
type Lock struct{ until atomic.Int64 }

// Renewed notes that the lock lasts until then.
func (l *Lock) Renewed(until time.Time) { l.until.Store(int64(instantOf(until))) }

// Until returns the time that Renewed has set last, or a time in the past if there is none.
func (l *Lock) Until() time.Time { return instant(l.until.Load()).time() }

func (l *Lock) valid(now time.Time) bool { return now.Before(l.Until()) }

// Message is what the events of one delivery of a message share: the lock, and how many of them are
// in which state. NewMessage makes it. The caller sets the exported fields before it adds the first
// event, and does not change them afterwards.
type Message struct {
	Lock Lock
	// Source is the rank of the message's source; 0 is the most urgent.
	Source int
	// Fixed reports whether the message cannot be deferred: messages of a session must keep their
	// order.
	Fixed bool
	// Eager reports whether the message is deferred as soon as each of its undecided users has
	// failed, even if its source's share of failing messages is not used up. It is true for a large
	// message, and for one that was deferred before and came back for one attempt.
	Eager bool

	changed   atomic.Value // a chan struct{}, from the first Changed on: most events end before anybody waits
	signaled  atomic.Bool  // there was something to signal, which the first Changed has missed
	deferring atomic.Bool  // the caller was asked to defer it, so it counts in no share

	// The ledger's lock guards the fields below.
	open    int           // undecided events, and 1 more until AllAdded
	parked  int           // of them, those that are parked or wait beside an attempt
	failing int           // of them, those whose users have failed
	paused  int           // of the failing ones, those for whom no attempt begins soon
	untried int           // failing ones without an attempt since the message was received
	failed  *list.Element // in its source's list of failing messages; nil when it is not there
}

// NewMessage returns the Message of one delivery from the source. AllAdded must follow.
func NewMessage(source int) *Message {
	return &Message{Source: source, open: 1}
}

// Changed returns a channel that is signaled when one or more of the message's events have ended, and
// when MustDefer has become true, also before the first call. One goroutine may call it.
func (m *Message) Changed() <-chan struct{} {
	if changed, ok := m.changed.Load().(chan struct{}); ok {
		return changed
	}
	changed := make(chan struct{}, 1)
	m.changed.Store(changed)
	if m.signaled.Load() { // by somebody who may have seen no channel
		m.signal()
	}
	return changed
}

// MustDefer reports whether the caller should defer the message, to make room for others. The caller
// then removes the message's events, and adds them again when the message comes back.
func (m *Message) MustDefer() bool { return m.deferring.Load() }

// signal signals Changed.
func (m *Message) signal() {
	m.signaled.Store(true) // first, since Changed stores the channel before it looks
	changed, _ := m.changed.Load().(chan struct{})
	select {
	case changed <- struct{}{}:
	default: // it is signaled already, or nobody waits
	}
}

// AllAdded notes that all events of the message were added. Before that, it is not deferred.
func (l *Ledger) AllAdded(m *Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m.open--
	l.deferIdle(m)
	l.enforceShares(m.Source)
}

// Defer asks the caller to defer the message, if it may be deferred, to make room for others.
func (l *Ledger) Defer(m *Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.mayDefer() {
		l.deferMessage(m)
	}
}

// deferIdle defers an eager message if none of its events will be attempted soon.
func (l *Ledger) deferIdle(m *Message) {
	if m.Eager && m.mayDefer() && m.open == m.parked+m.paused {
		l.deferMessage(m)
	}
}

// state is what an event waits for.
type state uint8

const (
	// absent: it is not in the ledger, or has ended.
	absent state = iota
	// fresh: it waits for a permit, and its user has not failed.
	fresh
	// parked: it waits for the end of a window, or beside an attempt that was not started for it.
	parked
	// failing: its user has failed, and it waits for a permit.
	failing
	// paused: no attempt begins soon, because the user waits for a long backoff, for another
	// replica, or for a release of the volume guard. The event counts as failing, too.
	paused
)

// share counts the messages of a source that are in a state that can last long.
type share struct {
	parked, failing int
	// failed lists the failing *Message that may be deferred, the one that has failed longest
	// first.
	failed *list.List
}

func (l *Ledger) shareOf(source int) *share {
	for len(l.shares) <= source {
		l.shares = append(l.shares, share{failed: list.New()})
	}
	return &l.shares[source]
}

// setState sets an event's state, and keeps the counts of its message and the share of its source.
func (l *Ledger) setState(e *Event, next state) {
	if e.state == next {
		return
	}
	m, before := e.Message, e.state
	if !e.tried && before == failing {
		m.untried--
	}
	if !e.tried && next == failing {
		m.untried++
	}
	e.state = next
	l.count(m, next, 1) // before the -1, so that a message that stays among the failing ones keeps its position
	l.count(m, before, -1)
}

// count changes by n how many of the message's events are in the state.
func (l *Ledger) count(m *Message, s state, n int) {
	if s == absent {
		return
	}
	m.open += n
	var of *int
	switch s {
	case parked:
		of = &m.parked
	case paused:
		m.paused += n
		of = &m.failing
	case failing:
		of = &m.failing
	default:
		return
	}
	before := *of
	*of += n
	if m.deferring.Load() || before > 0 == (*of > 0) {
		return
	}
	switch sh := l.shareOf(m.Source); {
	case s == parked:
		sh.parked += n
	case n > 0:
		sh.failing++
		if !m.Fixed {
			m.failed = sh.failed.PushBack(m)
		}
	default:
		sh.recovered(m)
	}
}

// recovered removes a message from the failing ones.
func (s *share) recovered(m *Message) {
	s.failing--
	if m.failed != nil {
		s.failed.Remove(m.failed)
		m.failed = nil
	}
}

// enforceShares keeps a source within MaxParked and MaxFailing: it ends the parking of users, and
// defers messages.
func (l *Ledger) enforceShares(source int) {
	sh := l.shareOf(source)
	for sh.parked > l.cfg.MaxParked {
		if !l.evictParked(source) && !l.deferMessage(l.oldestBeside(source)) {
			break
		}
	}
	for sh.failing > l.cfg.MaxFailing {
		if !l.deferMessage(sh.longest()) {
			break
		}
	}
}

func (l *Ledger) enforceAllShares() {
	for source := range l.shares {
		l.enforceShares(source)
	}
}

// evictParked makes attempts for parked users of the source due now. It chooses the user with the
// most messages that wait for this user alone. If there is no such user, it chooses all parked
// users of the message that waits for the fewest. It reports whether any user was parked.
func (l *Ledger) evictParked(source int) bool {
	var most *Work
	var fewest *Message
	freed := 0 // how many messages most would free
	for w := range l.parked {
		n := 0
		for _, e := range w.pending {
			m := e.Message
			if m.Source != source || m.deferring.Load() {
				continue
			}
			if m.parked == 1 {
				n++
			}
			if fewest == nil || m.parked < fewest.parked {
				fewest = m
			}
		}
		if n > freed {
			most, freed = w, n
		}
	}
	switch {
	case most != nil:
		most.unpark()
	case fewest != nil:
		l.flush(fewest)
	default:
		return false
	}
	return true
}

// flush makes the attempts for the parked users of a message due now.
func (l *Ledger) flush(m *Message) {
	for w := range l.parked {
		if slices.ContainsFunc(w.pending, func(e *Event) bool { return e.Message == m }) {
			w.unpark()
		}
	}
}

// oldestBeside finds the user of the source with the most messages that wait beside an attempt, and
// returns the oldest of these messages that may be deferred. It returns nil if there is none.
func (l *Ledger) oldestBeside(source int) *Message {
	var most *Work
	for _, w := range l.works {
		if n := w.beside.from(source); n > 0 && (most == nil || n > most.beside.from(source)) {
			most = w
		}
	}
	if most == nil {
		return nil
	}
	var oldest *Event
	for _, e := range most.beside {
		if e.Message.Source == source && e.Message.mayDefer() && (oldest == nil || e.Compare(oldest.Position) < 0) {
			oldest = e
		}
	}
	if oldest == nil {
		return nil
	}
	return oldest.Message
}

// longest returns, of the messages that may be deferred, the one that has failed longest. It
// returns nil if there is none.
func (s *share) longest() *Message {
	for at := s.failed.Front(); at != nil; at = at.Next() {
		if m := at.Value.(*Message); m.mayDefer() {
			return m
		}
	}
	return nil
}

// mayDefer reports whether the message may be deferred: none of its users waits for a first
// attempt.
func (m *Message) mayDefer() bool {
	return !m.Fixed && !m.deferring.Load() && m.open > 0 && m.open == m.parked+m.failing
}

// deferMessage asks the caller to defer the message. It does nothing for nil, and reports whether
// it did something.
func (l *Ledger) deferMessage(m *Message) bool {
	if m == nil {
		return false
	}
	sh := l.shareOf(m.Source)
	if m.parked > 0 {
		sh.parked--
	}
	if m.failing > 0 {
		sh.recovered(m)
	}
	m.deferring.Store(true)
	m.signal()
	return true
}
