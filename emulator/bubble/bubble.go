// Package bubble connects the real clients to the embedded servers over connections in memory. A
// test can then run a broker, a Graph and the unmodified clients inside one testing/synctest
// bubble, in which hours pass in milliseconds. Everything must be made inside the bubble.
//
// Close in this order, so that every goroutine ends inside the bubble: the test's own goroutines,
// the clients, the broker, the Graph; then call Drain.
package bubble

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// ConnectionString holds the broker's default key. Its host is never resolved.
var ConnectionString = "Endpoint=sb://bubble.servicebus.windows.net/;SharedAccessKeyName=" +
	servicebus.DefaultKey.Name + ";SharedAccessKey=" + servicebus.DefaultKey.Value

// Signed is a connection string with a signature of the broker's default key that lasts for a century
// of virtual time. Its client asks for no new token, as one with the key does for each link every
// five minutes: in hours without work, nothing else takes as much real time.
var Signed = func() string {
	resource, expiry := url.QueryEscape("sb://bubble.servicebus.windows.net"), "4102444800"
	mac := hmac.New(sha256.New, []byte(servicebus.DefaultKey.Value))
	mac.Write([]byte(resource + "\n" + expiry))
	return fmt.Sprintf("Endpoint=sb://bubble.servicebus.windows.net/;SharedAccessSignature=SharedAccessSignature sr=%s&sig=%s&se=%s&skn=%s",
		resource, url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil))), expiry, servicebus.DefaultKey.Name)
}()

// GraphRoot is the Graph root for clients that use a Graph's Dial or Transport. Its host is never
// resolved.
const GraphRoot = "http://graph.bubble"

// DialBroker returns the option NewWebSocketConn of azservicebus.ClientOptions for a client of the
// broker. Each call opens a connection in memory.
func DialBroker(broker *servicebus.Broker) func(context.Context, azservicebus.NewWebSocketConnArgs) (net.Conn, error) {
	return func(context.Context, azservicebus.NewWebSocketConnArgs) (net.Conn, error) {
		return broker.NewClientConn()
	}
}

// Drain waits, in virtual time, until the goroutines have ended that closed clients leave behind.
//
// When two callers find the links gone after a cut, both open them again (azservicebus v1.11.0,
// AMQPLinksImpl.Get), and nobody stops the token renewers of the first one. These end when their
// next renewal finds the client closed, which takes at most as long as a token lives.
func Drain() {
	time.Sleep(24 * time.Hour)
	synctest.Wait()
}

// Graph is an embedded Graph that is served over connections in memory. It is safe for concurrent
// use.
type Graph struct {
	*graph.Server
	listener *graph.MemoryListener
	web      *http.Server
	served   chan error
}

// NewGraph makes a Graph and serves it until Close. The error is that of graph.New.
func NewGraph(cfg graph.Config) (*Graph, error) {
	server, err := graph.New(cfg)
	if err != nil {
		return nil, err
	}
	g := &Graph{
		Server:   server,
		listener: graph.NewMemoryListener(),
		web:      &http.Server{Handler: server}, //nolint:gosec // in memory: nobody can be slow to send a header
		served:   make(chan error, 1),
	}
	go func() { g.served <- g.web.Serve(g.listener) }()
	return g, nil
}

// Dial opens a connection in memory; net.ErrClosed after Close.
func (g *Graph) Dial(ctx context.Context) (net.Conn, error) { return g.listener.Dial(ctx) }

// Transport returns a new transport that reaches the Graph, whatever the URL's host is. The caller
// closes its idle connections before Close.
func (g *Graph) Transport() *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return g.Dial(ctx) }}
}

// Close stops the server and waits for its end. The error is the server's, if it failed before.
// Call it once.
func (g *Graph) Close() error {
	_ = g.web.Close()
	if err := <-g.served; err != http.ErrServerClosed { //nolint:errorlint // Serve returns it as it is
		return err
	}
	return nil
}

// Credential is an azcore.TokenCredential that gets tokens from the embedded Graph. Like the
// credentials of azidentity it keeps a token until shortly before it expires, or until it is asked
// with claims. It is safe for concurrent use.
type Credential struct {
	// Client reaches the Graph. Required.
	Client *http.Client
	// Tenant, ClientID and Secret are those of the Graph's configuration.
	Tenant, ClientID, Secret string

	mu    sync.Mutex
	token azcore.AccessToken
}

// GetToken returns the kept token or a new one. The error is that of the token request.
func (c *Credential) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	c.mu.Lock()
	kept := c.token
	c.mu.Unlock()
	if kept.Token != "" && o.Claims == "" && time.Until(kept.ExpiresOn) > 5*time.Minute {
		return kept, nil
	}
	request := clientcredentials.Config{
		ClientID: c.ClientID, ClientSecret: c.Secret, AuthStyle: oauth2.AuthStyleInParams,
		TokenURL: GraphRoot + "/" + c.Tenant + "/oauth2/v2.0/token",
		Scopes:   o.Scopes, EndpointParams: url.Values{"claims": {o.Claims}},
	}
	fresh, err := request.Token(context.WithValue(ctx, oauth2.HTTPClient, c.Client))
	if err != nil {
		return azcore.AccessToken{}, err
	}
	token := azcore.AccessToken{Token: fresh.AccessToken, ExpiresOn: time.Now().Add(time.Hour)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token = token
	return token, nil
}
