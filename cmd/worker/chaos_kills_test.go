package main_test

import (
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/invariants"
)

// atLength makes the chaos tests run at full length (make chaos). Without it, they are short
// samples.
var atLength = flag.Bool("chaos", false, "kill, stop and starve the worker for many minutes")

// long returns n with -chaos, and few without it.
func long[T any](n, few T) T {
	if *atLength {
		return n
	}
	return few
}

// crowd sends two events about each person, and returns the users of each message.
func (c *cloud) crowd(people int) map[string][]string {
	c.t.Helper()
	users := map[string][]string{}
	for i := range people {
		for _, who := range []int{i, people - 1 - i} {
			m, name := about(who), fmt.Sprintf("message-%d", len(users))
			m.MessageID = &name
			users[name] = []string{id(who)}
			c.send(m)
		}
	}
	return users
}

// trouble makes Graph fail now and then until the test ends.
func (c *cloud) trouble() {
	faults := []graph.Fault{
		{Count: 5, Status: 503, RetryAfter: "1"},
		{Count: 3, Status: 429, RetryAfter: "1"},
		{Count: 2, Drop: true},
		{Count: 2, DropAfter: true},
		{Count: 2, Truncate: true},
		{Count: 1, Status: 502, ContentType: "text/html", Body: "<html>"},
		{Count: 3, ValueFalse: true},
		{Count: 2, Token: true, Status: 503},
	}
	stop := make(chan struct{})
	c.t.Cleanup(func() { close(stop) })
	go func() {
		tick := time.NewTicker(400 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-tick.C:
				c.graph.Inject(faults[i%len(faults)])
			case <-stop:
				return
			}
		}
	}()
}

// verify checks every guarantee against the servers' records.
func (c *cloud) verify(users map[string][]string, people, workers int) {
	c.t.Helper()
	for _, problem := range c.journal.Check(c.graph.Calls(),
		invariants.Expected{Users: func(message string) []string { return users[message] }, Workers: workers}) {
		c.t.Error(problem)
	}
	if n := c.revoked(people); n != people {
		c.t.Errorf("%d of %d users are revoked and the queue is empty", n, people)
	}
	if dead := c.counts().DeadLetter; dead != 0 {
		c.t.Errorf("%d dead letters", dead)
	}
}

// manyPeople lets the volume guard accept a crowd of more than its default of 1,000 people.
const manyPeople = "REVOKER_GUARD_MAX_USERS=100000"

func TestChaosOfKills(t *testing.T) {
	random := newRand(t)
	kills, people := long(100, 6), long(2500, 150)
	c := newCloud(t, people, 2*time.Second)
	c.graph.Inject(graph.Fault{Delay: 3 * time.Millisecond})
	users := c.crowd(people)
	c.trouble()
	killed := 0
	for ; killed < kills && c.counts().Active > 0; killed++ {
		p := c.start(manyPeople)
		before := len(c.graph.Calls())
		share := random.IntN(2*people/kills + 1)
		c.until("some progress", func() bool { return len(c.graph.Calls()) >= before+share || c.counts().Active == 0 })
		time.Sleep(upTo(random, 5*time.Millisecond))
		if err := p.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = p.Wait()
	}
	p := c.start(manyPeople)
	c.until("its start", func() bool { return strings.Contains(p.out.String(), `"starting"`) }) // nothing may be left for it
	c.until("an empty queue", func() bool { return c.counts().Active == 0 })
	c.verify(users, people, kills+1)
	p.terminate(t)
	t.Logf("killed %d times; %d calls for %d events of %d people", killed, len(c.graph.Calls()), len(users), people)
}

func TestChaosOfTerms(t *testing.T) {
	random := newRand(t)
	terms, people := long(50, 4), long(2500, 150)
	c := newCloud(t, people, time.Minute)
	c.graph.Inject(graph.Fault{Delay: 10 * time.Millisecond})
	users := c.crowd(people)
	var slowest time.Duration
	for range terms {
		p := c.start(manyPeople, "REVOKER_CONSUMER_DRAIN_TIMEOUT=1m")
		before := c.revoked(people)
		share := random.IntN(people/terms + 1)
		c.until("its start", func() bool { return strings.Contains(p.out.String(), `"starting"`) })
		c.until("some progress", func() bool { return c.revoked(people) >= before+share || c.counts().Active == 0 })
		asked := time.Now()
		p.terminate(t)
		slowest = max(slowest, time.Since(asked))
	}
	if slowest > 30*time.Second {
		t.Errorf("a worker took %s to stop", slowest)
	}
	// The drain had time for everything, so no message was abandoned.
	left, err := c.broker.Peek(queue, 0, 2*people)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range left {
		if m.DeliveryCount != 0 {
			t.Errorf("message %d has a failed delivery, although the drain had time", m.SequenceNumber)
		}
	}
	c.start(manyPeople)
	c.until("an empty queue", func() bool { return c.counts().Active == 0 })
	c.verify(users, people, terms+1)
	t.Logf("%d times SIGTERM; the slowest took %s", terms, slowest.Round(time.Millisecond))
}

func TestChaosWhileGraphIsAway(t *testing.T) {
	t.Parallel()
	restarts, away, people := long(20, 2), long(2*time.Minute, 3*time.Second), 50
	c := newCloud(t, people, 5*time.Second)
	heal := c.graph.Inject(graph.Fault{Status: 503})
	users := c.crowd(people)
	for range restarts {
		p := c.start()
		before := len(c.graph.Calls())
		c.until("an attempt", func() bool { return len(c.graph.Calls()) > before })
		p.terminate(t)
	}
	c.start()
	for began := time.Now(); time.Since(began) < away; time.Sleep(100 * time.Millisecond) {
		if counts := c.counts(); counts.DeadLetter != 0 {
			t.Fatalf("an outage caused %d dead letters", counts.DeadLetter)
		}
	}
	heal()
	c.until("an empty queue", func() bool { return c.counts().Active == 0 })
	c.verify(users, people, restarts+1)
}

// away ends the broker's connections, and listens no more until back is called. Meanwhile a socket
// holds the port, so that nobody else gets it.
func (c *cloud) away() (back func()) {
	c.t.Helper()
	must := func(err error) {
		c.t.Helper()
		if err != nil {
			c.t.Fatal(err)
		}
	}
	_ = c.amqp.Close()
	syscall.ForkLock.RLock() // no process that is started meanwhile inherits it
	held, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	must(err)
	syscall.CloseOnExec(held)
	syscall.ForkLock.RUnlock()
	must(syscall.SetsockoptInt(held, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)) // its connections may not be gone
	must(syscall.Bind(held, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: c.amqp.Addr().(*net.TCPAddr).Port}))
	c.broker.CloseConnections()
	return func() {
		c.t.Helper()
		must(syscall.Listen(held, 128))
		file := os.NewFile(uintptr(held), "broker")
		defer file.Close()
		again, err := net.FileListener(file)
		must(err)
		c.amqp = again
		go func() { _ = c.broker.Serve(again) }()
	}
}

func TestChaosOfTheBroker(t *testing.T) {
	t.Parallel()
	random := newRand(t)
	outages, people := long(20, 3), long(1000, 150)
	c := newCloud(t, people, 5*time.Second)
	c.graph.Inject(graph.Fault{Delay: 5 * time.Millisecond})
	users := c.crowd(people)
	p := c.start()
	for range outages {
		before := c.revoked(people)
		c.until("some progress", func() bool { return c.revoked(people) > before || c.counts().Active == 0 })
		back := c.away()
		time.Sleep(upTo(random, time.Second))
		back()
	}
	c.until("an empty queue", func() bool { return c.counts().Active == 0 })
	c.verify(users, people, 2)
	p.terminate(t)
}
