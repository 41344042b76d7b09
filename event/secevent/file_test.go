package secevent

import (
	"strings"
	"testing"
)

const goodFile = `
transmitters:
  - name: idp
    issuer: https://idp.example.com/
    audience: [https://a.example.com, https://b.example.com]
    jwks_url: https://idp.example.com/keys
    algorithms: RS256
    critical_subject_members: [tenant]
    subjects:
      email: upn
      iss_sub: entra_object_id
      issuers: [https://login.example.com]
    events:
      session-revoked: off
      risk-level-change: on
      account-disabled:
        - type: user.compromised
          when: {reason: hijacking}
        - {type: user.offboarded}
`

func TestFile(t *testing.T) {
	list, err := Load(write(t, "transmitters.yaml", goodFile))
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	got := list[0]
	if got.Name != "idp" || len(got.Audience) != 2 || got.Algorithms[0] != "RS256" || got.Subjects.IssSub != EntraObjectID ||
		got.Events["session-revoked"] == nil || len(got.Events["session-revoked"]) != 0 || len(got.Events["risk-level-change"]) != 1 ||
		got.Events["account-disabled"][0].When["reason"][0] != "hijacking" || got.line != 3 {
		t.Errorf("%+v", got)
	}
}

func TestFileProblemsNameTheLineAndWhatToDo(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"unknown name", "    issuer:", "    isuer:", "line 4: the name isuer not found"},
		{"unknown name in subjects", "      email:", "      mail:", "line 10: the name mail not found"},
		{"unknown name in a rule", "when: {reason", "where: {reason", `line 18: "where" is not known in a rule`},
		{"rule without a type", "- {type: user.offboarded}", "- {unless: {reason: x}}", "line 19: a rule without a type"},
		{"empty conditions", "when: {reason: hijacking}", "when: {}", "line 18: no conditions"},
		{"no values", "when: {reason: hijacking}", "when: {reason: []}", "line 18: reason has no values"},
		{"rules are a word", "session-revoked: off", "session-revoked: maybe", "line 14: rules are on, off, or a list"},
		{"unknown event", "session-revoked: off", "session-revokd: off", `line 3: transmitter "idp": events: "session-revokd" is no event`},
		{"event that can never act", "session-revoked: off", "account-enabled: on", `"account-enabled" has no suggested rules`},
		{
			"stream event", "session-revoked: off", "https://schemas.openid.net/secevent/ssf/event-type/verification: off",
			"about the stream",
		},
		{"twice", "    audience:", "    name: x\n    audience:", "line 5: mapping key \"name\" already defined"},
		{"two documents", "    algorithms: RS256", "---", "more than one YAML document"},
		{"no transmitters", goodFile, "transmitters: []", "no transmitters"},
		{"empty", goodFile, "", "empty"},
		{"no YAML", goodFile, "{", ""},
		{"a list", goodFile, "- name: x", "line 1: cannot unmarshal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(goodFile, c.old, c.new, 1)
			_, err := Load(write(t, "transmitters.yaml", text))
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "transmitters.yaml: ") ||
				strings.Contains(err.Error(), "secevent.") {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	if _, err := Load("/does/not/exist"); err == nil {
		t.Error("a file that does not exist")
	}
}

func TestTransmittersAreValidated(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Transmitter)
		want   string
	}{
		{"name", func(t *Transmitter) { t.Name = "my idp" }, "name: "},
		{"issuer", func(t *Transmitter) { t.Issuer = "" }, "issuer: required"},
		{"audience", func(t *Transmitter) { t.Audience = nil }, "audience: required"},
		{"empty audience", func(t *Transmitter) { t.Audience = texts{""} }, "audience: required"},
		{"no keys", func(t *Transmitter) { t.JWKSURL = "" }, "jwks_url or jwks_file: one is required"},
		{"both", func(t *Transmitter) { t.JWKSFile = "keys.json" }, "both set"},
		{"http", func(t *Transmitter) { t.JWKSURL = "http://idp.example.com/keys" }, "use https"},
		{"password", func(t *Transmitter) { t.JWKSURL = "https://u:p@idp.example.com/keys" }, "not a plain URL"},
		{"no URL", func(t *Transmitter) { t.JWKSURL = "idp.example.com/keys" }, "not a plain URL"},
		{"file URL", func(t *Transmitter) { t.JWKSURL = "file://localhost/etc/passwd" }, "must begin with https"},
		{"secret algorithm", func(t *Transmitter) { t.Algorithms = texts{"HS256"} }, `"HS256" is none of`},
		{"email", func(t *Transmitter) { t.Subjects.Email = EntraObjectID }, "subjects.email"},
		{"opaque", func(t *Transmitter) { t.Subjects.Opaque = "guid" }, "subjects.opaque"},
		{"mail without look-ups", func(t *Transmitter) { t.Subjects.Opaque = Mail }, "graph.read_users"},
		{"device", func(t *Transmitter) { t.Subjects.Device = UPN }, "subjects.device"},
		{
			"type", func(t *Transmitter) { t.Events = map[string]Rules{"session-revoked": {{Type: "user.compromized"}}} },
			"add it to events.types",
		},
		{"file", func(t *Transmitter) { t.JWKSURL, t.JWKSFile = "", "/does/not/exist" }, "jwks_file: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad := idp()
			c.change(&bad)
			if _, err := New(Config{Transmitters: []Transmitter{bad}}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	_, err := New(Config{Transmitters: []Transmitter{idp(), idp()}})
	if err == nil || !strings.Contains(err.Error(), "another transmitter's") {
		t.Error(err)
	}
	local := idp()
	local.JWKSURL = "http://127.0.0.1:8080/keys"
	if _, err := New(Config{Transmitters: []Transmitter{local}}); err != nil {
		t.Error(err)
	}
}
