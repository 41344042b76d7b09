package event_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"

	"github.com/session-revoker/session-revoker/event"
)

const userID = "588d7c15-8565-448e-bc2d-57f2b7c4c58a"

func decoder(t testing.TB) *event.Decoder {
	t.Helper()
	d, err := event.NewDecoder(event.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func text(body string) event.Message { return event.Message{Body: []byte(body)} }

// cloudEvent is a CloudEvent whose members can be replaced: "name", "json".
func cloudEvent(replace ...string) string {
	members := []string{
		"specversion", `"1.0"`, "id", `"1"`, "source", `"/x"`, "type", `"device.lost"`, "data",
		`{"userId":"` + userID + `"}`,
	}
	members = append(members, replace...)
	last := map[string]string{}
	var order []string
	for i := 0; i < len(members); i += 2 {
		if _, ok := last[members[i]]; !ok {
			order = append(order, members[i])
		}
		last[members[i]] = members[i+1]
	}
	var parts []string
	for _, name := range order {
		if last[name] != "" {
			parts = append(parts, fmt.Sprintf("%q:%s", name, last[name]))
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func TestDecodeAcceptsEveryForm(t *testing.T) {
	when := time.Date(2026, 3, 1, 12, 0, 0, 123456700, time.UTC)
	const stamp = "2026-03-01T12:00:00.1234567Z"
	data := `{"userId":"` + userID + `"}`
	attributes := func(prefix string, at any) event.Message {
		return event.Message{ContentType: "application/json; charset=utf-8", Body: []byte(data), Properties: map[string]any{
			prefix + "specversion": "1.0", prefix + "id": "7", prefix + "source": "/mdm", prefix + "type": "device.stolen",
			prefix + "time": at, "other": 5,
		}}
	}
	known := []string{"id", `"7"`, "source", `"/mdm"`, "type", `"device.stolen"`, "time", `"` + stamp + `"`}
	with := func(replace ...string) string { return cloudEvent(append(slices.Clone(known), replace...)...) }
	full := with()
	encoded := strings.ReplaceAll(base64.StdEncoding.EncodeToString([]byte("\xef\xbb\xbf"+data)), "/", `\/`)
	for name, m := range map[string]event.Message{
		"CloudEvents with the data in Base64": text(with("data", "", "data_base64", `"`+encoded+`"`)),
		"CloudEvents with nulls": text(with("data_base64", "null", "datacontenttype", "null", "subject", "null",
			"eventType", "null")),
		"CloudEvents with data of its own kind": text(with("datacontenttype", `"application/vnd.mdm+json; charset=utf-8"`)),
		"CloudEvents with extensions": text(with("userid", `"x"`, "sequence", "99999999999", "my_ext", `{"userId":"x"}`, "",
			"1")),
		"names twice that are not read":  text(with("name", "1", "Name", "2", "UserID", "3", "userId", "4")),
		"CloudEvents structured":         {ContentType: "application/cloudevents+json; charset=utf-8", Body: []byte(full)},
		"CloudEvents by shape":           text(full),
		"CloudEvents batch":              {ContentType: "application/cloudevents-batch+json", Body: []byte("[" + full + "]")},
		"CloudEvents binary, colon":      attributes("cloudEvents:", stamp),
		"CloudEvents binary, underscore": attributes("cloudEvents_", stamp),
		"CloudEvents binary, timestamp":  attributes("CLOUDEVENTS:", when),
		"Event Grid": text(`{"id":"7","topic":"/mdm","eventType":"device.stolen","eventTime":"` + stamp +
			`","data":` + data + `}`),
		"Event Grid in an array": text(`[{"id":"7","topic":"/mdm","eventType":"device.stolen","eventTime":"` + stamp +
			`","data":` + data + `}]`),
		"plain": text(`{"id":"7","source":"/mdm","type":"device.stolen","time":"` + stamp + `","userId":"` +
			userID + `"}`),
		"plain, as text, with a BOM": {
			ContentType: "text/plain",
			Body: []byte("\xef\xbb\xbf\n " + `{"id":"7","source":"/mdm","type":"device.stolen","time":"` + stamp +
				`","userId":"` + strings.ToUpper(userID) + `"} `),
		},
		"plain, with an unreadable content": {
			ContentType: ";;",
			Body:        []byte(`{"id":"7","source":"/mdm","type":"device.stolen","time":"` + stamp + `","userId":"` + userID + `"}`),
		},
	} {
		items, err := decoder(t).Decode(m)
		if err != nil || len(items) != 1 || items[0].Err != nil {
			t.Errorf("%s: %+v, %v", name, items, err)
			continue
		}
		e := items[0].Event
		if e.ID != "7" || e.Source != "/mdm" || e.Type != "device.stolen" || !e.Time.Equal(when) || e.User.ID() != userID {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

func TestDecodeIgnoresPropertiesThatAreNoAttributes(t *testing.T) {
	for _, property := range []string{
		"", "c", "cloud", "cloudEvents", "CLOUDEVENTS", "cloudEvents:", "cloudEvents_", "cloudEventsXtype", "cloudEvents type",
		"cloudeventstype", "x-cloudEvents:type",
		"cloudEvent:type", "cloudEventz:type", "cloudEvents:subject", "xcloudEvents:type", "type", "specversion",
	} {
		items, err := decoder(t).Decode(event.Message{
			Body: []byte(`{"type":"device.stolen","userId":"` + userID + `"}`), Properties: map[string]any{property: "device.lost"},
		})
		if err != nil || len(items) != 1 || items[0].Err != nil || items[0].Event.Type != "device.stolen" ||
			items[0].Event.User.ID() != userID {
			t.Errorf("%q: %+v, %v", property, items, err)
		}
	}
}

// binary is a CloudEvent in binary form with one property replaced, or removed by nil.
func binary(property string, value any) event.Message {
	m := event.Message{Body: []byte(`{"userId":"` + userID + `"}`), Properties: map[string]any{
		"cloudEvents:specversion": "1.0", "cloudEvents:id": "1", "cloudEvents:source": "/x", "cloudEvents:type": "device.lost",
	}}
	m.Properties[property] = value
	if value == nil {
		delete(m.Properties, property)
	}
	return m
}

func TestDecodeRefuses(t *testing.T) {
	user := `"userId":"` + userID + `"`
	valid := `{"type":"device.lost",` + user + `}`
	for name, c := range map[string]struct {
		message event.Message
		kind    event.Kind
		field   string
	}{
		"empty":                  {text(""), event.Invalid, "body"},
		"spaces":                 {text("  \n"), event.Invalid, "body"},
		"not JSON":               {text("device lost: ada"), event.Invalid, "body"},
		"half JSON":              {text(`{"type":"device.lost","userId":`), event.Invalid, "body"},
		"two documents":          {text(valid + valid), event.Invalid, "body"},
		"a string":               {text(`"x"`), event.Invalid, "body"},
		"null":                   {text(`null`), event.Invalid, "body"},
		"an empty array":         {text(`[]`), event.Invalid, "body"},
		"an array of strings":    {text(`["x"]`), event.Invalid, "event"},
		"invalid UTF-8":          {text("{\"type\":\"device.lost\",\"userPrincipalName\":\"a\xff@b.cd\"}"), event.Invalid, "body"},
		"nested too deep":        {text(strings.Repeat(`{"a":`, 100_000)), event.Invalid, "body"},
		"arrays nested too deep": {text(strings.Repeat("[", 100_000)), event.Invalid, "body"},
		"too large": {text(`{"type":"device.lost",` + user + `,"x":"` + strings.Repeat("x",
			event.MaxBodyBytes) + `"}`), event.Invalid, "body"},
		"too many":                {text("[" + strings.Repeat(valid+",", event.MaxEvents) + valid + "]"), event.Invalid, "body"},
		"an AMQP value":           {event.Message{BodyKind: "value"}, event.Invalid, "body"},
		"an AMQP sequence":        {event.Message{BodyKind: "sequence", Body: []byte(valid)}, event.Invalid, "body"},
		"no type":                 {text(`{` + user + `}`), event.UnknownType, "type"},
		"another type":            {text(`{"type":"device.found",` + user + `}`), event.UnknownType, "type"},
		"a type in other case":    {text(`{"type":"Device.Lost",` + user + `}`), event.UnknownType, "type"},
		"a type that is a number": {text(`{"type":5,` + user + `}`), event.UnknownType, "type"},
		"no user":                 {text(`{"type":"device.lost"}`), event.Invalid, "userId"},
		"an empty user":           {text(`{"type":"device.lost","userId":"","userPrincipalName":null}`), event.Invalid, "userId"},
		"an id with spaces":       {text(`{"type":"device.lost","userId":" ` + userID + `"}`), event.Invalid, "userId"},
		"an id as a URN":          {text(`{"type":"device.lost","userId":"urn:uuid:` + userID + `"}`), event.Invalid, "userId"},
		"an id that is an object": {text(`{"type":"device.lost","userId":{"a":1}}`), event.Invalid, "userId"},
		"a huge number":           {text(`{"type":"device.lost","userId":` + strings.Repeat("9", 5000) + `}`), event.Invalid, "userId"},
		"a good id and a bad name": {
			text(`{"type":"device.lost",` + user + `,"userPrincipalName":"x"}`), event.Invalid,
			"userPrincipalName",
		},
		"a NUL in the name": {
			text(`{"type":"device.lost","userPrincipalName":"a\u0000@b.cd"}`), event.Invalid,
			"userPrincipalName",
		},
		"a lone surrogate": {
			text(`{"type":"device.lost","userPrincipalName":"a\ud800@b.cd"}`), event.Invalid,
			"userPrincipalName",
		},
		"a name given twice":       {text(`{"type":"device.lost",` + user + `,` + user + `}`), event.Invalid, "userId"},
		"in other case":            {text(`{"type":"device.lost",` + user + `,"USERID":"x"}`), event.Invalid, "userId"},
		"twice, by an escape":      {text(`{"type":"device.lost",` + user + `,"user\u0049d":"x"}`), event.Invalid, "userId"},
		"twice, in data":           {text(cloudEvent("data", `{`+user+`,"userid":"x"}`)), event.Invalid, "data.userId"},
		"in other case, not ASCII": {text(`{"type":"device.lost",` + user + `,"u\u017ferId":"x"}`), event.Invalid, "userId"},
		"in other case alone": {
			text(`{"type":"device.lost","UserId":"` + userID + `","userPrincipalName":"a@b.cd"}`),
			event.Invalid, "userId",
		},
		"a long name in other case": {text(`{"type":"device.lost",` + user + `,"u\u017f` + strings.Repeat("x",
			5000) + `":1,"userprincipalname":"a@b.cd"}`), event.Invalid, "userPrincipalName"},
		"a type given twice": {text(`{"type":"device.lost","Type":"device.found",` + user + `}`), event.Invalid, "type"},
		"a time given twice": {
			text(`{"type":"device.lost","time":null,"Time":"2026-03-01T12:00:00Z",` + user + `}`),
			event.Invalid, "time",
		},
		"data given twice":         {text(cloudEvent("Data", `{"userId":"x"}`)), event.Invalid, "data"},
		"a time of another form":   {text(`{"type":"device.lost",` + user + `,"time":"03/01/2026"}`), event.Invalid, "time"},
		"a CloudEvent's time":      {text(cloudEvent("time", `"yesterday"`)), event.Invalid, "time"},
		"a time with a comma":      {text(`{"type":"device.lost","time":"2026-03-01T12:00:00,5Z",` + user + `}`), event.Invalid, "time"},
		"a time with a short hour": {text(`{"type":"device.lost","time":"2026-03-01T1:00:00Z",` + user + `}`), event.Invalid, "time"},
		"a time without a zone":    {text(`{"type":"device.lost","time":"2026-03-01T12:00:00",` + user + `}`), event.Invalid, "time"},
		"a time of ten digits": {
			text(`{"type":"device.lost","time":"2026-03-01T12:00:00.1234567890Z",` + user + `}`),
			event.Invalid, "time",
		},
		"a time that is a number":   {text(`{"type":"device.lost","time":1772366400,` + user + `}`), event.Invalid, "time"},
		"two envelopes":             {text(cloudEvent("eventType", `"x"`)), event.Invalid, "specversion"},
		"a CloudEvent without id":   {text(cloudEvent("id", "")), event.Invalid, "id"},
		"a CloudEvent without type": {text(cloudEvent("type", "")), event.UnknownType, "type"},
		"a CloudEvent without data": {text(cloudEvent("data", "")), event.Invalid, "data"},
		"a CloudEvent of two data": {text(cloudEvent("data_base64",
			`"eyJ1c2VySWQiOiIwMDAwMDAwMC0wMDAwLTQwMDAtODAwMC0wMDAwMDAwMDAwMDEifQ=="`)), event.Invalid, "data"},
		"the same, base64 first": {text(`{"data_base64":"eyJ1c2VySWQiOiIwMDAwMDAwMC0wMDAwLTQwMDAtODAwMC0wMDAwMDAwMDAwMDEifQ==",` +
			strings.TrimPrefix(cloudEvent("datacontenttype", `"application/json"`), "{")), event.Invalid, "data"},
		"base64 that is a number": {text(cloudEvent("data", "", "data_base64", "5")), event.Invalid, "data_base64"},
		"a blank id":              {text(cloudEvent("id", `" "`)), event.Invalid, "id"},
		"an id that is a number":  {text(cloudEvent("id", "5")), event.Invalid, "id"},
		"a source that is no URI": {text(cloudEvent("source", `"http://[`+strings.Repeat("x", 5000)+`"`)), event.Invalid, "source"},
		"a long version":          {text(cloudEvent("specversion", `"`+strings.Repeat("1", 5000)+`"`)), event.Invalid, "specversion"},
		"a late time":             {text(cloudEvent("", "1", "time", `"tomorrow"`)), event.Invalid, "time"},
		"declared, without version": {
			event.Message{ContentType: "application/cloudevents+json", Body: []byte(valid)},
			event.Invalid,
			"specversion",
		},
		"declared as one, an array": {event.Message{
			ContentType: "application/cloudevents+json",
			Body:        []byte("[" + cloudEvent() + "]"),
		}, event.Invalid, "event"},
		"declared as batch, but one": {
			event.Message{ContentType: "application/cloudevents-batch+json", Body: []byte(cloudEvent())},
			event.Invalid, "body",
		},
		"a CloudEvent of null": {text(cloudEvent("data", "null")), event.Invalid, "data"},
		"a CloudEvent with XML": {
			text(cloudEvent("datacontenttype", `"text/xml"`, "data", `"<x/>"`)), event.Invalid,
			"datacontenttype",
		},
		"data that is an array":      {text(cloudEvent("data", "[1]")), event.Invalid, "data"},
		"data in a string":           {text(cloudEvent("data", `"{}"`)), event.Invalid, "data"},
		"base64 that is none":        {text(cloudEvent("data", "", "data_base64", `"%%"`)), event.Invalid, "data_base64"},
		"base64 that is not JSON":    {text(cloudEvent("data", "", "data_base64", `"AAEC"`)), event.Invalid, "data_base64"},
		"the user outside the data":  {text(cloudEvent("data", "{}", "userid", `"`+userID+`"`)), event.Invalid, "data.userId"},
		"an Event Grid without data": {text(`{"eventType":"device.lost","userId":"` + userID + `"}`), event.Invalid, "data"},
		"binary without a type": {event.Message{Body: []byte(`{` + user + `}`), Properties: map[string]any{
			"cloudEvents:specversion": "1.0", "cloudEvents:id": "1", "cloudEvents:source": "/x",
		}}, event.UnknownType, "cloudEvents:type"},
		"binary with a number for its id": {event.Message{Body: []byte(`{` + user + `}`), Properties: map[string]any{
			"cloudEvents:specversion": "1.0", "cloudEvents:id": int64(1), "cloudEvents:source": "/x", "cloudEvents:type": "device.lost",
		}}, event.Invalid, "cloudEvents:id"},
		"binary of another version":  {binary("cloudEvents:specversion", "9"), event.Invalid, "cloudEvents:specversion"},
		"binary without a version":   {binary("cloudEvents:specversion", nil), event.Invalid, "cloudEvents:specversion"},
		"binary with two types":      {binary("cloudEvents_type", "device.found"), event.Invalid, "cloudEvents:type"},
		"binary with a strange time": {binary("cloudEvents:time", int64(5)), event.Invalid, "cloudEvents:time"},
		"binary with a local time":   {binary("cloudEvents:time", "2/12/2026 6:43:08 AM"), event.Invalid, "cloudEvents:time"},
		"binary with a bad source":   {binary("cloudEvents:source", "http://["), event.Invalid, "cloudEvents:source"},
		"binary, the user outside": {event.Message{Body: []byte(`{}`), Properties: map[string]any{
			"cloudEvents:specversion": "1.0", "cloudEvents:id": "1", "cloudEvents:source": "/x", "cloudEvents:type": "device.lost",
			"cloudEvents:userid": userID, "userId": userID,
		}}, event.Invalid, "data.userId"},
	} {
		t.Run(name, func(t *testing.T) {
			items, err := decoder(t).Decode(c.message)
			if err == nil {
				err = items[0].Err
				if !items[0].Event.User.IsZero() {
					t.Errorf("refused, and yet it has the user %s", items[0].Event.User.Name())
				}
			}
			var problem *event.Error
			if !errors.As(err, &problem) {
				t.Fatalf("accepted: %+v, %v", items, err)
			}
			if problem.Kind != c.kind || !strings.HasPrefix(problem.Field, c.field) {
				t.Errorf("kind %d, %v; want kind %d of field %s", problem.Kind, problem, c.kind, c.field)
			}
			if len(problem.Error()) > 500 {
				t.Errorf("a reason of %d characters", len(problem.Error()))
			}
		})
	}
}

func TestDecodeTakesTheUserFromTwoFieldsOnly(t *testing.T) {
	body := `{"type":"device.lost","actor":"ada@b.cd","identity":"ada@b.cd","initiatedByUserPrincipalName":"ada@b.cd",` +
		`"subject":"ada@b.cd","email":"ada@b.cd",
		"UserPrincipalName":"ada@b.cd","user_id":"` + userID + `","user":{"userId":"` + userID + `"}}`
	items, err := decoder(t).Decode(text(body))
	if err != nil || items[0].Err == nil || !items[0].Event.User.IsZero() {
		t.Errorf("somebody was guessed: %+v, %v", items, err)
	}
}

func TestDecodeKeepsTheOrderOfGoodAndBadEvents(t *testing.T) {
	good, bad := `{"type":"device.lost","userId":"`+userID+`"}`, `{"type":"device.lost"}`
	items, err := decoder(t).Decode(text("[" + strings.Join([]string{good, bad, good, `{"type":"x"}`}, ",") + "]"))
	if err != nil || len(items) != 4 {
		t.Fatalf("%+v, %v", items, err)
	}
	for i, item := range items {
		if item.Index != i || (item.Err == nil) != (i%2 == 0) {
			t.Errorf("place %d: %+v", i, item)
		}
	}
	items, err = decoder(t).Decode(text("[" + strings.Repeat(good+",", event.MaxEvents-1) + good + "]"))
	if err != nil || len(items) != event.MaxEvents {
		t.Errorf("%d events, %v", len(items), err)
	}
}

// The SDK panics on some of these when it parses; here each costs its own event only.
func TestDecodeBadEventDoesNotHarmItsNeighbors(t *testing.T) {
	for _, bad := range []string{
		cloudEvent("data", "", "data_base64", "5"), cloudEvent("data", "", "data_base64", `""`), "5", "null",
		"[]", `{"":{}}`,
	} {
		items, err := decoder(t).Decode(text("[" + cloudEvent() + "," + bad + "," + cloudEvent() + "]"))
		if err != nil || len(items) != 3 || items[0].Err != nil || items[1].Err == nil || items[2].Err != nil {
			t.Errorf("%s: %+v, %v", bad, items, err)
		}
	}
}

func TestDecodeReadsWhatTheCloudEventsSDKWrites(t *testing.T) {
	data := map[string]string{"userId": userID, "note": "a/b+c\u2028"}
	for name, set := range map[string]func(*cloudevents.Event) error{
		"an object": func(ce *cloudevents.Event) error { return ce.SetData(cloudevents.ApplicationJSON, data) },
		"bytes, as Base64": func(ce *cloudevents.Event) error {
			raw, err := json.Marshal(data)
			if err != nil {
				return err
			}
			ce.DataBase64 = true
			return ce.SetData(cloudevents.ApplicationJSON, raw)
		},
	} {
		ce := cloudevents.New()
		ce.SetID("a/b")
		ce.SetSource("https://mdm.example/devices?x=1")
		ce.SetType("user.compromised")
		ce.SetSubject("devices/42")
		ce.SetTime(time.Date(2026, 3, 1, 12, 0, 0, 5, time.FixedZone("", 3600)))
		ce.SetExtension("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		if err := set(&ce); err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(ce)
		if err != nil {
			t.Fatal(err)
		}
		items, err := decoder(t).Decode(event.Message{ContentType: cloudevents.ApplicationCloudEventsJSON, Body: body})
		if err != nil || items[0].Err != nil {
			t.Fatalf("%s: %+v, %v\n%s", name, items, err, body)
		}
		e := items[0].Event
		if e.ID != ce.ID() || e.Source != ce.Source() || e.Type != ce.Type() || !e.Time.Equal(ce.Time()) || e.User.ID() != userID {
			t.Errorf("%s: %+v, want %s", name, e, ce)
		}
	}
}

func TestDecodeBounds(t *testing.T) {
	sized := func(size int) string {
		body := `{"type":"device.lost","userId":"` + userID + `","x":""}`
		return strings.Replace(body, `""`, `"`+strings.Repeat("x", size-len(body))+`"`, 1)
	}
	nested := func(depth int) string {
		return `{"type":"device.lost","userId":"` + userID + `","x":` + strings.Repeat("[", depth-1) + strings.Repeat("]", depth-1) + `}`
	}
	for name, c := range map[string]struct {
		body string
		fits bool
	}{
		"as large as can be":   {sized(event.MaxBodyBytes), true},
		"a byte larger":        {sized(event.MaxBodyBytes + 1), false},
		"as deep as can be":    {nested(event.MaxDepth), true},
		"a level deeper":       {nested(event.MaxDepth + 1), false},
		"brackets in a string": {`{"type":"device.lost","userId":"` + userID + `","x":"` + strings.Repeat(`\"[{`, 100) + `"}`, true},
	} {
		items, err := decoder(t).Decode(text(c.body))
		if (err == nil) != c.fits || (err == nil && items[0].Err != nil) {
			t.Errorf("%s: %v, %d items", name, err, len(items))
		}
	}
}

func TestDecoderAllowListIsConfigurable(t *testing.T) {
	d, err := event.NewDecoder(event.Config{Types: []string{"Microsoft.Graph.UserDeleted"}})
	if err != nil {
		t.Fatal(err)
	}
	for body, accepted := range map[string]bool{
		`{"type":"Microsoft.Graph.UserDeleted","userId":"` + userID + `"}`: true,
		`{"type":"device.lost","userId":"` + userID + `"}`:                 false,
	} {
		if items, err := d.Decode(text(body)); err != nil || (items[0].Err == nil) != accepted {
			t.Errorf("%s: %+v, %v", body, items, err)
		}
	}
	for _, bad := range []string{"", " x"} {
		if _, err := event.NewDecoder(event.Config{Types: []string{bad}}); err == nil {
			t.Errorf("the type %q was accepted", bad)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("application/json", "", `{"type":"device.lost","userId":"`+userID+`"}`)
	f.Add("application/cloudevents+json", "", cloudEvent())
	f.Add("application/cloudevents-batch+json", "", "["+cloudEvent()+"]")
	f.Add("", "1.0", `{"userPrincipalName":"$a@b.cd"}`)
	f.Add("", "", `[{"eventType":"device.lost","data":{"userId":"`+userID+`"}}]`)
	f.Add("", "", cloudEvent("data", "", "data_base64", `"e30="`, "time", `"2026-03-01T12:00:00Z"`))
	f.Add("", "", cloudEvent("data_base64", "5", "", "null"))
	f.Add("", "", "[{\"type\":\"device.lost\",\"userid\":1,\"UserId\":2},[[[["+"\xff")
	d := decoder(f)
	f.Fuzz(func(t *testing.T, contentType, specversion, body string) {
		m := event.Message{ContentType: contentType, Body: []byte(body)}
		if specversion != "" {
			m.Properties = map[string]any{
				"cloudEvents:specversion": specversion, "cloudEvents:id": "1", "cloudEvents:source": "/x",
				"cloudEvents:type": "device.lost",
			}
		}
		items, err := d.Decode(m)
		if (err == nil) != (len(items) > 0) {
			t.Fatalf("%d items and the error %v", len(items), err)
		}
		for _, item := range items {
			if item.Err != nil && (strings.Contains(item.Err.Error(), "a defect") || len(item.Err.Error()) > 1000) {
				t.Fatal(item.Err)
			}
			if (item.Err == nil) == item.Event.User.IsZero() {
				t.Fatalf("item %+v: a good event has a user, a bad one none", item)
			}
			if item.Err == nil {
				checkUser(t, item.Event.User)
			}
		}
	})
}

// checkUser fails if a user could lead a URL astray.
func checkUser(t *testing.T, u event.User) {
	t.Helper()
	if u.Key() == "" || u.Key() != strings.ToLower(u.Name()) {
		t.Fatalf("key %q of %q", u.Key(), u.Name())
	}
	segment := url.PathEscape(u.Name())
	if strings.ContainsAny(segment, "/?#\\ ") || strings.Contains(segment, "..") || segment == "." || segment == "me-token-to-replace" {
		t.Fatalf("path segment %q", segment)
	}
}

func BenchmarkDecode(b *testing.B) {
	d := decoder(b)
	m := event.Message{ContentType: "application/cloudevents+json", Body: []byte(cloudEvent("time", `"2026-03-01T12:00:00Z"`))}
	b.ReportAllocs()
	for b.Loop() {
		if items, err := d.Decode(m); err != nil || items[0].Err != nil {
			b.Fatal(items, err)
		}
	}
}

func TestDecodeReadsWhenAnAnnouncementTakesEffect(t *testing.T) {
	effective := time.Date(2026, 3, 31, 16, 0, 0, 0, time.UTC)
	const fields = `"userId":"` + userID + `","effectiveTime":"2026-03-31T18:00:00+02:00","withdrawn":true`
	binary := event.Message{Body: []byte("{" + fields + "}"), Properties: map[string]any{
		"cloudEvents:specversion": "1.0", "cloudEvents:id": "7", "cloudEvents:source": "/hr", "cloudEvents:type": "user.offboarded",
	}}
	for name, m := range map[string]event.Message{
		"plain":       text(`{"type":"user.offboarded",` + fields + `}`),
		"CloudEvents": text(cloudEvent("data", "{"+fields+"}")),
		"binary":      binary,
		"Event Grid":  text(`{"id":"1","topic":"/hr","eventType":"user.offboarded","data":{` + fields + `}}`),
	} {
		items, err := decoder(t).Decode(m)
		if err != nil || items[0].Err != nil {
			t.Fatalf("%s: %v, %v", name, err, items)
		}
		if e := items[0].Event; !e.TakesEffect.Equal(effective) || !e.Withdrawn || e.User.ID() != userID {
			t.Errorf("%s: takes effect at %v, withdrawn %v, user %v", name, e.TakesEffect, e.Withdrawn, e.User)
		}
	}
	// A producer's clock that is ahead must not delay a stolen device.
	items, err := decoder(t).Decode(text(`{"type":"device.stolen","userId":"` + userID + `","time":"2099-01-01T00:00:00Z"}`))
	if err != nil || items[0].Err != nil || !items[0].Event.TakesEffect.IsZero() {
		t.Errorf("an event from the future: %+v, %v", items, err)
	}
}

// A zone leads out of the years that JSON can hold. The audit log could not record such an event.
func TestDecodeRefusesTimesThatCannotBeRecorded(t *testing.T) {
	for _, field := range []string{"time", "effectiveTime"} {
		for _, at := range []string{"9999-12-31T23:59:59-01:00", "0000-01-01T00:00:00+01:00"} {
			items, err := decoder(t).Decode(text(fmt.Sprintf(`{"type":"device.lost","userId":%q,%q:%q}`, userID, field, at)))
			if err != nil || len(items) != 1 || items[0].Err == nil || !strings.HasPrefix(items[0].Err.Error(), field+": ") {
				t.Errorf("%s %s: %+v, %v; want an error of the field", field, at, items, err)
			}
		}
	}
}
