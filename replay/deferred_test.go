package replay_test

import (
	"slices"
	"testing"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/replay"
)

func TestFindDeferredAmongOtherMessages(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, w *world) {
		for i := range 1200 { // several pages
			id := graceID
			if i%400 == 0 {
				id = adaID
			}
			must(t, w.sender.SendMessage(ctx, about(id), nil))
		}
		for _, m := range w.receive(w.receiver, 3) { // numbers 1, 2 and 3
			must(t, w.receiver.DeferMessage(ctx, m, nil))
		}
		all := w.receive(w.receiver, 398) // up to number 401
		must(t, w.receiver.DeferMessage(ctx, all[len(all)-1], nil))

		letters := *w.letters
		letters.Receiver = w.receiver
		for name, c := range map[string]struct {
			f    replay.Filter
			want []int64
		}{
			"all":      {replay.Filter{}, []int64{1, 2, 3, 401}},
			"user":     {replay.Filter{User: adaID}, []int64{1, 401}},
			"sequence": {replay.Filter{Sequences: []replay.Range{{From: 2, To: 500}}}, []int64{2, 3, 401}},
			"limit":    {replay.Filter{Limit: 2}, []int64{1, 2}},
			"reason":   {replay.Filter{Reasons: []string{"RetriesExhausted"}}, nil},
		} {
			var got []int64
			for found, err := range letters.FindDeferred(ctx, c.f) {
				must(t, err)
				got = append(got, found.SequenceNumber)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%s: %v, want %v", name, got, c.want)
			}
		}
		counts, err := w.broker.Counts(queueName)
		must(t, err)
		if counts.Deferred != 4 || counts.Locked != 397 {
			t.Errorf("%+v: peeking has changed something", counts)
		}
	})
}
