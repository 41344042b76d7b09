package servicebus

import "time"

// seenIDs remembers message ids for duplicate detection.
type seenIDs struct {
	until map[string]int64
	order []seenID // the oldest first
}

// maxSeenIDs is how many ids a queue remembers. Until the oldest is forgotten, it accepts no more.
const maxSeenIDs = 1_000_000

type seenID struct {
	id    string
	until int64 // milliseconds of Unix time
}

// isFull reports whether there is no room for more ids.
func (s *seenIDs) isFull(more int, now int64) bool {
	s.forget(now)
	return len(s.order)+more > maxSeenIDs
}

// forget drops the ids whose window has ended.
func (s *seenIDs) forget(now int64) {
	for len(s.order) > 0 && s.order[0].until <= now {
		delete(s.until, s.order[0].id)
		s.order = s.order[1:]
	}
}

// check reports whether the id was seen within the window. It remembers an id that was not.
func (s *seenIDs) check(id string, now int64, window time.Duration) (seen bool) {
	s.forget(now)
	if _, ok := s.until[id]; ok {
		return true
	}
	s.remember(id, now+window.Milliseconds())
	return false
}

// remember notes an id until a time in milliseconds of Unix time.
func (s *seenIDs) remember(id string, until int64) {
	if s.until == nil {
		s.until = map[string]int64{}
	}
	s.until[id] = until
	s.order = append(s.order, seenID{id, until})
}
