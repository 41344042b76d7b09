package replay_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/replay"
	"github.com/session-revoker/session-revoker/sanitizer"
)

// standIn is what the client library shows of a message that it cannot read. mended is what it
// shows of a message that it can read except for one property.
func standIn() *azservicebus.Message {
	return &azservicebus.Message{ApplicationProperties: map[string]any{sanitizer.PropertyUnreadable: "a map with a key that is a list"}}
}

func mended() *azservicebus.Message {
	m := about(adaID)
	m.ApplicationProperties = map[string]any{sanitizer.PropertyMended: "property \"grade\" (char)", "fine": "kept"}
	return m
}

// originals replaces the sanitizer, which keeps the originals of some dead letters.
func (w *world) originals(kept map[int64][]byte) {
	w.letters.Original = func(entity string, sequence int64) ([]byte, bool) {
		if entity != queueName+"/$DeadLetterQueue" {
			w.t.Errorf("asked for an original of %s", entity)
		}
		original, ok := kept[sequence]
		return original, ok
	}
}

func TestReplayNeverSendsAStandIn(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, w *world) {
		w.deadLetter(standIn(), "UnreadableMessage", nil)
		w.deadLetter(about(adaID), "RetriesExhausted", nil)
		plan, err := w.letters.PlanReplay(ctx, replay.Filter{}, replay.NewRun(""), 3, nil)
		must(t, err)
		if plan.Selected != 1 || plan.Unreadable != 1 || len(plan.Skipped) != 1 ||
			!strings.Contains(plan.Skipped[0], "sequence number 1: its body cannot be read (a map with a key that is a list)") {
			t.Errorf("%+v", plan)
		}
		_, result := w.replay(replay.Filter{}, replay.Options{})
		if result.Replayed != 1 || result.Left != 0 {
			t.Errorf("%+v", result)
		}
		w.counts(1, 1)
		w.receive(w.dead, 1) // it was unlocked
	})
}

// TestReplaySendsNoStandInThatThePlanCouldRead checks that the received message decides, not the
// peeked one.
func TestReplaySendsNoStandInThatThePlanCouldRead(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{LockDuration: time.Minute}, func(t *testing.T, w *world) {
		w.deadLetter(about(adaID), "RetriesExhausted", nil)
		w.letters.Open = func() (replay.Receiver, error) {
			receiver, err := w.openDead()
			return &replacing{receiver}, err
		}
		_, result := w.replay(replay.Filter{}, replay.Options{})
		if result.Replayed != 0 || result.Failed != 1 || result.Left != 0 || len(result.Problems) != 1 ||
			!strings.Contains(result.Problems[0], "nothing to send") {
			t.Errorf("%+v", result)
		}
		w.counts(0, 1)
		w.receive(w.dead, 1)
	})
}

// replacing returns a stand-in for each message that it receives.
type replacing struct{ replay.Receiver }

func (r *replacing) ReceiveMessages(ctx context.Context, n int, o *azservicebus.ReceiveMessagesOptions) ([]*azservicebus.ReceivedMessage,
	error,
) {
	messages, err := r.Receiver.ReceiveMessages(ctx, n, o)
	for _, m := range messages {
		if m.ApplicationProperties == nil {
			m.ApplicationProperties = map[string]any{}
		}
		m.ApplicationProperties[sanitizer.PropertyUnreadable] = "why"
	}
	return messages, err
}

func TestReplaySendsAMendedLetterWithoutTheUnreadablePart(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, w *world) {
		w.deadLetter(mended(), "RetriesExhausted", nil)
		plan, err := w.letters.PlanReplay(ctx, replay.Filter{}, replay.NewRun(""), 3, nil)
		must(t, err)
		if plan.Selected != 1 || plan.Mended != 1 {
			t.Errorf("%+v", plan)
		}
		w.replay(replay.Filter{}, replay.Options{})
		got := w.receive(w.receiver, 1)[0]
		if _, there := got.ApplicationProperties[sanitizer.PropertyMended]; there || got.ApplicationProperties["fine"] != "kept" ||
			len(got.Body) == 0 {
			t.Errorf("%+v", got)
		}
	})
}

func TestRecordKeepsTheOriginalBytes(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, w *world) {
		w.deadLetter(standIn(), "UnreadableMessage", nil)
		w.deadLetter(mended(), "RetriesExhausted", nil)
		w.originals(map[int64][]byte{1: {0, 1, 255}, 2: []byte("two")})
		lines := strings.SplitAfter(w.export(), "\n")
		for i, want := range [][]byte{{0, 1, 255}, []byte("two")} {
			record, err := replay.ReadRecord([]byte(lines[i]))
			must(t, err)
			if got, err := base64.StdEncoding.DecodeString(record.Original); err != nil || !bytes.Equal(got, want) {
				t.Errorf("line %d: %q, %v", i+1, got, err)
			}
			message, err := record.Message(replay.NewRun(""))
			if i == 0 && (!errors.Is(err, replay.ErrStandIn) || message != nil) {
				t.Errorf("a stand-in would be sent: %v, %v", message, err)
			}
			if i == 1 && (err != nil || message.ApplicationProperties[sanitizer.PropertyMended] != nil ||
				message.ApplicationProperties["fine"] != "kept") {
				t.Errorf("%+v, %v", message, err)
			}
		}
		w.originals(nil)
		for found, err := range w.letters.Find(ctx, replay.Filter{}) {
			must(t, err)
			if record, err := replay.NewRecord(found); !errors.Is(err, replay.ErrNoOriginal) ||
				record.Letter.SequenceNumber != found.SequenceNumber {
				t.Errorf("%+v, %v", record, err)
			}
		}
	})
}

// TestRecordOfAStandInIsSentWithANewBody checks a record that a person has given a body.
func TestRecordOfAStandInIsSentWithANewBody(t *testing.T) {
	record, err := replay.ReadRecord([]byte(`{"deadLetter":{"unreadable":"why"},"originalAmqp":"AAEC","body":{"type":"device.lost"}}`))
	must(t, err)
	m, err := record.Message(replay.NewRun(""))
	if err != nil || string(m.Body.Data[0]) != `{"type":"device.lost"}` {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestPurgeLeavesWhatItCannotRecord(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{LockDuration: 5 * time.Minute}, func(t *testing.T, w *world) {
		for range 60 { // more than one chunk
			w.deadLetter(standIn(), "UnreadableMessage", nil)
		}
		w.deadLetter(mended(), "UnreadableMessage", nil)
		kept := map[int64][]byte{}
		for i := range int64(58) {
			kept[i+1] = []byte("original")
		}
		w.originals(kept)
		plan, err := w.letters.PlanPurge(ctx, replay.Filter{}, nil)
		must(t, err)
		recorded := 0
		result, err := w.letters.Purge(ctx, plan, func(found []replay.Found) error {
			for _, one := range found {
				if record, err := replay.NewRecord(one); err != nil || record.Original == "" {
					t.Errorf("%+v, %v", record, err)
				}
			}
			if len(found) > 50 {
				t.Errorf("%d at once: their originals may be dropped before they are recorded", len(found))
			}
			recorded += len(found)
			return nil
		}, replay.PurgeOptions{})
		must(t, err)
		if result.Purged != 58 || recorded != 58 || result.Refused != 3 || len(result.Problems) != 3 || result.Left != 0 {
			t.Errorf("%+v, %d recorded", result, recorded)
		}
		w.counts(0, 3)
		w.receive(w.dead, 3)
	})
}
