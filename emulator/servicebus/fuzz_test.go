package servicebus

import (
	"encoding/xml"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// FuzzConnection sends frames over a connection that is open and authorized, so that they reach
// sessions, links, requests and queues. The connection must end when its peer does. Afterwards the
// queues' counts, sizes and locks must match their messages, and no receiver may be left.
func FuzzConnection(f *testing.F) {
	frame := func(p amqp.Performative, payload ...[]byte) []byte {
		b, err := amqp.AppendFrame(nil, amqp.TypeAMQP, 0, p, payload...)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	one, credit := uint32(1), uint32(100)
	body := amqp.AppendData(nil, []byte("x"))
	request, err := amqp.Properties{MessageID: "1", ReplyTo: "here"}.Append(nil)
	if err != nil {
		f.Fatal(err)
	}
	for _, operation := range []string{
		"renew-lock", "peek-message", "receive-by-sequence-number", "update-disposition", "schedule-message", "cancel-scheduled-message",
	} {
		ask, _ := amqp.AppendMapSection(append([]byte(nil), request...), amqp.SectionApplicationProperties, amqp.Map{
			{Key: "operation", Value: "com.microsoft:" + operation},
		})
		ask, _ = amqp.AppendAMQPValue(ask, amqp.Map{
			{Key: "from-sequence-number", Value: int64(0)},
			{Key: "message-count", Value: int32(5)},
			{Key: "lock-tokens", Value: amqp.Array{amqp.UUID{}}},
			{Key: "sequence-numbers", Value: amqp.Array{int64(1)}},
			{Key: "disposition-status", Value: "completed"},
			{Key: "messages", Value: []any{amqp.Map{{Key: "message", Value: body}}}},
		})
		f.Add(frame(&amqp.Transfer{Handle: 2, DeliveryID: &one, DeliveryTag: []byte{1}, MessageFormat: new(uint32)}, ask))
	}
	for handle, operations := range map[uint32][]string{
		6: {"renew-session-lock", "get-session-state", "set-session-state", "get-message-sessions", "peek-message"},
		7: {"add-rule", "remove-rule", "enumerate-rules"},
	} {
		for _, operation := range operations {
			ask, _ := amqp.AppendMapSection(append([]byte(nil), request...), amqp.SectionApplicationProperties, amqp.Map{
				{Key: "operation", Value: "com.microsoft:" + operation},
			})
			ask, _ = amqp.AppendAMQPValue(ask, amqp.Map{
				{Key: "session-id", Value: "a"},
				{Key: "session-state", Value: []byte("s")},
				{Key: "last-updated-time", Value: time.UnixMilli(0)},
				{Key: "skip", Value: int32(0)},
				{Key: "top", Value: int32(5)},
				{Key: "from-sequence-number", Value: int64(0)},
				{Key: "message-count", Value: int32(5)},
				{Key: "rule-name", Value: "r"},
				{Key: "rule-description", Value: amqp.Map{{Key: "sql-filter", Value: amqp.Map{{Key: "expression", Value: "a = 1"}}}}},
			})
			f.Add(frame(&amqp.Transfer{Handle: handle, DeliveryID: &one, DeliveryTag: []byte{1}, MessageFormat: new(uint32)}, ask))
		}
	}
	f.Add(frame(&amqp.Transfer{Handle: 8, DeliveryID: &one, DeliveryTag: []byte{1}, MessageFormat: new(uint32)}, body))
	f.Add(frame(&amqp.Attach{Name: "x", Handle: 9, Role: amqp.RoleReceiver, Target: &amqp.Target{}, Source: &amqp.Source{
		Address: "s", Filter: amqp.Map{{Key: amqp.Symbol(sessionFilter), Value: "b"}},
	}, Properties: amqp.Map{{Key: amqp.Symbol(acceptTimeout), Value: uint32(1)}}}))
	f.Add(frame(&amqp.Transfer{Handle: 0, DeliveryID: &one, DeliveryTag: []byte{1}, MessageFormat: new(uint32)}, body))
	f.Add(frame(&amqp.Flow{
		NextIncomingID: new(uint32), IncomingWindow: 100, Handle: &one, DeliveryCount: new(uint32), LinkCredit: &credit, Drain: true,
	}))
	f.Add(frame(&amqp.Disposition{Role: amqp.RoleReceiver, Last: &credit, State: amqp.Modified{UndeliverableHere: true}}))
	f.Add(append(frame(&amqp.Detach{Handle: 1, Closed: true}), frame(&amqp.Detach{Handle: 0})...))
	f.Add(append(frame(&amqp.End{}), frame(&amqp.Begin{})...))

	f.Fuzz(func(t *testing.T, attack []byte) {
		b, err := New(Config{
			Queues: []QueueConfig{{Name: "q"}, {Name: "s", RequiresSession: true}},
			Topics: []TopicConfig{
				{
					QueueConfig:   QueueConfig{Name: "t"},
					Subscriptions: []SubscriptionConfig{{QueueConfig: QueueConfig{Name: "u", ForwardTo: "q"}}},
				},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		for range 3 {
			m, err := parseMessage(body, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.queues["q"].enqueue([]*message{m}); err != nil {
				t.Fatal(err)
			}
		}
		for _, id := range []string{"a", "b"} {
			properties, _ := amqp.Properties{GroupID: &id}.Append(nil)
			m, err := parseMessage(append(properties, body...), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.queues["s"].enqueue([]*message{m}); err != nil {
				t.Fatal(err)
			}
		}
		client, server := newPipe()
		c := b.admit(server)
		for _, path := range []string{"q", "q/$management", "q/$deadletterqueue", "s", "t"} {
			c.claims[path] = Grant{Listen: true, Send: true, Until: time.Now().Add(time.Hour)}
		}
		go c.serve()
		hello := append([]byte(nil), amqp.HeaderAMQP[:]...)
		hello = append(hello, frame(&amqp.Open{ContainerID: "f", MaxFrameSize: 65536})...)
		hello = append(hello, frame(&amqp.Begin{IncomingWindow: 100, OutgoingWindow: 100})...)
		for handle, a := range []amqp.Attach{
			{Role: amqp.RoleSender, Source: &amqp.Source{}, Target: &amqp.Target{Address: "q"}},
			{Role: amqp.RoleReceiver, Source: &amqp.Source{Address: "q"}, Target: &amqp.Target{}},
			{Role: amqp.RoleSender, Source: &amqp.Source{}, Target: &amqp.Target{Address: "q/$management"}},
			{Role: amqp.RoleReceiver, Source: &amqp.Source{Address: "q/$management"}, Target: &amqp.Target{Address: "here"}},
			{
				Role: amqp.RoleReceiver, Target: &amqp.Target{},
				Source: &amqp.Source{Address: "s", Filter: amqp.Map{{Key: amqp.Symbol(sessionFilter)}}},
			},
			{
				Role: amqp.RoleReceiver, Target: &amqp.Target{},
				Source: &amqp.Source{Address: "s", Filter: amqp.Map{{Key: amqp.Symbol(sessionFilter), Value: "b"}}},
			},
			{Role: amqp.RoleSender, Source: &amqp.Source{}, Target: &amqp.Target{Address: "s/$management"}},
			{Role: amqp.RoleSender, Source: &amqp.Source{}, Target: &amqp.Target{Address: "t/subscriptions/u/$management"}},
			{Role: amqp.RoleSender, Source: &amqp.Source{}, Target: &amqp.Target{Address: "t"}},
		} {
			a.Name, a.Handle = string(rune('a'+handle)), uint32(handle)
			hello = append(hello, frame(&a)...)
		}
		for _, handle := range []uint32{1, 3, 4, 5} {
			hello = append(hello, frame(&amqp.Flow{
				NextIncomingID: new(uint32), IncomingWindow: 100, Handle: &handle, DeliveryCount: new(uint32), LinkCredit: &credit,
			})...)
		}
		go func() { _, _ = io.Copy(io.Discard, client) }()
		_, _ = client.Write(append(hello, attack...))
		_ = client.Close()
		if err := b.Close(); err != nil { // waits for the connection
			t.Fatal(err)
		}
		for _, q := range b.queues {
			for _, part := range q.parts() {
				checkBooks(t, part)
				checkNobodyConnected(t, part)
			}
		}
	})
}

// FuzzAdmin sends bodies to the administration API. What it accepts can be read again.
func FuzzAdmin(f *testing.F) {
	withoutTime := func(text string) string {
		return regexp.MustCompile(`<(UpdatedAt|updated)>[^<]*<`).ReplaceAllString(text, "")
	}
	entry := func(content string) string {
		return `<entry xmlns="http://www.w3.org/2005/Atom"><content type="application/xml">` + content + `</content></entry>`
	}
	f.Add("q2", entry(`<QueueDescription xmlns="`+nsService+`"><LockDuration>PT30S</LockDuration>`+
		`<MaxDeliveryCount>3</MaxDeliveryCount></QueueDescription>`), false)
	f.Add("q", entry(`<QueueDescription><MaxSizeInMegabytes>1</MaxSizeInMegabytes>`+
		`<ForwardTo>sb://h/t</ForwardTo></QueueDescription>`), true)
	f.Add("t/Subscriptions/v", entry(`<SubscriptionDescription><RequiresSession>true</RequiresSession></SubscriptionDescription>`), false)
	f.Add("t/Subscriptions/u/Rules/r", entry(`<RuleDescription xmlns:i="`+nsInstance+`">`+
		`<Filter i:type="CorrelationFilter"><Label>x</Label>`+
		`<Properties><KeyValueOfstringanyType><Key>k</Key><Value i:type="d:int">5</Value></KeyValueOfstringanyType></Properties>`+
		`</Filter></RuleDescription>`), false)
	f.Add("ȺȺ/Subscriptions/v", entry(`<SubscriptionDescription/>`), false)
	f.Add("t2", entry(`<TopicDescription><AuthorizationRules><AuthorizationRule xmlns:x="`+nsInstance+`" x:type="y">`+
		`<Rights><AccessRights>Send</AccessRights></Rights></AuthorizationRule></AuthorizationRules></TopicDescription>`), false)
	f.Add("t/Subscriptions/u/Rules/s", entry(`<RuleDescription xmlns:i="`+nsInstance+`"><Filter i:type="SqlFilter">`+
		`<SqlExpression>a = @b</SqlExpression><Parameters><KeyValueOfstringanyType><Key>@b</Key><Value i:type="d:duration">PT5S</Value>`+
		`</KeyValueOfstringanyType></Parameters></Filter><Action i:type="SqlRuleAction"><SqlExpression>SET a = 1</SqlExpression></Action>`+
		`</RuleDescription>`), false)
	f.Fuzz(func(t *testing.T, path, body string, update bool) {
		b, err := New(Config{
			Queues: []QueueConfig{{Name: "q"}},
			Topics: []TopicConfig{
				{QueueConfig: QueueConfig{Name: "t"}, Subscriptions: []SubscriptionConfig{{QueueConfig: QueueConfig{Name: "u"}}}},
				{QueueConfig: QueueConfig{Name: "ȺȺ"}}, // longer in lower case
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		ask := func(method, body string, update bool) (int, string) {
			r := &http.Request{
				Method: method, URL: &url.URL{Path: "/" + path}, Host: "h", Header: http.Header{},
				Body: io.NopCloser(strings.NewReader(body)),
			}
			if update {
				r.Header.Set("If-Match", "*")
			}
			status, answer, err := admin{b}.serve(r, strings.Trim(path, "/"))
			if err != nil || answer == nil {
				return status, ""
			}
			written, err := xml.Marshal(answer)
			if err != nil {
				t.Fatalf("the answer cannot be written: %v", err)
			}
			return status, string(written)
		}
		if status, _ := ask(http.MethodPut, body, update); status == http.StatusCreated {
			status, created := ask(http.MethodGet, "", false)
			if status != http.StatusOK {
				t.Fatal("what was created cannot be read")
			}
			if status, again := ask(http.MethodPut, created, true); status != http.StatusOK || withoutTime(again) != withoutTime(created) {
				t.Fatalf("what was read cannot be written back: %d\n%s\n%s", status, created, again)
			}
		}
		ask(http.MethodDelete, "", false)
	})
}
