package ingest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/emulator/graph"
	events "github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/event/secevent"
	"github.com/session-revoker/session-revoker/ingest"
	"github.com/session-revoker/session-revoker/ingest/ssf/ssftest"
)

// signals is a world with one stream of an imitated transmitter.
type signals struct {
	*world
	tx *ssftest.Transmitter
}

// plan is what a test changes.
type plan struct {
	tx      func(tx *ssftest.Transmitter)
	stream  func(c *config.IngestStream)
	world   func(s *settings)
	keys    http.HandlerFunc     // answers instead of the transmitter's keys
	nothing bool                 // no stream is there at the start
	other   *ssftest.Transmitter // whose tokens are accepted, too, but not on this stream
}

var ada = map[string]any{"format": "email", "email": "ada@contoso.com"}

// inSignals runs a test in a bubble with a stream that is polled.
func inSignals(t *testing.T, p plan, test func(w *signals)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		tx := ssftest.New("http://127.0.0.1:81/tenant")
		if p.tx != nil {
			p.tx(tx)
		}
		if !p.nothing {
			tx.Open()
		}
		transport := serve(t, tx, p.keys)
		audience := []string{ssftest.Audience}
		transmitters := []secevent.Transmitter{{
			Name: "idp", Issuer: tx.Issuer, Audience: audience,
			JWKSURL: "http://127.0.0.1:81" + strings.TrimSuffix(path(tx.Issuer), "/") + "/keys",
		}}
		if p.other != nil {
			text, err := json.Marshal(p.other.Keys())
			if err != nil {
				t.Fatal(err)
			}
			transmitters = append(transmitters, secevent.Transmitter{
				Name: "other", Issuer: p.other.Issuer, Audience: audience, JWKSFile: secretFile(t, string(text)),
			})
		}
		verifier, err := secevent.New(secevent.Config{Transport: transport, Transmitters: transmitters})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var keys sync.WaitGroup
		keys.Go(func() { verifier.Run(ctx) })
		synctest.Wait()
		c := config.IngestStream{At: "worker.yaml:7:5", Name: "idp", Issuer: tx.Issuer}
		if p.stream != nil {
			p.stream(&c)
		}
		s := settings{streams: []config.IngestStream{c}, tokens: verifier, transport: transport}
		if p.world != nil {
			p.world(&s)
		}
		w := &signals{newWorld(t, s), tx}
		defer func() {
			if err := w.stop(); err != nil {
				t.Errorf("Run: %v", err)
			}
			cancel()
			keys.Wait()
			w.noSecrets()
			if t.Failed() {
				for _, line := range w.logs.All() {
					t.Log(line.Time.Format(time.TimeOnly), line.Message, line.ContextMap())
				}
			}
		}()
		test(w)
	})
}

func path(issuer string) string {
	_, rest, _ := strings.Cut(issuer, "://")
	_, path, _ := strings.Cut(rest, "/")
	return "/" + path
}

// serve returns a transport that reaches the transmitter over HTTP in memory, whatever the address.
func serve(t *testing.T, tx *ssftest.Transmitter, keys http.HandlerFunc) *http.Transport {
	t.Helper()
	listener := graph.NewMemoryListener()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if keys != nil && strings.HasSuffix(r.URL.Path, "/keys") {
			keys(w, r)
			return
		}
		tx.ServeHTTP(w, r)
	})}
	ended := make(chan struct{})
	go func() { _ = server.Serve(listener); close(ended) }()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return listener.Dial(ctx) }}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = server.Close()
		_ = listener.Close()
		<-ended
		synctest.Wait()
	})
	return transport
}

// after lets time pass.
func (w *signals) after(d time.Duration) {
	w.t.Helper()
	time.Sleep(d)
	synctest.Wait()
}

func (w *signals) count(result string) int {
	return int(testutil.ToFloat64(w.metrics.Requests.WithLabelValues("idp", result)))
}

func (w *signals) working() bool {
	return testutil.ToFloat64(w.metrics.StreamWorking.WithLabelValues("idp")) == 1
}

// wantProblem fails unless the stream's problem contains a text, or there is none if the text is "".
func (w *signals) wantProblem(text string) {
	w.t.Helper()
	got := w.health.Warnings()["stream idp"]
	if text == "" && got != "" || !strings.Contains(got, text) {
		w.t.Errorf("the stream's problem is %q, want %q", got, text)
	}
	if w.working() != (text == "") {
		w.t.Errorf("working is %v with the problem %q", w.working(), got)
	}
}

// pollsOf returns how many polls have come.
func (w *signals) polls() int { return len(w.tx.Polls()) }

func TestPollPutsTokensOnTheQueueAndThenAcknowledges(t *testing.T) {
	inSignals(t, plan{}, func(w *signals) {
		w.after(10 * time.Second) // the first heartbeat has come
		id := w.tx.Emit(ssftest.AccountDisabled, nil, ada)
		w.after(time.Second)
		w.wantQueued("a token", 1)
		receiver, err := w.broker.Client(w.t).NewReceiverForQueue(queue, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := receiver.ReceiveMessages(context.Background(), 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		if m := got[0]; *m.ContentType != "application/secevent+jwt" || m.ApplicationProperties["source"] != "idp" ||
			m.ApplicationProperties["received"] == nil || strings.Count(string(m.Body), ".") != 2 ||
			!strings.HasPrefix(m.MessageID, "idp:set-") {
			t.Errorf("%s, %s, %v", *m.ContentType, m.MessageID, m.ApplicationProperties)
		}
		if got := w.tx.Acked(); !slices.Contains(got, id) {
			t.Errorf("acknowledged: %v, want %s", got, id)
		}
		if w.count("accepted") != 1 || w.tx.Waiting() != 0 {
			t.Errorf("%d accepted, %d wait", w.count("accepted"), w.tx.Waiting())
		}
		w.wantProblem("")
	})
}

func TestPollIsHeldByTheTransmitterAndNotRepeatedAtOnce(t *testing.T) {
	inSignals(t, plan{}, func(w *signals) {
		w.after(time.Hour)
		if n := w.polls(); n > 135 { // held for 30 s each, and one for each heartbeat
			t.Errorf("%d polls in an hour", n)
		}
	})
}

func TestPollAcknowledgesNothingThatServiceBusDoesNotHave(t *testing.T) {
	faults := &faulty{}
	inSignals(t, plan{world: func(s *settings) { s.wrap = faults.wrap }}, func(w *signals) {
		w.after(time.Second)
		faults.change(func() { faults.delay = time.Hour })
		id := w.tx.Emit(ssftest.AccountDisabled, nil, ada)
		w.after(10 * time.Minute)
		if got := w.tx.Acked(); slices.Contains(got, id) || len(w.tx.Refused()) > 0 {
			t.Fatalf("acknowledged %v, refused %v", got, w.tx.Refused())
		}
		if n := w.polls(); n > 60 {
			t.Errorf("%d polls while nothing can be put on the queue", n)
		}
		faults.change(func() { faults.delay = 0 })
		w.after(2 * time.Minute)
		w.wantQueued("afterwards", 1)
		if got := w.tx.Acked(); !slices.Contains(got, id) {
			t.Errorf("not acknowledged: %v", got)
		}
	})
}

func TestPollAcknowledgesTheLastTokensAtTheEnd(t *testing.T) {
	// The poll after the one that brings a token is held. So nothing but the end acknowledges it, if the
	// poll that would is never answered.
	var polls atomic.Int32
	lost := func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/poll") && polls.Add(1) == 3 {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			return true
		}
		return false
	}
	inSignals(t, plan{tx: func(tx *ssftest.Transmitter) { tx.Answer, tx.ZeroIsOne = lost, true }}, func(w *signals) {
		w.after(10 * time.Second)
		first := w.tx.Emit(ssftest.AccountDisabled, nil, ada)
		w.after(10 * time.Second)
		w.tx.Emit(ssftest.AccountDisabled, nil, ada)
		if err := w.stop(); err != nil {
			t.Error(err)
		}
		w.stop = func() error { return nil }
		last := w.tx.Polls()[len(w.tx.Polls())-1]
		if last.MaxEvents == nil || *last.MaxEvents != 0 || !last.Immediately || !slices.Contains(last.Ack, first) {
			t.Errorf("the last poll is %+v, want one that acknowledges %s and asks for nothing", last, first)
		}
		w.wantQueued("the token that the last poll brought stays at the transmitter", 1)
		if w.tx.Waiting() != 1 {
			t.Errorf("%d wait at the transmitter, want 1", w.tx.Waiting())
		}
	})
}

func TestPollRefusesWhatIsNotTheTransmitters(t *testing.T) {
	now := func() int64 { return time.Now().Unix() }
	headers := map[jose.HeaderKey]any{"kid": "one", "typ": "secevent+jwt"}
	claims := func(tx *ssftest.Transmitter, changes map[string]any) map[string]any {
		c := map[string]any{
			"iss": tx.Issuer, "aud": tx.Audience, "jti": "a", "iat": now(), "sub_id": ada,
			"events": map[string]any{ssftest.AccountDisabled: map[string]any{}},
		}
		maps.Copy(c, changes)
		return c
	}
	for what, c := range map[string]struct {
		code string
		make func(tx *ssftest.Transmitter) string
	}{
		"another issuer": {"invalid_issuer", func(tx *ssftest.Transmitter) string {
			return tx.Sign(claims(tx, map[string]any{"iss": "https://evil.example.com"}), headers)
		}},
		"another audience": {"invalid_audience", func(tx *ssftest.Transmitter) string {
			return tx.Sign(claims(tx, map[string]any{"aud": "https://others.example.com"}), headers)
		}},
		"the key of somebody else": {"authentication_failed", func(tx *ssftest.Transmitter) string {
			return ssftest.New(tx.Issuer).Sign(claims(tx, nil), headers)
		}},
		"algorithm none": {"invalid_key", func(tx *ssftest.Transmitter) string {
			signed := tx.Sign(claims(tx, nil), headers)
			claims := signed[strings.IndexByte(signed, '.'):strings.LastIndexByte(signed, '.')]
			return "eyJhbGciOiJub25lIiwidHlwIjoic2VjZXZlbnQrand0In0" + claims + "."
		}},
		"no token": {"invalid_request", func(*ssftest.Transmitter) string { return "hello" }},
		"claims":   {"invalid_request", func(*ssftest.Transmitter) string { return `{"iss":"x","events":{},"jti":"a"}` }},
		"no jti": {"invalid_request", func(tx *ssftest.Transmitter) string {
			return tx.Sign(claims(tx, map[string]any{"jti": ""}), headers)
		}},
		"an ID token": {"invalid_request", func(tx *ssftest.Transmitter) string {
			return tx.Sign(claims(tx, nil), map[jose.HeaderKey]any{"kid": "one", "typ": "at+jwt"})
		}},
		"from tomorrow": {"invalid_request", func(tx *ssftest.Transmitter) string {
			return tx.Sign(claims(tx, map[string]any{"iat": now() + 86400}), headers)
		}},
	} {
		t.Run(what, func(t *testing.T) {
			inSignals(t, plan{}, func(w *signals) {
				w.after(time.Second)
				w.tx.Put("a", c.make(w.tx))
				good := w.tx.Emit(ssftest.AccountDisabled, nil, ada)
				w.after(10 * time.Minute)
				if got := w.tx.Refused()["a"]; got.Err != c.code || got.Description == "" {
					t.Errorf("refused with %+v, want %s", got, c.code)
				}
				w.wantQueued("the other token", 1)
				if !slices.Contains(w.tx.Acked(), good) || slices.Contains(w.tx.Acked(), "a") {
					t.Errorf("acknowledged %v", w.tx.Acked())
				}
				if w.count("malformed")+w.count("unauthenticated") != 1 {
					t.Error("it is not counted")
				}
			})
		})
	}
}

func TestPollRefusesTheTokensOfAnotherTransmitter(t *testing.T) {
	other := ssftest.New("https://other.example.com")
	inSignals(t, plan{other: other}, func(w *signals) {
		w.after(10 * time.Second)
		w.tx.Put("a", other.Token("a", ssftest.AccountDisabled, nil, ada))
		w.after(time.Minute)
		if got := w.tx.Refused()["a"]; got.Err != "invalid_issuer" {
			t.Errorf("refused with %+v", got)
		}
		w.wantQueued("nothing", 0)
	})
}

func TestPollSurvivesADefect(t *testing.T) {
	var defect atomic.Bool
	defect.Store(true)
	decoder := decoderFunc(func(events.Message) ([]events.Item, error) {
		if defect.Load() {
			panic("a defect")
		}
		return []events.Item{{}}, nil
	})
	inSignals(t, plan{world: func(s *settings) { s.validate = decoder }}, func(w *signals) {
		w.after(10 * time.Second)
		w.tx.Emit(ssftest.AccountDisabled, nil, ada)
		w.after(time.Minute)
		if len(w.tx.Acked()) > 1 || len(w.tx.Refused()) > 0 { // one heartbeat
			t.Errorf("acknowledged %v, refused %v", w.tx.Acked(), w.tx.Refused())
		}
		w.wantProblem("a defect of session-revoker")
		defect.Store(false)
		w.after(2 * time.Minute) // the longest pause is one and a half
		w.wantQueued("without it", 1)
		w.wantProblem("")
	})
}

func TestPollDoesNotHoldUpAStopAtOnce(t *testing.T) {
	faults := &faulty{}
	inSignals(t, plan{world: func(s *settings) { s.wrap = faults.wrap }}, func(w *signals) {
		_ = w.stop()
		hard, kill := context.WithCancel(context.Background())
		defer kill()
		w.start(hard)
		w.after(10 * time.Second)
		faults.change(func() { faults.delay = time.Hour })
		w.tx.Emit(ssftest.AccountDisabled, nil, ada)
		w.after(time.Second)
		began := time.Now()
		kill()
		_ = w.stop()
		w.stop = func() error { return nil }
		if took := time.Since(began); took > 6*time.Second { // one send
			t.Errorf("it took %s", took)
		}
	})
}

func TestPollKeepsATokenAtTheTransmitterWhileItsKeysAreAway(t *testing.T) {
	var mu sync.Mutex
	away := true
	keys := func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if away {
			http.Error(w, "", http.StatusBadGateway)
			return
		}
		published(w, r)
	}
	inSignals(t, plan{keys: keys, tx: func(tx *ssftest.Transmitter) { published = tx.ServeHTTP }}, func(w *signals) {
		id := w.tx.Emit(ssftest.AccountDisabled, nil, ada)
		w.after(10 * time.Minute)
		if len(w.tx.Acked()) > 0 || len(w.tx.Refused()) > 0 || w.count("busy") == 0 {
			t.Fatalf("acknowledged %v, refused %v", w.tx.Acked(), w.tx.Refused())
		}
		if n := w.polls(); n > 150 {
			t.Errorf("%d polls within ten minutes for a token that waits", n)
		}
		mu.Lock()
		away = false
		mu.Unlock()
		w.after(2 * time.Minute)
		w.wantQueued("with the keys", 1)
		if !slices.Contains(w.tx.Acked(), id) {
			t.Error("not acknowledged")
		}
	})
}

// published answers with the keys; a test sets it.
var published http.HandlerFunc

func TestPollGoesOnIfAnAcknowledgmentIsRefused(t *testing.T) {
	for _, status := range []int{400, 404, 409, 410, 422, 500} {
		refuses := func(w http.ResponseWriter, r *http.Request) bool {
			text, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(text))
			if !strings.Contains(string(text), `"ack":["poison"`) {
				return false
			}
			http.Error(w, `{"err":"invalid_request"}`, status)
			return true
		}
		inSignals(t, plan{tx: func(tx *ssftest.Transmitter) { tx.Answer = refuses }}, func(w *signals) {
			w.after(10 * time.Second)
			w.tx.Put("poison", w.tx.Token("poison", ssftest.AccountDisabled, nil, ada))
			w.after(time.Minute)
			w.tx.Emit(ssftest.AccountDisabled, nil, ada)
			w.after(5 * time.Minute)
			w.wantQueued(fmt.Sprint("both, with HTTP ", status), 2)
		})
	}
}

func TestPollOfARepeatedTokenPublishesItOnce(t *testing.T) {
	inSignals(t, plan{}, func(w *signals) {
		w.after(time.Second)
		token := w.tx.Token("a", ssftest.AccountDisabled, nil, ada)
		for range 5 {
			w.tx.Put("a", token)
			w.after(time.Second)
		}
		w.after(time.Minute)
		first := w.wantQueued("a token that comes five times", 1)
		for i := range 3 { // whatever is around it, and whatever it is called
			w.tx.Put(fmt.Sprint("other-", i), strings.Repeat(" ", i)+token)
		}
		w.after(time.Minute)
		w.wantQueued("the same token with white space", 1)
		bob := map[string]any{"format": "email", "email": "bob@contoso.com"}
		w.tx.Put("a", w.tx.Token("a", ssftest.AccountDisabled, nil, bob))
		w.after(time.Minute)
		if other := w.wantQueued("another token with the same jti", 2); other.MessageID == first.MessageID {
			t.Errorf("both have the MessageID %s: Service Bus may drop one as a duplicate", first.MessageID)
		}
		if w.tx.Waiting() != 0 || w.count("repeated") == 0 {
			t.Errorf("%d wait; %d repeated", w.tx.Waiting(), w.count("repeated"))
		}
	})
}

func TestHeartbeatsComeAndStayOffTheQueue(t *testing.T) {
	inSignals(t, plan{}, func(w *signals) {
		w.after(time.Hour)
		w.wantQueued("heartbeats", 0)
		if n := w.count("handshake"); n < 4 || n > 6 {
			t.Errorf("%d heartbeats in an hour", n)
		}
		last := testutil.ToFloat64(w.metrics.LastAccepted.WithLabelValues("idp"))
		expected := testutil.ToFloat64(w.metrics.Expected.WithLabelValues("idp"))
		if float64(time.Now().Unix())-last > 1000 || expected != 2700 {
			t.Errorf("last heard at %v, expected every %v", last, expected)
		}
		w.wantProblem("")
	})
}

func TestHeartbeatsThatDoNotComeAreNoticed(t *testing.T) {
	inSignals(t, plan{tx: func(tx *ssftest.Transmitter) { tx.Silent = true }}, func(w *signals) {
		w.after(30 * time.Minute)
		w.wantProblem("")
		w.after(30 * time.Minute)
		w.wantProblem("sends none")
	})
}

func TestHeartbeatsRespectTheTransmittersMinimum(t *testing.T) {
	minimum := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/streams") {
			return false
		}
		fmt.Fprint(w, `[{"stream_id":"stream-1","delivery":{"method":"urn:ietf:rfc:8936",`+
			`"endpoint_url":"http://127.0.0.1:81/tenant/poll"},"min_verification_interval":3600,"aud":["`+ssftest.Audience+`"]}]`)
		return true
	}
	inSignals(t, plan{tx: func(tx *ssftest.Transmitter) { tx.Answer = minimum }}, func(w *signals) {
		w.after(3*time.Hour + time.Minute)
		n := 0
		for _, r := range w.tx.Requests() {
			if strings.HasSuffix(r, "/verify") {
				n++
			}
		}
		if n != 4 {
			t.Errorf("asked %d times in three hours", n)
		}
	})
}

func TestStatusOfAStreamIsShown(t *testing.T) {
	inSignals(t, plan{}, func(w *signals) {
		w.after(time.Second)
		w.tx.SetStatus("paused", true)
		w.after(20 * time.Second)
		w.wantProblem("paused it")
		w.wantQueued("stream-updated", 0)
		w.after(2 * time.Minute) // the status was read since
		w.wantProblem("paused it")
		w.tx.SetStatus("enabled", false)
		w.after(2 * time.Minute)
		w.wantProblem("")
		w.tx.SetStatus("disabled", true)
		w.after(20 * time.Second)
		w.wantProblem("its events are lost")
	})
}

func TestStreamWithAnotherAudienceIsNotPolled(t *testing.T) {
	inSignals(t, plan{tx: func(tx *ssftest.Transmitter) { tx.Audience = "client/stream-1" }}, func(w *signals) {
		w.tx.Emit(ssftest.AccountDisabled, nil, ada)
		w.after(10 * time.Minute)
		w.wantProblem(`["client/stream-1"], which is not in the audience of idp`)
		if w.polls() != 0 || w.tx.Waiting() == 0 {
			t.Error("it is polled: its tokens would be refused")
		}
	})
}

func TestStreamThatGetsAnotherAudienceIsNotPolledAnyLonger(t *testing.T) {
	var again atomic.Bool
	remade := func(w http.ResponseWriter, r *http.Request) bool {
		if !again.Load() || !strings.HasSuffix(r.URL.Path, "/streams") {
			return false
		}
		fmt.Fprint(w, `[{"stream_id":"stream-2","delivery":{"method":"urn:ietf:rfc:8936",`+
			`"endpoint_url":"http://127.0.0.1:81/tenant/poll"},"aud":["client/stream-2"]}]`)
		return true
	}
	foreign := func(w *signals, id string) {
		w.tx.Put(id, w.tx.Sign(map[string]any{
			"iss": w.tx.Issuer, "aud": "client/stream-2", "jti": id, "iat": time.Now().Unix(), "sub_id": ada,
			"events": map[string]any{ssftest.AccountDisabled: map[string]any{}},
		}, map[jose.HeaderKey]any{"kid": "one", "typ": "secevent+jwt"}))
	}
	inSignals(t, plan{tx: func(tx *ssftest.Transmitter) { tx.Answer = remade }}, func(w *signals) {
		w.after(2 * time.Minute)
		foreign(w, "a")
		w.after(10 * time.Second)
		if got := w.tx.Refused()["a"]; got.Err != "invalid_audience" {
			t.Errorf("while the stream is for us: %+v", got)
		}
		w.after(2 * time.Minute)
		again.Store(true)
		foreign(w, "b")
		w.after(10 * time.Minute)
		if got := w.tx.Refused(); len(got) != 1 || w.tx.Waiting() == 0 {
			t.Errorf("refused: %v", got)
		}
		w.wantProblem("which is not in the audience of idp")
	})
}

func TestStreamThatIsNotThereSaysWhatToDo(t *testing.T) {
	inSignals(t, plan{nothing: true}, func(w *signals) {
		w.after(time.Minute)
		w.wantProblem("worker ssf create idp")
		w.tx.Open()
		w.after(2 * time.Minute)
		w.wantProblem("")
	})
}

func TestStreamsDoNotHoldEachOther(t *testing.T) {
	hang := func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/hang") {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			return true
		}
		return false
	}
	more := func(s *settings) {
		other := s.streams[0]
		other.Name, other.PollURL = "hangs", "http://127.0.0.1:81/hang"
		s.streams = append([]config.IngestStream{other}, s.streams...)
	}
	inSignals(t, plan{tx: func(tx *ssftest.Transmitter) { tx.Answer = hang }, world: more}, func(w *signals) {
		w.after(10 * time.Second)
		w.tx.Emit(ssftest.AccountDisabled, nil, ada)
		w.after(time.Second)
		w.wantQueued("beside a stream that hangs", 1)
		w.after(5 * time.Minute)
		if got := w.health.Warnings()["stream hangs"]; !strings.Contains(got, "deadline") {
			t.Errorf("the stream that hangs: %q", got)
		}
		w.wantProblem("")
	})
}

func TestAccessTokenIsReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("the-first-access-token")
	inSignals(t, plan{
		tx:     func(tx *ssftest.Transmitter) { tx.Access = "the-second-access-token" },
		stream: func(c *config.IngestStream) { c.TokenFile = file },
	}, func(w *signals) {
		w.after(time.Minute)
		w.wantProblem("HTTP 401")
		write("the-second-access-token")
		w.after(2 * time.Minute)
		w.wantProblem("")
		for _, line := range w.logs.All() {
			if strings.Contains(fmt.Sprint(line.Message, line.Context), "access-token") {
				t.Errorf("a log line holds the token: %v", line)
			}
		}
	})
}

func TestStreamSettings(t *testing.T) {
	key, word := secretFile(t, theKey), secretFile(t, "two words")
	verifier, err := secevent.New(secevent.Config{Transmitters: []secevent.Transmitter{{
		Name: "idp", Issuer: "https://idp.example.com", Audience: []string{"a"}, JWKSURL: "https://idp.example.com/keys",
	}}})
	if err != nil {
		t.Fatal(err)
	}
	stream := func(change func(c *config.IngestStream)) config.Ingest {
		c := config.IngestStream{At: "worker.yaml:7:5", Name: "idp", Issuer: "https://idp.example.com", TokenFile: key}
		change(&c)
		return config.Ingest{Streams: []config.IngestStream{c}, MaxBody: 1 << 18, Timeout: time.Second, Concurrency: 8, AddressRate: 1}
	}
	for want, cfg := range map[string]config.Ingest{
		"":                             stream(func(*config.IngestStream) {}),
		"name:":                        stream(func(c *config.IngestStream) { c.Name = "A b" }),
		"issuer: required":             stream(func(c *config.IngestStream) { c.Issuer = "" }),
		"is in no entry of":            stream(func(c *config.IngestStream) { c.Issuer += "/" }),
		"delivery: poll or push":       stream(func(c *config.IngestStream) { c.Delivery = "pull" }),
		"required with delivery: push": stream(func(c *config.IngestStream) { c.Delivery = "push" }),
		"have no effect without":       stream(func(c *config.IngestStream) { c.Path = "/a" }),
		"have no effect with delivery": stream(func(c *config.IngestStream) {
			c.Delivery, c.Path, c.SecretFile, c.MaxEvents = "push", "/a", key, 3
		}),
		"path: must be like": stream(func(c *config.IngestStream) { c.Delivery, c.Path, c.SecretFile = "push", "/a/", key }),
		"url: whoever is on the way": stream(func(c *config.IngestStream) {
			c.Delivery, c.Path, c.SecretFile, c.URL = "push", "/a", key, "http://a.example.com"
		}),
		"have no effect with poll_url": stream(func(c *config.IngestStream) { c.PollURL, c.StreamID = "https://idp.example.com/p", "x" }),
		"poll_url: \"http://a\"":       stream(func(c *config.IngestStream) { c.PollURL = "http://a" }),
		"origins: \"https://a/b\"":     stream(func(c *config.IngestStream) { c.Origins = []string{"https://a/b"} }),
		"metadata_url: \"ftp://a\"":    stream(func(c *config.IngestStream) { c.MetadataURL = "ftp://a" }),
		"max_events: at most 100":      stream(func(c *config.IngestStream) { c.MaxEvents = 101 }),
		"poll_every: from 1s":          stream(func(c *config.IngestStream) { c.PollEvery = time.Millisecond }),
		"expect_every: at most 168h":   stream(func(c *config.IngestStream) { c.ExpectEvery = 200 * time.Hour }),
		"verify_every: from 1m":        stream(func(c *config.IngestStream) { c.VerifyEvery = time.Second }),
		"events: \"verification\"":     stream(func(c *config.IngestStream) { c.Events = []string{"verification"} }),
		"token_file and client_id":     stream(func(c *config.IngestStream) { c.ClientID = "x" }),
		"belong together":              stream(func(c *config.IngestStream) { c.TokenFile, c.ClientID = "", "x" }),
		"scopes: have no effect":       stream(func(c *config.IngestStream) { c.TokenFile, c.Scopes = "", []string{"x"} }),
		"no such file":                 stream(func(c *config.IngestStream) { c.TokenFile += "x" }),
		"more than one word":           stream(func(c *config.IngestStream) { c.TokenFile = word }),
		"token_url: \"http://a.b\"": stream(func(c *config.IngestStream) {
			c.TokenFile, c.ClientID, c.ClientSecretFile, c.TokenURL = "", "x", key, "http://a.b"
		}),
	} {
		err := ingest.Check(cfg, verifier)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) ||
			!strings.Contains(err.Error(), "worker.yaml:7:5")) {
			t.Errorf("%v, want %q", err, want)
		}
		if err != nil && (strings.Contains(err.Error(), theKey) || strings.Contains(err.Error(), "two words")) {
			t.Errorf("the error shows a secret: %v", err)
		}
	}
	twice := stream(func(*config.IngestStream) {})
	twice.Streams = append(twice.Streams, twice.Streams[0])
	if err := ingest.Check(twice, verifier); err == nil || !strings.Contains(err.Error(), "has this name") {
		t.Errorf("two streams with one name: %v", err)
	}
	twice.Streams[1].Name = "twin"
	if err := ingest.Check(twice, verifier); err == nil || !strings.Contains(err.Error(), "the same stream as idp") {
		t.Errorf("one stream with two names: %v", err)
	}
	twice.Streams[1].StreamID = "another"
	if err := ingest.Check(twice, verifier); err != nil {
		t.Errorf("two streams of one issuer: %v", err)
	}
	for _, value := range []string{"Bearer the-secret\nof two lines", "Bearer the-secret\x00of-the-push", "Bearer the-s\u00e9cret"} {
		file := secretFile(t, value)
		pushed := stream(func(c *config.IngestStream) { c.Delivery, c.Path, c.SecretFile = "push", "/a", file })
		if err := ingest.Check(pushed, verifier); err == nil || !strings.Contains(err.Error(), "one line of ASCII") {
			t.Errorf("a secret that no header can have: %v", err)
		}
		if _, err := ingest.StreamSpec(pushed.Streams[0]); err == nil {
			t.Error("a secret that no header can have is given to the transmitter")
		}
	}
	err = ingest.Check(stream(func(*config.IngestStream) {}), nil)
	if err == nil || !strings.Contains(err.Error(), "events.transmitters_file") {
		t.Errorf("without transmitters: %v", err)
	}
}

func TestPollThatIsHeldForTooLongIsNoFault(t *testing.T) {
	inSignals(t, plan{tx: func(tx *ssftest.Transmitter) { tx.Hold = 10 * time.Minute }}, func(w *signals) {
		w.after(10 * time.Second)
		for range 20 {
			w.after(3 * time.Minute)
			w.wantProblem("")
		}
		w.tx.Emit(ssftest.AccountDisabled, nil, ada)
		w.after(time.Second)
		w.wantQueued("a token", 1)
		if n := w.polls(); n > 150 {
			t.Errorf("%d polls in an hour", n)
		}
	})
}

func TestPollThatAGatewayCutsOffIsNoFault(t *testing.T) {
	var shown atomic.Pointer[ssftest.Transmitter]
	cut := func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/poll") {
			return false
		}
		text, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(text))
		if strings.Contains(string(text), `"returnImmediately":true`) || shown.Load().Waiting() > 0 {
			return false
		}
		time.Sleep(20 * time.Second)
		w.WriteHeader(http.StatusGatewayTimeout)
		return true
	}
	inSignals(t, plan{tx: func(tx *ssftest.Transmitter) { tx.Answer = cut; shown.Store(tx) }}, func(w *signals) {
		for range 20 {
			w.after(time.Minute)
			w.wantProblem("")
		}
		w.tx.Emit(ssftest.AccountDisabled, nil, ada)
		w.after(30 * time.Second)
		w.wantQueued("a token", 1)
		if n := w.polls(); n > 150 {
			t.Errorf("%d polls in twenty minutes", n)
		}
	})
}

func TestStreamIsPolledWithoutAnAPIForStreams(t *testing.T) {
	inSignals(t, plan{
		tx: func(tx *ssftest.Transmitter) {
			tx.Answer = func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, "/poll") || strings.HasSuffix(r.URL.Path, "/keys") {
					return false
				}
				t.Errorf("asked for %s", r.URL.Path)
				http.NotFound(w, r)
				return true
			}
		},
		stream: func(c *config.IngestStream) { c.PollURL = "http://127.0.0.1:81/tenant/poll" },
	}, func(w *signals) {
		w.after(time.Minute)
		w.tx.Emit(ssftest.AccountDisabled, nil, ada)
		w.after(time.Second)
		w.wantQueued("a token", 1)
		w.wantProblem("")
	})
}

func TestStreamIsPolledWhileTheAPIForStreamsIsAway(t *testing.T) {
	for problem, fail := range map[string]func(w http.ResponseWriter){
		"HTTP 502": func(w http.ResponseWriter) { http.Error(w, "", http.StatusBadGateway) },
		"EOF":      func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"the answer is not the JSON": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, "<html>We are back soon")
		},
	} {
		t.Run(problem, func(t *testing.T) {
			var away atomic.Bool
			inSignals(t, plan{tx: func(tx *ssftest.Transmitter) {
				tx.Answer = func(w http.ResponseWriter, r *http.Request) bool {
					if !away.Load() || strings.HasSuffix(r.URL.Path, "/poll") || strings.HasSuffix(r.URL.Path, "/keys") {
						return false
					}
					fail(w)
					return true
				}
			}}, func(w *signals) {
				w.after(time.Minute)
				away.Store(true)
				w.after(3 * time.Hour)
				w.wantProblem(problem)
				w.tx.Emit(ssftest.AccountDisabled, nil, ada)
				w.after(time.Second)
				w.wantQueued("a token", 1)
				away.Store(false)
				w.after(5 * time.Minute)
				w.wantProblem("")
			})
		})
	}
}

func TestHeartbeatsGoOnWhileTheMetadataIsAway(t *testing.T) {
	var away atomic.Bool
	inSignals(t, plan{tx: func(tx *ssftest.Transmitter) {
		tx.Answer = func(w http.ResponseWriter, r *http.Request) bool {
			if !away.Load() || !strings.Contains(r.URL.Path, "/.well-known/") {
				return false
			}
			http.Error(w, "", http.StatusBadGateway)
			return true
		}
	}}, func(w *signals) {
		w.after(time.Minute)
		away.Store(true)
		w.after(3 * time.Hour)
		w.wantProblem("HTTP 502")
		if n := w.count("handshake"); n < 12 {
			t.Errorf("%d heartbeats in three hours", n)
		}
	})
}

func TestStreamThatWasCreatedAgainIsFound(t *testing.T) {
	var gone atomic.Bool
	inSignals(t, plan{tx: func(tx *ssftest.Transmitter) {
		tx.Answer = func(w http.ResponseWriter, r *http.Request) bool {
			if !gone.Load() || !strings.HasSuffix(r.URL.Path, "/poll") {
				return false
			}
			gone.Store(false)
			http.NotFound(w, r)
			return true
		}
	}}, func(w *signals) {
		w.after(time.Minute)
		n := len(w.tx.Requests())
		gone.Store(true)
		w.after(2 * time.Minute)
		if !slices.Contains(w.tx.Requests()[n:], "GET /tenant/streams") {
			t.Errorf("it was not looked for again: %v", w.tx.Requests()[n:])
		}
		w.wantProblem("")
	})
}
