package conformance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"

	"github.com/session-revoker/session-revoker/emulator/bubble"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// target is the Service Bus to try.
type target struct {
	connection string // its connection string, with every claim
	parsed     connection
	// listenOnly and sendOnly are connection strings with one claim each, or "".
	listenOnly, sendOnly string

	options    azservicebus.ClientOptions
	admin      *admin.Client       // nil: it has its entities from a file
	maxMessage int                 // in bytes; 0: not known
	prefix     string              // of the entities
	file       map[naming]entities // what its configuration file declares, if it has no administration
}

// embedded tries a feature on a broker of its own, in virtual time.
func embedded(t *testing.T, name string, f feature, got *result) {
	synctest.Test(t, func(t *testing.T) { inBubble(t, name, f, nil, got) })
}

// embeddedWithFile is embedded, but the entities are those of the configuration file.
func embeddedWithFile(t *testing.T, name string, f feature, got *result) {
	if f.needs.admin {
		t.Skip("it needs the administration API")
	}
	file := configFile(map[naming]entities{namesFor(filePrefix, name): f.entities})
	synctest.Test(t, func(t *testing.T) { inBubble(t, name, f, file, got) })
}

// inBubble makes the broker of a feature, with the entities of the file if there is one.
func inBubble(t *testing.T, name string, f feature, file []byte, got *result) {
	listen := servicebus.Key{Name: "listen", Value: "may listen", Listen: true}
	send := servicebus.Key{Name: "send", Value: "may send", Send: true}
	cfg := servicebus.Config{
		Queues: []servicebus.QueueConfig{{Name: "unused"}}, Keys: []servicebus.Key{servicebus.DefaultKey, listen, send},
	}
	if file != nil {
		queues, topics, err := servicebus.ReadEntities(strings.NewReader(string(file)))
		if err != nil {
			t.Fatal(err)
		}
		cfg.Queues, cfg.Topics = append(cfg.Queues, queues...), topics
	}
	broker, err := servicebus.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer bubble.Drain()
	defer func() { _ = broker.Close() }()
	with := func(key servicebus.Key) string {
		return fmt.Sprintf("Endpoint=sb://embedded;SharedAccessKeyName=%s;SharedAccessKey=%s", key.Name, key.Value)
	}
	parsed, err := parseConnection(with(servicebus.DefaultKey))
	if err != nil {
		t.Fatal(err)
	}
	target := &target{
		parsed:     parsed,
		connection: with(servicebus.DefaultKey), listenOnly: with(listen), sendOnly: with(send),
		options:    azservicebus.ClientOptions{NewWebSocketConn: bubble.DialBroker(broker)},
		maxMessage: 256 << 10, prefix: filePrefix,
	}
	if file == nil {
		if target.admin, err = newAdmin(target.connection, inMemory{broker.Admin()}); err != nil {
			t.Fatal(err)
		}
	}
	target.try(t, name, f, got)
}

// inMemory sends the requests of the administration client to a handler.
type inMemory struct{ handler http.Handler }

func (m inMemory) Do(request *http.Request) (*http.Response, error) {
	recorder := httptest.NewRecorder()
	if request.Body == nil {
		request.Body = http.NoBody
	}
	m.handler.ServeHTTP(recorder, request)
	response := recorder.Result()
	response.Request = request
	return response, nil
}

func newAdmin(connection string, transport policy.Transporter) (*admin.Client, error) {
	return admin.NewClientFromConnectionString(connection, &admin.ClientOptions{
		ClientOptions: azcore.ClientOptions{Transport: transport},
	})
}

// fromEnvironment returns the target that the environment names, or nil. docs/conformance.md
// explains the variables.
func fromEnvironment() (*target, error) {
	t := &target{
		connection: os.Getenv("CONFORMANCE_CONNECTION_STRING"),
		listenOnly: os.Getenv("CONFORMANCE_LISTEN_CONNECTION_STRING"),
		sendOnly:   os.Getenv("CONFORMANCE_SEND_CONNECTION_STRING"),
	}
	if t.connection == "" {
		return nil, nil
	}
	var err error
	if t.parsed, err = parseConnection(t.connection); err != nil {
		return nil, fmt.Errorf("CONFORMANCE_CONNECTION_STRING: %w", err)
	}
	if size := os.Getenv("CONFORMANCE_MAX_MESSAGE_BYTES"); size != "" {
		if t.maxMessage, err = strconv.Atoi(size); err != nil || t.maxMessage <= 0 {
			return nil, fmt.Errorf("CONFORMANCE_MAX_MESSAGE_BYTES must be a number of bytes, not %q", size)
		}
	}
	administration := os.Getenv("CONFORMANCE_ADMIN_CONNECTION_STRING")
	if administration == "" && !t.parsed.emulator {
		administration = t.connection
	}
	if administration == "" {
		t.prefix, t.file = filePrefix, allOfFile()
		return t, nil
	}
	t.prefix = "conformance-" + strings.ToLower(rand.Text()[:8])
	parsed, err := parseConnection(administration)
	if err == nil {
		var transport policy.Transporter
		if parsed.emulator {
			transport = plainHTTP{}
		}
		t.admin, err = newAdmin(administration, transport)
	}
	if err != nil {
		return nil, fmt.Errorf("CONFORMANCE_ADMIN_CONNECTION_STRING: %w", err)
	}
	return t, nil
}

// plainHTTP sends requests with http in place of https, because emulators have no certificate and
// the administration client knows https only.
type plainHTTP struct{}

func (plainHTTP) Do(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	request.URL.Scheme = "http"
	return http.DefaultClient.Do(request)
}

// try makes the entities of a feature, tries it and deletes them.
func (g *target) try(t *testing.T, name string, f feature, got *result) {
	names := namesFor(g.prefix, name)
	if why := g.lacks(f.needs, names); why != "" {
		got.notTried = why
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	c := &check{T: t, ctx: ctx, target: g, naming: names}
	defer func() { got.problems = c.problems }()
	if g.admin != nil {
		defer func() {
			if err := f.entities.remove(context.Background(), g.admin, c.naming); err != nil && !isGone(err) {
				t.Logf("delete what the feature has made: %v", err)
			}
		}()
		if err := f.entities.create(ctx, g.admin, c.naming); err != nil {
			c.Fatalf("%v", err)
		}
	}
	defer c.close()
	c.client = c.connect(g.connection)
	f.try(c)
}

// lacks returns why the target cannot be asked for a feature, or "".
func (g *target) lacks(n needs, names naming) string {
	_, declared := g.file[names]
	switch {
	case n.admin && g.admin == nil:
		return "no administration"
	case g.file != nil && !declared:
		return "its file has no room for it"
	case n.claims && (g.listenOnly == "" || g.sendOnly == ""):
		return "no keys with one claim"
	case n.size && g.maxMessage == 0:
		return "its size limit is not given"
	}
	return ""
}

func isGone(err error) bool {
	var response *azcore.ResponseError
	return errors.As(err, &response) && response.StatusCode == http.StatusNotFound
}
