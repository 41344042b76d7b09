package consumer_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

func TestAuditRecordsEveryDecisionBeforeItsSettlement(t *testing.T) {
	var mu sync.Mutex
	var all []audit.Decision
	var w *world
	settledBefore := false
	keep := func(d audit.Decision) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, d)
		counts, err := w.broker.Counts(queue)
		if d.MessageID == "last" && (err != nil || counts.Active == 0) {
			settledBefore = true
		}
	}
	inBubble(t, settings{audit: keep}, func(t *testing.T, world *world) {
		w = world
		w.send(&azservicebus.Message{MessageID: new("both"), Body: fmt.Appendf(nil,
			`[{"type":"device.lost","userId":%q},{"type":"device.lost","userPrincipalName":%q}]`, ada.ID, guest.UserPrincipalName)})
		w.run()
		w.settled(time.Minute)
		w.send(&azservicebus.Message{MessageID: new("last"), Body: []byte("rubbish")})
		w.settled(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if len(all) != 3 || settledBefore {
			t.Fatalf("%d records, settled before: %v; %+v", len(all), settledBefore, all)
		}
		first, second, third := all[0], all[1], all[2]
		if first.Outcome != "revoked" || first.UserID != ada.ID || first.Calls != 1 || first.Status != 200 ||
			first.RequestID == "" || first.CallStart.IsZero() || first.CallEnd.Before(first.CallStart) ||
			first.SequenceNumber != 1 || first.Source != queue || first.EventType != "device.lost" || first.Enqueued.IsZero() {
			t.Errorf("%+v", first)
		}
		if second.Outcome != "dead_lettered" || second.Reason != "ExternalUser" ||
			second.UserPrincipalName != guest.UserPrincipalName || second.Event != 1 || second.Calls != 0 {
			t.Errorf("%+v", second)
		}
		if third.Reason != "InvalidEvent" || third.UserID+third.UserPrincipalName != "" || third.Error == "" {
			t.Errorf("%+v", third)
		}
		if counts, err := w.broker.Counts(queue); err != nil || counts != (servicebus.Counts{DeadLetter: 2, Bytes: counts.Bytes}) {
			t.Errorf("%+v, %v", counts, err)
		}
	})
}

func TestAuditNamesTheReplayAndWhenTheMessageFirstCame(t *testing.T) {
	var mu sync.Mutex
	var got audit.Decision
	keep := func(d audit.Decision) {
		mu.Lock()
		defer mu.Unlock()
		got = d
	}
	inBubble(t, settings{audit: keep}, func(t *testing.T, w *world) {
		const run = "0b8f2a52-7d3c-4c0e-9d0b-6a4c9f6f0a11"
		first := time.Now().Add(-time.Hour).UTC()
		m := &azservicebus.AMQPAnnotatedMessage{ApplicationProperties: map[string]any{}}
		deadletter.Replays{
			Count: 1, Run: run, By: "grace", At: time.Now().UTC().Format(time.RFC3339), OriginalID: "x", FirstEnqueued: first,
		}.Write(m, nil)
		w.send(&azservicebus.Message{
			ApplicationProperties: m.ApplicationProperties, Body: fmt.Appendf(nil, `{"type":"device.lost","userId":%q}`, ada.ID),
		})
		w.run()
		w.settled(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if got.Outcome != "revoked" || got.ReplayRun != run || !got.FirstEnqueued.Equal(first) || !got.Enqueued.After(first) {
			t.Errorf("%+v", got)
		}
		if at := testutil.ToFloat64(w.metrics.LastRevoked); at < float64(got.CallEnd.Unix()) || at > float64(time.Now().Unix()+1) {
			t.Errorf("the last revocation was at %v, and the call ended at %s", at, got.CallEnd)
		}
	})
}
