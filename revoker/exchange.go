package revoker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"time"

	abstractions "github.com/microsoft/kiota-abstractions-go"
	"github.com/microsoft/kiota-abstractions-go/serialization"
	"github.com/microsoftgraph/msgraph-sdk-go/users"

	"github.com/session-revoker/session-revoker/event"
)

// maxBody bounds the bytes that are read of an answer. Graph's answers to this call have a few
// hundred bytes.
const maxBody = 64 << 10

// exchange is one request and its answer. Only one goroutine uses it at a time.
type exchange struct {
	authorization   string // the header with the token
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

func (ex *exchange) token() string { return tokenOf(ex.authorization) }

// post revokes: the SDK's builder makes the request.
func (ex *exchange) post(ctx context.Context, t transport, target string) error {
	_, err := users.NewItemRevokeSignInSessionsRequestBuilder(target, adapter{ex: ex, transport: t}).
		PostAsRevokeSignInSessionsPostResponse(ctx, nil)
	return err
}

// plain makes a request for which the SDK's package users has no small builder, and decodes the answer.
func (ex *exchange) plain(ctx context.Context, t transport, rq request) error {
	target, err := url.Parse(rq.target)
	if err != nil {
		return err
	}
	if err := ex.send(ctx, t, rq.method, target, make(http.Header, 4)); err != nil {
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

// adapter is the request adapter that the SDK's builder needs. Unlike the SDK's own one, it sends one
// request, and no other for a throttled or a challenged one. It leaves the answer to the exchange: the
// SDK's adapter reports redirects and empty answers as success, hides the status of those that are not
// JSON, and panics over some errors.
type adapter struct {
	abstractions.RequestAdapter // nil: the builder calls nothing but Send

	ex        *exchange
	transport transport
}

// Send sends the request, and returns no answer.
func (a adapter) Send(
	ctx context.Context, info *abstractions.RequestInformation, _ serialization.ParsableFactory, _ abstractions.ErrorMappings,
) (serialization.Parsable, error) {
	target, err := info.GetUri()
	if err != nil {
		return nil, fmt.Errorf("the Graph SDK has built no URL: %w", err)
	}
	header := make(http.Header, 8)
	for _, name := range info.Headers.ListKeys() {
		header[http.CanonicalHeaderKey(name)] = info.Headers.Get(name)
	}
	return nil, a.ex.send(ctx, a.transport, info.Method.String(), target, header)
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
func (ex *exchange) send(ctx context.Context, t transport, method string, target *url.URL, header http.Header) error {
	if target.Host != t.host {
		return fmt.Errorf("refusing to send a token to %s", target.Host)
	}
	header["Authorization"] = []string{ex.authorization}
	header["Client-Request-Id"] = []string{ex.clientRequestID}
	// Under throttling, signing out a stolen device goes before the tenant's other jobs
	// (https://learn.microsoft.com/graph/throttling-limits, identity and access).
	header["X-Ms-Throttle-Priority"] = []string{"high"}

	ex.sent = true
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { ex.sent = false },
		GotConn: func(httptrace.GotConnInfo) { ex.sent = true },
	}), method, "", nil)
	if err != nil {
		return err
	}
	req.URL, req.Host, req.Header = target, target.Host, header
	resp, err := t.RoundTrip(req)
	if err != nil {
		ex.duration = time.Since(ex.start)
		return err
	}
	ex.body, ex.bodyErr = readBody(resp)
	ex.duration = time.Since(ex.start)
	ex.status, ex.header = resp.StatusCode, resp.Header
	return nil
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
