package conformance

import (
	"fmt"
	"net/url"
	"strings"
)

// connection is a parsed connection string.
type connection struct {
	host, keyName, key string
	emulator           bool // no TLS
}

// parseConnection reads a connection string. The error does not show it, because of its key.
func parseConnection(text string) (connection, error) {
	var parsed connection
	for part := range strings.SplitSeq(text, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch strings.ToLower(name) {
		case "endpoint":
			endpoint, err := url.Parse(value)
			if err != nil {
				return parsed, fmt.Errorf("the endpoint of the connection string: %w", err)
			}
			parsed.host = endpoint.Host
		case "sharedaccesskeyname":
			parsed.keyName = value
		case "sharedaccesskey":
			parsed.key = value
		case "usedevelopmentemulator":
			parsed.emulator = strings.EqualFold(value, "true")
		}
	}
	if parsed.host == "" || parsed.keyName == "" || parsed.key == "" {
		return parsed, fmt.Errorf("a connection string needs Endpoint, SharedAccessKeyName and SharedAccessKey")
	}
	return parsed, nil
}
