package servicebus

import (
	"fmt"
	"strings"
	"time"
)

// maxClaims is how many tokens a connection may have.
const maxClaims = 1024

// claimFor returns what a token for the address, or for a path that contains it, allows. The whole
// namespace contains every path.
func (c *conn) claimFor(address string) claim {
	now := time.Now()
	for path := address; ; {
		if granted, ok := c.claims[path]; ok && now.Before(granted.until) {
			return granted
		}
		if path == "" {
			return claim{}
		}
		path = path[:max(strings.LastIndexByte(path, '/'), 0)]
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
	node := nodeOf(r.text("name"))
	path := entityKey(node)
	if path != "" && c.b.entity(strings.TrimSuffix(path, "/$management")) == nil {
		return refuse(404, fmt.Sprintf("The messaging entity '%s' could not be found.", node))
	}
	if kind := r.text("type"); kind != "servicebus.windows.net:sastoken" {
		return refuse(401, fmt.Sprintf("Tokens of the type %q are not accepted here: use a shared access key.", kind))
	}
	token, _ := r.body.(string)
	granted, problem := c.b.verify(token, path)
	if problem != "" {
		return refuse(401, problem)
	}
	if namespace := c.claims[""]; len(c.claims) > maxClaims {
		clear(c.claims) // bounds the memory; a client with so many entities presents tokens again
		c.claims[""] = namespace
	}
	c.claims[path] = granted
	return response{status: 202, description: "Accepted", dashed: true}
}
