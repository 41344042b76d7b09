package simulation

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Crafted returns scenarios made for one purpose each, by name: they show rules that random ones
// seldom need.
func Crafted() map[string]Scenario {
	return map[string]Scenario{"retries that hang": hangingRetries(), "leavers": changeOfMinds()}
}

// changeOfMinds: many people leave, at another date, or not at all, and leave again. The announcements
// come in any order while workers are killed and their schedules are lost.
func changeOfMinds() Scenario {
	r := rand.New(rand.NewPCG(7, 7))
	s := Scenario{Seed: 1, Workers: 3, Concurrency: 4, InFlight: 64, Window: 10 * time.Second, Lock: 30 * time.Second}
	s.announce(r, 60, 2*time.Minute)
	for i := range 6 {
		at := time.Duration(i) * 20 * time.Second
		s.Faults = append(s.Faults, Fault{At: at, For: 10 * time.Second, Kind: LostSettle, Worker: i % 3, Person: -1},
			Fault{At: at + 15*time.Second, For: time.Second, Kind: Crash, Worker: i % 3, Person: -1})
	}
	s.Faults = append(s.Faults, Fault{At: 11 * time.Minute, For: time.Minute, Kind: GraphDown, Person: -1},
		Fault{At: 14 * time.Minute, For: time.Second, Kind: Crash, Worker: 1, Person: -1})
	return s
}

// hangingRetries: calls for many people hang until they time out, again and again. When only their
// retries are left, a few others come one after the other, for whom Graph answers at once.
func hangingRetries() Scenario {
	const hanging, others = 150, 20
	const ends = 30 * time.Minute
	s := Scenario{Seed: 1, Workers: 1, Concurrency: 1, InFlight: 1024, Window: 2 * time.Second, Lock: 30 * time.Second}
	for i := range hanging + others {
		s.People = append(s.People, newPerson(i, Member))
		send := Send{ID: fmt.Sprintf("m%d", i), People: []int{i}}
		if i < hanging {
			s.Faults = append(s.Faults, Fault{For: ends, Kind: GraphHangs, Person: i})
		} else {
			send.At = 16*time.Minute + time.Duration(i-hanging)*30*time.Second
		}
		s.Sends = append(s.Sends, send)
	}
	return s
}
