package localhost_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/session-revoker/session-revoker/emulator/localhost"
)

func TestOnlyRefusesPagesOfOtherHosts(t *testing.T) {
	handler := localhost.Only(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), "bus.example.com")
	for _, c := range []struct {
		host, origin string
		allowed      bool
	}{
		{"localhost:5300", "", true},
		{"127.0.0.1:5300", "http://localhost:3000", true},
		{"[::1]:5300", "http://[::1]:5300", true},
		{"servicebus:5300", "http://servicebus:5300", true},
		{"host.docker.internal", "", true},
		{"ns.servicebus.windows.net", "", true},
		{"BUS.example.com:5300", "", true},
		{"evil.example:5300", "", false},
		{"evil.example:5300", "http://evil.example:5300", false},
		{"localhost:5300", "http://evil.example", false},
		{"localhost:5300", "null", false},
		{"servicebus.windows.net.evil.example", "", false},
		{"127.0.0.1.evil.example:5300", "", false},
		{"", "", false},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Host = c.host
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if allowed := w.Code != http.StatusMisdirectedRequest; allowed != c.allowed {
			t.Errorf("host %q, origin %q: allowed %v", c.host, c.origin, allowed)
		}
	}
}
