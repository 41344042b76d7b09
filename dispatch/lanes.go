package dispatch

import "container/heap"

// lanes are two lanes of permits that are not granted: one for first attempts, one for retries.
type lanes struct{ first, retries lane }

func (l *lanes) of(p *permit) *lane {
	if p.retry {
		return &l.retries
	}
	return &l.first
}

func (l *lanes) push(p *permit) {
	p.in = l.of(p)
	heap.Push(p.in, p)
}

// len returns how many permits are in both lanes.
func (l *lanes) len() int { return len(l.first) + len(l.retries) }

// out takes a permit out of its lane.
func (p *permit) out() {
	heap.Remove(p.in, p.index)
	p.in = nil
}

// before reports whether p goes before the other in a lane: the more urgent one goes first, and of
// two equally urgent ones the one with the lower ticket.
func (p *permit) before(other *permit) bool {
	return p.urgent < other.urgent || p.urgent == other.urgent && p.ticket < other.ticket
}

// lane is a heap (container/heap) of permits.
type lane []*permit

func (l lane) Len() int           { return len(l) }
func (l lane) Less(i, j int) bool { return l[i].before(l[j]) }
func (l lane) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].index, l[j].index = i, j
}

// Push adds a permit.
func (l *lane) Push(x any) {
	p := x.(*permit)
	p.index = len(*l)
	*l = append(*l, p)
}

// Pop takes the last permit off.
func (l *lane) Pop() any {
	last := len(*l) - 1
	p := (*l)[last]
	(*l)[last] = nil
	*l = (*l)[:last]
	return p
}
