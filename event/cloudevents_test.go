package event_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"

	"github.com/session-revoker/session-revoker/event"
)

// FuzzAttributes compares the check of the required attributes with that of the CloudEvents SDK.
func FuzzAttributes(f *testing.F) {
	for _, source := range []string{
		"/x", "#", "#a", "?", " ", "\t", "%20", "%zz", "http://[", "http://[::1]", ":", "1:x", "a:b", "//", "x y", "mailto:a@b",
		"http://a:b", "ü",
	} {
		f.Add("1", source)
	}
	f.Add(" \u00a0\u2003", "/x")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, id, source string) {
		if !utf8.ValidString(id + source) {
			t.Skip("JSON holds UTF-8 only")
		}
		body, err := json.Marshal(map[string]any{
			"specversion": "1.0", "id": id, "source": source, "type": "device.lost", "data": map[string]string{"userId": userID},
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(body) > event.MaxBodyBytes {
			t.Skip("larger than a body may be")
		}
		items, err := decoder(t).Decode(event.Message{Body: body})
		if err != nil {
			t.Fatal(err)
		}
		sdk := cloudevents.New("1.0")
		sdk.SetID(id)
		sdk.SetSource(source)
		sdk.SetType("device.lost")
		if refused := sdk.Validate(); (refused == nil) != (items[0].Err == nil) {
			t.Errorf("id %q, source %q: the SDK returns %v, the decoder %v", id, source, refused, items[0].Err)
		}
	})
}

func TestCloudEventIsWrittenAsTheSDKWritesIt(t *testing.T) {
	when := time.Date(2026, 3, 1, 13, 0, 0, 120_000_000, time.FixedZone("", 3600))
	data := map[string]string{"userId": userID, "note": "a<b>&\u2028ü"}
	for _, c := range []struct {
		id, source string
		at         time.Time
	}{{"1", "/mdm", when}, {" 1 ", "a b", when}, {"<1>", "https://mdm.example/devices?x=1&y=ü#z", time.Time{}}} {
		sdk := cloudevents.New("1.0")
		sdk.SetID(c.id)
		sdk.SetSource(c.source)
		sdk.SetType("device.lost")
		sdk.SetTime(c.at)
		if err := sdk.SetData(cloudevents.ApplicationJSON, data); err != nil {
			t.Fatal(err)
		}
		want, err := json.Marshal(sdk)
		if err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(event.NewCloudEvent(c.id, c.source, "device.lost", c.at, data))
		if err != nil || normalized(t, got) != normalized(t, want) {
			t.Errorf("%s\nwant %s (%v)", got, want, err)
		}
	}
}

func TestCloudEventThatIsWrittenCanBeDecoded(t *testing.T) {
	for _, source := range []string{"worker", "http://[", ""} {
		body, err := json.Marshal(event.NewCloudEvent("7", source, "device.lost", time.Now(), map[string]string{"userId": userID}))
		if err != nil {
			t.Fatal(err)
		}
		items, err := decoder(t).Decode(event.Message{ContentType: event.CloudEventContentType, Body: body})
		if err != nil {
			t.Fatal(err)
		}
		if refused := items[0].Err; (refused == nil) != (source == "worker") || refused != nil && !strings.HasPrefix(refused.Error(),
			"source: ") {
			t.Errorf("source %q: %v", source, refused)
		}
	}
}

// normalized returns the JSON with sorted names.
func normalized(t *testing.T, text []byte) string {
	t.Helper()
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
