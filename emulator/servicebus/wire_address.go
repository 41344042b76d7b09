package servicebus

import (
	"net/url"
	"slices"
	"strings"
)

// schemes are those of absolute addresses: of nodes, as some clients write them, and of the
// audiences of tokens.
var schemes = []string{"amqp", "amqps", "sb", "http", "https"}

// nodeOf returns the path of an address, which may be absolute: sb://HOST/PATH. The host does not
// matter, because a broker is one namespace.
func nodeOf(address string) string {
	scheme, rest, absolute := strings.Cut(address, "://")
	if !absolute || !slices.Contains(schemes, strings.ToLower(scheme)) {
		return address
	}
	rest, _, _ = strings.Cut(rest, "?")
	_, path, _ := strings.Cut(rest, "/")
	if decoded, err := url.PathUnescape(path); err == nil {
		path = decoded
	}
	return path
}
