package servicebus

import (
	"fmt"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// maxClaims is how many tokens a connection remembers.
const maxClaims = 1024

// claimFor returns what a token for the address, or for a path that contains it, allows, and the
// path that the token is for. The whole namespace contains every path.
func (c *conn) claimFor(address string) (granted Grant, path string) {
	now := time.Now()
	for path = address; ; {
		if granted, ok := c.claims[path]; ok && now.Before(granted.Until) {
			return granted, path
		}
		if path == "" {
			return Grant{}, ""
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
	path := entityKey(nodeOf(r.text("name")))
	if path != "" && c.b.entity(strings.TrimSuffix(path, "/$management")) == nil {
		return refuse(404, notFound(r.text("name")))
	}
	token, _ := r.body.(string)
	var granted Grant
	var problem string
	switch kind := r.text("type"); kind {
	case "servicebus.windows.net:sastoken":
		granted, problem = c.b.verifySignature(token, path)
	case "jwt":
		granted, problem = c.b.verifyAccessToken(token)
	default:
		problem = fmt.Sprintf("InvalidToken: The type %q is neither servicebus.windows.net:sastoken nor jwt.", kind)
	}
	if problem != "" {
		return refuse(401, problem)
	}
	if len(c.claims) > maxClaims {
		c.forgetUnusedClaims() // a client with so many entities presents tokens again
	}
	if len(c.claims) > maxClaims {
		return refuse(403, fmt.Sprintf("Links with more than %d tokens: open another connection.", maxClaims))
	}
	c.claims[path] = granted
	c.signed()
	c.expireAt(path, granted.Until)
	return response{status: 202, description: "Accepted", dashed: true}
}

// forgetUnusedClaims drops the claims that admit no link. Those that do must end their links later.
func (c *conn) forgetUnusedClaims() {
	used := map[string]bool{"": true}
	for _, s := range c.sessions {
		for _, l := range s.links {
			used[l.grantedBy] = true
		}
	}
	for path := range c.claims {
		if used[path] {
			continue
		}
		if timer := c.expiries[path]; timer != nil {
			timer.Stop()
		}
		delete(c.expiries, path)
		delete(c.claims, path)
	}
}

// expireAt detaches the links that a token admits when the token expires, unless another one
// replaces it earlier ("When a token expires, Service Bus promptly drops all links on the
// connection to the respective entity",
// https://learn.microsoft.com/azure/service-bus-messaging/service-bus-amqp-protocol-guide).
func (c *conn) expireAt(path string, until time.Time) {
	if old := c.expiries[path]; old != nil {
		old.Stop()
	}
	c.expiries[path] = time.AfterFunc(time.Until(until), func() {
		why := &amqp.Error{Condition: "amqp:unauthorized-access", Description: expiredToken(until)}
		for _, q := range c.b.all() {
			for _, part := range q.parts() {
				part.detachLinks(why, func(l *link) bool { return l.session.conn == c && l.grantedBy == path })
			}
		}
	})
}

// stopExpiries stops the timers for good.
func (c *conn) stopExpiries() {
	for _, timer := range c.expiries {
		timer.Stop()
	}
	clear(c.expiries)
}
