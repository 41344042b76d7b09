package consumer

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/deadletter"
)

// inRoom runs a test with a waiting room in a bubble.
func inRoom(t *testing.T, test func(t *testing.T, r *waitingRoom)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newWaitingRoom(4)
		r.all = false // the first search is over
		test(t, r)
	})
}

// soon returns the earliest comeback.
func soon() comeback { return comeback{due: time.Now().Add(comesBackAfter)} }

func TestWaitingRoomBringsTheMostUrgentMessagesBackFirst(t *testing.T) {
	inRoom(t, func(t *testing.T, r *waitingRoom) {
		r.put(10, 5, time.Time{}, soon())
		r.put(9, 5, time.Time{}, soon())
		time.Sleep(time.Second)
		r.put(1, 5, time.Time{}, soon()) // later
		r.put(2, 1, time.Time{}, soon())
		if numbers, wait := r.due(10); numbers != nil || wait != comesBackAfter-time.Second {
			t.Fatalf("due %v, the next in %s", numbers, wait)
		}
		time.Sleep(comesBackAfter)
		if n := r.len(); n != 4 {
			t.Errorf("%d are deferred", n)
		}
		numbers, _ := r.due(3)
		if !slices.Equal(numbers, []int64{2, 9, 10}) {
			t.Errorf("%v come back, want the most urgent first, and then those that wait longest", numbers)
		}
		if n := r.len(); n != 1 {
			t.Errorf("%d are deferred, want one: the others are in flight", n)
		}
		if numbers, _ := r.due(3); !slices.Equal(numbers, []int64{1}) {
			t.Errorf("%v come back, want the last", numbers)
		}
		if numbers, wait := r.due(3); numbers != nil || wait != lookForForgotten {
			t.Errorf("%v come back twice; the next in %s", numbers, wait)
		}
	})
}

func TestWaitingRoomBringsAMessageBackLessAndLessOften(t *testing.T) {
	inRoom(t, func(t *testing.T, r *waitingRoom) {
		var waits []time.Duration
		for range 16 {
			r.put(7, 0, time.Time{}, comeback{due: time.Now().Add(r.usual(7, comesBackUsual))})
			_, wait := r.due(1)
			waits = append(waits, wait)
			time.Sleep(wait)
			if numbers, _ := r.due(1); len(numbers) != 1 {
				t.Fatalf("not due after %s", wait)
			}
		}
		want := []time.Duration{2, 4, 8, 16, 30, 30}
		for i, w := range waits {
			if expected := want[min(i, len(want)-1)] * time.Second; w != expected {
				t.Errorf("time %d: it comes back after %s, want %s", i, w, expected)
			}
		}
		r.forget(7)
		if r.put(7, 0, time.Time{}, soon()); r.remembered[7].times != 1 {
			t.Error("a settled message is not forgotten")
		}
	})
}

// The pauses between deliveries must add up to many hours before a usual max delivery count is
// reached.
func TestWaitingRoomBringsAMessageBackSeldomAfterManyDeliveries(t *testing.T) {
	var total time.Duration
	for n := uint32(1); n < 100; n++ {
		if pause := seldom(n); pause > time.Hour || n < 30 && pause != 0 {
			t.Errorf("after %d deliveries it stays deferred for %s at least", n, pause)
		}
		total += seldom(n)
	}
	if total < 20*time.Hour {
		t.Errorf("100 deliveries are used up within %s", total)
	}
	if pause := seldom(1 << 31); pause != time.Hour {
		t.Errorf("after very many deliveries it stays deferred for %s", pause)
	}
}

func TestWaitingRoomBringsMessagesBackWithTheVolumeGuardsRelease(t *testing.T) {
	inRoom(t, func(t *testing.T, r *waitingRoom) {
		later := time.Now().Add(comesBackMost)
		r.put(7, 0, time.Time{}, comeback{due: later, blocked: true})
		r.put(8, 0, time.Time{}, comeback{due: later})
		r.released()
		if numbers, wait := r.due(4); !slices.Equal(numbers, []int64{7}) || wait != comesBackMost {
			t.Errorf("%v come back, the next in %s", numbers, wait)
		}
	})
}

func TestWaitingRoomBringsMessagesBackWithKeys(t *testing.T) {
	inRoom(t, func(t *testing.T, r *waitingRoom) {
		later := time.Now().Add(comesBackMost)
		r.put(7, 0, time.Time{}, comeback{due: later, blocked: true})
		r.put(8, 0, time.Time{}, comeback{due: later, keyless: true})
		r.put(9, 0, time.Time{}, comeback{due: later})
		r.keysCame()
		if numbers, wait := r.due(4); !slices.Equal(numbers, []int64{8}) || wait != comesBackMost {
			t.Errorf("%v come back, the next in %s", numbers, wait)
		}
		r.put(8, 0, time.Time{}, comeback{due: later}) // it could be judged, and waits for something else now
		r.keysCame()
		if numbers, _ := r.due(4); len(numbers) != 0 {
			t.Errorf("%v come back", numbers)
		}
	})
}

func TestWaitingRoomDoesNotAskForALockedMessage(t *testing.T) {
	inRoom(t, func(t *testing.T, r *waitingRoom) {
		r.put(7, 0, time.Now().Add(20*time.Second), soon())
		if _, wait := r.due(1); wait != 20*time.Second {
			t.Errorf("due in %s, want the lock's end", wait)
		}
		r.put(8, 0, time.Now().Add(time.Second), soon()) // the lock expires before the message is due
		if _, wait := r.due(1); wait != comesBackAfter {
			t.Errorf("due in %s", wait)
		}
	})
}

func TestWaitingRoomIsBounded(t *testing.T) {
	inRoom(t, func(t *testing.T, r *waitingRoom) {
		deferred := &azservicebus.ReceivedMessage{State: azservicebus.MessageStateDeferred}
		for i := range int64(maxRemembered) - 1 {
			if !r.adopt(i, deferred) {
				t.Fatalf("%d was not adopted", i)
			}
		}
		r.put(-1, 0, time.Time{}, soon())
		r.put(-2, 0, time.Time{}, soon())
		if r.adopt(-3, deferred) || len(r.remembered) != maxRemembered {
			t.Errorf("%d are remembered", len(r.remembered))
		}
		if _, ok := r.remembered[-2]; ok {
			t.Error("one message more than the bound is remembered")
		}
		// A message that was found, fetched and deferred again is known already.
		numbers, _ := r.due(1)
		r.put(numbers[0], 0, time.Time{}, soon())
		if r.remembered[numbers[0]].back {
			t.Error("a message that was deferred again is taken for one in flight, and never comes back")
		}
		time.Sleep(comesBackAfter)
		if numbers, _ := r.due(maxRemembered); len(numbers) != maxRemembered {
			t.Errorf("%d come back, want all", len(numbers))
		}
	})
}

func TestWaitingRoomAdoptsForgottenMessages(t *testing.T) {
	for name, c := range map[string]struct {
		property   any
		want       bool
		suffix     string
		deliveries uint32
	}{
		"for the guard":               {property: 4 * time.Hour, suffix: guardSuffix},
		"for too long, for the guard": {property: 9 * time.Hour, suffix: guardSuffix, want: true},
		"for the guard, too late":     {property: -forgottenAfter, suffix: guardSuffix, want: true},
		"delivered often":             {property: time.Hour, deliveries: 90},
		"not delivered often":         {property: time.Hour, deliveries: 29, want: true},
		"no suffix of ours":           {property: time.Minute, suffix: " moon", want: true},

		"looked after":                 {property: time.Minute, want: false},
		"its time has just passed":     {property: -forgottenAfter + time.Second, want: false},
		"forgotten":                    {property: -forgottenAfter, want: true},
		"for ever, as no one of us":    {property: 24 * time.Hour, want: true},
		"a bit longer than one of us":  {property: 2*comesBackMost + time.Second, want: true},
		"by a clock that runs ahead":   {property: 2 * comesBackMost, want: false},
		"no time":                      {property: "tomorrow", want: true},
		"no text":                      {property: int64(7), want: true},
		"from 9999, as no one writes ": {property: "9999-12-31T23:59:59Z", want: true},
		"without a time":               {want: true},
	} {
		t.Run(name, func(t *testing.T) {
			inRoom(t, func(t *testing.T, r *waitingRoom) {
				value := c.property
				if d, ok := value.(time.Duration); ok {
					value = time.Now().UTC().Add(d).Format(time.RFC3339) + c.suffix
				}
				m := &azservicebus.ReceivedMessage{
					DeliveryCount: c.deliveries, ApplicationProperties: map[string]any{deadletter.PropertyDeferred: value},
				}
				if got := r.adopt(7, m); got != c.want {
					t.Fatalf("adopted: %v", got)
				}
				numbers, _ := r.due(1)
				if got := len(numbers) == 1; got != c.want {
					t.Errorf("due at once: %v", got)
				}
				if r.adopt(7, m) && c.want {
					t.Error("adopted while it is in flight")
				}
			})
		})
	}
}

func TestWaitingRoomShowsOthersWhenAMessageIsDue(t *testing.T) {
	inRoom(t, func(t *testing.T, r *waitingRoom) {
		m := &azservicebus.ReceivedMessage{ApplicationProperties: dueProperty(soon())}
		if r.adopt(1, m) {
			t.Error("adopted, although another replica has just deferred it")
		}
		time.Sleep(comesBackAfter + forgottenAfter)
		if !r.adopt(1, m) {
			t.Error("no replica looks after it, and it is not adopted")
		}
		select {
		case <-r.changed:
		default:
			t.Error("no signal that a message is due")
		}
	})
}
