package consumer

import "sync"

// hands runs functions, each on a goroutine of its own while it lasts. A goroutine that is done takes the next function: a
// message's way is deep in calls, and growing a new stack for each costs more than anything that the consumer itself does.
type hands struct {
	next chan func()
	busy sync.WaitGroup // functions
	all  sync.WaitGroup // goroutines
}

func newHands() *hands { return &hands{next: make(chan func())} }

// do returns at once.
func (h *hands) do(f func()) {
	h.busy.Add(1)
	select {
	case h.next <- f:
	default:
		h.all.Go(func() {
			h.run(f)
			for f := range h.next {
				h.run(f)
			}
		})
	}
}

func (h *hands) run(f func()) {
	defer h.busy.Done()
	f()
}

// stop waits until every function has returned, and ends the goroutines. A running function may still call do.
func (h *hands) stop() {
	h.busy.Wait()
	close(h.next)
	h.all.Wait()
}
