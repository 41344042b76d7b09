package servicebus

import (
	"fmt"
	"net/url"
	"strings"
)

// nodeOf returns the path of an address, which may be absolute: sb://HOST/PATH. Neither the scheme
// nor the host matters: clients take both from a connection string, and a broker is one namespace.
func nodeOf(address string) string {
	scheme, rest, absolute := strings.Cut(address, "://")
	if !absolute || strings.Contains(scheme, "/") {
		return address
	}
	rest, _, _ = strings.Cut(rest, "?")
	_, path, _ := strings.Cut(rest, "/")
	if decoded, err := url.PathUnescape(path); err == nil {
		path = decoded
	}
	return path
}

// notFound is the service's text about an entity that does not exist. The JavaScript client's users
// see it, with the namespace as the audience of a token has it.
func notFound(audience string) string {
	name := nodeOf(audience)
	if u, err := url.Parse(audience); err == nil && u.Hostname() != "" {
		name = "sb://" + u.Hostname() + "/" + name
	}
	return fmt.Sprintf("The messaging entity '%s' could not be found.", shortName(name))
}
