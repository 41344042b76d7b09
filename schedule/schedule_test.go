package schedule_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/schedule"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const (
	idA = "0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c01"
	idB = "0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c02"
)

// broker has messages in the order of their numbers.
type broker struct {
	messages []*azservicebus.ReceivedMessage
	peeks    int
	err      error
}

func (b *broker) peek(_ context.Context, from int64, n int) (page []*azservicebus.ReceivedMessage, err error) {
	b.peeks++
	for _, m := range b.messages {
		if *m.SequenceNumber >= from && len(page) < n {
			page = append(page, m)
		}
	}
	return page, b.err
}

// scheduledFor adds a scheduled message with the body.
func (b *broker) scheduledFor(number int64, at time.Time, body string) *azservicebus.ReceivedMessage {
	m := &azservicebus.ReceivedMessage{
		State: azservicebus.MessageStateScheduled, SequenceNumber: &number, Body: []byte(body), ScheduledEnqueueTime: &at,
		EnqueuedTime: &at, ApplicationProperties: map[string]any{},
	}
	sent := &azservicebus.AMQPAnnotatedMessage{ApplicationProperties: m.ApplicationProperties}
	deadletter.Schedule{At: at, From: "m", FirstEnqueued: start}.Write(sent, -1)
	b.messages = append(b.messages, m)
	slices.SortFunc(b.messages, func(x, y *azservicebus.ReceivedMessage) int { return int(*x.SequenceNumber - *y.SequenceNumber) })
	return m
}

func body(user string, minutes int) string {
	return fmt.Sprintf(`{"type":"user.offboarded","userId":%q,"time":%q,"effectiveTime":"2026-05-01T00:00:00Z"}`,
		user, start.Add(time.Duration(minutes)*time.Minute-24*time.Hour).Format(time.RFC3339))
}

func index(t *testing.T, b *broker, most int) *schedule.Index {
	t.Helper()
	decoder, err := event.NewDecoder(event.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return schedule.NewIndex(schedule.Config{Peek: b.peek, Decoder: decoder, MaxEntries: most})
}

// wantFound fails unless these messages are found about a user, in this order.
func wantFound(t *testing.T, i *schedule.Index, user string, want ...int64) {
	t.Helper()
	u, err := event.NewUser(user, "")
	if err != nil {
		t.Fatal(err)
	}
	found, err := i.Find(t.Context(), u)
	var got []int64
	for _, a := range found {
		got = append(got, a.Sequence)
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("found %v, %v; want %v", got, err, want)
	}
}

func TestFindReadsOnlyWhatIsNew(t *testing.T) {
	b := &broker{}
	at := start.Add(30 * 24 * time.Hour)
	for n := range 500 {
		b.scheduledFor(int64(n+1), at, body(fmt.Sprintf("0a5bd9b6-4a5c-4ee1-9a7e-%012d", n), 0))
	}
	b.scheduledFor(501, at, body(idA, 1))
	b.scheduledFor(502, at, body(idA, 3))
	i := index(t, b, 0)
	wantFound(t, i, idA, 502, 501)
	b.peeks = 0
	b.scheduledFor(503, at, body(idA, 2))
	wantFound(t, i, idA, 502, 503, 501)
	wantFound(t, i, idB)
	if b.peeks > 6 {
		t.Errorf("%d peeks for what is new", b.peeks)
	}
	// What is canceled or active is not found.
	b.messages = slices.DeleteFunc(b.messages, func(m *azservicebus.ReceivedMessage) bool { return *m.SequenceNumber == 502 })
	wantFound(t, i, idA, 503, 501)
	b.messages[len(b.messages)-1].State = azservicebus.MessageStateActive
	wantFound(t, i, idA, 501)
}

func TestFindInAPartitionedQueue(t *testing.T) {
	b := &broker{}
	at := start.Add(30 * 24 * time.Hour)
	number := func(partition, n int64) int64 { return partition<<48 + n }
	for _, n := range []int64{1, 2, 3} {
		b.scheduledFor(number(1, n), at, body(idB, 0))
		b.scheduledFor(number(7, n), at, body(idB, 0))
	}
	i := index(t, b, 0)
	wantFound(t, i, idA)
	for minutes, n := range []int64{number(12, 1), number(1, 4), number(7, 4), number(0, 9)} {
		b.scheduledFor(n, at, body(idA, minutes))
	}
	wantFound(t, i, idA, number(0, 9), number(7, 4), number(1, 4), number(12, 1))
}

func TestLookReadsOnePageAtATime(t *testing.T) {
	b := &broker{}
	at := time.Now().Add(30 * 24 * time.Hour) // what is past is forgotten
	const partitions, each = 8, 250
	for p := range int64(partitions) {
		for n := range int64(each) {
			b.scheduledFor(p<<48+n+1, at, body(fmt.Sprintf("0a5bd9b6-4a5c-4ee1-9a7e-%012d", p*each+n), 0))
		}
	}
	i := index(t, b, 0)
	looks := 0
	for complete := false; !complete; looks++ {
		s, err := i.Look(t.Context())
		if most := 100 * (looks + 1); err != nil || s.Announcements > most || looks > partitions*each/100+1 {
			t.Fatalf("look %d: %+v, %v", looks, s, err)
		}
		complete = s.Complete
	}
	if s, err := i.Look(t.Context()); s.Announcements != partitions*each || err != nil {
		t.Errorf("%+v after %d looks, %v", s, looks, err)
	}
	if b.peeks > 5*looks*partitions {
		t.Errorf("%d peeks for %d looks", b.peeks, looks)
	}
}

func TestFullIndexStillFinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(start)) // a bubble begins in 2000
		b := &broker{}
		at := time.Now().Add(30 * 24 * time.Hour)
		i := index(t, b, 20)
		for n := range 30 {
			b.scheduledFor(int64(n+1), at, body(fmt.Sprintf("0a5bd9b6-4a5c-4ee1-9a7e-%012d", n), 0))
		}
		b.scheduledFor(31, at, body(idA, 1))
		wantFound(t, i, idA, 31)
		if s, err := i.Look(t.Context()); s.Announcements > 20 || !s.Full || err != nil {
			t.Errorf("remembers %+v, %v", s, err)
		}
		b.scheduledFor(32, at, body(idA, 2))
		wantFound(t, i, idA, 32, 31)
		b.messages = b.messages[25:]
		time.Sleep(time.Hour)
		wantFound(t, i, idA, 32, 31)
		if s, err := i.Look(t.Context()); s.Announcements != 7 || s.Full || err != nil {
			t.Errorf("remembers %+v, %v; want all of them again", s, err)
		}
	})
}

func TestManyAboutOnePersonAreBounded(t *testing.T) {
	at := time.Now().Add(30 * 24 * time.Hour) // what is past is forgotten, and then the index is never full
	for _, most := range []int{0, 100} {      // remembered, or searched for
		b := &broker{}
		for n := range 2000 {
			b.scheduledFor(int64(n+1), at, body(idA, min(n, 2000-n)))
		}
		i := index(t, b, most)
		u, _ := event.NewUser(idA, "")
		found, err := i.Find(t.Context(), u)
		if err != nil || len(found) != 100 || found[0].Sequence != 1001 {
			t.Errorf("found %d, the first is %d, %v; want 100, the first one 1001", len(found), found[0].Sequence, err)
		}
	}
}

func TestFindFailsWithoutAnAnswer(t *testing.T) {
	b := &broker{err: errors.New("no answer")}
	u, _ := event.NewUser(idA, "")
	if found, err := index(t, b, 0).Find(t.Context(), u); !errors.Is(err, b.err) || found != nil {
		t.Errorf("found %v, %v", found, err)
	}
}

func TestOnlyTheWorkersMessagesForOneEventCount(t *testing.T) {
	at := start.Add(30 * 24 * time.Hour)
	two := "[" + body(idA, 0) + "," + body(idB, 0) + "]"
	for name, change := range map[string]func(m *azservicebus.ReceivedMessage){
		"of a producer": func(m *azservicebus.ReceivedMessage) { m.ApplicationProperties = nil },
		"malformed":     func(m *azservicebus.ReceivedMessage) { m.ApplicationProperties[deadletter.PropertyScheduled] = "soon" },
		"without a first time": func(m *azservicebus.ReceivedMessage) {
			delete(m.ApplicationProperties, deadletter.PropertyFirstEnqueued)
		},
		"active":   func(m *azservicebus.ReceivedMessage) { m.State = azservicebus.MessageStateActive },
		"no event": func(m *azservicebus.ReceivedMessage) { m.Body = []byte("x") },
		"without a date": func(m *azservicebus.ReceivedMessage) {
			m.Body = []byte(`{"type":"device.lost","userId":"` + idA + `"}`)
		},
		"for two": func(m *azservicebus.ReceivedMessage) { m.Body = []byte(two) },
	} {
		b := &broker{}
		change(b.scheduledFor(1, at, body(idA, 0)))
		i := index(t, b, 0)
		wantFound(t, i, idA)
		if t.Failed() {
			t.Fatal(name)
		}
	}
}

func TestTheSaferAnnouncementCounts(t *testing.T) {
	at := func(hours int) time.Time { return start.Add(time.Duration(hours) * time.Hour) }
	enqueued := at(0)
	of := func(written, effective time.Time, withdrawn bool) schedule.Announcement {
		return schedule.New(event.Event{Time: written, TakesEffect: effective, Withdrawn: withdrawn},
			&azservicebus.ReceivedMessage{EnqueuedTime: &enqueued})
	}
	// Each one counts against all that stand before it.
	order := []schedule.Announcement{
		of(at(-9), at(100), true), of(at(-8), at(90), false), of(at(-8), at(95), false), of(at(-8), time.Time{}, true),
		of(at(-1), at(10), false),
		of(time.Time{}, at(5), false), // no time: when it was enqueued
		of(at(1000), at(6), false),    // a clock that is ahead: the same
	}
	for i := range order {
		for j := range order {
			if got := order[i].Compare(order[j]); (got > 0) != (i > j) || (got == 0) != (i == j) {
				t.Errorf("%d against %d: %d", i, j, got)
			}
		}
	}
}

func TestSamePerson(t *testing.T) {
	user := func(id, upn string) event.User {
		u, err := event.NewUser(id, upn)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	for _, c := range []struct {
		a, b event.User
		same bool
	}{
		{user(idA, ""), user(idA, ""), true},
		{user(idA, "a@contoso.com"), user(idB, "a@contoso.com"), false}, // the name was given to somebody else
		{user(idA, "a@contoso.com"), user("", "A@contoso.com"), true},
		{user(idA, ""), user("", "a@contoso.com"), false},
		{user("", "a@contoso.com"), user("", "b@contoso.com"), false},
	} {
		if schedule.SamePerson(c.a, c.b) != c.same || schedule.SamePerson(c.b, c.a) != c.same {
			t.Errorf("%v and %v: want %v", c.a, c.b, c.same)
		}
	}
}

// counting counts what it decodes.
type counting struct {
	schedule.Decoder
	n int
}

func (c *counting) Decode(m event.Message) ([]event.Item, error) {
	c.n++
	return c.Decoder.Decode(m)
}

// The copies of one message are decoded once, and each is still for its own event.
func TestCopiesOfOneMessageAreDecodedOnce(t *testing.T) {
	native, err := event.NewDecoder(event.Config{})
	if err != nil {
		t.Fatal(err)
	}
	b, decoder := &broker{}, &counting{Decoder: native}
	at := start.Add(30 * 24 * time.Hour)
	for n, copied := range []string{
		"[" + body(idA, 0) + "," + body(idB, 0) + "]", "[" + body(idA, 0) + "," + body(idB, 0) + "]",
		"[" + body(idB, 0) + "," + body(idA, 0) + "]",
	} {
		m := b.scheduledFor(int64(n+1), at, copied)
		sent := &azservicebus.AMQPAnnotatedMessage{ApplicationProperties: m.ApplicationProperties}
		sent.Body.Data = [][]byte{m.Body}
		deadletter.Schedule{At: at, From: "m", FirstEnqueued: start}.Write(sent, n%2)
	}
	i := schedule.NewIndex(schedule.Config{Peek: b.peek, Decoder: decoder})
	wantFound(t, i, idA, 1)
	wantFound(t, i, idB, 3, 2)
	if decoder.n != 2 {
		t.Errorf("decoded %d times; want once for each of the two bodies", decoder.n)
	}
}
