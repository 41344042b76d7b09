package dispatch_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/dispatch"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
)

// manual revokes ada and grace, one after the other, with these answers for each attempt at ada.
func manual(t *testing.T, answer func(call int) (revoker.Attempt, error)) (results map[string]dispatch.ManualResult) {
	t.Helper()
	results = map[string]dispatch.ManualResult{}
	synctest.Test(t, func(t *testing.T) {
		protected, err := guard.NewProtected(nil)
		if err != nil {
			t.Fatal(err)
		}
		var users []event.User
		for _, name := range []string{"ada@contoso.com", "grace@contoso.com"} {
			user, err := event.NewUser("", name)
			if err != nil {
				t.Fatal(err)
			}
			users = append(users, user)
		}
		calls := 0
		b := dispatch.ManualRevocation{
			Protected: protected, Concurrency: 1,
			Retrier: retry.New(retry.Policy{MaxAttempts: 8, InitialInterval: time.Second, MaxInterval: time.Minute, MaxAge: time.Hour}),
			Call: func(_ context.Context, user event.User) (revoker.Attempt, error) {
				if user != users[0] {
					return revoker.Attempt{Sent: true, Status: 200}, nil
				}
				calls++
				return answer(calls)
			},
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
		defer cancel()
		b.Revoke(ctx, users, func(r dispatch.ManualResult) {
			if _, again := results[r.User.UPN()]; again {
				t.Errorf("%s was reported twice", r.User.UPN())
			}
			results[r.User.UPN()] = r
		})
	})
	return results
}

// A manual revocation asks no canaries, so users are probed.
func TestManualRevocationGoesOnAfterARetryAfterOfHours(t *testing.T) {
	results := manual(t, func(call int) (revoker.Attempt, error) {
		if call == 1 {
			return revoker.Attempt{Status: 429}, &revoker.Error{Kind: revoker.Throttled, After: 2 * time.Hour}
		}
		return revoker.Attempt{Status: 200}, nil
	})
	if r := results["ada@contoso.com"]; !r.Revoked || r.Calls != 2 || r.Err != nil {
		t.Errorf("revoked %v after %d calls: %v", r.Revoked, r.Calls, r.Err)
	}
	if r := results["grace@contoso.com"]; !r.Revoked || r.Calls != 1 {
		t.Errorf("grace: revoked %v after %d calls: %v", r.Revoked, r.Calls, r.Err)
	}
}

func TestManualRevocationBelievesAnAnswerAboutOneUserAfterThreeAttempts(t *testing.T) {
	results := manual(t, func(int) (revoker.Attempt, error) {
		return revoker.Attempt{Sent: true, Status: 403}, &revoker.Error{Kind: revoker.Forbidden, Attempt: revoker.Attempt{Status: 403}}
	})
	if r := results["ada@contoso.com"]; r.Revoked || r.Calls != 3 || r.Reason != deadletter.Forbidden {
		t.Errorf("revoked %v after %d calls, reason %q: %v", r.Revoked, r.Calls, r.Reason, r.Err)
	}
	if r := results["grace@contoso.com"]; !r.Revoked {
		t.Errorf("grace: %v", r.Err)
	}
}

func TestManualRevocationStopsWhenNobodyCanSucceed(t *testing.T) {
	results := manual(t, func(int) (revoker.Attempt, error) { return revoker.Attempt{}, &revoker.Error{Kind: revoker.NoToken} })
	if r := results["ada@contoso.com"]; r.Revoked || r.Calls != 1 || r.Reason != "" || r.Err == nil {
		t.Errorf("revoked %v after %d calls, reason %q: %v", r.Revoked, r.Calls, r.Reason, r.Err)
	}
	if r := results["grace@contoso.com"]; r.Revoked || r.Calls != 0 || r.Reason != "" || r.Err == nil {
		t.Errorf("grace: revoked %v after %d calls, reason %q: %v", r.Revoked, r.Calls, r.Reason, r.Err)
	}
}
