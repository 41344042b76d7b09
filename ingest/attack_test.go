package ingest_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/session-revoker/session-revoker/config"
	events "github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/ingest"
)

// These tests attack the ingest: as somebody who has stolen a source's secret, as one source that
// wants to be another, and as somebody in front of a proxy.

// TestAttackByPathsReachesOnlyTheSourceThatIsNamed: a gateway decides by the path as it is written,
// so the ingest must not read another one out of it.
func TestAttackByPathsReachesOnlyTheSourceThatIsNamed(t *testing.T) {
	source := bearerSource(t, "hr")
	source.Path = "/hooks/hr"
	fleet := config.IngestSource{Name: "fleet", Path: "/hooks/fleet", Verify: "fleet", SecretFile: secretFile(t, theKey)}
	inWorld(t, settings{sources: []config.IngestSource{source, fleet}}, func(w *world) {
		for _, path := range []string{
			"/hooks//hr", "//hooks/hr", "/hooks/hr/", "/hooks/./hr", "/hooks/x/../hr", "/hooks%2fhr", "/hooks%2Fhr", "/hooks/hr%00",
			"/HOOKS/HR", "/hooks/hr;x=1", "/hooks/h%72/../hr", "/hooks/hr%2f", "/hooks/hr/" + theKey, "/hooks/fleet%2F" + theKey,
			"/hooks/fleet//" + theKey,
			"/hooks/fleet/" + theKey + "/", "/hooks/fleet/x/" + theKey,
		} {
			w.want(path, w.post(path, event, right...), 404)
		}
		w.wantQueued("none of these", 0)
		w.want("the path itself", w.post("/hooks/hr?hooks=/hooks/fleet", event, right...), 200)
	})
}

// TestAttackByManyPathsMakesNoMetricsAndFewLines: what strangers send must not become labels or lines.
func TestAttackByManyPathsMakesNoMetricsAndFewLines(t *testing.T) {
	inWorld(t, settings{sources: []config.IngestSource{bearerSource(t, "hr")}}, func(w *world) {
		before := testutil.CollectAndCount(w.metrics.Requests)
		for i := range 20_000 {
			if got := w.do(request(http.MethodPost, fmt.Sprintf("/%d", i), "")); got.Code != 404 {
				t.Fatalf("%d", got.Code)
			}
		}
		if n := testutil.CollectAndCount(w.metrics.Requests) - before; n != 1 {
			t.Errorf("20,000 paths have made %d series", n)
		}
		if n := w.logs.Len(); n > 2 {
			t.Errorf("20,000 paths have made %d log lines", n)
		}
	})
}

// TestAttackWritesNothingIntoTheLog sends what would begin a line of its own, color a terminal, or
// show a body, wherever a sender can put it.
func TestAttackWritesNothingIntoTheLog(t *testing.T) {
	const poison = "\x1b[31mINJECTED\u202e"
	source := bearerSource(t, "hr")
	graph := config.IngestSource{Name: "graph", Path: "/graph", Verify: "graph", SecretFile: secretFile(t, theKey)}
	decoder, err := events.NewDecoder(events.Config{})
	if err != nil {
		t.Fatal(err)
	}
	s := settings{sources: []config.IngestSource{source, graph}, proxies: []string{"10.0.0.0/8"}, validate: decoder}
	inWorld(t, s, func(w *world) {
		for _, header := range []string{
			"X-Forwarded-For", "Authorization", "Content-Type", "Content-Encoding", "Host", "User-Agent", "Traceparent", "Ce-Id",
		} {
			time.Sleep(time.Minute) // a line is due again
			r := request(http.MethodPost, "/hr?"+"INJECTED", event, with(header, poison)...)
			r.RemoteAddr, r.Method = "10.0.0.1:1", http.MethodPost
			w.do(r)
		}
		for _, r := range []*http.Request{
			request("INJECTED", "/hr", event, right...),
			request(http.MethodPost, "/hr", `{"type":"INJECTED\u001b[31m"}`, right...), request(http.MethodPost, "/INJECTED", event),
			request(http.MethodPost, "/graph?validationToken=INJECTED", ""),
			request(http.MethodPost, "/graph", `{"value":[{"id":"INJECTED","clientState":"INJECTED"}]}`),
		} {
			time.Sleep(time.Minute)
			w.do(r)
		}
		for _, line := range w.logs.All() {
			text := fmt.Sprint(line.Message, line.ContextMap())
			if strings.ContainsAny(text, "\x1b\n\u202e") || strings.Contains(text, "INJECTED") {
				t.Errorf("%q", text)
			}
		}
		if w.logs.Len() < 8 {
			t.Errorf("only %d lines: the test proves nothing", w.logs.Len())
		}
	})
}

// TestAttackByTwoHeadersIsRefused: a gateway that checks the last of two headers, or joins them, must
// not let through what the ingest reads in the first one.
func TestAttackByTwoHeadersIsRefused(t *testing.T) {
	key := secretFile(t, theKey)
	sources := []config.IngestSource{
		bearerSource(t, "bearer"),
		{Name: "basic", Path: "/basic", Verify: "basic", Username: "jamf", SecretFile: key},
		{Name: "header", Path: "/header", Verify: "header", Header: "X-Key", SecretFile: key},
		{Name: "okta", Path: "/okta", Verify: "okta", SecretFile: key},
		{Name: "github", Path: "/github", Verify: "github", SecretFile: key},
		{Name: "hr", Path: "/hr", Verify: "bamboohr", SecretFile: key},
		{Name: "svix", Path: "/svix", Verify: "standard-webhooks", SecretFile: secretFile(t, standardSecret)},
	}
	inWorld(t, settings{sources: sources}, func(w *world) {
		at := now()
		basic := request(http.MethodPost, "/basic", event)
		basic.SetBasicAuth("jamf", theKey)
		for path, header := range map[string][]string{
			"/bearer": right,
			"/basic":  {"Authorization", basic.Header.Get("Authorization")},
			"/header": {"X-Key", theKey},
			"/okta":   {"Authorization", theKey},
			"/github": {"X-Hub-Signature-256", "sha256=" + hexMAC(event)},
			"/hr":     {"X-BambooHR-Signature", hexMAC(event, at), "X-BambooHR-Timestamp", at},
			"/svix": {
				"webhook-id", "m1", "webhook-timestamp", at, "webhook-signature", "v1," + svixMAC("m1."+at+"."+event),
			},
		} {
			for i := 0; i < len(header); i += 2 {
				for _, second := range []string{"other", header[i+1]} {
					r := request(http.MethodPost, path, event, header...)
					r.Header.Add(header[i], second)
					if got := w.do(r); got.Code != 401 && got.Code != 403 {
						t.Errorf("%s with two headers %s: %d", path, header[i], got.Code)
					}
				}
			}
			w.want(path+" with one", w.post(path, event, header...), 200)
		}
		w.wantQueued("the requests with one header each", len(sources))
	})
}

// TestAttackByEncodingsReachesNoDecompressor sends a gzip bomb in every way to name it.
func TestAttackByEncodingsReachesNoDecompressor(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = io.Copy(z, io.LimitReader(zeros{}, 32<<20))
	_ = z.Close()
	inWorld(t, settings{sources: []config.IngestSource{bearerSource(t, "hr")}}, func(w *world) {
		for what, encodings := range map[string][]string{
			"gzip": {"gzip"}, "upper case": {"GZIP"}, "a list": {"identity, gzip"},
			"behind identity": {"identity", "gzip"}, "behind nothing": {"", "br"},
		} {
			r := request(http.MethodPost, "/hr", bomb.String(), right...)
			r.Header["Content-Encoding"] = encodings
			w.want(what, w.do(r), 415)
		}
		w.wantQueued("bombs", 0)
		w.want("not named", w.post("/hr", bomb.String(), right...), 200) // 32 KB of bytes like any others
		if m := w.wantQueued("not named", 1); len(m.Body) != bomb.Len() {
			t.Errorf("%d bytes of %d are on the queue", len(m.Body), bomb.Len())
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestAttackByTrailersProvesNothing: the fields behind a chunked body are not the header.
func TestAttackByTrailersProvesNothing(t *testing.T) {
	inWorld(t, settings{sources: []config.IngestSource{bearerSource(t, "hr")}}, func(w *world) {
		conn, err := w.listener.Dial(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		go func() {
			_, _ = fmt.Fprintf(conn, "POST /hr HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"+
				"Trailer: Authorization\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\nAuthorization: %s\r\n\r\n", right[1])
		}()
		text, _ := io.ReadAll(conn)
		if !strings.HasPrefix(string(text), "HTTP/1.1 401 ") {
			t.Errorf("%.60q", text)
		}
		w.wantQueued("a trailer", 0)
	})
}

// TestAttackByIDsSuppressesNoEvent: where Service Bus detects duplicates, whoever can choose an event's
// id must not use up the MessageID of an event to come.
func TestAttackByIDsSuppressesNoEvent(t *testing.T) {
	key := secretFile(t, theKey)
	sources := []config.IngestSource{
		{Name: "a", Path: "/a", Verify: "header", Header: "X-Key", IDHeader: "X-ID", SecretFile: key},
		{Name: "a-b", Path: "/a-b", Verify: "header", Header: "X-Key", IDHeader: "X-ID", SecretFile: key},
		{Name: "okta", Path: "/okta", Verify: "okta", SecretFile: key},
		{Name: "grid", Path: "/grid", Verify: "event-grid", SecretFile: key},
		{Name: "github", Path: "/github", Verify: "github", SecretFile: key},
	}
	inWorld(t, settings{sources: sources}, func(w *world) {
		ids := map[string]string{}
		n := 0
		send := func(what, path, body string, header ...string) {
			t.Helper()
			n++
			w.want(what, w.post(path, body, header...), 200)
			id := w.wantQueued(what, n).MessageID
			if other := ids[id]; other != "" {
				t.Errorf("%s has the MessageID of %s: %s", what, other, id)
			}
			ids[id] = what
		}
		send("the event of source a", "/a", event, "X-Key", theKey, "X-ID", "b:7")
		send("the same id from a source whose name begins alike", "/a-b", event, "X-Key", theKey, "X-ID", "b:7")
		send("an id that looks like another source's", "/a", event, "X-Key", theKey, "X-ID", "okta:7")
		send("Okta's event", "/okta", `{"eventId":"7"}`, "Authorization", theKey)
		send("another event with its id", "/okta", `{"eventId":"7","data":{}}`, "Authorization", theKey)
		// The publisher of one topic chooses its events' ids, and the source of CloudEvents.
		send("a topic's event", "/grid?code="+theKey, `[{"id":"7","topic":"/a","eventType":"x"}]`)
		send("another topic's with its id", "/grid?code="+theKey, `[{"id":"7","topic":"/b","eventType":"x"}]`)
		send("a CloudEvent", "/grid?code="+theKey, `{"specversion":"1.0","id":"7","source":"/a","type":"x"}`)
		send("one that claims its source and id", "/grid?code="+theKey, `{"specversion":"1.0","id":"7","source":"/a","type":"y"}`)
		// The header with the id is not signed.
		send("a delivery of GitHub", "/github", event, "X-Hub-Signature-256", "sha256="+hexMAC(event), "X-GitHub-Delivery", "d1")
		send("a recorded body with its id", "/github", "{}", "X-Hub-Signature-256", "sha256="+hexMAC("{}"), "X-GitHub-Delivery", "d1")
	})
}

// TestAttackCannotPushAnotherSourcesReplaysOut: what one source sends must not make the ingest forget
// the signed requests of another, which somebody has recorded.
func TestAttackCannotPushAnotherSourcesReplaysOut(t *testing.T) {
	key := secretFile(t, theKey)
	sources := []config.IngestSource{
		{Name: "hr", Path: "/hr", Verify: "bamboohr", SecretFile: key},
		{Name: "stolen", Path: "/stolen", Verify: "bamboohr", SecretFile: key, Rate: 100_000, Burst: 1_000_000},
	}
	t.Cleanup(ingest.SetMaxSeen(128))
	inWorld(t, settings{sources: sources}, func(w *world) {
		send := func(path, body string) {
			t.Helper()
			at := now()
			w.want(path, w.post(path, body, "X-BambooHR-Signature", hexMAC(body, at), "X-BambooHR-Timestamp", at), 200)
		}
		send("/hr", event)
		for i := range 200 {
			send("/stolen", fmt.Sprintf(`{"n":%d}`, i))
		}
		send("/hr", event) // the same second, the same signature
		w.wantQueued("a recorded request that was replayed", 201)
	})
}

// TestAttackByForwardedAddresses: only the trusted proxy's own word counts, in every form that proxies
// write it in.
func TestAttackByForwardedAddresses(t *testing.T) {
	s := settings{sources: []config.IngestSource{bearerSource(t, "hr")}, proxies: []string{"10.0.0.0/8"}}
	inWorld(t, s, func(w *world) {
		for forwarded, want := range map[string]string{
			"203.0.113.7":                        "203.0.113.7",
			"203.0.113.7:51234":                  "203.0.113.7", // Azure Application Gateway adds the port
			"[2001:db8::7]:51234":                "2001:db8::7",
			"198.51.100.1, 203.0.113.7":          "203.0.113.7", // the sender wrote the first one
			"10.0.0.9, 203.0.113.7, 10.0.0.2":    "203.0.113.7",
			"203.0.113.7, unknown":               "10.0.0.1",
			strings.Repeat("1.2.3.4,", 500) + "": "10.0.0.1",
		} {
			time.Sleep(time.Minute) // a line is due again
			r := request(http.MethodPost, "/hr", event, "X-Forwarded-For", forwarded)
			r.RemoteAddr = "10.0.0.1:1"
			w.want(forwarded, w.do(r), 401)
			lines := w.logs.All()
			if got := fmt.Sprint(lines[len(lines)-1].ContextMap()["address"]); got != want {
				t.Errorf("X-Forwarded-For: %.60s is logged as %s, want %s", forwarded, got, want)
			}
		}
	})
}

// svixMAC signs with standardSecret.
func svixMAC(text string) string {
	key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(standardSecret, "whsec_"))
	return base64.StdEncoding.EncodeToString(sign(sha256.New, string(key), text))
}

// TestAttackBySlowBodiesLeavesRoomForTheSender: a signature is known only with the body, so strangers
// with slow bodies take up requests of such a source. Some are kept for addresses that have proven
// themselves before.
func TestAttackBySlowBodiesLeavesRoomForTheSender(t *testing.T) {
	source := config.IngestSource{Name: "hr", Path: "/hr", Verify: "github", SecretFile: secretFile(t, theKey)}
	inWorld(t, settings{sources: []config.IngestSource{source}}, func(w *world) {
		signed := func(body string) *http.Request {
			r := request(http.MethodPost, "/hr", body, "X-Hub-Signature-256", "sha256="+hexMAC(body))
			r.RemoteAddr = "203.0.113.1:1"
			return r
		}
		w.want("the sender, in calm times", w.do(signed(event)), 200)
		bodies := make(chan struct{})
		var strangers sync.WaitGroup
		for i := range 2000 { // more addresses than are told apart
			r := request(http.MethodPost, "/hr", "", "X-Hub-Signature-256", "sha256="+hexMAC("x"))
			r.Body, r.ContentLength = io.NopCloser(until{bodies}), 100
			r.RemoteAddr = fmt.Sprintf("198.51.%d.%d:1", 100+i/250, i%250)
			strangers.Go(func() { w.do(r) })
		}
		synctest.Wait()
		for i := range 5 {
			w.want("the sender, beside strangers", w.do(signed(fmt.Sprintf(`{"n":%d}`, i))), 200)
		}
		close(bodies)
		strangers.Wait()
		w.wantQueued("the sender's", 6)
	})
}

// until is a body that ends when the channel is closed.
type until struct{ end chan struct{} }

func (u until) Read([]byte) (int, error) {
	<-u.end
	return 0, io.EOF
}

// TestAttackByTwoLengthsSmugglesNoRequest: where a gateway goes by the length and the ingest by the
// chunks, the second request is one that the gateway has not seen.
func TestAttackByTwoLengthsSmugglesNoRequest(t *testing.T) {
	inWorld(t, settings{sources: []config.IngestSource{bearerSource(t, "hr")}}, func(w *world) {
		conn, err := w.listener.Dial(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		go func() {
			_, _ = fmt.Fprintf(conn, "POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n"+
				"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+
				"POST /hr HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Type: application/json\r\n"+
				"Content-Length: 2\r\n\r\n{}", right[1])
		}()
		text, _ := io.ReadAll(conn)
		if n := strings.Count(string(text), "HTTP/1.1 "); n != 1 || !strings.HasPrefix(string(text), "HTTP/1.1 404 ") {
			t.Errorf("%d answers: %.200q", n, text)
		}
		w.wantQueued("a smuggled request", 0)
	})
}
