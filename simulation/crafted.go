package simulation

import (
	"fmt"
	"time"
)

// Crafted returns scenarios made for one purpose each, by name: they show rules that random ones
// seldom need.
func Crafted() map[string]Scenario {
	return map[string]Scenario{"retries that hang": hangingRetries()}
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
