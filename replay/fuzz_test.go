package replay_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/replay"
)

// FuzzReadRecord checks that each line is a record or an error. A record must survive being written
// and read again, and its message must carry only those of our properties that the run writes.
func FuzzReadRecord(f *testing.F) {
	for _, line := range []string{
		`{}`, `null`, `{"sequenceNumber":1,"messageId":"x","body":"{}"}`, `{"bodyBase64":"%%%"}`, `{"bodyAmqp":"AFN3"}`, `{"unknown":1}`,
		`[1]`, strings.Repeat("[", 10000),
		`{"body":{},"properties":{"a":{"type":"uuid","value":"x"}}}`, `{"body":{},"properties":{"a":{"type":"bytes","value":"AA=="}}}`,
		`{"deadLetter":{"replays":2,"originalMessageId":"first"},"bodyText":"x","onlyEvents":[1],"properties":{"revoker-replays":"9"}}`,
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := replay.ReadRecord(line)
		if err != nil {
			return
		}
		once := writtenAndRead(t, r) // this normalizes the white space of a JSON body
		if twice := writtenAndRead(t, once); !reflect.DeepEqual(once, twice) {
			t.Errorf("%+v became %+v", once, twice)
		}
		m, err := r.Message(replay.Run{ID: "run"})
		if err != nil {
			return
		}
		set := m.ApplicationProperties
		if m.Properties.MessageID == nil || m.Properties.MessageID == r.Letter.MessageID || set[deadletter.PropertyRun] != "run" {
			t.Errorf("id %v, properties %v", m.Properties.MessageID, set)
		}
		delete(set, deadletter.PropertyRun)
		for _, name := range []string{
			deadletter.PropertyReplays, deadletter.PropertyReplayedAt, deadletter.PropertyReplayedBy, deadletter.PropertyOriginalID,
			deadletter.PropertyOnly, deadletter.PropertyOnlyOf,
		} {
			delete(set, name)
		}
		for name := range set {
			if deadletter.Reserved(name) {
				t.Errorf("the message carries %s", name)
			}
		}
	})
}

func writtenAndRead(t *testing.T, r replay.Record) replay.Record {
	t.Helper()
	var line bytes.Buffer
	must(t, replay.WriteRecord(&line, r))
	again, err := replay.ReadRecord(line.Bytes())
	if err != nil {
		t.Fatalf("%v: %s", err, &line)
	}
	return again
}
