package consumer_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/emulator/graph"
)

// readers are the permissions of an app that may read users.
var readers = []string{"User.RevokeSessions.All", "User.Read.All"}

// count returns how many requests Graph has seen: attempts, and reads of users.
func (w *world) count() (calls, reads int) {
	for _, call := range w.graph.Calls() {
		switch {
		case call.Method == http.MethodGet:
			reads++
		case call.UserID != "": // others are canaries
			calls++
		}
	}
	return calls, reads
}

func TestNameAndIDOfOnePersonAreOneUser(t *testing.T) {
	for name, c := range map[string]struct {
		settings settings
		calls    int
	}{
		"users may be read":                       {settings{readUsers: true, roles: readers}, 1},
		"users are not read":                      {settings{}, 2},
		"users shall be read, and it is refused":  {settings{readUsers: true}, 2},
		"the name is asked for once for a storm":  {settings{readUsers: true, roles: readers}, 1},
		"one call at a time, and little patience": {settings{readUsers: true, roles: readers, concurrency: 1}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, c.settings)
				messages := []*azservicebus.Message{about(ada), named(ada.UserPrincipalName)}
				if strings.Contains(name, "storm") {
					for range 8 {
						messages = append(messages, named(strings.ToUpper(ada.UserPrincipalName)))
					}
				}
				w.send(messages...)
				time.Sleep(10 * time.Second) // so that the first attempt covers all
				w.run()
				w.settled(2 * time.Minute)
				w.wantRevoked(ada)
				calls, reads := w.count()
				if calls != c.calls {
					t.Errorf("%d calls, want %d", calls, c.calls)
				}
				if strings.Contains(name, "storm") && reads > 3 {
					t.Errorf("%d reads for one person", reads)
				}
			})
		})
	}
}

func TestNameThatWasGivenToSomebodyElseSignsOutWhoHasIt(t *testing.T) {
	for name, others := range map[string][]*azservicebus.Message{
		"alone": nil,
		"beside an event about who had it before": {about(ada)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, settings{readUsers: true, roles: readers})
				w.run()
				w.send(named(ada.UserPrincipalName))
				w.settled(time.Minute)
				time.Sleep(2 * time.Minute) // the window is over, and the account of the name is still remembered
				heir := graph.User{ID: "0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c99", UserPrincipalName: ada.UserPrincipalName, UserType: "Member"}
				former := ada
				former.UserPrincipalName = "former@contoso.com"
				w.graph.RemoveUser(ada.ID)
				for _, u := range []graph.User{heir, former} {
					if err := w.graph.AddUser(u); err != nil {
						t.Fatal(err)
					}
				}
				w.send(append(others, named(ada.UserPrincipalName))...)
				w.settled(2 * time.Minute)
				if _, revoked := w.graph.Revoked(heir.ID); !revoked {
					t.Error("who has the name now is not revoked")
				}
				if _, revoked := w.graph.Revoked(former.ID); revoked != (others != nil) {
					t.Errorf("who had the name before: revoked is %v", revoked)
				}
				w.wantDead(nil)
			})
		})
	}
}

func TestNameOfAUserProtectedByIDIsNotCalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, settings{readUsers: true, roles: readers, protected: []string{ada.ID, grace.UserPrincipalName}})
		w.run()
		w.send(named(ada.UserPrincipalName), about(grace), about(alan))
		w.settled(time.Minute)
		w.wantDead(map[string]string{"m0": "ProtectedUser", "m1": "ProtectedUser"})
		w.wantRevoked(alan)
	})
}

func TestNameThatIsResolvedLateIsOneUserWithItsID(t *testing.T) {
	for name, away := range map[string]graph.Fault{
		"Graph was down":  {Status: http.StatusServiceUnavailable},
		"Graph was slow":  {Delay: 20 * time.Second},
		"Graph throttled": {Status: http.StatusTooManyRequests, RetryAfter: "10"},
		"Graph dropped":   {Drop: true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, settings{readUsers: true, roles: readers}, func(t *testing.T, w *world) {
				both := about(ada)
				both.Body = fmt.Appendf(nil, `[{"type":"device.lost","userId":%q},{"type":"device.lost","userPrincipalName":%q}]`,
					ada.ID, ada.UserPrincipalName)
				w.send(about(ada), named(ada.UserPrincipalName),
					named(strings.ToUpper(ada.UserPrincipalName)), both, named(grace.UserPrincipalName))
				time.Sleep(10 * time.Second) // so that the first attempt covers all
				mend := w.graph.Inject(away)
				w.run()
				time.Sleep(30 * time.Second)
				mend()
				w.settled(10 * time.Minute)
				w.wantRevoked(ada, grace)
				w.wantDead(nil)
				well := map[string]int{}
				for _, call := range w.graph.Calls() {
					if call.Revoked {
						well[call.UserID]++
					}
				}
				if well[ada.ID] != 1 || well[grace.ID] != 1 {
					t.Errorf("Ada was called %d times, Grace %d times; want once each", well[ada.ID], well[grace.ID])
				}
			})
		})
	}
}

// A name that could not be resolved at first is resolved by its attempt. Then there must be an
// attempt for the account, whichever other users the message has.
func TestNameResolvedLateDoesNotWaitForEventsBeforeItInTheMessage(t *testing.T) {
	inBubble(t, settings{readUsers: true, roles: readers}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{User: grace.ID, Status: 403, Method: http.MethodPost})
		w.graph.Inject(graph.Fault{User: grace.UserPrincipalName, Status: 403, Method: http.MethodPost})
		reads := w.graph.Inject(graph.Fault{Status: 503, Method: http.MethodGet}) // so that both are added to the ledger by their names
		var events []string
		for _, u := range []graph.User{grace, ada} {
			events = append(events, `{"type":"device.stolen","userPrincipalName":"`+u.UserPrincipalName+`"}`)
		}
		w.send(&azservicebus.Message{Body: []byte("[" + strings.Join(events, ",") + "]")})
		w.run()
		time.Sleep(time.Second)
		reads()
		time.Sleep(time.Minute)
		if _, ok := w.graph.Revoked(ada.ID); !ok {
			t.Errorf("not called within a minute: %v", w.lines())
		}
	})
}
