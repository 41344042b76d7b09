package servicebus

import "slices"

// sequence lists sequence numbers in ascending order. It keeps the numbers of removed messages
// until sweep drops them. No number before the cursor belongs to an available message.
type sequence struct {
	numbers []int64
	cursor  int
}

// add inserts a number unless it is present, and moves the cursor back to it.
func (s *sequence) add(seq int64) {
	at := len(s.numbers)
	if at > 0 && s.numbers[at-1] >= seq {
		var found bool
		if at, found = slices.BinarySearch(s.numbers, seq); !found {
			s.numbers = slices.Insert(s.numbers, at, seq)
		}
	} else {
		s.numbers = append(s.numbers, seq)
	}
	s.cursor = min(s.cursor, at)
}

// next advances the cursor to the first available message and returns it, or nil if there is none.
func (s *sequence) next(messages *store) *message {
	for ; s.cursor < len(s.numbers); s.cursor++ {
		if m := messages.get(s.numbers[s.cursor]); m != nil && m.state == available {
			return m
		}
	}
	return nil
}

// sweep drops the numbers of removed messages.
func (s *sequence) sweep(messages *store) {
	before := 0
	kept := s.numbers[:0]
	for i, seq := range s.numbers {
		if messages.get(seq) == nil {
			continue
		}
		if i < s.cursor {
			before++
		}
		kept = append(kept, seq)
	}
	s.numbers, s.cursor = slices.Clip(kept), before
	if cap(kept) > 4*len(kept)+4096 {
		s.numbers = slices.Clone(kept) // frees the large array
	}
}
