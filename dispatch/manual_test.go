package dispatch_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/session-revoker/session-revoker/dispatch"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
)

// A manual revocation asks no canaries, so users are probed.
func TestManualRevocationGoesOnAfterARetryAfterOfHours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		protected, err := guard.NewProtected(nil)
		if err != nil {
			t.Fatal(err)
		}
		calls := 0
		b := dispatch.ManualRevocation{
			Protected: protected, Concurrency: 2,
			Retrier: retry.New(retry.Policy{MaxAttempts: 3, InitialInterval: time.Second, MaxInterval: time.Minute, MaxAge: time.Hour}),
			Call: func(context.Context, event.User) (revoker.Attempt, error) {
				if calls++; calls == 1 {
					return revoker.Attempt{Status: 429}, &revoker.Error{Kind: revoker.Throttled, After: 2 * time.Hour}
				}
				return revoker.Attempt{Status: 200}, nil
			},
		}
		user, err := event.NewUser("0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c01", "")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
		defer cancel()
		b.Revoke(ctx, []event.User{user}, func(r dispatch.ManualResult) {
			if !r.Revoked || r.Calls != 2 {
				t.Errorf("revoked %v after %d calls: %v", r.Revoked, r.Calls, r.Err)
			}
		})
	})
}
