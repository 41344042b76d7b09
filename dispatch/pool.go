package dispatch

import "sync"

// Pool runs functions, each on a goroutine that runs nothing else meanwhile. It uses goroutines
// again: a message needs a deep stack, and growing one for each message costs more CPU time than
// anything else the worker does. The one that was busy last is used first, since the garbage
// collector shrinks the stacks of those that rest. It is safe for concurrent use.
type Pool struct {
	busy sync.WaitGroup // functions
	all  sync.WaitGroup // goroutines

	mu      sync.Mutex
	resting []chan func() // each with a goroutine that waits for its next function
}

// NewPool returns a Pool without goroutines. Stop must follow.
func NewPool() *Pool { return &Pool{} }

// Do runs f on another goroutine, and returns at once. It must not be called after Stop.
func (p *Pool) Do(f func()) {
	p.busy.Add(1)
	if next := p.last(); next != nil {
		next <- f
		return
	}
	next := make(chan func(), 1)
	next <- f
	p.all.Go(func() {
		for f := range next {
			p.run(f, next)
		}
	})
}

// last returns the goroutine that was busy last, which does not rest any more, or nil.
func (p *Pool) last() (next chan func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.resting) - 1; n >= 0 {
		next, p.resting = p.resting[n], p.resting[:n]
	}
	return next
}

func (p *Pool) run(f func(), next chan func()) {
	defer p.busy.Done()
	f()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resting = append(p.resting, next)
}

// Stop waits until every function has returned, and ends the goroutines. Until then functions may
// still call Do.
func (p *Pool) Stop() {
	p.busy.Wait()
	for _, next := range p.resting {
		close(next)
	}
	p.all.Wait()
}
