// Package ssftest imitates a transmitter of shared signals, for tests: the Shared Signals Framework
// 1.0 with poll delivery (RFC 8936). What real transmitters do differently is switched on one by one.
package ssftest

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Names of events.
const (
	AccountDisabled = "https://schemas.openid.net/secevent/risc/event-type/account-disabled"
	SessionRevoked  = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"
	Verification    = "https://schemas.openid.net/secevent/ssf/event-type/verification"
	StreamUpdated   = "https://schemas.openid.net/secevent/ssf/event-type/stream-updated"
)

// Audience is for whom the tokens are.
const Audience = "https://signals.contoso.com"

// Transmitter is a transmitter with one client. It is safe for concurrent use. The fields must not be
// changed while it is in use.
type Transmitter struct {
	// Issuer is its address, http://HOST:PORT/PATH.
	Issuer string
	// Access is the access token that it wants; "" for none.
	Access string
	// Hold is how long it holds a poll while it has nothing to send; 0 as Keycloak.
	Hold time.Duration
	// Audience is the aud of streams and tokens.
	Audience string
	// Change changes the metadata before it is sent.
	Change func(metadata map[string]any)
	// Answer answers instead of the Transmitter if it returns true.
	Answer func(w http.ResponseWriter, r *http.Request) bool
	// ZeroIsOne answers a poll for 0 tokens with one, as Keycloak does.
	ZeroIsOne bool
	// StatusAsObject writes the status in stream-updated as an object, as Keycloak does.
	StatusAsObject bool
	// Silent accepts requests for verification, and sends nothing.
	Silent bool

	key *ecdsa.PrivateKey

	mu       sync.Mutex
	streams  []*Stream
	made     int
	queue    []queued
	acked    []string
	refused  map[string]Refusal
	polls    []Poll
	requests []string
	subjects []string
	changed  chan struct{}
}

// Stream is a stream with its status.
type Stream struct {
	ID       string   `json:"stream_id"`
	Issuer   string   `json:"iss"`
	Audience string   `json:"aud"`
	Events   []string `json:"events_requested"`
	Delivery struct {
		Method        string `json:"method"`
		Endpoint      string `json:"endpoint_url,omitempty"`
		Authorization string `json:"authorization_header,omitempty"`
	} `json:"delivery"`
	MinVerify int `json:"min_verification_interval,omitempty"`

	status string
}

// Refusal is what a receiver says about a token that it refuses.
type Refusal struct{ Err, Description string }

// Poll is a poll as it came.
type Poll struct {
	MaxEvents   *int               `json:"maxEvents"`
	Immediately bool               `json:"returnImmediately"`
	Ack         []string           `json:"ack"`
	Errors      map[string]Refusal `json:"setErrs"`
}

type queued struct{ id, text string }

// New returns a Transmitter with a key of its own.
func New(issuer string) *Transmitter {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return &Transmitter{
		Issuer: issuer, Audience: Audience, Hold: 30 * time.Second, key: key,
		refused: map[string]Refusal{}, changed: make(chan struct{}),
	}
}

// Open creates a poll stream, as its client would, and returns its ID.
func (x *Transmitter) Open() string {
	s := &Stream{}
	s.Delivery.Method = "urn:ietf:rfc:8936"
	return x.add(s).ID
}

func (x *Transmitter) add(s *Stream) *Stream {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.made++
	s.ID, s.Issuer, s.Audience, s.status = fmt.Sprintf("stream-%d", x.made), x.Issuer, x.Audience, "enabled"
	if strings.HasSuffix(s.Delivery.Method, "8936") {
		s.Delivery.Endpoint = x.Issuer + "/poll"
	}
	x.streams = append(x.streams, s)
	return s
}

// Emit puts a token on the stream, and returns its ID (jti).
func (x *Transmitter) Emit(event string, own map[string]any, subject any) string {
	id := rand.Text()
	x.Put(id, x.Token(id, event, own, subject))
	return id
}

// Put puts any text on the stream, under a name.
func (x *Transmitter) Put(name, text string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.queue = append(x.queue, queued{name, text})
	close(x.changed)
	x.changed = make(chan struct{})
}

// Token returns a signed token.
func (x *Transmitter) Token(id, event string, own map[string]any, subject any) string {
	if own == nil {
		own = map[string]any{}
	}
	return x.Sign(map[string]any{
		"iss": x.Issuer, "aud": x.Audience, "jti": id, "iat": time.Now().Unix(), "sub_id": subject, "events": map[string]any{event: own},
	}, map[jose.HeaderKey]any{"kid": "one", "typ": "secevent+jwt"})
}

// Sign returns a token with these claims and headers.
func (x *Transmitter) Sign(claims map[string]any, headers map[jose.HeaderKey]any) string {
	options := &jose.SignerOptions{}
	for name, value := range headers {
		options.WithHeader(name, value)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: x.key}, options)
	if err != nil {
		panic(err)
	}
	text, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	signed, err := signer.Sign(text)
	if err != nil {
		panic(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		panic(err)
	}
	return compact
}

// Keys returns its public keys.
func (x *Transmitter) Keys() jose.JSONWebKeySet {
	return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{KeyID: "one", Key: x.key.Public(), Use: "sig"}}}
}

// Acked returns the IDs that were acknowledged, in order.
func (x *Transmitter) Acked() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.acked)
}

// Refused returns what was refused, by ID.
func (x *Transmitter) Refused() map[string]Refusal {
	x.mu.Lock()
	defer x.mu.Unlock()
	return maps.Clone(x.refused)
}

// Waiting returns the number of tokens that are neither acknowledged nor refused.
func (x *Transmitter) Waiting() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.queue)
}

// Polls returns the polls that came.
func (x *Transmitter) Polls() []Poll {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.polls)
}

// Requests returns the method and path of each request.
func (x *Transmitter) Requests() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.requests)
}

// Streams returns the streams.
func (x *Transmitter) Streams() []Stream {
	x.mu.Lock()
	defer x.mu.Unlock()
	var list []Stream
	for _, s := range x.streams {
		list = append(list, *s)
	}
	return list
}

// Subjects returns what was added to and removed from streams, as JSON after + or -.
func (x *Transmitter) Subjects() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.subjects)
}

// SetStatus sets the status of all streams, and sends stream-updated if tell is true.
func (x *Transmitter) SetStatus(status string, tell bool) {
	x.mu.Lock()
	for _, s := range x.streams {
		s.status = status
	}
	x.mu.Unlock()
	if !tell {
		return
	}
	var said any = status
	if x.StatusAsObject {
		said = map[string]any{"status": status, "reason": "by the administrator"}
	}
	x.Emit(StreamUpdated, map[string]any{"status": said}, map[string]any{"format": "opaque", "id": "stream-1"})
}

// path returns the path of the issuer, without a slash at the end.
func (x *Transmitter) path() string {
	_, rest, _ := strings.Cut(x.Issuer, "://")
	_, path, found := strings.Cut(rest, "/")
	if !found || path == "" {
		return ""
	}
	return "/" + strings.TrimSuffix(path, "/")
}

// ServeHTTP implements http.Handler.
func (x *Transmitter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x.mu.Lock()
	x.requests = append(x.requests, r.Method+" "+r.URL.Path)
	x.mu.Unlock()
	if x.Answer != nil && x.Answer(w, r) {
		return
	}
	x.Serve(w, r)
}

// Serve answers a request without asking Answer.
func (x *Transmitter) Serve(w http.ResponseWriter, r *http.Request) {
	root := x.path()
	switch r.URL.Path {
	case "/.well-known/ssf-configuration" + root:
		x.metadata(w)
		return
	case root + "/keys":
		reply(w, http.StatusOK, x.Keys())
		return
	}
	if x.Access != "" && r.Header.Get("Authorization") != "Bearer "+x.Access {
		reply(w, http.StatusUnauthorized, map[string]string{"err": "authentication_failed"})
		return
	}
	switch r.URL.Path {
	case root + "/streams":
		x.manage(w, r)
	case root + "/status":
		x.status(w, r)
	case root + "/subjects:add", root + "/subjects:remove":
		x.subject(w, r)
	case root + "/verify":
		x.verify(w, r)
	case root + "/poll":
		x.poll(w, r)
	default:
		http.NotFound(w, r)
	}
}

func reply(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}

func (x *Transmitter) metadata(w http.ResponseWriter) {
	root := strings.TrimSuffix(x.Issuer, "/")
	m := map[string]any{
		"spec_version": "1_0", "issuer": x.Issuer, "jwks_uri": root + "/keys",
		"delivery_methods_supported": []string{"urn:ietf:rfc:8935", "urn:ietf:rfc:8936"},
		"configuration_endpoint":     root + "/streams", "status_endpoint": root + "/status",
		"add_subject_endpoint": root + "/subjects:add", "remove_subject_endpoint": root + "/subjects:remove",
		"verification_endpoint": root + "/verify", "default_subjects": "ALL",
	}
	if x.Change != nil {
		x.Change(m)
	}
	reply(w, http.StatusOK, m)
}

// find returns the stream with an ID.
func (x *Transmitter) find(id string) *Stream {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, s := range x.streams {
		if s.ID == id {
			return s
		}
	}
	return nil
}

func (x *Transmitter) manage(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("stream_id")
	switch r.Method {
	case http.MethodGet:
		if id == "" {
			reply(w, http.StatusOK, append([]Stream{}, x.Streams()...))
			return
		}
		if s := x.find(id); s != nil {
			reply(w, http.StatusOK, s)
			return
		}
		http.NotFound(w, r)
	case http.MethodPost:
		s := &Stream{}
		if json.NewDecoder(r.Body).Decode(s) != nil {
			reply(w, http.StatusBadRequest, map[string]string{"err": "invalid_request"})
			return
		}
		if s.Delivery.Method == "" {
			s.Delivery.Method = "urn:ietf:rfc:8936"
		}
		reply(w, http.StatusCreated, x.add(s))
	case http.MethodPatch:
		var change Stream
		_ = json.NewDecoder(r.Body).Decode(&change)
		s := x.find(change.ID)
		if s == nil {
			http.NotFound(w, r)
			return
		}
		x.mu.Lock()
		s.Events = change.Events
		x.mu.Unlock()
		reply(w, http.StatusOK, s)
	case http.MethodDelete:
		x.mu.Lock()
		x.streams = slices.DeleteFunc(x.streams, func(s *Stream) bool { return s.ID == id })
		x.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	}
}

func (x *Transmitter) status(w http.ResponseWriter, r *http.Request) {
	var want struct {
		ID     string `json:"stream_id"`
		Status string `json:"status"`
	}
	want.ID = r.URL.Query().Get("stream_id")
	if r.Method == http.MethodPost {
		_ = json.NewDecoder(r.Body).Decode(&want)
	}
	s := x.find(want.ID)
	if s == nil {
		http.NotFound(w, r)
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	s.status = cmp.Or(want.Status, s.status)
	reply(w, http.StatusOK, map[string]string{"stream_id": s.ID, "status": s.status})
}

func (x *Transmitter) subject(w http.ResponseWriter, r *http.Request) {
	var asked struct{ Subject json.RawMessage }
	_ = json.NewDecoder(r.Body).Decode(&asked)
	sign, status := "+", http.StatusOK
	if strings.HasSuffix(r.URL.Path, "remove") {
		sign, status = "-", http.StatusNoContent
	}
	x.mu.Lock()
	x.subjects = append(x.subjects, sign+string(asked.Subject))
	x.mu.Unlock()
	w.WriteHeader(status)
}

func (x *Transmitter) verify(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		ID    string `json:"stream_id"`
		State string `json:"state"`
	}
	_ = json.NewDecoder(r.Body).Decode(&asked)
	if x.find(asked.ID) == nil {
		http.NotFound(w, r)
		return
	}
	if !x.Silent {
		x.Emit(Verification, map[string]any{"state": asked.State}, map[string]any{"format": "opaque", "id": asked.ID})
	}
	w.WriteHeader(http.StatusNoContent)
}

// poll answers a poll (RFC 8936). What is not acknowledged is sent again.
func (x *Transmitter) poll(w http.ResponseWriter, r *http.Request) {
	var asked Poll
	if json.NewDecoder(r.Body).Decode(&asked) != nil {
		reply(w, http.StatusBadRequest, map[string]string{"err": "invalid_request"})
		return
	}
	most := 1000
	if asked.MaxEvents != nil {
		most = *asked.MaxEvents
	}
	if most == 0 && x.ZeroIsOne {
		most = 1
	}
	x.mu.Lock()
	x.polls = append(x.polls, asked)
	x.acked = append(x.acked, asked.Ack...)
	maps.Copy(x.refused, asked.Errors)
	x.queue = slices.DeleteFunc(x.queue, func(q queued) bool {
		_, refused := asked.Errors[q.id]
		return refused || slices.Contains(asked.Ack, q.id)
	})
	x.mu.Unlock()
	held := time.NewTimer(x.Hold)
	defer held.Stop()
	for {
		x.mu.Lock()
		queue, changed := slices.Clone(x.queue[:min(len(x.queue), most)]), x.changed
		more := len(x.queue) > most
		x.mu.Unlock()
		if len(queue) > 0 || asked.Immediately || most == 0 || x.Hold == 0 {
			sets := map[string]string{}
			for _, q := range queue {
				sets[q.id] = q.text
			}
			reply(w, http.StatusOK, map[string]any{"sets": sets, "moreAvailable": more})
			return
		}
		select {
		case <-changed:
		case <-held.C:
			reply(w, http.StatusOK, map[string]any{"sets": map[string]string{}})
			return
		case <-r.Context().Done():
			return
		}
	}
}
