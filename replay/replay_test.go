package replay_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/replay"
)

func TestReplayChangesOnlyTheIDAndWhatMadeItADeadLetter(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, w *world) {
		at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		sent := &azservicebus.Message{
			MessageID: new("original"), Body: []byte("{ \"userId\" : \"" + adaID + "\" }\r\n"), ContentType: new("application/json"),
			Subject:       new("subject"),
			CorrelationID: new("correlation"), ReplyTo: new("reply"), To: new("to"), PartitionKey: new("partition"),
			TimeToLive:           new(24 * time.Hour),
			ScheduledEnqueueTime: new(time.Now().Add(30 * time.Second)),
			ApplicationProperties: map[string]any{
				"text": "ü", "int32": int32(-7), "int64": int64(1) << 60, "uint8": uint8(255), "float": 1.5, "true": true, "time": at,
			},
		}
		w.deadLetter(sent, "RetriesExhausted", map[string]any{deadletter.PropertyAttempts: "8", deadletter.PropertyCode: "x"})
		run, result := w.replay(replay.Filter{}, replay.Options{})
		if result.Replayed != 1 {
			t.Fatalf("%+v", result)
		}
		w.counts(1, 0)
		got := w.receive(w.receiver, 1)[0]
		if !bytes.Equal(got.Body, sent.Body) || *got.ContentType != "application/json" || *got.Subject != "subject" ||
			*got.CorrelationID != "correlation" ||
			*got.ReplyTo != "reply" || *got.To != "to" || *got.PartitionKey != "partition" || *got.TimeToLive != 24*time.Hour {
			t.Errorf("changed: %+v", got)
		}
		if got.MessageID == "original" || len(got.MessageID) != 36 || got.ScheduledEnqueueTime != nil || got.DeadLetterReason != nil ||
			got.DeliveryCount != 1 {
			t.Errorf("id %q, schedule %v, reason %v, delivery %d", got.MessageID, got.ScheduledEnqueueTime, got.DeadLetterReason,
				got.DeliveryCount)
		}
		want := map[string]any{
			deadletter.PropertyOriginalID: "original", deadletter.PropertyReplays: "1", deadletter.PropertyRun: run.ID,
			deadletter.PropertyReplayedBy:    "ada@desk",
			deadletter.PropertyFirstEnqueued: time.Now().UTC().Truncate(time.Second).Format(time.RFC3339),
			deadletter.PropertyReplayedAt:    got.ApplicationProperties[deadletter.PropertyReplayedAt],
		}
		maps.Copy(want, sent.ApplicationProperties)
		if when, ok := got.ApplicationProperties["time"].(time.Time); !ok || !when.Equal(at) {
			t.Errorf("time %v", got.ApplicationProperties["time"])
		}
		got.ApplicationProperties["time"] = at
		if !reflect.DeepEqual(got.ApplicationProperties, want) {
			t.Errorf("properties %v, want %v", got.ApplicationProperties, want)
		}
	})
}

func TestReplayAndRecordKeepBodiesOfEveryKind(t *testing.T) {
	for name, body := range map[string]azservicebus.AMQPAnnotatedMessageBody{
		"data":          {Data: [][]byte{{0, 1, 2, 255}}},
		"several datas": {Data: [][]byte{[]byte("one"), []byte("two")}},
		"value":         {Value: map[string]any{"userId": adaID, "n": int64(5)}},
		"sequence":      {Sequence: [][]any{{"a", int64(1)}, {"b"}}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, w *world) {
				must(t, w.sender.SendAMQPAnnotatedMessage(ctx,
					&azservicebus.AMQPAnnotatedMessage{
						Body:       body,
						Properties: &azservicebus.AMQPAnnotatedMessageProperties{CorrelationID: uint64(7)},
					}, nil))
				w.deadLetterNext("InvalidEvent", nil)
				var file bytes.Buffer
				for found, err := range w.letters.Find(ctx, replay.Filter{}) {
					must(t, err)
					record, err := replay.NewRecord(found)
					must(t, err)
					must(t, replay.WriteRecord(&file, record))
				}
				w.replay(replay.Filter{}, replay.Options{})
				record, err := replay.ReadRecord(file.Bytes())
				must(t, err)
				imported, err := record.Message(replay.NewRun("x"))
				must(t, err)
				must(t, w.sender.SendAMQPAnnotatedMessage(ctx, imported, nil))
				for i, got := range w.receive(w.receiver, 2) {
					want := body
					if i == 1 && len(want.Data) > 1 {
						want.Data = [][]byte{bytes.Join(want.Data, nil)} // the same bytes
					}
					if raw := got.RawAMQPMessage; !reflect.DeepEqual(raw.Body, want) || raw.Properties.CorrelationID != uint64(7) {
						t.Errorf("%d: %+v, correlation %v; want %+v", i, raw.Body, raw.Properties.CorrelationID, want)
					}
				}
			})
		})
	}
}

func TestReplayIsNotDroppedByDuplicateDetection(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{DuplicateWindow: 24 * time.Hour}, func(t *testing.T, w *world) {
		m := about(adaID)
		m.MessageID = new("same")
		w.deadLetter(m, "RetriesExhausted", nil)
		for n := 1; n <= 3; n++ {
			w.replay(replay.Filter{}, replay.Options{})
			w.counts(1, 0)
			w.deadLetterNext("RetriesExhausted", nil)
		}
		letter := w.found(replay.Filter{})[0]
		if letter.Replays != 3 {
			t.Errorf("%d replays, want 3", letter.Replays)
		}
		plan, err := w.letters.PlanReplay(ctx, replay.Filter{}, replay.NewRun(""), 3, nil)
		must(t, err)
		if plan.Selected != 0 || plan.TooOften != 1 {
			t.Errorf("a poison message may circulate forever: %+v", plan)
		}
		w.receiver = w.dead
		if got := w.receive(w.dead, 1)[0].ApplicationProperties[deadletter.PropertyOriginalID]; got != "same" {
			t.Errorf("original id %v", got)
		}
	})
}

func TestPlanLeavesOutWhatTheRunHasSent(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, w *world) {
		w.deadLetter(about(adaID), "RetriesExhausted", nil)
		run, _ := w.replay(replay.Filter{}, replay.Options{})
		w.deadLetterNext("RetriesExhausted", nil)
		plan, err := w.letters.PlanReplay(ctx, replay.Filter{}, run, 3, nil)
		must(t, err)
		if plan.Selected != 0 || plan.OwnRun != 1 {
			t.Errorf("%+v", plan)
		}
	})
}

// TestReplayOfOneLetterBehindManyOthers checks that the other letters stay unchanged, although the
// replay must receive them first.
func TestReplayOfOneLetterBehindManyOthers(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{LockDuration: 30 * time.Second}, func(t *testing.T, w *world) {
		const others = 3000
		for range others {
			w.deadLetter(about(graceID), "RetriesExhausted", nil)
		}
		w.deadLetter(about(adaID), "NotRevoked", nil)
		before, err := w.broker.Peek(queueName+"/$DeadLetterQueue", 0, others)
		must(t, err)

		start := time.Now()
		_, result := w.replay(replay.Filter{User: strings.ToUpper(adaID)}, replay.Options{Rate: 15})
		if result.Replayed != 1 || time.Since(start) > 10*time.Second {
			t.Errorf("%+v in %v", result, time.Since(start))
		}
		w.counts(1, others)
		after, err := w.broker.Peek(queueName+"/$DeadLetterQueue", 0, others)
		must(t, err)
		for i := range before {
			before[i].DeliveryCount, after[i].DeliveryCount = 0, 0
			if !reflect.DeepEqual(before[i], after[i]) {
				t.Fatalf("changed: %+v, was %+v", after[i], before[i])
			}
		}
		w.receive(w.dead, others) // this fails unless all are unlocked
	})
}

func TestReplayActsOnlyOnFailedEvents(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, w *world) {
		m := &azservicebus.Message{Body: fmt.Appendf(nil, `[{"type":"device.lost","userId":%q},{"type":"device.lost","userId":%q}]`,
			graceID, adaID)}
		w.deadLetter(m, "UserNotFound", map[string]any{deadletter.PropertyFailed: "1"})
		if letter := w.found(replay.Filter{User: adaID})[0]; !reflect.DeepEqual(letter.Users, []string{adaID}) ||
			!reflect.DeepEqual(letter.FailedEvents, []int{1}) {
			t.Errorf("%+v", letter)
		}
		if others := w.found(replay.Filter{User: graceID}); len(others) != 0 {
			t.Errorf("grace did not fail: %+v", others)
		}
		w.replay(replay.Filter{}, replay.Options{})
		got := w.receive(w.receiver, 1)[0]
		if got.ApplicationProperties[deadletter.PropertyOnly] != "1" || got.ApplicationProperties[deadletter.PropertyFailed] != nil {
			t.Errorf("%v", got.ApplicationProperties)
		}
	})
}

func TestReplayKeepsTheRate(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{LockDuration: 5 * time.Second}, func(t *testing.T, w *world) {
		for range 60 {
			w.deadLetter(about(adaID), "RetriesExhausted", nil)
		}
		done := 0
		start := time.Now()
		_, result := w.replay(replay.Filter{}, replay.Options{Rate: 2, Parallel: 4, Progress: func(n int) { done += n }})
		if took := time.Since(start); result.Replayed != 60 || took < 29*time.Second || took > 40*time.Second || done != 60 {
			t.Errorf("%+v in %v, want 60 in about 30 s; the progress shows %d", result, took, done)
		}
		w.counts(60, 0)
	})
}

func TestReplayUnlocksTheRestWhenStopped(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{LockDuration: 5 * time.Minute}, func(t *testing.T, w *world) {
		for range 100 {
			w.deadLetter(about(adaID), "RetriesExhausted", nil)
		}
		run := replay.NewRun("")
		plan, err := w.letters.PlanReplay(ctx, replay.Filter{}, run, 3, nil)
		must(t, err)
		stopped, stop := context.WithTimeout(ctx, 10*time.Second)
		defer stop()
		result, err := w.letters.Replay(stopped, w.sender, run, plan, replay.Options{Rate: 5})
		must(t, err)
		if result.Replayed < 45 || result.Replayed > 60 || result.Replayed+result.Left != 100 {
			t.Fatalf("%+v", result)
		}
		w.counts(result.Replayed, result.Left)
		w.receive(w.dead, result.Left)
	})
}

func TestReplayWaitsForLocksOfAKilledRun(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{LockDuration: time.Minute}, func(t *testing.T, w *world) {
		for range 10 {
			w.deadLetter(about(adaID), "RetriesExhausted", nil)
		}
		w.receive(w.dead, 4) // and nothing settles them
		waited := 0
		_, result := w.replay(replay.Filter{}, replay.Options{ReceiveOptions: replay.ReceiveOptions{Waiting: func(n int) { waited = n }}})
		if result.Replayed != 10 || waited != 4 {
			t.Errorf("%+v after waiting for %d, want 10 after 4", result, waited)
		}
		w.counts(10, 0)
		w.deadLetterNext("RetriesExhausted", nil)
		w.receive(w.dead, 1)
		_, result = w.replay(replay.Filter{}, replay.Options{ReceiveOptions: replay.ReceiveOptions{Wait: 10 * time.Second}})
		if result.Replayed != 0 || result.Left != 1 {
			t.Errorf("%+v, want one that is left", result)
		}
	})
}

// unreliable loses the answers to the first completions. completes selects whether the broker gets
// these completions.
type unreliable struct {
	*azservicebus.Receiver
	lose      int
	completes bool
}

func (u *unreliable) CompleteMessage(ctx context.Context, m *azservicebus.ReceivedMessage, o *azservicebus.CompleteMessageOptions) error {
	if u.lose == 0 {
		return u.Receiver.CompleteMessage(ctx, m, o)
	}
	u.lose--
	if u.completes {
		_ = u.Receiver.CompleteMessage(ctx, m, o)
	}
	return &azservicebus.Error{Code: azservicebus.CodeLockLost}
}

func TestReplaySendsOnceIfTheCompletionIsLost(t *testing.T) {
	for _, completes := range []bool{true, false} {
		t.Run(fmt.Sprintf("carried out %v", completes), func(t *testing.T) {
			inBubble(t, servicebus.QueueConfig{LockDuration: 10 * time.Second}, func(t *testing.T, w *world) {
				w.deadLetter(about(adaID), "RetriesExhausted", nil)
				w.letters.Open = func() (replay.Receiver, error) {
					receiver, err := w.openDead()
					return &unreliable{receiver, 1, completes}, err
				}
				_, result := w.replay(replay.Filter{}, replay.Options{})
				if result.Replayed != 1 || result.Gone != 0 || result.Left != 0 {
					t.Errorf("%+v", result)
				}
				w.counts(1, 0)
			})
		})
	}
}

func TestReplayLeavesAMessageThatIsTooLarge(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, w *world) {
		big := about(adaID)
		big.ApplicationProperties = map[string]any{"pad": strings.Repeat("x", 256<<10-400)}
		w.deadLetter(big, "RetriesExhausted", nil)
		for range 5 {
			w.deadLetter(about(graceID), "RetriesExhausted", nil)
		}
		_, result := w.replay(replay.Filter{}, replay.Options{})
		if result.Replayed != 5 || result.Failed != 1 || len(result.Problems) != 1 || result.Left != 0 {
			t.Errorf("%+v", result)
		}
		w.counts(5, 1)
		w.receive(w.dead, 1)
	})
}

func TestReplayLosesNothingWhenTheSenderFails(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{LockDuration: 5 * time.Minute}, func(t *testing.T, w *world) {
		w.deadLetter(about(adaID), "RetriesExhausted", nil)
		nowhere, err := w.client.NewSender("nowhere", nil)
		must(t, err)
		run := replay.NewRun("")
		plan, err := w.letters.PlanReplay(ctx, replay.Filter{}, run, 3, nil)
		must(t, err)
		result, err := w.letters.Replay(ctx, nowhere, run, plan, replay.Options{})
		var answer *azservicebus.Error
		if !errors.As(err, &answer) || answer.Code != azservicebus.CodeNotFound || result.Left != 1 {
			t.Errorf("%+v, %v", result, err)
		}
		w.receive(w.dead, 1)
	})
}

func TestReplayKeepsTheSession(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{RequiresSession: true}, func(t *testing.T, w *world) {
		for _, session := range []string{"ada", "grace", "ada"} {
			m := about(adaID)
			m.SessionID = &session
			must(t, w.sender.SendMessage(ctx, m, nil))
		}
		for _, session := range []string{"ada", "grace"} {
			receiver, err := w.client.AcceptSessionForQueue(ctx, queueName, session, nil)
			must(t, err)
			limited, cancel := context.WithTimeout(ctx, time.Second)
			messages, err := receiver.ReceiveMessages(limited, 5, nil)
			cancel()
			must(t, err)
			for _, m := range messages {
				must(t, receiver.DeadLetterMessage(ctx, m, nil))
			}
			must(t, receiver.Close(ctx))
		}
		_, result := w.replay(replay.Filter{}, replay.Options{})
		if result.Replayed != 3 {
			t.Fatalf("%+v", result)
		}
		for session, want := range map[string]int{"ada": 2, "grace": 1} {
			receiver, err := w.client.AcceptSessionForQueue(ctx, queueName, session, nil)
			must(t, err)
			limited, cancel := context.WithTimeout(ctx, time.Second)
			messages, err := receiver.ReceiveMessages(limited, 5, nil)
			cancel()
			must(t, err)
			if len(messages) != want {
				t.Errorf("%d messages of session %s, want %d", len(messages), session, want)
			}
			must(t, receiver.Close(ctx))
		}
	})
}

// TestPlanLimitDoesNotCountWhatIsLeftOut checks letters that were replayed too often, letters that
// this run has replayed, and letters that cannot be read.
func TestPlanLimitDoesNotCountWhatIsLeftOut(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, w *world) {
		run := replay.NewRun("")
		for _, before := range []struct {
			run     replay.Run
			replays int
		}{{replay.NewRun(""), 2}, {run, 0}} { // the first letter was replayed three times, the second by this run
			again, err := replay.Record{Letter: replay.Letter{Replays: before.replays}, Body: []byte(`{}`)}.Message(before.run)
			must(t, err)
			must(t, w.sender.SendAMQPAnnotatedMessage(ctx, again, nil))
			w.deadLetterNext("RetriesExhausted", nil)
		}
		w.deadLetter(standIn(), "UnreadableMessage", nil)
		for range 3 {
			w.deadLetter(about(adaID), "RetriesExhausted", nil)
		}
		var picked []replay.Letter
		plan, err := w.letters.PlanReplay(ctx, replay.Filter{Limit: 2}, run, 3, func(l replay.Letter) { picked = append(picked, l) })
		must(t, err)
		if plan.Selected != 2 || plan.TooOften != 1 || plan.OwnRun != 1 || plan.Unreadable != 1 ||
			!slices.Equal(sequences(picked), []int64{4, 5}) {
			t.Errorf("%+v: %v", plan, sequences(picked))
		}
	})
}

// TestReplayCountsWhatIsSentAndNeverCompleted checks messages that are in the queue and in the
// dead-letter queue at the end.
func TestReplayCountsWhatIsSentAndNeverCompleted(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{LockDuration: 10 * time.Second}, func(t *testing.T, w *world) {
		w.deadLetter(about(adaID), "RetriesExhausted", nil)
		w.letters.Open = func() (replay.Receiver, error) {
			receiver, err := w.openDead()
			return &broken{receiver}, err
		}
		run := replay.NewRun("")
		plan, err := w.letters.PlanReplay(ctx, replay.Filter{}, run, 3, nil)
		must(t, err)
		result, err := w.letters.Replay(ctx, w.sender, run, plan, replay.Options{})
		var lost *azservicebus.Error
		if !errors.As(err, &lost) || result.Twice != 1 || result.Replayed+result.Failed+result.Gone+result.Left != 0 {
			t.Errorf("%+v, %v; want one that was sent and not completed", result, err)
		}
		w.counts(1, 1)
	})
}

// broken fails to complete any message.
type broken struct{ *azservicebus.Receiver }

func (*broken) CompleteMessage(context.Context, *azservicebus.ReceivedMessage, *azservicebus.CompleteMessageOptions) error {
	return &azservicebus.Error{Code: azservicebus.CodeConnectionLost}
}

// TestReplayStopsWaitingWhenThePeekFails checks a failure of the peek that shows whether the
// letters that another receiver has locked still exist.
func TestReplayStopsWaitingWhenThePeekFails(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{LockDuration: 5 * time.Minute}, func(t *testing.T, w *world) {
		w.deadLetter(about(adaID), "RetriesExhausted", nil)
		w.receive(w.dead, 1) // and nothing settles it
		run := replay.NewRun("")
		plan, err := w.letters.PlanReplay(ctx, replay.Filter{}, run, 3, nil)
		must(t, err)
		w.letters.Receiver = silent{w.dead}
		start := time.Now()
		result, err := w.letters.Replay(ctx, w.sender, run, plan, replay.Options{})
		if !errors.Is(err, context.DeadlineExceeded) || result.Left != 1 || time.Since(start) > time.Minute {
			t.Errorf("%+v, %v after %v", result, err, time.Since(start))
		}
	})
}
