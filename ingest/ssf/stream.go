package ssf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// The statuses of a stream (SSF 1.0, section 8.1.2). A paused stream keeps its events. A disabled one
// loses them.
const (
	Enabled  = "enabled"
	Paused   = "paused"
	Disabled = "disabled"
)

// Stream is a stream as the transmitter describes it.
type Stream struct {
	ID         string   `json:"stream_id"`
	Issuer     string   `json:"iss,omitempty"`
	Audience   texts    `json:"aud,omitempty"`
	Supported  []string `json:"events_supported,omitempty"`
	Requested  []string `json:"events_requested,omitempty"`
	Delivered  []string `json:"events_delivered,omitempty"`
	Delivery   Delivery `json:"delivery"`
	MinVerify  int      `json:"min_verification_interval,omitempty"` // seconds
	Inactivity int      `json:"inactivity_timeout,omitempty"`        // seconds
}

// Delivery is how a stream's tokens come.
type Delivery struct {
	Method   string `json:"method"`
	Endpoint string `json:"endpoint_url,omitempty"`
	// Authorization is the value of the header Authorization that the transmitter sends with each
	// push. It is a secret, and never printed.
	Authorization string `json:"authorization_header,omitempty"`
}

// By returns push or poll, or the method as the transmitter writes it.
func (d Delivery) By() string {
	for name, uris := range methods {
		if slices.Contains(uris, d.Method) {
			return name
		}
	}
	return d.Method
}

// VerifyEvery returns how often the receiver should ask for a heartbeat, given how often it wants to.
// The transmitter may ask for fewer, and may take a receiver that is silent for too long for dead.
func (s Stream) VerifyEvery(want time.Duration) time.Duration {
	const day = 86_400 // bounds what a transmitter can ask for
	seconds := func(n int) time.Duration { return time.Duration(min(max(n, 0), day)) * time.Second }
	if s.Inactivity > 0 {
		want = min(want, seconds(s.Inactivity)/2)
	}
	return max(want, seconds(s.MinVerify), time.Minute)
}

// Spec is what an operator wants of a stream.
type Spec struct {
	Delivery string   // Push or Poll
	ID       string   // "" for the only one with this delivery
	Events   []string // URIs
	// Endpoint and Authorization are those of the receiver, for Push.
	Endpoint, Authorization string
}

// ErrNoStream means that the transmitter has no stream that fits.
var ErrNoStream = errors.New("the transmitter has no such stream for this client")

// errNoID keeps a change from a stream that the transmitter would have to guess.
var errNoID = errors.New("the transmitter does not tell its stream_id: do it with the transmitter's own tools")

// Find returns the stream that a Spec means.
func (c *Client) Find(ctx context.Context, m Metadata, want Spec) (Stream, error) {
	list, err := c.Streams(ctx, m, want.ID)
	if err != nil {
		return Stream{}, err
	}
	var fitting []Stream
	for _, s := range list {
		// A transmitter may list all of its streams whatever it is asked for.
		if want.ID != "" && s.ID != want.ID {
			continue
		}
		if want.ID == "" && (s.Delivery.By() != want.Delivery ||
			want.Delivery == Push && want.Endpoint != "" && s.Delivery.Endpoint != want.Endpoint) {
			continue
		}
		fitting = append(fitting, s)
	}
	switch {
	case len(fitting) == 0:
		return Stream{}, ErrNoStream
	case len(fitting) > 1:
		var ids []string
		for _, s := range fitting[:min(len(fitting), 5)] {
			ids = append(ids, show(s.ID))
		}
		return Stream{}, fmt.Errorf("the transmitter has %d streams with this delivery for this client (%s): set stream_id",
			len(fitting), strings.Join(ids, ", "))
	}
	s := fitting[0]
	if s.Issuer != "" && s.Issuer != c.cfg.Issuer {
		return s, fmt.Errorf("the stream %s has the issuer %s, not %q", show(s.ID), show(s.Issuer), c.cfg.Issuer)
	}
	if by := s.Delivery.By(); by != want.Delivery {
		return s, fmt.Errorf("the stream %s is delivered by %s, not by %s: correct delivery or stream_id", show(s.ID), show(by),
			want.Delivery)
	}
	return s, nil
}

// maxStreams bounds the list of streams of a transmitter.
const maxStreams = 100

// Streams returns the stream with an ID, or all streams of this client.
func (c *Client) Streams(ctx context.Context, m Metadata, id string) ([]Stream, error) {
	const doing = "read the stream"
	var query url.Values
	if id != "" {
		query = url.Values{"stream_id": {id}}
	}
	if err := c.check("configuration endpoint", m.Configuration); err != nil {
		return nil, err
	}
	body, _, err := c.call(ctx, request{doing: doing, method: http.MethodGet, endpoint: m.Configuration, query: query}, http.StatusOK)
	if refused, ok := errors.AsType[*Error](err); ok && refused.Status == http.StatusNotFound {
		return nil, ErrNoStream
	}
	if err != nil {
		return nil, err
	}
	var list []Stream
	if strings.HasPrefix(strings.TrimSpace(string(body)), "[") {
		var raw []json.RawMessage
		if err := into(doing, body, &raw); err != nil {
			return nil, err
		}
		if len(raw) > maxStreams {
			return nil, fmt.Errorf("%s: the transmitter lists %d streams; at most %d are read", doing, len(raw), maxStreams)
		}
		if err := into(doing, body, &list); err != nil {
			return nil, err
		}
		return list, nil
	}
	var one Stream
	if err := into(doing, body, &one); err != nil {
		return nil, err
	}
	return []Stream{one}, nil
}

// Create creates a stream.
func (c *Client) Create(ctx context.Context, m Metadata, want Spec) (Stream, error) {
	if !m.Delivers(want.Delivery) {
		return Stream{}, fmt.Errorf("the transmitter %s does not deliver by %s: it names %s. Set delivery", c.cfg.Issuer, want.Delivery,
			show(strings.Join(m.DeliveryMethods, " ")))
	}
	return c.put(ctx, http.MethodPost, "create the stream", m, body(want, ""), http.StatusCreated, http.StatusOK)
}

// Update replaces the requested events and the delivery of a stream. The transmitter may answer that
// it has accepted the request and not carried it out yet: then the Stream has no ID.
func (c *Client) Update(ctx context.Context, m Metadata, id string, want Spec) (Stream, error) {
	if id == "" {
		return Stream{}, fmt.Errorf("update the stream: %w", errNoID)
	}
	return c.put(ctx, http.MethodPatch, "update the stream", m, body(want, id), http.StatusOK, http.StatusAccepted)
}

// body returns what a transmitter gets to create or update a stream.
func body(want Spec, id string) any {
	type delivery struct {
		Method        string `json:"method"`
		Endpoint      string `json:"endpoint_url,omitempty"`
		Authorization string `json:"authorization_header,omitempty"`
	}
	return struct {
		ID       string   `json:"stream_id,omitempty"`
		Delivery delivery `json:"delivery"`
		Events   []string `json:"events_requested"`
	}{id, delivery{methods[want.Delivery][0], want.Endpoint, want.Authorization}, want.Events}
}

func (c *Client) put(ctx context.Context, method, doing string, m Metadata, body any, want ...int) (Stream, error) {
	if err := c.check("configuration endpoint", m.Configuration); err != nil {
		return Stream{}, err
	}
	answer, status, err := c.call(ctx, request{doing: doing, method: method, endpoint: m.Configuration, body: body}, want...)
	if refused, ok := errors.AsType[*Error](err); ok && refused.Status == http.StatusConflict {
		return Stream{}, fmt.Errorf("%w: the transmitter allows this client one stream, and it is there already", err)
	}
	if err != nil || status == http.StatusAccepted {
		return Stream{}, err
	}
	var s Stream
	if err := into(doing, answer, &s); err != nil {
		return Stream{}, err
	}
	if s.ID == "" {
		return Stream{}, fmt.Errorf("%s: the answer names no stream_id", doing)
	}
	return s, nil
}

// Delete deletes a stream. What it still held is lost.
func (c *Client) Delete(ctx context.Context, m Metadata, id string) error {
	if id == "" {
		return fmt.Errorf("delete the stream: %w", errNoID)
	}
	if err := c.check("configuration endpoint", m.Configuration); err != nil {
		return err
	}
	_, _, err := c.call(ctx, request{
		doing: "delete the stream", method: http.MethodDelete, endpoint: m.Configuration, query: url.Values{"stream_id": {id}},
	}, http.StatusNoContent, http.StatusOK)
	return err
}

// Status is the status of a stream.
type Status struct {
	ID     string `json:"stream_id"`
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"` // what the transmitter says
}

// Status returns the status of a stream.
func (c *Client) Status(ctx context.Context, m Metadata, id string) (Status, error) {
	return c.status(ctx, m, request{doing: "read the status", method: http.MethodGet, query: url.Values{"stream_id": {id}}}, http.StatusOK)
}

// SetStatus sets the status of a stream. The answer has no Status if the transmitter has accepted the
// request and not carried it out yet.
func (c *Client) SetStatus(ctx context.Context, m Metadata, want Status) (Status, error) {
	return c.status(ctx, m, request{doing: "set the status", method: http.MethodPost, body: want}, http.StatusOK, http.StatusAccepted,
		http.StatusNoContent)
}

func (c *Client) status(ctx context.Context, m Metadata, r request, want ...int) (Status, error) {
	if err := c.check("status endpoint", m.Status); err != nil {
		return Status{}, err
	}
	r.endpoint = m.Status
	answer, status, err := c.call(ctx, r, want...)
	if err != nil || status != http.StatusOK || len(answer) == 0 {
		return Status{}, err
	}
	var s Status
	return s, into(r.doing, answer, &s)
}

// Verify asks the transmitter to send a verification event with this state on the stream.
func (c *Client) Verify(ctx context.Context, m Metadata, id, state string) error {
	if err := c.check("verification endpoint", m.Verification); err != nil {
		return err
	}
	_, _, err := c.call(ctx, request{
		doing: "ask for a verification event", method: http.MethodPost, endpoint: m.Verification,
		body: map[string]string{"stream_id": id, "state": state},
	}, http.StatusNoContent, http.StatusOK, http.StatusAccepted)
	return err
}

// Subject adds a subject to a stream, or removes it. subject is in one of the forms of RFC 9493.
func (c *Client) Subject(ctx context.Context, m Metadata, id string, subject any, remove bool) error {
	r := request{
		doing: "add the subject", method: http.MethodPost, endpoint: m.AddSubject,
		body: map[string]any{"stream_id": id, "subject": subject, "verified": true},
	}
	what := "endpoint to add subjects"
	if remove {
		what = "endpoint to remove subjects"
		r.doing, r.endpoint, r.body = "remove the subject", m.RemoveSubject, map[string]any{"stream_id": id, "subject": subject}
	}
	if err := c.check(what, r.endpoint); err != nil {
		return err
	}
	_, _, err := c.call(ctx, r, http.StatusOK, http.StatusNoContent)
	return err
}
