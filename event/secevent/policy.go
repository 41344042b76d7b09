package secevent

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/session-revoker/session-revoker/event"
)

// Rules say which events of one kind sign somebody out: an event to which a rule applies. An empty
// list means that none does.
type Rules []Rule

// Rule is one way in which an event may sign somebody out.
type Rule struct {
	// Type is the type that the event gets here. It must be on the allow-list (events.types).
	Type string
	// When holds the accepted values of claims of the event, in any case. All of its claims must
	// have one of their values. Absent means that the claim is missing or null, and SessionID is the
	// id of the subject's session.
	When map[string][]string
	// Unless is the opposite: the rule does not apply if one of its claims has one of the values.
	Unless map[string][]string
}

const (
	// Absent is the value of a claim that is missing or null, in a Rule.
	Absent = "absent"
	// SessionID is the name by which a Rule refers to the id of the subject's session.
	SessionID = "session_id"
)

// The types that tokens get by default, and NonCompliant, which must be added to the allow-list.
const (
	compromised = "user.compromised"
	offboarded  = "user.offboarded"
	// NonCompliant is a type of its own. Thousands of devices can lose their compliance at once, and
	// the volume guard must not stop the events about compromised users because of that.
	NonCompliant = "device.noncompliant"
)

// The name spaces of the events (https://openid.net/specs/openid-caep-1_0-final.html,
// https://openid.net/specs/openid-risc-1_0-final.html).
const (
	caep = "https://schemas.openid.net/secevent/caep/event-type/"
	risc = "https://schemas.openid.net/secevent/risc/event-type/"
)

// kind is what is known of one kind of event.
type kind struct {
	uri string
	// rules apply by default, and suggested if the operator writes "on". Without suggested, "on" is
	// not accepted.
	rules, suggested Rules
}

// name returns the last part of the URI, which is what files and logs call the event. It has at most
// 64 bytes.
func (k kind) name() string {
	name := k.uri[strings.LastIndexByte(k.uri, '/')+1:]
	return strings.ToValidUTF8(name[:min(len(name), 64)], "")
}

// field returns the path of the event in the claims, for errors. It has no text of the token.
func (k kind) field() string {
	if _, known := kindOf(k.uri); known || isStreamEvent(k.uri) {
		return "events." + k.name()
	}
	return "events"
}

// always are the rules of an event that signs somebody out in any case.
func always(as string) Rules { return Rules{{Type: as}} }

// deliberate are the rules of an event that signs somebody out unless the person did it: Okta,
// Keycloak, and authentik send session-revoked at each ordinary logout, some of them without
// initiating_entity.
var deliberate = Rules{
	{Type: compromised, When: map[string][]string{"initiating_entity": {"admin", "policy", "system"}}},
	// Keycloak says so when an administrator ends all sessions of a person.
	{Type: compromised, When: map[string][]string{SessionID: {"ALL"}}},
}

// kinds are the events of CAEP and RISC. Each name occurs once.
var kinds = []kind{
	{uri: caep + "session-revoked", rules: deliberate, suggested: deliberate},
	{uri: caep + "credential-change", suggested: deliberate[:1]},
	{uri: caep + "device-compliance-change", suggested: Rules{
		{Type: NonCompliant, When: map[string][]string{"current_status": {"not-compliant"}}},
	}},
	{uri: caep + "risk-level-change", suggested: Rules{
		{Type: compromised, When: map[string][]string{"principal": {"USER"}, "current_level": {"HIGH"}}},
	}},
	{uri: caep + "assurance-level-change"},
	{uri: caep + "token-claims-change"},
	{uri: caep + "session-established"},
	{uri: caep + "session-presented"},
	{uri: risc + "account-disabled", rules: always(offboarded), suggested: always(offboarded)},
	{uri: risc + "account-purged", rules: always(offboarded), suggested: always(offboarded)},
	{uri: risc + "sessions-revoked", rules: always(compromised), suggested: always(compromised)},
	{uri: risc + "credential-compromise", rules: always(compromised), suggested: always(compromised)},
	{uri: risc + "account-credential-change-required", suggested: always(compromised)},
	{uri: risc + "account-enabled"},
	{uri: risc + "identifier-changed"},
	{uri: risc + "identifier-recycled"},
	{uri: risc + "recovery-activated"},
	{uri: risc + "recovery-information-changed"},
	{uri: risc + "opt-in"},
	{uri: risc + "opt-out-initiated"},
	{uri: risc + "opt-out-cancelled"}, //nolint:misspell // the specification writes it so
	{uri: risc + "opt-out-effective"},
}

// streamEvents are about the stream itself, and never about a person. Each name occurs in several
// name spaces of older drafts.
var streamEvents = []string{"verification", "stream-updated"}

// kindOf returns what is known of the event with a URI.
func kindOf(uri string) (kind, bool) {
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.uri == uri })
	if i < 0 {
		return kind{uri: uri}, false
	}
	return kinds[i], true
}

// isStreamEvent reports whether the event with a URI is about the stream.
func isStreamEvent(uri string) bool {
	const space = "https://schemas.openid.net/secevent/"
	return strings.HasPrefix(uri, space) && slices.Contains(streamEvents, kind{uri: uri}.name())
}

// rulesFor returns the rules for an event: those of the transmitter, or the default ones. Only the
// events of CAEP and RISC have a short name: another event could end in the same way.
func (t *Transmitter) rulesFor(k kind) Rules {
	if rules, ok := t.Events[k.uri]; ok {
		return rules
	}
	if _, known := kindOf(k.uri); known {
		if rules, ok := t.Events[k.name()]; ok {
			return rules
		}
	}
	return k.rules
}

// choose returns the first rule that applies to an event with these claims, or why none does.
func (r Rules) choose(k kind, claims object, session string) (chosen Rule, why string, ok bool) {
	if len(r) == 0 {
		return Rule{}, quote(k.uri) + " signs nobody out (events of the transmitter)", false
	}
	var missed []string
	for _, rule := range r {
		miss := rule.misses(claims, session)
		if miss == "" {
			return rule, "", true
		}
		missed = append(missed, miss)
	}
	return Rule{}, strings.Join(missed, "; "), false
}

// misses returns why the rule does not apply, or "".
func (r Rule) misses(claims object, session string) string {
	for _, name := range slices.Sorted(maps.Keys(r.When)) {
		if value := valueOf(name, claims, session); !containsFold(r.When[name], value) {
			return fmt.Sprintf("%s is %s, not %s", name, quote(value), strings.Join(r.When[name], " or "))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Unless)) {
		if value := valueOf(name, claims, session); containsFold(r.Unless[name], value) {
			return fmt.Sprintf("%s is %s", name, quote(value))
		}
	}
	return ""
}

// valueOf returns the value of a claim as a Rule compares it. A list or an object has none that a
// rule could name.
func valueOf(name string, claims object, session string) string {
	value := claims[name]
	if name == SessionID {
		value = nil
		if session != "" {
			value = session
		}
	}
	switch v := value.(type) {
	case nil:
		return Absent
	case string:
		return v
	case bool, json.Number:
		return fmt.Sprint(v)
	}
	return "(not a text)"
}

func containsFold(list []string, value string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return strings.EqualFold(s, value) })
}

// readEvent returns the one event of a token, and the event's own claims. RFC 8417, section 2.2 allows
// several URIs that describe the same event. So one may mean something here, beside any that do not,
// and sessions-revoked may stand beside session-revoked, which replaces it.
func (t *Transmitter) readEvent(claims object) (kind, object, *event.Error) {
	const maxURIs = 10
	events, ok := claims["events"].(object)
	switch {
	case !ok:
		return kind{}, nil, invalid("events", "missing, or not an object: this is no Security Event Token")
	case len(events) == 0:
		return kind{}, nil, invalid("events", "without an event")
	case len(events) > maxURIs:
		return kind{}, nil, invalid("events", "%d events; a token holds one", len(events))
	}
	uris := slices.Sorted(maps.Keys(events))
	found := slices.DeleteFunc(slices.Clone(uris), func(uri string) bool { return !t.knows(uri) })
	if slices.Equal(found, []string{caep + "session-revoked", risc + "sessions-revoked"}) {
		found = found[:1]
	}
	switch {
	case len(found) == 0:
		found = uris[:1]
	case len(found) > 1:
		return kind{}, nil, invalid("events", "two different events, %s and %s: a token holds one", quote(found[0]), quote(found[1]))
	}
	k, _ := kindOf(found[0])
	switch own := events[found[0]].(type) {
	case object:
		return k, own, nil
	case nil:
		return k, object{}, nil
	}
	return kind{}, nil, invalid(k.field(), "must be an object")
}

// knows reports whether the event with a URI means something here.
func (t *Transmitter) knows(uri string) bool {
	_, known := kindOf(uri)
	_, configured := t.Events[uri]
	return known || configured || isStreamEvent(uri)
}
