package mapping_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/event/mapping"
)

// newDecoder returns a decoder with the mappings of a YAML text and no presets.
func newDecoder(t testing.TB, text string, change ...func(*mapping.Config)) *mapping.Decoder {
	t.Helper()
	cfg := mapping.Config{Files: []mapping.File{{Name: "test.yaml", Text: []byte(text)}}, Presets: []string{mapping.NoPresets}}
	for _, c := range change {
		c(&cfg)
	}
	d, err := mapping.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// decode returns the only event of a message.
func decode(t testing.TB, d *mapping.Decoder, m event.Message) event.Item {
	t.Helper()
	items, err := d.Decode(m)
	if err != nil {
		return event.Item{Err: err}
	}
	if len(items) != 1 {
		t.Fatalf("%d events, want 1", len(items))
	}
	return items[0]
}

// hook is a mapping for a body with a list of events, in the manner of Okta's hook.
const hook = `
mappings:
  - name: hook
    match: body.?eventType.orValue("") == "com.example.hook"
    each: body.data.events
    refuse:
      - when: item.outcome.result != "SUCCESS"
        reason: the outcome is not SUCCESS
    types: {of: item.eventType, is: {user.suspend: user.compromised, user.deactivate: user.offboarded}}
    user:
      - name: item.target.filter(t, t.type == "User").map(t, t.alternateId)
    device: {name: 'item.?client.?device'}
    reason: item.?displayMessage
    id: item.uuid
    source: body.source
    time: item.published
`

const hookBody = `{"eventType":"com.example.hook","source":"https://example.com/hooks/1","data":{"events":[
	{"uuid":"1","eventType":"user.suspend","published":"2026-03-01T12:00:00.862Z","displayMessage":"Suspend  user",
	 "actor":{"alternateId":"admin@contoso.com"},"outcome":{"result":"SUCCESS"},"client":{"device":"Computer"},
	 "target":[{"type":"AppInstance","alternateId":"x"},{"type":"User","alternateId":"ada@contoso.com"}]},
	{"uuid":"2","eventType":"user.session.end","outcome":{"result":"SUCCESS"},"target":[{"type":"User","alternateId":"ada@contoso.com"}]},
	{"uuid":"3","eventType":"user.suspend","outcome":{"result":"FAILURE"},"target":[{"type":"User","alternateId":"ada@contoso.com"}]},
	{"uuid":"4","eventType":"user.suspend","target":[{"type":"User","alternateId":"ada@contoso.com"}]},
	{"uuid":"5","eventType":"user.deactivate","outcome":{"result":"SUCCESS"},
	 "target":[{"type":"User","alternateId":"a@contoso.com"},{"type":"User","alternateId":"b@contoso.com"}]},
	{"uuid":"6","eventType":"user.deactivate","outcome":{"result":"SUCCESS"},"target":[]}
]}}`

func TestEachEventOfAMessageIsDecidedOnItsOwn(t *testing.T) {
	items, err := newDecoder(t, hook).Decode(event.Message{Body: []byte(hookBody)})
	if err != nil || len(items) != 6 {
		t.Fatalf("%v %v", items, err)
	}
	e := items[0].Event
	if items[0].Err != nil || e.User.UPN() != "ada@contoso.com" || e.Type != "user.compromised" || e.Urgency != 2 || e.Mapping != "hook" ||
		e.Field != "body.data.events[0].target[1].alternateId" || e.Device != "Computer" || e.Reason != "Suspend user" || e.ID != "1" ||
		e.Source != "https://example.com/hooks/1" || e.Time.UnixMilli() != 1772366400862 {
		t.Errorf("%+v", items[0])
	}
	for i, want := range []struct {
		kind event.Kind
		text string
	}{
		1: {event.NoTrigger, `body.data.events[1].eventType: "user.session.end" is no trigger of the mapping hook`},
		2: {event.NoTrigger, "the outcome is not SUCCESS"},
		3: {event.Invalid, "no such key: outcome"},
		4: {event.OwnerUnclear, "names 2 people"},
		5: {event.OwnerUnclear, "neither a user"},
	} {
		if want.text == "" {
			continue
		}
		problem, ok := errors.AsType[*event.Error](items[i].Err)
		if !ok || problem.Kind != want.kind || !strings.Contains(problem.Error(), want.text) || items[i].Index != i ||
			!items[i].Event.User.IsZero() {
			t.Errorf("%d: %+v, want %q", i, items[i], want.text)
		}
	}
}

// problemOf returns the error of an item.
func problemOf(t testing.TB, item event.Item) *event.Error {
	t.Helper()
	problem, ok := errors.AsType[*event.Error](item.Err)
	if !ok {
		t.Fatalf("%+v: want an *event.Error", item)
	}
	return problem
}

// simple is a mapping for a flat body.
const simple = `
mappings:
  - name: simple
    match: has(body.kind)
    type: '"device.lost"'
    user:
      - id: body.?user.?id
      - name: body.?user.?name
      - name: body.?login
      - mail: body.?mail
    device: {managed_id: 'body.?intune', entra_id: 'body.?entra', serial: 'body.?serial', name: 'body.?device'}
    time: body.?at
    withdrawn: body.?rehired.orValue(false)
    takes_effect: body.?last_day
    time_format: [rfc3339, us-date]
    time_zone: America/Chicago
`

const (
	anID    = "588d7c15-8565-448e-bc2d-57f2b7c4c58a"
	otherID = "6c4217e6-bc89-4e7f-a04c-129f04866de4"
)

func TestUserIsTheFirstCandidateWithAValue(t *testing.T) {
	d := newDecoder(t, simple)
	for body, want := range map[string][3]string{ // id, name, field
		`{"kind":1,"user":{"id":"` + anID + `"}}`:                              {anID, "", "body.user.id"},
		`{"kind":1,"user":{"id":"` + anID + `","name":"ada@contoso.com"}}`:     {anID, "ada@contoso.com", "body.user.id"},
		`{"kind":1,"user":{"id":null,"name":""},"login":"grace@contoso.com"}`:  {"", "grace@contoso.com", "body.login"},
		`{"kind":1,"user":{"name":"ada@contoso.com"},"login":"b@contoso.com"}`: {"", "ada@contoso.com", "body.user.name"},
		`{"kind":1,"user":{"name":" ada@contoso.com "},"mail":"x@y.example"}`:  {"", "ada@contoso.com", "body.user.name"},
		`{"kind":1,"mail":"ada@contoso.com"}`:                                  {"", "ada@contoso.com", "body.mail"},
	} {
		item := decode(t, d, event.Message{Body: []byte(body)})
		if u := item.Event.User; item.Err != nil || [3]string{u.ID(), u.UPN(), item.Event.Field} != want {
			t.Errorf("%s: %+v", body, item)
		}
	}
}

func TestUserThatIsUnusableIsRefusedAndNotReplacedByTheNextCandidate(t *testing.T) {
	d := newDecoder(t, simple)
	for body, want := range map[string]string{
		`{"kind":1,"user":{"name":"John Doe"},"login":"grace@contoso.com"}`: "body.user.name",
		`{"kind":1,"user":{"id":"4711","name":"ada@contoso.com"}}`:          "body.user.id",
		`{"kind":1,"user":{"id":"` + anID + `","name":"x"}}`:                "body.user.name",
		`{"kind":1,"user":{"name":["ada@contoso.com",{}]}}`:                 "list of strings",
		`{"kind":1,"user":{"name":17}}`:                                     "must be a string",
		`{"kind":1,"mail":"ada@contoso.com/../x"}`:                          "body.mail",
	} {
		item := decode(t, d, event.Message{Body: []byte(body)})
		if p := problemOf(t, item); p.Kind != event.Invalid || !strings.Contains(p.Error(), want) || !item.Event.User.IsZero() ||
			item.Event.Field != "" {
			t.Errorf("%s: %+v", body, item)
		}
	}
}

func TestMailIsLookedUpIfUsersMayBeRead(t *testing.T) {
	d := newDecoder(t, simple, func(c *mapping.Config) { c.LookUpMail = true })
	item := decode(t, d, event.Message{Body: []byte(`{"kind":1,"mail":"ada@contoso.com"}`)})
	if by, value := item.Event.User.Lookup(); item.Err != nil || by != event.ByMail || value != "ada@contoso.com" {
		t.Errorf("%+v", item)
	}
	item = decode(t, d, event.Message{Body: []byte(`{"kind":1,"login":"ada@contoso.com","mail":"x@y.example"}`)})
	if by, _ := item.Event.User.Lookup(); by != event.NoLookup || item.Event.User.UPN() != "ada@contoso.com" {
		t.Errorf("a name that is known is not looked up: %+v", item)
	}
}

func TestDeviceWithoutAUserIsResolvedOnlyIfConfigured(t *testing.T) {
	resolving := newDecoder(t, simple, func(c *mapping.Config) { c.ResolveDevices = true })
	for body, want := range map[string]struct {
		by    event.Lookup
		value string
	}{
		`{"kind":1,"intune":"` + anID + `","entra":"` + otherID + `","serial":"C02"}`: {event.ByManagedDevice, anID},
		`{"kind":1,"intune":"17","entra":"` + otherID + `","serial":"C02"}`:           {event.ByEntraDevice, otherID},
		`{"kind":1,"serial":"C02"}`: {event.BySerialNumber, "C02"},
	} {
		item := decode(t, resolving, event.Message{Body: []byte(body)})
		if by, value := item.Event.User.Lookup(); item.Err != nil || by != want.by || value != want.value {
			t.Errorf("%s: %+v", body, item)
		}
		p := problemOf(t, decode(t, newDecoder(t, simple), event.Message{Body: []byte(body)}))
		if p.Kind != event.OwnerUnclear || !strings.Contains(p.Problem, "events.resolve_devices") {
			t.Errorf("%s: %v", body, p)
		}
	}
	for _, body := range []string{
		`{"kind":1,"device":"Ada's phone"}`, `{"kind":1,"intune":"17"}`, `{"kind":1,"serial":"a'b"}`, `{"kind":1}`,
	} {
		if p := problemOf(t, decode(t, resolving, event.Message{Body: []byte(body)})); p.Kind != event.OwnerUnclear {
			t.Errorf("%s: %v", body, p)
		}
	}
	item := decode(t, resolving, event.Message{Body: []byte(`{"kind":1,"login":"ada@contoso.com","serial":"C02"}`)})
	if item.Event.User.UPN() != "ada@contoso.com" || item.Event.Device != "C02" {
		t.Errorf("a user who is named comes before the owner of the device: %+v", item)
	}
}

func TestNameGivenTwiceIsRefused(t *testing.T) {
	d := newDecoder(t, simple)
	for _, body := range []string{
		`{"kind":1,"login":"ada@contoso.com","login":"eve@contoso.com"}`,
		`{"kind":1,"login":"ada@contoso.com","Login":"eve@contoso.com"}`,
		`{"kind":1,"user":{"name":"ada@contoso.com","NAME":"eve@contoso.com"}}`,
		`{"kind":1,"login":null,"login":"eve@contoso.com"}`,
		`{"kind":1,"user":{"name":"ada@contoso.com"},"USER":{"name":"eve@contoso.com"}}`,
		`{"kind":1,"KIND":2,"login":"ada@contoso.com"}`, // the condition reads it
	} {
		p := problemOf(t, decode(t, d, event.Message{Body: []byte(body)}))
		if p.Kind != event.Invalid || !strings.Contains(p.Problem, "given twice") {
			t.Errorf("%s: %v", body, p)
		}
	}
	item := decode(t, d, event.Message{Body: []byte(`{"kind":1,"login":"ada@contoso.com","other":1,"other":2}`)})
	if item.Err != nil {
		t.Errorf("a name that nothing reads: %v", item.Err)
	}
}

func TestNameGivenTwiceIsFoundAmongMany(t *testing.T) {
	var members strings.Builder
	for i := range 100 {
		fmt.Fprintf(&members, `"field%d":%d,`, i, i)
	}
	d := newDecoder(t, simple)
	if item := decode(t, d, event.Message{Body: []byte(`{` + members.String() + `"kind":1,"login":"ada@contoso.com"}`)}); item.Err != nil {
		t.Error(item.Err)
	}
	p := problemOf(t, decode(t, d, event.Message{
		Body: []byte(`{` + members.String() + `"kind":1,"login":"ada@contoso.com","LoGin":"eve@contoso.com"}`),
	}))
	if !strings.Contains(p.Problem, "given twice") {
		t.Error(p)
	}
}

func TestConditionThatCannotBeDecidedNeverSignsAnybodyOut(t *testing.T) {
	d := newDecoder(t, `
mappings:
  - name: m
    match: body.kind == "x"
    refuse: [{when: body.state != "done", reason: it is not done}]
    type: '"device.lost"'
    user: [{name: body.login}]
    withdrawn: body.back
`)
	for body, want := range map[string]event.Kind{
		`{"kind":"x","login":"ada@contoso.com","state":"done","back":false}`:     -1,
		`{"kind":"x","login":"ada@contoso.com","state":"begun","back":false}`:    event.NoTrigger,
		`{"kind":"x","login":"ada@contoso.com","back":false}`:                    event.Invalid,
		`{"kind":"x","login":"ada@contoso.com","state":"done"}`:                  event.Invalid,
		`{"kind":"x","login":"ada@contoso.com","state":"done","back":"perhaps"}`: event.Invalid,
	} {
		item := decode(t, d, event.Message{Body: []byte(body)})
		if want < 0 && item.Err != nil || want >= 0 && problemOf(t, item).Kind != want {
			t.Errorf("%s: %+v", body, item)
		}
	}
	// A condition of match that cannot be decided selects nothing.
	if p := problemOf(t, decode(t, d, event.Message{Body: []byte(`{"sort":"x"}`)})); p.Kind != event.UnknownType {
		t.Error(p)
	}
}

func TestTimesOfAMapping(t *testing.T) {
	d := newDecoder(t, simple)
	at := func(body string) event.Event {
		t.Helper()
		item := decode(t, d, event.Message{Body: []byte(body)})
		if item.Err != nil {
			t.Fatal(item.Err)
		}
		return item.Event
	}
	e := at(`{"kind":1,"login":"a@contoso.com","at":"2026-03-01T12:00:00.25+01:00"}`)
	if !e.Time.Equal(time.Date(2026, 3, 1, 11, 0, 0, 250e6, time.UTC)) {
		t.Error(e.Time)
	}
	if e := at(`{"kind":1,"login":"a@contoso.com","at":"yesterday"}`); !e.Time.IsZero() || !e.TimeUnread {
		t.Error("a time that is unreadable is left out and noted, and the event acts:", e.Time, e.TimeUnread)
	}
	for _, none := range []string{`{"kind":1,"login":"a@contoso.com","at":" "}`, `{"kind":1,"login":"a@contoso.com"}`} {
		if e := at(none); e.TimeUnread {
			t.Error("no time is not an unreadable one:", none)
		}
	}
	// The last day of an employment ends at its end, in the mapping's zone.
	if e := at(`{"kind":1,"login":"a@contoso.com","last_day":"07/31/2026"}`); e.TakesEffect.Format(time.RFC3339) != "2026-08-01T05:00:00Z" {
		t.Error(e.TakesEffect)
	}
	if e := at(`{"kind":1,"login":"a@contoso.com","last_day":"","rehired":true}`); !e.TakesEffect.IsZero() || !e.Withdrawn {
		t.Errorf("%+v", e)
	}
	p := problemOf(t, decode(t, d, event.Message{Body: []byte(`{"kind":1,"login":"a@contoso.com","last_day":"31.07.2026"}`)}))
	if p.Kind != event.Invalid || !strings.Contains(p.Error(), "body.last_day") {
		t.Errorf("a date that decides when to act must be readable: %v", p)
	}
	midnight := newDecoder(t, strings.Replace(simple, "time_zone:", "end_of_day: false\n    time_zone:", 1))
	item := decode(t, midnight, event.Message{Body: []byte(`{"kind":1,"login":"a@contoso.com","last_day":"07/31/2026"}`)})
	if item.Event.TakesEffect.Format(time.RFC3339) != "2026-07-31T05:00:00Z" {
		t.Error(item.Event.TakesEffect)
	}
}

func TestNativeMessagesAreNeverOfferedToMappings(t *testing.T) {
	all := newDecoder(t, `
mappings:
  - {name: greedy, match: 'true', type: '"user.compromised"', user: [{name: '"eve@contoso.com"'}]}
`)
	for _, body := range []string{
		`{"type":"device.lost","userPrincipalName":"ada@contoso.com"}`,
		`{"type":"device.lost","userPrincipalName":"not a name"}`,
		`{"type":"device.lost"}`,
		`{"specversion":"1.0","id":"1","source":"/x","type":"device.lost","data":{}}`,
		`[{"type":"unknown"},{"type":"device.lost","userPrincipalName":"ada@contoso.com"}]`,
	} {
		items, err := all.Decode(event.Message{Body: []byte(body)})
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range items {
			if item.Event.Mapping != event.Native || item.Event.User.UPN() == "eve@contoso.com" {
				t.Errorf("%s: %+v", body, item)
			}
		}
	}
	for _, body := range []string{`{"type":"unknown","userPrincipalName":"ada@contoso.com"}`, `[{"type":"unknown"}]`, `{}`} {
		if item := decode(t, all, event.Message{Body: []byte(body)}); item.Event.Mapping != "greedy" {
			t.Errorf("%s: %+v", body, item)
		}
	}
}

func TestWhatNoMappingUnderstandsKeepsItsErrorAndSaysWhatWasTried(t *testing.T) {
	d := newDecoder(t, simple)
	for body, want := range map[string]struct {
		kind event.Kind
		text string
	}{
		`{"type":"device.enrolled"}`: {
			event.UnknownType,
			`type: "device.enrolled" is not on the allow-list (events.types), and no mapping matches (simple)`,
		},
		`<a>x</a>`: {event.Invalid, "not JSON"},
		"\xff{}":   {event.Invalid, "not valid UTF-8"},
		`[]`:       {event.Invalid, "an array without events"},
	} {
		p := problemOf(t, decode(t, d, event.Message{Body: []byte(body)}))
		if p.Kind != want.kind || !strings.Contains(p.Error(), want.text) || !strings.Contains(p.Error(), "(simple)") {
			t.Errorf("%q: %v", body, p)
		}
	}
}

func TestFirstMappingThatMatchesDecodes(t *testing.T) {
	text := func(name, user string) []byte {
		return []byte(`mappings: [{name: ` + name + `, match: has(body.kind), type: '"device.lost"', user: [{name: '"` + user + `"'}]}]`)
	}
	d, err := mapping.New(mapping.Config{
		Trials: []mapping.File{{Name: "trial", Text: text("a", "trial@contoso.com")}},
		Files:  []mapping.File{{Name: "one", Text: text("a", "one@contoso.com")}, {Name: "two", Text: text("b", "two@contoso.com")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if item := decode(t, d, event.Message{Body: []byte(`{"kind":1}`)}); item.Event.User.UPN() != "trial@contoso.com" {
		t.Errorf("%+v", item)
	}
	if all := d.Mappings(); len(all) < 2 || all[0].File != "trial" || all[1].Name != "b" || all[0].Types[0] != "device.lost" {
		t.Errorf("a trial replaces the mapping of its name: %+v", all)
	}
}

func TestBinaryAndStructuredCloudEventsLookAlike(t *testing.T) {
	d := newDecoder(t, `
mappings:
  - name: ce
    match: body.type == "com.example.lost" && body.specversion == "1.0"
    type: '"device.lost"'
    user: [{name: body.data.owner}]
    id: body.id
`)
	data := `{"owner":"ada@contoso.com"}`
	for name, m := range map[string]event.Message{
		"binary": {Body: []byte(data), Properties: map[string]any{
			"cloudEvents:specversion": "1.0", "cloudEvents_id": "1", "cloudEvents:source": "/x", "cloudEvents:type": "com.example.lost",
		}},
		"structured": {Body: []byte(`{"specversion":"1.0","id":"1","source":"/x","type":"com.example.lost","data":` + data + `}`)},
		"base64": {Body: []byte(`{"specversion":"1.0","id":"1","source":"/x","type":"com.example.lost","data_base64":"` +
			base64.StdEncoding.EncodeToString([]byte(data)) + `"}`)},
	} {
		item := decode(t, d, m)
		if item.Err != nil || item.Event.User.UPN() != "ada@contoso.com" || item.Event.Field != "body.data.owner" || item.Event.ID != "1" {
			t.Errorf("%s: %+v", name, item)
		}
	}
	p := problemOf(t, decode(t, d, event.Message{
		Body: []byte(`{"specversion":"1.0","type":"com.example.lost",
			"data":{"owner":"ada@contoso.com"},"Data":{"owner":"eve@contoso.com"}}`),
	}))
	if !strings.Contains(p.Problem, "given twice") {
		t.Error(p)
	}
}

func TestAllowedDomains(t *testing.T) {
	d := newDecoder(t, simple, func(c *mapping.Config) {
		c.AllowedDomains = []string{"Contoso.com", "*.fabrikam.com"}
		c.LookUpMail = true
	})
	for body, allowed := range map[string]bool{
		`{"type":"device.lost","userPrincipalName":"ada@contoso.com"}`:                     true,
		`{"type":"device.lost","userPrincipalName":"ada@CONTOSO.COM"}`:                     true,
		`{"type":"device.lost","userId":"` + anID + `"}`:                                   true,
		`{"type":"device.lost","userPrincipalName":"ada@eu.fabrikam.com"}`:                 true,
		`{"type":"device.lost","userPrincipalName":"ada@fabrikam.com"}`:                    false,
		`{"type":"device.lost","userPrincipalName":"ada@sub.contoso.com"}`:                 false,
		`{"type":"device.lost","userPrincipalName":"ada@notcontoso.com"}`:                  false,
		`{"type":"device.lost","userPrincipalName":"ada@evilfabrikam.com"}`:                false,
		`{"type":"device.lost","userId":"` + anID + `","userPrincipalName":"a@gmail.com"}`: false,
		`{"kind":1,"login":"ada@contoso.com"}`:                                             true,
		`{"kind":1,"login":"ada@gmail.com"}`:                                               false,
		`{"kind":1,"mail":"ada@gmail.com"}`:                                                false,
		`{"kind":1,"mail":"ada@contoso.com"}`:                                              true,
	} {
		item := decode(t, d, event.Message{Body: []byte(body)})
		refused := item.Err != nil && problemOf(t, item).Kind == event.ForeignDomain && item.Event.User.IsZero() && !item.Named().IsZero()
		if allowed && item.Err != nil || !allowed && !refused {
			t.Errorf("%s: %+v, want it allowed: %v", body, item, allowed)
		}
	}
}

func TestListOfEventsHasBounds(t *testing.T) {
	d := newDecoder(t, hook)
	many := func(n int) []byte {
		return []byte(`{"eventType":"com.example.hook","data":{"events":[` + strings.TrimSuffix(strings.Repeat(`{},`, n), ",") + `]}}`)
	}
	if items, err := d.Decode(event.Message{Body: many(event.MaxEvents)}); err != nil || len(items) != event.MaxEvents {
		t.Error(len(items), err)
	}
	_, err := d.Decode(event.Message{Body: many(event.MaxEvents + 1)})
	if err == nil || !strings.Contains(err.Error(), "more than 1000 events") {
		t.Error(err)
	}
	p := problemOf(t, decode(t, d, event.Message{Body: many(0)}))
	if p.Kind != event.NoTrigger || p.Error() != "body.data.events: holds no events" {
		t.Error(p)
	}
	for _, body := range []string{`{"eventType":"com.example.hook"}`, `{"eventType":"com.example.hook","data":{"events":{}}}`} {
		if p := problemOf(t, decode(t, d, event.Message{Body: []byte(body)})); p.Kind != event.Invalid {
			t.Error(p)
		}
	}
}

func TestCostOfAnEvaluationIsBounded(t *testing.T) {
	d := newDecoder(t, `
mappings:
  - name: slow
    match: body.list.all(a, body.list.all(b, body.list.all(c, a + b + c >= 0)))
    type: '"device.lost"'
    user: [{name: body.login}]
  - {name: next, match: has(body.login), type: '"device.lost"', user: [{name: body.login}]}
`)
	body := `{"login":"ada@contoso.com","list":[` + strings.TrimSuffix(strings.Repeat("1,", 100_000), ",") + `]}`
	if item := decode(t, d, event.Message{Body: []byte(body)}); item.Event.Mapping != "next" || item.Err != nil {
		t.Errorf("a condition that takes too long does not match: %+v", item)
	}
}

func TestUnknownTypeOfAMapping(t *testing.T) {
	text := strings.Replace(simple, `'"device.lost"'`, "body.kind", 1)
	p := problemOf(t, decode(t, newDecoder(t, text), event.Message{Body: []byte(`{"kind":"nothing","login":"ada@contoso.com"}`)}))
	if p.Kind != event.UnknownType || p.Field != "body.kind" || !strings.Contains(p.Problem, "allow-list") {
		t.Error(p)
	}
	lenient := newDecoder(t, text, func(c *mapping.Config) { c.AnyType = true })
	if item := decode(t, lenient, event.Message{Body: []byte(`{"kind":"nothing","login":"ada@contoso.com"}`)}); item.Err != nil {
		t.Error(item.Err)
	}
	item := decode(t, lenient, event.Message{Body: []byte(`{"type":"nothing","userPrincipalName":"ada@contoso.com"}`)})
	if item.Err != nil || item.Event.Mapping != event.Native {
		t.Errorf("%+v", item)
	}
}

// tokens is a fake of what verifies Security Event Tokens.
type tokens struct{}

func (tokens) IsToken(m event.Message) bool { return strings.HasPrefix(string(m.Body), "ey") }

func (tokens) Decode(event.Message) ([]event.Item, error) {
	user, err := event.NewUser("", "ada@gmail.com")
	return []event.Item{{Event: event.Event{User: user, Mapping: "secevent", Field: "sub_id.email"}}}, err
}

func TestTokensComeFirstAndKeepToTheAllowedDomains(t *testing.T) {
	for _, body := range []string{"ey.token", `"ey.token"`} {
		d := newDecoder(t, simple, func(c *mapping.Config) { c.Tokens = tokens{} })
		if item := decode(t, d, event.Message{Body: []byte(body)}); item.Err != nil || item.Event.Mapping != "secevent" {
			t.Errorf("%+v", item)
		}
		d = newDecoder(t, simple, func(c *mapping.Config) { c.Tokens, c.AllowedDomains = tokens{}, []string{"contoso.com"} })
		if p := problemOf(t, decode(t, d, event.Message{Body: []byte(body)})); p.Kind != event.ForeignDomain {
			t.Error(p)
		}
	}
}

func TestDecoderIsSafeForConcurrentUse(t *testing.T) {
	d := newDecoder(t, hook+strings.TrimPrefix(simple, "\nmappings:\n")+strings.TrimPrefix(notice, "\nmappings:\n"))
	var work sync.WaitGroup
	for range 4 {
		work.Go(func() {
			for range 50 {
				for body, want := range map[string]string{
					hookBody:                                 "ada@contoso.com",
					`{"kind":1,"login":"grace@contoso.com"}`: "grace@contoso.com",
					`<notice><kind>lost</kind><owner>alan@contoso.com</owner></notice>`: "alan@contoso.com",
				} {
					items, err := d.Decode(event.Message{Body: []byte(body)})
					if err != nil || items[0].Event.User.UPN() != want {
						t.Errorf("%+v %v", items, err)
					}
				}
			}
		})
	}
	work.Wait()
}
