package mapping_test

import (
	"strings"
	"testing"

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
	{"uuid":"5","eventType":"user.deactivate","outcome":{"result":"SUCCESS"},"target":[{"type":"User","alternateId":"a@contoso.com"},{"type":"User","alternateId":"b@contoso.com"}]},
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
		problem, ok := items[i].Err.(*event.Error)
		if !ok || problem.Kind != want.kind || !strings.Contains(problem.Error(), want.text) || items[i].Index != i ||
			!items[i].Event.User.IsZero() {
			t.Errorf("%d: %+v, want %q", i, items[i], want.text)
		}
	}
}
