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
	synctest.Test(t, func(t *testing.T) { test(t, newWaitingRoom(4)) })
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
			r.put(7, 0, time.Time{}, comeback{due: time.Now().Add(r.usual(7))})
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
		property any
		want     bool
	}{
		"without a time":               {nil, true},
		"looked after":                 {time.Minute, false},
		"its time has just passed":     {-forgottenAfter + time.Second, false},
		"forgotten":                    {-forgottenAfter, true},
		"for ever, as no one of us":    {24 * time.Hour, true},
		"a bit longer than one of us":  {2*comesBackMost + time.Second, true},
		"by a clock that runs ahead":   {2 * comesBackMost, false},
		"no time":                      {"tomorrow", true},
		"no text":                      {int64(7), true},
		"from 9999, as no one writes ": {"9999-12-31T23:59:59Z", true},
	} {
		t.Run(name, func(t *testing.T) {
			inRoom(t, func(t *testing.T, r *waitingRoom) {
				value := c.property
				if d, ok := value.(time.Duration); ok {
					value = time.Now().UTC().Add(d).Format(time.RFC3339)
				}
				m := &azservicebus.ReceivedMessage{ApplicationProperties: map[string]any{deadletter.PropertyDeferred: value}}
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
		m := &azservicebus.ReceivedMessage{ApplicationProperties: dueProperty(soon().due)}
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
