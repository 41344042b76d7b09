package dedupe

import (
	"container/list"
	"slices"
	"sync/atomic"
	"time"
)

// Lock is until when a message's lock is known to be ours. Its owner moves it with each renewal; it is safe for concurrent
// use.
type Lock struct{ until atomic.Int64 }

// Renewed says that the lock lasts until then.
func (l *Lock) Renewed(until time.Time) { l.until.Store(int64(instantOf(until))) }

// Until is the time of the last Renewed; before the first one it lies in the past.
func (l *Lock) Until() time.Time { return instant(l.until.Load()).time() }

func (l *Lock) valid(now time.Time) bool { return now.Before(l.Until()) }

// Message is what the events of one message share: its lock, and how they fare. It is made by NewMessage; its exported
// fields are set before the first Enter and not changed afterwards.
type Message struct {
	Lock Lock
	// Source is the rank of the message's source; 0 is the most urgent.
	Source int
	// Fixed says that the message cannot be set aside: the order of a session's messages is the point of it.
	Fixed bool
	// Eager says that the message is set aside as soon as each of its undecided users has failed, whether its source's
	// share of failing messages is used up or not: it came back for one attempt, or it is large.
	Eager bool

	deferred chan struct{}
	ended    chan struct{} // is signaled when the end of an event is decided

	// The ledger's lock guards all below.
	open    int           // events without an end, and 1 until AllEntered
	parked  int           // of them, those that wait for a window, or beside an attempt
	failing int           // of them, those whose users have failed
	paused  int           // of these, those for whom no attempt begins soon
	untried int           // failing ones that wait for an attempt, and of whom none has ended since the message was received
	failed  *list.Element // its place among those of its source that fail; nil when it has none
	leaving bool          // asked to be set aside: it is in no share any more
}

// NewMessage returns the Message of one delivery. AllEntered must follow.
func NewMessage(source int) *Message {
	return &Message{Source: source, deferred: make(chan struct{}), ended: make(chan struct{}, 1), open: 1}
}

// Ended is signaled when the end of one of the message's events, or of several, is decided.
func (m *Message) Ended() <-chan struct{} { return m.ended }

// Deferred is closed when the message is to be set aside, so that others can be worked on: its events Leave, and it comes
// back later.
func (m *Message) Deferred() <-chan struct{} { return m.deferred }

// AllAdded says that all events of the message are in the ledger: only then may it be set aside.
func (l *Ledger) AllAdded(m *Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m.open--
	l.deferIdle(m)
	l.enforceShares(m.Source)
}

// Defer sets a message aside if it may go: others wait for its room.
func (l *Ledger) Defer(m *Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.mayDefer() {
		l.deferMessage(m)
	}
}

// deferIdle sets a message aside that came back, or is large, and has nothing to wait for but time: others need its room.
func (l *Ledger) deferIdle(m *Message) {
	if m.Eager && m.mayDefer() && m.open == m.parked+m.paused {
		l.deferMessage(m)
	}
}

// state is what an event waits for.
type state uint8

const (
	// absent: it is not in the ledger, or its end is decided.
	absent state = iota
	// fresh: its user has not failed.
	fresh
	// parked: it waits for the end of a window, or beside an attempt that it is not part of.
	parked
	// failing: its user has failed.
	failing
	// paused: no attempt begins soon: its user waits for a backoff, for another replica, or for a release of the volume guard.
	// It counts as failing, too.
	paused
)

// share is how many messages of a source are in a state that may last.
type share struct {
	parked, failing int
	failed          *list.List // *Message: the failing ones that can be set aside, the one that has failed longest first
}

func (l *Ledger) shareOf(source int) *share {
	for len(l.shares) <= source {
		l.shares = append(l.shares, share{failed: list.New()})
	}
	return &l.shares[source]
}

// mark moves an event to a state, and its message to the shares that follow from it.
func (l *Ledger) mark(e *Event, next state) {
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
	l.count(m, next, 1) // first, so that a message that stays in a share keeps its time there
	l.count(m, before, -1)
}

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
	if m.leaving || before > 0 == (*of > 0) {
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

// recovered takes a message out that fails no more.
func (s *share) recovered(m *Message) {
	s.failing--
	if m.failed != nil {
		s.failed.Remove(m.failed)
		m.failed = nil
	}
}

// enforceShares keeps a source's shares: it calls for a parked user, and sets failing messages aside, until both fit.
func (l *Ledger) enforceShares(source int) {
	sh := l.shareOf(source)
	for sh.parked > l.cfg.MaxParked {
		if !l.evictParked(source) && !l.deferMessage(l.longestBeside(source)) {
			break
		}
	}
	for sh.failing > l.cfg.MaxFailing {
		if !l.deferMessage(sh.longest()) {
			break
		}
	}
}

// evictParked calls for parked users of the source, to make room: for the user with the most parked messages that wait for nobody
// else; or else for all users of the message that waits for the fewest. It says whether there was anybody.
func (l *Ledger) evictParked(source int) bool {
	var most *Work
	var fewest *Message
	freed := 0 // messages, if most is called
	for w := range l.parked {
		n := 0
		for _, e := range w.pending {
			m := e.Message
			if m.Source != source || m.leaving {
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

// flush calls for each parked user of a message.
func (l *Ledger) flush(m *Message) {
	for w := range l.parked {
		if slices.ContainsFunc(w.pending, func(e *Event) bool { return e.Message == m }) {
			w.unpark()
		}
	}
}

// longestBeside is a message of the user with the most messages that wait beside an attempt: the oldest of them.
func (l *Ledger) longestBeside(source int) *Message {
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

// longest is the message that has failed longest of those that may be set aside.
func (s *share) longest() *Message {
	for at := s.failed.Front(); at != nil; at = at.Next() {
		if m := at.Value.(*Message); m.mayDefer() {
			return m
		}
	}
	return nil
}

// mayDefer says that the message may be set aside: none of its users waits for a first attempt.
func (m *Message) mayDefer() bool {
	return !m.Fixed && !m.leaving && m.open > 0 && m.open == m.parked+m.failing
}

// deferMessage asks for the message to be set aside; false when there is none.
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
	m.leaving = true
	close(m.deferred)
	return true
}
