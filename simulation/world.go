package simulation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/alicebob/miniredis/v2"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/emulator/audit"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// roles are the app's permissions.
var roles = []string{"User.RevokeSessions.All", "User.Read.All"}

// patience is how long after the last event and the last fault everything must be settled: somebody for whom Graph answers 5xx for ever costs
// retry.max_age for each replica that has a message about him, one after the other.
const patience = 12 * time.Hour

// world is a running scenario.
type world struct {
	Scenario
	variant Variant
	log     *zap.Logger

	broker                *servicebus.Broker
	graph                 *graph.Server
	listener              *graph.MemoryListener
	journal               audit.Journal
	away                  atomic.Bool          // no connection to the broker can be made
	redis                 *miniredis.Miniredis // nil: each worker for itself
	redisAway, redisHangs atomic.Bool
	records               []servicebus.Record
	start                 time.Time

	mu       sync.Mutex
	problems []string
	active   int           // messages in the queue
	sent     bool          // all are sent
	settled  chan struct{} // closed when the last one is settled

	places  []*faults
	fleet   []*worker // by place
	retired []*worker
}

// Play runs the scenario in the bubble that the caller has made, and returns what is wrong with its outcome. variant breaks the worker; the zero
// Variant does not. The workers log to log.
func Play(s Scenario, variant Variant, log *zap.Logger) Outcome {
	w := &world{Scenario: s, variant: variant, log: log, start: time.Now(), settled: make(chan struct{}), listener: graph.NewMemoryListener()}
	w.openRedis()
	if err := w.open(); err != nil {
		return Outcome{Problems: []string{err.Error()}}
	}
	web := &http.Server{Handler: w.graph} //nolint:gosec // in memory
	served := make(chan error, 1)
	go func() { served <- web.Serve(w.listener) }()

	var busy sync.WaitGroup
	busy.Go(w.publish)
	for i := range w.Workers {
		w.places = append(w.places, &faults{})
		p, err := w.startWorker(w.places[i])
		if err != nil {
			return Outcome{Problems: []string{err.Error()}}
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
		p.release()
	}
	_ = w.broker.Close()
	_ = web.Close()
	if w.redis != nil {
		w.redis.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		w.wrong("the embedded Graph: %v", err)
	}
	// Token renewers that the SDK has lost end with their tokens.
	time.Sleep(24 * time.Hour)
	synctest.Wait()
	return w.outcome(took)
}

// open makes the servers.
func (w *world) open() error {
	var known []graph.User
	for _, p := range w.People {
		if p.Fate != Unknown {
			known = append(known, p.User)
		}
	}
	var err error
	w.graph, err = graph.New(graph.Config{
		Tenant: "contoso", Users: known, Quota: w.Quota, ClockOffset: w.GraphAhead,
		Apps: []graph.App{{ClientID: "app", Secret: clientSecret, Roles: roles}},
	})
	if err != nil {
		return err
	}
	for _, p := range w.People {
		switch p.Fate {
		case Cursed:
			w.graph.Inject(graph.Fault{User: p.ID, ValueFalse: true})
		case Sick:
			w.graph.Inject(graph.Fault{User: p.ID, Status: 500})
		}
	}
	w.broker, err = servicebus.New(servicebus.Config{
		Queues:  []servicebus.QueueConfig{{Name: queue, LockDuration: w.Lock, MaxDeliveryCount: 100}},
		Observe: w.observe,
	})
	return err
}

// observe counts what is in the queue.
func (w *world) observe(r servicebus.Record) {
	w.journal.Observe(r)
	if r.Queue != queue {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.records = append(w.records, r)
	switch r.Event {
	case servicebus.Enqueued:
		w.active++
	case servicebus.Completed, servicebus.DeadLettered, servicebus.Expired:
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

// wrong notes a problem.
func (w *world) wrong(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

// must notes an error of the simulation itself.
func (w *world) must(err error) {
	if err != nil {
		w.wrong("the simulation: %v", err)
	}
}

// publish sends the messages, each at its time, over a connection that no fault touches.
func (w *world) publish() {
	if err := w.send(); err != nil {
		w.wrong("publish: %v", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent = true
	w.maybeSettled()
}

func (w *world) send() error {
	ctx := context.Background()
	client, err := azservicebus.NewClientFromConnectionString(connection, &azservicebus.ClientOptions{
		NewWebSocketConn: func(context.Context, azservicebus.NewWebSocketConnArgs) (net.Conn, error) {
			return w.broker.NewClientConn()
		},
	})
	if err != nil {
		return err
	}
	defer client.Close(ctx)
	sender, err := client.NewSender(queue, nil)
	if err != nil {
		return err
	}
	sends := slices.Clone(w.Sends)
	slices.SortStableFunc(sends, func(a, b Send) int { return cmp.Compare(a.At, b.At) })
	for len(sends) > 0 {
		time.Sleep(time.Until(w.start.Add(sends[0].At)))
		batch, err := sender.NewMessageBatch(ctx, nil)
		if err != nil {
			return err
		}
		n := 0
		for ; n < len(sends) && sends[n].At-sends[0].At < 20*time.Millisecond; n++ {
			if err := batch.AddMessage(&azservicebus.Message{MessageID: &sends[n].ID, Body: w.body(sends[n])}, nil); err != nil {
				return err
			}
		}
		if err := sender.SendMessageBatch(ctx, batch, nil); err != nil {
			return err
		}
		sends = sends[n:]
	}
	return nil
}

// body is a message's content.
func (w *world) body(s Send) []byte {
	if s.Bad {
		return []byte(`{"type":"device.lost","userId":"nobody"}`)
	}
	var events []string
	for _, i := range s.People {
		p := w.People[i]
		// A guest and a protected person are known by name here: by id alone nobody could tell, unless users are read.
		if s.ByName || p.Fate == Guest {
			events = append(events, fmt.Sprintf(`{"type":"device.lost","userPrincipalName":%q}`, p.UserPrincipalName))
		} else {
			events = append(events, fmt.Sprintf(`{"type":"device.stolen","userId":%q}`, p.ID))
		}
	}
	if len(events) == 1 {
		return []byte(events[0])
	}
	return []byte("[" + strings.Join(events, ",") + "]")
}

// cause lets a fault happen in its time.
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
		return // is being replaced
	}
	end(old)
	next, err := w.startWorker(w.places[place])
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.problems = append(w.problems, err.Error())
		next = old
	} else {
		w.retired = append(w.retired, old)
	}
	w.fleet[place] = next
}
