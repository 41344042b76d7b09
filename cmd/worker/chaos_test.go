package main_test

import (
	"bufio"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/invariants"
)

// The users in the chaos tests: real people, whose events the worker must handle within seconds,
// and users whose events come from hostile producers.
const (
	realPeople  = 900
	firstFailer = 10_000
	failers     = 400 // of each kind
	firstLeaver = 20_000
	leavers     = 2_000
	// guardLimit is the number of users that the guard allows to be signed out in an hour, for each
	// event type. There are more leavers than that. There are fewer real people, even together with
	// those failers who may have been signed out because there was no answer.
	guardLimit  = 1_900
	nobodyAfter = 1_000_000
	// askedPerSecond bounds how many users the attacks ask for: each one costs a call, in the order
	// of the messages, and with more calls than the machine can make everybody waits for longer and
	// longer. A queue of 10,000 users must be worked through within 30 s, and the real people need
	// calls, too.
	askedPerSecond = 250
)

// chaos sends attacks and, in between, real events.
type chaos struct {
	*cloud
	*rand.Rand
	users    map[string][]string // the users of each message, by its id
	poisons  int
	asked    int               // number of users, with repetitions, whom attacks have asked to sign out
	unknown  int               // number of ids used so far that Graph does not know
	since    map[int]time.Time // when each real person was first reported
	lastReal int               // the last real person who was reported
}

var seedFlag = flag.Uint64("seed", 0, "seed of the random numbers of a test; 0 picks one")

// newRand returns random numbers for a test. It logs the seed, which -seed repeats.
func newRand(t *testing.T) *rand.Rand {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// upTo returns a random duration below d.
func upTo(r *rand.Rand, d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }

func newChaos(t *testing.T) *chaos {
	c := &chaos{cloud: newCloud(t, realPeople, time.Minute), Rand: newRand(t), users: map[string][]string{}, since: map[int]time.Time{}}
	c.defaults()
	add := func(i int) {
		if err := c.graph.AddUser(graph.User{
			ID: id(i), UserPrincipalName: fmt.Sprintf("user%d@contoso.com", i),
			UserType: "Member",
		}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range leavers {
		add(firstLeaver + i)
	}
	faults := []graph.Fault{
		{Status: http.StatusForbidden},
		{ValueFalse: true},
		{Status: http.StatusServiceUnavailable},
		{Drop: true},
		{Delay: 40 * time.Second, Status: http.StatusGatewayTimeout},
		{Truncate: true},
		{Status: http.StatusOK, Body: "null"},
	}
	for i := range failers * len(failing) {
		kind := i / failers
		if kind == hangs && i%failers >= 40 {
			continue // each one takes a permit for half a minute
		}
		add(firstFailer + i)
		fault := faults[kind]
		fault.User = id(firstFailer + i)
		c.graph.Inject(fault)
	}
	return c
}

// failing lists the kinds of failures, in the order of the faults. A 429 is not among them, because
// it concerns everyone.
var failing = []string{"403", "value is false", "503", "dropped", "hangs", "half an answer", "null"}

const hangs = 4

// message returns a message about users, with its own id.
func (c *chaos) message(kind string, people ...int) *azservicebus.Message {
	var events, ids []string
	for _, i := range people {
		events = append(events, fmt.Sprintf(`{"type":%q,"userId":%q}`, kind, id(i)))
		ids = append(ids, id(i))
	}
	name := fmt.Sprintf("%s-%d", kind, len(c.users))
	c.users[name] = ids
	c.asked += len(people)
	return &azservicebus.Message{MessageID: &name, Body: []byte("[" + strings.Join(events, ",") + "]")}
}

// raw returns an event about one person as a producer with its own AMQP library may encode it: with
// sections before the properties, between them and the body, and after the body.
func (c *chaos) raw(i int, annotations, properties, footer string) []byte {
	name := fmt.Sprintf("raw-%d", len(c.users))
	c.users[name] = []string{id(i)}
	body := fmt.Sprintf(`{"type":"device.stolen","userId":%q}`, id(i))
	var b []byte
	if annotations != "" {
		b = append(b, encoded(0x72, annotations)...)
	}
	b = append(b, encoded(0x73, fmt.Sprintf("\xc0%c\x01\xa1%c%s", len(name)+3, len(name), name))...)
	if properties != "" {
		b = append(b, encoded(0x74, properties)...)
	}
	b = append(b, encoded(0x75, fmt.Sprintf("\xa0%c%s", len(body), body))...)
	if footer != "" {
		b = append(b, encoded(0x78, footer)...)
	}
	return b
}

// strange sends a real event in an unusual form. The worker must handle all of them.
func (c *chaos) strange(i int) {
	forged := map[string]any{
		deadletter.PropertyFailed: "7", deadletter.PropertyOnly: "7", deadletter.PropertyOnlyOf: "x", deadletter.PropertyReplays: "x",
		deadletter.PropertyDeferred: "9999-12-31T00:00:00Z",
		"revoker-unreadable":        "no", "revoker-mended": "no", deadletter.PropertySuperseded: strings.Repeat("x", 30_000),
	}
	switch c.IntN(8) {
	case 0: // char
		c.inject(c.raw(i, "", "\xc1\x0d\x02\xa1\x05grade\x73\x00\x00\x00A", ""))
	case 1: // decimal64
		c.inject(c.raw(i, "", "\xc1\x11\x02\xa1\x05grade\x84\x00\x00\x00A\x00\x00\x00A", ""))
	case 2: // a list as a key
		c.inject(c.raw(i, "", "", "\xc1\x03\x02\x45\x40"))
	case 3:
		c.inject(c.raw(i, "\xc1\x18\x02\xa3\x13x-opt-partition-key\x54\x05", "", ""))
	case 4:
		c.inject(c.raw(i, "", "\xc1\x15\x02\xa1\x10DeadLetterReason\x54\x05", ""))
	case 5:
		m := c.message("device.stolen", i)
		m.ApplicationProperties = forged
		c.send(m)
	default:
		c.send(c.message("device.stolen", i))
	}
}

// real sends an event about the next of the real people, and now and then about an earlier one.
func (c *chaos) real() {
	i := c.lastReal % realPeople
	c.lastReal++
	if _, ok := c.since[i]; !ok {
		c.since[i] = time.Now()
	}
	c.strange(i)
}

// kinds lists the types of hostile events. Those that sign people out have a type that no real
// event has, because too many of them stop all events of their type.
var kinds = []string{"device.stolen", "device.lost", "user.compromised"}

func (c *chaos) kind() string { return kinds[c.IntN(len(kinds))] }

const (
	attacks  = 9 // kinds of attacks
	userless = 2 // the first kinds ask for no user
)

// attack sends one attack of a kind. great is its size.
func (c *chaos) attack(kind, great int) {
	var messages []*azservicebus.Message
	switch kind {
	case 0:
		for range great {
			c.inject(poisons[c.IntN(len(poisons))])
			c.poisons++
		}
	case 1:
		for range 5 * great {
			c.fuzz()
		}
	case 2: // unknown users
		for range 5 * great {
			messages = append(messages, c.message(c.kind(), nobodyAfter+c.unknown))
			c.unknown++
		}
	case 3: // a thousand unknown users in a message
		for range max(1, great/4) {
			people := make([]int, 1000)
			for i := range people {
				people[i] = nobodyAfter + c.unknown
				c.unknown++
			}
			messages = append(messages, c.message(c.kind(), people...))
		}
	case 4: // a thousand users in a message who leave
		for range max(1, great/4) {
			people := c.Perm(leavers)[:1000]
			for i := range people {
				people[i] += firstLeaver
			}
			messages = append(messages, c.message("user.offboarded", people...))
		}
	case 5: // a thousand users in a message who fail
		people := c.Perm(failers * len(failing))[:1000]
		for i := range people {
			people[i] += firstFailer
		}
		messages = append(messages, c.message(c.kind(), people...))
	case 6: // falling times to live: no message may supersede the one before
		life := time.Hour
		who := firstLeaver + c.IntN(leavers)
		for range 20 * great {
			m := c.message("user.offboarded", who)
			m.TimeToLive = new(life)
			life -= time.Second
			messages = append(messages, m)
		}
	case 7: // our own properties
		for range great {
			m := c.message(c.kind(), nobodyAfter+c.unknown, nobodyAfter+c.unknown+1)
			c.unknown += 2
			m.ApplicationProperties = map[string]any{
				deadletter.PropertyFailed: "0", deadletter.PropertyAttempts: int64(5),
				"DeadLetterReason": "x", "DeadLetterErrorDescription": 1.5,
			}
			messages = append(messages, m)
		}
	case 8: // users who fail
		for range 5 * great {
			messages = append(messages, c.message(c.kind(), firstFailer+c.IntN(failers*len(failing))))
		}
	}
	c.sendMany(messages...)
}

// fuzz sends a message with changed bytes. Whichever bytes change, the message concerns no user.
func (c *chaos) fuzz() {
	name := fmt.Sprintf("fuzz-%d", len(c.users))
	c.users[name] = nil
	text := `{"type":"device.stolen","userId":"ffffffff-ffff-4fff-8fff-ffffffffffff"}`
	b := slices.Concat(
		encoded(0x70, "\xc0\x02\x01\x41"),
		encoded(0x72, "\xc1\x0f\x02\xa3\x09x-opt-foo\x54\x05"),
		encoded(0x73, fmt.Sprintf("\xc0%c\x01\xa1%c%s", len(name)+3, len(name), name)),
		encoded(0x74, "\xc1\x20\x04\xa1\x05grade\x73\x00\x00\x00A\xa1\x10DeadLetterReason\x54\x05"),
		encoded(0x75, fmt.Sprintf("\xa0%c%s", len(text), text)),
		encoded(0x78, "\xc1\x08\x02\xa3\x03foo\x54\x05"),
	)
	for range 1 + c.IntN(4) {
		switch i := c.IntN(len(b)); c.IntN(4) {
		case 0:
			b = slices.Delete(b, i, i+1)
		case 1:
			b = slices.Insert(b, i, byte(c.Uint32()))
		default:
			b[i] = byte(c.Uint32())
		}
	}
	_ = c.broker.Inject(queue, b) // it accepts what Service Bus may accept
}

// chartLimit returns the chart's memory limit, in bytes.
func chartLimit(t *testing.T) int64 {
	t.Helper()
	values, err := os.ReadFile("../../deploy/helm/session-revoker/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?s)limits:\s*memory: (\d+)Mi`).FindSubmatch(values)
	if found == nil {
		t.Fatal("the chart has no memory limit")
	}
	mib, _ := strconv.ParseInt(string(found[1]), 10, 64)
	return mib << 20
}

// logState logs the worker's metrics, except for histograms and zeros.
func (c *chaos) logState(metrics string) {
	resp, err := http.Get(metrics)
	if err != nil {
		c.t.Log(err)
		return
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if line := lines.Text(); strings.HasPrefix(line, "session_revoker_") && !strings.Contains(line, "_bucket") &&
			!strings.HasSuffix(line, " 0") {
			c.t.Log(line)
		}
	}
}

// TestHostileProducersDelayNoOne checks that the worker survives whatever hostile producers send,
// with little memory, and that it handles real events at most a minute after the last one. It
// dead-letters what it cannot read, and loses nothing.
func TestHostileProducersDelayNoOne(t *testing.T) {
	if limit := chartLimit(t); limit < maxMemory {
		t.Fatalf("the chart's limit is %d MiB", limit>>20)
	}
	lasts, great := long(2*time.Minute, 10*time.Second), long(40, 12)
	c := newChaos(t)
	for range 5 {
		c.attack(c.IntN(attacks), great)
	}
	p := c.start("REVOKER_CONSUMER_DRAIN_TIMEOUT=2s", fmt.Sprintf("REVOKER_GUARD_MAX_USERS=%d", guardLimit))
	address := c.address(p, opsLine)
	before := c.asked
	for began := time.Now(); time.Since(began) < lasts; time.Sleep(120 * time.Millisecond) {
		c.real()
		if c.IntN(5) > 0 {
			continue
		}
		if kind := c.IntN(attacks); kind < userless || c.asked-before < int(askedPerSecond*time.Since(began).Seconds()) {
			c.attack(kind, 1+c.IntN(great))
		}
	}
	defer func() {
		if t.Failed() {
			c.logState("http://" + address + "/metrics")
		}
	}()
	var took []time.Duration
	var missing int
	defer func() {
		t.Logf("%d of %d real people were not called; the attacks asked for %d", missing, len(c.since), c.asked)
	}()
	c.until("every real event", func() bool {
		missing = 0
		for i := range c.since {
			if _, called := c.graph.Revoked(id(i)); !called {
				missing++
			}
		}
		return missing == 0
	})
	for i, since := range c.since {
		for _, call := range c.graph.CallsFor(id(i)) {
			if call.Revoked {
				took = append(took, call.End.Sub(since))
				break
			}
		}
	}
	slices.Sort(took)
	t.Logf("%d real people were called, half of them within %s, all within %s", len(took), took[len(took)/2].Round(time.Millisecond),
		took[len(took)-1].Round(time.Millisecond))
	unreadable := func() (n int) {
		letters, err := c.broker.Peek(queue+"/$DeadLetterQueue", 0, 1_000_000)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range letters {
			if l.DeadLetterReason == string(deadletter.UnreadableMessage) && !strings.HasPrefix(l.MessageID, "fuzz-") {
				n++
			}
		}
		return n
	}
	c.until("a dead letter for each message that cannot be read", func() bool { return unreadable() >= c.poisons })
	if resp, err := http.Get("http://" + address + "/healthz"); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("the worker is not alive: %v, %v", resp, err)
	} else {
		resp.Body.Close()
	}
	p.wantLittleMemory(t)
	for _, problem := range c.journal.Check(c.graph.Calls(),
		invariants.Expected{Users: func(message string) []string { return c.users[message] }, Workers: 1}) {
		t.Error(problem)
	}
	began := time.Now()
	p.terminate(t)
	t.Logf("%d messages, %d of them unreadable, %d unknown people; %d calls; %+v; it stopped within %s", len(c.users)+c.poisons,
		c.poisons, c.unknown,
		len(c.graph.Calls()), c.counts(), time.Since(began).Round(time.Millisecond))
}
