package secevent

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/event"
)

// Signal is a token whose signature, issuer, audience, and time are right. What its event means for
// a person is not decided: Decode does that.
type Signal struct {
	// Transmitter is the name of who sent it, and Issuer the iss.
	Transmitter, Issuer string
	// ID is the jti, which the transmitter should give to one token only. It has 1 to 512 bytes.
	ID string
	// Claims is the hash of all claims, the jti with them. It tells one token from all others, however
	// often the transmitter signs it, and whatever is around it.
	Claims [32]byte
	// Event is the last part of the event's URI, or "" if the token holds no event that can be read.
	Event string
	// Issued is the iat.
	Issued time.Time
	// Stream is what an event about the stream itself says. It is nil for all other events.
	Stream *StreamEvent
}

// StreamEvent is an event about a stream, and about nobody
// (https://openid.net/specs/openid-sharedsignals-framework-1_0-final.html, sections 8.1.4.1 and 8.1.5).
type StreamEvent struct {
	// Verification is true for the answer to a request to verify the stream, which may also come
	// unasked. Otherwise the transmitter reports a new status.
	Verification bool
	// State is what the request named, or "". It has at most 1,024 bytes.
	State string
	// Status is enabled, paused, disabled, or "" if the transmitter writes it in a form of its own.
	Status string
}

// Verify verifies a token as Decode does, and returns what its receiver must know before it confirms
// the receipt. The kind of the error is event.NotYet if the transmitter's keys are not known yet,
// or may have changed since they were read, or if the token is from the near future: one that its
// receiver refuses is lost for good.
// A token without its signature is refused, whatever the transmitter's settings are.
func (v *Verifier) Verify(body []byte) (s Signal, refused *event.Error) {
	defer func() {
		if recover() != nil {
			s, refused = Signal{}, problem(event.NotYet, "token", "cannot be verified, by a defect of the worker")
		}
	}()
	body = bytes.TrimSpace(body)
	if len(body) > maxToken {
		return Signal{}, invalid("body", "%d bytes; a token has at most %d", len(body), maxToken)
	}
	if !isCompact(body) {
		_, refused = parse(body)
		return Signal{}, refused
	}
	t, claims, refused := v.verify(body)
	if refused != nil && slices.Contains([]string{"signature", "header.kid"}, refused.Field) && refused.Kind != event.NotYet {
		if iat, problem := issuedAt(claims); problem == nil && v.keys[t.Issuer].mayBeOld(iat) {
			refused = &event.Error{Kind: event.NotYet, Field: refused.Field, Problem: refused.Problem + "; the keys are read again first"}
		}
	}
	if refused != nil && refused.Field == "iat" && aheadForNow(body) {
		refused.Kind = event.NotYet
	}
	if refused != nil {
		return Signal{}, refused
	}
	s = Signal{Transmitter: t.Name, Issuer: t.Issuer, ID: claims.text("jti"), Claims: sha256.Sum256(bytes.Split(body, []byte("."))[1])}
	if s.ID == "" || len(s.ID) > maxID {
		return Signal{}, invalid("jti", "must be a string of 1 to %d bytes", maxID)
	}
	s.Issued, _ = issuedAt(claims) // verify has read it
	if k, own, unreadable := t.readEvent(claims); unreadable == nil {
		s.Event = k.name()
		if isStreamEvent(k.uri) {
			s.Stream = readStreamEvent(k, own)
		}
	}
	return s, nil
}

// aheadForNow reports whether a token is ahead of this machine's clock by no more than a wrong clock or
// time zone explains.
func aheadForNow(body []byte) bool {
	const most = 14 * time.Hour
	token, _ := parse(body)
	if token == nil {
		return false
	}
	iat, ok := numericDate(token.claims["iat"], time.Second)
	return ok && time.Until(iat) < most
}

func readStreamEvent(k kind, own object) *StreamEvent {
	const maxState = 1024
	e := &StreamEvent{Verification: k.name() == "verification", State: own.text("state"), Status: own.text("status")}
	if len(e.State) > maxState {
		e.State = ""
	}
	// Keycloak writes an object instead of a string.
	if status, ok := own["status"].(object); ok {
		e.Status = status.text("status")
	}
	switch e.Status = strings.ToLower(e.Status); e.Status {
	case "enabled", "paused", "disabled":
	default:
		e.Status = ""
	}
	return e
}

// ErrorCode returns the code by which a transmitter is told why its token was refused (RFC 8935,
// section 2.4, which RFC 8936 uses too).
func ErrorCode(refused *event.Error) string {
	switch refused.Field {
	case "iss":
		return "invalid_issuer"
	case "aud":
		return "invalid_audience"
	case "header.alg", "header.kid":
		return "invalid_key"
	case "signature":
		return "authentication_failed"
	}
	return "invalid_request"
}

// Find returns the transmitter with an issuer.
func (v *Verifier) Find(issuer string) (t Transmitter, ok bool) {
	found := v.transmitters[issuer]
	if found == nil {
		return Transmitter{}, false
	}
	return *found, true
}

// Requested returns the URI of an event that is given by its short name or its URI, and reports
// whether it can be requested of a transmitter: those about the stream cannot.
func Requested(name string) (uri string, ok bool) {
	for _, k := range kinds {
		if k.uri == name || k.name() == name {
			return k.uri, true
		}
	}
	return name, strings.Contains(name, ":") && !isStreamEvent(name)
}

// Acting returns the URIs of the events that sign somebody out by default.
func Acting() []string {
	var uris []string
	for _, k := range kinds {
		if len(k.rules) > 0 {
			uris = append(uris, k.uri)
		}
	}
	return uris
}

// AddressProblem returns what is wrong with the address of a transmitter, or "". It must be a plain
// URL with https, or with http on a loopback address.
func AddressProblem(address string) string { return urlProblem(address) }
