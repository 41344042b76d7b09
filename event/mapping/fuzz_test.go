package mapping_test

import (
	"strings"
	"testing"

	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/event/mapping"
)

// FuzzDecode checks that no body makes the decoder panic, yield too many events, or name a person
// together with an error.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(hookBody), "")
	f.Add([]byte(`{"kind":1,"user":{"name":"ada@contoso.com"},"at":"/Date(1)/","last_day":"1/2/2026"}`), "application/json")
	f.Add([]byte(`<notice><kind>lost</kind><owner>ada@contoso.com</owner><owner/></notice>`), "text/xml")
	f.Add([]byte(`{"ContentData":"eyJraW5kIjoxfQ==","Label":"x"}`), "")
	f.Add([]byte(`"eyJraW5kIjoxfQ=="`), "")
	f.Add(binaryXML(`{"kind":1}`), "")
	f.Add([]byte("\xff\xfe{\x00}\x00"), "")
	all := hook + strings.TrimPrefix(simple, "\nmappings:\n") + strings.TrimPrefix(notice, "\nmappings:\n")
	d := newDecoder(f, all, func(c *mapping.Config) {
		c.AllowedDomains, c.ResolveDevices, c.LookUpMail = []string{"contoso.com"}, true, true
	})
	f.Fuzz(func(t *testing.T, body []byte, contentType string) {
		properties := map[string]any{"cloudEvents:id": contentType}
		items, err := d.Decode(event.Message{Body: body, ContentType: contentType, Properties: properties})
		if err != nil && len(items) > 0 || err == nil && (len(items) == 0 || len(items) > event.MaxEvents) {
			t.Fatalf("%d events, %v", len(items), err)
		}
		for i, item := range items {
			e := item.Event
			if item.Err != nil && !e.User.IsZero() || item.Err == nil && (e.User.IsZero() || e.Field == "" || e.Type == "") {
				t.Fatalf("%+v", item)
			}
			if item.Err == nil && strings.Contains(e.User.UPN(), "@") && !strings.HasSuffix(strings.ToLower(e.User.UPN()), "@contoso.com") {
				t.Fatalf("%+v: a foreign domain", item)
			}
			if item.Index != i || strings.Contains(e.Field, "actor") {
				t.Fatalf("%+v", item)
			}
		}
	})
}
