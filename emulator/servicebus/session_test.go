package servicebus_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// inSessions runs a scenario against a queue that requires sessions, with locks of a minute.
func inSessions(t *testing.T, scenario func(t *testing.T, b *topics)) {
	t.Helper()
	inTopics(t, servicebus.Config{
		Queues: []servicebus.QueueConfig{{Name: queue, RequiresSession: true, MaxDeliveryCount: 3}, {Name: "plain"}},
	}, scenario)
}

// in returns a message of a session.
func in(session, body string) *azservicebus.Message {
	return &azservicebus.Message{SessionID: &session, MessageID: &body, Body: []byte(body)}
}

func (b *topics) accept(session string) *azservicebus.SessionReceiver {
	b.t.Helper()
	r, err := b.client.AcceptSessionForQueue(context.Background(), queue, session, nil)
	must(b.t, err)
	return r
}

func (b *topics) acceptNext() *azservicebus.SessionReceiver {
	b.t.Helper()
	r, err := b.client.AcceptNextSessionForQueue(context.Background(), queue, nil)
	must(b.t, err)
	return r
}

func takeFrom(t *testing.T, r *azservicebus.SessionReceiver, n int) []*azservicebus.ReceivedMessage {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var all []*azservicebus.ReceivedMessage
	for len(all) < n {
		messages, err := r.ReceiveMessages(ctx, n-len(all), nil)
		if err != nil {
			t.Fatalf("received %d of %d: %v", len(all), n, err)
		}
		all = append(all, messages...)
	}
	return all
}

func TestSessionKeepsOrderAndHasOneHolder(t *testing.T) {
	inSessions(t, func(t *testing.T, b *topics) {
		b.send(queue, in("ada", "a1"), in("bob", "b1"), in("ada", "a2"), in("", "e1"), in("bob", "b2"))
		ada := b.accept("ada")
		if ada.SessionID() != "ada" || time.Until(ada.LockedUntil()).Round(time.Second) != time.Minute {
			t.Errorf("session %q until %v", ada.SessionID(), ada.LockedUntil())
		}
		_, err := b.client.AcceptSessionForQueue(t.Context(), queue, "ada", nil)
		if err == nil {
			t.Error("a session has two holders")
		}
		messages := takeFrom(t, ada, 2)
		if got := bodies(messages); got != "[a1 a2]" || *messages[0].SessionID != "ada" {
			t.Errorf("ada has %s", got)
		}
		for _, m := range messages {
			must(t, ada.CompleteMessage(t.Context(), m, nil))
		}
		// The next free session is the one with the oldest message.
		bob, nobody := b.acceptNext(), b.acceptNext()
		if got := bodies(takeFrom(t, bob, 2)); bob.SessionID() != "bob" || got != "[b1 b2]" {
			t.Errorf("session %q has %s", bob.SessionID(), got)
		}
		if got := bodies(takeFrom(t, nobody, 1)); nobody.SessionID() != "" || got != "[e1]" {
			t.Errorf("session %q has %s; want the session with the empty id", nobody.SessionID(), got)
		}
		// Later messages go to the holder.
		b.send(queue, in("ada", "a3"))
		if got := bodies(takeFrom(t, ada, 1)); got != "[a3]" {
			t.Errorf("ada has %s", got)
		}
	})
}

func TestSessionReceiverWaitsForTheNextSession(t *testing.T) {
	inSessions(t, func(t *testing.T, b *topics) {
		start := time.Now()
		_, err := b.client.AcceptNextSessionForQueue(t.Context(), queue, nil)
		wantCode(t, err, azservicebus.CodeTimeout)
		if waited := time.Since(start); waited < 30*time.Second || waited > 2*time.Minute {
			t.Errorf("waited %v", waited)
		}
		accepted := make(chan *azservicebus.SessionReceiver)
		go func() {
			r, err := b.client.AcceptNextSessionForQueue(context.Background(), queue, nil)
			if err != nil {
				t.Error(err)
			}
			accepted <- r
		}()
		time.Sleep(10 * time.Second)
		b.send(queue, in("ada", "a1"))
		if r := <-accepted; r.SessionID() != "ada" {
			t.Errorf("session %q", r.SessionID())
		}
		// A receiver that stops waiting gets no session, and does not keep one from others.
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := b.client.AcceptNextSessionForQueue(ctx, queue, nil); err == nil {
			t.Error("a session was accepted although none is free")
		}
		b.send(queue, in("bob", "b1"))
		if r := b.acceptNext(); r.SessionID() != "bob" {
			t.Errorf("session %q", r.SessionID())
		}
	})
}

func TestSessionLockExpiresAndIsRenewed(t *testing.T) {
	inSessions(t, func(t *testing.T, b *topics) {
		b.send(queue, in("ada", "a1"))
		first := b.accept("ada")
		m := takeFrom(t, first, 1)[0]
		for range 3 {
			time.Sleep(40 * time.Second)
			must(t, first.RenewSessionLock(t.Context(), nil))
		}
		if left := time.Until(first.LockedUntil()).Round(time.Second); left != time.Minute {
			t.Errorf("%v left of the lock", left)
		}
		time.Sleep(61 * time.Second)
		if err := first.CompleteMessage(t.Context(), m, nil); err == nil {
			t.Error("a message was completed after its session's lock had expired")
		}
		must(t, first.Close(t.Context())) // the client has tried to take the session again
		second := b.accept("ada")
		m = takeFrom(t, second, 1)[0]
		if m.DeliveryCount != 2 {
			t.Errorf("delivery count %d, want 2: the lock expired once", m.DeliveryCount)
		}
		must(t, second.CompleteMessage(t.Context(), m, nil))
		b.holds(queue)
	})
}

func TestSessionMessageExpiresAfterItsLock(t *testing.T) {
	inSessions(t, func(t *testing.T, b *topics) {
		m, ttl := in("ada", "a1"), 10*time.Second
		m.TimeToLive = &ttl
		b.send(queue, m)
		r := b.accept("ada")
		takeFrom(t, r, 1)
		for range 2 {
			time.Sleep(50 * time.Second)
			must(t, r.RenewSessionLock(t.Context(), nil))
		}
		must(t, r.Close(t.Context()))
		time.Sleep(time.Minute)
		b.holds(queue)
	})
}

func TestSessionIsFreeWhenItsReceiverCloses(t *testing.T) {
	inSessions(t, func(t *testing.T, b *topics) {
		b.send(queue, in("ada", "a1"))
		first := b.accept("ada")
		takeFrom(t, first, 1)
		must(t, first.Close(t.Context()))
		second := b.acceptNext()
		if m := takeFrom(t, second, 1)[0]; m.DeliveryCount != 1 {
			t.Errorf("delivery count %d, want 1: closing is no failure", m.DeliveryCount)
		}
	})
}

func TestSessionSettlesMessages(t *testing.T) {
	inSessions(t, func(t *testing.T, b *topics) {
		b.send(queue, in("ada", "a1"), in("ada", "a2"), in("ada", "a3"))
		r := b.accept("ada")
		messages := takeFrom(t, r, 3)
		must(t, r.DeadLetterMessage(t.Context(), messages[0], nil))
		must(t, r.AbandonMessage(t.Context(), messages[1], nil))
		must(t, r.DeferMessage(t.Context(), messages[2], nil))
		if m := takeFrom(t, r, 1)[0]; string(m.Body) != "a2" || m.DeliveryCount != 2 {
			t.Errorf("%s delivered for the %d. time", m.Body, m.DeliveryCount)
		}
		deferred, err := r.ReceiveDeferredMessages(t.Context(), []int64{*messages[2].SequenceNumber}, nil)
		must(t, err)
		must(t, r.CompleteMessage(t.Context(), deferred[0], nil))
		b.holds(queue+"/$DeadLetterQueue", "a1")
		dead, err := b.client.NewReceiverForQueue(queue, &azservicebus.ReceiverOptions{SubQueue: azservicebus.SubQueueDeadLetter})
		must(t, err)
		if m := receiveFrom(t, dead, 1)[0]; *m.SessionID != "ada" {
			t.Errorf("the dead letter's session is %v", *m.SessionID)
		}
	})
}

func TestSessionState(t *testing.T) {
	inSessions(t, func(t *testing.T, b *topics) {
		r := b.accept("ada")
		if state, err := r.GetSessionState(t.Context(), nil); err != nil || state != nil {
			t.Errorf("state %q, %v", state, err)
		}
		must(t, r.SetSessionState(t.Context(), []byte("half way"), nil))
		must(t, r.Close(t.Context()))
		r = b.accept("ada")
		if state, err := r.GetSessionState(t.Context(), nil); err != nil || string(state) != "half way" {
			t.Errorf("state %q, %v", state, err)
		}
		must(t, r.SetSessionState(t.Context(), nil, nil))
		if state, err := r.GetSessionState(t.Context(), nil); err != nil || state != nil {
			t.Errorf("state %q, %v", state, err)
		}
	})
}

func TestSessionEntityRefusesPlainUseAndViceVersa(t *testing.T) {
	inSessions(t, func(t *testing.T, b *topics) {
		plain, err := b.client.NewReceiverForQueue(queue, nil)
		must(t, err)
		if _, err := plain.ReceiveMessages(t.Context(), 1, nil); err == nil {
			t.Error("a plain receiver receives from an entity with sessions")
		}
		if _, err := b.client.AcceptSessionForQueue(t.Context(), "plain", "ada", nil); err == nil {
			t.Error("a session is accepted from an entity without sessions")
		}
		sender, err := b.client.NewSender(queue, nil)
		must(t, err)
		if err := sender.SendMessage(t.Context(), &azservicebus.Message{}, nil); err == nil {
			t.Error("a message without a session is accepted")
		}
	})
}

func TestSessionsAreAllServed(t *testing.T) {
	inSessions(t, func(t *testing.T, b *topics) {
		const sessions, each = 40, 5
		var all []*azservicebus.Message
		for i := range sessions * each {
			all = append(all, in(fmt.Sprintf("s%d", i%sessions), fmt.Sprintf("m%d", i)))
		}
		b.send(queue, all...)
		done := make(chan int, 4)
		for range 4 {
			go func() {
				n := 0
				for {
					r, err := b.client.AcceptNextSessionForQueue(context.Background(), queue, nil)
					if err != nil {
						done <- n
						return
					}
					for _, m := range takeFrom(t, r, each) {
						if err := r.CompleteMessage(context.Background(), m, nil); err != nil {
							t.Error(err)
						}
						n++
					}
					_ = r.Close(context.Background())
				}
			}()
		}
		total := 0
		for range 4 {
			total += <-done
		}
		synctest.Wait()
		if total != sessions*each {
			t.Errorf("%d of %d completed", total, sessions*each)
		}
		b.holds(queue)
	})
}

func TestSessionsAreListed(t *testing.T) {
	inSessions(t, func(t *testing.T, b *topics) {
		list := func(options *azservicebus.ListSessionsOptions) (ids []string) {
			for pager := b.client.NewListSessionsForQueuePager(queue, options); pager.More(); {
				page, err := pager.NextPage(t.Context())
				must(t, err)
				ids = append(ids, page.Sessions...)
			}
			return ids
		}
		if ids := list(nil); len(ids) != 0 {
			t.Errorf("an empty queue has the sessions %v", ids)
		}
		for i := range 120 { // two pages
			b.send(queue, in(fmt.Sprintf("s%03d", i), fmt.Sprint(i)))
		}
		r := b.accept("state only")
		before := time.Now().Add(-time.Second)
		must(t, r.SetSessionState(t.Context(), []byte("x"), nil))
		must(t, r.Close(t.Context()))
		if ids := list(nil); len(ids) != 121 || ids[0] != "s000" || ids[119] != "s119" || ids[120] != "state only" {
			t.Errorf("%d sessions: %v", len(ids), ids)
		}
		if ids := list(&azservicebus.ListSessionsOptions{SessionStateUpdatedAfter: &before}); fmt.Sprint(ids) != "[state only]" {
			t.Errorf("sessions with a new state: %v", ids)
		}
	})
}

func TestSessionWaitEndsWithTheConnection(t *testing.T) {
	inSessions(t, func(t *testing.T, b *topics) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		ended := make(chan struct{})
		for range 50 {
			go func() {
				_, _ = b.client.AcceptNextSessionForQueue(ctx, queue, nil)
				ended <- struct{}{}
			}()
		}
		time.Sleep(5 * time.Second)
		cancel()
		for range 50 {
			<-ended
		}
		b.broker.CloseConnections()
		time.Sleep(time.Second)
		b.send(queue, in("ada", "a1"))
		if r := b.acceptNext(); r.SessionID() != "ada" {
			t.Errorf("session %q", r.SessionID())
		}
	})
}
