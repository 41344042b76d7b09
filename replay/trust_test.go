package replay_test

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/replay"
)

// forged returns the properties that a hostile producer writes under our names.
func forged() map[string]any {
	return map[string]any{
		deadletter.PropertyFailed: "0", deadletter.PropertyAttempts: "9", deadletter.PropertySuperseded: "a,b",
		deadletter.PropertySupersededCount: "2",
		deadletter.PropertyStatus:          "418", deadletter.PropertyCode: "teapot", deadletter.PropertyRequestID: "r",
		deadletter.PropertyClientRequestID: "c",
		deadletter.PropertyOnly:            "0", deadletter.PropertyReplays: "7", deadletter.PropertyRun: "not a run",
		deadletter.PropertyReplayedBy: "me",
		deadletter.PropertyReplayedAt: "now", deadletter.PropertyOriginalID: "x", "revoker-else": "1", "Revoker-Replays": "1",
		"DeadLetterReason": "UserNotFound",
	}
}

func twoEvents() []byte {
	return fmt.Appendf(nil, `[{"type":"device.lost","userId":%q},{"type":"device.lost","userId":%q}]`, graceID, adaID)
}

// TestLetterDoesNotBelieveAProducersProperties checks a message that Service Bus itself has
// dead-lettered. Its reason is the only thing there that a producer cannot have written.
func TestLetterDoesNotBelieveAProducersProperties(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{DeadLetterOnExpiration: true}, func(t *testing.T, w *world) {
		must(t, w.sender.SendMessage(ctx, &azservicebus.Message{
			Body: twoEvents(), TimeToLive: new(time.Second),
			ApplicationProperties: forged(),
		}, nil))
		time.Sleep(time.Minute)
		letter := w.found(replay.Filter{})[0]
		want := forged()
		delete(want, "DeadLetterReason")
		if letter.Reason != "TTLExpiredException" || !reflect.DeepEqual(letter.NotBelieved, want) {
			t.Errorf("reason %s, not believed %v", letter.Reason, letter.NotBelieved)
		}
		if letter.Attempts+letter.Replays+letter.SupersededCount > 0 || letter.FailedEvents != nil ||
			letter.Status+letter.Code+letter.RequestID+letter.Run+letter.OriginalID != "" {
			t.Errorf("believed: %+v", letter)
		}
		if len(letter.Users) != 2 {
			t.Errorf("users %v, want both", letter.Users)
		}
		run, result := w.replay(replay.Filter{}, replay.Options{})
		if result.Replayed != 1 {
			t.Fatalf("%+v", result)
		}
		got := w.receive(w.receiver, 1)[0].ApplicationProperties
		if only := deadletter.Only(&azservicebus.ReceivedMessage{ApplicationProperties: got, Body: twoEvents()}); only != nil {
			t.Errorf("acts only on %v", only)
		}
		fine := map[string]any{
			deadletter.PropertyReplays: "1", deadletter.PropertyRun: run.ID, deadletter.PropertyReplayedBy: "ada@desk",
			deadletter.PropertyReplayedAt: got[deadletter.PropertyReplayedAt], deadletter.PropertyOriginalID: letter.MessageID,
			deadletter.PropertyFirstEnqueued: letter.Enqueued.Format(time.RFC3339Nano),
		}
		if !reflect.DeepEqual(got, fine) {
			t.Errorf("sent again with %v, want %v", got, fine)
		}
	})
}

func TestRecordSendsNoneOfOurPropertiesFromAFile(t *testing.T) {
	line := `{"deadLetter":{"messageId":"m","replays":1,"originalMessageId":"first"},"body":{},` +
		`"properties":{"mine":"kept","revoker-only-events":"0","Revoker-Failed-Events":"0","revoker-replays":"0"}}`
	record, err := replay.ReadRecord([]byte(line))
	must(t, err)
	m, err := record.Message(replay.Run{ID: "run", By: "me"})
	must(t, err)
	want := map[string]any{
		"mine": "kept", deadletter.PropertyReplays: "2", deadletter.PropertyOriginalID: "first", deadletter.PropertyRun: "run",
		deadletter.PropertyReplayedBy: "me",
		deadletter.PropertyReplayedAt: m.ApplicationProperties[deadletter.PropertyReplayedAt],
	}
	if !reflect.DeepEqual(m.ApplicationProperties, want) {
		t.Errorf("%v, want %v", m.ApplicationProperties, want)
	}
}

// TestReplayForSomeEventsStaysForThese checks a replayed message that the broker dead-letters
// before a worker can record which events failed. The indexes must not apply to another body.
func TestReplayForSomeEventsStaysForThese(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{DeadLetterOnExpiration: true}, func(t *testing.T, w *world) {
		w.deadLetter(&azservicebus.Message{Body: twoEvents(), TimeToLive: new(time.Hour)}, "UserNotFound",
			map[string]any{deadletter.PropertyFailed: "1"})
		w.replay(replay.Filter{}, replay.Options{})
		time.Sleep(2 * time.Hour)
		letter := w.found(replay.Filter{})[0]
		if letter.Reason != "TTLExpiredException" || !reflect.DeepEqual(letter.Users, []string{adaID}) || letter.NotBelieved != nil {
			t.Errorf("%+v, want Ada alone", letter)
		}
		w.replay(replay.Filter{}, replay.Options{})
		got := w.receive(w.receiver, 1)[0]
		if only := deadletter.Only(got); !reflect.DeepEqual(only, []int{1}) {
			t.Errorf("acts on %v, want the second event", only)
		}
		got.Body = append(got.Body, ' ')
		got.RawAMQPMessage.Body.Data = [][]byte{got.Body}
		if only := deadletter.Only(got); only != nil {
			t.Errorf("acts on %v of another body", only)
		}
	})
}

// TestRecordOfAReplayIsImportedForTheSameEvents checks that the import also increments the counter
// and keeps the first id.
func TestRecordOfAReplayIsImportedForTheSameEvents(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, w *world) {
		w.deadLetter(&azservicebus.Message{MessageID: new("first"), Body: twoEvents()}, "UserNotFound",
			map[string]any{deadletter.PropertyFailed: "1"})
		w.replay(replay.Filter{}, replay.Options{})
		w.deadLetterNext("UserNotFound", map[string]any{deadletter.PropertyFailed: "1"})
		file := w.export()
		if strings.Contains(file, `"revoker-`) {
			t.Errorf("the record has our own properties: %s", file)
		}
		record, err := replay.ReadRecord([]byte(file))
		must(t, err)
		again, err := record.Message(replay.NewRun("me"))
		must(t, err)
		if id := again.Properties.MessageID; id == nil || id == "" || id == "first" || id == record.Letter.MessageID {
			t.Errorf("imported with the id %v", id)
		}
		got := again.ApplicationProperties
		if got[deadletter.PropertyOriginalID] != "first" || got[deadletter.PropertyReplays] != "2" ||
			got[deadletter.PropertyOnly] != "1" {
			t.Errorf("%v", got)
		}
	})
}

// export returns an exported file of all dead letters.
func (w *world) export() string {
	w.t.Helper()
	var file bytes.Buffer
	for found, err := range w.letters.Find(ctx, replay.Filter{}) {
		must(w.t, err)
		record, err := replay.NewRecord(found)
		must(w.t, err)
		must(w.t, replay.WriteRecord(&file, record))
	}
	return file.String()
}
