package servicebus

import (
	"container/heap"
	"slices"
)

// dueTimes lists when messages need attention: when a scheduled message becomes active, or when a
// time to live ends. The queue looks up what to do when the time comes, because a message may have
// changed by then.
type dueTimes struct{ heap dueHeap }

// add lists a message for a time in milliseconds of Unix time. When entries of removed messages
// are in the majority, it drops them.
func (d *dueTimes) add(at, seq int64, messages *store) {
	if len(d.heap) > 2*len(messages.bySeq)+1024 {
		d.heap = slices.DeleteFunc(d.heap, func(e dueTime) bool { return messages.get(e.seq) == nil })
		heap.Init(&d.heap)
	}
	heap.Push(&d.heap, dueTime{at, seq})
}

// first returns the earliest time. ok is false if there is none.
func (d *dueTimes) first() (at int64, ok bool) {
	if len(d.heap) == 0 {
		return 0, false
	}
	return d.heap[0].at, true
}

// pop removes the earliest entry and returns its sequence number. ok is false if nothing is due.
func (d *dueTimes) pop(now int64) (seq int64, ok bool) {
	if at, found := d.first(); !found || at > now {
		return 0, false
	}
	return heap.Pop(&d.heap).(dueTime).seq, true
}

// dueTime is one entry of dueTimes.
type dueTime struct {
	at  int64 // milliseconds of Unix time
	seq int64
}

// dueHeap is a heap with the earliest entry first.
type dueHeap []dueTime

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(dueTime)) }
func (h *dueHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
