package sanitizer_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/goleak"

	"github.com/session-revoker/session-revoker/emulator/bubble"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
	"github.com/session-revoker/session-revoker/sanitizer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const queue = "events"

var ctx = context.Background()

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a broker and the real client behind a sanitizer, in memory.
type world struct {
	t         *testing.T
	broker    *servicebus.Broker
	sanitizer *sanitizer.Sanitizer
	client    *azservicebus.Client
	receiver  *azservicebus.Receiver
	sender    *azservicebus.Sender
}

// trickle returns its bytes in pieces of at most n.
type trickle struct {
	net.Conn
	n int
}

func (c trickle) Read(p []byte) (int, error) { return c.Conn.Read(p[:min(len(p), c.n)]) }

func inBubble(t *testing.T, piece int, scenario func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, sanitizer: sanitizer.New(sanitizer.Options{Originals: 1 << 20})}
		var err error
		w.broker, err = servicebus.New(servicebus.Config{
			Queues:         []servicebus.QueueConfig{{Name: queue, MaxDeliveryCount: 10}, {Name: "grouped", RequiresSession: true}},
			MaxMessageSize: 4 << 20,
		})
		must(t, err)
		dial := func(ctx context.Context, args azservicebus.NewWebSocketConnArgs) (net.Conn, error) {
			c, err := bubble.DialBroker(w.broker)(ctx, args)
			return trickle{c, piece}, err
		}
		w.client, err = azservicebus.NewClientFromConnectionString(bubble.ConnectionString,
			&azservicebus.ClientOptions{NewWebSocketConn: w.sanitizer.Over(dial)})
		must(t, err)
		t.Cleanup(func() {
			_ = w.client.Close(ctx)
			_ = w.broker.Close()
			synctest.Wait()
		})
		w.receiver, err = w.client.NewReceiverForQueue(queue, nil)
		must(t, err)
		w.sender, err = w.client.NewSender(queue, nil)
		must(t, err)
		scenario(t, w)
	})
}

const whole = 1 << 30 // larger than any read

func (w *world) receive(n int) (all []*azservicebus.ReceivedMessage) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for len(all) < n {
		some, err := w.receiver.ReceiveMessages(ctx, n-len(all), nil)
		if err != nil {
			w.t.Fatalf("%d of %d messages came: %v", len(all), n, err)
		}
		all = append(all, some...)
	}
	return all
}

func peekAll(t *testing.T, r *azservicebus.Receiver) (all []*azservicebus.ReceivedMessage) {
	t.Helper()
	for {
		some, err := r.PeekMessages(ctx, 100, nil)
		must(t, err)
		if len(some) == 0 {
			return all
		}
		all = append(all, some...)
	}
}

func property(m *azservicebus.ReceivedMessage, name string) string {
	s, _ := m.ApplicationProperties[name].(string)
	return s
}

// Each attack arrives at its first delivery, with its lock, and so do its neighbors; peeking works
// in both queues.
func TestSanitizerRealClientReceivesEachAttack(t *testing.T) {
	for _, piece := range []int{whole, 1000} {
		inBubble(t, piece, func(t *testing.T, w *world) {
			attacks := sanitizer.Attacks()
			for _, a := range attacks {
				if err := w.broker.Inject(queue, a.Encoded); err != nil {
					t.Fatalf("%s: %v", a.Name, err)
				}
			}
			must(t, w.sender.SendMessage(ctx, &azservicebus.Message{
				Body:                  []byte("neighbor"),
				ApplicationProperties: map[string]any{sanitizer.PropertyUnreadable: "forged", "x": "y"},
			}, nil))
			check := func(how string, m *azservicebus.ReceivedMessage, i int) {
				why, unreadable := sanitizer.Unreadable(m)
				if i == len(attacks) {
					if string(m.Body) != "neighbor" || unreadable || m.ApplicationProperties["x"] != "y" {
						t.Errorf("%s: the neighbor is %q, %v", how, m.Body, m.ApplicationProperties)
					}
					return
				}
				a := attacks[i]
				if how == "dead-lettered" && (strings.HasSuffix(a.Name, " reason") || a.Name == "a numeric description") {
					return // the sanitizer's own properties have replaced them
				}
				if mended := property(m, sanitizer.PropertyMended); unreadable == a.Mended || (mended != "") != a.Mended {
					t.Errorf("%s: %s: unreadable: %q, mended: %q", how, a.Name, why, mended)
				}
				if a.Mended && string(m.Body) != "{}" {
					t.Errorf("%s: %s: the body is %q", how, a.Name, m.Body)
				}
				if m.SequenceNumber == nil || *m.SequenceNumber != int64(i+1) || m.EnqueuedTime == nil || m.MessageID == "" {
					t.Errorf("%s: %s: annotations are missing: %+v", how, a.Name, m)
				}
			}
			peeked := peekAll(t, w.receiver)
			if len(peeked) != len(attacks)+1 {
				t.Fatalf("%d peeked", len(peeked))
			}
			for i, m := range peeked {
				check("peeked", m, i)
			}
			for i, m := range w.receive(len(attacks) + 1) {
				check("received", m, i)
				if m.DeliveryCount != 1 || m.LockedUntil == nil || m.LockToken == [16]byte{} {
					t.Errorf("%+v", m)
				}
				reason := "UnreadableMessage"
				must(t, w.receiver.DeadLetterMessage(ctx, m, &azservicebus.DeadLetterOptions{Reason: &reason}))
			}
			dead, err := w.client.NewReceiverForQueue(queue, &azservicebus.ReceiverOptions{SubQueue: azservicebus.SubQueueDeadLetter})
			must(t, err)
			letters := peekAll(t, dead)
			for i, m := range letters {
				check("dead-lettered", m, i)
				if m.DeadLetterReason == nil || *m.DeadLetterReason != "UnreadableMessage" {
					t.Errorf("%s: the reason is %v", attacks[i].Name, m.DeadLetterReason)
				}
				original, ok := w.sanitizer.Original("Events/$DeadLetterQueue", *m.SequenceNumber)
				if i == len(attacks) {
					if ok {
						t.Error("the neighbor has an original")
					}
					continue
				}
				if property(m, sanitizer.PropertyMended) == "" && property(m, sanitizer.PropertyUnreadable) == "" {
					continue
				}
				tail := attacks[i].Encoded // body and footer as sent
				if at := bytes.Index(tail, []byte{0, 0x53, 0x75}); at >= 0 {
					tail = tail[at:]
				}
				if isKept := len(tail) < 300<<10; ok != isKept ||
					isKept && attacks[i].Encoded[2] > 0x74 && !bytes.HasSuffix(original, tail) {
					t.Errorf("%s: original %v, %d bytes", attacks[i].Name, ok, len(original))
				}
			}
			if len(letters) != len(attacks)+1 {
				t.Errorf("%d dead letters", len(letters))
			}
		})
	}
}

// The real client reads whatever producers send, by peeking and by receiving.
func TestSanitizerRealClientReadsRandomMessages(t *testing.T) {
	inBubble(t, whole, func(t *testing.T, w *world) {
		n := 10_000
		if testing.Short() {
			n = 1000
		}
		taken, random := 0, sanitizer.Random(t, 7)
		for range n {
			if w.broker.Inject(queue, random()) == nil {
				taken++
			}
		}
		if taken < n/3 {
			t.Fatalf("the broker took %d of %d", taken, n)
		}
		if peeked := peekAll(t, w.receiver); len(peeked) != taken {
			t.Errorf("%d of %d messages peeked", len(peeked), taken)
		}
		counts, err := w.broker.Counts(queue)
		must(t, err)
		if counts.Active < taken/2 { // the others are scheduled
			t.Fatalf("%+v", counts)
		}
		for left := counts.Active; left > 0; {
			all := w.receive(min(left, 100))
			for _, m := range all {
				must(t, w.receiver.CompleteMessage(ctx, m, nil))
			}
			left -= len(all)
		}
	})
}

// Without the sanitizer 1 MB of nested lists costs 500 MB. With it, receiving them costs about as much
// as receiving as much data: buffers that grow by doubling, and pools that are emptied, make twice as
// much of either.
func TestSanitizerNestedListsCostNoMoreThanData(t *testing.T) {
	inBubble(t, whole, func(t *testing.T, w *world) {
		cost := func(encoded []byte) uint64 {
			must(t, w.broker.Inject(queue, encoded))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			must(t, w.receiver.CompleteMessage(ctx, w.receive(1)[0], nil))
			runtime.ReadMemStats(&after)
			return after.TotalAlloc - before.TotalAlloc
		}
		cost(amqp.AppendData(nil, []byte("the links are opened")))
		for _, a := range sanitizer.Attacks() {
			if !strings.Contains(a.Name, "B of nested lists") {
				continue
			}
			nested, data := cost(a.Encoded), cost(amqp.AppendData(nil, make([]byte, len(a.Encoded)-10)))
			t.Logf("%s cost %d bytes, data %d", a.Name, nested, data)
			if nested > 3*data+64<<10 {
				t.Errorf("%s cost %d bytes, as much data %d", a.Name, nested, data)
			}
		}
	})
}

// withChar returns a message with a body and one property of type char.
func withChar(body []byte) []byte {
	b := []byte{0, 0x53, 0x74, 0xc1, 9, 2, 0xa1, 1, 'x', 0x73, 0, 0, 0, 'A'}
	return amqp.AppendData(b, body)
}

// A message of several frames is mended too, and everything after it arrives in order.
func TestSanitizerMessageOfSeveralFrames(t *testing.T) {
	for _, piece := range []int{whole, 7777} {
		inBubble(t, piece, func(t *testing.T, w *world) {
			large := bytes.Repeat([]byte("0123456789"), 25_000)
			for range 3 {
				must(t, w.broker.Inject(queue, withChar(large)))
				must(t, w.sender.SendMessage(ctx, &azservicebus.Message{Body: large}, nil))
				must(t, w.broker.Inject(queue, withChar([]byte("small"))))
			}
			for i, m := range w.receive(9) {
				want := large
				if i%3 == 2 {
					want = []byte("small")
				}
				if mended := property(m, sanitizer.PropertyMended) != ""; mended != (i%3 != 1) || !bytes.Equal(m.Body, want) {
					t.Errorf("message %d: mended %v, %d bytes", i, mended, len(m.Body))
				}
				must(t, w.receiver.CompleteMessage(ctx, m, nil))
			}
		})
	}
}

// A message that is too large arrives as a stand-in, and costs no more than the bytes that are read
// of it.
func TestSanitizerMessageTooLarge(t *testing.T) {
	inBubble(t, whole, func(t *testing.T, w *world) {
		must(t, w.sender.SendMessage(ctx, &azservicebus.Message{Body: make([]byte, 3<<20)}, nil))
		must(t, w.sender.SendMessage(ctx, &azservicebus.Message{Body: []byte("neighbor")}, nil))
		peeked, err := w.receiver.PeekMessages(ctx, 2, nil)
		must(t, err)
		for how, all := range map[string][]*azservicebus.ReceivedMessage{"peeked": peeked, "received": w.receive(2)} {
			if why, unreadable := sanitizer.Unreadable(all[0]); !unreadable || !strings.Contains(why, "larger") || len(all[0].Body) > 0 ||
				*all[0].SequenceNumber != 1 {
				t.Errorf("%s: %q, %v", how, why, unreadable)
			}
			if string(all[1].Body) != "neighbor" {
				t.Errorf("%s: the neighbor is %q", how, all[1].Body)
			}
		}
	})
}

// A deferred message comes back over $management.
func TestAnswerDeferredMessageIsMended(t *testing.T) {
	inBubble(t, whole, func(t *testing.T, w *world) {
		must(t, w.broker.Inject(queue, withChar([]byte("later"))))
		m := w.receive(1)[0]
		must(t, w.receiver.DeferMessage(ctx, m, nil))
		all, err := w.receiver.ReceiveDeferredMessages(ctx, []int64{*m.SequenceNumber}, nil)
		must(t, err)
		if len(all) != 1 || string(all[0].Body) != "later" || property(all[0], sanitizer.PropertyMended) == "" {
			t.Fatalf("%+v", all)
		}
		must(t, w.receiver.CompleteMessage(ctx, all[0], nil))
	})
}

// In an answer each message comes with its lock token, which must occur once, whatever happens to
// the others.
func TestAnswerMendedMessageDoesNotHarmOthers(t *testing.T) {
	inBubble(t, 1<<20, func(t *testing.T, w *world) {
		must(t, w.sender.SendMessage(ctx, &azservicebus.Message{Body: []byte("before")}, nil))
		must(t, w.broker.Inject(queue, withChar([]byte("odd"))))
		must(t, w.sender.SendMessage(ctx, &azservicebus.Message{Body: []byte("after")}, nil))
		var numbers []int64
		for _, m := range w.receive(3) {
			numbers = append(numbers, *m.SequenceNumber)
			must(t, w.receiver.DeferMessage(ctx, m, nil))
		}
		all, err := w.receiver.ReceiveDeferredMessages(ctx, numbers, nil)
		must(t, err)
		for i, want := range []string{"before", "odd", "after"} {
			if got := string(all[i].Body); got != want {
				t.Errorf("message %d: %q, want %q", i, got, want)
			}
			must(t, w.receiver.CompleteMessage(ctx, all[i], nil))
		}
	})
}

func TestSanitizerSessionsWithAttacks(t *testing.T) {
	inBubble(t, whole, func(t *testing.T, w *world) {
		for i, a := range sanitizer.Attacks() {
			if a.Encoded[2] < 0x74 {
				continue // a section before the properties, which hold the session
			}
			id := fmt.Sprint(i % 3)
			properties, err := amqp.Properties{GroupID: &id}.Append(nil)
			must(t, err)
			must(t, w.broker.Inject("grouped", append(properties, a.Encoded...)))
		}
		for range 3 {
			r, err := w.client.AcceptNextSessionForQueue(ctx, "grouped", nil)
			must(t, err)
			for {
				ctx, cancel := context.WithTimeout(ctx, time.Second)
				all, err := r.ReceiveMessages(ctx, 10, nil)
				cancel()
				if err != nil {
					break
				}
				for _, m := range all {
					if _, unreadable := sanitizer.Unreadable(m); !unreadable && property(m, sanitizer.PropertyMended) == "" ||
						*m.SessionID != r.SessionID() {
						t.Errorf("%+v", m)
					}
					must(t, r.DeadLetterMessage(context.Background(), m, nil))
				}
			}
			must(t, r.Close(ctx))
		}
		if counts, err := w.broker.Counts("grouped"); err != nil || counts.Active > 0 {
			t.Errorf("%+v, %v", counts, err)
		}
	})
}

// The sanitizer keeps a bounded number of originals. It drops the oldest first.
func TestOriginalsAreBounded(t *testing.T) {
	inBubble(t, whole, func(t *testing.T, w *world) {
		for range 10 {
			must(t, w.broker.Inject(queue, withChar(make([]byte, 200<<10))))
		}
		w.receive(10)
		kept := 0
		for i := range int64(10) {
			if _, ok := w.sanitizer.Original(queue, i+1); ok {
				kept++
			} else if kept > 0 {
				t.Errorf("%d is gone, older ones are not", i+1)
			}
		}
		if kept != 5 {
			t.Errorf("%d of 200 KB are kept, want 5 in 1 MB", kept)
		}
	})
}

// The connection survives the end of its dialing context. TLS checks the host's name even if there
// is a port.
