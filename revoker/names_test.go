package revoker_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
)

// reader answers reads of an account after a while.
type reader struct {
	takes time.Duration
	err   error
	mu    sync.Mutex
	reads int
	now   int // reads in flight
	most  int
}

// after changes the answer to reads that begin now.
func (r *reader) after(wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = &revoker.Error{Kind: revoker.Throttled, After: wait}
}

func (r *reader) Account(ctx context.Context, _ event.User) (revoker.Account, error) {
	r.mu.Lock()
	r.reads++
	r.now++
	r.most = max(r.most, r.now)
	answer := r.err
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.now--
	}()
	select {
	case <-time.After(r.takes):
	case <-ctx.Done():
		return revoker.Account{}, ctx.Err()
	}
	if answer != nil {
		return revoker.Account{}, answer
	}
	return revoker.Account{ID: adaID, UPN: "ada@contoso.com"}, nil
}

func TestResolver(t *testing.T) {
	upn := mustUser("", "Ada@contoso.com")
	for name, test := range map[string]func(t *testing.T, n *revoker.Resolver, r *reader){
		"events from before share a read for ten minutes": func(t *testing.T, n *revoker.Resolver, r *reader) {
			enqueued := time.Now()
			time.Sleep(10 * time.Second)
			for range 5 {
				if account, ok := n.Resolve(t.Context(), upn, enqueued); !ok || account.ID() != adaID {
					t.Fatalf("%v, %v", account, ok)
				}
				time.Sleep(2 * time.Minute)
			}
			if r.reads != 1 {
				t.Errorf("%d reads", r.reads)
			}
			time.Sleep(time.Minute)
			n.Resolve(t.Context(), upn, enqueued)
			if r.reads != 2 {
				t.Errorf("%d reads after more than ten minutes", r.reads)
			}
		},
		"each event that comes later has its own": func(t *testing.T, n *revoker.Resolver, r *reader) {
			for range 3 {
				time.Sleep(time.Second)
				n.Resolve(t.Context(), upn, time.Now())
			}
			n.Resolve(t.Context(), upn, time.Time{}) // the enqueued time is unknown
			if r.reads != 4 {
				t.Errorf("%d reads", r.reads)
			}
		},
		"those who come during a read wait for the next one, together": func(t *testing.T, n *revoker.Resolver, r *reader) {
			r.takes = time.Second
			var all sync.WaitGroup
			resolve := func() {
				all.Go(func() {
					if _, ok := n.Resolve(t.Context(), upn, time.Now()); !ok {
						t.Error("the name is not resolved")
					}
				})
			}
			resolve()
			time.Sleep(500 * time.Millisecond)
			for range 50 {
				resolve()
			}
			all.Wait()
			if r.reads != 2 {
				t.Errorf("%d reads", r.reads)
			}
		},
		"a read that takes too long": func(t *testing.T, n *revoker.Resolver, r *reader) {
			r.takes = time.Hour
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			var all sync.WaitGroup
			for range 3 {
				all.Go(func() {
					if _, ok := n.Resolve(ctx, upn, time.Now()); ok {
						t.Error("the name is resolved")
					}
				})
			}
			all.Wait()
		},
		"nobody has it": func(t *testing.T, n *revoker.Resolver, r *reader) {
			r.err = &revoker.Error{Kind: revoker.NotFound}
			for range 2 {
				if _, ok := n.Resolve(t.Context(), upn, time.Now()); ok {
					t.Error("the name is resolved")
				}
				time.Sleep(time.Second)
			}
			if r.reads != 2 {
				t.Errorf("%d reads", r.reads)
			}
		},
		"users may not be read": func(t *testing.T, n *revoker.Resolver, r *reader) {
			r.err = &revoker.Error{Kind: revoker.MissingPermission}
			for range 10 {
				n.Resolve(t.Context(), upn, time.Now())
				time.Sleep(10 * time.Second)
			}
			if r.reads != 2 { // one a minute
				t.Errorf("%d reads in 100 s", r.reads)
			}
		},
		"a Retry-After of 68 years": func(t *testing.T, n *revoker.Resolver, r *reader) {
			r.err = &revoker.Error{Kind: revoker.Throttled, After: (1<<31 - 1) * time.Second}
			n.Resolve(t.Context(), upn, time.Now())
			r.err = nil
			time.Sleep(retry.MaxRetryAfter - time.Second)
			if _, ok := n.Resolve(t.Context(), upn, time.Now()); ok || r.reads != 1 {
				t.Errorf("%d reads within the bound of every Retry-After", r.reads)
			}
			time.Sleep(2 * time.Second)
			if _, ok := n.Resolve(t.Context(), upn, time.Now()); !ok || r.reads != 2 {
				t.Errorf("%d reads after the bound of every Retry-After", r.reads)
			}
		},
		"throttled for seconds": func(t *testing.T, n *revoker.Resolver, r *reader) {
			r.err = &revoker.Error{Kind: revoker.Throttled, After: 7 * time.Second}
			n.Resolve(t.Context(), upn, time.Now())
			time.Sleep(6 * time.Second)
			n.Resolve(t.Context(), upn, time.Now())
			if r.reads != 1 {
				t.Errorf("%d reads within Retry-After", r.reads)
			}
			time.Sleep(2 * time.Second)
			n.Resolve(t.Context(), upn, time.Now())
			if r.reads != 2 {
				t.Errorf("%d reads after Retry-After", r.reads)
			}
		},
		"throttled, and it is not said for how long": func(t *testing.T, n *revoker.Resolver, r *reader) {
			r.err = &revoker.Error{Kind: revoker.Throttled}
			for range 10 {
				n.Resolve(t.Context(), upn, time.Now())
				time.Sleep(10 * time.Second)
			}
			if r.reads != 2 { // one a minute
				t.Errorf("%d reads in 100 s", r.reads)
			}
		},
		"a short pause does not end a long one": func(t *testing.T, n *revoker.Resolver, r *reader) {
			r.err = &revoker.Error{Kind: revoker.Throttled, After: 100 * time.Second}
			var all sync.WaitGroup
			all.Go(func() { n.Resolve(t.Context(), upn, time.Now()) })
			synctest.Wait()
			r.after(5 * time.Millisecond) // another read in flight gets a shorter Retry-After
			all.Go(func() { n.Resolve(t.Context(), mustUser("", "grace@contoso.com"), time.Now()) })
			time.Sleep(time.Millisecond)
			all.Wait()
			time.Sleep(90 * time.Second)
			if n.Resolve(t.Context(), upn, time.Now()); r.reads != 2 {
				t.Errorf("%d reads", r.reads)
			}
		},
		"ten thousand names at once": func(t *testing.T, n *revoker.Resolver, r *reader) {
			r.takes = 100 * time.Millisecond
			began := time.Now()
			var all sync.WaitGroup
			var resolved atomic.Int64
			for i := range 10_000 {
				all.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					defer cancel()
					if _, ok := n.Resolve(ctx, mustUser("", fmt.Sprintf("u%d@contoso.com", i)), time.Now()); ok {
						resolved.Add(1)
					}
				})
			}
			all.Wait()
			if took := time.Since(began); r.most != 8 || r.reads > 1000 || resolved.Load() < 8*49 || took != 5*time.Second {
				t.Errorf("%d reads at once, %d in all, %d names resolved within %s", r.most, r.reads, resolved.Load(), took)
			}
			// A name that timed out is not remembered as unknown: the next event asks again.
			if _, ok := n.Resolve(t.Context(), mustUser("", "u9999@contoso.com"), began); !ok {
				t.Error("the name is not resolved")
			}
		},
		"throttled with ten thousand names waiting": func(t *testing.T, n *revoker.Resolver, r *reader) {
			r.takes, r.err = 100*time.Millisecond, &revoker.Error{Kind: revoker.Throttled, After: 10 * time.Second}
			began := time.Now()
			var all sync.WaitGroup
			for i := range 10_000 {
				all.Go(func() { n.Resolve(t.Context(), mustUser("", fmt.Sprintf("u%d@contoso.com", i)), time.Now()) })
			}
			all.Wait()
			if took := time.Since(began); r.reads != 8 || took != r.takes {
				t.Errorf("%d reads, the last of them done after %s", r.reads, took)
			}
		},
		"an answer that names nobody": func(t *testing.T, n *revoker.Resolver, r *reader) {
			r.err = errors.New("no")
			if _, ok := n.Resolve(t.Context(), upn, time.Now()); ok {
				t.Error("the name is resolved")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &reader{takes: 10 * time.Millisecond}
				test(t, &revoker.Resolver{Account: r.Account, SkewMargin: 5 * time.Second}, r)
			})
		})
	}
}
