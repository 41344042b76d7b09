package bubble_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/goleak"

	"github.com/session-revoker/session-revoker/emulator/bubble"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestBubbleBroker sends and receives a message with the real client, and lets its lock expire.
func TestBubbleBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		broker, err := servicebus.New(servicebus.Config{Queues: []servicebus.QueueConfig{{Name: "q", LockDuration: time.Minute}}})
		must(t, err)
		client, err := azservicebus.NewClientFromConnectionString(bubble.ConnectionString,
			&azservicebus.ClientOptions{NewWebSocketConn: bubble.DialBroker(broker)})
		must(t, err)
		defer func() {
			_ = client.Close(ctx)
			_ = broker.Close()
			bubble.Drain()
		}()
		sender, err := client.NewSender("q", nil)
		must(t, err)
		must(t, sender.SendMessage(ctx, &azservicebus.Message{Body: []byte("event")}, nil))
		receiver, err := client.NewReceiverForQueue("q", nil)
		must(t, err)
		for range 2 { // the second time after the lock has expired
			began := time.Now()
			messages, err := receiver.ReceiveMessages(ctx, 1, nil)
			must(t, err)
			if len(messages) != 1 || string(messages[0].Body) != "event" || time.Since(began) > time.Minute {
				t.Errorf("received %v after %s", messages, time.Since(began))
			}
		}
	})
}

// TestBubbleGraph gets a token, revokes a user, and finds the server gone after Close.
func TestBubbleGraph(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		g, err := bubble.NewGraph(graph.Config{Tenant: "contoso", Users: []graph.User{{ID: "ada", UserPrincipalName: "ada@contoso.com"}}})
		must(t, err)
		transport := g.Transport()
		client := &http.Client{Transport: transport}
		credential := &bubble.Credential{Client: client, Tenant: "contoso", ClientID: "client", Secret: "secret"}
		get := func(claims string) string {
			token, err := credential.GetToken(ctx, policy.TokenRequestOptions{
				Scopes: []string{bubble.GraphRoot + "/.default"}, Claims: claims,
			})
			must(t, err)
			return token.Token
		}
		first := get("")
		if again := get(""); again != first {
			t.Error("the credential does not keep its token")
		}
		time.Sleep(time.Second) // tokens of the same second are the same
		if renewed := get(`{"access_token":{}}`); renewed == first {
			t.Error("claims do not force a new token")
		}
		time.Sleep(56 * time.Minute)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, bubble.GraphRoot+"/v1.0/users/ada/revokeSignInSessions", nil)
		must(t, err)
		req.Header.Set("Authorization", "Bearer "+get(""))
		resp, err := client.Do(req)
		must(t, err)
		_ = resp.Body.Close()
		if _, revoked := g.Revoked("ada"); !revoked || resp.StatusCode != http.StatusOK {
			t.Errorf("status %d, revoked %v", resp.StatusCode, revoked)
		}
		if n := len(g.Tokens()); n != 3 {
			t.Errorf("%d tokens were issued, want 3: one expires after an hour", n)
		}
		transport.CloseIdleConnections()
		must(t, g.Close())
		if _, err := g.Dial(ctx); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close, Dial returns %v", err)
		}
	})
}

func TestBubbleGraphWithoutAUsersID(t *testing.T) {
	if _, err := bubble.NewGraph(graph.Config{Users: []graph.User{{}}}); err == nil {
		t.Error("a user without an id is accepted")
	}
}
