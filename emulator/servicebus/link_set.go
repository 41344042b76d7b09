package servicebus

import "time"

// linkSet holds the links to an entity and to its $management node.
type linkSet struct {
	open         map[*link]struct{}
	lastAttached time.Time // zero if no link was ever attached
}

func (s *linkSet) add(l *link) {
	if s.open == nil {
		s.open = map[*link]struct{}{}
	}
	s.open[l] = struct{}{}
	s.lastAttached = time.Now()
}

func (s *linkSet) remove(l *link) { delete(s.open, l) }

// take returns the selected links and forgets them.
func (s *linkSet) take(selected func(*link) bool) []*link {
	var links []*link
	for l := range s.open {
		if selected(l) {
			links = append(links, l)
			delete(s.open, l)
		}
	}
	return links
}
