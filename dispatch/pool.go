package dispatch

import "sync"

// Pool runs functions, each on a goroutine that runs nothing else meanwhile. It uses goroutines
// again: a message needs a deep stack, and growing one for each message costs more CPU time than
// anything else the worker does. It is safe for concurrent use.
type Pool struct {
	next chan func()
	busy sync.WaitGroup // functions
	all  sync.WaitGroup // goroutines
}

// NewPool returns a Pool without goroutines. Stop must follow.
func NewPool() *Pool { return &Pool{next: make(chan func())} }

// Do runs f on another goroutine, and returns at once. It must not be called after Stop.
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

// Stop waits until every function has returned, and ends the goroutines. Until then functions may
// still call Do.
func (p *Pool) Stop() {
	p.busy.Wait()
	close(p.next)
	p.all.Wait()
}
