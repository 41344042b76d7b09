package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

const queue = "events"

// stage holds the two embedded servers, which run in this process, and what they recorded.
type stage struct {
	broker *servicebus.Broker
	graph  *graph.Server
	web    *http.Server
	env    []string
	sender *azservicebus.Sender
	client *azservicebus.Client

	mu          sync.Mutex
	enqueued    map[int64]time.Time // by sequence number
	first, last time.Time           // first delivery, last settlement
	settled     int

	lastReplayed time.Time // completion of a dead letter
}

func newStage(people int, quota graph.Quota) (*stage, error) {
	s := &stage{enqueued: map[int64]time.Time{}}
	var users []graph.User
	for i := range people {
		users = append(users, graph.User{ID: userID(i), UserPrincipalName: fmt.Sprintf("user%d@contoso.com", i), UserType: "Member"})
	}
	var err error
	if s.graph, err = graph.New(graph.Config{Tenant: "contoso", Users: users, Quota: quota}); err != nil {
		return nil, err
	}
	s.broker, err = servicebus.New(servicebus.Config{
		Queues:  []servicebus.QueueConfig{{Name: queue, LockDuration: time.Minute, MaxDeliveryCount: 100}},
		Observe: s.observe,
	})
	if err != nil {
		return nil, err
	}
	amqp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.web = &http.Server{Handler: s.graph, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.broker.Serve(amqp) }()
	go func() { _ = s.web.Serve(web) }()
	connection := servicebus.ConnectionString(amqp.Addr().String(), servicebus.DefaultKey)
	root := "http://" + web.Addr().String()
	s.env = []string{
		"REVOKER_SERVICEBUS_CONNECTION_STRING=" + connection,
		"REVOKER_SERVICEBUS_QUEUE=" + queue,
		"REVOKER_GRAPH_ENDPOINT=" + root,
		"REVOKER_GRAPH_TOKEN_URL=" + root + "/contoso/oauth2/v2.0/token",
		"REVOKER_GRAPH_CLIENT_ID=client",
		"REVOKER_GRAPH_CLIENT_SECRET=secret",
		"REVOKER_OPS_ADDRESS=127.0.0.1:0",
		"REVOKER_GUARD_MAX_USERS=0", // thousands of users are expected here
	}
	if s.client, err = azservicebus.NewClientFromConnectionString(connection, nil); err != nil {
		return nil, err
	}
	s.sender, err = s.client.NewSender(queue, nil)
	return s, err
}

func (s *stage) close() {
	_ = s.client.Close(context.Background())
	_ = s.broker.Close()
	_ = s.web.Close()
}

func (s *stage) observe(r servicebus.Record) {
	if r.Queue != queue {
		s.observeReplay(r)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.Event {
	case servicebus.Enqueued:
		s.enqueued[r.SequenceNumber] = r.Time
	case servicebus.Delivered:
		if s.first.IsZero() {
			s.first = r.Time
		}
	case servicebus.Completed, servicebus.DeadLettered:
		s.last = r.Time
		s.settled++
	}
}

// idPrefix begins the id of each user of the stage. A canary for nobody has a random id.
const idPrefix = "00000000-0000-4000-8000-"

func userID(i int) string { return fmt.Sprintf("%s%012d", idPrefix, i) }

// calls returns the calls for users, without the canaries.
func (s *stage) calls() []graph.Call {
	return slices.DeleteFunc(s.graph.Calls(), func(c graph.Call) bool { return !strings.HasPrefix(c.Key, idPrefix) })
}

func event(user int) *azservicebus.Message {
	return &azservicebus.Message{Body: fmt.Appendf(nil, `{"type":"device.lost","userId":%q}`, userID(user))}
}

// send publishes n events. Consecutive events belong to different users, in turn.
func (s *stage) send(n, users int) error {
	ctx := context.Background()
	batch, err := s.sender.NewMessageBatch(ctx, nil)
	if err != nil {
		return err
	}
	for i := range n {
		err := batch.AddMessage(event(i%users), nil)
		if errors.Is(err, azservicebus.ErrMessageTooLarge) {
			if err := s.sender.SendMessageBatch(ctx, batch, nil); err != nil {
				return err
			}
			if batch, err = s.sender.NewMessageBatch(ctx, nil); err != nil {
				return err
			}
			err = batch.AddMessage(event(i%users), nil)
		}
		if err != nil {
			return err
		}
	}
	return s.sender.SendMessageBatch(ctx, batch, nil)
}

// process is a running contender.
type process struct {
	*exec.Cmd
	out bytes.Buffer
}

// start runs a contender. The worker's log goes to /dev/null: a container's log goes to a pipe that
// another process reads.
func (s *stage) start(name string, env ...string) (*process, error) {
	var p process
	switch name {
	case ourWorker:
		p.Cmd = exec.Command(workerBinary, "run")
	case nodeWorker:
		p.Cmd = exec.Command("node", nodeProgram)
		p.Stdout, p.Stderr = &p.out, &p.out
	default:
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		p.Cmd = exec.Command(self, "contender", name) //nolint:gosec // this program
		p.Stdout, p.Stderr = &p.out, &p.out
	}
	p.Env = append(append(os.Environ(), s.env...), env...)
	return &p, p.Start()
}

// stop sends SIGTERM to the contender and waits for its end.
func (p *process) stop() error {
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := p.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, &p.out)
	}
	return nil
}

// cpu returns the CPU time that the process has used. It must have ended.
func (p *process) cpu() time.Duration { return p.ProcessState.UserTime() + p.ProcessState.SystemTime() }

var peak = regexp.MustCompile(`(?m)^VmHWM:\s+(\d+) kB$`)

// peakMemory returns the process's peak resident memory so far, in bytes. It works on Linux only.
func (p *process) peakMemory() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
	if err != nil {
		return 0, err
	}
	match := peak.FindSubmatch(status)
	if match == nil {
		return 0, errors.New("no VmHWM in /proc/PID/status")
	}
	kb, err := strconv.ParseInt(string(match[1]), 10, 64)
	return kb << 10, err
}

// runToTheEnd runs a command against the servers, and returns its peak memory in bytes. It measures
// while the process runs, because the peak that the system reports after its end includes the
// memory of the process that started it.
func (s *stage) runToTheEnd(cmd *exec.Cmd) (peak int64, err error) {
	p := &process{Cmd: cmd}
	p.Env = append(os.Environ(), s.env...)
	p.Stdout, p.Stderr = &p.out, &p.out
	if err := p.Start(); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- p.Wait() }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			if err != nil {
				return 0, fmt.Errorf("%w: %s", err, &p.out)
			}
			return peak, nil
		case <-tick.C:
			if now, err := p.peakMemory(); err == nil { // the process may have ended
				peak = max(peak, now)
			}
		}
	}
}

// awaitSettled waits until n messages are settled. It fails after limit.
func (s *stage) awaitSettled(n int, limit time.Duration) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		s.mu.Lock()
		settled := s.settled
		s.mu.Unlock()
		if settled >= n {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d messages are settled after %s", settled, n, limit)
		}
	}
}

// rate returns the number of messages settled per second between the first delivery and the last
// settlement.
func (s *stage) rate() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return float64(s.settled) / s.last.Sub(s.first).Seconds()
}

// freeAddress returns a loopback address that was free a moment ago.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
