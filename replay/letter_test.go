package replay_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/go-amqp"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/replay"
)

func sequences(letters []replay.Letter) []int64 {
	var list []int64
	for _, l := range letters {
		list = append(list, l.SequenceNumber)
	}
	return list
}

func TestFilterPicks(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, w *world) {
		start := time.Now()
		w.deadLetter(about(adaID), "RetriesExhausted", nil)
		time.Sleep(time.Hour)
		w.deadLetter(&azservicebus.Message{Body: []byte("rubbish")}, "InvalidEvent", nil)
		time.Sleep(time.Hour)
		unknown := `{"specversion":"1.0","id":"1","source":"urn:intune:eu","type":"unknown.type",` +
			`"data":{"userPrincipalName":"Grace@contoso.com"}}`
		w.deadLetter(&azservicebus.Message{Body: []byte(unknown)}, "UnknownEvent", nil)
		for name, c := range map[string]struct {
			f    replay.Filter
			want []int64
		}{
			"all":        {replay.Filter{}, []int64{1, 2, 3}},
			"reason":     {replay.Filter{Reasons: []string{"invalidevent", "RetriesExhausted"}}, []int64{1, 2}},
			"user":       {replay.Filter{User: "grace@CONTOSO.com"}, []int64{3}},
			"no user":    {replay.Filter{User: "nobody@contoso.com"}, nil},
			"producer":   {replay.Filter{Producer: "intune"}, []int64{3}},
			"since":      {replay.Filter{Since: start.Add(time.Hour)}, []int64{2, 3}},
			"until":      {replay.Filter{Until: start.Add(time.Hour)}, []int64{1}},
			"sequences":  {replay.Filter{Sequences: []replay.Range{{From: 3, To: 9}, {From: 1, To: 1}}}, []int64{1, 3}},
			"limit":      {replay.Filter{Limit: 2}, []int64{1, 2}},
			"all of two": {replay.Filter{Reasons: []string{"InvalidEvent"}, User: adaID}, nil},
		} {
			if got := sequences(w.found(c.f)); !slices.Equal(got, c.want) {
				t.Errorf("%s: %v, want %v", name, got, c.want)
			}
		}
	})
}

func TestGroupsCount(t *testing.T) {
	day := time.Date(2026, 3, 1, 23, 0, 0, 0, time.UTC)
	letters := []replay.Letter{
		{Reason: "A", Users: []string{"Ada", "grace"}, Enqueued: day},
		{Reason: "B", Users: []string{"ada"}, Enqueued: day.Add(2 * time.Hour)},
		{Reason: "B", Enqueued: day.Add(-time.Hour)},
	}
	for by, want := range map[replay.GroupKey]string{
		replay.ByReason: "B=2 A=1 ",
		replay.ByUser:   "Ada=2 =1 grace=1 ",
		replay.ByDay:    "2026-03-01=2 2026-03-02=1 ",
	} {
		g := replay.Groups{By: by}
		for _, l := range letters {
			g.Add(l)
		}
		got := ""
		for _, one := range g.All() {
			got += fmt.Sprintf("%s=%d ", one.Key, one.Count)
		}
		if got != want {
			t.Errorf("by %s: %s, want %s", by, got, want)
		}
		if by == replay.ByReason && (!g.All()[0].Oldest.Equal(day.Add(-time.Hour)) || !g.All()[0].Newest.Equal(day.Add(2*time.Hour))) {
			t.Errorf("%+v", g.All()[0])
		}
	}
}

func TestParseRangesRejectsMalformedRanges(t *testing.T) {
	for _, text := range []string{"", "x", "5-", "-5", "9-5", "1-2-3", "1.5"} {
		if _, err := replay.ParseRanges([]string{text}); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

func TestPurgeRecordsBeforeItRemoves(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{LockDuration: 5 * time.Minute}, func(t *testing.T, w *world) {
		for range 3 {
			w.deadLetter(about(adaID), "UserNotFound", nil)
			w.deadLetter(about(graceID), "RetriesExhausted", nil)
		}
		f := replay.Filter{Reasons: []string{"UserNotFound"}}
		plan, err := w.letters.PlanPurge(ctx, f, nil)
		must(t, err)
		full := errors.New("disk full")
		result, err := w.letters.Purge(ctx, plan, func([]replay.Found) error { return full }, replay.PurgeOptions{})
		if !errors.Is(err, full) || result.Purged != 0 || result.Left != 3 {
			t.Errorf("%+v, %v", result, err)
		}
		w.counts(0, 6)
		plan, err = w.letters.PlanPurge(ctx, f, nil)
		must(t, err)
		var recorded []replay.Letter
		done := 0
		result, err = w.letters.Purge(ctx, plan, func(found []replay.Found) error {
			counts, err := w.broker.Counts(queueName)
			must(t, err)
			if counts.DeadLetter != 6 {
				t.Errorf("removed before it was recorded: %+v", counts)
			}
			for _, one := range found {
				recorded = append(recorded, one.Letter)
			}
			return nil
		}, replay.PurgeOptions{Progress: func(n int) { done += n }})
		must(t, err)
		if result.Purged != 3 || len(recorded) != 3 || done != 3 {
			t.Errorf("%+v; recorded %+v, progress %d", result, recorded, done)
		}
		w.counts(0, 3)
		w.receive(w.dead, 3)
	})
}

func TestPurgeRecordsOnceIfTheRemovalIsRepeated(t *testing.T) {
	for _, completes := range []bool{true, false} {
		inBubble(t, servicebus.QueueConfig{LockDuration: 10 * time.Second}, func(t *testing.T, w *world) {
			w.deadLetter(about(adaID), "UserNotFound", nil)
			w.letters.Open = func() (replay.Receiver, error) {
				receiver, err := w.openDead()
				return &unreliable{receiver, 1, completes}, err
			}
			plan, err := w.letters.PlanPurge(ctx, replay.Filter{}, nil)
			must(t, err)
			recorded := 0
			result, err := w.letters.Purge(ctx, plan, func(found []replay.Found) error { recorded += len(found); return nil },
				replay.PurgeOptions{})
			must(t, err)
			if result.Purged != 1 || result.Gone != 0 || recorded != 1 {
				t.Errorf("%+v, recorded %d times", result, recorded)
			}
		})
	}
}

func TestRecordIsImportedUnchanged(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, w *world) {
		properties := map[string]any{
			"text": "x", "int8": int8(-1), "int16": int16(-2), "int32": int32(-3), "int64": int64(1) << 60, "uint8": uint8(1),
			"uint16": uint16(2),
			"uint32": uint32(3), "uint64": uint64(1) << 63, "float32": float32(1.5), "float64": 2.5, "whole": float64(3), "true": true,
			"null": nil,
			"time": time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), "uuid": amqp.UUID{1, 2, 3}, "bytes": []byte{0, 255},
		}
		sent := &azservicebus.AMQPAnnotatedMessage{
			Body: azservicebus.AMQPAnnotatedMessageBody{Data: [][]byte{[]byte(`{"type":"device.lost","userId":"` +
				adaID + `"}`)}},
			ApplicationProperties: properties,
			Properties: &azservicebus.AMQPAnnotatedMessageProperties{
				MessageID: "original", CorrelationID: amqp.UUID{9}, ContentType: new("application/json"), Subject: new("s"), To: new("t"),
				ReplyTo: new("r"), GroupID: new("g"),
			},
			Header:             &azservicebus.AMQPAnnotatedMessageHeader{TTL: 36 * time.Hour},
			MessageAnnotations: map[any]any{"x-opt-partition-key": "g"},
		}
		must(t, w.sender.SendAMQPAnnotatedMessage(ctx, sent, nil))
		w.deadLetterNext("RetriesExhausted", map[string]any{deadletter.PropertyAttempts: "8"})
		var file bytes.Buffer
		for found, err := range w.letters.Find(ctx, replay.Filter{}) {
			must(t, err)
			record, err := replay.NewRecord(found)
			must(t, err)
			must(t, replay.WriteRecord(&file, record))
		}
		record, err := replay.ReadRecord(file.Bytes())
		must(t, err)
		imported, err := record.Message(replay.Run{ID: "run", By: "me"})
		must(t, err)
		must(t, w.sender.SendAMQPAnnotatedMessage(ctx, imported, nil))
		got := w.receive(w.receiver, 1)[0].RawAMQPMessage
		want := properties
		for name, value := range map[string]string{
			deadletter.PropertyOriginalID: "original", deadletter.PropertyReplays: "1", deadletter.PropertyRun: "run",
			deadletter.PropertyReplayedBy:    "me",
			deadletter.PropertyFirstEnqueued: record.Letter.Enqueued.Format(time.RFC3339Nano),
			deadletter.PropertyReplayedAt:    time.Now().UTC().Format(time.RFC3339),
		} {
			want[name] = value
		}
		if when, ok := got.ApplicationProperties["time"].(time.Time); ok {
			got.ApplicationProperties["time"] = when.UTC()
		}
		if !reflect.DeepEqual(got.ApplicationProperties, want) {
			t.Errorf("properties\n%v, want\n%v\n%s", got.ApplicationProperties, want, &file)
		}
		p := got.Properties
		if p.MessageID == "original" || p.CorrelationID != (amqp.UUID{9}) || *p.ContentType != "application/json" || *p.Subject != "s" ||
			*p.To != "t" || *p.ReplyTo != "r" ||
			*p.GroupID != "g" || got.Header.TTL != 36*time.Hour || !bytes.Equal(got.Body.Data[0], sent.Body.Data[0]) ||
			got.MessageAnnotations["x-opt-partition-key"] != "g" {
			t.Errorf("%+v %+v", p, got)
		}
	})
}

func TestRecordIsSentAsEditedUnlessItIsWrong(t *testing.T) {
	record, err := replay.ReadRecord([]byte(`{"deadLetter":{"messageId":"m","source":"q"},"body":{"type":"device.lost","userId":"` +
		graceID + `"}, "properties":{"n":5,"half":0.5}}`))
	must(t, err)
	m, err := record.Message(replay.NewRun(""))
	must(t, err)
	if !strings.Contains(string(m.Body.Data[0]), graceID) || m.ApplicationProperties["n"] != int64(5) ||
		m.ApplicationProperties["half"] != 0.5 {
		t.Errorf("%+v", m)
	}
	for name, line := range map[string]string{
		"not JSON":           `{`,
		"a misspelled field": `{"bdy":{}}`,
		"no body":            `{}`,
		"two bodies":         `{"body":{},"bodyText":"x"}`,
		"two values":         `{"body":{}} {}`,
		"no such event":      `{"body":{},"onlyEvents":[1000]}`,
		"event below none":   `{"body":{},"onlyEvents":[-1]}`,
		"a list":             `[]`,
	} {
		if _, err := replay.ReadRecord([]byte(line)); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	for name, line := range map[string]string{
		"a property that is an object": `{"body":{},"properties":{"x":{"y":1}}}`,
		"an unknown type":              `{"body":{},"properties":{"x":{"type":"float16","value":"1"}}}`,
		"a value that does not fit":    `{"body":{},"properties":{"x":{"type":"int8","value":"300"}}}`,
		"one of 16 bits":               `{"body":{},"properties":{"x":{"type":"int16","value":"40000"}}}`,
		"one of 32 bits":               `{"body":{},"properties":{"x":{"type":"int32","value":"-3000000000"}}}`,
		"an unsigned one":              `{"body":{},"properties":{"x":{"type":"uint16","value":"70000"}}}`,
		"bad base64":                   `{"bodyBase64":"%"}`,
		"bad AMQP":                     `{"bodyAmqp":"AAAA"}`,
		"a bad life":                   `{"body":{},"timeToLive":"soon"}`,
	} {
		record, err := replay.ReadRecord([]byte(line))
		must(t, err)
		if _, err := record.Message(replay.NewRun("")); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestFindEndsInTimeWithoutAnAnswer(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, w *world) {
		w.letters.Receiver = silent{w.dead}
		start := time.Now()
		for _, err := range w.letters.Find(ctx, replay.Filter{}) {
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 15*time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		}
	})
}

// silent never answers a peek.
type silent struct{ *azservicebus.Receiver }

func (silent) PeekMessages(ctx context.Context, _ int, _ *azservicebus.PeekMessagesOptions) ([]*azservicebus.ReceivedMessage, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
