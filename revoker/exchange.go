package revoker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"time"

	abstractions "github.com/microsoft/kiota-abstractions-go"
	"github.com/microsoftgraph/msgraph-sdk-go/users"

	"github.com/session-revoker/session-revoker/event"
)

// maxBody bounds the bytes that are read of an answer. Graph's answers to this call have a few
// hundred bytes.
const maxBody = 64 << 10

// exchange is one request and its answer. Only one goroutine uses it at a time.
type exchange struct {
	authorization   authorization
	clientRequestID string
	start           time.Time
	reads           bool         // the caller wants the body, not only its meaning
	by              event.Lookup // the way of a look-up

	ids   [2]string             // headers of the request
	trace httptrace.ClientTrace // sets sent

	sent     bool // a connection existed for the request
	duration time.Duration
	status   int // 0: no answer
	header   http.Header
	body     []byte
	bodyErr  error // the answer broke off, or is larger than maxBody
}

func (ex *exchange) attempt() Attempt {
	a := Attempt{
		Start:           ex.start,
		Duration:        ex.duration,
		Sent:            ex.sent,
		Status:          ex.status,
		RequestID:       ex.header.Get("Request-Id"),
		ClientRequestID: ex.clientRequestID,
	}
	a.ServerDate, _ = http.ParseTime(ex.header.Get("Date"))
	if usage, err := strconv.ParseFloat(ex.header.Get("X-Ms-Throttle-Limit-Percentage"), 64); err == nil && usage > 0 && usage < 100 {
		a.Usage = usage
	}
	return a
}

func (ex *exchange) token() string { return ex.authorization.token() }

// plain makes a request for which the SDK's package users has no small builder, and decodes the answer.
func (ex *exchange) plain(ctx context.Context, t transport, rq request) error {
	if err := ex.send(ctx, t, rq.method, rq.target, nil); err != nil {
		return err
	}
	if rq.into == nil {
		return nil
	}
	if err := json.NewDecoder(bytes.NewReader(ex.body)).Decode(rq.into); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// revocation is the request that the SDK's builder makes for a revocation, but for the user, who is part
// of the URL.
type revocation struct {
	method string
	header http.Header
}

// newRevocation lets the SDK build the request once. The SDK's own adapter does not send it: that one
// repeats throttled and challenged requests by itself, reports redirects and empty answers as success,
// hides the status of answers that are not JSON, and panics over some errors.
func newRevocation() (revocation, error) {
	builder := users.NewItemRevokeSignInSessionsRequestBuilder("", struct{ abstractions.RequestAdapter }{})
	info, err := builder.ToPostRequestInformation(context.Background(), nil)
	if err != nil {
		return revocation{}, fmt.Errorf("the Graph SDK builds no request: %w", err)
	}
	r := revocation{method: info.Method.String(), header: http.Header{}}
	for _, name := range info.Headers.ListKeys() {
		r.header[http.CanonicalHeaderKey(name)] = info.Headers.Get(name)
	}
	return r, nil
}

// transport carries requests to one host.
type transport struct {
	http.RoundTripper
	host string // the only host that may get the token
}

// closeIdle closes the connections that carry no request.
func (t transport) closeIdle() { (&http.Client{Transport: t.RoundTripper}).CloseIdleConnections() }

// send authenticates the request, sends it, and records the answer. It returns an error if there is
// none. Redirects are not followed: they do not come from Graph (a proxy redirects to its login page),
// and the token would go elsewhere.
func (ex *exchange) send(ctx context.Context, t transport, method, target string, header http.Header) error {
	at, err := url.Parse(target)
	if err != nil {
		return err
	}
	if at.Host != t.host {
		return fmt.Errorf("refusing to send a token to %s", at.Host)
	}
	all := make(http.Header, len(header)+3)
	maps.Copy(all, header)
	ex.ids = [...]string{string(ex.authorization), ex.clientRequestID}
	all["Authorization"], all["Client-Request-Id"] = ex.ids[:1:1], ex.ids[1:]
	all["X-Ms-Throttle-Priority"] = high

	ex.sent = true
	ex.trace = httptrace.ClientTrace{
		GetConn: func(string) { ex.sent = false },
		GotConn: func(httptrace.GotConnInfo) { ex.sent = true },
	}
	req := &http.Request{
		Method: method, URL: at, Host: at.Host, Header: all, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	resp, err := t.RoundTrip(req.WithContext(httptrace.WithClientTrace(ctx, &ex.trace)))
	if err != nil {
		ex.duration = time.Since(ex.start)
		return err
	}
	ex.body, ex.bodyErr = readBody(resp)
	ex.duration = time.Since(ex.start)
	ex.status, ex.header = resp.StatusCode, resp.Header
	return nil
}

// high is the value of x-ms-throttle-priority: under throttling, signing out a stolen device goes before
// the tenant's other jobs (https://learn.microsoft.com/graph/throttling-limits, identity and access).
var high = []string{"high"}

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
