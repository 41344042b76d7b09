package app

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/alicebob/miniredis/v2"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/leaks"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/internal/raced"
	"github.com/session-revoker/session-revoker/revoker"
)

// estate holds the embedded Service Bus and Graph that several workers share.
type estate struct {
	broker  *servicebus.Broker
	graph   *graph.Server
	environ []string
	users   int
	half    chan struct{} // closed when half of the messages are settled
	settled chan struct{} // closed when all messages are settled

	meanwhile func()        // runs while the workers run; nil for nothing
	logs      []*workerLog  // of the workers
	tripped   chan struct{} // one value for each worker whose guard has tripped
}

// workerLog holds a worker's log. It sends a value to tripped when the worker's guard trips.
type workerLog struct {
	bytes.Buffer
	tripped chan<- struct{}
}

func (l *workerLog) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("the guard has tripped")) {
		l.tripped <- struct{}{}
	}
	return l.Buffer.Write(p)
}

// newEstate starts the servers and queues two events about each user. The second events come after
// all of the first ones.
func newEstate(t *testing.T, users int) *estate {
	t.Helper()
	e := &estate{users: users, half: make(chan struct{}), settled: make(chan struct{}), tripped: make(chan struct{}, 64)}
	var mu sync.Mutex
	left := 2 * users
	var err error
	e.broker, err = servicebus.New(servicebus.Config{
		Queues: []servicebus.QueueConfig{{Name: "q", LockDuration: time.Minute, MaxDeliveryCount: 100}},
		Observe: func(r servicebus.Record) {
			if r.Event != servicebus.Completed && r.Event != servicebus.DeadLettered {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			switch left--; left {
			case users:
				close(e.half)
			case 0:
				close(e.settled)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- e.broker.Serve(l) }()
	t.Cleanup(func() {
		_ = e.broker.Close()
		<-served
	})
	var people []graph.User
	for i := range users {
		people = append(people, graph.User{ID: userID(i), UserPrincipalName: fmt.Sprintf("user%d@contoso.com", i), UserType: "Member"})
	}
	// Graph's Date has whole seconds only. With this offset it is never behind our clock, so an
	// attempt covers every event that was sent before it.
	e.graph, err = graph.New(graph.Config{Tenant: "contoso", Users: people, ClockOffset: 2 * time.Second, Apps: []graph.App{
		{ClientID: "client", Secret: "secret-of-replicas", Roles: []string{"User.RevokeSessions.All"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(e.graph)
	t.Cleanup(web.Close)
	connection := servicebus.ConnectionString(l.Addr().String(), servicebus.DefaultKey)
	e.environ = []string{
		"REVOKER_SERVICEBUS_CONNECTION_STRING=" + connection,
		"REVOKER_GRAPH_ENDPOINT=" + web.URL,
		"REVOKER_GRAPH_TOKEN_URL=" + web.URL + "/contoso/oauth2/v2.0/token",
		"REVOKER_GRAPH_TENANT_ID=contoso", "REVOKER_GRAPH_CLIENT_ID=client", "REVOKER_GRAPH_CLIENT_SECRET=secret-of-replicas",
		"REVOKER_DEDUPE_SKEW_MARGIN=0s", // there is only one clock
	}
	e.send(t, connection)
	return e
}

func userID(i int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", i) }

func (e *estate) send(t *testing.T, connection string) {
	t.Helper()
	client, err := azservicebus.NewClientFromConnectionString(connection, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close(context.Background())
	sender, err := client.NewSender("q", nil)
	if err != nil {
		t.Fatal(err)
	}
	for first := 0; first < 2*e.users; first += 1000 {
		batch, err := sender.NewMessageBatch(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := first; i < min(first+1000, 2*e.users); i++ {
			body := fmt.Appendf(nil, `{"type":"device.lost","userId":%q}`, userID(i%e.users))
			if err := batch.AddMessage(&azservicebus.Message{Body: body}, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := sender.SendMessageBatch(t.Context(), batch, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// run starts n workers, waits until everything is settled, and returns the log of each worker.
func (e *estate) run(t *testing.T, n int, environ ...string) []*workerLog {
	t.Helper()
	soft, stop := context.WithCancel(t.Context())
	defer stop()
	var running sync.WaitGroup
	for range n {
		log := &workerLog{tripped: e.tripped}
		e.logs = append(e.logs, log)
		worker, err := New(load(t, append(e.environ, environ...)...), log)
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			if err := worker.Run(soft, t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	if e.meanwhile != nil {
		running.Go(e.meanwhile)
	}
	select {
	case <-e.settled:
	case <-time.After(5 * time.Minute):
		t.Error("not everything is settled after 5 minutes")
	}
	stop()
	running.Wait()
	for _, log := range e.logs {
		for _, leak := range leaks.Find(log.String(), "secret-of-replicas", servicebus.DefaultKey.Value) {
			t.Error(leak)
		}
	}
	return e.logs
}

// handled returns the users whose events the worker has settled.
func handled(t *testing.T, log *workerLog) map[string]bool {
	t.Helper()
	users := map[string]bool{}
	for lines := bufio.NewScanner(log); lines.Scan(); {
		var l struct{ User, Outcome string }
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		if l.Outcome != "" {
			users[l.User] = true
		}
	}
	return users
}

func TestReplicasTogetherCallForEachUserOnce(t *testing.T) {
	for _, replicas := range []int{2, 4} {
		t.Run(fmt.Sprintf("%d replicas", replicas), func(t *testing.T) {
			users := 2_000
			if raced.Enabled {
				users /= 4
			}
			e := newEstate(t, users)
			// With few messages in flight, the first worker has not most of them before the second is
			// connected.
			logs := e.run(t, replicas, "REVOKER_REDIS_ADDRESSES="+miniredis.RunT(t).Addr(), "REVOKER_GUARD_MAX_USERS=0",
				"REVOKER_CONSUMER_MAX_IN_FLIGHT=32", "REVOKER_REDIS_TIMEOUT=5s") // with the race detector, the imitation of Redis is slow
			byWorkers := map[string]int{}
			for _, log := range logs {
				for user := range handled(t, log) {
					byWorkers[user]++
				}
			}
			shared := 0
			for _, n := range byWorkers {
				if n > 1 {
					shared++
				}
			}
			if shared < users/10 {
				t.Errorf("only %d users had events at several replicas: this shows nothing", shared)
			}
			calls := map[string]int{}
			for _, call := range e.graph.Calls() {
				if call.Status == 200 {
					calls[call.UserID]++
				}
			}
			twice := 0
			for i := range users {
				if n := calls[userID(i)]; n != 1 {
					twice++
				}
			}
			if twice > 0 || len(calls) != users {
				t.Errorf("%d of %d users were called, %d of them not exactly once", len(calls), users, twice)
			}
			t.Logf("%d users had events at several replicas", shared)
		})
	}
}

func TestReplicasShareTheVolumeGuard(t *testing.T) {
	const users, most = 500, 60
	e := newEstate(t, users)
	release := filepath.Join(t.TempDir(), "release.json")
	environ := []string{
		fmt.Sprintf("REVOKER_GUARD_MAX_USERS=%d", most), "REVOKER_GUARD_RELEASE_FILE=" + release,
		"REVOKER_REDIS_ADDRESSES=" + miniredis.RunT(t).Addr(), "REVOKER_REDIS_TIMEOUT=5s",
	}
	called := func() (n int) {
		for i := range users {
			if _, ok := e.graph.Revoked(userID(i)); ok {
				n++
			}
		}
		return n
	}
	before := -1
	e.meanwhile = func() {
		// When both guards have tripped, no more attempts begin. The last ones, which trip the guard of
		// the other worker, may not have reached Graph yet.
		for range e.logs {
			<-e.tripped
		}
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
			if before = called(); before >= most || time.Now().After(deadline) {
				break
			}
		}
		text, err := json.Marshal(map[string]any{"until": time.Now().Add(time.Hour), "maxUsers": users, "by": "test"})
		if err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(release, text, 0o600); err != nil {
			t.Error(err)
		}
	}
	e.run(t, 2, environ...)
	if before != most {
		t.Errorf("%d people were called by both replicas, want %d", before, most)
	}
	if n := called(); n != users {
		t.Errorf("%d people were called after the release, want all %d", n, users)
	}
}

func TestReplicasGoOnWhenRedisGoesAway(t *testing.T) {
	const users = 2000
	e := newEstate(t, users)
	redis := miniredis.RunT(t)
	go func() { // Redis goes away in the middle of the work
		<-e.half
		redis.Close()
	}()
	// With a short timeout, Redis would also seem to go away and come back on a busy machine.
	logs := e.run(t, 2, "REVOKER_REDIS_ADDRESSES="+redis.Addr(), "REVOKER_REDIS_TIMEOUT=5s", "REVOKER_GUARD_MAX_USERS=0")
	for i := range users {
		if _, ok := e.graph.Revoked(userID(i)); !ok {
			t.Errorf("user %d is not revoked", i)
		}
	}
	for _, log := range logs {
		if n := bytes.Count(log.Bytes(), []byte("Redis does not answer")); n != 1 {
			t.Errorf("the worker logs %d times that Redis does not answer, want once", n)
		}
	}
}

func TestDryRunDoesNotUseRedis(t *testing.T) {
	e := newEstate(t, 1)
	redis := miniredis.RunT(t)
	worker, err := New(load(t, append(e.environ, "REVOKER_REDIS_ADDRESSES="+redis.Addr(), "REVOKER_CONSUMER_DRY_RUN=true")...),
		&bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	soft, stop := context.WithCancel(t.Context())
	stop()
	if err := worker.Run(soft, t.Context()); err != nil {
		t.Fatal(err)
	}
	if worker.store != nil || redis.TotalConnectionCount() != 0 {
		t.Errorf("a dry run connects to Redis")
	}
}

// slow answers after a time, unless the request is canceled before.
type slow struct {
	after func(*http.Request) time.Duration
	next  http.RoundTripper
}

func (s slow) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-time.After(s.after(r)):
		return s.next.RoundTrip(r)
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// answers gives Graph's answers for a user whose revocation never shows an effect.
type answers struct{}

func (answers) RoundTrip(r *http.Request) (*http.Response, error) {
	body := `{"value":true}`
	if r.Method == http.MethodGet {
		body = `{"id":"` + userID(1) +
			`","userPrincipalName":"user1@contoso.com","userType":"Member","signInSessionsValidFromDateTime":"1999-01-01T00:00:00Z"}`
	}
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(body)), Request: r,
	}, nil
}

type anyToken struct{}

func (anyToken) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: "a.b.c"}, nil
}

func TestLeaseLastsLongerThanAnyAttempt(t *testing.T) {
	for name, environ := range map[string][]string{
		"the call alone":      nil,
		"users are read":      {"REVOKER_GRAPH_READ_USERS=true"},
		"effect is verified":  {"REVOKER_GRAPH_READ_USERS=true", "REVOKER_GRAPH_VERIFY_TIMEOUT=1m"},
		"impatient, verified": {"REVOKER_GRAPH_READ_USERS=true", "REVOKER_GRAPH_VERIFY_TIMEOUT=2m", "REVOKER_GRAPH_TIMEOUT=1s"},
	} {
		cfg := load(t, append(environ, "REVOKER_SERVICEBUS_NAMESPACE=contoso.servicebus.windows.net", "REVOKER_GRAPH_TENANT_ID=contoso")...)
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				almost := cfg.Graph.Timeout - time.Millisecond
				transport := slow{next: answers{}, after: func(*http.Request) time.Duration { return almost }}
				if cfg.Graph.VerifyTimeout > 0 { // make the last read begin when the time is up
					called := time.Now().Add(2 * almost)
					last := called.Add(cfg.Graph.VerifyTimeout - 3*time.Second)
					transport.after = func(*http.Request) time.Duration {
						if now := time.Now(); !now.Before(called) && now.Before(last) {
							return 0
						}
						return almost
					}
				}
				graph, err := revoker.New(revoker.Config{
					Root: "https://graph.example", Credential: anyToken{},
					Timeout: cfg.Graph.Timeout, Transport: transport,
				})
				if err != nil {
					t.Fatal(err)
				}
				defer graph.Close()
				user, err := event.NewUser(userID(1), "")
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				if cfg.Graph.ReadUsers {
					_, _ = (&revoker.Verifying{Revoker: graph, VerifyTimeout: cfg.Graph.VerifyTimeout}).Revoke(t.Context(), user)
				} else {
					_, _ = graph.Revoke(t.Context(), user)
				}
				took, lease := time.Since(began), leaseFor(cfg)
				if took < cfg.Graph.Timeout/2 || lease < took+5*time.Second || lease > took+12*time.Second {
					t.Errorf("an attempt took %s, and a lease lasts %s", took, lease)
				}
			})
		})
	}
}
