package main_test

import (
	"encoding/base64"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/network/networktest"
)

// No DNS resolves these names: only the proxy knows where the servers are.
const (
	hiddenBus    = "session-revoker.test.contoso.servicebus.windows.net"
	hiddenGraph  = "graph.test.invalid"
	hiddenSignIn = "login.test.invalid"
)

const proxyPassword = "hunter2-hunter2"

// closedOff is a cloud behind a proxy that lets out only to port 443, with a private authority.
type closedOff struct {
	*cloud
	proxy *networktest.Proxy
}

// newClosedOff makes the cloud. The workers' environment names the proxy and the authority.
func newClosedOff(t *testing.T, people int) *closedOff {
	t.Helper()
	c := &closedOff{cloud: newCloud(t, people, time.Minute)}
	identity := networktest.NewIdentity(t, hiddenBus, hiddenGraph, hiddenSignIn)
	bus, web := identity.Serve(t, c.broker.Web()), identity.Serve(t, c.graph)
	c.proxy = networktest.NewProxy(t, map[string]string{
		hiddenBus + ":443":    bus,
		hiddenGraph + ":443":  web,
		hiddenSignIn + ":443": web,
	})
	c.proxy.Demand("Basic " + base64.StdEncoding.EncodeToString([]byte("ada:"+proxyPassword)))
	c.env = append(c.env,
		"REVOKER_SERVICEBUS_CONNECTION_STRING="+servicebus.SecureConnectionString(hiddenBus, servicebus.DefaultKey),
		"REVOKER_SERVICEBUS_TRANSPORT=websockets",
		"REVOKER_GRAPH_ENDPOINT=https://"+hiddenGraph,
		"REVOKER_GRAPH_AUTHORITY=https://"+hiddenSignIn,
		"REVOKER_GRAPH_TENANT_ID=contoso",
		"REVOKER_GRAPH_TOKEN_URL=",
		"REVOKER_TLS_CA_FILE="+identity.File,
		"REVOKER_GUARD_PROTECTED_USERS=breakglass@contoso.com",
		"HTTPS_PROXY=http://ada:"+proxyPassword+"@"+c.proxy.Address(),
	)
	return c
}

// TestWorkerBehindAProxy runs the worker and the operators' commands where only the proxy reaches
// the servers: Service Bus over WebSocket, Graph, and sign-in.
func TestWorkerBehindAProxy(t *testing.T) {
	const people = 20
	c := newClosedOff(t, people)
	c.command("", "doctor", "--strict").want(t, 0, "OK    network: Service Bus", "WebSocket to "+hiddenBus+":443, through the proxy "+
		c.proxy.Address()+", certificate from "+networktest.Issuer, "OK    network: Graph", "OK    network: sign-in",
		"OK    events: max delivery count")
	// What cannot be read is dead-lettered, and its neighbors are called: the sanitizer is on the
	// connection.
	c.inject(hostile, odd(fmt.Sprintf(`{"type":"device.lost","userId":%q}`, id(0))))
	for i := 1; i < people-1; i++ {
		c.send(about(i))
	}
	c.command("", "send", "--type", "device.stolen", id(people-1)).want(t, 0, "1 of 1")
	p := c.start()
	c.until("an empty queue", func() bool { return c.counts().Active == 0 })
	if n := c.revoked(people); n != people || c.counts().DeadLetter != 1 {
		t.Errorf("%d of %d are revoked, %+v, want one dead letter\n%s", n, people, c.counts(), &p.out)
	}
	c.proxy.Cut() // the worker connects again
	c.command("", "revoke", id(0)).want(t, 0, "revoked")
	c.command("", "dlq", "list").want(t, 0, "UnreadableMessage", "[unreadable]")
	c.command("", "dlq", "export", filepath.Join(t.TempDir(), "all.ndjson")).want(t, 0, "1 dead letter written")
	c.command("", "deferred", "list").want(t, 0)
	calls := len(c.graph.Calls())
	c.command("", "send", "--type", "device.stolen", id(1)).want(t, 0, "1 of 1")
	c.until("another call over a new connection", func() bool { return c.counts().Active == 0 && len(c.graph.Calls()) > calls })
	lost := c.start("REVOKER_SERVICEBUS_PROXY=http://ada:" + proxyPassword + "@127.0.0.1:1")
	c.until("a line that says what to do", func() bool {
		return strings.Contains(lost.out.String(), `"todo":"open outgoing TCP to the proxy 127.0.0.1:1`)
	})
	lost.terminate(t)
	p.terminate(t)
	if strings.Contains(p.out.String()+lost.out.String(), proxyPassword) {
		t.Errorf("the log holds the proxy's password:\n%s", &p.out)
	}
	for _, server := range c.proxy.Asked() {
		if !strings.HasSuffix(server, ":443") {
			t.Errorf("asked the proxy for %s", server)
		}
	}
}

// TestWorkerBehindAProxySignsInToServiceBus has no connection string: Entra issues the tokens for
// Service Bus and for Graph, to the app that the environment names.
func TestWorkerBehindAProxySignsInToServiceBus(t *testing.T) {
	const people = 5
	c := newClosedOff(t, people)
	c.env = append(c.env, "REVOKER_SERVICEBUS_CONNECTION_STRING=", "REVOKER_SERVICEBUS_NAMESPACE="+hiddenBus,
		"REVOKER_GRAPH_CLIENT_ID=", "REVOKER_GRAPH_CLIENT_SECRET=",
		"AZURE_TENANT_ID=contoso", "AZURE_CLIENT_ID=client", "AZURE_CLIENT_SECRET="+clientSecret)
	c.command("", "doctor", "--strict").want(t, 0, "OK    network: sign-in", hiddenSignIn+":443, through the proxy",
		"OK    Service Bus: sign-in", "app client in tenant contoso", "OK    events: receive", "OK    Graph: call",
		"OK    events: max delivery count")
	for i := range people {
		c.send(about(i))
	}
	p := c.start()
	c.until("an empty queue", func() bool { return c.counts().Active == 0 })
	if n := c.revoked(people); n != people {
		t.Errorf("%d of %d are revoked\n%s", n, people, &p.out)
	}
	p.terminate(t)
	// The app's secret does not fit any more.
	refused := c.commandIn("", []string{"AZURE_CLIENT_SECRET=" + clientSecret + "-old"}, "doctor")
	refused.want(t, 2, "FAIL  Service Bus: sign-in", "OK    network: sign-in")
	if strings.Contains(refused.stdout+refused.stderr, clientSecret) {
		t.Errorf("the output holds the secret:\n%s", refused.stdout)
	}
}

// TestDoctorNamesTheStepThatFails changes one thing at a time.
func TestDoctorNamesTheStepThatFails(t *testing.T) {
	t.Parallel()
	c := newClosedOff(t, 1)
	gateway := c.commandIn("", []string{"REVOKER_SERVICEBUS_ENDPOINT=127.0.0.1:1"}, "doctor")
	gateway.want(t, 2, "TCP does not reach 127.0.0.1:1")
	if strings.Contains(gateway.stdout, "network: Service Bus, amqp") {
		t.Errorf("tries a gateway's port for both transports:\n%s", gateway.stdout)
	}
	for name, broken := range map[string]struct {
		env   []string
		texts []string
	}{
		"no proxy": {[]string{"HTTPS_PROXY="}, []string{
			"FAIL  network: Service Bus", "DNS does not resolve " + hiddenBus,
			"FAIL  network: Graph", "DNS does not resolve " + hiddenGraph, "FAIL  network: sign-in",
		}},
		"no authority": {[]string{"REVOKER_TLS_CA_FILE="}, []string{
			"FAIL  network: Service Bus", "its certificate comes from " + networktest.Issuer + ", which this machine does not trust",
			"FAIL  network: Graph", "set tls.ca_file",
		}},
		"wrong password": {[]string{"HTTPS_PROXY=http://ada:x@" + c.proxy.Address()}, []string{
			"FAIL  network: Service Bus", "HTTP 407", "the proxy's user and password", "FAIL  network: Graph",
		}},
		"no such proxy": {[]string{"HTTPS_PROXY=http://127.0.0.1:1"}, []string{"TCP does not reach the proxy 127.0.0.1:1"}},
		"AMQP": {[]string{"REVOKER_SERVICEBUS_TRANSPORT=amqp"}, []string{
			"FAIL  network: Service Bus", "WARN  network: Service Bus, websockets", "works, through the proxy",
			"set servicebus.transport to websockets",
		}},
		"not allowed": {
			[]string{
				"REVOKER_SERVICEBUS_CONNECTION_STRING=Endpoint=sb://other." + hiddenBus + "/;SharedAccessKeyName=k;SharedAccessKey=v",
			},
			[]string{"HTTP 403", "allow CONNECT to other." + hiddenBus + ":443 on the proxy"},
		},
		"Redis": {
			[]string{"REVOKER_REDIS_ADDRESSES=127.0.0.1:1"},
			[]string{"FAIL  network: Redis", "TCP does not reach 127.0.0.1:1", "open outgoing TCP to 127.0.0.1:1", "OK    network: Graph"},
		},
		"a proxy of its own": {
			[]string{"REVOKER_SERVICEBUS_PROXY=http://ada:" + proxyPassword + "@127.0.0.1:1"},
			[]string{"TCP does not reach the proxy 127.0.0.1:1", "OK    network: Graph"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			result := c.commandIn("", broken.env, "doctor")
			result.want(t, 2, broken.texts...)
			if strings.Contains(result.stdout+result.stderr, proxyPassword) {
				t.Errorf("the output holds the proxy's password:\n%s", result.stdout)
			}
		})
	}
}
