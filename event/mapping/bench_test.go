package mapping_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/event/mapping"
)

// many returns a YAML text with mappings that match nothing, before the one of hook.
func many(n int) string {
	var b strings.Builder
	b.WriteString("mappings:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - {name: other-%d, match: 'body.?kind%d.orValue(\"\") == \"x\"',\n"+
			"     type: '\"device.lost\"', user: [{id: body.user}]}\n", i, i%4)
	}
	return b.String() + strings.TrimPrefix(hook, "\nmappings:\n")
}

// largeHook returns a hook's body with n events, each as large as a real one.
func largeHook(n int) []byte {
	events := make([]string, n)
	for i := range events {
		events[i] = fmt.Sprintf(`{"uuid":"%d","published":"2026-03-01T12:00:00.862Z",
		"eventType":"user.deactivate","version":"0","severity":"INFO",
		"legacyEventType":"core.user.config.user_deactivated","displayMessage":"Deactivate user","actor":{"alternateId":"admin@contoso.com",
		"id":"00u1","displayName":"Admin","type":"User"},"client":{"userAgent":{"rawUserAgent":"%s","os":"Mac OS X","browser":"CHROME"},
		"geographicalContext":{"geolocation":{"lat":1.5,"lon":2.5},"city":"Toronto"},
		"zone":null,"ipAddress":"192.0.2.1","device":"Computer"},
		"outcome":{"result":"SUCCESS","reason":null},
		"target":[{"id":"00u2","type":"User","alternateId":"user%d@contoso.com","displayName":"Ada"}],
		"transaction":{"type":"WEB","id":"X","detail":{}},"debugContext":{"debugData":{"requestUri":"%s"}},
		"securityContext":{"asNumber":577,"asOrg":"example","isp":"example","domain":"example.com","isProxy":false},
		"request":{"ipChain":[{"ip":"192.0.2.1","geographicalContext":{"city":"Toronto"},"version":"V4","source":null}]}}`,
			i, strings.Repeat("Mozilla/5.0 ", 12), i, strings.Repeat("/path", 60))
	}
	return []byte(`{"eventType":"com.example.hook","source":"https://example.com","data":{"events":[` + strings.Join(events, ",") + `]}}`)
}

// BenchmarkDecode measures a message in one of the worker's own forms, a producer's message with 15
// mappings before its own, and one with 100 events. It reports events for each second of a processor.
func BenchmarkDecode(b *testing.B) {
	d := newDecoder(b, many(15))
	native := []byte(`{"specversion":"1.0","id":"4711","source":"/mdm","type":"device.lost","time":"2026-03-01T12:00:00.1234567Z",
		"data":{"userId":"588d7c15-8565-448e-bc2d-57f2b7c4c58a","userPrincipalName":"ada@contoso.com"}}`)
	own, err := event.NewDecoder(event.Config{})
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		decoder interface {
			Decode(event.Message) ([]event.Item, error)
		}
		body []byte
		n    int
	}{
		{"native-without-mappings", own, native, 1},
		{"native", d, native, 1},
		{"mapped", d, largeHook(1), 1},
		{"mapped-100-events", d, largeHook(100), 100},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			before := processorTime(b)
			for b.Loop() {
				items, err := c.decoder.Decode(event.Message{Body: c.body})
				if err != nil || len(items) != c.n || items[c.n-1].Err != nil {
					b.Fatal(items, err)
				}
			}
			b.ReportMetric(float64(c.n*b.N)/(processorTime(b)-before).Seconds(), "events/cpu-s")
		})
	}
}

// processorTime returns the time that the process has spent on a processor. Other processes of a
// shared machine do not change it much.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPresets measures how long it takes to compile all presets. The worker does it when the first
// message comes that is not in one of its own forms.
func BenchmarkPresets(b *testing.B) {
	for b.Loop() {
		d, err := mapping.New(mapping.Config{})
		if err != nil || len(d.Mappings()) == 0 {
			b.Fatal(err)
		}
	}
}
