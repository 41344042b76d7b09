package mapping

import (
	"testing"
	"time"

	"cel.dev/cel-go/common/types"

	"cel.dev/cel-go/common/types/ref"
	"github.com/session-revoker/session-revoker/event"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	z, err := LoadZone(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestTimesAreReadInTheFormsOfRealProducers(t *testing.T) {
	chicago := zone(t, "America/Chicago")
	for _, c := range []struct {
		value ref.Val
		forms []string // nil for the default ones
		want  string   // "" if it is not readable
	}{
		{types.String("2026-03-01T12:00:00Z"), nil, "2026-03-01T12:00:00Z"},
		{types.String("2022-01-16T09:13:59.5720125Z"), nil, "2022-01-16T09:13:59.5720125Z"},
		{types.String("2022-01-16T09:13:59.57201Z"), nil, "2022-01-16T09:13:59.57201Z"},
		{types.String("2026-03-01t12:00:00.123456789z"), nil, "2026-03-01T12:00:00.123456789Z"},
		{types.String("2017-01-01T00:03:07.1589002-08:00"), nil, "2017-01-01T08:03:07.1589002Z"},
		{types.String("2026-03-01T12:00:00.1234567890Z"), nil, ""},
		{types.String("2026-03-01T12:00:00"), nil, "2026-03-01T18:00:00Z"},
		{types.String("2023-10-26 12:23:58.7994868"), nil, "2023-10-26T17:23:58.7994868Z"},
		{types.String("2026-03-01"), nil, "2026-03-01T06:00:00Z"},
		{types.String("2026-02-30"), nil, ""},
		{types.String("2/12/2026 6:43:08 AM"), []string{formUS}, "2026-02-12T12:43:08Z"},
		{types.String("2/12/2026 6:43:08 PM"), []string{formUS}, "2026-02-13T00:43:08Z"},
		{types.String("12/31/2026, 18:43"), []string{formUS}, "2027-01-01T00:43:00Z"},
		{types.String("13/2/2026 6:43:08 AM"), []string{formUS}, ""},
		{types.String("01/03/2025"), []string{formUSDate}, "2025-01-03T06:00:00Z"},
		{types.String("01/03/2025"), nil, ""}, // who knows which of the two is the month
		{types.String("2/12/2026 6:43:08 AM"), nil, ""},
		{types.Int(1725443872), nil, "2024-09-04T09:57:52Z"},
		{types.Int(1725443872001), nil, "2024-09-04T09:57:52.001Z"},
		{types.Double(1725443872.5), nil, "2024-09-04T09:57:52.5Z"},
		{types.String("1725443872001"), nil, "2024-09-04T09:57:52.001Z"},
		{types.Int(1725443872), []string{formEpochMS}, "1970-01-20T23:17:23.872Z"},
		{types.Int(1725443872001), []string{formEpochS}, ""},
		{types.Int(1725443872), []string{formRFC3339}, ""},
		{types.Int(17), nil, ""},
		{types.Int(-1725443872), nil, ""},
		{types.Double(1e300), nil, ""},
		{types.String("/Date(1368076195887)/"), nil, "2013-05-09T05:09:55.887Z"},
		{types.String("/Date(1368076195887+0200)/"), nil, "2013-05-09T05:09:55.887Z"},
		{types.String("/Date(-1)/"), nil, ""},
		{types.Timestamp{Time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}, nil, "2026-03-01T12:00:00Z"},
		{types.String("9999-12-31T23:59:59-10:00"), nil, ""}, // a year of five digits, which JSON cannot write
		{types.String("1969-12-31T23:59:59Z"), nil, ""},
		{types.String("yesterday"), nil, ""},
		{types.String(""), nil, ""},
		{types.True, nil, ""},
	} {
		forms := c.forms
		if forms == nil {
			forms = defaultForms
		}
		at, _, ok := clock{forms: forms, zone: chicago}.read(c.value)
		got := ""
		if ok {
			got = at.Format(time.RFC3339Nano)
		}
		if got != c.want {
			t.Errorf("%v %v: %q, want %q", c.value, c.forms, got, c.want)
		}
	}
}

// TestLocalTimesThatDoNotExistOrExistTwiceAreRead checks the hours in which the clocks change.
func TestLocalTimesThatDoNotExistOrExistTwiceAreRead(t *testing.T) {
	for _, c := range []struct{ zone, text, earliest, latest string }{
		{"America/Chicago", "2026-03-08T02:30:00", "2026-03-08T07:30:00Z", "2026-03-08T08:30:00Z"},
		{"America/Chicago", "2026-11-01T01:30:00", "2026-11-01T06:30:00Z", "2026-11-01T07:30:00Z"},
		{"America/Sao_Paulo", "2018-11-04", "2018-11-04T02:00:00Z", "2018-11-04T03:00:00Z"}, // midnight was skipped
	} {
		at, _, ok := clock{forms: defaultForms, zone: zone(t, c.zone)}.read(types.String(c.text))
		if got := at.Format(time.RFC3339); !ok || got < c.earliest || got > c.latest {
			t.Errorf("%s %s: %s", c.zone, c.text, got)
		}
	}
}

func TestEndOfTheLastDayIsTheBeginningOfTheNext(t *testing.T) {
	for _, c := range []struct{ zone, day, want string }{
		{"UTC", "2026-12-31", "2027-01-01T00:00:00Z"},
		{"America/Chicago", "2026-03-08", "2026-03-09T05:00:00Z"}, // 23 hours
		{"America/Sao_Paulo", "2018-11-03", "2018-11-04T03:00:00Z"},
		{"America/Sao_Paulo", "2018-11-04", "2018-11-05T02:00:00Z"},
		{"Pacific/Auckland", "2026-07-31", "2026-07-31T12:00:00Z"},
	} {
		k := clock{forms: defaultForms, zone: zone(t, c.zone)}
		at, isDate, ok := k.read(types.String(c.day))
		end := k.endOfDay(at)
		want, _ := time.Parse(time.RFC3339, c.want)
		if !ok || !isDate || end.Sub(want).Abs() > time.Hour || end.Before(at.Add(22*time.Hour)) {
			t.Errorf("%s %s: %s, want %s", c.zone, c.day, end.Format(time.RFC3339), c.want)
		}
	}
}

// 9999-12-31 means never. What takes effect then must be a time that the audit log can hold.
func TestLastDayOfAllTimeTakesEffectWithinIt(t *testing.T) {
	d, err := New(Config{Presets: []string{"workday"}})
	if err != nil {
		t.Fatal(err)
	}
	items, err := d.Decode(event.Message{Body: []byte(
		`{"Report_Entry":[{"Employment_Status":"Active","Termination_Date":"9999-12-31","Email_Address":"ada@contoso.com"}]}`)})
	if err != nil || items[0].Err != nil {
		t.Fatalf("%+v, %v", items, err)
	}
	if _, err := items[0].Event.TakesEffect.MarshalJSON(); err != nil {
		t.Error(err)
	}
}
