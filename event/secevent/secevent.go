// Package secevent understands Security Event Tokens (RFC 8417) of the Shared Signals Framework, with
// the events of CAEP and RISC: it verifies the signature by the transmitter's keys, and decides by
// the transmitter's rules whether the event signs anybody out. It fetches keys, and nothing else.
//
// A token may be verified any number of times: it has no end, and Service Bus can deliver it twice.
// The worker's deduplication makes a repeated event harmless.
package secevent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/event"
)

// Config configures a Verifier.
type Config struct {
	// Transmitters are those whose tokens are accepted; see Load. Without any, every token is refused.
	Transmitters []Transmitter
	// Types is the allow-list, the most urgent type first. Empty means event.DefaultTypes.
	Types []string
	// AnyType accepts all other types as well, for tools that only show events.
	AnyType bool
	// LookUpMail makes addresses Mail instead of UPN, where a transmitter does not say what they are.
	LookUpMail bool
	// ResolveDevices accepts an event that names only a device, if its transmitter says what the id of
	// a device means.
	ResolveDevices bool
	// Transport reaches the servers of the keys. nil means http.DefaultTransport.
	Transport http.RoundTripper
	// Report is called after each attempt to read or fetch keys, by one goroutine at a time for each
	// transmitter. It may be nil.
	Report func(Status)
}

// Verifier verifies and decodes tokens. It is safe for concurrent use.
type Verifier struct {
	cfg          Config
	transmitters map[string]*Transmitter // by issuer
	keys         map[string]*keySource   // by issuer

	mu      sync.Mutex
	changed chan struct{} // is closed and replaced when keys change
}

// New returns a Verifier. It reads key files, and fetches nothing: Run and Refresh do. The error
// names every problem of the transmitters.
func New(cfg Config) (*Verifier, error) {
	if len(cfg.Types) == 0 {
		cfg.Types = event.DefaultTypes
	}
	v := &Verifier{
		cfg: cfg, transmitters: map[string]*Transmitter{}, keys: map[string]*keySource{},
		changed: make(chan struct{}),
	}
	var problems []error
	for _, t := range cfg.Transmitters {
		if err := t.validate(cfg); err != nil {
			problems = append(problems, err)
			continue
		}
		if _, twice := v.transmitters[t.Issuer]; twice {
			problems = append(problems, t.problem("issuer: %s is another transmitter's, too", quote(t.Issuer)))
			continue
		}
		v.transmitters[t.Issuer] = &t
		if !t.hasKeys() {
			continue
		}
		source := newKeySource(t, cfg.Transport, cfg.Report, v.change)
		v.keys[t.Issuer] = source
		if t.JWKSFile == "" {
			continue
		}
		if err := source.refresh(context.Background()); err != nil {
			problems = append(problems, t.problem("jwks_file: %v", err))
		}
	}
	return v, errors.Join(problems...)
}

// place returns the index of a type on the allow-list, or 0 if it is not there.
func (cfg Config) place(kind string) (i int, listed bool) {
	i = slices.Index(cfg.Types, kind)
	return max(i, 0), i >= 0
}

// Run fetches the keys of all transmitters, and keeps them up to date until ctx ends. Call it once.
func (v *Verifier) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, source := range v.keys {
		all.Go(func() { source.run(ctx) })
	}
	all.Wait()
}

// Refresh fetches the keys of all transmitters once, at the same time, and returns how that went, in
// the order of Config.Transmitters, without those that have no keys. It may be called with and
// without Run.
func (v *Verifier) Refresh(ctx context.Context) []Status {
	var sources []*keySource
	for _, t := range v.cfg.Transmitters {
		if source := v.keys[t.Issuer]; source != nil {
			sources = append(sources, source)
		}
	}
	all := make([]Status, len(sources))
	var fetching sync.WaitGroup
	for i, source := range sources {
		fetching.Go(func() { all[i] = source.status(source.refresh(ctx)) })
	}
	fetching.Wait()
	return all
}

// Changed returns a channel that is closed when other keys are in use. Then a token that was refused
// with event.NotYet may be decoded again. To miss no keys, call Changed before Decode.
func (v *Verifier) Changed() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.changed
}

// change closes the channels that Changed has returned.
func (v *Verifier) change() {
	v.mu.Lock()
	defer v.mu.Unlock()
	close(v.changed)
	v.changed = make(chan struct{})
}

const (
	// maxToken is the size of the largest token in bytes.
	maxToken = 64 << 10
	// maxHeader is the size of the largest encoded header in bytes. It may hold certificates, which
	// are ignored.
	maxHeader = 16 << 10
	// maxID is the length of the longest token id (jti) in bytes.
	maxID = 512
	// maxAhead is how far a transmitter's clock may be ahead.
	maxAhead = 10 * time.Minute
)

// IsToken reports whether the message is a Security Event Token: by its content type, or because its
// body is one compact JWS, or the claims of a token without a signature. The check is cheap: it does
// not mean that the token is valid.
func (v *Verifier) IsToken(m event.Message) bool {
	if m.BodyKind != "" && m.BodyKind != "data" {
		return false
	}
	mediaType, _, _ := strings.Cut(m.ContentType, ";")
	return strings.EqualFold(strings.TrimSpace(mediaType), "application/secevent+jwt") ||
		isCompact(bytes.TrimSpace(m.Body)) || isClaims(m.Body)
}

// Decode verifies a token, and returns its one event, which is valid or has its own error. Decode
// returns an *event.Error if nothing in the token can be believed. Its kind is event.NotYet if the
// transmitter's keys are not known yet: then the same message must be decoded again later.
func (v *Verifier) Decode(m event.Message) (items []event.Item, err error) {
	defer func() {
		if recover() != nil {
			items, err = nil, invalid("token", "cannot be decoded, by a defect of the worker: report it with this message")
		}
	}()
	body := bytes.TrimSpace(m.Body)
	if len(body) > maxToken {
		return nil, invalid("body", "%d bytes; a token has at most %d", len(body), maxToken)
	}
	t, claims, refused := v.verify(body)
	if refused != nil {
		return nil, refused
	}
	item := event.Item{}
	if item.Event, refused = v.understand(t, claims); refused != nil {
		item.Event.User, item.Err = event.User{}, refused
	}
	return []event.Item{item}, nil
}

// verify returns the transmitter of a token and its claims, if it is one that the transmitter has
// signed for us.
func (v *Verifier) verify(body []byte) (*Transmitter, object, *event.Error) {
	if !isCompact(body) && len(body) > 0 && body[0] == '{' {
		claims, problem := readObject("body", body)
		if problem != nil {
			return nil, nil, problem
		}
		t, problem := v.transmitterOf(claims)
		if problem == nil && !t.Unsigned {
			problem = invalid("body", "the claims of a Security Event Token without its signature: send the token as it was signed, "+
				"or set unsigned for this transmitter, if whoever sends to the queue has verified it")
		}
		if problem == nil {
			_, problem = issuedAt(claims)
		}
		return t, claims, problem
	}
	token, problem := parse(body)
	if problem != nil {
		return nil, nil, problem
	}
	t, problem := v.transmitterOf(token.claims)
	if problem != nil {
		return nil, nil, problem
	}
	source := v.keys[t.Issuer]
	if source == nil {
		return nil, nil, invalid("signature", "the transmitter %s has no keys (jwks_url or jwks_file)", t.Name)
	}
	return t, token.claims, source.verify(token)
}

// transmitterOf returns the transmitter that the claims name, if the token is meant for us. Nothing
// is verified yet.
func (v *Verifier) transmitterOf(claims object) (*Transmitter, *event.Error) {
	iss := claims.text("iss")
	t := v.transmitters[iss]
	switch {
	case iss == "":
		return nil, invalid("iss", "missing, or not a string")
	case len(v.transmitters) == 0:
		return nil, invalid("iss", "%s: no transmitter is configured (events.transmitters_file)", quote(iss))
	case t == nil:
		for other := range v.transmitters {
			if strings.EqualFold(strings.TrimRight(other, "/"), strings.TrimRight(iss, "/")) {
				return nil, invalid("iss", "%s is not exactly the configured issuer %s", quote(iss), quote(other))
			}
		}
		return nil, invalid("iss", "%s is no configured transmitter (events.transmitters_file)", quote(iss))
	}
	audience, problem := readAudience(claims["aud"])
	if problem == nil && !slices.ContainsFunc(audience, func(a string) bool { return slices.Contains(t.Audience, a) }) {
		problem = invalid("aud", "%s: the token is meant for others (audience of the transmitter %s)",
			quote(strings.Join(audience, " ")), t.Name)
	}
	return t, problem
}

// readAudience returns the audience, which is a string or a list of strings.
func readAudience(value any) (audience []string, problem *event.Error) {
	switch aud := value.(type) {
	case string:
		return []string{aud}, nil
	case []any:
		for _, item := range aud {
			text, ok := item.(string)
			if !ok {
				return nil, invalid("aud", "must be a string or a list of strings")
			}
			audience = append(audience, text)
		}
	}
	if len(audience) == 0 {
		return nil, invalid("aud", "missing: the token must say for whom it is")
	}
	return audience, nil
}

// understand returns the event of a verified token, and why it is refused. The event then has what
// could be read.
func (v *Verifier) understand(t *Transmitter, claims object) (e event.Event, refused *event.Error) {
	e = event.Event{ID: claims.text("jti"), Source: t.Issuer, Mapping: "shared-signals/" + t.Name}
	if e.ID == "" || len(e.ID) > maxID {
		e.ID = ""
		return e, invalid("jti", "must be a string of 1 to %d bytes", maxID)
	}
	k, own, refused := t.readEvent(claims)
	if refused != nil {
		return e, refused
	}
	e.Type = k.name()
	iat, refused := issuedAt(claims)
	if refused != nil {
		return e, refused
	}
	e.Time, e.Reason = happenedAt(own, iat), reasonOf(k, own)
	if isStreamEvent(k.uri) {
		return e, problem(event.NoTrigger, k.field(), "about the stream, and about nobody")
	}
	s, unclear := v.readSubject(t, k, claims, own)
	e.Device = s.device
	rule, why, ok := t.rulesFor(k).choose(k, own, s.session)
	if !ok { // this comes before whose it is: most of these events are ordinary logouts
		return e, problem(event.NoTrigger, k.field(), "%s", why)
	}
	if unclear != nil {
		return e, unclear
	}
	place, listed := v.cfg.place(rule.Type)
	if !listed && !v.cfg.AnyType {
		return e, problem(event.UnknownType, k.field(), "is %s here, which is not on the allow-list (events.types)",
			quote(rule.Type))
	}
	e.Type, e.Urgency, e.User, e.Field = rule.Type, place, s.user, s.field
	return e, nil
}

// issuedAt returns when the token was issued.
func issuedAt(claims object) (time.Time, *event.Error) {
	t, ok := numericDate(claims["iat"], time.Second)
	switch {
	case !ok:
		return time.Time{}, invalid("iat", "must be a number of seconds since 1970")
	case t.After(time.Now().Add(maxAhead)):
		return time.Time{}, invalid("iat", "more than %s ahead: correct the transmitter's clock, or this machine's", maxAhead)
	}
	return t, nil
}

// happenedAt returns when the event happened: event_timestamp in seconds, or in milliseconds as Okta
// sends it, and iat if that is missing or cannot be true.
func happenedAt(own object, iat time.Time) time.Time {
	t, ok := numericDate(own["event_timestamp"], time.Second)
	if !ok {
		t, ok = numericDate(own["event_timestamp"], time.Millisecond)
	}
	if !ok || t.After(iat.Add(24*time.Hour)) {
		return iat
	}
	return t
}

// numericDate returns the time that is a number of units after 1970. Only times before the year 5138
// are ones, which tells seconds from milliseconds since 1973.
func numericDate(value any, unit time.Duration) (time.Time, bool) {
	const end = 1e11 // seconds
	number, ok := value.(json.Number)
	if !ok {
		return time.Time{}, false
	}
	f, err := number.Float64()
	if seconds := f * unit.Seconds(); err == nil && seconds > 0 && seconds < end {
		whole, part := math.Modf(seconds)
		return time.Unix(int64(whole), int64(part*1e9)).UTC().Round(time.Millisecond), true
	}
	return time.Time{}, false
}

// reasonOf returns the kind of the event and what its transmitter says about it, in a few words.
func reasonOf(k kind, own object) string {
	reason := k.name()
	if by := own.text("initiating_entity"); by != "" {
		reason += " by " + by
	}
	for _, name := range []string{"reason_admin", "reason", "reason_user"} {
		if text := localized(own[name]); text != "" {
			reason += ": " + text
			break
		}
	}
	const limit = 200
	if runes := []rune(reason[:min(len(reason), 4*limit)]); len(runes) > limit {
		reason = string(runes[:limit-1]) + "…"
	}
	return strings.ToValidUTF8(reason, "")
}

// localized returns a text, or the English one of several, or any.
func localized(value any) string {
	switch texts := value.(type) {
	case string:
		return texts
	case object:
		if english := texts.text("en"); english != "" {
			return english
		}
		for _, language := range slices.Sorted(maps.Keys(texts)) {
			if text := texts.text(language); text != "" {
				return text
			}
		}
	}
	return ""
}

// Status is how reading or fetching a transmitter's keys went.
type Status struct {
	// Transmitter is its name.
	Transmitter string
	// Keys is the number of usable keys that are in use now.
	Keys int
	// Err is why the last attempt failed, or nil.
	Err error
}

func (s Status) String() string {
	if s.Err != nil {
		return fmt.Sprintf("%s: %v", s.Transmitter, s.Err)
	}
	return fmt.Sprintf("%s: %d keys", s.Transmitter, s.Keys)
}
