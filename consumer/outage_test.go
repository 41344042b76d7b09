package consumer_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/internal/raced"
	"github.com/session-revoker/session-revoker/retry"
)

// Whatever form the outage takes, everybody is signed out when it is over.
func TestOutageOfHalfAnHourDeadLettersNothing(t *testing.T) {
	people, later := 150, 30 // more than can be in flight; and those whose events come during the outage
	if raced.Enabled {
		people, later = 20, 5
	}
	all := func(w *world, fault graph.Fault) (heal func()) { return w.graph.Inject(fault) }
	// each breaks the attempts for each user in the directory, so that a canary for nobody is well.
	each := func(fault graph.Fault) func(*world) func() {
		return func(w *world) func() {
			var heals []func()
			for i := range people + later {
				fault.User = person(i).ID
				heals = append(heals, w.graph.Inject(fault))
			}
			return func() {
				for _, heal := range heals {
					heal()
				}
			}
		}
	}
	for name, begin := range map[string]func(*world) (heal func()){
		"503":             func(w *world) func() { return all(w, graph.Fault{Status: http.StatusServiceUnavailable}) },
		"no answer":       func(w *world) func() { return all(w, graph.Fault{Delay: 2 * time.Hour}) },
		"connections end": func(w *world) func() { return all(w, graph.Fault{Drop: true}) },
		"a proxy's page": func(w *world) func() {
			return all(w, graph.Fault{Status: 403, ContentType: "text/html", Body: "<html>"})
		},
		"a portal's welcome": func(w *world) func() {
			return all(w, graph.Fault{Status: 200, ContentType: "text/html", Body: "<html>"})
		},
		"no token": func(w *world) func() {
			w.graph.RevokeTokens()
			return all(w, graph.Fault{Token: true, Status: http.StatusServiceUnavailable})
		},
		"the permission is taken away": func(w *world) func() {
			w.graph.SetRoles("app", []string{"User.Read.All"})
			w.graph.RevokeTokens()
			return func() {
				w.graph.SetRoles("app", []string{"User.RevokeSessions.All"})
				w.graph.RevokeTokens()
			}
		},
		"all writes 503, the canary is well": each(graph.Fault{Method: http.MethodPost, Status: http.StatusServiceUnavailable}),
		"all writes 403, the canary is well": each(graph.Fault{
			Method: http.MethodPost, Status: 403, ContentType: "application/json", Body: forbidden,
		}),
		"no write is answered, the canary is well":   each(graph.Fault{Method: http.MethodPost, Delay: 2 * time.Hour}),
		"all writes value:false, the canary is well": each(graph.Fault{Method: http.MethodPost, ValueFalse: true}),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, settings{concurrency: 16, maxInFlight: 64, retry: retry.Policy{
				MaxAttempts: 8, InitialInterval: time.Second, MaxInterval: time.Minute, MaxAge: 24 * time.Hour, LaggingFor: time.Minute,
			}}, func(t *testing.T, w *world) {
				users := w.people(0, people+later)
				w.sendAs("before", about(ada))
				w.run()
				w.settled(time.Minute) // Graph is well at first
				heal := begin(w)
				w.sendEach(users[:people])
				for _, u := range users[people:] {
					time.Sleep(time.Minute)
					w.sendAs("about-"+u.ID, about(u))
				}
				w.wantDead(nil)
				if counts := w.counts(); counts.Active+counts.Deferred != people+later {
					t.Errorf("%+v after the outage, want all %d messages", counts, people+later)
				}
				tried := len(w.graph.Calls())
				heal()
				healed := time.Now()
				w.settled(15 * time.Minute)
				w.wantDead(nil)
				for _, u := range users {
					if _, ok := w.graph.Revoked(u.ID); !ok {
						t.Errorf("%s is not revoked", u.UserPrincipalName)
					}
				}
				t.Logf("%d calls during the outage; all users were revoked %s after it", tried, time.Since(healed).Round(time.Second))
			})
		})
	}
}
