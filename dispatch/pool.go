package dispatch

import "sync"

// Pool runs functions, each on a goroutine of its own while it lasts. A goroutine that is done takes the next function: the
// way of a message is deep in calls, and growing a new stack for each costs more than anything that the worker itself does.
// It is safe for concurrent use.
type Pool struct {
	next chan func()
	busy sync.WaitGroup // functions
	all  sync.WaitGroup // goroutines
}

// NewPool returns a Pool without goroutines. Stop must follow.
func NewPool() *Pool { return &Pool{next: make(chan func())} }

// Do returns at once.
func (p *Pool) Do(f func()) {
	p.busy.Add(1)
	select {
	case p.next <- f:
	default:
		p.all.Go(func() {
			p.run(f)
			for f := range p.next {
				p.run(f)
			}
		})
	}
}

func (p *Pool) run(f func()) {
	defer p.busy.Done()
	f()
}

// Stop waits until every function has returned, and ends the goroutines. A running function may still call Do.
func (p *Pool) Stop() {
	p.busy.Wait()
	close(p.next)
	p.all.Wait()
}
