package ingest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/session-revoker/session-revoker/config"
	events "github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/ingest"
)

var errAway = &azservicebus.Error{Code: azservicebus.CodeConnectionLost}

// faulty is a Sender between the server and the real one: it fails and delays.
type faulty struct {
	ingest.Sender
	mu     sync.Mutex
	err    error
	delay  time.Duration
	refuse string // fails what has this in its body, also a batch with it
	sends  int
}

func (f *faulty) wrap(s ingest.Sender) ingest.Sender {
	f.Sender = s
	return f
}

func (f *faulty) set(err error) { f.change(func() { f.err = err }) }

func (f *faulty) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

func (f *faulty) before(ctx context.Context) error {
	f.mu.Lock()
	err, delay := f.err, f.delay
	f.sends++
	f.mu.Unlock()
	if delay == 0 { // a timer that is due at once has crashed Go 1.26's race detector in a bubble
		return err
	}
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return ctx.Err()
	}
	return err
}

var errOne = errors.New("*Error{Condition: amqp:not-allowed}")

func (f *faulty) SendAMQPAnnotatedMessage(
	ctx context.Context, m *azservicebus.AMQPAnnotatedMessage, o *azservicebus.SendAMQPAnnotatedMessageOptions,
) error {
	if err := f.before(ctx); err != nil {
		return err
	}
	if f.refuse != "" && strings.Contains(string(m.Body.Data[0]), f.refuse) {
		return errOne
	}
	return f.Sender.SendAMQPAnnotatedMessage(ctx, m, o)
}

func (f *faulty) SendMessageBatch(ctx context.Context, b *azservicebus.MessageBatch, o *azservicebus.SendMessageBatchOptions) error {
	if err := f.before(ctx); err != nil {
		return err
	}
	if f.refuse != "" {
		return errOne
	}
	return f.Sender.SendMessageBatch(ctx, b, o)
}

// several makes n requests at the same time, and returns how often each status came.
func (w *world) several(n int, one func(i int) *http.Request) map[int]int {
	var mu sync.Mutex
	statuses := map[int]int{}
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			got := w.do(one(i))
			mu.Lock()
			defer mu.Unlock()
			statuses[got.Code]++
		})
	}
	all.Wait()
	return statuses
}

// from makes a right request from one of many addresses.
func from(address int, path, body string, header ...string) *http.Request {
	r := request(http.MethodPost, path, body, append(append([]string{}, right...), header...)...)
	r.RemoteAddr = fmt.Sprintf("203.0.113.%d:999", address%250)
	return r
}

func TestAnswersFitTheRequest(t *testing.T) {
	fleet := config.IngestSource{Name: "fleet", Path: "/fleet", Verify: "fleet", SecretFile: secretFile(t, theKey)}
	inWorld(t, settings{sources: []config.IngestSource{bearerSource(t, "hr"), fleet}}, func(w *world) {
		chunked := request(http.MethodPost, "/hr", "", right...)
		chunked.Body, chunked.ContentLength = io.NopCloser(strings.NewReader(strings.Repeat("x", 65<<10))), -1
		for what, c := range map[string]struct {
			r       *http.Request
			status  int
			name    string // of a header
			content string
		}{
			"unknown path":       {request("POST", "/nowhere", event, right...), 404, "", ""},
			"root":               {request("POST", "/", event, right...), 404, "", ""},
			"a secret elsewhere": {request("POST", "/hr/"+theKey, event, right...), 404, "", ""},
			"GET":                {request("GET", "/hr", "", right...), 405, "Allow", "POST"},
			"OPTIONS":            {request("OPTIONS", "/hr", "", right...), 405, "Allow", "POST"},
			"large":              {request("POST", "/hr", strings.Repeat("x", 65<<10), right...), 413, "", ""},
			"large and chunked":  {chunked, 413, "", ""},
			"compressed":         {request("POST", "/hr", event, with("Content-Encoding", "gzip")...), 415, "Accept-Encoding", "identity"},
			"a form with files": {
				request("POST", "/hr", event, with("Content-Type", "multipart/form-data")...), 415, "Accept", "application/json",
			},
			"no content type": {request("POST", "/hr", "rubbish", with("Content-Type", "")...), 415, "", ""},
			"empty":           {request("POST", "/hr", "", right...), 400, "", ""},
		} {
			got := w.do(c.r)
			w.want(what, got, c.status)
			if !strings.Contains(got.Header().Get(c.name), c.content) {
				t.Errorf("%s: %s: %q", what, c.name, got.Header().Get(c.name))
			}
			if got.Body.Len() < 15 || got.Header().Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s: the answer says nothing: %q %v", what, got.Body, got.Header())
			}
		}
		w.wantQueued("refused requests", 0)
		w.want("JSON without a content type", w.post("/hr", event, with("Content-Type", "")...), 200)
		w.want("XML without a content type", w.post("/hr", "<a/>", with("Content-Type", "")...), 200)
		w.wantQueued("accepted requests", 2)
	})
}

// TestServiceBusAway asks each sender to come again, in the way and time after which it does.
func TestServiceBusAway(t *testing.T) {
	sources := []config.IngestSource{
		bearerSource(t, "hr"),
		{Name: "fleet", Path: "/fleet", Verify: "fleet", SecretFile: secretFile(t, theKey)},
		{Name: "okta", Path: "/okta", Verify: "okta", SecretFile: secretFile(t, theKey)},
		{Name: "mine", Path: "/mine", Verify: "fleet", SecretFile: secretFile(t, theKey), RespondBusy: 503, Timeout: time.Second},
	}
	inWorld(t, settings{sources: sources}, func(w *world) {
		// The broker neither answers nor ends the connection: the worst case.
		faults := func(path string, header ...string) (int, time.Duration) {
			began := time.Now()
			got := w.post(path, event, header...)
			if got.Code != 200 && got.Header().Get("Retry-After") == "" {
				t.Errorf("%s: no Retry-After", path)
			}
			return got.Code, time.Since(began)
		}
		_ = w.broker.Close()
		for path, want := range map[string]struct {
			header []string
			status int
			within time.Duration
		}{
			"/hr":                     {right, 503, 10 * time.Second},
			"/fleet?secret=" + theKey: {nil, 429, 10 * time.Second},
			"/okta":                   {[]string{"Authorization", theKey}, 503, 2500 * time.Millisecond},
			"/mine?secret=" + theKey:  {nil, 503, time.Second},
		} {
			if status, took := faults(path, want.header...); status != want.status || took > want.within {
				t.Errorf("%s: %d after %s, want %d within %s", path, status, took, want.status, want.within)
			}
		}
		if len(w.health.Warnings()) == 0 || !w.health.Alive() || len(w.health.Problems()) > 0 {
			t.Errorf("warnings %v, problems %v: it must warn and stay ready", w.health.Warnings(), w.health.Problems())
		}
	})
}

func TestServiceBusComesBack(t *testing.T) {
	faults := &faulty{}
	inWorld(t, settings{sources: []config.IngestSource{bearerSource(t, "hr")}, wrap: faults.wrap}, func(w *world) {
		faults.change(func() { faults.delay = time.Hour }) // a send that hangs
		if got := w.several(4, func(i int) *http.Request { return from(i, "/hr", event) }); got[503] != 4 {
			t.Errorf("%v", got)
		}
		faults.change(func() { faults.delay = 0 })
		time.Sleep(10 * time.Second)
		w.want("afterwards", w.post("/hr", event, right...), 200)
		if len(w.health.Warnings()) > 0 {
			t.Errorf("%v", w.health.Warnings())
		}
	})
}

// TestSuccessMeansOnTheQueue makes sends fail at random: each success is on the queue, by the
// broker's own records.
func TestSuccessMeansOnTheQueue(t *testing.T) {
	faults := &faulty{}
	change := func(c *ingest.Config) { c.Concurrency, c.AddressRate = 200, 100_000 }
	inWorld(t, settings{sources: []config.IngestSource{bearerSource(t, "hr")}, wrap: faults.wrap, change: change}, func(w *world) {
		random := rand.New(rand.NewPCG(1, 2))
		var accepted sync.Map
		for round := range 40 {
			faults.change(func() {
				faults.delay = time.Duration(random.IntN(3)) * 4 * time.Second
				faults.err = []error{nil, nil, errAway, errOne, context.DeadlineExceeded}[random.IntN(5)]
			})
			if random.IntN(4) == 0 {
				w.broker.CloseConnections()
			}
			var all sync.WaitGroup
			for i := range 50 {
				all.Go(func() {
					body := fmt.Sprintf(`{"n":"%d-%d"}`, round, i)
					if got := w.do(from(i, "/hr", body)); got.Code == 200 {
						accepted.Store(body, true)
					}
				})
			}
			all.Wait()
		}
		queued := map[string]bool{}
		for _, m := range w.queued() {
			queued[string(m.Body)] = true
		}
		n := 0
		accepted.Range(func(body, _ any) bool {
			n++
			if !queued[body.(string)] {
				t.Errorf("answered with success, and not on the queue: %s", body)
			}
			return true
		})
		if n < 100 || n > 1900 {
			t.Errorf("%d of 2000 accepted: the test shows nothing", n)
		}
	})
}

func TestRequestsGatherWhileASendIsInFlight(t *testing.T) {
	faults := &faulty{}
	change := func(c *ingest.Config) { c.Concurrency, c.AddressRate = 200, 100_000 }
	inWorld(t, settings{sources: []config.IngestSource{bearerSource(t, "hr")}, wrap: faults.wrap, change: change}, func(w *world) {
		began := time.Now()
		w.want("alone", w.post("/hr", event, right...), 200)
		if took := time.Since(began); took > 10*time.Millisecond {
			t.Errorf("a request that is alone waited %s", took)
		}
		faults.change(func() { faults.delay, faults.sends = time.Second, 0 })
		var first sync.WaitGroup
		first.Go(func() { w.want("the first", w.post("/hr", event, right...), 200) })
		synctest.Wait() // its send lasts
		got := w.several(89, func(i int) *http.Request { return from(i, "/hr", fmt.Sprintf(`{"n":%d}`, i)) })
		first.Wait()
		if got[200] != 89 || faults.sends != 2 {
			t.Errorf("%v in %d sends, want the first alone and the others together", got, faults.sends)
		}
		w.wantQueued("all", 91)
	})
}

func TestOneBadMessageDoesNotFailItsNeighbors(t *testing.T) {
	faults := &faulty{refuse: "poison"}
	change := func(c *ingest.Config) { c.Concurrency, c.AddressRate, c.MaxBody = 200, 100_000, 1<<20 }
	inWorld(t, settings{sources: []config.IngestSource{bearerSource(t, "hr")}, wrap: faults.wrap, change: change}, func(w *world) {
		faults.change(func() { faults.delay = 100 * time.Millisecond })
		got := w.several(40, func(i int) *http.Request {
			switch i {
			case 7:
				return from(i, "/hr", `{"poison":1}`)
			case 8, 9:
				return from(i, "/hr", `{"large":"`+strings.Repeat("x", 300<<10)+`"}`)
			}
			return from(i, "/hr", fmt.Sprintf(`{"n":%d}`, i))
		})
		if got[200] != 37 || got[503] != 1 || got[413] != 2 {
			t.Errorf("%v", got)
		}
		w.wantQueued("the neighbors", 37)
	})
}

func TestFloodOnOneSourceDoesNotStarveAnother(t *testing.T) {
	faults := &faulty{}
	sources := []config.IngestSource{bearerSource(t, "flooded"), bearerSource(t, "quiet")}
	inWorld(t, settings{sources: sources, wrap: faults.wrap}, func(w *world) {
		// Each body of the flood takes as long as it may.
		flood, end := context.WithCancel(context.Background())
		var all sync.WaitGroup
		for i := range 60 {
			all.Go(func() {
				for flood.Err() == nil {
					r := from(i, "/flooded", "")
					r.Body, r.ContentLength = io.NopCloser(stuck{flood, 5 * time.Second}), 100
					w.do(r)
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
		time.Sleep(10 * time.Second)
		for range 10 {
			began := time.Now()
			w.want("the other source", w.do(from(99, "/quiet", event)), 200)
			if took := time.Since(began); took > time.Second {
				t.Errorf("the other source's answer took %s", took)
			}
			time.Sleep(time.Second)
		}
		end()
		all.Wait()
	})
}

// stuck is a body that does not come.
type stuck struct {
	ctx context.Context
	d   time.Duration
}

func (s stuck) Read([]byte) (int, error) {
	select {
	case <-time.After(s.d):
	case <-s.ctx.Done():
	}
	return 0, errors.New("timeout")
}

func TestAddressHasItsOwnRate(t *testing.T) {
	change := func(c *ingest.Config) { c.AddressRate = 10 }
	inWorld(t, settings{sources: []config.IngestSource{bearerSource(t, "hr")}, change: change}, func(w *world) {
		refused := 0
		for range 200 {
			if w.do(from(1, "/hr", event, "Authorization", "Bearer wrong")).Code == 503 {
				refused++
			}
		}
		if refused != 150 {
			t.Errorf("%d of 200 requests of one address were too many, want all but a burst of 50", refused)
		}
		w.want("another address", w.do(from(2, "/hr", event)), 200)
		w.want("the same address", w.do(from(1, "/hr", event)), 503)
		time.Sleep(time.Second)
		w.want("the same address, later", w.do(from(1, "/hr", event)), 200)
		// More addresses than are told apart.
		for i := range 3000 {
			r := request(http.MethodPost, "/hr", event)
			r.RemoteAddr = fmt.Sprintf("[2001:db8:%x:%x::1]:1", i/256, i%256)
			w.do(r)
		}
		time.Sleep(time.Minute)
		w.want("after a flood of addresses", w.do(from(3, "/hr", event)), 200)
	})
}

func TestSourceHasItsOwnRateOfEvents(t *testing.T) {
	source := bearerSource(t, "hr")
	source.Rate, source.Burst = 1, 5
	inWorld(t, settings{sources: []config.IngestSource{source}}, func(w *world) {
		for i := range 500 { // whoever has no secret cannot use up the rate
			w.do(from(i, "/hr", event, "Authorization", "Bearer wrong"))
		}
		statuses := map[int]int{}
		for i := range 8 {
			statuses[w.do(from(i, "/hr", event)).Code]++
		}
		if statuses[200] != 5 || statuses[503] != 3 {
			t.Errorf("%v", statuses)
		}
	})
}

// TestSlowSendersAreCutOff has clients that send a byte now and then, of the header or the body.
func TestSlowSendersAreCutOff(t *testing.T) {
	inWorld(t, settings{sources: []config.IngestSource{bearerSource(t, "hr")}}, func(w *world) {
		head := "POST /hr HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + theKey + "\r\nContent-Type: application/json\r\n"
		for what, c := range map[string]struct {
			at   string // sent at once
			want string // the answer's status line; empty for none
		}{
			"nothing":         {"", ""},
			"half a header":   {"POST /hr HTTP/1.1\r\nHost: x\r\n", ""},
			"half a body":     {head + "Content-Length: 1000\r\n\r\n{", "503"},
			"half a chunk":    {head + "Transfer-Encoding: chunked\r\n\r\n10\r\n{", "503"},
			"a silent second": {head + "Content-Length: 2\r\n\r\n{}", "200"},
		} {
			conn, err := w.listener.Dial(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			var writing sync.WaitGroup
			writing.Go(func() {
				_, _ = io.WriteString(conn, c.at)
				for { // a byte a second
					time.Sleep(time.Second)
					if _, err := conn.Write([]byte("x")); err != nil {
						return
					}
				}
			})
			text, _ := io.ReadAll(conn)
			if took := time.Since(began); took > 25*time.Second {
				t.Errorf("%s: held a connection for %s", what, took)
			}
			// Of net/http's own answers to half a header, none is a success.
			if status, _, _ := strings.Cut(string(text), "\r\n"); !strings.Contains(status, c.want) ||
				c.want == "" && strings.Contains(status, " 2") {
				t.Errorf("%s: %q", what, status)
			}
			_ = conn.Close()
			writing.Wait()
		}
		w.wantQueued("the whole request", 1)
	})
}

func TestConnectionsAreBounded(t *testing.T) {
	inWorld(t, settings{sources: []config.IngestSource{bearerSource(t, "hr")}}, func(w *world) {
		var conns []net.Conn
		for range 64 { // of one address: a quarter of max_connections
			c, err := w.listener.Dial(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
		}
		synctest.Wait()
		open := 0
		for _, c := range conns {
			_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				open++
			}
			_ = c.Close()
		}
		if open != 16 {
			t.Errorf("%d of 64 connections are open, want 16", open)
		}
		synctest.Wait()
		time.Sleep(time.Second)
		response, err := w.client().Do(overHTTP(t, event))
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("%v, %v", response, err)
		}
		_ = response.Body.Close()
	})
}

func overHTTP(t *testing.T, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, "http://ingest/hr", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", right[1])
	r.Header.Set("Content-Type", "application/json")
	return r
}

func TestLargeHeadersAreRefused(t *testing.T) {
	inWorld(t, settings{sources: []config.IngestSource{bearerSource(t, "hr")}}, func(w *world) {
		r := overHTTP(t, event)
		r.Header.Set("X-Large", strings.Repeat("x", 32<<10))
		response, err := w.client().Do(r)
		if err == nil {
			if _ = response.Body.Close(); response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
				t.Errorf("%d", response.StatusCode)
			}
		}
		w.wantQueued("a large header", 0)
	})
}

func TestStopFinishesRequestsInFlight(t *testing.T) {
	faults := &faulty{}
	inWorld(t, settings{sources: []config.IngestSource{bearerSource(t, "hr")}, wrap: faults.wrap}, func(w *world) {
		faults.change(func() { faults.delay = 2 * time.Second })
		status := make(chan int, 1)
		go func() {
			response, err := w.client().Do(overHTTP(t, event))
			if err != nil {
				status <- 0
				return
			}
			_ = response.Body.Close()
			status <- response.StatusCode
		}()
		time.Sleep(time.Second)
		began := time.Now()
		if err := w.stop(); err != nil {
			t.Error(err)
		}
		if got, took := <-status, time.Since(began); got != 200 || took > 5*time.Second {
			t.Errorf("%d after %s", got, took)
		}
		w.wantQueued("in flight", 1)
		w.stop = func() error { return nil }
	})
}

// decoderFunc is a Decoder.
type decoderFunc func(events.Message) ([]events.Item, error)

func (f decoderFunc) Decode(m events.Message) ([]events.Item, error) { return f(m) }

func TestValidateRefusesWhatNobodyUnderstands(t *testing.T) {
	native, err := events.NewDecoder(events.Config{})
	if err != nil {
		t.Fatal(err)
	}
	decoder := decoderFunc(func(m events.Message) ([]events.Item, error) {
		switch {
		case strings.Contains(string(m.Body), "logout"):
			return []events.Item{{Err: &events.Error{Kind: events.NoTrigger, Field: "type", Problem: "x"}}}, nil
		case strings.Contains(string(m.Body), "later"):
			return nil, &events.Error{Kind: events.NotYet, Field: "body", Problem: "x"}
		case strings.Contains(string(m.Body), "defect"):
			panic("a defect")
		}
		return native.Decode(m)
	})
	inWorld(t, settings{sources: []config.IngestSource{bearerSource(t, "hr")}, validate: decoder}, func(w *world) {
		for body, status := range map[string]int{
			event:                                  200,
			`[` + event + `,{"type":"x"}]`:         200, // the worker acts on one, and rejects the other
			`{"logout":1}`:                         200, // understood: the worker decides
			`{"later":1}`:                          200, // cannot be judged now
			`{"type":"birthday","userId":"x"}`:     422,
			`[{"type":"birthday"},{"type":"tea"}]`: 422,
			`{"a":`:                                422,
			`{"defect":1}`:                         503,
		} {
			w.want(body, w.post("/hr", body, right...), status)
		}
		w.wantQueued("understood", 4)
	})
}

func TestForwardedAddressIsBelievedOfTrustedProxiesOnly(t *testing.T) {
	s := settings{
		sources: []config.IngestSource{bearerSource(t, "hr")}, proxies: []string{"10.0.0.0/8", "192.0.2.7"},
		change: func(c *ingest.Config) { c.AddressRate = 1 },
	}
	inWorld(t, s, func(w *world) {
		burst := func(peer string, forwarded func(i int) string) (limited int) {
			for i := range 20 {
				r := request(http.MethodPost, "/hr", event, "X-Forwarded-For", forwarded(i))
				r.RemoteAddr = peer
				if w.do(r).Code == 503 {
					limited++
				}
			}
			return limited
		}
		many := func(i int) string { return fmt.Sprintf("198.51.100.%d", i) }
		if n := burst("203.0.113.9:1", many); n != 15 {
			t.Errorf("a stranger names other addresses: %d limited, want 15", n)
		}
		if n := burst("10.1.2.3:1", many); n != 0 {
			t.Errorf("a proxy names the senders: %d limited", n)
		}
		if n := burst("10.1.2.3:1", func(i int) string { return many(i+100) + ", 203.0.113.77, 192.0.2.7" }); n != 15 {
			t.Errorf("a sender names others before itself: %d limited, want 15", n)
		}
		if n := burst("192.0.2.7:1", func(int) string { return "rubbish" }); n != 15 {
			t.Errorf("rubbish from a proxy: %d limited, want 15", n)
		}
	})
}

func TestLogIsNotFlooded(t *testing.T) {
	inWorld(t, settings{sources: []config.IngestSource{bearerSource(t, "hr")}}, func(w *world) {
		for i := range 1000 {
			w.do(from(i, "/hr", event, "Authorization", "Bearer wrong"))
			w.do(request(http.MethodPost, fmt.Sprintf("/scan/%d", i), event))
		}
		lines := w.logs.FilterMessageSnippet("request refused").Len()
		if lines != 2 {
			t.Errorf("%d lines, want one for the source and one for no source", lines)
		}
		time.Sleep(time.Minute)
		w.do(from(1, "/hr", event, "Authorization", "Bearer wrong"))
		last := w.logs.FilterMessageSnippet("request refused").All()[lines]
		if n := last.ContextMap()["notLogged"]; n != int64(999) {
			t.Errorf("%v requests were not logged, want 999", n)
		}
		if n := testutil.ToFloat64(w.metrics.Requests.WithLabelValues("hr", "unauthenticated")); n != 1001 {
			t.Errorf("%v counted", n)
		}
	})
}

func TestMetricsShowWhenASourceWasHeard(t *testing.T) {
	hr, quiet := bearerSource(t, "hr"), bearerSource(t, "quiet")
	quiet.ExpectEvery = time.Hour
	inWorld(t, settings{sources: []config.IngestSource{hr, quiet}}, func(w *world) {
		time.Sleep(time.Hour)
		w.do(from(1, "/quiet", event, "Authorization", "Bearer wrong"))
		w.want("an event", w.post("/hr", event, right...), 200)
		heard := func(name string) float64 {
			return testutil.ToFloat64(w.metrics.LastAccepted.WithLabelValues(name))
		}
		if at := heard("hr"); at != float64(time.Now().Unix()) || heard("quiet") != 0 {
			t.Errorf("heard at %v and %v", at, heard("quiet"))
		}
		if testutil.ToFloat64(w.metrics.Expected.WithLabelValues("quiet")) != 3600 {
			t.Error("the expectation is not shown")
		}
	})
}

func TestNotReadyBeforeServiceBusAcceptsASender(t *testing.T) {
	var away atomic.Bool
	away.Store(true)
	wrap := func(s ingest.Sender) ingest.Sender { return &unreachable{s, &away} }
	inWorld(t, settings{sources: []config.IngestSource{bearerSource(t, "hr")}, wrap: wrap}, func(w *world) {
		time.Sleep(time.Minute)
		if len(w.health.Problems()) == 0 || !w.health.Alive() {
			t.Errorf("problems %v, alive %v", w.health.Problems(), w.health.Alive())
		}
		w.want("an event", w.post("/hr", event, right...), 503)
		away.Store(false)
		time.Sleep(10 * time.Second)
		if len(w.health.Problems()) > 0 {
			t.Errorf("%v", w.health.Problems())
		}
		w.want("an event", w.post("/hr", event, right...), 200)
	})
}

// unreachable is a Sender without a link.
type unreachable struct {
	ingest.Sender
	away *atomic.Bool
}

func (u *unreachable) NewMessageBatch(ctx context.Context, o *azservicebus.MessageBatchOptions) (*azservicebus.MessageBatch, error) {
	if u.away.Load() {
		return nil, errAway
	}
	return u.Sender.NewMessageBatch(ctx, o)
}

func (u *unreachable) SendAMQPAnnotatedMessage(
	ctx context.Context, m *azservicebus.AMQPAnnotatedMessage, o *azservicebus.SendAMQPAnnotatedMessageOptions,
) error {
	if u.away.Load() {
		return errAway
	}
	return u.Sender.SendAMQPAnnotatedMessage(ctx, m, o)
}
