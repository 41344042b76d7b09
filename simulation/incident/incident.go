// Package incident plays a mass incident in virtual time: a whole organization has to be signed out
// at Graph's quota by several workers, while devices are stolen, and Graph goes away in the middle.
// The workers are the real code with the program's defaults; Service Bus, Graph, and Redis are
// imitated in memory. The figures come from what the servers record, and not from what the workers
// report.
package incident

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/alicebob/miniredis/v2"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/emulator/bubble"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/invariants"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/retry"
)

// Config describes an incident.
type Config struct {
	// People is how many are signed out, with an event each, all of which are in the queue when the
	// workers start.
	People int
	// Replicas is the number of workers. With Redis they share what they know.
	Replicas int
	Redis    bool
	// Quota is that of Graph.
	Quota graph.Quota
	// AwayAt is when Graph goes away, from the workers' start on, and AwayFor for how long.
	AwayAt, AwayFor time.Duration
	// StolenEvery is the time between two devices that are reported stolen through the urgent source,
	// each of a person of its own.
	StolenEvery time.Duration
	// Fastest and Slowest bound how long a request to Graph takes.
	Fastest, Slowest time.Duration
	// Seed decides these durations.
	Seed uint64
	// Log gets what the workers log.
	Log *zap.Logger `json:"-"`
}

const (
	queue       = "events"
	urgentQueue = "urgent"
	// bystanders are people in the directory whom no event concerns.
	bystanders = 1000
	// patience bounds the time until everybody is signed out.
	patience = 24 * time.Hour
	// lookEvery is the time between two looks at the memory, and cleanEvery between those before which
	// the garbage is collected.
	lookEvery, cleanEvery = 5 * time.Second, 100 * time.Second
)

// world is a running incident.
type world struct {
	Config
	broker  *servicebus.Broker
	graph   *bubble.Graph
	redis   *miniredis.Miniredis // nil: the workers share nothing
	journal invariants.Journal
	start   time.Time // of the workers
	ops     operations

	mu       sync.Mutex
	draw     *rand.Rand
	enqueued map[string]time.Time // devices that were stolen, by the id of the message
	left     int                  // messages of the mass that are not settled
	active   int                  // all messages that are not settled
	done     bool                 // no message will be sent any more
	massDone chan struct{}        // closed when left is 0
	settled  chan struct{}        // closed when active is 0 and nothing more is sent
}

// Play plays the incident in the caller's bubble.
func Play(cfg Config) (Result, error) {
	w := &world{
		Config: cfg, draw: rand.New(rand.NewPCG(cfg.Seed, 1)), enqueued: map[string]time.Time{},
		massDone: make(chan struct{}), settled: make(chan struct{}),
	}
	if err := w.open(); err != nil {
		return Result{}, err
	}
	client, err := w.client()
	if err != nil {
		return Result{}, err
	}
	if err := w.reportTheMass(client); err != nil {
		return Result{}, err
	}
	memory := newMemory()
	w.start = time.Now()
	w.ops.start = w.start
	var fleet []*worker
	for range w.Replicas {
		p, err := w.startWorker()
		if err != nil {
			return Result{}, err
		}
		fleet = append(fleet, p)
	}
	ending, end := context.WithCancel(context.Background())
	var others sync.WaitGroup
	others.Go(func() { memory.watch(ending) })
	others.Go(func() { w.goAway(ending) })
	others.Go(func() { w.expire(ending) })
	stolen := make(chan error, 1)
	go func() { stolen <- w.reportStolen(client) }()

	err = <-stolen
	select {
	case <-w.settled:
	case <-time.After(patience):
	}
	end()
	others.Wait()
	for _, p := range fleet {
		p.close()
	}
	_ = client.Close(context.Background())
	_ = w.broker.Close()
	if closed := w.graph.Close(); err == nil {
		err = closed
	}
	if w.redis != nil {
		w.redis.Close()
	}
	bubble.Drain()
	memory.end()
	return w.result(memory), err
}

// open starts the servers.
func (w *world) open() error {
	if err := w.openRedis(); err != nil {
		return err
	}
	var users []graph.User
	for i := range w.People + bystanders {
		users = append(users, person("mass", i))
	}
	var err error
	w.graph, err = bubble.NewGraph(graph.Config{
		Tenant: tenant, Users: users, Quota: w.Quota, MaxCalls: 10 * (w.People + bystanders),
		Apps: []graph.App{{ClientID: clientID, Secret: clientSecret, Roles: []string{"User.RevokeSessions.All", "User.Read.All"}}},
	})
	if err != nil {
		return err
	}
	var queues []servicebus.QueueConfig
	for _, name := range []string{urgentQueue, queue} {
		queues = append(queues, servicebus.QueueConfig{
			Name: name, LockDuration: time.Minute, MaxDeliveryCount: 100, DeadLetterOnExpiration: true,
		})
	}
	w.broker, err = servicebus.New(servicebus.Config{Queues: queues, Observe: w.observe})
	return err
}

// ids begins the ids of the people of each kind.
var ids = map[string]string{"mass": "00000000-0000-4000-8000-", "stolen": "11111111-0000-4000-8000-"}

// person is the i-th of a kind.
func person(kind string, i int) graph.User {
	return graph.User{
		ID: fmt.Sprintf("%s%012d", ids[kind], i), UserPrincipalName: fmt.Sprintf("%s%d@contoso.com", kind, i),
		UserType: "Member", AccountEnabled: true,
	}
}

// message is an event about one person, whose id is the message's.
func message(kind, id string) *azservicebus.Message {
	return &azservicebus.Message{MessageID: &id, Body: fmt.Appendf(nil, `{"type":%q,"userId":%q}`, kind, id)}
}

// reportTheMass sends an event about each person of the mass.
func (w *world) reportTheMass(client *azservicebus.Client) error {
	ctx := context.Background()
	sender, err := client.NewSender(queue, nil)
	if err != nil {
		return err
	}
	defer sender.Close(ctx)
	for i := 0; i < w.People; {
		batch, err := sender.NewMessageBatch(ctx, nil)
		if err != nil {
			return err
		}
		for ; i < w.People && batch.NumMessages() < 1000; i++ {
			if err := batch.AddMessage(message("user.offboarded", person("mass", i).ID), nil); err != nil {
				return err
			}
		}
		if err := sender.SendMessageBatch(ctx, batch, nil); err != nil {
			return err
		}
	}
	return nil
}

// reportStolen reports devices until the mass is settled.
func (w *world) reportStolen(client *azservicebus.Client) error {
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.done = true
		w.maybeSettled()
	}()
	ctx := context.Background()
	sender, err := client.NewSender(urgentQueue, nil)
	if err != nil {
		return err
	}
	defer sender.Close(ctx)
	timer := time.NewTimer(w.StolenEvery / 2)
	defer timer.Stop()
	for i := 0; ; i++ {
		select {
		case <-timer.C:
			timer.Reset(w.StolenEvery)
		case <-w.massDone:
			return nil
		case <-time.After(patience):
			return fmt.Errorf("the mass is not settled after %s", patience)
		}
		who := person("stolen", i)
		if err := w.graph.AddUser(who); err != nil {
			return err
		}
		if err := sender.SendMessage(ctx, message("device.stolen", who.ID), nil); err != nil {
			return err
		}
	}
}

// goAway makes Graph and its sign-in answer nothing but 503 for a while.
func (w *world) goAway(ctx context.Context) {
	if retry.Sleep(ctx, w.AwayAt) != nil {
		return
	}
	defer w.graph.Inject(graph.Fault{Status: 503})()
	defer w.graph.Inject(graph.Fault{Status: 503, Token: true})()
	_ = retry.Sleep(ctx, w.AwayFor)
}

// observe counts the messages that are not settled.
func (w *world) observe(r servicebus.Record) {
	w.journal.Observe(r)
	if strings.HasSuffix(r.Queue, "/$DeadLetterQueue") {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch r.Event {
	case servicebus.Enqueued:
		w.active++
		if r.Queue == urgentQueue {
			w.enqueued[r.MessageID] = r.Time
		} else {
			w.left++
		}
	case servicebus.Completed, servicebus.DeadLettered, servicebus.Expired:
		w.active--
		if r.Queue == queue {
			if w.left--; w.left == 0 {
				close(w.massDone)
			}
		}
		w.maybeSettled()
	}
}

// maybeSettled notices the end. The caller holds the lock.
func (w *world) maybeSettled() {
	if w.done && w.active == 0 {
		close(w.settled)
	}
}

// between draws a duration.
func (w *world) between(least, most time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return least + time.Duration(w.draw.Int64N(int64(most-least)+1))
}

// calls are the calls for people, by their start, without the canaries, which are for nobody.
func (w *world) calls() []graph.Call {
	return slices.DeleteFunc(w.graph.Calls(), func(c graph.Call) bool { return c.UserID == "" })
}
