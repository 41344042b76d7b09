package servicebus

import (
	"maps"
	"slices"
	"time"
)

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

// takeAll returns all links and forgets them.
func (s *linkSet) takeAll() []*link {
	links := slices.Collect(maps.Keys(s.open))
	s.open = nil
	return links
}
