package servicebus

import (
	"fmt"
	"net/url"
	"strings"
	"time"
)

// claimFor returns what a token for the address, or for a path that contains it, allows.
func (c *conn) claimFor(address string) claim {
	now := time.Now()
	for path := address; ; {
		if granted, ok := c.claims[path]; ok && now.Before(granted.until) {
			return granted
		}
		cut := strings.LastIndexByte(path, '/')
		if cut < 0 {
			return claim{}
		}
		path = path[:cut]
	}
}

// putToken is the $cbs node: a client presents a token for an entity (AMQP claims-based security,
// put-token).
func (c *conn) putToken(r request) response {
	refuse := func(status int32, description string) response {
		return response{status: status, description: description, dashed: true}
	}
	if r.text("operation") != "put-token" {
		return refuse(400, "The only operation is put-token.")
	}
	audience, err := url.Parse(r.text("name"))
	if err != nil {
		return refuse(400, "The token's name is not a URL.")
	}
	path := entityKey(audience.Path)
	if c.b.entity(strings.TrimSuffix(path, "/$management")) == nil {
		return refuse(404, fmt.Sprintf("The messaging entity '%s' could not be found.", audience.Path))
	}
	if kind := r.text("type"); kind != "servicebus.windows.net:sastoken" {
		return refuse(401, fmt.Sprintf("Tokens of the type %q are not accepted here: use a shared access key.", kind))
	}
	token, _ := r.body.(string)
	granted, problem := c.b.verify(token, path)
	if problem != "" {
		return refuse(401, problem)
	}
	if len(c.claims) > 4*maxLinks {
		clear(c.claims) // bounds the memory; a client with so many entities presents tokens again
	}
	c.claims[path] = granted
	return response{status: 202, description: "Accepted", dashed: true}
}
