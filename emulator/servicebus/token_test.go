package servicebus_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"

	"github.com/session-revoker/session-revoker/emulator/bubble"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// signedIn is a broker that accepts the tokens of a directory. The app "receiver" may only listen.
type signedIn struct {
	secured
	directory *graph.Server
	authority *httptest.Server
}

func withEntra(t *testing.T) signedIn {
	t.Helper()
	directory, err := graph.New(graph.Config{
		Tenant: "tenant", Apps: []graph.App{{ClientID: "owner", Secret: "s"}, {ClientID: "receiver", Secret: "s"}},
	})
	must(t, err)
	s := signedIn{directory: directory, authority: httptest.NewTLSServer(directory)}
	t.Cleanup(s.authority.Close)
	s.secured = overTLS(t, servicebus.Config{
		Queues: []servicebus.QueueConfig{{Name: queue}},
		Authorize: func(token string) (servicebus.Grant, error) {
			id, until, err := directory.Verify(token, servicebus.Audience)
			return servicebus.Grant{Listen: true, Send: id == "owner", Manage: id == "owner", Until: until}, err
		},
	})
	return s
}

// credential signs in as an app.
func (s signedIn) credential(t *testing.T, id string) azcore.TokenCredential {
	t.Helper()
	c, err := azidentity.NewClientSecretCredential("tenant", id, "s", &azidentity.ClientSecretCredentialOptions{
		ClientOptions: azcore.ClientOptions{
			Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: s.authority.URL}, Transport: s.authority.Client(),
		},
		DisableInstanceDiscovery: true,
	})
	must(t, err)
	return c
}

// clientsOf returns a client for each transport. They do not retry.
func (s signedIn) clientsOf(t *testing.T, c azcore.TokenCredential) map[string]*azservicebus.Client {
	t.Helper()
	all := map[string]*azservicebus.Client{}
	for name, o := range map[string]*azservicebus.ClientOptions{
		s.amqps: {TLSConfig: s.trust, RetryOptions: impatient.RetryOptions},
		s.wss:   {NewWebSocketConn: s.websocketOf, RetryOptions: impatient.RetryOptions},
	} {
		client, err := azservicebus.NewClient(name, c, o)
		must(t, err)
		t.Cleanup(func() { _ = client.Close(context.Background()) })
		all[name] = client
	}
	return all
}

func TestTokensOfADirectoryAreAcceptedOverEveryTransport(t *testing.T) {
	s := withEntra(t)
	for _, client := range s.clientsOf(t, s.credential(t, "owner")) {
		sender, err := client.NewSender(queue, nil)
		must(t, err)
		must(t, sender.SendMessage(ctx, &azservicebus.Message{Body: []byte("x")}, nil))
		receiver, err := client.NewReceiverForQueue(queue, nil)
		must(t, err)
		must(t, receiver.CompleteMessage(ctx, receiveFrom(t, receiver, 1)[0], nil))
	}
	for _, client := range s.clientsOf(t, s.credential(t, "receiver")) {
		sender, err := client.NewSender(queue, nil)
		must(t, err)
		wantCode(t, sender.SendMessage(ctx, &azservicebus.Message{}, nil), azservicebus.CodeUnauthorizedAccess)
		receiver, err := client.NewReceiverForQueue(queue, nil)
		must(t, err)
		_, err = receiver.PeekMessages(ctx, 1, nil)
		must(t, err)
	}
}

// fixed is a credential with a token that the test made.
type fixed string

func (f fixed) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: string(f), ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// tokenFor gets a token from the directory.
func (s signedIn) tokenFor(t *testing.T, scope string) string {
	t.Helper()
	token, err := s.credential(t, "owner").GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{scope}})
	must(t, err)
	return token.Token
}

func TestTokensThatNobodyIssuedAreRefused(t *testing.T) {
	s := withEntra(t)
	good := s.tokenFor(t, servicebus.Audience+"/.default")
	head, signature := good[:strings.LastIndexByte(good, '.')], good[strings.LastIndexByte(good, '.'):]
	for name, token := range map[string]string{
		"made up":          "eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIn0.eyJhdWQiOiJodHRwczovL3NlcnZpY2VidXMuYXp1cmUubmV0In0.",
		"no JWT":           "hello",
		"empty":            "",
		"changed":          head[:len(head)-2] + "AA" + signature,
		"without a sign":   head + ".",
		"for Graph":        s.tokenFor(t, "https://graph.microsoft.com/.default"),
		"for another host": s.tokenFor(t, "https://servicebus.azure.net.evil.example/.default"),
	} {
		for _, client := range s.clientsOf(t, fixed(token)) {
			sender, err := client.NewSender(queue, nil)
			must(t, err)
			err = sender.SendMessage(ctx, &azservicebus.Message{}, nil)
			wantCode(t, err, azservicebus.CodeUnauthorizedAccess)
			if err == nil || !strings.Contains(err.Error(), "InvalidToken") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	s.directory.RevokeTokens()
	for _, client := range s.clientsOf(t, fixed(good)) {
		sender, err := client.NewSender(queue, nil)
		must(t, err)
		wantCode(t, sender.SendMessage(ctx, &azservicebus.Message{}, nil), azservicebus.CodeUnauthorizedAccess)
	}
}

func TestTokensAreRefusedByABrokerWithoutADirectory(t *testing.T) {
	s := signedIn{secured: overTLS(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})}
	for _, client := range s.clientsOf(t, fixed("token")) {
		sender, err := client.NewSender(queue, nil)
		must(t, err)
		err = sender.SendMessage(ctx, &azservicebus.Message{}, nil)
		wantCode(t, err, azservicebus.CodeUnauthorizedAccess)
		if err == nil || !strings.Contains(err.Error(), "shared access key") {
			t.Errorf("the error does not say what to do: %v", err)
		}
	}
}

func TestTokensAreAcceptedByTheAdministrationAPI(t *testing.T) {
	s := withEntra(t)
	transport := &http.Transport{TLSClientConfig: s.trust}
	defer transport.CloseIdleConnections()
	use := func(c azcore.TokenCredential) error {
		client, err := admin.NewClient(s.wss, c, &admin.ClientOptions{
			ClientOptions: azcore.ClientOptions{Transport: &http.Client{Transport: transport}},
		})
		must(t, err)
		_, err = client.CreateQueue(ctx, "made", nil)
		return err
	}
	var refused *azcore.ResponseError
	for name, c := range map[string]azcore.TokenCredential{"receiver": s.credential(t, "receiver"), "made up": fixed("a.b.c")} {
		if err := use(c); !errors.As(err, &refused) || refused.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, use(s.credential(t, "owner")))
}

// TestTokensThatExpireEndTheirLinks uses the one kind of credential that clients do not renew: a
// shared access signature.
func TestTokensThatExpireEndTheirLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker, err := servicebus.New(servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
		must(t, err)
		defer broker.Close()
		expires := time.Now().Add(time.Hour)
		client, err := azservicebus.NewClientFromConnectionString(
			"Endpoint=sb://memory/;SharedAccessSignature="+sign("amqps://memory", expires),
			&azservicebus.ClientOptions{RetryOptions: impatient.RetryOptions, NewWebSocketConn: bubble.DialBroker(broker)})
		must(t, err)
		defer client.Close(ctx)
		sender, err := client.NewSender(queue, nil)
		must(t, err)
		must(t, sender.SendMessage(ctx, &azservicebus.Message{}, nil))
		time.Sleep(time.Hour - time.Second)
		must(t, sender.SendMessage(ctx, &azservicebus.Message{}, nil))
		time.Sleep(2 * time.Second)
		wantCode(t, sender.SendMessage(ctx, &azservicebus.Message{}, nil), azservicebus.CodeUnauthorizedAccess)
	})
}

// TestTokensThatAreRenewedKeepTheirLinks: a receiver that waits for half a day has no gap.
func TestTokensThatAreRenewedKeepTheirLinks(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, b *bench) {
		b.nothing(b.receiver, 12*time.Hour)
		b.send("x")
		if got := bodies(b.receive(1)); got != "[x]" {
			t.Errorf("received %s", got)
		}
	})
}
