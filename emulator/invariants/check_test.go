package invariants_test

import (
	"strings"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/invariants"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// at is a time on the first day of 2026.
func at(seconds int) time.Time { return time.Date(2026, 1, 1, 0, 0, seconds, 0, time.UTC) }

// record is a change of the message with this sequence number. The message's id begins with its
// user's name: "ada1" is about ada.
func record(second int, sequence int64, id string, kind servicebus.EventKind) servicebus.Record {
	r := servicebus.Record{Time: at(second), Queue: "q", SequenceNumber: sequence, MessageID: id, Event: kind}
	if kind == servicebus.DeadLettered {
		r.Reason = "UserNotFound"
	}
	return r
}

func revocation(user string, from, to int) graph.Call {
	return graph.Call{UserID: user, Key: user, Start: at(from), End: at(to), Status: 200, Revoked: true}
}

func TestJournalCheck(t *testing.T) {
	const (
		enqueued  = servicebus.Enqueued
		delivered = servicebus.Delivered
		completed = servicebus.Completed
		expired   = servicebus.LockExpired
		dead      = servicebus.DeadLettered
	)
	one := func(more ...servicebus.Record) []servicebus.Record {
		return append([]servicebus.Record{record(10, 1, "ada1", enqueued), record(11, 1, "ada1", delivered)}, more...)
	}
	cases := map[string]struct {
		records []servicebus.Record
		calls   []graph.Call
		want    string // a part of the only problem; "" for none
	}{
		"revoked": {one(record(20, 1, "ada1", completed)), []graph.Call{revocation("ada", 12, 13)}, ""},
		"completed before the call ended": {
			one(record(12, 1, "ada1", completed)), []graph.Call{revocation("ada", 11, 13)}, "lost: ada1",
		},
		"completed by a call that was older": {
			one(record(12, 1, "ada1", completed)), []graph.Call{revocation("ada", 9, 11)}, "no event had asked for it",
		},
		"completed without a call": {one(record(12, 1, "ada1", completed)), nil, "lost: ada1"},
		"completed by another's call": {
			one(record(20, 1, "ada1", completed)),
			[]graph.Call{revocation("bob", 12, 13)},
			"wrong person: Graph was called for bob",
		},
		"still in the queue":       {one(record(20, 1, "ada1", expired)), nil, ""},
		"dead-lettered":            {one(record(20, 1, "ada1", dead)), nil, ""},
		"its time to live is over": {one(record(20, 1, "ada1", servicebus.Expired)), nil, "expired"},
		"superseded by a locked one": {
			one(record(11, 2, "ada2", enqueued), record(12, 2, "ada2", delivered), record(13, 1, "ada1", completed),
				record(14, 2, "ada2", dead)), nil, "",
		},
		"superseded by one that was not locked": {
			one(record(11, 2, "ada2", enqueued), record(13, 1, "ada1", completed), record(14, 2, "ada2", delivered),
				record(15, 2, "ada2", dead)), nil, "lost: ada1",
		},
		"superseded by an older one": {
			one(record(12, 2, "ada2", enqueued), record(12, 2, "ada2", delivered), record(13, 2, "ada2", completed),
				record(14, 1, "ada1", dead)), nil, "lost: ada2",
		},
		"superseded by another user's": {
			one(record(11, 2, "bob2", enqueued), record(12, 2, "bob2", delivered), record(13, 1, "ada1", completed)), nil, "lost: ada1",
		},
		"two calls at once": {
			one(record(20, 1, "ada1", completed)),
			[]graph.Call{{UserID: "ada", Key: "ada", Start: at(11), End: at(13), Status: 503}, revocation("ada", 12, 14)},
			"two calls for ada at once",
		},
		"two calls in a window": {
			one(record(20, 1, "ada1", completed)), []graph.Call{revocation("ada", 12, 13), revocation("ada", 18, 19)}, "within 6s",
		},
		"a call in each window": {
			one(record(40, 1, "ada1", completed)), []graph.Call{revocation("ada", 12, 13), revocation("ada", 22, 23)}, "",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var j invariants.Journal
			for _, r := range c.records {
				j.Observe(r)
			}
			problems := j.Check(c.calls, invariants.Expected{
				Users:  func(id string) []string { return []string{strings.TrimRight(id, "0123456789")} },
				Window: 10 * time.Second, Workers: 1,
			})
			text := strings.Join(problems, "\n")
			if c.want == "" && text != "" || !strings.Contains(text, c.want) {
				t.Errorf("got %q, want %q", text, c.want)
			}
		})
	}
}

func TestJournalCheckAllowsBeliefInALostLock(t *testing.T) {
	var j invariants.Journal
	for _, r := range []servicebus.Record{
		record(10, 1, "ada1", servicebus.Enqueued), record(10, 1, "ada1", servicebus.Delivered),
		record(11, 2, "ada2", servicebus.Enqueued), record(11, 2, "ada2", servicebus.Delivered),
		record(12, 1, "ada1", servicebus.LockExpired), record(12, 2, "ada2", servicebus.LockExpired),
		record(13, 1, "ada1", servicebus.Delivered), record(14, 1, "ada1", servicebus.Completed),
	} {
		j.Observe(r)
	}
	for believed, want := range map[time.Duration]int{0: 1, 500 * time.Millisecond: 1, 30 * time.Second: 0} {
		problems := j.Check(nil, invariants.Expected{
			Users: func(string) []string { return []string{"ada"} }, Workers: 1, Believed: believed,
		})
		if len(problems) != want {
			t.Errorf("believed for %s: %v", believed, problems)
		}
	}
}

func TestJournalCheckAllowsASecondWorkersCalls(t *testing.T) {
	var j invariants.Journal
	j.Observe(record(0, 1, "ada1", servicebus.Enqueued))
	problems := j.Check([]graph.Call{revocation("ada", 1, 5), revocation("ada", 2, 6)}, invariants.Expected{
		Users: func(string) []string { return []string{"ada"} }, Window: time.Minute, Workers: 2,
	})
	if len(problems) != 0 {
		t.Error(problems)
	}
}
