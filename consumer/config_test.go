package consumer_test

import (
	"strings"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/consumer"
)

func TestConsumerNamesEverythingThatIsMissing(t *testing.T) {
	_, err := consumer.New(consumer.Config{MaxInFlight: 5_001, Lock: -time.Second}, consumer.Dependencies{
		Sources: []consumer.Source{{}},
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, name := range []string{
		"Concurrency", "MaxInFlight", "Lock", "SettleTimeout", "DrainTimeout",
		"Sources[0].Entity", "Sources[0].Receiver", "Decoder", "Protected", "Revoker", "Retry", "Log", "Metrics", "Health",
	} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("the error does not name %s: %v", name, err)
		}
	}
	for _, optional := range []string{"Canary", "Auditor", "Resolver", "Known", "Coordinator", "NewLimiter", "Tracer"} {
		if strings.Contains(err.Error(), optional) {
			t.Errorf("the error requires %s, which may be nil: %v", optional, err)
		}
	}
	if _, err := consumer.New(consumer.Config{}, consumer.Dependencies{}); err == nil || !strings.Contains(err.Error(), "a source") {
		t.Errorf("a consumer without a source: %v", err)
	}
}
