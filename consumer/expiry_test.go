package consumer_test

import (
	"testing"
	"time"
)

// Without a time to live, the client reports that a message expired when it was enqueued, so any
// other message seems to expire later. A message that expires after five seconds must not supersede
// one that never expires: when it has expired, no message would be left.
func TestConsumerLetsNoMessageThatExpiresSupersedeOneThatDoesNot(t *testing.T) {
	for name, c := range map[string]struct {
		older, newer time.Duration // 0 lives for ever
		superseded   int
	}{
		"for ever, then 5 s":      {0, 5 * time.Second, 0},
		"5 s, then for ever":      {5 * time.Second, 0, 1},
		"for ever, both":          {0, 0, 1},
		"an hour, then 5 s":       {time.Hour, 5 * time.Second, 0},
		"5 s, then an hour":       {5 * time.Second, time.Hour, 1},
		"an hour, then for ever":  {time.Hour, 0, 1},
		"for ever, then 49 days":  {0, (1<<32 - 1) * time.Millisecond, 0},
		"49 days, then for ever ": {(1<<32 - 1) * time.Millisecond, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, settings{}, func(t *testing.T, w *world) {
				w.run()
				first := about(ada)
				id := "first"
				first.MessageID = &id
				w.send(first)
				w.settled(10 * time.Second)
				older, newer := about(ada), about(ada)
				if c.older > 0 {
					older.TimeToLive = &c.older
				}
				if c.newer > 0 {
					newer.TimeToLive = &c.newer
				}
				w.send(older) // parked until the end of the window
				time.Sleep(time.Second)
				id = "newer"
				newer.MessageID = &id
				w.send(newer)
				w.settled(10 * time.Minute)
				if n := w.logs.FilterField(outcomeField("superseded")).Len(); n != c.superseded {
					t.Errorf("%d superseded, want %d: %v", n, c.superseded, w.lines())
				}
				if calls := w.graph.CallsFor(ada.ID); len(calls) != 2 {
					t.Errorf("%d calls, want 2", len(calls))
				}
			})
		})
	}
}
