package consumer_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/go-jose/go-jose/v4"

	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/event/secevent"
)

// transmitter signs Security Event Tokens, and can keep its keys to itself.
type transmitter struct {
	t        *testing.T
	private  ed25519.PrivateKey
	away     atomic.Bool // the keys cannot be fetched
	verifier *secevent.Verifier
	others   consumer.Decoder
}

// withTransmitter makes the worker accept tokens. Nobody can fetch the keys at first.
func withTransmitter(w *world) *transmitter {
	w.t.Helper()
	tr := &transmitter{t: w.t, others: w.deps.Decoder}
	tr.away.Store(true)
	var err error
	if _, tr.private, err = ed25519.GenerateKey(rand.Reader); err != nil {
		w.t.Fatal(err)
	}
	tr.verifier, err = secevent.New(secevent.Config{
		Transmitters: []secevent.Transmitter{{
			Name: "idp", Issuer: "https://idp.example.com", Audience: []string{"revoker"}, JWKSURL: "https://idp.example.com/keys",
		}},
		Transport: tr,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tr.verifier.Run(ctx)
	}()
	w.t.Cleanup(func() {
		stop()
		<-ended
	})
	w.deps.Decoder, w.deps.KeysChanged = tr, tr.verifier.Changed
	w.newWorker()
	return tr
}

// Decode implements consumer.Decoder.
func (tr *transmitter) Decode(m event.Message) ([]event.Item, error) {
	if tr.verifier.IsToken(m) {
		return tr.verifier.Decode(m)
	}
	return tr.others.Decode(m)
}

// RoundTrip implements http.RoundTripper: it publishes the key.
func (tr *transmitter) RoundTrip(*http.Request) (*http.Response, error) {
	if tr.away.Load() {
		return nil, errors.New("connection refused")
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{KeyID: "1", Key: tr.private.Public()}}})
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(string(set)))}, nil
}

// token returns a message about an account that was disabled.
func (tr *transmitter) token(u graph.User) *azservicebus.Message {
	tr.t.Helper()
	claims, err := json.Marshal(map[string]any{
		"iss": "https://idp.example.com", "aud": "revoker", "jti": "about " + u.UserPrincipalName, "iat": time.Now().Unix(),
		"sub_id": map[string]any{"format": "email", "email": u.UserPrincipalName},
		"events": map[string]any{"https://schemas.openid.net/secevent/risc/event-type/account-disabled": map[string]any{}},
	})
	if err != nil {
		tr.t.Fatal(err)
	}
	options := (&jose.SignerOptions{}).WithType("secevent+jwt").WithHeader("kid", "1")
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: tr.private}, options)
	if err != nil {
		tr.t.Fatal(err)
	}
	signed, err := signer.Sign(claims)
	if err != nil {
		tr.t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		tr.t.Fatal(err)
	}
	contentType, id := "application/secevent+jwt", "token-"+u.ID
	return &azservicebus.Message{MessageID: &id, ContentType: &contentType, Body: []byte(text)}
}

func TestTokensWaitForTheKeysThatVerifyThem(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		tr := withTransmitter(w)
		w.send(tr.token(ada))
		w.run()
		for i := range 12 * 6 {
			neighbor := w.people(i, 1)
			w.sendEach(neighbor)
			w.calledWithin(neighbor[0], 5*time.Second)
			time.Sleep(10 * time.Minute)
		}
		w.wantRevoked()
		if c := w.counts(); c.DeadLetter != 0 || c.Deferred != 1 {
			t.Errorf("after half a day without keys: %+v", c)
		}
		if n := w.logs.FilterMessage("message deferred; it comes back by itself").Len(); n > 95 {
			t.Errorf("deferred %d times: Service Bus would soon dead-letter the message", n)
		}
		tr.away.Store(false)
		w.settled(65 * time.Second) // the keys come within a minute, and the message with them
		w.wantRevoked(ada)
		w.wantDead(nil)
		if problems := w.health.Problems(); len(problems) != 0 {
			t.Errorf("not ready: %v", problems)
		}
	})
}

func TestTokensWaitInTheirSessions(t *testing.T) {
	inBubble(t, settings{sessions: 2, maxDeliveries: 3}, func(t *testing.T, w *world) {
		tr := withTransmitter(w)
		waiting := tr.token(ada)
		waiting.SessionID = &ada.ID
		w.send(waiting)
		w.run()
		for i := range 30 {
			neighbor := w.people(i, 1)
			w.send(inSession(neighbor[0], 0))
			w.calledWithin(neighbor[0], 5*time.Second)
			time.Sleep(55 * time.Second)
		}
		w.wantRevoked()
		w.wantDead(nil)
		tr.away.Store(false)
		w.settled(2 * time.Minute)
		w.wantRevoked(ada)
		w.wantDead(nil)
	})
}

// A worker that starts finds what another one has deferred, and asks for the keys itself.
func TestTokensThatWaitSurviveARestart(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		tr := withTransmitter(w)
		w.send(tr.token(ada), tr.token(grace))
		w.run()
		time.Sleep(10 * time.Minute)
		if left := w.stop(); left != 0 {
			t.Errorf("%d messages were not finished", left)
		}
		if c := w.counts(); c.Deferred != 2 || c.DeadLetter != 0 {
			t.Errorf("%+v", c)
		}
		tr.away.Store(false)
		w.restart()
		w.settled(3 * time.Minute)
		w.wantRevoked(ada, grace)
		w.wantDead(nil)
	})
}

func TestTokensInASessionDelayNoStop(t *testing.T) {
	inBubble(t, settings{sessions: 1}, func(t *testing.T, w *world) {
		tr := withTransmitter(w)
		waiting := tr.token(ada)
		waiting.SessionID = &ada.ID
		w.send(waiting)
		w.run()
		time.Sleep(5 * time.Second)
		began := time.Now()
		w.stop()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("stopped after %s", took)
		}
		if c := w.counts(); c.Active != 1 || c.DeadLetter != 0 {
			t.Errorf("%+v", c)
		}
	})
}

// Whoever may send to the queue can send any number of tokens that wait.
func TestTokensThatWaitDelayNoOneElse(t *testing.T) {
	inBubble(t, settings{maxInFlight: 16}, func(t *testing.T, w *world) {
		tr := withTransmitter(w)
		users := w.people(100, 300)
		for _, u := range users {
			w.send(tr.token(u))
		}
		w.run()
		for i := range 10 {
			neighbor := w.people(i, 1)
			w.sendEach(neighbor)
			w.calledWithin(neighbor[0], 5*time.Second)
			time.Sleep(10 * time.Second)
		}
		tr.away.Store(false)
		w.settled(5 * time.Minute)
		w.wantRevocations(users)
		w.wantDead(nil)
	})
}

func TestTokensInADryRun(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		tr := withTransmitter(w)
		w.send(tr.token(ada))
		ended := make(chan struct{})
		go func() { defer close(ended); w.worker.DryRun(w.soft) }()
		time.Sleep(10 * time.Second)
		w.stopSoft()
		<-ended
		if lines := strings.Join(w.lines(), "\n"); !strings.Contains(lines, `"would_defer"`) || strings.Contains(lines, "would_revoke") {
			t.Error(lines)
		}
	})
}
