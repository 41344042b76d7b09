package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/session-revoker/session-revoker/cmd/internal/help"
	"github.com/session-revoker/session-revoker/config"
)

// theirMapping is a mapping for a made-up MDM.
const theirMapping = `
mappings:
  - name: acme
    version: 2
    match: body.?vendor.orValue("") == "acme"
    each: list(body.events)
    refuse: [{when: item.kind == "ping", reason: a ping is no incident}]
    types: {of: item.kind, is: {lost: device.lost, left: user.offboarded}}
    user:
      - name: item.?owner
      - mail: item.?mail
    device: {serial: 'item.?serial'}
    reason: item.?why
    time: item.?at
    takes_effect: item.?last_day
    withdrawn: item.?back.orValue(false)
`

// runEvent runs worker event without settings, with text as its standard input.
func runEvent(t *testing.T, text string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, problems bytes.Buffer
	code = run(t.Context(), append([]string{"event"}, args...), nil, strings.NewReader(text), &out, &problems)
	return code, out.String(), problems.String()
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	name = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// A date beyond events.horizon, and an event older than events.max_age, are refused as the worker
// would refuse them.
func TestEventTestJudgesDatesAsTheWorker(t *testing.T) {
	event := func(fields string) string {
		return `{"type":"user.offboarded","userPrincipalName":"ada@contoso.com",` + fields + `}`
	}
	for name, c := range map[string]struct {
		body string
		args []string
		want string
	}{
		"far":        {event(`"effectiveTime":"9000-01-31T00:00:00Z"`), nil, "TooFarAhead"},
		"no horizon": {event(`"effectiveTime":"9000-01-31T00:00:00Z"`), []string{"--events.horizon", "0s"}, "events.horizon is 0"},
		"old":        {event(`"time":"2020-01-31T00:00:00Z"`), []string{"--events.max_age", "24h"}, "TooOld"},
		"old enough": {event(`"time":"2020-01-31T00:00:00Z"`), nil, "would_revoke"},
	} {
		t.Run(name, func(t *testing.T) {
			_, out, _ := runEvent(t, c.body, append([]string{"test", "-o", "json"}, c.args...)...)
			if !strings.Contains(out, c.want) {
				t.Errorf("the output does not say %q:\n%s", c.want, out)
			}
		})
	}
}

func TestEventTestSaysWhatWouldHappen(t *testing.T) {
	file := writeFile(t, "acme.yaml", theirMapping)
	body := `{"vendor":"acme","events":[
		{"kind":"lost","owner":"ada@contoso.com","serial":"C02","why":"left in a taxi","at":"2026-03-01T12:00:00Z"},
		{"kind":"left","owner":"grace@contoso.com","last_day":"` + time.Now().AddDate(0, 1, 0).Format(time.DateOnly) + `"},
		{"kind":"left","owner":"grace@contoso.com","back":true},
		{"kind":"lost","serial":"C02"},
		{"kind":"lost","owner":"breakglass@contoso.com"},
		{"kind":"lost","owner":"x_gmail.com#EXT#@contoso.onmicrosoft.com"},
		{"kind":"lost","mail":"alan@contoso.com"},
		{"kind":"ping"}]}`
	type row struct {
		Index   int
		Mapping string
		Type    string
		User    struct{ ID, UserPrincipalName, LookUp string }
		Device  string
		Time    *string
		Outcome string
		Reason  string
		Field   string
	}
	all := func(args ...string) (rows []row) {
		t.Helper()
		args = append([]string{"test", "--mapping", file, "--guard.protected_users", "breakglass@contoso.com", "-o", "json"}, args...)
		code, out, problems := runEvent(t, body, args...)
		if code != exitFailed || json.Unmarshal([]byte(out), &rows) != nil || len(rows) != 8 {
			t.Fatalf("%d %s %s", code, out, problems)
		}
		return rows
	}
	rows := all()
	for i, want := range []struct{ outcome, user, reason, field string }{
		{"would_revoke", "ada@contoso.com", "left in a taxi", "body.events[0].owner"},
		{"would_schedule", "grace@contoso.com", "", "body.events[1].owner"},
		{"would_withdraw", "grace@contoso.com", "", "body.events[2].owner"},
		{"would_dead_letter", "", `OwnerUnclear: body.events[3].serial: names only the device "C02"`, ""},
		{"would_dead_letter", "breakglass@contoso.com", "ProtectedUser: ", "body.events[4].owner"},
		{"would_dead_letter", "x_gmail.com#EXT#@contoso.onmicrosoft.com", "ExternalUser: ", "body.events[5].owner"},
		{"would_revoke", "alan@contoso.com", "", "body.events[6].mail"},
		{"would_dead_letter", "", "NoTrigger: mapping acme: a ping is no incident", ""},
	} {
		r := rows[i]
		if r.Outcome != want.outcome || r.User.UserPrincipalName != want.user || !strings.HasPrefix(r.Reason, want.reason) ||
			r.Field != want.field || r.Mapping != "acme" || r.Index != i {
			t.Errorf("%d: %+v, want %+v", i, r, want)
		}
	}
	if rows[0].Type != "device.lost" || rows[0].Device != "C02" || rows[0].Time == nil || *rows[0].Time != "2026-03-01T12:00:00Z" {
		t.Errorf("%+v", rows[0])
	}
	rows = all("--events.resolve_devices", "--graph.read_users")
	if rows[3].Outcome != "would_resolve" || rows[3].User.LookUp != "serial-number:C02" {
		t.Errorf("%+v", rows[3])
	}
	if rows[6].Outcome != "would_resolve" || rows[6].User.LookUp != "mail:alan@contoso.com" {
		t.Errorf("%+v", rows[6])
	}
}

func TestEventTestExitCode(t *testing.T) {
	mappings := writeFile(t, "acme.yaml", theirMapping)
	native := writeFile(t, "native.json", `{"type":"device.lost","userPrincipalName":"ada@contoso.com"}`)
	for name, c := range map[string]struct {
		text string
		args []string
		code int
		want string
	}{
		"all act":       {"", []string{native, native}, 0, "would_revoke"},
		"one does not":  {`{"type":"x"}`, []string{native, "-"}, exitFailed, "UnknownEvent"},
		"not an event":  {"hello", nil, exitFailed, "not JSON"},
		"no file":       {"", []string{filepath.Join(t.TempDir(), "nowhere")}, exitUsage, ""},
		"a bad mapping": {"", []string{"--mapping", native, native}, exitUsage, ""},
		"a property": {
			`{"userPrincipalName":"ada@contoso.com"}`,
			[]string{
				"--property", "cloudEvents:specversion=1.0", "--property", "cloudEvents:id=1", "--property", "cloudEvents:source=/x",
				"--property", "cloudEvents:type=device.lost", "--content-type", "application/json", "--subject", "s",
			},
			0, "would_revoke",
		},
		"ndjson": {
			`{"vendor":"acme","events":{"kind":"lost","owner":"ada@contoso.com"}}`,
			[]string{"--mapping", mappings, "-o", "ndjson"},
			0, `{"file":"-",`,
		},
	} {
		code, out, problems := runEvent(t, c.text, append([]string{"test"}, c.args...)...)
		if code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("%s: %d %s %s", name, code, out, problems)
		}
	}
}

func TestEventTestFitsInATerminal(t *testing.T) {
	mappings := writeFile(t, "acme.yaml", theirMapping)
	long := strings.Repeat("long ", 40) + strings.Repeat("x", 200)
	body := `{"vendor":"acme","events":[{"kind":"lost","owner":"ada@contoso.com","why":"` + long + `"},
		{"kind":"lost","owner":"\u001b[2J` + long + `"}]}`
	_, out, _ := runEvent(t, body, "test", "--mapping", mappings)
	for line := range strings.Lines(out) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > help.Width || strings.Contains(line, "\x1b") {
			t.Errorf("%d columns: %q", n, line)
		}
	}
	if !strings.Contains(out, "standard input, event 1: would_dead_letter") {
		t.Error(out)
	}
}

func TestEventExplainListsMappingsInOrder(t *testing.T) {
	mappings := writeFile(t, "acme.yaml", theirMapping)
	code, out, problems := runEvent(t, "", "explain", "--events.presets", "none", "--events.mappings", mappings)
	lines := strings.Split(out, "\n")
	if code != 0 || len(lines) < 7 || !strings.HasPrefix(lines[2], "native ") || !strings.HasPrefix(lines[6], "acme ") ||
		!strings.Contains(lines[6], " 2 ") || !strings.Contains(lines[6], "device.lost") {
		t.Errorf("%d %s %s", code, out, problems)
	}
	if code, _, problems := runEvent(t, "", "explain", "--preset", "nobody"); code != exitUsage || !strings.Contains(problems, "--preset") {
		t.Errorf("%d %s", code, problems)
	}
}

func TestEventTestKnowsTokens(t *testing.T) {
	transmitters := writeFile(t, "transmitters.yaml",
		"transmitters:\n  - {name: idp, issuer: https://idp.example.com, audience: revoker, jwks_url: http://127.0.0.1:1/keys}\n")
	part := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	token := part(`{"alg":"RS256","typ":"secevent+jwt","kid":"1"}`) + "." + part(`{"iss":"https://idp.example.com","aud":"revoker",
		"jti":"1","iat":1,"events":{}}`) + "." + part("signature")
	code, out, problems := runEvent(t, token, "test", "--events.transmitters_file", transmitters)
	if code != exitFailed || !strings.Contains(out, "would_defer") {
		t.Errorf("keys that nobody has yet: %d %s %s", code, out, problems)
	}
	code, out, problems = runEvent(t, token, "test")
	if code != exitFailed || !strings.Contains(out, "would_dead_letter") {
		t.Errorf("without a transmitter: %d %s %s", code, out, problems)
	}
}

func TestDoctorChecksMappings(t *testing.T) {
	good := writeFile(t, "acme.yaml", theirMapping)
	bad := writeFile(t, "bad.yaml", strings.Replace(theirMapping, "item.?owner", "item.actor", 1))
	slip := writeFile(t, "slip.yaml", strings.Replace(theirMapping, "lost: device.lost", "lost: device.losst", 1))
	for file, want := range map[string]check{
		slip: {checkWarn, "mappings", `the mapping acme yields "device.losst"`, "events.types"},
		good: {checkOK, "mappings", "1 file and presets are usable", ""},
		bad:  {checkFail, "mappings", "allow_actor", "docs/mappings.md"},
	} {
		f := &findings{}
		checkMappings(config.Config{Events: config.Events{
			Types: []string{"device.lost", "user.offboarded"}, Presets: []string{"none"}, Mappings: []string{file}, TimeZone: "UTC",
		}}, f)
		if len(f.checks) != 1 || f.checks[0].Name != want.Name || f.checks[0].Status != want.Status ||
			!strings.Contains(f.checks[0].Detail, want.Detail) ||
			!strings.Contains(f.checks[0].Fix, want.Fix) {
			t.Errorf("%s: %+v", file, f.checks)
		}
	}
}
