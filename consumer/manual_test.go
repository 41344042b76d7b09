package consumer_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/session-revoker/session-revoker/dispatch"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
)

// manual returns a manual revocation through the world's Graph.
func manual(t *testing.T, w *world) *dispatch.ManualRevocation {
	t.Helper()
	protected, err := guard.NewProtected([]string{glass.UserPrincipalName})
	if err != nil {
		t.Fatal(err)
	}
	return &dispatch.ManualRevocation{
		Protected: protected, Concurrency: 4, Call: w.revoker.Revoke,
		Retrier: retry.New(retry.Policy{
			MaxAttempts: 3, InitialInterval: time.Second, MaxInterval: time.Minute, MaxAge: 2 * time.Minute, LaggingFor: 5 * time.Second,
		}),
	}
}

func users(t *testing.T, names ...string) []event.User {
	t.Helper()
	var list []event.User
	for _, name := range names {
		user, err := event.NewUser("", name)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, user)
	}
	return list
}

func results(ctx context.Context, b *dispatch.ManualRevocation, users []event.User) map[string]dispatch.ManualResult {
	all := map[string]dispatch.ManualResult{}
	b.Revoke(ctx, users, func(r dispatch.ManualResult) { all[r.User.Name()] = r })
	return all
}

func TestManualRevocationHasTheWorkersGuardRetriesAndOutcomes(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{User: ada.ID, Count: 1, Status: http.StatusTooManyRequests, RetryAfter: "30"})
		w.graph.Inject(graph.Fault{User: grace.ID, Count: 2, Status: http.StatusBadGateway})
		w.graph.Inject(graph.Fault{User: alan.ID, ValueFalse: true})
		start := time.Now()
		all := results(t.Context(), manual(t, w), users(t, ada.UserPrincipalName, grace.UserPrincipalName, alan.UserPrincipalName,
			glass.UserPrincipalName, guest.UserPrincipalName, "nobody@contoso.com"))
		for name, want := range map[string]struct {
			revoked bool
			reason  string
			calls   int
		}{
			ada.UserPrincipalName: {true, "", 2}, grace.UserPrincipalName: {true, "", 3}, alan.UserPrincipalName: {false, "NotRevoked", 3},
			glass.UserPrincipalName: {false, "ProtectedUser", 0}, guest.UserPrincipalName: {false, "ExternalUser", 0},
			"nobody@contoso.com": {false, "UserNotFound", 0},
		} {
			got := all[name]
			if got.Revoked != want.revoked || string(got.Reason) != want.reason ||
				want.calls > 0 && got.Calls != want.calls || got.Revoked == (got.Err != nil) {
				t.Errorf("%s: %+v, want %+v", name, got, want)
			}
		}
		if took := time.Since(start); took < 30*time.Second {
			t.Errorf("took %v: the Retry-After of 30 s was not kept", took)
		}
		w.wantRevoked(ada, grace)
	})
}

func TestManualRevocationStopsForAllWhenNoCallCanSucceed(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		w.graph.SetRoles("app", nil)
		w.graph.RevokeTokens()
		all := results(t.Context(), manual(t, w), users(t, ada.UserPrincipalName, grace.UserPrincipalName, alan.UserPrincipalName))
		if len(all) != 3 {
			t.Fatalf("%d users are logged, want all", len(all))
		}
		for name, r := range all {
			var failure *revoker.Error
			if r.Revoked || !errors.As(r.Err, &failure) || failure.Kind != revoker.MissingPermission {
				t.Errorf("%s: %+v", name, r)
			}
		}
		w.wantRevoked()
	})
}

func TestManualRevocationFinishesTheCallsInFlightWhenStopped(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{Delay: 5 * time.Second})
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		b := manual(t, w)
		b.Concurrency = 1
		all := results(ctx, b, users(t, ada.UserPrincipalName, grace.UserPrincipalName))
		if !all[ada.UserPrincipalName].Revoked || all[grace.UserPrincipalName].Revoked ||
			!errors.Is(all[grace.UserPrincipalName].Err, context.DeadlineExceeded) {
			t.Errorf("%+v", all)
		}
		w.wantRevoked(ada)
		synctest.Wait()
	})
}

func TestManualRevocationVerifiesTheEffect(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		before := time.Now()
		lag := before.Add(10 * time.Second) // the directory replica that answers the read shows it only then
		read := func(_ context.Context, u event.User) (time.Time, error) {
			if at, ok := w.graph.Revoked(u.Name()); ok && u.Name() != grace.UserPrincipalName && time.Now().After(lag) {
				return at, nil
			}
			if u.Name() == alan.UserPrincipalName {
				return time.Time{}, &revoker.Error{Kind: revoker.Forbidden}
			}
			return before.Add(-time.Hour), nil
		}
		b := manual(t, w)
		b.ValidFrom = read
		time.Sleep(time.Second)
		all := results(t.Context(), b, users(t, ada.UserPrincipalName, grace.UserPrincipalName, alan.UserPrincipalName))
		if r := all[ada.UserPrincipalName]; r.Attempt.Unverified != "" || !r.Attempt.ValidFromAfter.After(r.Attempt.ValidFromBefore) {
			t.Errorf("%+v", r)
		}
		if r := all[grace.UserPrincipalName]; r.Attempt.Unverified != revoker.NotAdvanced || !r.Revoked {
			t.Errorf("%+v", r)
		}
		if r := all[alan.UserPrincipalName]; r.Attempt.Unverified == "" || !r.Revoked {
			t.Errorf("%+v", r)
		}
	})
}
