package servicebus

import (
	"slices"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// store holds a queue's messages in the order of their sequence numbers, and counts them by state.
type store struct {
	lastSeq  int64 // the sequence number that was given out last
	bytes    int64 // size of all messages and session states
	bySeq    map[int64]*message
	order    sequence
	perState [gone]int
}

// nextSeq gives out the next sequence number.
func (s *store) nextSeq() int64 {
	s.lastSeq++
	return s.lastSeq
}

// get returns the message with the sequence number, or nil if there is none.
func (s *store) get(seq int64) *message { return s.bySeq[seq] }

// add stores a message that has its sequence number. Dead letters arrive in any order.
func (s *store) add(m *message) {
	s.bySeq[m.seq] = m
	s.perState[m.state]++
	s.bytes += m.size()
	s.order.add(m.seq)
}

// setState changes a message's state. The state gone removes the message.
func (s *store) setState(m *message, to state) {
	s.perState[m.state]--
	m.state = to
	switch to {
	case gone:
		s.remove(m)
	case available:
		s.perState[to]++
		s.order.add(m.seq)
	default:
		s.perState[to]++
	}
}

func (s *store) remove(m *message) {
	delete(s.bySeq, m.seq)
	s.bytes -= m.size()
	if len(s.order.numbers) > 2*len(s.bySeq)+1024 {
		s.order.sweep(s)
	}
}

// modify merges pairs into a message's application properties. It reports whether they fit.
func (s *store) modify(m *message, pairs amqp.Map) (fits bool) {
	before := m.appProperties
	m.modify(pairs)
	added := len(m.appProperties) - len(before)
	if added > 0 && len(m.appProperties) > maxProperties {
		m.appProperties = before
		return false
	}
	s.bytes += int64(added)
	return true
}

// nextAvailable returns the first available message, or nil if there is none.
func (s *store) nextAvailable() *message { return s.order.next(s) }

// from returns up to limit messages whose sequence numbers are seq or higher, in order.
func (s *store) from(seq int64, limit int) []*message {
	at, _ := slices.BinarySearch(s.order.numbers, seq)
	var list []*message
	for _, number := range s.order.numbers[at:] {
		if len(list) >= limit {
			break
		}
		if m := s.get(number); m != nil {
			list = append(list, m)
		}
	}
	return list
}

// counts returns what the store holds. DeadLetter is 0.
func (s *store) counts() Counts {
	return Counts{
		Active:    s.perState[available] + s.perState[locked],
		Locked:    s.perState[locked],
		Scheduled: s.perState[scheduled],
		Deferred:  s.perState[deferred],
		Bytes:     s.bytes,
	}
}
