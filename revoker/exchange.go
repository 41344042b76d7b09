package revoker

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"time"

	"github.com/session-revoker/session-revoker/event"
)

// maxBody bounds the bytes that are read of an answer. Graph's answers to this call have a few
// hundred bytes.
const maxBody = 64 << 10

// exchange is one request and its answer. The recorder writes it, and it is read after the SDK has
// returned: the SDK hides the status of empty, redirected and non-JSON answers. Only one goroutine
// uses it at a time.
type exchange struct {
	token           string
	clientRequestID string
	start           time.Time
	reads           bool         // the caller wants the body, not only its meaning
	by              event.Lookup // the way of a look-up

	sent     bool // a connection existed for the request
	duration time.Duration
	status   int // 0: no answer
	header   http.Header
	body     []byte
	bodyErr  error // the answer broke off, or is larger than maxBody
}

type exchangeKey struct{}

func withExchange(ctx context.Context, ex *exchange) context.Context {
	return context.WithValue(ctx, exchangeKey{}, ex)
}

func (ex *exchange) attempt() Attempt {
	a := Attempt{
		Start:           ex.start,
		Duration:        ex.duration,
		Sent:            ex.sent,
		Status:          ex.status,
		RequestID:       ex.header.Get("request-id"),
		ClientRequestID: ex.clientRequestID,
	}
	a.ServerDate, _ = http.ParseTime(ex.header.Get("Date"))
	if usage, err := strconv.ParseFloat(ex.header.Get("x-ms-throttle-limit-percentage"), 64); err == nil && usage > 0 && usage < 100 {
		a.Usage = usage
	}
	return a
}

// recorder is the round tripper under the SDK: it authenticates the request and records the
// exchange.
type recorder struct {
	next http.RoundTripper
	host string // the only host that may get the token
}

// CloseIdleConnections does what http.Client.CloseIdleConnections asks the transport for.
func (r recorder) CloseIdleConnections() {
	(&http.Client{Transport: r.next}).CloseIdleConnections()
}

func (r recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	ex, ok := req.Context().Value(exchangeKey{}).(*exchange)
	if !ok || req.URL.Host != r.host {
		return nil, fmt.Errorf("refusing to send a token to %s", req.URL.Host)
	}
	// Change the request in place, like the SDK's own middleware: attempt made it, and nobody sends
	// it again.
	req.Header.Set("Authorization", "Bearer "+ex.token)
	// Set, not Add: the SDK has already set an id of its own, and two values help nobody.
	req.Header.Set("client-request-id", ex.clientRequestID)
	// Under throttling, signing out a stolen device goes before the tenant's other jobs
	// (https://learn.microsoft.com/graph/throttling-limits, identity and access).
	req.Header.Set("x-ms-throttle-priority", "high")

	ex.sent = true
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GetConn: func(string) { ex.sent = false },
		GotConn: func(httptrace.GotConnInfo) { ex.sent = true },
	}))
	resp, err := r.next.RoundTrip(req)
	if err != nil {
		ex.duration = time.Since(ex.start)
		return nil, err
	}
	ex.body, ex.bodyErr = readBody(resp)
	ex.duration = time.Since(ex.start)
	ex.status, ex.header = resp.StatusCode, resp.Header
	resp.Body = io.NopCloser(bytes.NewReader(ex.body))
	// On a claims challenge the SDK would send the request again by itself, and it panics on a
	// malformed challenge.
	if resp.Header.Get("WWW-Authenticate") != "" {
		resp.Header = resp.Header.Clone()
		resp.Header.Del("WWW-Authenticate")
	}
	return resp, nil
}

func readBody(resp *http.Response) ([]byte, error) {
	defer resp.Body.Close()
	var b bytes.Buffer
	if n := resp.ContentLength; n > 0 && n <= maxBody {
		b.Grow(int(n) + bytes.MinRead)
	}
	n, err := b.ReadFrom(io.LimitReader(resp.Body, maxBody+1))
	if err == nil && n > maxBody {
		err = fmt.Errorf("answer larger than %d bytes", maxBody)
	}
	return b.Bytes(), err
}
