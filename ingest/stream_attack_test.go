package ingest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/ingest/ssf/ssftest"
)

// lies answers polls with what a test makes up, and counts them.
type lies struct {
	mu     sync.Mutex
	answer http.HandlerFunc // nil for the truth
	polls  int
}

func (l *lies) plan() plan {
	return plan{tx: func(tx *ssftest.Transmitter) {
		tx.Answer = func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/poll") {
				return false
			}
			l.mu.Lock()
			answer := l.answer
			l.polls++
			l.mu.Unlock()
			if answer == nil {
				return false
			}
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(body))
			answer(w, r)
			return true
		}
	}}
}

func (l *lies) tell(answer http.HandlerFunc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answer, l.polls = answer, 0
}

func (l *lies) told() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.polls
}

// inLies lets a transmitter lie for ten minutes. The stream must not poll more often than that, must
// say what is wrong if problem is not "", and must work again when the transmitter does.
func inLies(t *testing.T, most int, problem string, answer func(tx *ssftest.Transmitter) http.HandlerFunc) {
	t.Helper()
	l := &lies{}
	inSignals(t, l.plan(), func(w *signals) {
		w.after(10 * time.Second)
		var before, now runtime.MemStats
		runtime.ReadMemStats(&before)
		l.tell(answer(w.tx))
		w.after(10 * time.Minute)
		runtime.ReadMemStats(&now)
		if n := l.told(); n == 0 || n > most {
			t.Errorf("%d polls within ten minutes, want 1 to %d", n, most)
		}
		if grown := int64(now.HeapAlloc) - int64(before.HeapAlloc); grown > 100<<20 {
			t.Errorf("the heap has grown by %d MB", grown>>20)
		}
		w.wantProblem(problem)
		l.tell(nil)
		w.tx.Emit(ssftest.AccountDisabled, nil, ada)
		w.after(7 * time.Minute)
		if got := len(w.queued()); got == 0 {
			t.Error("the stream does not come back")
		}
		w.wantProblem("")
	})
}

func text(answer string) func(*ssftest.Transmitter) http.HandlerFunc {
	return func(*ssftest.Transmitter) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, answer) }
	}
}

func TestLyingTransmitterWithAnEndlessBody(t *testing.T) {
	inLies(t, 30, "more than 7340032 bytes", func(*ssftest.Transmitter) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"sets":{"a":"`)
			for chunk := bytes.Repeat([]byte("a"), 1<<20); ; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}
	})
}

func TestLyingTransmitterWithAMillionTokens(t *testing.T) {
	var many strings.Builder
	many.WriteString(`{"sets":{"a":"b"`)
	for i := range 10_000 { // what a million of them need is refused by its size, as an endless body is
		fmt.Fprintf(&many, `,"%d":""`, i)
	}
	many.WriteString(`}}`)
	inLies(t, 150, "", text(many.String()))
}

func TestLyingTransmitterThatDripsItsAnswer(t *testing.T) {
	inLies(t, 30, "deadline", func(*ssftest.Transmitter) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, " "); err != nil {
					return
				}
				_ = http.NewResponseController(w).Flush()
				time.Sleep(time.Second)
			}
		}
	})
}

func TestLyingTransmitterThatAlwaysHasMore(t *testing.T) {
	inLies(t, 150, "there is more", text(`{"sets":{},"moreAvailable":true}`))
}

func TestLyingTransmitterWithWhatIsNoAnswer(t *testing.T) {
	for _, answer := range []string{"", "[]", "null", `{"sets":[]}`, `{"sets":"x"}`, "<html>", `{"sets":{}`} {
		inLies(t, 30, "the answer is not", text(answer))
	}
}

func TestLyingTransmitterWithNamesThatAreNoTokens(t *testing.T) {
	for _, answer := range []string{`{"sets":{"a":5,"b":null,"c":{},"d":[1]}}`, `{"sets":{"":"x"}}`, `{}`, `{"sets":null}`} {
		inLies(t, 150, "", text(answer))
	}
	inLies(t, 150, "there is more", text(`{"sets":{"`+strings.Repeat("x", 600)+`":"y"}}`))
}

func TestLyingTransmitterThatRedirects(t *testing.T) {
	for _, to := range []string{"http://169.254.169.254/metadata/identity/oauth2/token", "/tenant/elsewhere", "https://evil.example.com/"} {
		inLies(t, 30, "redirects are not followed", func(tx *ssftest.Transmitter) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				for _, request := range tx.Requests() {
					if strings.Contains(request, "metadata/identity") || strings.Contains(request, "elsewhere") {
						t.Errorf("it follows: %s", request)
					}
				}
				http.Redirect(w, r, to, http.StatusTemporaryRedirect)
			}
		})
	}
}

func TestLyingTransmitterWithAHugeRetryAfter(t *testing.T) {
	for _, after := range []string{"99999999999999999999", "2147483647", "Fri, 31 Dec 9999 23:59:59 GMT", "-5", "soon"} {
		inLies(t, 30, "HTTP 503", func(*ssftest.Transmitter) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", after)
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		})
	}
}

func TestRetryAfterIsHonored(t *testing.T) {
	inLies(t, 6, "HTTP 429", func(*ssftest.Transmitter) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "150")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
}

func TestLyingTransmitterThatSwapsNames(t *testing.T) {
	inSignals(t, plan{}, func(w *signals) {
		w.after(10 * time.Second)
		w.tx.Put("a", w.tx.Token("b", ssftest.AccountDisabled, nil, ada))
		w.tx.Put("b", w.tx.Token("a", ssftest.AccountDisabled, nil, ada))
		w.tx.Put("name", w.tx.Token("never-shown", ssftest.AccountDisabled, nil, ada))
		w.after(10 * time.Minute)
		w.wantQueued("three tokens under other names", 3)
		// What was acknowledged is what was shown, and not what it was called inside.
		if got := onlyTokens(w.tx.Acked(), "a", "b", "name", "never-shown"); len(got) != 3 || slices.Contains(got, "never-shown") ||
			w.tx.Waiting() != 0 {
			t.Errorf("acknowledged %v, and %d wait", got, w.tx.Waiting())
		}
		if n := w.polls(); n > 150 {
			t.Errorf("%d polls", n)
		}
		if !w.logged("another name than its ID") {
			t.Error("nothing is logged")
		}
	})
}

// logged reports whether a line contains a text.
func (w *signals) logged(text string) bool {
	for _, line := range w.logs.All() {
		if strings.Contains(line.Message, text) {
			return true
		}
	}
	return false
}

func TestLyingTransmitterThatIgnoresAcknowledgments(t *testing.T) {
	l := &lies{}
	inSignals(t, l.plan(), func(w *signals) {
		w.after(10 * time.Second)
		sets := map[string]string{}
		for i := range 5 {
			id := fmt.Sprint("token-", i)
			sets[id] = w.tx.Token(id, ssftest.AccountDisabled, nil, ada)
		}
		l.tell(func(to http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(to).Encode(map[string]any{"sets": sets})
		})
		w.after(20 * time.Second)
		w.wantProblem("") // the answer to an acknowledgment may be lost
		w.after(5 * time.Minute)
		w.wantQueued("each token", 5)
		w.wantProblem("again that were acknowledged")
		l.tell(nil)
		w.after(time.Minute)
		w.wantProblem("")
	})
}

// An old heartbeat is no sign of life, whoever repeats it.
func TestLyingTransmitterThatRepeatsItsHeartbeat(t *testing.T) {
	l := &lies{}
	inSignals(t, l.plan(), func(w *signals) {
		w.after(10 * time.Second)
		heartbeat := w.tx.Token("h", ssftest.Verification, map[string]any{"state": "s"}, nil)
		l.tell(func(to http.ResponseWriter, _ *http.Request) { fmt.Fprintf(to, `{"sets":{"h":%q}}`, heartbeat) })
		w.after(time.Hour)
		w.wantProblem("sends none")
		if n := w.count("handshake"); n != 2 {
			t.Errorf("%d heartbeats", n)
		}
		l.tell(nil)
	})
}

func TestLyingTransmitterWithOneTokenUnderManyNames(t *testing.T) {
	inSignals(t, plan{}, func(w *signals) {
		w.after(10 * time.Second)
		token := w.tx.Token("a", ssftest.AccountDisabled, nil, ada)
		for i := range 100 {
			w.tx.Put(fmt.Sprint("name-", i), token)
		}
		w.tx.Emit(ssftest.AccountDisabled, nil, ada)
		w.after(30 * time.Second)
		w.wantQueued("the token behind them", 2)
	})
}

// Two tokens under one name cannot be told apart when one of them is acknowledged.
func TestLyingTransmitterWithTwoTokensOfOneName(t *testing.T) {
	l := &lies{}
	inSignals(t, l.plan(), func(w *signals) {
		w.after(10 * time.Second)
		token, other := w.tx.Token("a", ssftest.AccountDisabled, nil, ada), w.tx.Token("b", ssftest.SessionRevoked, nil, ada)
		var named atomic.Value // the body of a poll that acknowledges or refuses a token
		l.tell(func(to http.ResponseWriter, r *http.Request) {
			if body, _ := io.ReadAll(r.Body); strings.Contains(string(body), `"a"`) {
				named.Store(string(body))
			}
			fmt.Fprintf(to, `{"sets":{"a":%q,"a":%q,"a":"bad"}}`, token, other)
		})
		w.after(time.Minute)
		w.wantProblem("two tokens with one name")
		if body := named.Load(); body != nil {
			t.Errorf("acknowledged or refused: %v", body)
		}
		w.tx.Put("a", token) // the poll before the lie would have brought it
		l.tell(nil)
		w.after(2 * time.Minute)
		w.wantQueued("the truth", 1)
		l.tell(func(to http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(to, `{"sets":{"b":%[1]q,"b":%[1]q}}`, other)
		})
		w.after(time.Minute)
		w.wantQueued("the same token twice, which does no harm", 2)
		l.tell(nil)
	})
}

func TestLyingTransmitterThatFloodsIsLimited(t *testing.T) {
	n := 0
	l := &lies{}
	p := l.plan()
	p.stream = func(c *config.IngestStream) { c.Rate = 5 }
	inSignals(t, p, func(w *signals) {
		w.after(10 * time.Second)
		l.tell(func(to http.ResponseWriter, _ *http.Request) {
			sets := map[string]string{}
			for range 50 {
				n++
				id := fmt.Sprint("flood-", n)
				sets[id] = w.tx.Token(id, ssftest.AccountDisabled, nil, ada)
			}
			_ = json.NewEncoder(to).Encode(map[string]any{"sets": sets})
		})
		w.after(time.Minute)
		if got := len(w.queued()); got < 200 || got > 600 { // a burst of 200, and 5 each second
			t.Errorf("%d tokens within a minute at a rate of 5 per second", got)
		}
		l.tell(nil)
	})
}

func TestLyingTransmitterWithEndpointsElsewhere(t *testing.T) {
	for name, endpoint := range map[string]string{
		"configuration_endpoint": "https://evil.example.com/streams",
		"status_endpoint":        "http://169.254.169.254/metadata",
		"verification_endpoint":  "http://127.0.0.1:82/verify",
	} {
		inSignals(t, plan{tx: func(tx *ssftest.Transmitter) {
			tx.Change = func(m map[string]any) { m[name] = endpoint }
		}}, func(w *signals) {
			w.after(5 * time.Minute)
			problem := w.health.Warnings()["stream idp"]
			if !strings.Contains(problem, "another origin") && !strings.Contains(problem, "use https") {
				t.Errorf("%s: the problem is %q", name, problem)
			}
			for _, r := range w.tx.Requests() {
				if strings.HasSuffix(r, "/metadata") || name == "verification_endpoint" && strings.HasSuffix(r, "/verify") {
					t.Errorf("%s: it was asked: %s", name, r)
				}
			}
		})
	}
}

func TestLyingTransmitterWithAPollEndpointElsewhere(t *testing.T) {
	const elsewhere = `[{"stream_id":"stream-1","delivery":{"method":"urn:ietf:rfc:8936","endpoint_url":"https://evil.example.com/poll"}}]`
	answer := func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/streams") {
			return false
		}
		_, _ = io.WriteString(w, elsewhere)
		return true
	}
	inSignals(t, plan{tx: func(tx *ssftest.Transmitter) { tx.Answer = answer }}, func(w *signals) {
		w.after(5 * time.Minute)
		w.wantProblem(`"https://evil.example.com/poll", has another origin: add it to origins`)
		if w.polls() > 0 {
			t.Error("it was polled")
		}
	})
	inSignals(t, plan{
		tx:     func(tx *ssftest.Transmitter) { tx.Answer = answer },
		stream: func(c *config.IngestStream) { c.Origins = []string{"https://EVIL.example.com:443/"} },
	}, func(w *signals) {
		w.after(time.Minute)
		if got := w.health.Warnings()["stream idp"]; strings.Contains(got, "origin") {
			t.Errorf("an origin that was named: %s", got)
		}
	})
}

func TestLyingTransmitterWithMetadataOfAnother(t *testing.T) {
	inSignals(t, plan{tx: func(tx *ssftest.Transmitter) {
		tx.Change = func(m map[string]any) { m["issuer"] = "https://evil.example.com" }
	}}, func(w *signals) {
		w.after(5 * time.Minute)
		w.wantProblem(`is that of the issuer "https://evil.example.com"`)
	})
}

// What a transmitter says of its stream is in the log and on /readyz.
func TestLyingTransmitterWithLongTexts(t *testing.T) {
	long := strings.Repeat("x", 100<<10)
	for what, stream := range map[string]string{
		"audience": `"endpoint_url":"http://127.0.0.1:81/tenant/poll"},"aud":["` + long + `"]`,
		"endpoint": `"endpoint_url":"http://127.0.0.1:81/` + long + `"}`,
	} {
		answer := func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/streams") {
				return false
			}
			_, _ = io.WriteString(w, `[{"stream_id":"stream-1","delivery":{"method":"urn:ietf:rfc:8936",`+stream+`}]`)
			return true
		}
		inSignals(t, plan{tx: func(tx *ssftest.Transmitter) { tx.Answer = answer }}, func(w *signals) {
			w.after(2 * time.Minute)
			if problem := w.health.Warnings()["stream idp"]; problem == "" || len(problem) > 1000 {
				t.Errorf("%s: the problem has %d bytes", what, len(problem))
			}
		})
	}
}

func onlyTokens(all []string, wanted ...string) (some []string) {
	for _, id := range all {
		if slices.Contains(wanted, id) {
			some = append(some, id)
		}
	}
	return some
}
