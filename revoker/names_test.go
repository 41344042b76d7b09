package revoker_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/revoker"
)

// reader answers whose a name is, after a while.
type reader struct {
	takes time.Duration
	err   error
	mu    sync.Mutex
	reads int
}

func (r *reader) Account(ctx context.Context, _ event.User) (revoker.Account, error) {
	r.mu.Lock()
	r.reads++
	r.mu.Unlock()
	select {
	case <-time.After(r.takes):
	case <-ctx.Done():
		return revoker.Account{}, ctx.Err()
	}
	if r.err != nil {
		return revoker.Account{}, r.err
	}
	return revoker.Account{ID: adaID, UPN: "ada@contoso.com"}, nil
}

func TestWhoseANameIs(t *testing.T) {
	upn := mustUser("", "Ada@contoso.com")
	for name, test := range map[string]func(t *testing.T, n *revoker.Names, r *reader){
		"events from before share a read for ten minutes": func(t *testing.T, n *revoker.Names, r *reader) {
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
		"each event that comes later has its own": func(t *testing.T, n *revoker.Names, r *reader) {
			for range 3 {
				time.Sleep(time.Second)
				n.Resolve(t.Context(), upn, time.Now())
			}
			n.Resolve(t.Context(), upn, time.Time{}) // enqueued nobody knows when
			if r.reads != 4 {
				t.Errorf("%d reads", r.reads)
			}
		},
		"those who come during a read wait for the next one, together": func(t *testing.T, n *revoker.Names, r *reader) {
			r.takes = time.Second
			var all sync.WaitGroup
			resolve := func() {
				all.Go(func() {
					if _, ok := n.Resolve(t.Context(), upn, time.Now()); !ok {
						t.Error("nobody")
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
		"a read that takes too long": func(t *testing.T, n *revoker.Names, r *reader) {
			r.takes = time.Hour
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			var all sync.WaitGroup
			for range 3 {
				all.Go(func() {
					if _, ok := n.Resolve(ctx, upn, time.Now()); ok {
						t.Error("somebody")
					}
				})
			}
			all.Wait()
		},
		"nobody has it": func(t *testing.T, n *revoker.Names, r *reader) {
			r.err = &revoker.Error{Kind: revoker.NotFound}
			for range 2 {
				if _, ok := n.Resolve(t.Context(), upn, time.Now()); ok {
					t.Error("somebody")
				}
				time.Sleep(time.Second)
			}
			if r.reads != 2 {
				t.Errorf("%d reads", r.reads)
			}
		},
		"users may not be read": func(t *testing.T, n *revoker.Names, r *reader) {
			r.err = &revoker.Error{Kind: revoker.MissingPermission}
			for range 10 {
				n.Resolve(t.Context(), upn, time.Now())
				time.Sleep(10 * time.Second)
			}
			if r.reads != 2 { // one a minute
				t.Errorf("%d reads in 100 s", r.reads)
			}
		},
		"an answer that names nobody": func(t *testing.T, n *revoker.Names, r *reader) {
			r.err = errors.New("no")
			if _, ok := n.Resolve(t.Context(), upn, time.Now()); ok {
				t.Error("somebody")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &reader{takes: 10 * time.Millisecond}
				test(t, &revoker.Names{Account: r.Account, SkewMargin: 5 * time.Second}, r)
			})
		})
	}
}
