// Package localhost keeps web pages away from servers that are meant for this machine, and whose
// keys everybody knows. A hostile page can let its own name stand for 127.0.0.1 (DNS rebinding), so
// that the browser of a developer who looks at it lets it use the server like its own.
package localhost

import (
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Only returns a handler that passes on the requests that name a host which nobody can register on
// the internet, and refuses all others with 421. Such hosts are IP addresses, names without a dot,
// names in .localhost, .internal and .local, those of Service Bus, and the given names. A web page
// (the header Origin) must come from such a host too. The handler is for http: with TLS, the
// certificate does the same.
func Only(next http.Handler, names ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page := ""
		origin := r.Header.Get("Origin")
		if u, err := url.Parse(origin); err == nil {
			page = u.Host
		}
		if !local(r.Host, names) || origin != "" && !local(page, names) {
			http.Error(w, "This server is for clients on this machine. Connect to localhost or to an IP address.",
				http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// suffixes are domains in which only this network, or Service Bus, has names. Clients that reach a
// server by another address send the names of Service Bus.
var suffixes = []string{".localhost", ".internal", ".local", ".servicebus.windows.net"}

// local reports whether no stranger can have the host, which may have a port.
func local(host string, names []string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	return host != "" && (net.ParseIP(host) != nil || !strings.Contains(host, ".") ||
		slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(host, s) }) ||
		slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(host, n) }))
}
