package secevent

import (
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/session-revoker/session-revoker/event"
)

// An ordinary logout is no incident: Okta, Keycloak, and authentik send session-revoked at each one.
func TestPolicyOrdinaryLogoutSignsNobodyOut(t *testing.T) {
	v := fromIDP(t, func(_ *Config, t *Transmitter) { t.Subjects.IssSub = UPN })
	keycloak := func(session string) map[string]any {
		return map[string]any{"format": "complex", "user": issSub(issuer, "ada@contoso.com"), "session": opaque(session)}
	}
	for _, c := range []struct {
		name    string
		own     map[string]any
		subject any // sub_id, or nil
		want    bool
	}{
		{
			"Okta",
			map[string]any{"subject": member("user", issSub(issuer, "ada@contoso.com")), "event_timestamp": 1772366300643},
			nil, false,
		},
		{"Keycloak", member("initiating_entity", "user"), keycloak("3f7c"), false},
		{"Keycloak's legacy form", map[string]any{
			"subject":           map[string]any{"user": issSub(issuer, "ada@contoso.com"), "session": opaque("3f7c")},
			"initiating_entity": "user", "reason_admin": nil, "event_timestamp": nil,
		}, nil, false},
		{"authentik", map[string]any{
			"subject":           map[string]any{"session": opaque("9e1f"), "user": email("ada@contoso.com")},
			"initiating_entity": "user",
		}, nil, false},
		{"unknown initiator", member("initiating_entity", "gremlin"), email("ada@contoso.com"), false},
		{"initiator as a list", member("initiating_entity", []any{"admin"}), email("ada@contoso.com"), false},
		{"Keycloak, all sessions by an administrator", member("initiating_entity", "user"), keycloak("ALL"), true},
		{"administrator", member("initiating_entity", "admin"), email("ada@contoso.com"), true},
		{"policy", member("initiating_entity", "policy"), email("ada@contoso.com"), true},
		{"system in capitals", member("initiating_entity", "SYSTEM"), email("ada@contoso.com"), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			item := decode(t, v, signed(t, claims(caep+"session-revoked", c.own, member("sub_id", c.subject))))
			if c.want {
				wantUser(t, item, "user.compromised", "ada@contoso.com")
				return
			}
			wantRefused(t, item, event.NoTrigger, "initiating_entity is ")
		})
	}
}

// sample returns claims to which the suggested rules of each event apply.
var sample = map[string]any{
	"initiating_entity": "admin", "current_status": "not-compliant", "previous_status": "compliant", "current_level": "HIGH",
	"principal": "USER", "credential_type": "password", "change_type": "revoke",
}

func TestPolicyDefaults(t *testing.T) {
	v := fromIDP(t, nil)
	acts := map[string]string{
		"session-revoked": "user.compromised", "sessions-revoked": "user.compromised", "credential-compromise": "user.compromised",
		"account-disabled": "user.offboarded", "account-purged": "user.offboarded",
	}
	for _, k := range kinds {
		item := decode(t, v, signed(t, claims(k.uri, sample, nil)))
		if want, ok := acts[k.name()]; ok {
			wantUser(t, item, want, "ada@contoso.com")
			continue
		}
		wantRefused(t, item, event.NoTrigger, "signs nobody out")
		if item.Event.Type != k.name() || item.Event.ID != "token-1" {
			t.Errorf("%+v", item.Event)
		}
	}
	for _, uri := range []string{
		"https://schemas.openid.net/secevent/ssf/event-type/verification",
		"https://schemas.openid.net/secevent/ssf/event-type/stream-updated",
		risc + "verification", "https://schemas.openid.net/secevent/sse/event-type/stream-updated",
	} {
		wantRefused(t, decode(t, v, signed(t, claims(uri, member("state", "x"), member("sub_id", opaque("stream"))))),
			event.NoTrigger, "the stream")
	}
	for _, uri := range []string{
		"https://vendor.example.com/event/session-revoked", "http://schemas.openid.net/event/backchannel-logout", "entityUpdated", "x/", "",
	} {
		wantRefused(t, decode(t, v, signed(t, claims(uri, sample, nil))), event.NoTrigger, "signs nobody out")
	}
}

// withEvents returns a Verifier for idp with rules in the form of the file.
func withEvents(t *testing.T, rules string) *Verifier {
	t.Helper()
	file := write(t, "transmitters.yaml", `
transmitters:
  - name: idp
    issuer: `+issuer+`
    audience: `+audience+`
    jwks_url: `+jwksURL+`
    events:
`+rules)
	list, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return fetched(t, Config{Transmitters: list, Types: []string{"user.compromised", "user.offboarded", NonCompliant}},
		publicKey("rsa", rsaKey()))
}

func TestPolicySuggestedRules(t *testing.T) {
	var on strings.Builder
	for _, k := range kinds {
		if k.suggested != nil {
			fmt.Fprintf(&on, "      %s: on\n", k.name())
		}
	}
	v := withEvents(t, on.String())
	subject := member("sub_id", map[string]any{"format": "complex", "user": email("ada@contoso.com"), "device": opaque("laptop-7")})
	decodeWith := func(uri, name string, value any) event.Item {
		own := map[string]any{}
		maps.Copy(own, sample)
		if name != "" {
			own[name] = value
		}
		return decode(t, v, signed(t, claims(uri, own, subject)))
	}
	for uri, kind := range map[string]string{
		caep + "session-revoked": "user.compromised", caep + "credential-change": "user.compromised",
		caep + "device-compliance-change": NonCompliant, caep + "risk-level-change": "user.compromised",
		risc + "account-credential-change-required": "user.compromised", risc + "account-disabled": "user.offboarded",
	} {
		wantUser(t, decodeWith(uri, "", nil), kind, "ada@contoso.com")
	}
	for _, c := range []struct {
		uri, name string
		value     any
	}{
		{caep + "device-compliance-change", "current_status", "compliant"},
		{caep + "device-compliance-change", "current_status", nil},
		{caep + "risk-level-change", "current_level", "LOW"}, // the risk falls
		{caep + "risk-level-change", "principal", "DEVICE"},
		{caep + "credential-change", "initiating_entity", "user"},
		{caep + "session-revoked", "initiating_entity", "user"},
	} {
		wantRefused(t, decodeWith(c.uri, c.name, c.value), event.NoTrigger, c.name+" is ")
	}
	wantRefused(t, decode(t, v, signed(t, claims(caep+"device-compliance-change", sample, member("sub_id",
		map[string]any{"format": "complex", "device": opaque("laptop-7")})))), event.OwnerUnclear, "only a device")
	wantRefused(t, decode(t, v, signed(t, claims(caep+"device-compliance-change", sample, member("sub_id", opaque("laptop-7"))))),
		event.OwnerUnclear, "may be the device's")
}

func TestPolicyRulesOfTheFile(t *testing.T) {
	v := withEvents(t, `
      session-revoked: off
      account-disabled:
        - type: user.compromised
          when: {reason: [hijacking, bulk-account]}
        - type: user.offboarded
          unless: {reason: disabled-by-bruteforce}
      credential-change:
        - type: user.compromised
          when: {change_type: revoke, initiating_entity: [admin, absent]}
      https://vendor.example.com/event/stolen:
        - type: user.compromised
          when: {confirmed: "true", score: "7"}
`)
	for _, c := range []struct {
		uri  string
		own  map[string]any
		want string // or "" for no trigger
	}{
		{caep + "session-revoked", member("initiating_entity", "admin"), ""},
		{risc + "account-disabled", member("reason", "Hijacking"), "user.compromised"},
		{risc + "account-disabled", member("reason", "disabled-by-admin"), "user.offboarded"},
		{risc + "account-disabled", nil, "user.offboarded"},
		{risc + "account-disabled", member("reason", "disabled-by-bruteforce"), ""}, // anybody can cause it
		{caep + "credential-change", member("change_type", "revoke"), "user.compromised"},
		{caep + "credential-change", map[string]any{"change_type": "revoke", "initiating_entity": "admin"}, "user.compromised"},
		{caep + "credential-change", map[string]any{"change_type": "revoke", "initiating_entity": "user"}, ""},
		{caep + "credential-change", map[string]any{"change_type": "create", "initiating_entity": "admin"}, ""},
		{"https://vendor.example.com/event/stolen", map[string]any{"confirmed": true, "score": 7}, "user.compromised"},
		{"https://vendor.example.com/event/stolen", map[string]any{"confirmed": false, "score": 7}, ""},
		{"https://other.example.com/event/stolen", map[string]any{"confirmed": true, "score": 7}, ""},
		{"https://other.example.com/event/credential-change", member("change_type", "revoke"), ""}, // another event of this name
	} {
		item := decode(t, v, signed(t, claims(c.uri, c.own, nil)))
		if c.want == "" {
			wantRefused(t, item, event.NoTrigger, "")
		} else {
			wantUser(t, item, c.want, "ada@contoso.com")
		}
	}
}

// RFC 8417 allows several URIs for one event.
func TestPolicyAcceptsSeveralURIsOnlyAsAliases(t *testing.T) {
	v := fromIDP(t, nil)
	revoked := caep + "session-revoked"
	admin := member("initiating_entity", "admin")
	extended := disabled(member("events", map[string]any{revoked: admin, "https://vendor.example.com/event/ext": member("x", 1)}))
	wantUser(t, decode(t, v, signed(t, extended)), "user.compromised", "ada@contoso.com")
	both := disabled(member("events", map[string]any{revoked: admin, risc + "sessions-revoked": nil}))
	wantUser(t, decode(t, v, signed(t, both)), "user.compromised", "ada@contoso.com")
	logout := disabled(member("events", map[string]any{revoked: nil, risc + "sessions-revoked": nil}))
	wantRefused(t, decode(t, v, signed(t, logout)), event.NoTrigger, "initiating_entity")
	verification := disabled(member("events", map[string]any{revoked: admin, risc + "verification": nil}))
	wantRefused(t, decode(t, v, signed(t, verification)), event.Invalid, "two different events")
	many := map[string]any{}
	for i := range 11 {
		many[fmt.Sprintf("https://vendor.example.com/event/%d", i)] = nil
	}
	wantRefused(t, decode(t, v, signed(t, disabled(member("events", many)))), event.Invalid, "11 events")
}

func TestPolicyTypesMustBeOnTheAllowList(t *testing.T) {
	v := fromIDP(t, func(c *Config, _ *Transmitter) { c.Types = []string{"user.compromised"} })
	wantRefused(t, decode(t, v, signed(t, disabled(nil))), event.UnknownType, "events.types")
	open := fromIDP(t, func(c *Config, _ *Transmitter) { c.Types, c.AnyType = []string{"user.compromised"}, true })
	wantUser(t, decode(t, open, signed(t, disabled(nil))), "user.offboarded", "ada@contoso.com")
}

// The page must name each event and what happens by default.
func TestPolicyIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/producers/shared-signals.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds {
		what := "off"
		switch {
		case len(k.rules) > 0:
			what = "`" + k.rules[0].Type + "`"
		case len(k.suggested) > 0:
			what = "off; `on`: `" + k.suggested[0].Type + "`"
		}
		row := fmt.Sprintf("| `%s` | %s", k.name(), what)
		if !strings.Contains(string(page), row) {
			t.Errorf("no row begins with %s", row)
		}
	}
}
