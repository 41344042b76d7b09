package consumer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/coordination"
	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/emulator/bubble"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/leaks"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
	"github.com/session-revoker/session-revoker/sanitizer"
	"github.com/session-revoker/session-revoker/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	queue  = "events"
	urgent = "urgent"
	// clientSecret, the keys and all tokens must never be in the log.
	clientSecret = "9f2c-client-secret"
)

// These are the users of the tests.
var (
	ada   = member("0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c01", "ada@contoso.com")
	grace = member("0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c02", "grace@contoso.com")
	alan  = member("0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c03", "alan@contoso.com")
	guest = graph.User{
		ID: "0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c04", UserPrincipalName: "v_fabrikam.com#EXT#@contoso.com",
		UserType: "Guest", AccountEnabled: true,
	}
	canaries = member("0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c06", "canary@contoso.com")
	glass    = member("0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c05", "breakglass@contoso.com")
)

// member returns a user who belongs to the tenant.
func member(id, upn string) graph.User {
	return graph.User{ID: id, UserPrincipalName: upn, UserType: "Member", AccountEnabled: true}
}

// world is a worker between an embedded Service Bus and an embedded Graph. The real clients connect
// to both in memory, so the worker can run in a synctest bubble.
type world struct {
	t       *testing.T
	broker  *servicebus.Broker
	graph   *bubble.Graph
	sender  *azservicebus.Sender
	client  *azservicebus.Client
	accepts atomic.Int64 // the number of requests for a session, so far
	dials   atomic.Int64 // connections to the broker, so far
	// urgentSender sends to the second source, if there is one.
	urgentSender *azservicebus.Sender
	receiver     *azservicebus.Receiver
	logs         *observer.ObservedLogs
	health       *telemetry.Health
	metrics      *telemetry.Metrics
	cfg          consumer.Config // of the worker
	deps         consumer.Dependencies
	worker       *consumer.Consumer
	revoker      *revoker.Revoker

	soft, hard         context.Context
	stopSoft, stopHard context.CancelFunc
	ended              chan int // receives what Run returns; nil while no worker runs
}

// settings holds what a test changes. The zero value of a field means the default in newWorld.
type settings struct {
	volume                   guard.VolumeConfig
	release                  func() (guard.Release, error)
	audit                    func(audit.Decision) // called by one goroutine at a time
	tracer                   trace.Tracer
	concurrency, maxInFlight int
	lock                     time.Duration
	maxDeliveries            int
	canary                   event.User // an account kept for canaries
	drain                    time.Duration
	retry                    retry.Policy
	hashUsers                bool
	roles                    []string
	wrap                     func(consumer.Receiver) consumer.Receiver
	urgent                   bool // there is a second source, which is more urgent
	protected                []string
	readUsers                bool // the worker may read users
	resolveDevices           bool // the worker looks up whose device an event names
	unguarded                bool // there is no sanitizer, so the client gets messages that it cannot read
	sessions                 int  // the maximum number of sessions that are locked at once; 0 if the queue has none
	coordinator              *coordination.Store
	decoder                  consumer.Decoder // instead of one for the worker's own forms
	horizon, maxAge          time.Duration    // horizon lets the worker schedule
	wrapScheduler            func(consumer.Scheduler) consumer.Scheduler
	queueTTL                 time.Duration
	duplicateWindow          time.Duration
}

func defaulted[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

// newWorld builds everything. The worker does not run before run is called.
func newWorld(t *testing.T, s settings) *world {
	w := &world{t: t}
	w.soft, w.stopSoft = context.WithCancel(context.Background())
	w.hard, w.stopHard = context.WithCancel(context.Background())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	w.broker, err = servicebus.New(servicebus.Config{
		Queues: []servicebus.QueueConfig{{
			Name: queue, RequiresSession: s.sessions > 0, DefaultTTL: s.queueTTL, DeadLetterOnExpiration: true,
			DuplicateWindow: s.duplicateWindow,
			LockDuration:    defaulted(s.lock, time.Minute), MaxDeliveryCount: defaulted(s.maxDeliveries, 100),
		}, {
			Name: urgent, LockDuration: defaulted(s.lock, time.Minute), MaxDeliveryCount: defaulted(s.maxDeliveries, 100),
		}},
		MaxMessageSize: 4 << 20,
	})
	must(err)
	roles := s.roles
	if roles == nil {
		roles = []string{"User.RevokeSessions.All"}
	}
	w.graph, err = bubble.NewGraph(graph.Config{
		Tenant: "contoso", Users: []graph.User{ada, grace, alan, guest, glass, canaries},
		Apps: []graph.App{{ClientID: "app", Secret: clientSecret, Roles: roles}},
	})
	must(err)
	transport := w.graph.Transport()

	dialBroker := bubble.DialBroker(w.broker)
	dial := func(ctx context.Context, args azservicebus.NewWebSocketConnArgs) (net.Conn, error) {
		w.dials.Add(1)
		return dialBroker(ctx, args)
	}
	if !s.unguarded {
		dial = sanitizer.New(sanitizer.Options{}).Over(dial)
	}
	client, err := azservicebus.NewClientFromConnectionString(bubble.Signed, &azservicebus.ClientOptions{
		NewWebSocketConn: dial,
		RetryOptions:     azservicebus.RetryOptions{MaxRetries: 1, RetryDelay: time.Second},
	})
	must(err)
	w.sender, err = client.NewSender(queue, nil)
	must(err)
	w.receiver, err = client.NewReceiverForQueue(queue, nil)
	must(err)

	revoke, err := revoker.New(revoker.Config{
		Root: bubble.GraphRoot, Transport: transport,
		Credential: &bubble.Credential{
			Client: &http.Client{Transport: transport}, Tenant: "contoso", ClientID: "app", Secret: clientSecret,
		},
	})
	must(err)
	w.revoker = revoke
	protected, err := guard.NewProtected(append([]string{glass.ID, glass.UserPrincipalName}, s.protected...))
	must(err)
	native, err := event.NewDecoder(event.Config{})
	must(err)
	core, logs := observer.New(zap.DebugLevel)
	w.logs = logs
	w.health = telemetry.NewHealth(consumer.MaxSilence, consumer.HealthParts(queue)...)
	if s.urgent {
		w.health = telemetry.NewHealth(consumer.MaxSilence, consumer.HealthParts(urgent, queue)...)
	}
	w.metrics = telemetry.NewMetrics("test", "test")
	var receiver consumer.Receiver = w.receiver
	if s.wrap != nil {
		receiver = s.wrap(receiver)
	}
	sources := []consumer.Source{{Entity: queue, Receiver: receiver}}
	if s.horizon > 0 {
		sources[0].Scheduler = w.sender
		if s.wrapScheduler != nil {
			sources[0].Scheduler = s.wrapScheduler(w.sender)
		}
	}
	if s.sessions > 0 {
		sources = []consumer.Source{{Entity: queue, Sessions: s.sessions, Accept: func(ctx context.Context) (consumer.Session, error) {
			w.accepts.Add(1)
			r, err := client.AcceptNextSessionForQueue(ctx, queue, nil)
			if err != nil {
				return nil, err
			}
			return consumer.NewSession(r), nil
		}}}
	}
	w.client = client
	if s.urgent {
		first, err := client.NewReceiverForQueue(urgent, nil)
		must(err)
		sources = append([]consumer.Source{{Entity: urgent, Receiver: first}}, sources...)
		w.urgentSender, err = client.NewSender(urgent, nil)
		must(err)
	}
	var caller consumer.Revoker = revoke
	var names consumer.Resolver
	var known func(event.User, time.Time) (event.User, bool)
	decoder := s.decoder
	if decoder == nil {
		decoder = native
	}
	if s.readUsers {
		caller, names = revoke.ByAccount(protected.Has, 5*time.Second, 0)
	}
	if s.resolveDevices {
		finding := &revoker.Finding{Graph: revoke, Next: caller, Devices: true, Mails: s.readUsers, SkewMargin: 5 * time.Second}
		caller, known, decoder = finding, finding.Known, lookupDecoder{native}
	}
	w.cfg = consumer.Config{
		Concurrency: defaulted(s.concurrency, 4), MaxInFlight: defaulted(s.maxInFlight, 16),
		Dedupe: dedupe.Config{Window: time.Minute, SkewMargin: 5 * time.Second, Remember: time.Hour, MaxUsers: 10000},
		Lock:   defaulted(s.lock, time.Minute), SettleTimeout: 10 * time.Second, DrainTimeout: defaulted(s.drain, 25*time.Second),
		Horizon: s.horizon, MaxAge: s.maxAge,
		CanaryUser: s.canary, HashUsers: s.hashUsers, Volume: s.volume, ReadRelease: s.release,
		Retry: defaulted(s.retry, retry.Policy{
			MaxAttempts: 4, InitialInterval: time.Second, MaxInterval: time.Minute, MaxAge: time.Hour, LaggingFor: 30 * time.Second,
		}),
	}
	w.deps = consumer.Dependencies{
		Sources: sources, Decoder: decoder, Protected: protected, Revoker: caller, Canary: revoke.Canary, Resolver: names, Known: known,
		Log: zap.New(core), Metrics: w.metrics, Health: w.health, Tracer: s.tracer,
	}
	// An interface that holds a nil pointer is not nil.
	if s.coordinator != nil {
		w.deps.Coordinator = s.coordinator
	}
	if s.audit != nil {
		w.deps.Auditor = &recorder{keep: s.audit}
	}
	w.newWorker()
	t.Cleanup(func() {
		// In this order every goroutine ends inside the bubble.
		w.stopSoft()
		w.stopHard()
		if w.ended != nil {
			w.stop()
		}
		_ = client.Close(context.Background())
		_ = w.broker.Close()
		revoke.Close()
		transport.CloseIdleConnections()
		if err := w.graph.Close(); err != nil {
			t.Error(err)
		}
		bubble.Drain()
		for _, leak := range leaks.Find(strings.Join(w.lines(), "\n"), clientSecret, servicebus.DefaultKey.Value) {
			t.Error(leak)
		}
	})
	return w
}

// run starts the worker.
func (w *world) run() {
	ended := make(chan int, 1)
	w.ended = ended
	go func() { ended <- w.worker.Run(w.soft, w.hard) }()
}

// recorder is a function that implements consumer.Auditor.
type recorder struct {
	mu   sync.Mutex
	keep func(audit.Decision)
}

func (r *recorder) Record(d audit.Decision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keep(d)
}

// newWorker makes a new worker of w.cfg and w.deps.
func (w *world) newWorker() {
	w.t.Helper()
	worker, err := consumer.New(w.cfg, w.deps)
	if err != nil {
		w.t.Fatal(err)
	}
	w.worker = worker
}

// restart runs a new worker with the same dependencies, as a new process would.
func (w *world) restart() {
	w.soft, w.stopSoft = context.WithCancel(context.Background())
	w.newWorker()
	w.run()
}

// stop tells the worker to stop and returns how many messages it could not finish.
func (w *world) stop() int {
	w.stopSoft()
	select {
	case left := <-w.ended:
		w.ended = nil // nothing is left to stop
		// The SDK's link has credit left: abandoned messages are sent to it, and released, until it
		// is used up.
		time.Sleep(time.Second)
		return left
	case <-time.After(10 * time.Minute):
		w.t.Error("the worker did not stop")
		return -1
	}
}

// send sends the messages. Those without a message id get m0, m1, and so on.
func (w *world) send(messages ...*azservicebus.Message) {
	w.t.Helper()
	for i, m := range messages {
		if m.MessageID == nil {
			id := fmt.Sprintf("m%d", i)
			m.MessageID = &id
		}
		if err := w.sender.SendMessage(context.Background(), m, nil); err != nil {
			w.t.Fatal(err)
		}
	}
}

// about returns one message with an event for each user.
func about(users ...graph.User) *azservicebus.Message {
	var events []string
	for _, u := range users {
		events = append(events, fmt.Sprintf(`{"type":"device.stolen","userId":%q}`, u.ID))
	}
	if len(events) == 1 {
		return &azservicebus.Message{Body: []byte(events[0])}
	}
	return &azservicebus.Message{Body: []byte("[" + strings.Join(events, ",") + "]")}
}

// named returns an event that gives its user by user principal name.
func named(upn string) *azservicebus.Message {
	return &azservicebus.Message{Body: []byte(fmt.Sprintf(`{"type":"device.stolen","userPrincipalName":%q}`, upn))}
}

// settled waits until the queue holds nothing but dead letters, for at most limit.
func (w *world) settled(limit time.Duration) {
	w.t.Helper()
	deadline := time.Now().Add(limit)
	for c := w.counts(); c.Active+c.Deferred > 0; c = w.counts() {
		if time.Now().After(deadline) {
			w.t.Fatalf("%d messages are not settled after %v; log: %v", w.counts().Active, limit, w.lines())
		}
		time.Sleep(100 * time.Millisecond)
	}
	synctest.Wait()
}

func (w *world) counts() servicebus.Counts {
	w.t.Helper()
	counts, err := w.broker.Counts(queue)
	if err != nil {
		w.t.Fatal(err)
	}
	return counts
}

// dead returns the dead letters by message id.
func (w *world) dead() map[string]servicebus.PeekedMessage {
	w.t.Helper()
	letters, err := w.broker.Peek(queue+"/$DeadLetterQueue", 0, 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	byID := map[string]servicebus.PeekedMessage{}
	for _, l := range letters {
		byID[l.MessageID] = l
	}
	return byID
}

// wantDead fails unless exactly these messages are dead letters, with these reasons.
func (w *world) wantDead(reasons map[string]string) {
	w.t.Helper()
	dead := w.dead()
	for id, letter := range dead {
		if reasons[id] != letter.DeadLetterReason {
			w.t.Errorf("%s is dead-lettered as %q (%s), want %q", id, letter.DeadLetterReason, letter.DeadLetterDescription, reasons[id])
		}
	}
	for id, reason := range reasons {
		if _, ok := dead[id]; !ok {
			w.t.Errorf("%s is not dead-lettered, want %q", id, reason)
		}
	}
}

// wantRevoked fails unless exactly these users are revoked.
func (w *world) wantRevoked(users ...graph.User) {
	w.t.Helper()
	for _, u := range []graph.User{ada, grace, alan, guest, glass} {
		want := false
		for _, wanted := range users {
			want = want || wanted.ID == u.ID
		}
		if _, got := w.graph.Revoked(u.ID); got != want {
			w.t.Errorf("%s: revoked is %v, want %v", u.UserPrincipalName, got, want)
		}
	}
}

func (w *world) lines() []string {
	var lines []string
	for _, e := range w.logs.All() {
		fields, _ := json.Marshal(e.ContextMap())
		lines = append(lines, e.Message+" "+string(fields))
	}
	return lines
}
