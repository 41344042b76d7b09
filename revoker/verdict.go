package revoker

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/session-revoker/session-revoker/event"
)

// Kind is the meaning of a failed attempt.
type Kind string

// The kinds, from answers that concern one user to answers that concern everyone.
const (
	// NotRevoked: 2xx with value false, or an effect that did not show.
	NotRevoked Kind = "not_revoked"
	// NotFound: 404 from Graph itself. Right after an account was created this can be replication
	// lag.
	NotFound Kind = "not_found"
	// External: the user belongs to another tenant. Graph was not called, since it would answer
	// with success and revoke nothing.
	External Kind = "external"
	// Protected: the account is on the list of protected users, by an id or name that the event did
	// not give. Graph was not called.
	Protected Kind = "protected"
	// OwnerUnclear: the event names a device or mail address, and a look-up has found nobody, or more
	// than one person, or is not allowed. Nobody was called.
	OwnerUnclear Kind = "owner_unclear"
	// Named: the event gives only a name, a device, or a mail address, and Account is the account
	// that has it. Nobody was called (see Verifying.ByAccount and Finding).
	Named Kind = "named"
	// Rejected: any other 4xx from Graph. Graph refuses the request itself.
	Rejected Kind = "rejected"
	// Forbidden: 403, although the token holds the permission, or cannot be read.
	Forbidden Kind = "forbidden"
	// MissingPermission: 403, and the token holds none of the permissions that allow the call.
	MissingPermission Kind = "missing_permission"
	// Unauthorized: 401. The next attempt forces a new token, unless this one already used a forced
	// token (Renewed).
	Unauthorized Kind = "unauthorized"
	// NoToken: there was no token, and Graph was not called.
	NoToken Kind = "no_token"
	// Throttled: 429.
	Throttled Kind = "throttled"
	// Unavailable: 408, 425, 5xx, or an answer that does not come from Graph (a redirect, a proxy's
	// page) or cannot be read.
	Unavailable Kind = "unavailable"
	// Unreachable: no complete answer, because of a dial failure, a dropped connection or a
	// timeout.
	Unreachable Kind = "unreachable"
)

// Error is a failed attempt. It implements the small interfaces by which package retry judges
// errors.
type Error struct {
	Kind Kind
	Attempt
	// Code and Message are Graph's own, cut to 128 and 256 bytes; empty if Graph sent none.
	Code, Message string
	// After is the answer's Retry-After; 0 if there was none.
	After time.Duration
	// Renewed reports whether the token that Graph refused had been forced after an earlier
	// refusal.
	Renewed bool
	// Account is the account that has the event's name or device, for kind Named.
	Account event.User
	// By is the way of a look-up, and NoLookup for any other attempt. A look-up that fails says
	// nothing about other attempts: its permissions, its quota, and often its service are others.
	By event.Lookup
	// Err is the underlying cause, if there is one.
	Err error
}

// Error names the kind, the status, Graph's code and message, and the ids that Microsoft's support
// asks for.
func (e *Error) Error() string {
	text := e.Brief()
	if e.Message != "" {
		text += ": " + e.Message
	}
	if e.Err != nil && e.Kind != OwnerUnclear {
		text += ": " + e.Err.Error()
	}
	if e.RequestID != "" {
		text += " (request-id " + e.RequestID + ")"
	}
	return text
}

// Denied reports whether Graph refuses for want of a permission or a role.
func (e *Error) Denied() bool { return e.Kind == MissingPermission || e.Kind == Forbidden }

// Brief is the error without any text from outside, since such text may name the user.
func (e *Error) Brief() string {
	text := hints[e.Kind]
	switch {
	case e.Kind == OwnerUnclear && e.Err != nil:
		return e.Err.Error() // it is a text of ours
	case e.Kind == MissingPermission && e.By != event.NoLookup:
		text = "the app lacks " + lookupPermissions[e.By][0] + ", which the look-up by " + e.By.String() +
			" needs: grant it as an application permission, with admin consent"
	case e.Kind == Forbidden && e.By != event.NoLookup:
		text = "Graph refuses the look-up"
	}
	if e.Status != 0 {
		text += fmt.Sprintf(" (HTTP %d", e.Status)
		if e.Code != "" {
			text += " " + e.Code
		}
		text += ")"
	}
	return text
}

// hints says, by kind, what happened and what a person can do about it.
var hints = map[Kind]string{
	NotRevoked:        "Graph says that it revoked nothing",
	NotFound:          "Graph does not know the user",
	External:          "the user belongs to another tenant: Graph would answer with success and revoke nothing",
	Protected:         "the account is on the list of protected users",
	OwnerUnclear:      "it is unclear whose device or address it is",
	Named:             "the event gives a name or a device: the account that has it is to be called",
	Rejected:          "Graph rejects the request",
	Forbidden:         "Graph refuses this user",
	MissingPermission: "the app lacks User.RevokeSessions.All: grant it as an application permission, with admin consent",
	Unauthorized:      "Graph refuses the token: check graph.cloud, the tenant, and that the app is not disabled",
	NoToken:           "no token for Graph: check the credential (graph.client_id, secret or workload identity)",
	Throttled:         "Graph throttles",
	Unavailable:       "Graph is unavailable or something else answered in its place",
	Unreachable:       "no answer from Graph",
}

func (e *Error) Unwrap() error { return e.Err }

// Permanent reports whether Graph will refuse the same request again. A look-up that is rejected may
// be everyone's trouble (a tenant without Intune), so it is not.
func (e *Error) Permanent() bool {
	return e.Kind == Rejected && e.By == event.NoLookup || e.Kind == External || e.Kind == Protected || e.Kind == OwnerUnclear
}

// Postponed reports whether no look-up of this way is possible now, for a reason that a person or
// time removes. It says nothing about the device, nor about other attempts.
func (e *Error) Postponed() bool {
	return e.By != event.NoLookup &&
		(e.Kind == MissingPermission || e.Kind == Throttled || e.Kind == Unauthorized && e.Renewed)
}

// Systemic reports whether the fault hits every user alike, so that no call can succeed before a
// person or time fixes it.
func (e *Error) Systemic() bool {
	switch e.Kind {
	case NoToken:
		return true
	case MissingPermission:
		return e.By == event.NoLookup
	case Unauthorized:
		return e.Renewed && e.By == event.NoLookup
	}
	return false
}

// Excused reports whether the next attempt fixes the fault by itself, because it brings a new
// token.
func (e *Error) Excused() bool { return e.Kind == Unauthorized && !e.Renewed }

// Throttled reports whether Graph asks all callers to pause.
func (e *Error) Throttled() bool { return e.Kind == Throttled && e.By == event.NoLookup }

// Shared reports whether the fault may hit every user: only another user's success can show that it
// is the user's own.
func (e *Error) Shared() bool {
	return e.Kind == NotRevoked || e.Suspicious() || e.By != event.NoLookup && (e.Kind == Forbidden || e.Kind == Rejected)
}

// Suspicious reports whether the failure hints at a fault of Graph's if distinct users have it in a
// row. Graph's answers about a user, 404 and value false, are neutral.
func (e *Error) Suspicious() bool {
	switch e.Kind {
	case Forbidden:
		return e.By == event.NoLookup
	case Unavailable, Unreachable:
		return true
	}
	return false
}

// MaxFailures is the number of counted failures of this kind after which a user is given up; 0
// leaves it to the caller's policy. A 403 that is the user's own (a restricted administrative unit)
// does not go away, so that kind needs fewer.
func (e *Error) MaxFailures() int {
	if e.Kind == Forbidden {
		return 2
	}
	return 0
}

// Lagging reports whether the user may appear later: replication of a new account takes up to
// minutes.
func (e *Error) Lagging() bool { return e.Kind == NotFound }

// RetryAfter is how long Graph asked us not to call.
func (e *Error) RetryAfter() time.Duration { return e.After }

// verdict returns the meaning of the exchange; nil is success. err says why there is no answer, or why
// an answer that the caller wants to read could not be decoded.
func (ex *exchange) verdict(err error) *Error {
	if ex.status == 0 || ex.bodyErr != nil {
		return &Error{Kind: Unreachable, By: ex.by, Err: errors.Join(err, ex.bodyErr)}
	}
	if ex.status/100 == 2 && ex.by != event.NoLookup {
		return ex.found(err)
	}
	if ex.status/100 == 2 {
		return ex.success(err)
	}
	failure := &Error{After: ex.retryAfter(), By: ex.by}
	fromGraph := failure.readBody(ex)
	switch status := ex.status; {
	case status == http.StatusTooManyRequests:
		failure.Kind = Throttled
	case status >= 500, status == http.StatusRequestTimeout, status == http.StatusTooEarly:
		failure.Kind = Unavailable
	case status == http.StatusUnauthorized:
		failure.Kind = Unauthorized
	case !fromGraph:
		// A proxy's 403 or 404 says nothing about the user.
		failure.Kind = Unavailable
	case status == http.StatusForbidden && ex.lacksPermission():
		failure.Kind = MissingPermission
	case status == http.StatusForbidden:
		failure.Kind = Forbidden
	case status == http.StatusNotFound:
		failure.Kind = NotFound
	case status >= 400:
		failure.Kind = Rejected
	default:
		failure.Kind = Unavailable
	}
	return failure
}

// success judges a 2xx. Sessions were revoked if the body is empty (older and beta forms answer
// without one), or a JSON object whose value is not false and that holds no error. A captive
// portal's page, null, half an answer or two answers do not come from Graph, and the attempt is
// repeated.
func (ex *exchange) success(decodeErr error) *Error {
	if len(ex.body) == 0 {
		return nil
	}
	if !ex.isJSON() {
		contentType := cut(ex.header.Get("Content-Type"), 128)
		return &Error{Kind: Unavailable, Err: fmt.Errorf("2xx with content type %q is not Graph's answer", contentType)}
	}
	value, err := valueOf(ex.body)
	if err == nil && ex.reads {
		err = decodeErr // the caller wants a value from the body, which could not be read
	}
	switch {
	case err != nil:
		return &Error{Kind: Unavailable, Err: fmt.Errorf("2xx with a body that is not Graph's answer: %w", err)}
	case value == "false":
		return &Error{Kind: NotRevoked}
	}
	return nil
}

// found judges the 2xx of a look-up, whose answer plain has decoded. decodeErr is why it could not.
func (ex *exchange) found(decodeErr error) *Error {
	if !ex.isJSON() || !gjson.ValidBytes(ex.body) || !gjson.ParseBytes(ex.body).IsObject() || gjson.GetBytes(ex.body, "error").Exists() {
		return &Error{Kind: Unavailable, By: ex.by, Err: errors.New("2xx with a body that is not Graph's answer")}
	}
	if decodeErr != nil {
		return &Error{Kind: Unavailable, By: ex.by, Err: fmt.Errorf("2xx with a body that is not Graph's answer: %w", decodeErr)}
	}
	return nil
}

// lacksPermission reports whether the token is readable and holds none of the permissions that the
// request needs.
func (ex *exchange) lacksPermission() bool {
	if ex.by == event.NoLookup {
		return lacksPermission(ex.token())
	}
	claims, err := ReadClaims(ex.token())
	return err == nil && !claims.MayLookUp(ex.by)
}

// valueOf returns the member value of an answer as JSON; "" if it is absent. It fails if the body
// is not an answer of Graph's. Decoding into a struct would hide the first of two values. Names
// match in any case, since some readers accept them so.
func valueOf(body []byte) (value string, err error) {
	if !json.Valid(body) {
		var none json.RawMessage
		return "", json.Unmarshal(body, &none)
	}
	answer := gjson.ParseBytes(body)
	if !answer.IsObject() {
		return "", errors.New("it is not an object")
	}
	answer.ForEach(func(name, member gjson.Result) bool {
		switch strings.ToLower(name.String()) {
		case "error":
			err = errors.New("it holds an error")
		case "value":
			if value != "" {
				err = errors.New("it holds two values")
			}
			value = member.Raw
		}
		return err == nil
	})
	if err != nil {
		return "", err
	}
	switch value {
	case "", "null", "true", "false":
		return value, nil
	}
	return "", errors.New("its value is neither true nor false")
}

// readBody takes code and message from an error answer, and reports whether it looks like Graph's.
func (e *Error) readBody(ex *exchange) bool {
	if !ex.isJSON() {
		return false
	}
	var answer struct {
		Error *struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal(ex.body, &answer) != nil || answer.Error == nil {
		return false
	}
	e.Code, e.Message = cut(answer.Error.Code, 128), cut(answer.Error.Message, 256)
	return true
}

func (ex *exchange) isJSON() bool {
	mediaType, _, _ := strings.Cut(ex.header.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(mediaType), "application/json")
}

// retryAfter reads the Retry-After header: seconds, or a date. A date is compared with the answer's
// own Date, so that a wrong clock here does not matter (RFC 9110 §10.2.3). An unreadable value is
// 0.
func (ex *exchange) retryAfter() time.Duration {
	value := strings.TrimSpace(ex.header.Get("Retry-After"))
	if value == "" {
		return 0
	}
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	until, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(ex.header.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return max(0, until.Sub(now))
}

func cut(s string, limit int) string {
	if len(s) > limit {
		return strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}
