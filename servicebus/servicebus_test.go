package servicebus_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/sanitizer"
	"github.com/session-revoker/session-revoker/servicebus"
)

func TestClientPrefersTheConnectionString(t *testing.T) {
	asked := false
	cfg := servicebus.Config{Namespace: "ns.servicebus.windows.net", Credential: func() (azcore.TokenCredential, error) {
		asked = true
		return nil, errors.New("no identity")
	}}
	if _, err := servicebus.New(cfg, sanitizer.New(sanitizer.Options{})); err == nil || !strings.Contains(err.Error(),
		"no identity") || !asked {
		t.Errorf("without a connection string: %v", err)
	}
	asked = false
	cfg.ConnectionString = "Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=k;SharedAccessKey=eA=="
	if _, err := servicebus.New(cfg, sanitizer.New(sanitizer.Options{})); err != nil || asked {
		t.Errorf("with a connection string: %v; asked for an identity: %v", err, asked)
	}
}

func TestGuardTurnsAPanicIntoAnError(t *testing.T) {
	result, err := servicebus.Guard(func() (int, error) { panic("interface conversion") })
	if result != 0 || !errors.Is(err, servicebus.ErrUnreadable) {
		t.Errorf("%d, %v", result, err)
	}
	failure := errors.New("failure")
	if result, err = servicebus.Guard(func() (int, error) { return 1, failure }); result != 1 || !errors.Is(err, failure) {
		t.Errorf("%d, %v", result, err)
	}
}

func TestHintNamesWhatToDo(t *testing.T) {
	for want, err := range map[string]error{
		"Data Receiver":  fmt.Errorf("receive: %w", &azservicebus.Error{Code: azservicebus.CodeUnauthorizedAccess}),
		"no such entity": &azservicebus.Error{Code: azservicebus.CodeNotFound},
		"set servicebus.sessions to how": errors.New("it is not possible for an entity that requires sessions to create a " +
			"non-sessionful message receiver."),
		"set servicebus.sessions to 0": errors.New("a sessionful message receiver cannot be created: session receiver on " +
			"an entity that does not require sessions"),
		"worker doctor":                   errors.New("dial tcp: i/o timeout"),
		"open it":                         errors.New("(connlost): TCP does not reach it; what to do: open it"),
		"servicebus.namespace or the con": &azservicebus.Error{Code: azservicebus.CodeConnectionLost},
	} {
		if hint := servicebus.Hint(err); !strings.Contains(hint, want) {
			t.Errorf("%v: %s", err, hint)
		}
	}
}
