// Package simulation plays years of faults in seconds. The real worker code, the real Service Bus
// client and the embedded servers run in a testing/synctest bubble, so that lock expiry, backoff,
// Retry-After, windows and quotas run in virtual time. A seed makes a scenario. After it, a checker
// that shares no code with the worker reads what the servers recorded, and verifies every
// guarantee.
package simulation

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
)

// Scenario is a series of events that a seed determines. Its times count from the start.
type Scenario struct {
	Seed uint64
	// Crowd is whether there may be many people and messages. Few find most faults, in a fraction of
	// the time; some faults only a crowd finds.
	Crowd bool
	// Workers run side by side. Each has Concurrency, InFlight and Window.
	Workers, Concurrency, InFlight int
	Window, Lock                   time.Duration
	// BrokerAhead and GraphAhead are the servers' clocks minus the workers'.
	BrokerAhead, GraphAhead time.Duration
	Quota                   graph.Quota
	ReadUsers, Redis        bool
	// Urgent adds a second, more urgent queue. Sessions, if not 0, makes the first queue require
	// sessions, and is how many of them each worker holds at once.
	Urgent   bool
	Sessions int
	// Volume bounds the people who may be signed out in an hour for each type of events; 0 is no
	// bound. Released is when an operator releases the most urgent type of events, and a minute
	// later all others.
	Volume   int
	Released time.Duration
	// Canary is the account that is kept for canaries.
	Canary     Canary
	People     []Person
	Sends      []Send
	Faults     []Fault
	Operations []Operation
	// Reports announce that people leave. Only they concern these people.
	Reports []Report
}

// Canary is the result of attempts for the account that is kept for canaries.
type Canary string

// The kinds of canary accounts.
const (
	NoAccount Canary = ""        // there is none: canaries are for nobody
	Well      Canary = "well"    // they succeed
	Deleted   Canary = "deleted" // Graph does not know it
	Blocked   Canary = "blocked" // Graph refuses it, or answers value: false
)

// Operation is an operator's work on the dead letters.
type Operation struct {
	At    time.Duration
	Purge bool // otherwise all are replayed
}

// Person is somebody whom events concern.
type Person struct {
	graph.User
	Answer Answer
}

// Answer is how Graph answers about a person, and with it the required result of their events.
type Answer string

// The answers.
const (
	Member       Answer = "member"        // is signed out
	Unknown      Answer = "unknown"       // Graph does not know them: UserNotFound
	Guest        Answer = "guest"         // ExternalUser, never called
	Protected    Answer = "protected"     // ProtectedUser, never called
	NeverRevoked Answer = "never revoked" // Graph answers value: false forever: NotRevoked
	Unavailable  Answer = "unavailable"   // Graph answers 500 forever: RetriesExhausted
	Refused      Answer = "refused"       // Graph answers 403 forever: Forbidden
)

// reasons are the dead-letter reasons for each answer.
var reasons = map[Answer]string{
	Unknown: "UserNotFound", Guest: "ExternalUser", Protected: "ProtectedUser", NeverRevoked: "NotRevoked",
	Unavailable: "RetriesExhausted", Refused: "Forbidden",
}

// Send is one message with one or more events, or with something else.
type Send struct {
	At     time.Duration
	ID     string
	People []int // indexes
	ByName bool
	Bad    bool // the body is not an event
	// Type is the type of its events; "" leaves it to whether they give names.
	Type    string
	Urgent  bool          // to the more urgent queue
	Session string        // "" for a queue without sessions
	TTL     time.Duration // 0 is forever
	Poison  Poison
	Forged  bool // it carries properties that only the worker may write
}

// Poison is content that the client library cannot read.
type Poison string

// The kinds of poison.
const (
	Char     Poison = "char"     // the body is a value of a type that the library does not have
	BadKey   Poison = "key"      // the body is a map with a key that makes the library panic
	Property Poison = "property" // one property is such a value, and the body an event
)

// Fault is trouble that begins at At and lasts For.
type Fault struct {
	At, For time.Duration
	Kind    FaultKind
	Worker  int // the worker that it concerns, if it concerns one
	Person  int // the person that it concerns; -1 is everybody
}

// FaultKind is a kind of fault.
type FaultKind string

// The kinds of faults.
const (
	Cut          FaultKind = "cut"           // all connections to Service Bus break
	BrokerAway   FaultKind = "broker away"   // and no new ones can be made
	Detach       FaultKind = "detach"        // Service Bus detaches all links of the queue, the sender's too
	LocksExpire  FaultKind = "locks expire"  // before their time: everything in flight is delivered once more
	Late         FaultKind = "late"          // messages reach a worker 20 seconds after they were locked
	Crash        FaultKind = "crash"         // a worker's process is killed; another starts
	Term         FaultKind = "SIGTERM"       // a worker stops gracefully; another starts
	GraphDown    FaultKind = "503"           // Graph answers 503 to all
	GraphHTML    FaultKind = "HTML"          // a proxy's page with status 200
	GraphDrops   FaultKind = "drops"         // Graph drops connections
	GraphHangs   FaultKind = "hangs"         // Graph does not answer
	GraphSlow    FaultKind = "slow"          // answers take 20 seconds
	Forgets      FaultKind = "drops after"   // revokes, and the answer is lost
	HalfAnswer   FaultKind = "half answer"   // revokes, and half of the answer comes
	Endless      FaultKind = "endless"       // revokes, and the answer never ends
	EmptyAnswer  FaultKind = "empty answer"  // revokes, and answers 200 without a body
	ValueFalse   FaultKind = "value: false"  // for a while
	NoToken      FaultKind = "no token"      // the token endpoint is down
	NoPermission FaultKind = "no permission" // new tokens hold no role; the old ones are revoked
	TakenBack    FaultKind = "token revoked" // all tokens are revoked
	Throttles    FaultKind = "429"           // somebody else uses up the quota
	LostSettle   FaultKind = "lost settle"   // settlements of a worker fail, some of them after they were done
	NoRenewal    FaultKind = "no renewal"    // lock renewals of a worker fail
	RedisAway    FaultKind = "redis away"    // Redis takes no connections
	RedisHangs   FaultKind = "redis hangs"   // Redis takes connections, and does not answer
	RedisForeign FaultKind = "foreign redis" // somebody else writes to the keys that the workers share
	WildDate     FaultKind = "wild date"     // Graph's Date is from 1601 or 9999, or there is none
	CanaryFails  FaultKind = "canary fails"  // attempts for users whom Graph does not know fail in another way, or are throttled
	UsersFail    FaultKind = "users fail"    // 503 for everybody whom Graph knows; the canary is well
)

// kinds has all of them, the more likely ones twice.
var kinds = []FaultKind{
	Cut, Cut, BrokerAway, Detach, LocksExpire, Late, Crash, Crash, Term,
	GraphDown, GraphHTML, GraphDrops, GraphHangs, GraphSlow, Forgets, HalfAnswer, Endless, EmptyAnswer, ValueFalse,
	NoToken, NoPermission, TakenBack, Throttles, LostSettle, NoRenewal,
	RedisAway, RedisHangs, RedisForeign, WildDate, CanaryFails, UsersFail,
}

// Options limit what scenarios contain.
type Options struct {
	// NoFaults leaves out all faults. NoCuts leaves out the faults that cut connections.
	NoFaults, NoCuts bool
	// Plain leaves out everything that only producers and operators do.
	Plain bool
}

// crowdOnceIn is how many scenarios there are for each one with a crowd.
const crowdOnceIn = 24

// New makes the scenario of a seed.
func New(seed uint64, o Options) Scenario {
	r := rand.New(rand.NewPCG(seed, 0x5e551011))
	s := Scenario{
		Seed:        seed,
		Crowd:       r.IntN(crowdOnceIn) == 0,
		Workers:     pick(r, 1, 1, 1, 2, 3, 4),
		Concurrency: pick(r, 1, 4, 8, 16),
		InFlight:    pick(r, 8, 64, 256, 256),
		Window:      pick(r, 2*time.Second, 10*time.Second, time.Minute),
		Lock:        pick(r, 30*time.Second, time.Minute),
		BrokerAhead: between(r, -2*time.Second, 2*time.Second),
		GraphAhead:  between(r, -2*time.Second, 2*time.Second),
		ReadUsers:   r.IntN(4) == 0,
	}
	s.Redis = s.Workers > 1 && r.IntN(16) == 0 // its imitation is slow
	if r.IntN(2) == 0 {
		s.Quota = graph.Quota{
			Model: pick(r, graph.FixedWindow, graph.SlidingWindow, graph.TokenBucket),
			Limit: pick(r, 10, 30, 60), Per: pick(r, 2*time.Second, 10*time.Second), Headers: r.IntN(2) == 0,
		}
	}
	s.addPeople(r)
	long := pick(r, 2*time.Second, 20*time.Second, 2*time.Minute)
	s.addSends(r, long)
	if !o.NoFaults {
		s.addFaults(r, long, o)
	}
	if !o.Plain {
		// A separate random source keeps the scenario above the same for a seed.
		s.addOthers(rand.New(rand.NewPCG(seed, 0x0ddba11)), long)
		s.addLeavers(rand.New(rand.NewPCG(seed, 0x1ea7e5)), long)
	}
	return s
}

// addOthers adds what other people, producers and operators do.
func (s *Scenario) addOthers(r *rand.Rand, long time.Duration) {
	once := func(in int) bool { return r.IntN(in) == 0 }
	s.Canary = pick(r, NoAccount, NoAccount, NoAccount, NoAccount, NoAccount, Well, Well, Deleted, Blocked)
	if once(8) { // more people fail than not
		for i := range s.People {
			if p := &s.People[i]; p.Answer == Member && r.IntN(10) < 6 {
				p.Answer = pick(r, Refused, Refused, Unavailable, NeverRevoked, Unknown)
			}
		}
	}
	defer s.repeat()
	if once(30) {
		s.addLarge(r, long)
	}
	if once(14) {
		s.Sessions = 1 + r.IntN(4)
		sessions := pick(r, 1, 4, 20)
		for i := range s.Sends {
			s.Sends[i].Session = fmt.Sprintf("s%d", r.IntN(sessions))
		}
	}
	if once(6) {
		s.Urgent = true
		for i := range s.Sends {
			s.Sends[i].Urgent = once(4)
		}
	}
	if once(5) {
		s.addTTLs(r, long)
	}
	if once(5) {
		for i := range 1 + r.IntN(20) {
			send := Send{
				At: time.Duration(r.Int64N(int64(long))), ID: fmt.Sprintf("p%d", i),
				Poison: pick(r, Char, BadKey, Property), Session: s.Sends[i].Session,
			}
			if send.Poison == Property { // the other kinds of poison concern nobody
				send.People = []int{r.IntN(len(s.People))}
			}
			s.Sends = append(s.Sends, send)
		}
	}
	if once(5) {
		for i := range s.Sends {
			s.Sends[i].Forged = once(4)
		}
	}
	if once(8) {
		s.Volume = pick(r, 3, 10, 30)
		s.Released = long + time.Duration(r.Int64N(int64(3*time.Minute)))
		for i := range s.Sends {
			s.Sends[i].Type = types[r.IntN(len(types))]
		}
	}
	if once(4) {
		for range 1 + r.IntN(3) {
			s.Operations = append(s.Operations, Operation{At: time.Duration(r.Int64N(int64(2*long + time.Minute))), Purge: once(3)})
		}
	}
}

// repeat makes messages with the same id equal: a sender that repeats a message repeats all of it.
func (s *Scenario) repeat() {
	same := map[string]Send{}
	for i, send := range s.Sends {
		if first, again := same[send.ID]; again {
			at := send.At
			s.Sends[i] = first
			s.Sends[i].At = at
			continue
		}
		same[send.ID] = send
	}
}

// types are the types of events, the most urgent first.
var types = []string{"device.stolen", "device.lost", "user.compromised", "user.offboarded"}

// addLarge adds messages with many users.
func (s *Scenario) addLarge(r *rand.Rand, long time.Duration) {
	users := 30
	if s.Crowd {
		users = 300
	}
	first := len(s.People)
	for i := range users {
		answer := pick(r, Member, Member, Member, Member, Member, Member, Member, Refused, Unavailable, Unknown)
		s.People = append(s.People, newPerson(first+i, answer))
	}
	for i := range 1 + r.IntN(3) {
		send := Send{At: time.Duration(r.Int64N(int64(long))), ID: fmt.Sprintf("l%d", i)}
		for n := range users/6 + r.IntN(users-users/6) {
			send.People = append(send.People, first+n)
		}
		s.Sends = append(s.Sends, send)
	}
}

// addTTLs lets messages expire: at random, or the later ones earlier, so that none may supersede
// another.
func (s *Scenario) addTTLs(r *rand.Rand, long time.Duration) {
	falling := r.IntN(2) == 0
	for i := range s.Sends {
		send := &s.Sends[i]
		switch {
		case falling:
			send.TTL = 3*long - 2*send.At + 5*time.Minute
		case r.IntN(2) == 0:
			send.TTL = pick(r, 5*time.Second, 30*time.Second, 2*time.Minute, time.Hour)
		}
	}
}

func newPerson(i int, answer Answer) Person {
	return Person{Answer: answer, User: graph.User{
		ID: fmt.Sprintf("00000000-0000-4000-8000-%012d", i), UserPrincipalName: fmt.Sprintf("user%d@contoso.com", i),
		UserType: "Member", AccountEnabled: true,
	}}
}

func (s *Scenario) addPeople(r *rand.Rand) {
	n := pick(r, 2, 4, 10, 40)
	if s.Crowd {
		n = pick(r, 3, 10, 40, 120)
	}
	for i := range n {
		p := newPerson(i, Member)
		if r.IntN(8) == 0 {
			p.Answer = pick(r, Unknown, Unknown, Guest, Guest, Protected, Protected, NeverRevoked, NeverRevoked, Unavailable, Refused)
		}
		if p.Answer == Guest {
			p.UserType, p.UserPrincipalName = "Guest", fmt.Sprintf("user%d_fabrikam.com#EXT#@contoso.com", i)
		}
		s.People = append(s.People, p)
	}
}

func (s *Scenario) addSends(r *rand.Rand, long time.Duration) {
	n := pick(r, 4, 8, 12, 20)
	if s.Crowd {
		n = pick(r, 50, 200, 200, 300)
	}
	storm := r.IntN(3) == 0 // most messages concern few people
	for i := range n {
		send := Send{At: time.Duration(r.Int64N(int64(long))), ID: fmt.Sprintf("m%d", i), ByName: r.IntN(4) == 0}
		someone := func() int {
			if storm && r.IntN(10) < 8 {
				return r.IntN(min(2, len(s.People)))
			}
			return r.IntN(len(s.People))
		}
		send.People = []int{someone()}
		switch r.IntN(40) {
		case 0:
			send.Bad, send.People = true, nil
		case 1, 2:
			for range 1 + r.IntN(3) {
				send.People = append(send.People, someone())
			}
		}
		s.Sends = append(s.Sends, send)
		if r.IntN(50) == 0 { // the sender repeats itself
			send.At += time.Duration(r.Int64N(int64(long)))
			s.Sends = append(s.Sends, send)
		}
	}
}

func (s *Scenario) addFaults(r *rand.Rand, long time.Duration, o Options) {
	for range r.IntN(6) {
		f := Fault{
			At:   time.Duration(r.Int64N(int64(long + 10*time.Second))),
			For:  pick(r, time.Second, 10*time.Second, time.Minute, 5*time.Minute),
			Kind: kinds[r.IntN(len(kinds))], Worker: r.IntN(s.Workers), Person: -1,
		}
		if o.NoCuts && (f.Kind == Cut || f.Kind == BrokerAway || f.Kind == Detach || f.Kind == Crash || f.Kind == Term) {
			continue
		}
		switch f.Kind {
		case ValueFalse:
			f.Person = r.IntN(len(s.People))
			f.For = min(f.For, 5*time.Second) // shorter than a budget lasts
		case UsersFail:
			f.For = max(f.For, 10*time.Second)
		case Forgets, HalfAnswer, Endless, EmptyAnswer, GraphSlow, GraphHangs:
			f.For = min(f.For, time.Minute)
		}
		s.Faults = append(s.Faults, f)
	}
}

// has reports whether the scenario has a fault of one of the kinds.
func (s Scenario) has(kinds ...FaultKind) bool {
	for _, f := range s.Faults {
		if slices.Contains(kinds, f.Kind) {
			return true
		}
	}
	return false
}

// String describes the scenario in one line, and each operation and fault in one more.
func (s Scenario) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %d workers (Redis %v, %d calls at once, %d in flight, window %s, lock %s), %d people, %d messages",
		s.Seed, s.Workers, s.Redis, s.Concurrency, s.InFlight, s.Window, s.Lock, len(s.People), len(s.Sends))
	fmt.Fprintf(&b, ", clocks %s and %s ahead, quota %s %d/%s",
		s.BrokerAhead, s.GraphAhead, s.Quota.Model, s.Quota.Limit, s.Quota.Per)
	fmt.Fprintf(&b, ", canary %q, urgent %v, sessions %d, at most %d people until %s",
		s.Canary, s.Urgent, s.Sessions, s.Volume, s.Released.Round(time.Millisecond))
	if len(s.Reports) > 0 {
		fmt.Fprintf(&b, ", %d reports about %d leavers", len(s.Reports), len(s.leavers()))
	}
	for _, o := range s.Operations {
		fmt.Fprintf(&b, "\n  %8s an operator (purges: %v)", o.At.Round(time.Millisecond), o.Purge)
	}
	for _, f := range s.Faults {
		fmt.Fprintf(&b, "\n  %8s for %s: %s (worker %d, person %d)", f.At.Round(time.Millisecond), f.For, f.Kind, f.Worker, f.Person)
	}
	return b.String()
}

func pick[T any](r *rand.Rand, choices ...T) T { return choices[r.IntN(len(choices))] }

func between(r *rand.Rand, from, to time.Duration) time.Duration {
	return from + time.Duration(r.Int64N(int64(to-from)))
}
