package rule_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

func TestAction(t *testing.T) {
	set := func(name string, value any) rule.Change { return rule.Change{Name: name, Value: value} }
	system := func(name string, value any) rule.Change { return rule.Change{System: true, Name: name, Value: value} }
	cases := map[string][]rule.Change{
		"SET new = 'x'":                                     {set("new", "x")},
		"set COLOR = 'blue';":                               {set("color", "blue")},
		"SET count = count / 2":                             {set("Count", int32(3))}, // keeps its type
		"SET count = 2.5 SET count = 3.5":                   {set("Count", int32(2)), set("Count", int32(4))},
		"SET count = '12'":                                  {set("Count", int32(12))},
		"SET color = 1 + 1":                                 {set("color", "2")},
		"SET urgent = 0":                                    {set("urgent", false)},
		"SET urgent = 'False'":                              {set("urgent", false)},
		"SET took = '1.02:03:04.5'":                         {set("took", 26*time.Hour+3*time.Minute+4500*time.Millisecond)},
		"SET sent = '2026-11-30T01:02:03Z'":                 {set("sent", time.Date(2026, 11, 30, 1, 2, 3, 0, time.UTC))},
		"SET id = '{01000000-0000-0000-0000-000000000002}'": {set("id", rule.GUID{0: 1, 15: 2})},
		"SET a = 1; SET b = a + 1, REMOVE a SET c = a": {
			set("a", int64(1)), set("b", int64(2)), {Name: "a", Removed: true}, set("c", nil),
		},
		"SET new = missing":                      {set("new", nil)},
		"SET color = missing":                    {set("color", nil)},
		"REMOVE COLOR; SET color = 5":            {{Name: "color", Removed: true}, set("color", int64(5))},
		"REMOVE missing":                         {{Name: "missing", Removed: true}},
		"SET sys.Label = color + '!'":            {system("label", "red!")},
		"SET sys.Subject = 5":                    {system("label", "5")},
		"SET sys.TimeToLive = '00:01'":           {system("timetolive", time.Minute)},
		"REMOVE sys.SessionId":                   {{System: true, Name: "sessionid", Removed: true}},
		"SET sys.To = missing":                   {{System: true, Name: "to", Removed: true}},
		"SET [my prop] = p('co' + 'lor')":        {set("my prop", "red")},
		"SET sys.To = sys.Label":                 {system("to", "stolen")},
		"SET sys.ScheduledEnqueueTimeUtc = sent": {system("scheduledenqueuetimeutc", noon)},
	}
	for text, want := range cases {
		action, err := rule.NewAction(text, nil)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		m := message()
		got, err := action.Apply(m)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, %v, want %v", text, got, err, want)
		}
		if !reflect.DeepEqual(m.User, message().User) || m.System("label") != "stolen" || m.System("sessionid") != "ada" {
			t.Errorf("%s changed the message itself", text)
		}
	}
	action, err := rule.NewAction("SET a = @x SET b = newid()", map[string]any{"@x": int64(5)})
	if err != nil {
		t.Fatal(err)
	}
	changes, err := action.Apply(&rule.Message{})
	if err != nil || changes[0].Value != int64(5) {
		t.Errorf("%v, %v", changes, err)
	}
	if _, ok := changes[1].Value.(rule.GUID); !ok {
		t.Errorf("newid() is a %T", changes[1].Value)
	}
}

func TestActionErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                             "column 1: expected SET or REMOVE",
		"color = 'x'":                  "expected SET or REMOVE",
		"SET color":                    "column 10: expected =",
		"SET = 'x'":                    "expected the name of a property",
		"SET color = (1 = 1)":          "expected a value",
		"SET color = 1;; ":             "expected SET or REMOVE",
		"SET sys.SequenceNumber = 1":   "column 5: the system property sys.SequenceNumber cannot be changed",
		"REMOVE sys.Foo":               "there is no system property",
		"REMOVE":                       "expected the name of a property",
		"SET a = @p":                   "has no value",
		strings.Repeat("SET a=1 ", 33): "more than 32 statements",
	} {
		if _, err := rule.NewAction(text, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", text, err, want)
		}
	}
	longID := "SET sys.SessionId = '" + strings.Repeat("x", 129) + "'"
	for text, want := range map[string]string{
		"SET a = 1 SET count = 'many'": "column 11: Count: a value of type string cannot become one of type int",
		"SET count = 99999999999":      "cannot become one of type int",
		"SET tiny = 300":               "sbyte",
		"SET count = missing":          "a missing value cannot replace",
		"SET a = 1 / 0":                "division by zero",
		"SET sys.MessageId = missing":  "sys.MessageId cannot be missing",
		"REMOVE sys.TimeToLive":        "sys.TimeToLive cannot be missing",
		"SET sys.TimeToLive = 5":       "cannot become one of type TimeSpan",
		longID:                         "at most 128",
	} {
		action, err := rule.NewAction(text, nil)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if changes, err := action.Apply(message()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, error %v, want one with %q", text, changes, err, want)
		}
	}
}

// FuzzAction checks that an action changes a message as its changes say: a filter sees the last
// value of each property.
func FuzzAction(f *testing.F) {
	for _, seed := range []string{
		"SET a = count + 1; REMOVE color", "SET sys.Label = color + 'x' SET sys.To = sys.Label",
		"SET [b c] = 1.5",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		action, err := rule.NewAction(text, nil)
		if err != nil {
			return
		}
		m := message()
		changes, err := action.Apply(m)
		if !reflect.DeepEqual(m.User, message().User) {
			t.Fatalf("%q changed the message itself", text)
		}
		if err != nil {
			return
		}
		for i, c := range changes {
			switch {
			case c.Removed && c.Value != nil, c.Name == "" && c.System:
				t.Errorf("%q: change %d is %v", text, i, c)
			case c.Removed:
				delete(m.User, c.Name)
			case !c.System:
				m.User[c.Name] = c.Value
			}
		}
		for _, c := range changes {
			name := "[" + strings.ReplaceAll(c.Name, "]", "]]") + "]"
			exists, err := rule.NewSQL("EXISTS("+name+")", nil)
			if c.System || err != nil {
				continue
			}
			_, want := m.User[c.Name]
			if got, _ := exists.Match(m); want && !got {
				t.Errorf("%q: %s does not exist after %s", text, name, fmt.Sprint(changes))
			}
		}
	})
}
