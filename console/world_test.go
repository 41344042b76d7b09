package console

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/session-revoker/session-revoker/audit/history"
	"github.com/session-revoker/session-revoker/audit/report"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/replay"
	"github.com/session-revoker/session-revoker/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// night is when these tests happen.
var night = time.Date(2026, 3, 14, 2, 17, 40, 0, time.UTC)

// deployment is made of what the tests say. The real one is tested in cmd/worker.
type deployment struct {
	letters []replay.Letter
	bodies  map[int64]string
	history history.History
	report  report.Report
	more    []string // sources

	mu    sync.Mutex
	made  []string      // what was changed
	hold  chan struct{} // if it is not nil, changes wait for it
	reads int
}

const source = "session-events"

func (d *deployment) Sources() []string { return append([]string{source}, d.more...) }

func (d *deployment) Queues(context.Context) []status.Queue {
	return []status.Queue{{Name: source, Active: 12, OldestActive: night.Add(-9500 * time.Millisecond), Deferred: 3, Scheduled: 27}}
}

func (d *deployment) EachLetter(_ context.Context, each func(replay.Letter) error) error {
	d.mu.Lock()
	d.reads++
	d.mu.Unlock()
	for _, l := range d.letters {
		if err := each(l); err != nil {
			return err
		}
	}
	return nil
}

func (d *deployment) Letter(_ context.Context, _ string, sequence int64) (replay.Record, error) {
	for _, l := range d.letters {
		if l.SequenceNumber == sequence {
			r := replay.Record{Letter: l, ContentType: "application/json", Properties: map[string]any{"tenant": "contoso"}}
			body := d.bodies[sequence]
			if json.Valid([]byte(body)) {
				r.Body = json.RawMessage(body)
			} else {
				r.BodyText = &body
			}
			return r, nil
		}
	}
	return replay.Record{}, ErrNoLetter
}

// change returns a change of the letters that are picked.
func (d *deployment) change(kind Kind, by string, p Pick) (*Change, error) {
	c := &Change{Kind: kind, Reasons: map[string]int{}}
	for _, l := range d.letters {
		if p.picks(l) {
			c.Total++
			c.Reasons[l.Reason]++
			if len(c.First) < MaxFirst {
				c.First = append(c.First, l)
			}
		}
	}
	c.Confirm = fmt.Sprint(c.Total)
	c.Summary = map[Kind]string{
		Replay: fmt.Sprintf("%s of %s will be sent to %s again, at most 15 per second.", count(c.Total, "dead letter"), source, source),
		Purge:  fmt.Sprintf("%s of %s will be written to a file and removed.", count(c.Total, "dead letter"), source),
	}[kind]
	c.Make = func(ctx context.Context, why string, progress func(Progress)) Outcome {
		progress(Progress{Done: c.Total / 3})
		if d.hold != nil {
			select {
			case <-d.hold:
			case <-ctx.Done():
			}
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.made = append(d.made, fmt.Sprintf("%s %d by %s because %s", kind, c.Total, by, why))
		o := Outcome{Counts: []Count{{c.Total, "replayed"}}, Run: "5f0e1c5e-6f0e-4b7a-9a51-52d1f7a3c0de"}
		if kind == Purge {
			o = Outcome{Counts: []Count{{c.Total, "removed"}}, File: "deadletters-20260314T021740Z.ndjson"}
		}
		return o
	}
	return c, nil
}

func (d *deployment) PlanReplay(_ context.Context, by string, p Pick) (*Change, error) {
	return d.change(Replay, by, p)
}

func (d *deployment) PlanPurge(_ context.Context, by string, p Pick) (*Change, error) {
	return d.change(Purge, by, p)
}

func (d *deployment) PlanEdit(ctx context.Context, by, from string, sequence int64, body string) (*Change, error) {
	record, err := d.Letter(ctx, from, sequence)
	if err != nil {
		return nil, err
	}
	c, err := d.change(Edit, by, Pick{Filter: replay.Filter{Sequences: []replay.Range{{From: sequence, To: sequence}}}})
	if err != nil {
		return nil, err
	}
	c.Summary = "The message will be sent to session-events with the edited body, and the dead letter removed."
	c.Notes = []string{"With this body, the worker would revoke dana@contoso.com (device.stolen)."}
	c.Before, c.After, c.Confirm = BodyText(record), body, fmt.Sprint(sequence)
	return c, nil
}

func (d *deployment) PlanRelease(_ context.Context, by string, r guard.Release) (*Change, error) {
	return &Change{
		Kind: Release, Total: r.MaxUsers, Confirm: fmt.Sprint(r.MaxUsers),
		Summary: "Up to 5,000 people may be signed out until " + when(r.Until) + ".",
		Make: func(context.Context, string, func(Progress)) Outcome {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.made = append(d.made, fmt.Sprintf("release %d of %s by %s", r.MaxUsers, r.Type, by))
			return Outcome{}
		},
	}, nil
}

func (d *deployment) Became(context.Context, string) (Aftermath, error) {
	return Aftermath{
		Answer: "Not done: 9 messages are still to be decided, and 2 are dead letters again.",
		Counts: []Count{{201, "revoked"}, {9, "waiting or in flight"}}, Back: map[string]int{"UserNotFound": 2},
	}, nil
}

func (d *deployment) History(_ context.Context, user event.User) (history.History, error) {
	h := d.history
	h.User = user.Name()
	return h, nil
}

func (d *deployment) Report(context.Context, report.Options) (report.Report, error) {
	return d.report, nil
}

// changed returns what was changed.
func (d *deployment) changed() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.made...)
}

// site is a console that is served, and a browser of a person who has the link.
type site struct {
	t       *testing.T
	console *Console
	server  *httptest.Server
	client  *http.Client
	cookie  string
	past    atomic.Int64 // since the night, in nanoseconds
}

func (s *site) now() time.Time { return night.Add(time.Duration(s.past.Load())) }

// pass lets time pass.
func (s *site) pass(d time.Duration) { s.past.Add(int64(d)) }

// aNight is a deployment with what a bad night has.
func aNight() *deployment {
	names := []string{"ada", "grace", "dana", "linus", "edsger", "barbara", "ken", "radia", "frances", "tim"}
	reasons := []struct {
		reason, description, kind string
		n                         int
		from, to                  time.Duration // before the night
	}{
		{
			"RetriesExhausted", "Graph answered 503 Service Unavailable 6 times, while it succeeded for others", "device.stolen", 212,
			5 * time.Hour, 3 * time.Hour,
		},
		{
			"UserNotFound", "Graph does not know this user (404 Request_ResourceNotFound)", "user.offboarded", 64, 40 * time.Hour,
			20 * time.Minute,
		},
		{"ForeignDomain", "the domain gmail.com is not on events.allowed_domains", "device.lost", 23, 30 * time.Hour, 9 * time.Hour},
		{"InvalidEvent", "userId is missing", "device.stolen", 12, 6 * time.Hour, 10 * time.Minute},
		{"ProtectedUser", "breakglass@contoso.com is on guard.protected_users", "user.compromised", 1, 70 * time.Minute, 70 * time.Minute},
	}
	d := &deployment{bodies: map[int64]string{}}
	sequence := int64(4100)
	for k, r := range reasons {
		for i := range r.n {
			sequence++
			at := night.Add(-r.from)
			if r.n > 1 { // denser in the middle
				x := float64(i) / float64(r.n-1)
				at = at.Add(time.Duration(float64(r.from-r.to) * (x + .35*x*(1-x)*(2*x-1))))
			}
			who := fmt.Sprintf("%s.%d@contoso.com", names[(i*7+k)%len(names)], i%97)
			l := replay.Letter{
				Source: source, SequenceNumber: sequence, Enqueued: at, MessageID: fmt.Sprintf("hr-%d", sequence), Reason: r.reason,
				Description: r.description, Users: []string{who}, Types: []string{r.kind}, Producers: []string{"urn:contoso:mdm"},
				Attempts: 1 + k%2*5,
			}
			if r.reason == "InvalidEvent" {
				l.Users, l.Types = nil, nil
			}
			d.letters = append(d.letters, l)
			d.bodies[sequence] = fmt.Sprintf(
				`{"type":%q,"userPrincipalName":%q,"device":{"serial":"C02%d","model":"MacBook Pro"},"reason":"reported by the help desk"}`,
				r.kind, who, sequence)
		}
	}
	last := len(d.letters) - 2
	d.bodies[d.letters[last].SequenceNumber] = `{"type":"device.stolen","userid":"dana@contoso.com",` +
		`"device":{"serial":"C02XG0","model":"MacBook Pro"}}`
	d.history = history.History{
		State: history.SignedOut, IDs: []string{"0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c01"}, Names: []string{"ada.0@contoso.com"},
		Answer: "Yes: ada.0@contoso.com was signed out at 2026-03-14 01:02:11Z; Graph confirmed it.",
		Steps: []history.Step{
			{
				Time: night.Add(-80 * time.Minute), Kind: history.Reported, Text: "Reported as device.stolen by urn:contoso:mdm.",
				EventType: "device.stolen", Source: source, SequenceNumber: 4104,
			},
			{
				Time: night.Add(-80*time.Minute + 400*time.Millisecond), Kind: history.Called,
				Text: "Graph was called, attempt 1: 503 Service Unavailable.", RequestID: "9f1d0c7a-2a1e-4a5e-8d60-3b7c1f0e2d11",
			},
			{
				Time: night.Add(-79 * time.Minute), Kind: history.DeadLettered, Text: "Dead-lettered: RetriesExhausted.", Source: source,
				SequenceNumber: 4104,
			},
			{
				Time: night.Add(-77 * time.Minute), Kind: history.Replayed, Text: "Sent again from the dead letters.",
				By: "grace@contoso.com", Run: "5f0e1c5e-6f0e-4b7a-9a51-52d1f7a3c0de",
			},
			{
				Time: night.Add(-75*time.Minute - 29*time.Second), Kind: history.Revoked,
				Text: "Signed out: Graph confirmed that it revoked all sessions.", RequestID: "0f3c2b1a-7d5e-4b9f-9c11-52d1f7a3c0de",
			},
		},
	}
	times := func(scale float64, n int) report.Times {
		return report.Times{
			Count: n, Within: n - n/60, P50Seconds: .8 * scale, P90Seconds: 2.4 * scale, P99Seconds: 41 * scale,
			MaxSeconds: 612 * scale,
		}
	}
	d.report = report.Report{
		Answer: "98.2 % of 3,918 events that asked for it led to a revocation within 5 min.",
		Events: 4021, People: 3704, Met: 3848, Missed: 22, Failed: 48,
		NotAsked: 103, TargetSeconds: 300,
		Stages: report.Stages{
			EventToEnd: times(1, 3870), EventToQueue: times(.4, 3870), QueueToCall: times(.5, 3870),
			CallToEnd: times(.1, 3870),
		},
		Types: []report.Group{
			{Name: "device.stolen", EventToEnd: times(.5, 41)},
			{Name: "device.lost", EventToEnd: times(.8, 329)},
			{Name: "user.offboarded", EventToEnd: times(1, 3500)},
		},
		Misses: report.Cases{Count: 2, List: []report.Case{
			{User: "radia.3@contoso.com", EventType: "user.offboarded", Enqueued: night.Add(-5 * time.Hour), Seconds: 612},
			{User: "tim.9@contoso.com", EventType: "device.lost", Enqueued: night.Add(-4 * time.Hour), Seconds: 433},
		}},
		Exceptions: []report.Exception{{
			Kind: "UserNotFound", Meaning: "Graph does not know this id or user principal name.", Failed: true,
			Cases: report.Cases{Count: 1, List: []report.Case{
				{User: "=cmd|' /C calc'!A0", EventType: "user.offboarded", Reason: "UserNotFound", Enqueued: night.Add(-3 * time.Hour)},
			}},
		}},
		Operators: []report.Action{{Command: "dlq replay", By: "grace@contoso.com", Runs: 2, Count: 212}},
	}
	return d
}

// open serves a console and signs in.
func open(t *testing.T, d *deployment, change func(*Config)) *site {
	t.Helper()
	s := &site{t: t}
	cfg := Config{Operations: d, Access: Access{By: "grace@contoso.com"}, Version: "0.1.0", now: s.now}
	if change != nil {
		change(&cfg)
	}
	var err error
	if s.console, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() {
		s.console.Run(ctx)
		close(ran)
	}()
	s.server = httptest.NewServer(s.console)
	s.client = s.server.Client()
	s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	t.Cleanup(func() {
		s.server.Close()
		cancel()
		<-ran
	})
	return s
}

// anHour lets the workers have said something for an hour.
func (s *site) anHour() {
	w := s.console.workers
	replicas := status.AskAll(context.Background(), s.client, w.addresses)
	heard := status.AskIngest(context.Background(), s.client, w.ingests[0])
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last, w.heard, w.at, w.points = replicas, []status.Ingest{heard}, night.Add(-4*time.Second), nil
	for i := range maxPoints {
		x := float64(i) / maxPoints
		wave := math.Max(0, math.Sin(x*9)+.3*math.Sin(x*41)+.2*math.Sin(x*97))
		p := point{at: night.Add(time.Duration(i-maxPoints) * sampleEvery), waiting: 30 * wave, revokedPerMinute: 14*wave + 1}
		if i%60 > 52 {
			p.diedPerMin, p.died = float64(i%5), i%2
		}
		p.revoked = int(p.revokedPerMinute / 6)
		w.points = append(w.points, p)
	}
}
