package simulation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/alicebob/miniredis/v2"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/emulator/bubble"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/invariants"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/sanitizer"
)

// roles are the app's permissions.
var roles = []string{"User.RevokeSessions.All", "User.Read.All"}

// canaryAccount is the account that is kept for canaries.
var canaryAccount = graph.User{
	ID: "cafecafe-0000-4000-8000-000000000000", UserPrincipalName: "canary@contoso.com", UserType: "Member", AccountEnabled: true,
}

// patience is how long after the last event and the last fault everything must be settled. A person
// for whom Graph always answers 5xx costs retry.max_age for each replica that has a message about
// them, one after the other.
const patience = 12 * time.Hour

// world is a running scenario.
type world struct {
	Scenario
	variant Variant
	log     *zap.Logger

	broker                *servicebus.Broker
	graph                 *bubble.Graph
	journal               invariants.Journal
	away                  atomic.Bool          // no connection to the broker can be made
	redis                 *miniredis.Miniredis // nil: the workers share nothing
	redisAway, redisHangs atomic.Bool
	records               []servicebus.Record
	start                 time.Time

	mu       sync.Mutex
	problems []string
	copies   map[string]bool // the scheduled messages that became active, by id
	again    map[string]Send // the messages that dead letters were resubmitted as, by id
	absent   []span          // when a worker was being replaced
	active   int             // messages in the queues
	sent     bool            // everything is sent
	settled  chan struct{}   // closed when the last one is settled

	places  []*faults
	fleet   []*worker // by place
	retired []*worker
}

// Play runs the scenario in the caller's bubble and returns what is wrong with its outcome. variant
// breaks the worker; the zero Variant does not. The workers log to log.
func Play(s Scenario, variant Variant, log *zap.Logger) Findings {
	w := &world{
		Scenario: s, variant: variant, log: log, start: time.Now(), settled: make(chan struct{}),
		again: map[string]Send{}, copies: map[string]bool{},
	}
	if err := errors.Join(w.openRedis(), w.open()); err != nil {
		return Findings{Problems: []string{err.Error()}}
	}
	var busy, sending sync.WaitGroup
	sending.Go(func() { w.must(w.publish()) })
	if len(w.Reports) > 0 {
		sending.Go(func() { w.must(w.report()) })
	}
	for _, o := range w.Operations {
		sending.Go(func() { w.must(w.operate(o)) })
	}
	busy.Go(func() {
		sending.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.sent = true
		w.maybeSettled()
	})
	for i := range w.Workers {
		w.places = append(w.places, &faults{})
		p, err := w.startWorker(w.places[i])
		if err != nil {
			return Findings{Problems: []string{err.Error()}}
		}
		w.fleet = append(w.fleet, p)
	}
	for _, f := range w.Faults {
		busy.Go(func() { w.cause(f) })
	}
	busy.Wait()
	select {
	case <-w.settled:
	case <-time.After(patience):
	}
	took := time.Since(w.start)

	for _, p := range append(w.fleet, w.retired...) {
		p.close()
	}
	_ = w.broker.Close()
	w.must(w.graph.Close())
	if w.redis != nil {
		w.redis.Close()
	}
	bubble.Drain()
	return w.findings(took)
}

// open starts the servers.
func (w *world) open() error {
	var users []graph.User
	for _, p := range w.People {
		if p.Answer != Unknown {
			users = append(users, p.User)
		}
	}
	if w.Canary != NoAccount && w.Canary != Deleted {
		users = append(users, canaryAccount)
	}
	var err error
	w.graph, err = bubble.NewGraph(graph.Config{
		Tenant: tenant, Users: users, Quota: w.Quota, ClockOffset: w.GraphAhead,
		Apps: []graph.App{{ClientID: clientID, Secret: clientSecret, Roles: roles}},
	})
	if err != nil {
		return err
	}
	for _, p := range w.People {
		switch p.Answer {
		case NeverRevoked:
			w.graph.Inject(graph.Fault{User: p.ID, ValueFalse: true})
		case Unavailable:
			w.graph.Inject(graph.Fault{User: p.ID, Status: 500})
		case Refused:
			w.graph.Inject(graph.Fault{User: p.ID, Status: 403})
		}
	}
	if w.Canary == Blocked {
		blocked := graph.Fault{User: canaryAccount.ID, Status: 403}
		if w.Seed%2 == 0 {
			blocked = graph.Fault{User: canaryAccount.ID, ValueFalse: true}
		}
		w.graph.Inject(blocked)
	}
	one := servicebus.QueueConfig{
		Name: queue, LockDuration: w.Lock, MaxDeliveryCount: 100, DeadLetterOnExpiration: true, RequiresSession: w.Sessions > 0,
	}
	queues := []servicebus.QueueConfig{one}
	if w.Urgent {
		one.Name, one.RequiresSession = urgentQueue, false
		queues = append(queues, one)
	}
	w.broker, err = servicebus.New(servicebus.Config{Queues: queues, Observe: w.observe})
	return err
}

// observe counts the messages in the queues.
func (w *world) observe(r servicebus.Record) {
	w.journal.Observe(r)
	if r.Queue != queue && r.Queue != urgentQueue {
		return // dead letters are settled
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.records = append(w.records, r)
	switch r.Event {
	case servicebus.Enqueued:
		w.active++
	case servicebus.Forwarded: // a scheduled message becomes active, as another one that comes right after it
		w.active--
	case servicebus.Completed, servicebus.DeadLettered, servicebus.Expired, servicebus.Canceled:
		w.active--
		w.maybeSettled()
	}
}

func (w *world) maybeSettled() {
	if w.sent && w.active == 0 {
		select {
		case <-w.settled:
		default:
			close(w.settled)
		}
	}
}

// wrong adds a problem.
func (w *world) wrong(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

// must adds a problem if the simulation itself fails.
func (w *world) must(err error) {
	if err != nil {
		w.wrong("the simulation: %v", err)
	}
}

// client returns a client of the broker that no fault touches.
func (w *world) client() (*azservicebus.Client, error) {
	return azservicebus.NewClientFromConnectionString(bubble.ConnectionString, &azservicebus.ClientOptions{
		NewWebSocketConn: sanitizer.New(sanitizer.Options{Originals: 1 << 20}).Over(bubble.DialBroker(w.broker)),
	})
}

// publish sends each message at its time.
func (w *world) publish() error {
	ctx := context.Background()
	client, err := w.client()
	if err != nil {
		return err
	}
	defer client.Close(ctx)
	senders := map[bool]*azservicebus.Sender{}
	for urgent, name := range map[bool]string{false: queue, true: urgentQueue} {
		if senders[urgent], err = client.NewSender(name, nil); err != nil {
			return err
		}
	}
	sends := slices.Clone(w.Sends)
	slices.SortStableFunc(sends, func(a, b Send) int { return cmp.Compare(a.At, b.At) })
	for len(sends) > 0 {
		time.Sleep(time.Until(w.start.Add(sends[0].At)))
		to := senders[sends[0].Urgent]
		batch, err := to.NewMessageBatch(ctx, nil)
		if err != nil {
			return err
		}
		n := 0
		for ; n < len(sends) && sends[n].At-sends[0].At < 20*time.Millisecond && sends[n].Poison == "" &&
			to == senders[sends[n].Urgent]; n++ {
			if err := batch.AddMessage(w.message(sends[n]), nil); err != nil {
				return err
			}
		}
		if n == 0 {
			err, n = w.poison(sends[0]), 1
		} else {
			err = to.SendMessageBatch(ctx, batch, nil)
		}
		if err != nil {
			return err
		}
		sends = sends[n:]
	}
	return nil
}

// byName reports whether the message gives the person's name instead of their id.
func (s Send) byName(p Person) bool { return s.ByName || p.Answer == Guest }

// kind is the type of the person's event.
func (s Send) kind(p Person) string {
	switch {
	case s.Type != "":
		return s.Type
	case s.byName(p):
		return types[1]
	}
	return types[0]
}

// body returns a message's body.
func (w *world) body(s Send) []byte {
	if s.Bad {
		return []byte(`{"type":"device.lost","userId":"nobody"}`)
	}
	var events []string
	for _, i := range s.People {
		p := w.People[i]
		// Events name guests and protected people: by id alone nobody could recognize them, unless
		// users are read.
		if s.byName(p) {
			events = append(events, fmt.Sprintf(`{"type":%q,"userPrincipalName":%q}`, s.kind(p), p.UserPrincipalName))
		} else {
			events = append(events, fmt.Sprintf(`{"type":%q,"userId":%q}`, s.kind(p), p.ID))
		}
	}
	if len(events) == 1 {
		return []byte(events[0])
	}
	return []byte("[" + strings.Join(events, ",") + "]")
}

// cause makes a fault happen at its time.
func (w *world) cause(f Fault) {
	time.Sleep(time.Until(w.start.Add(f.At)))
	if end := w.begin(f); end != nil {
		time.Sleep(f.For)
		end()
	}
}

// replace ends a process and starts another in its place.
func (w *world) replace(place int, end func(*worker)) {
	w.mu.Lock()
	old := w.fleet[place]
	w.fleet[place] = nil
	w.mu.Unlock()
	if old == nil {
		return // it is being replaced
	}
	began := time.Now()
	end(old)
	next, err := w.startWorker(w.places[place])
	w.mu.Lock()
	defer w.mu.Unlock()
	w.absent = append(w.absent, span{began, time.Now()})
	if err != nil {
		w.problems = append(w.problems, err.Error())
		next = old
	} else {
		w.retired = append(w.retired, old)
	}
	w.fleet[place] = next
}
