// Package ssf speaks with a transmitter of shared signals: it finds the transmitter's metadata,
// manages streams (Shared Signals Framework 1.0), and polls for tokens (RFC 8936). It verifies no
// token and keeps no state but access tokens.
//
// A transmitter is not trusted: each answer is bounded in size, time, and number, no redirect is
// followed, and only the origins that an operator has named are ever called.
package ssf

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/event/secevent"
)

const (
	// maxDocument bounds each answer but that to a poll, in bytes.
	maxDocument = 256 << 10
	// maxEndpoint bounds an endpoint, in bytes: errors name it.
	maxEndpoint = 2048
	// callTimeout bounds each request but a poll, with its answer.
	callTimeout = 15 * time.Second
)

// Config says which transmitter a Client speaks with, and how.
type Config struct {
	// Issuer is the iss of the transmitter's tokens.
	Issuer string
	// MetadataURL is where its metadata is, if not at a well-known address.
	MetadataURL string
	// PollURL is the poll endpoint of a transmitter without an API for streams. It is only checked.
	PollURL string
	// Origins are the origins that its endpoints may have, beside those of the addresses above.
	Origins []string
	// Authorization says how the Client gets access tokens.
	Authorization Authorization
	// Transport reaches the transmitter. nil means http.DefaultTransport.
	Transport http.RoundTripper
}

// Client speaks with one transmitter. It is safe for concurrent use.
type Client struct {
	cfg     Config
	origins []string
	http    *http.Client
	access  *access
}

// New returns a Client. It contacts nobody, and reads the files of the authorization. The error names
// every problem, with the name of the setting.
func New(cfg Config) (*Client, error) {
	c := &Client{cfg: cfg, http: &http.Client{
		Transport: cfg.Transport,
		// A redirect could lead to a host that nobody has named, with the access token.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	var problems []error
	add := func(setting, address string) {
		if problem := secevent.AddressProblem(address); problem != "" {
			problems = append(problems, fmt.Errorf("%s: %q: %s", setting, address, problem))
			return
		}
		c.origins = append(c.origins, originOf(address))
	}
	add("issuer", cfg.Issuer)
	if cfg.MetadataURL != "" {
		add("metadata_url", cfg.MetadataURL)
	}
	if cfg.PollURL != "" {
		add("poll_url", cfg.PollURL)
	}
	for _, origin := range cfg.Origins {
		add("origins", origin)
		if u, err := url.Parse(origin); err == nil && strings.Trim(u.Path, "/")+u.RawQuery != "" {
			problems = append(problems, fmt.Errorf("origins: %q: give the origin alone, as https://HOST", origin))
		}
	}
	var err error
	if c.access, err = newAccess(cfg.Authorization, c.http); err != nil {
		problems = append(problems, err)
	}
	return c, errors.Join(problems...)
}

// originOf returns the scheme, the host, and the port of an address.
func originOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}

// check returns an error unless an endpoint may be called.
func (c *Client) check(what, endpoint string) error {
	switch problem := secevent.AddressProblem(endpoint); {
	case endpoint == "":
		return fmt.Errorf("the transmitter %s names no %s", c.cfg.Issuer, what)
	case len(endpoint) > maxEndpoint:
		return fmt.Errorf("the %s of the transmitter %s is not used: it has more than %d bytes", what, c.cfg.Issuer, maxEndpoint)
	case problem != "":
		return fmt.Errorf("the %s of the transmitter %s, %s, is not used: %s", what, c.cfg.Issuer, show(endpoint), problem)
	case !slices.Contains(c.origins, originOf(endpoint)):
		return fmt.Errorf("the %s of the transmitter %s, %s, has another origin: add it to origins if it is the transmitter's, "+
			"which then gets the access token", what, c.cfg.Issuer, show(endpoint))
	}
	return nil
}

// show quotes text of a transmitter, cut to 128 bytes.
func show(text string) string {
	const limit = 128
	if len(text) > limit {
		return strconv.Quote(text[:limit]) + "…"
	}
	return strconv.Quote(text)
}

// Error is an answer that is no success.
type Error struct {
	// Doing is what was asked for, for example "poll".
	Doing string
	// Endpoint is what was asked, without a query.
	Endpoint string
	// Status is that of HTTP.
	Status int
	// Code is the err or error of the answer's body if it is a short word, or "".
	Code string
	// RetryAfter is how long the transmitter asks to wait, or 0. It may be any time: bound it.
	RetryAfter time.Duration
}

func (e *Error) Error() string {
	text := fmt.Sprintf("%s: %s answers with HTTP %d", e.Doing, e.Endpoint, e.Status)
	if e.Code != "" {
		text += " (" + e.Code + ")"
	}
	switch {
	case e.Status >= 300 && e.Status < 400:
		text += ": redirects are not followed; name the address itself"
	case e.Status == http.StatusUnauthorized:
		text += ": renew the access token, or correct the client's credentials"
	case e.Status == http.StatusForbidden:
		text += ": give the client the right to do this (scopes such as ssf.manage and ssf.read)"
	case e.Status == http.StatusTooManyRequests:
		text += ": it was asked too often; wait"
	}
	return text
}

// request is one request to a transmitter.
type request struct {
	doing    string
	method   string
	endpoint string
	query    url.Values
	body     any // is sent as JSON unless it is nil
	header   []string
	anybody  bool // without an access token
	limit    int  // of the answer, in bytes
	timeout  time.Duration
}

// call returns the body of a successful answer, whose status is one of want. Any other one is an
// *Error. If the access token is refused, call gets a new one and tries once more.
func (c *Client) call(ctx context.Context, r request, want ...int) (body []byte, status int, err error) {
	if r.limit == 0 {
		r.limit = maxDocument
	}
	if r.timeout == 0 {
		r.timeout = callTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	for again := false; ; again = true {
		body, status, err = c.once(ctx, r, want)
		refused, ok := errors.AsType[*Error](err)
		if !ok || refused.Status != http.StatusUnauthorized || r.anybody || again || !c.access.forget() {
			return body, status, err
		}
	}
}

func (c *Client) once(ctx context.Context, r request, want []int) ([]byte, int, error) {
	var text []byte
	if r.body != nil {
		var err error
		if text, err = json.Marshal(r.body); err != nil {
			return nil, 0, fmt.Errorf("%s: %w", r.doing, err)
		}
	}
	address := r.endpoint
	if len(r.query) > 0 {
		separator := "?"
		if strings.Contains(address, "?") {
			separator = "&"
		}
		address += separator + r.query.Encode()
	}
	ask, err := http.NewRequestWithContext(ctx, r.method, address, bytes.NewReader(text))
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", r.doing, err)
	}
	ask.Header.Set("Accept", "application/json")
	if r.body != nil {
		ask.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(r.header); i += 2 {
		ask.Header.Set(r.header[i], r.header[i+1])
	}
	if !r.anybody {
		value, err := c.access.header(ctx)
		if err != nil {
			return nil, 0, fmt.Errorf("%s: %w", r.doing, err)
		}
		if value != "" {
			ask.Header.Set("Authorization", value)
		}
	}
	response, err := c.http.Do(ask)
	if err != nil {
		if problem, ok := errors.AsType[*url.Error](err); ok {
			err = problem.Err // without the query
		}
		return nil, 0, fmt.Errorf("%s: %s: %w", r.doing, plainEndpoint(r.endpoint), err)
	}
	defer response.Body.Close()
	// One byte more shows that the answer is too large. Nothing else of it is read: to close a body
	// that is not read to its end closes the connection.
	body, err := io.ReadAll(io.LimitReader(response.Body, int64(r.limit)+1))
	ok := slices.Contains(want, response.StatusCode)
	switch {
	case !ok:
		return nil, response.StatusCode, failure(r, response, body)
	case err != nil:
		return nil, response.StatusCode, fmt.Errorf("%s: %s: read the answer: %w", r.doing, plainEndpoint(r.endpoint), err)
	case len(body) > r.limit:
		return nil, response.StatusCode, fmt.Errorf("%s: the answer of %s has more than %d bytes", r.doing, plainEndpoint(r.endpoint),
			r.limit)
	}
	return body, response.StatusCode, nil
}

// plainEndpoint returns an endpoint without its query, which may hold a secret.
func plainEndpoint(endpoint string) string {
	endpoint, _, _ = strings.Cut(endpoint, "?")
	return endpoint
}

// errorCode is the form of the codes that are shown: other text of a transmitter is not.
var errorCode = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z][a-z0-9_-]{0,39}$`) })

func failure(r request, response *http.Response, body []byte) *Error {
	e := &Error{Doing: r.doing, Endpoint: plainEndpoint(r.endpoint), Status: response.StatusCode}
	var said struct {
		Err   any `json:"err"`
		Error any `json:"error"`
	}
	if json.Unmarshal(body, &said) == nil {
		for _, code := range []any{said.Err, said.Error} {
			if text, ok := code.(string); ok && errorCode().MatchString(text) {
				e.Code = text
				break
			}
		}
	}
	if after := response.Header.Get("Retry-After"); after != "" {
		if seconds, err := strconv.ParseUint(after, 10, 31); err == nil {
			e.RetryAfter = time.Duration(seconds) * time.Second
		} else if at, err := http.ParseTime(after); err == nil {
			e.RetryAfter = max(0, time.Until(at))
		}
	}
	return e
}

// ErrNotJSON means that an answer cannot be read: a proxy may have given it, for example.
var ErrNotJSON = errors.New("the answer is not the JSON that it should be")

// into decodes an answer.
func into(doing string, body []byte, value any) error {
	if json.Unmarshal(body, value) != nil {
		return fmt.Errorf("%s: %w", doing, ErrNotJSON)
	}
	return nil
}

// texts is a list of strings, or one string.
type texts []string

// UnmarshalJSON implements json.Unmarshaler.
func (t *texts) UnmarshalJSON(raw []byte) error {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		*t = texts{one}
		return nil
	}
	return json.Unmarshal(raw, (*[]string)(t))
}
