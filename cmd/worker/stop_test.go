package main_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/emulator/graph"
)

// TestWorkerDoesNotWaitOnSIGTERMForWhatCannotBeFinished checks that the worker abandons everything
// and exits with 0 without waiting for the drain timeout (25 s) if nothing can finish before it.
func TestWorkerDoesNotWaitOnSIGTERMForWhatCannotBeFinished(t *testing.T) {
	t.Parallel()
	const people, within = 25 * 1000, 20 * time.Second // a few seconds, on a machine that has nothing else to do
	everyone := func(chaos *chaos) (messages []*azservicebus.Message) {
		for i := range 25 {
			var others []int
			for k := range 1000 {
				others = append(others, 1000*i+k)
			}
			messages = append(messages, chaos.message("user.offboarded", others...))
		}
		return messages
	}
	each := func(*chaos) (messages []*azservicebus.Message) {
		for i := range 40 {
			messages = append(messages, about(i))
		}
		return messages
	}
	for name, stop := range map[string]struct {
		env   string
		fault *graph.Fault
		sends func(*chaos) []*azservicebus.Message
		until string // a text in the log
	}{
		"the guard has tripped":                 {"REVOKER_GUARD_MAX_USERS=3", nil, each, "the guard has tripped"},
		"the guard has tripped, large messages": {"REVOKER_GUARD_MAX_USERS=3", nil, everyone, "the guard has tripped"},
		"Graph is away": {
			"", &graph.Fault{Status: http.StatusServiceUnavailable}, each,
			"Graph is not usable",
		},
		"Graph is away, large messages": {
			"", &graph.Fault{Status: http.StatusServiceUnavailable}, everyone,
			"Graph is not usable",
		},
		"nobody answers, large messages": {"", &graph.Fault{Drop: true}, everyone, "Graph is not usable"},
		"Graph throttles for long": {
			"", &graph.Fault{Status: http.StatusTooManyRequests, RetryAfter: "300"}, each,
			"connected to Service Bus",
		},
		"Graph throttles for long, large messages": {
			"", &graph.Fault{Status: http.StatusTooManyRequests, RetryAfter: "300"}, everyone,
			"connected to Service Bus",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := &chaos{cloud: newCloud(t, people, time.Minute), Rand: newRand(t), users: map[string][]string{}}
			c.defaults()
			if stop.fault != nil {
				c.graph.Inject(*stop.fault)
			}
			messages := stop.sends(c)
			c.sendMany(messages...)
			p := c.start(stop.env)
			c.until(stop.until, func() bool { return strings.Contains(p.out.String(), stop.until) && len(c.graph.Calls()) > 0 })
			time.Sleep(time.Second) // the worker starts on what it receives now
			p.wantLittleMemory(t)
			began := time.Now()
			p.terminate(t)
			took := time.Since(began)
			if took > within {
				t.Errorf("it stopped after %s, want within %s", took, within)
			}
			counts := c.counts()
			done := 0
			if len(messages) == 40 {
				done = c.revoked(40)
			}
			if counts.Active+counts.Deferred+done != len(messages) || counts.DeadLetter != 0 {
				t.Errorf("%+v, %d done of %d", counts, done, len(messages))
			}
			if counts.Locked != 0 {
				t.Errorf("%d messages are not free for the next worker", counts.Locked)
			}
			t.Logf("stopped after %s: %+v", took.Round(time.Millisecond), counts)
		})
	}
}
