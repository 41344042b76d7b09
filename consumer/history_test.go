package consumer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/audit/history"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/internal/raced"
)

// recorded is a world with an audit log, in which random things happen about one person.
type recorded struct {
	*world
	random *rand.Rand
	text   bytes.Buffer
	log    *audit.Log
	sent   []string // the bodies
	mend   func()   // ends the fault of Graph, if there is one
	story  []string
}

// copied is a scheduled message.
type copied struct {
	number    int64
	date      time.Time
	withdrawn bool
}

func (r *recorded) tell(format string, args ...any) {
	r.story = append(r.story, time.Now().UTC().Format("02 15:04:05 ")+fmt.Sprintf(format, args...))
}

func (r *recorded) say(body string) {
	r.tell("send %s", body)
	r.sent = append(r.sent, body)
	r.send(&azservicebus.Message{MessageID: new(fmt.Sprintf("m%d", len(r.sent))), Body: []byte(body)})
}

// announce sends an event with more members, from a producer that has a clock, or none, or sends late.
func (r *recorded) announce(more string) {
	version := ""
	switch now := time.Now().UTC(); r.random.IntN(4) {
	case 0:
		version = fmt.Sprintf(`,"time":%q`, now.Add(-time.Duration(r.random.IntN(600))*time.Minute).Format(time.RFC3339))
	case 1, 2:
		version = fmt.Sprintf(`,"time":%q`, now.Format(time.RFC3339))
	}
	r.say(fmt.Sprintf(`{"type":"user.offboarded","userId":%q%s%s}`, ada.ID, version, more))
}

// announceFor sends an event with a random date.
func (r *recorded) announceFor(from, to time.Duration) {
	at := time.Now().Add(from + time.Duration(r.random.Int64N(int64(to-from))))
	r.announce(fmt.Sprintf(`,"effectiveTime":%q`, at.UTC().Format(time.RFC3339)))
}

// scheduled returns the scheduled messages, and marks of withdrawals, by date.
func (r *recorded) scheduled() (list []copied) {
	messages, err := r.broker.Peek(queue, 0, 10_000)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, m := range messages {
		var body struct {
			Withdrawn     bool      `json:"withdrawn"`
			EffectiveTime time.Time `json:"effectiveTime"`
		}
		if m.State != "scheduled" {
			continue
		}
		if err := json.Unmarshal(m.Body, &body); err != nil {
			r.t.Fatal(err)
		}
		list = append(list, copied{m.SequenceNumber, body.EffectiveTime, body.Withdrawn})
	}
	slices.SortFunc(list, func(a, b copied) int { return a.date.Compare(b.date) })
	return list
}

// operate does what scheduled cancel and scheduled now do.
func (r *recorded) operate(command string) {
	list := r.scheduled()
	if len(list) == 0 {
		return
	}
	one := list[r.random.IntN(len(list))]
	if command == "scheduled now" && one.withdrawn {
		return
	}
	r.tell("%s %d", command, one.number)
	o := audit.Operation{
		Time: time.Now().UTC(), Command: command, Run: strconv.Itoa(len(r.story)), By: "grace", Outcome: audit.Started, Source: queue,
		Messages: strconv.FormatInt(one.number, 10), Count: 1,
	}
	r.record(o)
	if command == "scheduled now" {
		r.say(fmt.Sprintf(`{"type":"user.offboarded","userId":%q}`, ada.ID))
	}
	o.Outcome = audit.Done
	if err := r.sender.CancelScheduledMessages(context.Background(), []int64{one.number}, nil); err != nil {
		o.Outcome, o.Messages, o.Error = audit.Failed, "", err.Error()
	}
	o.Time = time.Now().UTC()
	r.record(o)
}

func (r *recorded) record(o audit.Operation) {
	if _, err := r.log.WriteOperation(o); err != nil {
		r.t.Fatal(err)
	}
}

// step does something random.
func (r *recorded) step() {
	switch r.random.IntN(16) {
	case 0, 1, 2:
		r.announceFor(10*time.Minute, 5*time.Hour)
	case 3:
		r.announceFor(10*time.Second, 2*time.Minute)
	case 4:
		r.announceFor(-5*time.Hour, 0)
	case 5:
		r.announce(`,"withdrawn":true`)
	case 6:
		r.announce("")
	case 7:
		if len(r.sent) > 0 {
			r.say(r.sent[r.random.IntN(len(r.sent))])
		}
	case 8, 9, 10:
		d := time.Duration(1+r.random.IntN(200)) * time.Minute
		r.tell("%s pass", d)
		time.Sleep(d)
	case 11:
		r.operate("scheduled cancel")
	case 12:
		r.operate("scheduled now")
	case 13:
		r.tell("the worker is killed")
		r.stopSoft()
		r.stopHard()
		<-r.ended
		r.hard, r.stopHard = context.WithCancel(context.Background())
		r.restart()
	default:
		if r.mend != nil {
			r.tell("Graph is well")
			r.mend()
			r.mend = nil
			time.Sleep(5 * time.Minute)
			return
		}
		status := []int{http.StatusForbidden, http.StatusServiceUnavailable}[r.random.IntN(2)]
		r.tell("Graph answers %d", status)
		r.mend = r.graph.Inject(graph.Fault{Status: status, User: ada.ID, Method: http.MethodPost})
	}
}

// isQuiet waits for some minutes until no message is on its way. What is on its way is in no record.
func (r *recorded) isQuiet() bool {
	for range 300 {
		if c := r.counts(); c.Active+c.Deferred == 0 {
			return true
		}
		time.Sleep(time.Second)
	}
	return false
}

// isTrue compares what the history says with what is in the queue, and with whom Graph was called for.
func (r *recorded) isTrue() bool {
	user, err := event.NewUser(ada.ID, "")
	if err != nil {
		r.t.Fatal(err)
	}
	h, err := history.Of(context.Background(), func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(r.text.Bytes())), nil
	}, user, time.Now(), audit.Options{})
	if err != nil {
		r.t.Fatal(err)
	}
	waiting := slices.DeleteFunc(r.scheduled(), func(m copied) bool { return m.withdrawn })
	var last time.Time
	for _, call := range r.graph.Calls() {
		if call.UserID == ada.ID && call.Revoked {
			last = call.Start
		}
	}
	failed, open := false, false // a newer announcement replaces a dead letter with a date
	for _, letter := range r.dead() {
		since := letter.EnqueuedTime.After(last)
		failed, open = failed || since, open || since && !bytes.Contains(letter.Body, []byte("effectiveTime"))
	}
	well := false
	switch h.State {
	case history.Scheduled:
		well = len(waiting) > 0 && strings.Contains(h.Answer, waiting[0].date.UTC().Format("2006-01-02 15:04:05Z"))
	case history.SignedOut:
		well = len(waiting) == 0 && !last.IsZero() && !open
	case history.NotAsked, history.NoRecord:
		well = len(waiting) == 0 && !open
	case history.NotSignedOut:
		well = failed
	}
	if !well {
		r.t.Errorf("%s\nscheduled: %v; last call %s; a dead letter since: %v\n%s\n%s", h.Answer, waiting, last, failed,
			strings.Join(r.story, "\n"), strings.Join(r.lines(), "\n"))
	}
	return well
}

// What worker history says about a person is what the worker has done, whatever was announced, taken
// back, canceled, or refused.
func TestHistorySaysWhatTheWorkerHasDone(t *testing.T) {
	seeds := 60
	if raced.Enabled {
		seeds = 6
	}
	for seed := range seeds {
		r := &recorded{random: rand.New(rand.NewPCG(uint64(seed), 1))}
		r.log = audit.New(&r.text, audit.Key{})
		keep := func(d audit.Decision) {
			if _, err := r.log.Write(d); err != nil {
				t.Error(err)
			}
		}
		inBubble(t, settings{horizon: 24 * time.Hour, audit: keep}, func(t *testing.T, w *world) {
			r.world = w
			w.run()
			for range 12 {
				if r.step(); r.random.IntN(4) > 0 && r.isQuiet() && !r.isTrue() {
					t.Fatalf("seed %d", seed)
				}
			}
			if r.mend != nil {
				r.mend()
			}
			if r.isQuiet() && !r.isTrue() {
				t.Fatalf("seed %d", seed)
			}
		})
	}
}
